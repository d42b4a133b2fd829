"""The open readers: each has one call that should outlive everything but its own gateway."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from faults.lanes import LABELS, entry_of
from faults.pauses import Pause
from faults.writing import open_channel

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc

__all__ = ["Reader", "ReaderSpec", "Wanted", "connect", "entries", "read_whole"]

Wanted = Mapping[str, "array[int]"]
"""Entries of the log by label of the stream."""

OPEN_AGAIN_SECONDS = 0.05
OPEN_SECONDS = 10.0
CALL: dict[str, Any] = {"timeout": OPEN_SECONDS, "wait_for_ready": True}


def entries() -> array[int]:
    return array("Q")


def connect(channel: grpc.Channel, details: api_pb2.ConnectionDetails) -> api_pb2.Connection:
    """Raises grpc.RpcError."""
    request = api_pb2.NewConnectionRequest(details=details)
    return api_pb2_grpc.ConnectionManagerServiceStub(channel).NewConnection(request, **CALL).connection


class ReaderSpec(NamedTuple):
    """What a reader reads. Without ``streams`` all of them; with ``essentials`` those of the session alone."""

    data_source: str
    streams: tuple[str, ...] = ()
    session_key: str = ""
    essentials: bool = False


class Reader:
    """``got`` is what has come, by label, in its order. A call that breaks is counted and opened again where it was."""

    def __init__(self, address: str, spec: ReaderSpec) -> None:
        self.spec = spec
        self.got: dict[str, array[int]] = {}
        self.breaks: Counter[str] = Counter()
        self.pause = Pause()
        self.opened = threading.Event()
        self._address = address
        self._closing = False
        self._channel: grpc.Channel | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        if self._channel is not None:
            self._channel.close()
        self._thread.join()

    def has(self, wanted: Wanted) -> bool:
        """Whether so much has come; whether it is the same is another question."""
        return all(len(self.got.get(label, ())) >= len(column) for label, column in wanted.items())

    def _run(self) -> None:
        while not self._closing:
            self._channel = open_channel(self._address)
            try:
                call = self._open(self._channel)
                self._read(call)
                self._note("OK")
            except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
                if self.opened.is_set():
                    code = error.code().name if isinstance(error, grpc.Call) else "CLOSED"
                    self._note(code)
            self._channel.close()
            time.sleep(OPEN_AGAIN_SECONDS)

    def _note(self, code: str) -> None:
        """A break. What the next call cannot continue, for want of offsets or of names, begins anew."""
        self.opened.clear()
        if self._closing:
            return
        self.breaks[code] += 1
        if self.spec.session_key or not self.has_begun:
            self.got = {}

    @property
    def has_begun(self) -> bool:
        """Whether something has come of every stream that a data source has."""
        return set(self.got) >= set(self.spec.streams or LABELS)

    def _open(self, channel: grpc.Channel) -> Any:
        spec, stub = self.spec, api_pb2_grpc.PacketReaderServiceStub(channel)
        known = {label: len(column) for label, column in self.got.items() if label} if not spec.session_key else {}
        streams = list(dict.fromkeys([*spec.streams, *known]))
        connection = connect(
            channel,
            api_pb2.ConnectionDetails(
                data_source=spec.data_source,
                session_key=spec.session_key,
                streams=streams,
                stream_offsets=[known.get(stream, 0) for stream in streams],
                main_offset=len(self.got.get("", ())) if not spec.session_key else 0,
                exclude_main_stream=bool(spec.streams),
            ),
        )
        if spec.essentials:
            return stub.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection))
        return stub.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection))

    def _read(self, call: Any) -> None:
        for response in call:
            self.opened.set()  # a call that has brought nothing yet may not have come to any gateway
            self.pause.end()
            for found in response.response:
                self.got.setdefault(found.stream, entries()).append(entry_of(found.packet))


def read_whole(address: str, data_source: str, wanted: Wanted, seconds: float) -> dict[str, array[int]]:
    """Everything of a data source from its beginning, until so much has come as is wanted, or the time is over."""
    channel = open_channel(address)
    got: dict[str, array[int]] = {label: entries() for label in wanted}
    missing = sum(map(len, wanted.values()))
    try:
        connection = connect(channel, api_pb2.ConnectionDetails(data_source=data_source))
        stub = api_pb2_grpc.PacketReaderServiceStub(channel)
        call = stub.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=seconds)
        while missing > 0:
            for found in next(call).response:
                got.setdefault(found.stream, entries()).append(entry_of(found.packet))
                missing -= 1
        call.cancel()
    except grpc.RpcError:
        pass  # what is missing is reported by who compares
    channel.close()
    return got
