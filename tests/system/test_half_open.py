"""Clients that are still connected and have gone all the same: a stopped process answers nothing, as a machine without power."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server import SHAPES, Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters

READ = """
import sys, grpc
from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
calls = []
for connection in sys.argv[2:]:
    channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)])
    request = api_pb2.ReadPacketsRequest(connection=api_pb2.Connection(id=int(connection)))
    calls.append(api_pb2_grpc.PacketReaderServiceStub(channel).ReadPackets(request))
    next(calls[-1])
print("reading", flush=True)
sys.stdin.read()
"""
"""Reads a packet of each connection, each over a TCP connection of its own, and then nothing."""


def counter(server: Server, name: str) -> int:
    rows = [row for name in server.names("gateway") for row in read_counters(Path(server.slot(name)["counters"]))]
    return sum(value for found, _, value in rows if found == name)


@pytest.mark.parametrize("shape", SHAPES)
def test_reads_of_a_client_that_does_not_answer_are_freed(make_server: Callable[..., Server], shape: str) -> None:
    """One read is idle, the other is being sent more than anybody takes. A client that answers and does not read stays."""
    server = make_server(shape)
    server.environment = {"TRACKSIDE_KEEPALIVE_SECONDS": "1", "TRACKSIDE_KEEPALIVE_TIMEOUT_SECONDS": "2"}
    server.start()
    client = server.client()
    sources = ("Idle", "Busy")
    for source in sources:
        client.write(source, Packet(id=1))
    connections = [str(client.connect(source).id) for source in sources]
    command = [sys.executable, "-P", "-c", READ, f"127.0.0.1:{server.port}", *connections]
    gone, answers = (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for process in (gone, answers):
            assert process.stdout is not None and process.stdout.readline() == b"reading\n"
        wait_until(lambda: counter(server, "trackside_gateway_readers") == 4, "all read")
        gone.send_signal(signal.SIGSTOP)
        for number in range(2, 60):
            client.write("Busy", Packet(id=number, content=os.urandom(256 << 10)), timeout=60)
        wait_until(lambda: counter(server, "trackside_gateway_readers") == 2, "its reads are freed")
        assert counter(server, "trackside_gateway_reads_left_total") == 2
        gone.send_signal(signal.SIGCONT)
    finally:
        for process in (gone, answers):
            process.kill()
            process.communicate()
    client.close()
