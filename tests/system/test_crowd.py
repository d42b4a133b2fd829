"""Very many clients at once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

from server import Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

CALLS = 3000


def test_calls_that_come_all_at_once_are_all_served(make_server: Callable[..., Server]) -> None:
    """As after a restart, or when the machine was busy: grpc itself would cancel some of them without a word."""
    server = make_server("1/1/1").start()
    client = server.client()
    client.write("Car", Packet(id=1))  # connected
    detail = api_pb2.DataPacketDetails(message=Packet(id=2), data_source="Car")
    server.send("gateway-0", signal.SIGSTOP)
    calls = [
        client.writer.WriteDataPacket.future(api_pb2.WriteDataPacketRequest(detail=detail), timeout=60)
        for _ in range(CALLS)
    ]
    server.send("gateway-0", signal.SIGCONT)
    assert Counter(call.code().name for call in calls) == {"OK": CALLS}
