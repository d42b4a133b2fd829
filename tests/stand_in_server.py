"""A Stream API server of 150 lines: lists in memory, no durability, and faults on request.

For tests of clients alone, where the real server would only be in the way of making a call break at a given message.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.api.v1 import api_pb2_grpc as services

__all__ = ["StandIn", "stand_in"]


class StandIn(
    services.PacketWriterServiceServicer,
    services.PacketReaderServiceServicer,
    services.ConnectionManagerServiceServicer,
    services.SessionManagementServiceServicer,
    services.DataFormatManagerServiceServicer,
):
    """``break_write_at`` and ``break_read_at`` are used up from the front, one a call: how many messages pass first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.entries: dict[str, list[api.DataPacketDetails]] = defaultdict(list)
        self.break_write_at: list[int] = []
        self.break_read_at: list[int] = []
        self.end_read_at: list[int] = []
        self.tell_accepted = True
        self.refuse_writes: grpc.StatusCode | None = None
        self.connections: dict[int, api.ConnectionDetails] = {}
        self.opened: list[api.ConnectionDetails] = []
        self.sessions: dict[str, str] = {}
        self.write_calls = 0
        self._numbers = itertools.count(1)
        self.address = ""

    # --- writing

    def WriteDataPackets(self, requests: Iterator, context: grpc.ServicerContext) -> api.WriteDataPacketsResponse:
        with self.changed:
            self.write_calls += 1
            limit = self.break_write_at.pop(0) if self.break_write_at else None
        for accepted, request in enumerate(requests, 1):
            if self.refuse_writes is not None:
                context.abort(self.refuse_writes, "detail.data_source is '': it must not be empty")
            self._append(request)
            if accepted == limit:
                if self.tell_accepted:
                    context.set_trailing_metadata([("trackside-accepted", str(accepted))])
                context.abort(grpc.StatusCode.UNAVAILABLE, "gateway is gone")
        return api.WriteDataPacketsResponse()

    def _append(self, request: api.WriteDataPacketsRequest) -> None:
        with self.changed:
            for detail in request.details:
                self.entries[detail.stream].append(detail)
            self.changed.notify_all()

    # --- reading

    def NewConnection(self, request: api.NewConnectionRequest, context: object) -> api.NewConnectionResponse:
        number = next(self._numbers)
        with self.changed:
            self.connections[number] = request.details
            self.opened.append(request.details)
            self.changed.notify_all()
        return api.NewConnectionResponse(connection=api.Connection(id=number))

    def CloseConnection(self, request: api.CloseConnectionRequest, context: object) -> api.CloseConnectionResponse:
        return api.CloseConnectionResponse(success=self.connections.pop(request.connection.id, None) is not None)

    def ReadPackets(self, request: api.ReadPacketsRequest, context: grpc.ServicerContext) -> Iterator:
        details = self.connections[request.connection.id]
        offsets = dict(zip(details.streams, details.stream_offsets, strict=True))
        places = {stream: max(offset, 0) for stream, offset in offsets.items()}
        places[""] = max(details.main_offset, 0)
        with self.changed:
            limit = self.break_read_at.pop(0) if self.break_read_at else None
            end = self.end_read_at.pop(0) if self.end_read_at else None
        sent = 0
        while context.is_active():
            with self.changed:
                batch = self._next(places, details.session_key)
                if batch is None:
                    self.changed.wait(0.02)
                    continue
            yield batch
            sent += 1
            if sent == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gateway is gone")
            if sent == end:
                return

    def _next(self, places: dict[str, int], session_key: str) -> api.ReadPacketsResponse | None:
        """At most three entries of one stream."""
        for stream, place in places.items():
            entries = self.entries[stream][place : place + 3]
            if entries:
                places[stream] += len(entries)
                wanted = [entry for entry in entries if entry.session_key == session_key]
                items = [api.PacketResponse(packet=entry.message, stream=stream) for entry in wanted]
                return api.ReadPacketsResponse(response=items) if items else None
        return None

    # --- sessions and formats

    def CreateSession(self, request: api.CreateSessionRequest, context: object) -> api.CreateSessionResponse:
        key = f"session-{next(self._numbers)}"
        self.sessions[key] = request.data_source
        return api.CreateSessionResponse(session_key=key, success=bool(request.data_source))

    def EndSession(self, request: api.EndSessionRequest, context: object) -> api.EndSessionResponse:
        return api.EndSessionResponse(success=request.session_key in self.sessions)

    def GetSessionInfo(self, request: api.GetSessionInfoRequest, context: object) -> api.GetSessionInfoResponse:
        source = self.sessions.get(request.session_key)
        if source is None:
            return api.GetSessionInfoResponse()
        offsets = {f"{source}.Stream1:0": 2, f"{source}:0": 1}
        return api.GetSessionInfoResponse(
            data_source=source, identifier="A drive", topic_partition_offsets=offsets, main_offset=1, success=True
        )

    def GetParameterDataFormatId(
        self, request: api.GetParameterDataFormatIdRequest, context: object
    ) -> api.GetParameterDataFormatIdResponse:
        return api.GetParameterDataFormatIdResponse(data_format_identifier=len(request.parameters))

    def GetEventDataFormatId(
        self, request: api.GetEventDataFormatIdRequest, context: object
    ) -> api.GetEventDataFormatIdResponse:
        return api.GetEventDataFormatIdResponse(data_format_identifier=len(request.event))


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A running server on a free port of the loopback; stopped at once at the end."""
    servicer = StandIn()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    for name in ("PacketWriter", "PacketReader", "ConnectionManager", "SessionManagement", "DataFormatManager"):
        getattr(services, f"add_{name}ServiceServicer_to_server")(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(0).wait(5)
