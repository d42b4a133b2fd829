"""The door: request bytes in, records out, or a refusal that names the field, the value and the limit.

Used by gateways only. Packets stay the byte strings that the client sent: a request is read through a *view message*
with the same field numbers in which packets are ``bytes``. A request is validated whole before anything of it is
published, so a refused one leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar
from weakref import WeakKeyDictionary

from google.protobuf.message import DecodeError

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.access import CALLER, Caller, Forbidden, require
from trackside.data_plane.peer import Parcel, Peer, ProducerProxy
from trackside.data_plane.record import RECORD_BYTES_MAX, Record, Route
from trackside.data_plane.routing import BadName, Routing
from trackside.data_plane.spec import Settings
from trackside.data_plane.stream_metrics import INFO, published_counters
from trackside.protos.internal_pb2 import (
    DataPacketDetailsView,
    WriteDataPacketRequestView,
    WriteDataPacketsRequestView,
    WriteInfoPacketRequestView,
)
from trackside.shm.counters import Counter

__all__ = ["KEY_BYTES_MAX", "BadRequest", "Door", "Parcels"]

KEY_BYTES_MAX = 1024
"""Longest session key: a GUID has 36 bytes, and the key stands in every table of every record and frame."""

INFO_TYPES = ", ".join(f"{name} ({number})" for name, number in api_pb2.InfoType.items())

REQUEST_SHARE = 2
"""One request may take at most this fraction (half) of a ring, so that it finds room whatever the position."""

HEADERS_BYTES = 16 << 10
"""For headers and alignment of a request's records in the ring."""

TURN_PACKETS = 2048
"""Packets of a large request that are looked at in one go; in between, others have their turn. Some 5 ms."""

WAYS_MAX = 1 << 14
"""Streams whose way is remembered; when there are more all are found again, so that invented names cost no memory."""

Parcels = dict[ProducerProxy, Parcel]

Ways = dict[tuple[str, str], "_Way"]
"""The ways that one caller was found to have the right to: asked once a name, so no packet pays for it."""

_View = TypeVar("_View", WriteDataPacketRequestView, WriteDataPacketsRequestView, WriteInfoPacketRequestView)


class BadRequest(Exception):
    """What the client sent cannot be accepted, now or later. Becomes INVALID_ARGUMENT."""


@dataclass(frozen=True, eq=False, slots=True)
class _Way:
    """Where packets of one stream go: found once a name, kept by the door. Told apart by identity, which is cheap."""

    producer: ProducerProxy
    data_source: str
    topic: str
    number: int
    essentials: str
    published: Counter


class _Sheaf:
    """The records that one request makes for one producer: a new one begins when the last is full."""

    def __init__(self, producer: ProducerProxy) -> None:
        self._records: list[Record] = []
        self._ways: list[_Way] = []  # of all rows of all records
        self._request_bytes_max = producer.down.capacity_bytes // REQUEST_SHARE - HEADERS_BYTES
        self._before_bytes = 0  # of the records before the last
        self._bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[tuple[_Way, str, bool], int] = {}
        self._before_bytes += self._bytes
        self._bytes = 0
        self._record = Record([], [], [])
        self._records.append(self._record)

    def add(self, way: _Way, session_key: str, is_essential: bool, packet: bytes) -> None:
        """Raises BadRequest, also when the request has become too large for its ring."""
        if self._bytes and self._bytes + len(packet) > RECORD_BYTES_MAX:
            self._begin()
        row = self._rows.get((way, session_key, is_essential))
        if row is None:
            row = self._add_row(way, session_key, is_essential)
        self._record.indexes.append(row)
        self._record.packets.append(packet)
        self._bytes += len(packet) + 10
        if self._before_bytes + self._bytes > self._request_bytes_max:
            raise BadRequest(
                f"message: with it the request takes more than the {self._request_bytes_max} bytes of a ring that one "
                "may take, names and keys counted; send it in parts"
            )

    def _add_row(self, way: _Way, session_key: str, is_essential: bool) -> int:
        """Raises BadRequest for a key that is too long."""
        key = _key(session_key, "session_key")
        routes = self._record.routes
        row = self._rows[way, session_key, is_essential] = len(routes)
        self._ways.append(way)
        essentials = way.essentials if is_essential else ""
        routes.append(Route(way.topic, way.number, key, essentials, b"", way.data_source))
        self._bytes += len(key) + len(way.topic) + len(essentials) + len(way.data_source) + 32
        return row

    def parcel(self) -> Parcel:
        parcel = Parcel(self._records)
        counts = chain.from_iterable(record.counts for record in self._records)
        parcel.published = [(way.published, count) for way, count in zip(self._ways, counts, strict=True)]
        return parcel


