"""The door: request bytes in, records out, or a refusal that names the field, the value and the limit.

Used by gateways only. Packets stay the byte strings that the client sent: a request is read through a *view message*
with the same field numbers in which packets are ``bytes``. A request is validated whole before anything of it is
published, so a refused one leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.peer import Peer, ProducerProxy
from trackside.data_plane.record import RECORD_BYTES_MAX, Record, Route
from trackside.data_plane.routing import BadName, Routing
from trackside.data_plane.spec import Settings
from trackside.protos.internal_pb2 import (
    DataPacketDetailsView,
    WriteDataPacketRequestView,
    WriteDataPacketsRequestView,
    WriteInfoPacketRequestView,
)

__all__ = ["KEY_BYTES_MAX", "BadRequest", "Door", "Records"]

KEY_BYTES_MAX = 1024
"""Longest session key: a GUID has 36 bytes, and the key stands in every table of every record and frame."""

Records = dict[ProducerProxy, list[Record]]

_View = TypeVar("_View", WriteDataPacketRequestView, WriteDataPacketsRequestView, WriteInfoPacketRequestView)


class BadRequest(Exception):
    """What the client sent cannot be accepted, now or later. Becomes INVALID_ARGUMENT."""


class _Sheaf:
    """The records that one request makes for one producer: a new one begins when the last is full."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[tuple[str, int, bytes, str], int] = {}
        self._bytes = 0
        self._record = Record([], [], [])
        self.records.append(self._record)

    def add(self, topic: str, partition: int, key: bytes, essentials: str, packet: bytes) -> None:
        if self._bytes and self._bytes + len(packet) > RECORD_BYTES_MAX:
            self._begin()
        record = self._record
        row = self._rows.get((topic, partition, key, essentials))
        if row is None:
            row = self._rows[topic, partition, key, essentials] = len(record.routes)
            record.routes.append(Route(topic, partition, key, essentials))
            self._bytes += len(key) + 256  # an upper bound of the row: a topic has at most 249 bytes
        record.indexes.append(row)
        record.packets.append(packet)
        self._bytes += len(packet) + 10


class Door:
    def __init__(self, routing: Routing, peer: Peer, settings: Settings) -> None:
        self._routing = routing
        self._peer = peer
        self._packet_bytes_max = settings.max_packet_bytes

    def data_packet(self, request: bytes) -> Records:
        """Records of one WriteDataPacketRequest. Raises BadRequest."""
        view = _parse(WriteDataPacketRequestView, request)
        if not view.HasField("detail"):
            raise BadRequest("detail: missing; it must hold the packet and its data source")
        return self._records([view.detail], "detail")

    def data_packets(self, request: bytes) -> Records:
        """Records of one WriteDataPacketsRequest; an empty one makes none. Raises BadRequest."""
        return self._records(_parse(WriteDataPacketsRequestView, request).details, "details")

    def info_packet(self, request: bytes) -> Records:
        """Records of one WriteInfoPacketRequest (the streamed message has the same fields). Raises BadRequest."""
        view = _parse(WriteInfoPacketRequestView, request)
        if not view.HasField("message"):
            raise BadRequest("message: missing")
        producer = self._peer.producer_of("")
        packet = self._packet(view.message, "message", producer)
        key = _key(packet.session_key, "message.session_key")
        is_status = view.type == api_pb2.INFO_TYPE_SYSTEM_STATUS
        partition = self._routing.system_status if is_status else self._routing.session_info
        return {producer: [Record([Route(*partition, key)], [0], [view.message])]}

    def _records(self, details: Iterable[DataPacketDetailsView], field: str) -> Records:
        sheaves: dict[ProducerProxy, _Sheaf] = {}
        route, producer_of = self._routing.route, self._peer.producer_of
        for index, detail in enumerate(details):
            try:
                topic, number = route(detail.data_source, detail.stream)
                essentials = self._routing.essentials_topic(detail.data_source)
            except BadName as error:
                raise BadRequest(f"{_place(field, index)}.{error}") from None
            if not detail.HasField("message"):
                raise BadRequest(f"{_place(field, index)}.message: missing")
            producer = producer_of(detail.data_source)
            packet = self._packet(detail.message, f"{_place(field, index)}.message", producer)
            key = _key(detail.session_key, f"{_place(field, index)}.session_key")
            sheaf = sheaves.get(producer)
            if sheaf is None:
                sheaf = sheaves[producer] = _Sheaf()
            sheaf.add(topic, number, key, essentials if packet.is_essential else "", detail.message)
        return {producer: sheaf.records for producer, sheaf in sheaves.items()}

    def _packet(self, data: bytes, field: str, producer: ProducerProxy) -> Packet:
        """Parsed to be sure that every reader can parse it, and for what the server must know of it."""
        limit = min(self._packet_bytes_max, producer.value_bytes_max)
        if len(data) > limit:
            raise BadRequest(f"{field}: {len(data)} bytes; a packet may have at most {limit}")
        try:
            return Packet.FromString(data)
        except DecodeError:
            raise BadRequest(f"{field}: no ma.streaming.open_data.v1.Packet ({len(data)} bytes)") from None


def _place(field: str, index: int) -> str:
    return f"{field}[{index}]" if field == "details" else field


def _key(session_key: str, field: str) -> bytes:
    key = session_key.encode()
    if len(key) > KEY_BYTES_MAX:
        raise BadRequest(f"{field}: {len(key)} bytes; a session key may have at most {KEY_BYTES_MAX}")
    return key


def _parse(kind: type[_View], request: bytes) -> _View:
    try:
        return kind.FromString(request)
    except DecodeError:
        raise BadRequest(f"request: {len(request)} bytes that are no {kind.__name__.removesuffix('View')}") from None
