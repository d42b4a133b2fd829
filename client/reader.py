"""Reading: one session's packets, from a place in each stream, whatever dies in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.api.v1 import api_pb2_grpc as services
from trackside.client.channel import PASSING_CODES, Backoff, call, describe
from trackside.client.errors import NotReachable, Refused

__all__ = ["PacketReader", "SessionStart", "session_start"]

MAIN_STREAM = ""


class SessionStart(NamedTuple):
    """Offsets at which a session began, by stream; "" is the main one. A stream that is not named began at 0."""

    data_source: str
    identifier: str
    offsets: Mapping[str, int]


def session_start(
    channel: grpc.Channel, session_key: str, streams: Sequence[str], timeout: float = 30.0
) -> SessionStart:
    """Where to start reading to get a session whole. Raises Refused for an unknown session, NotReachable."""
    service = services.SessionManagementServiceStub(channel)
    info = call(service.GetSessionInfo, api.GetSessionInfoRequest(session_key=session_key), give_up_seconds=timeout)
    if not info.success:
        raise Refused(f"GetSessionInfo: the server knows no session {session_key!r}")
    offsets = {MAIN_STREAM: info.main_offset}
    for stream in streams:
        offsets[stream] = info.topic_partition_offsets.get(f"{info.data_source}.{stream}:0", 0)
    return SessionStart(info.data_source, info.identifier, offsets)


class PacketReader:
    """All packets of one session, the main stream and ``streams``, each log entry at least once and in order.

    A read stream that breaks is opened again, on a new connection, after the entries that were delivered: of each
    stream as many as were counted from its start on. (Where other sessions share the stream that is too few, so
    entries may come again, but none is left out.) One thread iterates; any thread may call ``close``.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        session_key: str,
        streams: Sequence[str],
        start: SessionStart,
        *,
        give_up_seconds: float = 30.0,
    ) -> None:
        self._connections = services.ConnectionManagerServiceStub(channel)
        self._packets = services.PacketReaderServiceStub(channel)
        self._session_key = session_key
        self._streams = tuple(streams)
        self._start = start
        self._delivered = dict.fromkeys((MAIN_STREAM, *streams), 0)
        self._give_up_seconds = give_up_seconds
        self._closed = threading.Event()
        self._call: grpc.Future[Any] | None = None
        self.broken_calls = 0

    def responses(self) -> Iterator[Sequence[api.PacketResponse]]:
        """What the server sends, one message after another, until ``close``.

        Raises NotReachable when nothing could be read for ``give_up_seconds`` because the server is away, Refused.
        """
        backoff = Backoff(self._give_up_seconds)
        while not self._closed.is_set():
            try:
                for response in self._open():
                    backoff.succeeded()
                    self._count(response)
                    yield response.response
                reason = "the server ended the stream"
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return
                if error.code() not in PASSING_CODES:
                    raise Refused(describe(error)) from None
                reason = describe(error)
            if not self._closed.is_set():
                self._pause(backoff, reason)

    def close(self) -> None:
        """Ends ``responses``, also while it waits."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _open(self) -> Iterator[api.ReadPacketsResponse]:
        request = api.NewConnectionRequest(details=self._details())
        response = call(self._connections.NewConnection, request, give_up_seconds=self._give_up_seconds)
        read = self._packets.ReadPackets(api.ReadPacketsRequest(connection=response.connection))
        self._call = read
        if self._closed.is_set():  # between the check and the assignment
            read.cancel()
        try:
            yield from read
        finally:
            self._call = None
            self._close_connection(response.connection)

    def _close_connection(self, connection: api.Connection) -> None:
        """Tidy up after a stream; a server that is away has nothing to tidy."""
        with contextlib.suppress(grpc.RpcError):
            self._connections.CloseConnection(api.CloseConnectionRequest(connection=connection), timeout=1.0)

    def _details(self) -> api.ConnectionDetails:
        return api.ConnectionDetails(
            data_source=self._start.data_source,
            session_key=self._session_key,
            streams=self._streams,
            stream_offsets=[self._offset(stream) for stream in self._streams],
            main_offset=self._offset(MAIN_STREAM),
        )

    def _offset(self, stream: str) -> int:
        return self._start.offsets.get(stream, 0) + self._delivered[stream]

    def _count(self, response: api.ReadPacketsResponse) -> None:
        for item in response.response:
            self._delivered[item.stream] += 1

    def _pause(self, backoff: Backoff, reason: str) -> None:
        self.broken_calls += 1
        pause = backoff.next_pause()
        if pause is None:
            raise NotReachable(f"nothing to read for {self._give_up_seconds:.0f} s: {reason}")
        self._closed.wait(pause)
