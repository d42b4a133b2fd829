"""Fixtures of the system tests: real servers of both shapes, on both logs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_kit import Mount
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


@pytest.fixture(scope="module", params=SHAPES)
def shared_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server a module and shape, for tests that use names of their own and leave it serving.

    A module says in SERVER_ENVIRONMENT which settings it needs.
    """
    folder = tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])
    server = Server(folder, request.param)
    server.environment.update(getattr(request.module, "SERVER_ENVIRONMENT", {}))
    yield server.start()
    server.remove()


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Puts a tmpfs with options over a folder."""
    mounted: list[Path] = []

    def make(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield make
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)
