"""The status port over HTTP, on a run directory made by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from run_directory_kit import FakeRunDirectory

from trackside.control_plane import status_server
from trackside.control_plane.metrics import Population
from trackside.control_plane.ports import PortReservation
from trackside.control_plane.status_server import StatusServer
from trackside.data_plane.spec import Settings


@pytest.fixture
def directory(tmp_path: Path) -> FakeRunDirectory:
    return FakeRunDirectory(tmp_path)


@pytest.fixture
def reservation() -> Iterator[PortReservation]:
    """As the supervisor keeps it."""
    reservation = PortReservation("127.0.0.1", 0, "PrometheusMetricPort")
    yield reservation
    reservation.close()


def population() -> Population:
    return Population({"Car": (1, 1)}, {}, {}, {})


@asynccontextmanager
async def serving(path: Path, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    server = StatusServer(Settings(run_dir=str(path), data_dir=str(path)), port, population)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop()


async def ask(client: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with client.get(path) as response:
        return response.status, await response.text()


def test_what_each_path_answers(directory: FakeRunDirectory, reservation: PortReservation) -> None:
    async def check() -> None:
        async with serving(directory.path, reservation.port) as client:
            assert await ask(client, "/livez") == (200, "alive\n")
            assert await ask(client, "/readyz") == (200, "ready\n")
            assert (await ask(client, "/nothing"))[0] == 404
            status, index = await ask(client, "/")
            assert status == 200 and all(path in index for path in ("/metrics", "/livez", "/readyz"))
            async with client.get("/metrics") as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert 'stream_api_sessions_total{data_source="Car"} 1\n' in await response.text()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("state", "reason", "answer"),
    [
        ("NOT_SERVING", "the broker is away", "not serving: the broker is away\n"),
        ("DRAINING", "", "draining\n"),
        ("STARTING", "", "starting\n"),
    ],
)
def test_not_ready_says_why(
    directory: FakeRunDirectory, reservation: PortReservation, state: str, reason: str, answer: str
) -> None:
    async def check() -> None:
        directory.describe(state=state, reason=reason)
        async with serving(directory.path, reservation.port) as client:
            assert await ask(client, "/readyz") == (503, answer)
            assert await ask(client, "/livez") == (200, "alive\n")
            assert (await ask(client, "/metrics"))[0] == 200, "counted is counted"

    asyncio.run(check())


def test_a_run_directory_that_nobody_described(tmp_path: Path, reservation: PortReservation) -> None:
    async def check() -> None:
        async with serving(tmp_path, reservation.port) as client:
            for path in ("/metrics", "/readyz"):
                status, text = await ask(client, path)
                assert status == 503 and "server.json" in text
            assert (await ask(client, "/livez"))[0] == 200

    asyncio.run(check())


def test_nothing_can_be_changed(directory: FakeRunDirectory, reservation: PortReservation) -> None:
    async def check() -> None:
        async with serving(directory.path, reservation.port) as client:
            for method in ("POST", "PUT", "DELETE"):
                async with client.request(method, "/metrics", data=b"x") as response:
                    assert response.status == 405
            async with client.head("/readyz") as response:
                assert response.status == 200

    asyncio.run(check())


def test_who_asks_at_the_same_time_shares_one_scrape(
    directory: FakeRunDirectory, reservation: PortReservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    observe = status_server.observe

    def counted(run_dir: str) -> object:
        nonlocal looks
        looks += 1
        return observe(run_dir)

    monkeypatch.setattr(status_server, "observe", counted)

    async def check() -> None:
        server = StatusServer(Settings(run_dir=str(directory.path), data_dir=str(directory.path)), 0, population)
        bodies = await asyncio.gather(*(server._scrapes.call("metrics", server._scrape) for _ in range(20)))
        assert len(set(bodies)) == 1 and looks == 1
        await server._scrapes.call("metrics", server._scrape)
        assert looks == 2, "the next one looks again"

    asyncio.run(check())


def test_only_on_the_address_that_was_given(directory: FakeRunDirectory, reservation: PortReservation) -> None:
    async def check() -> None:
        async with serving(directory.path, reservation.port):
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", reservation.port), 5):
                pass

    asyncio.run(check())
