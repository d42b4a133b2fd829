"""More than the log takes: memory stays bounded, nobody starves, and questions are answered meanwhile."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable

import grpc
import psutil
import pytest
from bad_input import told
from server import SHAPES, Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.gateway import REQUEST_BYTES_MAX
from trackside.data_plane.spec import Settings

MIB = 1 << 20
WRITERS, ROUNDS, CROWD, CONTROL_CALLS = 6, 2, 90, 10
PROCESS_BYTES = 160 * MIB
"""Python, gRPC and the shared memory that a process has touched (docs/overload.md)."""

ROLE_BYTES = {
    "gateway": 2 * (Settings().waiting_writes_bytes + Settings().all_readers_buffer_bytes)
    + CROWD * MIB
    + 16 * REQUEST_BYTES_MAX,
    "producer": 128 * MIB,
    "consumer": 64 * MIB,
    "control-plane": 64 * MIB,
}
"""What a process of each role may have on top; here no reader is slow, so most of a gateway's is for requests."""


class Writer(threading.Thread):
    """Writes as fast as it is let, one request after another, until it is told to stop."""

    def __init__(self, client: Client, source: str, stream: str) -> None:
        super().__init__(daemon=True)
        self._client, self._source, self._stream = client, source, stream
        self._packet = Packet(type="RowData", content=bytes(256 << 10))
        self.accepted = 0
        self.ending = False
        self.errors: list[grpc.RpcError] = []

    def run(self) -> None:
        while not self.ending:
            try:
                self._client.write(self._source, self._packet, stream=self._stream, timeout=60)
                self.accepted += 1
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    self.errors.append(error)


class Crowd:
    """Very many writes at once, of a mebibyte each: far more than may wait."""

    def __init__(self, client: Client, source: str) -> None:
        detail = api_pb2.DataPacketDetails(
            message=Packet(type="RowData", content=bytes(MIB)), data_source=source, stream="crowd"
        )
        request = api_pb2.WriteDataPacketRequest(detail=detail)
        self.calls = [client.writer.WriteDataPacket.future(request, timeout=60) for _ in range(CROWD)]

    def check(self) -> None:
        """Who was refused was told why: most at once, since so much waits already."""
        refused = [call for call in self.calls if call.code() is not grpc.StatusCode.OK]
        assert all(call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for call in refused)
        at_once, late = told("WaitingWritesBytes", 64 * MIB), told("WriteWaitSeconds", 30)
        assert all(call.details().startswith((at_once, late)) for call in refused)
        assert any(call.details().startswith(at_once) for call in refused)


def check_control_calls(server: Server, client: Client) -> None:
    """While the control plane stands still: so many calls wait for it, and more are told that they are too many."""
    server.send("control-plane", signal.SIGSTOP)
    request = api_pb2.GetCurrentSessionsRequest(data_source="Car")
    calls = [client.sessions.GetCurrentSessions.future(request, timeout=60) for _ in range(CONTROL_CALLS + 2)]
    wait_until(lambda: sum(call.done() for call in calls) == 2, "two are refused")
    for call in [call for call in calls if call.done()]:
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call.details().startswith(told("ControlCallsMax", CONTROL_CALLS))
    server.send("control-plane", signal.SIGCONT)
    assert sum(call.code() is grpc.StatusCode.OK for call in calls) == CONTROL_CALLS


def check_memory(server: Server) -> None:
    for process in server.described()["processes"]:
        used, bound = psutil.Process(process["pid"]).memory_info().rss, PROCESS_BYTES + ROLE_BYTES[process["role"]]
        assert used < bound, f"{process['name']} has {used >> 20} MiB, at most {bound >> 20}"


def hold(server: Server, writers: list[Writer]) -> None:
    """The log takes nothing: until no writer is let in any more."""
    for name in server.names("producer"):
        server.send(name, signal.SIGSTOP)
    before = -1
    while (accepted := sum(writer.accepted for writer in writers)) != before:
        before = accepted
        time.sleep(0.5)


def let_go(server: Server) -> None:
    for name in server.names("producer"):
        server.send(name, signal.SIGCONT)


@pytest.mark.parametrize("shape", SHAPES)
def test_writers_that_are_too_fast(make_server: Callable[..., Server], shape: str) -> None:
    """The log stands still and goes on, again and again. Each time every writer gets further: those of one topic, those of
    topics of their own, and those beside a crowd."""
    server = make_server(shape)
    server.environment = {"TRACKSIDE_WRITE_WAIT_SECONDS": "30", "TRACKSIDE_STALL_SECONDS": "300"}
    server.environment["TRACKSIDE_CONTROL_CALLS_MAX"] = str(CONTROL_CALLS)
    server.start()
    clients = [server.client() for _ in range(4)]
    source = f"Source{uuid.uuid4().hex[:12]}"
    streams = ["same"] * (WRITERS // 2) + [f"own{number}" for number in range(WRITERS // 2)]
    writers = [Writer(clients[index % 2], source, stream) for index, stream in enumerate(streams)]
    for writer in writers:
        writer.start()
    for _ in range(ROUNDS):
        hold(server, writers)
        crowd = Crowd(clients[2], source)
        check_memory(server)
        assert clients[3].connect(source).id and clients[3].connect("Other").id
        clients[3].channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60)
        before = [writer.accepted for writer in writers]
        let_go(server)
        wait_until(
            lambda before=before: all(w.accepted >= count + 3 for w, count in zip(writers, before, strict=True)),
            "every writer gets further",
        )
        crowd.check()
        check_memory(server)
    check_control_calls(server, clients[3])
    for writer in writers:
        writer.ending = True
    for writer in writers:
        writer.join(60)
        assert not writer.errors
    for client in clients:
        client.close()
