"""Connections: given back as they were given, unguessable, and still there after the process."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import grpc
import pytest
from bad_input import told
from control_plane_support import Running, refused, run, running, short_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ma.streaming.api.v1 import api_pb2 as messages
from trackside.control_plane import connections
from trackside.control_plane.connections import ConnectionTable
from trackside.control_plane.statuses import TooMuch
from trackside.protos import internal_pb2


async def new(server: Running, details: messages.ConnectionDetails) -> messages.Connection:
    answer = await server.connections.NewConnection(messages.NewConnectionRequest(details=details))
    connection: messages.Connection = answer.connection
    return connection


async def get(server: Running, id: int) -> messages.GetConnectionResponse:
    request = messages.GetConnectionRequest(connection=messages.Connection(id=id))
    answer: messages.GetConnectionResponse = await server.connections.GetConnection(request)
    return answer


async def close(server: Running, id: int) -> bool:
    request = messages.CloseConnectionRequest(connection=messages.Connection(id=id))
    return bool((await server.connections.CloseConnection(request)).success)


def car(**fields: object) -> messages.ConnectionDetails:
    return messages.ConnectionDetails(data_source="Car", **fields)  # type: ignore[arg-type]


# -- the service ------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A8")
@pytest.mark.reference_test("ConnectionManagerShould: GetConnection gives the details of the request")
def test_details_come_back_as_they_were_given_also_fields_of_a_newer_client() -> None:
    async def scenario() -> None:
        async with running() as server:
            details = car(
                session_key="k", streams=["a", "b"], stream_offsets=[5, -1], main_offset=-1, essentials_offset=7,
                exclude_main_stream=True, consumer_group="g",
            )  # fmt: skip
            unknown_field = b"\xfa\x3e\x05later"
            details.MergeFromString(unknown_field)
            id = (await new(server, details)).id
            assert id > 0
            for _ in range(2):
                answer = await get(server, id)
                assert answer.details == details
                assert unknown_field in answer.details.SerializeToString()
            found = await server.internal.LookUpConnection(internal_pb2.LookUpConnectionRequest(id=id))
            assert found.details == details

    run(scenario())


@pytest.mark.fact("A17")
@pytest.mark.reference_test(
    "ConnectionManagerShould: GetConnection with id 0",
    "ConnectionManagerShould: CloseConnection with id 0",
    "ConnectionManagerShould: CloseConnection takes the connection away",
)
def test_an_unknown_connection_is_an_answer_not_an_error() -> None:
    async def scenario() -> None:
        async with running() as server:
            assert not (await get(server, 5)).HasField("details")
            assert not await close(server, 5)
            id = (await new(server, car())).id
            assert await close(server, id)
            assert not await close(server, id)
            assert not (await get(server, id)).HasField("details")
            found = await server.internal.LookUpConnection(internal_pb2.LookUpConnectionRequest(id=id))
            assert not found.HasField("details")

    run(scenario())


@pytest.mark.fact("R20")
@pytest.mark.reference_test("ConnectionManagerShould: two equal requests get two ids")
def test_ids_are_random() -> None:
    async def scenario() -> None:
        async with running() as server:
            ids = [(await new(server, car())).id for _ in range(64)]
            assert len(set(ids)) == 64
            assert all(0 < id < 1 << 63 for id in ids)
            assert min(ids) < 1 << 61 and max(ids) > 1 << 62, "one in 10^8 runs fails here for no reason"

    run(scenario())


@pytest.mark.fact("R5", "R21")
@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (None, "details: missing"),
        (messages.ConnectionDetails(), "details.data_source: ''"),
        (messages.ConnectionDetails(data_source="a b"), "details.data_source: 'a b'"),
        (car(streams=["ok", "b/c"]), "details.streams[1]: 'b/c'"),
        (car(streams=["s" * 300]), "details.streams[0]: "),
        (car(streams=["a"], stream_offsets=[1, 2]), "details.stream_offsets: '2 offsets'"),
        (car(session_key="k" * 2000), "details.session_key: "),
        (car(consumer_group="k" * 2000), "details.consumer_group: "),
        (car(streams=["stream"] * 50_000), "details: '400005 bytes'"),
    ],
)
def test_a_bad_request_names_the_field(details: messages.ConnectionDetails | None, expected: str) -> None:
    async def scenario() -> None:
        async with running() as server:
            request = messages.NewConnectionRequest(details=details)
            code, text = await refused(server.connections.NewConnection(request))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert text.startswith(expected) and "wanted" in text

    run(scenario())


def test_a_request_without_a_connection_is_refused() -> None:
    async def scenario() -> None:
        async with running() as server:
            for call in (
                server.connections.GetConnection(messages.GetConnectionRequest()),
                server.connections.CloseConnection(messages.CloseConnectionRequest()),
            ):
                code, text = await refused(call)
                assert code is grpc.StatusCode.INVALID_ARGUMENT and text.startswith("connection: ")

    run(scenario())


def test_connections_outlive_the_process_and_closed_ones_do_not_return() -> None:
    async def scenario() -> None:
        with short_folder() as folder:
            async with running(folder=folder) as server:
                kept, closed = (await new(server, car(main_offset=3))).id, (await new(server, car())).id
                await close(server, closed)
            async with running(folder=folder, epoch=2) as successor:
                assert (await get(successor, kept)).details == car(main_offset=3)
                assert not (await get(successor, closed)).HasField("details")

    run(scenario())


# -- the journal ------------------------------------------------------------------------------------------------------


@given(
    calls=st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 20)), max_size=30),
    cut=st.integers(0, 1_000_000),
    junk=st.binary(max_size=20),
)
@example(calls=[b"\0"], cut=17, junk=b"\0")
@settings(deadline=None, max_examples=150)
def test_a_journal_cut_anywhere_gives_what_was_open_at_some_call(
    calls: list[bytes | int], cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Calls are details to open, or which of the open ones to close. After the cut there may be junk."""
    path = tmp_path_factory.mktemp("journal") / "connections"
    table = ConnectionTable(path)
    states: list[tuple[int, dict[int, bytes]]] = [(0, {})]
    for call in calls:
        if isinstance(call, bytes):
            table.open(call)
        elif call < len(table):
            table.close(table.ids()[call])
        states.append((path.stat().st_size, {id: table.get(id) or b"" for id in table.ids()}))
    table.shut()
    whole = path.read_bytes()
    broken = whole[: cut % (len(whole) + 1)] + junk
    path.write_bytes(broken)
    # junk may begin with the very bytes that were cut off
    intact = next((i for i, pair in enumerate(zip(whole, broken, strict=False)) if pair[0] != pair[1]), None)
    intact = min(len(whole), len(broken)) if intact is None else intact
    expected = [state for end, state in states if end <= intact][-1]
    again = ConnectionTable(path)
    assert {id: again.get(id) for id in again.ids()} == expected
    again.shut()
    once_more = ConnectionTable(path)
    assert once_more.ids() == list(expected), "the torn tail is gone from the file, too"
    once_more.shut()