class Door:
    """One a gateway; runs on its loop's thread."""

    def __init__(self, routing: Routing, peer: Peer, settings: Settings) -> None:
        self._routing = routing
        self._peer = peer
        self._published = published_counters(peer.worker.counters, routing)
        self._ways: WeakKeyDictionary[Caller, Ways] = WeakKeyDictionary()
        self._new: Ways = {}  # ways that the request at hand has found

    def data_packet(self, request: bytes) -> Parcels:
        """The parcels of one WriteDataPacketRequest. Raises BadRequest."""
        view = _parse(WriteDataPacketRequestView, request)
        if not view.HasField("detail"):
            raise BadRequest("detail: missing; it must hold the packet and its data source")
        return self._parcels([view.detail], "detail")

    def data_packets(self, request: bytes) -> Parcels:
        """The parcels of one WriteDataPacketsRequest; an empty one makes none. Raises BadRequest."""
        return self._parcels(_parse(WriteDataPacketsRequestView, request).details, "details")

    def details_of(self, request: bytes) -> Sequence[DataPacketDetailsView]:
        """What a WriteDataPacketsRequest holds, for :meth:`data_packets_in_turns`. Raises BadRequest."""
        return _parse(WriteDataPacketsRequestView, request).details

    async def data_packets_in_turns(self, details: Sequence[DataPacketDetailsView]) -> Parcels:
        """As :meth:`data_packets`, for requests of so many packets that others would wait for them. Raises BadRequest."""
        sheaves: dict[ProducerProxy, _Sheaf] = {}
        ways = self._ways.setdefault(CALLER.get(), {})
        new: Ways = {}  # of this request; the request at hand is another one while this one waits for its turn
        for first in range(0, len(details), TURN_PACKETS):
            if first:
                await asyncio.sleep(0)
            self._new = new
            try:
                self._add_all(sheaves, ways, details[first : first + TURN_PACKETS], "details", first)
            finally:
                self._new = {}
        if new:
            self._check_again(new)
            self._new = new
            self._keep_new(ways)
        return {producer: sheaf.parcel() for producer, sheaf in sheaves.items()}

    def _check_again(self, new: Ways) -> None:
        """Requests that were taken meanwhile may have made topics beside which these cannot be. Raises BadRequest."""
        for data_source, stream in new:
            try:
                self._routing.check_writable(data_source, stream)
            except BadName as error:
                raise BadRequest(f"details: {error}") from None

    def info_packet(self, request: bytes) -> Parcels:
        """The parcel of one WriteInfoPacketRequest (the streamed message has the same fields). Raises BadRequest."""
        view = _parse(WriteInfoPacketRequestView, request)
        if not view.HasField("message"):
            raise BadRequest("message: missing")
        if view.type not in api_pb2.InfoType.values():  # nobody can say which topic is meant
            raise BadRequest(f"type: {view.type} is not allowed, wanted one of {INFO_TYPES}")
        producer = self._peer.producer_of("")
        packet = _packet(view.message, producer)
        key = _key(packet.session_key, "message.session_key")
        is_status = view.type == api_pb2.INFO_TYPE_SYSTEM_STATUS
        partition = self._routing.system_status if is_status else self._routing.session_info
        route = Route(*partition, key, data_source=INFO)
        parcel = Parcel([Record([route], [0], [view.message])])
        parcel.published = [(self._published.of(*partition, INFO)[0], 1)]
        return {producer: parcel}

    def _parcels(self, details: Iterable[DataPacketDetailsView], field: str) -> Parcels:
        sheaves: dict[ProducerProxy, _Sheaf] = {}
        ways = self._ways.setdefault(CALLER.get(), {})
        self._add_all(sheaves, ways, details, field)
        if self._new:
            self._keep_new(ways)
        return {producer: sheaf.parcel() for producer, sheaf in sheaves.items()}

    def _add_all(
        self,
        sheaves: dict[ProducerProxy, _Sheaf],
        ways: Ways,
        details: Iterable[DataPacketDetailsView],
        field: str,
        first: int = 0,
    ) -> None:
        """``first`` is the index of the first of these in the request. Raises BadRequest, Forbidden."""
        index = first
        try:
            for index, detail in enumerate(details, first):  # noqa: B007 - the place of the error, if there is one
                self._add(sheaves, ways, detail)
        except (BadRequest, BadName) as error:
            place = f"{field}[{index}]" if field == "details" else field
            self._new.clear()  # a request that is refused makes no topic
            raise BadRequest(f"{place}.{error}") from None
        except Forbidden:
            self._new.clear()
            raise

    def _add(self, sheaves: dict[ProducerProxy, _Sheaf], ways: Ways, detail: DataPacketDetailsView) -> None:
        data_source, stream, message = detail.data_source, detail.stream, detail.message
        way = ways.get((data_source, stream)) or self._find_way(data_source, stream)
        if not message and not detail.HasField("message"):
            raise BadRequest("message: missing")
        packet = _packet(message, way.producer)
        sheaf = sheaves.get(way.producer)
        if sheaf is None:
            sheaf = sheaves[way.producer] = _Sheaf(way.producer)
        sheaf.add(way, detail.session_key, packet.is_essential, message)

    def _find_way(self, data_source: str, stream: str) -> _Way:
        """Raises BadName; Forbidden when the caller may not write there."""
        if found := self._new.get((data_source, stream)):
            return found
        require("write", data_source)
        topic, number = self._routing.route(data_source, stream)
        self._routing.check_writable(data_source, stream)
        essentials = self._routing.essentials_topic(data_source)
        producer = self._peer.producer_of(data_source)
        published = self._published.of(topic, number, data_source)[0]
        way = self._new[data_source, stream] = _Way(producer, data_source, topic, number, essentials, published)
        return way

    def _keep_new(self, ways: Ways) -> None:
        """The packets are taken, so the topics will exist."""
        if sum(map(len, self._ways.values())) >= WAYS_MAX:
            for found in self._ways.values():
                found.clear()
        ways.update(self._new)
        for way in self._new.values():
            self._routing.learn((way.topic, way.essentials))
        self._new.clear()


def _packet(data: bytes, producer: ProducerProxy) -> Packet:
    """Parsed to be sure that every reader can parse it, and for what the server must know of it. Raises BadRequest."""
    if len(data) > producer.value_bytes_max:
        raise BadRequest(f"message: {len(data)} bytes; a packet may have at most {producer.value_bytes_max}")
    try:
        return Packet.FromString(data)
    except DecodeError:
        raise BadRequest(f"message: no ma.streaming.open_data.v1.Packet ({len(data)} bytes)") from None


def _key(session_key: str, field: str) -> bytes:
    key = session_key.encode()
    if len(key) > KEY_BYTES_MAX:
        raise BadRequest(f"{field}: {len(key)} bytes; a session key may have at most {KEY_BYTES_MAX}")
    return key


def _parse(kind: type[_View], request: bytes) -> _View:
    try:
        return kind.FromString(request)
    except DecodeError:
        name = kind.__name__.removesuffix("View")
        raise BadRequest(f"request: not readable: {len(request)} bytes, no {name}") from None
