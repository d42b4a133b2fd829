"""Readers that never read: a process that opens reads and takes nothing of what they bring.

    python -m trackside.bench.silent_readers '{"address": "127.0.0.1:13579", "connections": [1, 2], "policy": "skip"}'

Started by ``bench/readers.py``; it ends with its stdin, and the kernel closes its TCP connections.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from trackside.bench.talk import listen_for_orders, tell

READS_A_CHANNEL = 50
"""As many hosts have: not one TCP connection for all, and not one each."""

METHOD = "/ma.streaming.api.v1.PacketReaderService/ReadPackets"


async def read_never(address: str, connections: list[int], policy: str) -> None:
    """Opens one read a connection and holds it until the process ends."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]  # the window stays small
    channels = [
        grpc.aio.insecure_channel(address, options=options) for _ in range(0, max(len(connections), 1), READS_A_CHANNEL)
    ]
    calls = []
    for number, connection in enumerate(connections):
        request = api.ReadPacketsRequest(connection=api.Connection(id=connection)).SerializeToString()
        call: Any = channels[number % len(channels)].unary_stream(METHOD)
        calls.append(call(request, metadata=(("trackside-when-slow", policy),)))
    tell("open", reads=len(calls))
    await asyncio.Event().wait()


def main(arguments: dict[str, Any]) -> None:
    listen_for_orders(lambda _: None)
    asyncio.run(read_never(arguments["address"], arguments["connections"], arguments["policy"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