def test_an_owner_that_cannot_be_read_is_nobody(tmp_path: Path) -> None:
    """A name that would grow as it is mended could not be written again: the table would never open."""
    path = tmp_path / "connections"
    table = ConnectionTable(path)
    id = table.open(b"details", "a" * 64)
    table.shut()
    body = path.read_bytes()[8:].replace(b"a" * 64, b"\xff" * 64)
    path.write_bytes(connections._HEADER.pack(len(body), zlib.crc32(body)) + body)
    for _ in range(2):
        table = ConnectionTable(path)
        assert table.find(id) == connections.Opened(b"details", "")
        table.shut()


def test_the_journal_is_rewritten_when_most_of_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TABLE_BYTES_MAX", 80_000)
    table = ConnectionTable(tmp_path / "connections")
    kept = table.open(b"kept")
    for _ in range(1000):
        table.close(table.open(b"x" * 100))
    assert (tmp_path / "connections").stat().st_size < 12_000
    table.shut()
    again = ConnectionTable(tmp_path / "connections")
    assert again.ids() == [kept]
    again.shut()


@pytest.mark.fact("K8")
def test_a_full_table_refuses_and_takes_again_after_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TABLE_BYTES_MAX", 1000)
    table = ConnectionTable(tmp_path / "connections")
    ids = [table.open(b"x" * 100) for _ in range(8)]
    with pytest.raises(TooMuch, match=told("ConnectionsBytes", 1000) + "8 connections take"):
        table.open(b"x" * 100)
    table.close(ids[3])
    table.open(b"x" * 100)
    table.shut()


def test_a_write_that_fails_leaves_no_half_frame_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "connections"
    table = ConnectionTable(path)
    table.open(b"first")
    real_write = os.write

    def half(file: int, frame: bytes) -> int:
        return real_write(file, frame[: len(frame) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="no room"):
        table.open(b"second")
    assert len(table) == 1
    monkeypatch.undo()
    table.open(b"third")
    table.shut()
    again = ConnectionTable(path)
    assert [again.get(id) for id in again.ids()] == [b"first", b"third"]
    again.shut()
