"""A server that runs already, for the demo: used as any client uses it, and left as it was found.

Its processes and shared memory are its own business, perhaps on another machine: nothing is shown of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trackside.bench.demo_server import FOLDER_PREFIX, ServerFailed
from trackside.client.access import Access
from trackside.client.channel import describe, open_channel
from trackside.client.errors import BadInput
from trackside.shm.observe import Process, Server

__all__ = ["RunningServer"]

ANSWER_SECONDS = 15.0
"""How long it may take until it says that it serves."""

CALL_SECONDS = 5.0
EXIT_USAGE, EXIT_AWAY = 2, 69


class RunningServer:
    """What :class:`~trackside.bench.demo_server.DemoServer` is for a server of the demo's own."""

    def __init__(self, address: str, access: Access) -> None:
        self.address = address
        self._access = access
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))

    def start(self) -> Server:
        """Wait until it says that it serves. Raises ServerFailed with what is in the way, such as a certificate."""
        try:
            channel = open_channel(self.address, self._access)
        except BadInput as error:
            raise ServerFailed(str(error), EXIT_USAGE) from None
        with channel:
            deadline = time.monotonic() + ANSWER_SECONDS
            while reason := _why_not(channel):
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{self.address} does not serve: {reason}", EXIT_AWAY)
                time.sleep(0.2)
        return self.look()

    def look(self) -> Server:
        """Nothing is seen of it."""
        return Server(time.monotonic_ns(), "", "", 0, True, "SERVING", "", 0, 0, "", [], [])

    def check(self) -> None:
        """Whether it is there its writer and its reader find out."""

    def kill(self, name: str) -> Process | None:
        return None

    def wait_until_quiet(self, seconds: float) -> Server:
        return self.look()

    def stop(self) -> int:
        return 0

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _why_not(channel: grpc.Channel) -> str:
    """Why it does not serve now; empty when it does. Health needs no token."""
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        return describe(error)
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "NOT_SERVING"
