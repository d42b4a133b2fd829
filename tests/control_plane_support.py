"""A control plane on a real Unix socket over a fake log, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from fake_log_port import FakeLogPort

from ma.streaming.api.v1 import api_pb2_grpc as api
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as key_generator
from trackside.control_plane.clock import SYSTEM_CLOCK, Clock
from trackside.control_plane.server import ControlPlane
from trackside.data_plane.spec import Settings
from trackside.protos import internal_pb2_grpc as internal
from trackside.shm.counters import CounterTable, create_counters

WAIT_SECONDS = 20
"""Bound of every wait in a test; none is expected to come near."""


class ManualClock:
    """Stands still until it is told otherwise."""

    def __init__(self, utc_ns: int = 1_760_000_000_123_456_789) -> None:
        self.now_ns = utc_ns
        self.seconds = 1000.0

    def utc_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Running:
    """A control plane and one channel to it."""

    control_plane: ControlPlane
    port: FakeLogPort
    channel: grpc.aio.Channel
    states: list[str]

    def __post_init__(self) -> None:
        self.sessions: Any = api.SessionManagementServiceStub(self.channel)
        self.connections: Any = api.ConnectionManagerServiceStub(self.channel)
        self.formats: Any = api.DataFormatManagerServiceStub(self.channel)
        self.keys: Any = key_generator.UniqueKeyGeneratorServiceStub(self.channel)
        self.internal: Any = internal.ControlPlaneStub(self.channel)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, bounded."""
    asyncio.run(asyncio.wait_for(scenario, WAIT_SECONDS))


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room in the 107 bytes of a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="ts") as folder:
        yield Path(folder)


def _ignore_line(level: str, event: str, **fields: object) -> None:
    pass


@contextlib.asynccontextmanager
async def running(
    port: FakeLogPort | None = None,
    *,
    folder: Path | None = None,
    epoch: int = 1,
    clock: Clock = SYSTEM_CLOCK,
    ready: bool = True,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve until the block ends. The same ``folder`` again is the same run and data directory."""
    port = port or FakeLogPort()
    states: list[str] = []
    with short_folder() if folder is None else contextlib.nullcontext(folder) as place:
        concluded = Settings(run_dir=str(place), data_dir=str(place / "data"), **settings)
        socket = str(place / f"control-{epoch}")
        table = place / f"{epoch}-{uuid.uuid4().hex}.counters"
        create_counters(table)
        counters = CounterTable(table)
        control_plane = ControlPlane(
            port, concluded, socket, epoch, clock=clock, on_state=states.append, counters=counters, log=_ignore_line
        )
        try:
            await control_plane.start()
            if ready:
                await control_plane.ready.wait()
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                yield Running(control_plane, port, channel, states)
        finally:
            await control_plane.stop(grace=0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's bound is the bound."""
    while not condition():
        await asyncio.sleep(0.002)


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Status code and text of a call that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"answered {answer}")
