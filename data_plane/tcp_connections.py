"""How many TCP connections the public ports of a gateway have: gRPC closes one too many without telling anybody.

So nobody can count what was closed. How near the limit is can be seen, and that it is reached is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import Counter

from trackside.data_plane.metrics import METRICS
from trackside.data_plane.worker import Worker

__all__ = ["TcpConnections", "open_by_port"]

LOOK_SECONDS = 5.0
LOG_SECONDS = 60.0


class TcpConnections:
    """``limit`` is how many each port takes. ``keep_counting`` runs on the loop and looks in a thread of its own: each
    descriptor costs some microseconds."""

    def __init__(self, worker: Worker, limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._ports = {int(address.rpartition(":")[2]) for address in worker.spec.public_addresses}
        self._gauge = worker.counters.counter(METRICS["trackside_gateway_tcp_connections"])
        self._logged_at = float("-inf")

    async def keep_counting(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # no descriptor is free for looking; the gauge stays as it is
                self.on_counted(await asyncio.to_thread(open_by_port, self._ports))
            await asyncio.sleep(LOOK_SECONDS)

    def on_counted(self, found: Counter[int]) -> None:
        self._gauge.set(found.total())
        now = time.monotonic()
        for port, count in found.items():
            if count >= self._limit and now >= self._logged_at + LOG_SECONDS:
                self._logged_at = now
                self._worker.log(
                    "warn", "a port has all its connections", limit="TcpConnectionsMax", value=self._limit, port=port
                )


def open_by_port(ports: set[int]) -> Counter[int]:
    """Connections of this process that were made to these ports of its own. Blocks for microseconds a descriptor. Raises
    OSError when the process may not open one more."""
    found: Counter[int] = Counter()
    for name in os.listdir("/proc/self/fd"):
        port = _connected_port(int(name))
        if port in ports:
            found[port] += 1
    return found


def _connected_port(descriptor: int) -> int | None:
    """The local port of a TCP connection; None when the descriptor is something else, or was closed just now."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return None
        connection.getpeername()  # not a listening socket
        return int(connection.getsockname()[1])
    except OSError:
        return None
    finally:
        connection.detach()  # it is gRPC's
