"""Fixtures of the conformance tests: servers that they share, clients, names of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from conformance.cells import Cell, Cells, cell_params
from server import Client


@pytest.fixture(scope="session")
def cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    cells = Cells(tmp_path_factory.mktemp, request)
    yield cells
    cells.close()


@pytest.fixture(params=cell_params())
def cell(request: pytest.FixtureRequest, cells: Cells) -> Cell:
    """A server of each strategy and naming, where these make a difference."""
    return cells.get(request.param)


@pytest.fixture(params=cell_params("topic"))
def topic_cell(request: pytest.FixtureRequest, cells: Cells) -> Cell:
    """A server on each log, where streams are topics."""
    return cells.get(request.param)


@pytest.fixture
def source() -> str:
    """A data source that no other test has."""
    return f"Source{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of the test's cell."""
    name = "cell" if "cell" in request.fixturenames else "topic_cell"
    cell: Cell = request.getfixturevalue(name)
    client = cell.client()
    yield client
    client.close()
