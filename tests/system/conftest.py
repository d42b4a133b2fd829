"""Fixtures of the system tests: real servers of both shapes, on both logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server import SHAPES, Server


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(shape: str = "1/1/1", *arguments: str, broker: str = "", name: str = "") -> Server:
        folder = tmp_path / (name or f"{tmp_path.parent.name}-{tmp_path.name}-{len(servers)}")
        folder.mkdir(exist_ok=True)
        server = Server(folder, shape, arguments, broker)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.remove()
