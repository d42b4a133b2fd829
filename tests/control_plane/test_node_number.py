"""Node numbers: every server on one log has one of its own, whoever asks when, and keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from control_plane_support import refused, run, running, short_folder, until
from fake_log_port import FakeLog, FakeLogPort
from hypothesis import given, settings
from hypothesis import strategies as st

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import node_number
from trackside.control_plane.background import Background
from trackside.control_plane.keys import NODES
from trackside.control_plane.log_port import LogAway, LoggedEntry
from trackside.control_plane.node_number import Claim, ClaimedNode, NodeFold
from trackside.control_plane.session_fold import NODE_CLAIM, SessionFold
from trackside.data_plane.log import Partition

SESSIONS = Partition("SessionInfo", 0)


def claim(node: int, server: str, offset: int = 0, instance: str = "i") -> LoggedEntry:
    content = json.dumps({"node": node, "server": server, "instance": instance}).encode()
    return LoggedEntry(offset, 0, b"", b"", data.Packet(type=NODE_CLAIM, content=content).SerializeToString())


def claims_in(log: FakeLog) -> list[tuple[int, str]]:
    packets = [data.Packet.FromString(entry.packet) for entry in log.partitions[SESSIONS]]
    found = [json.loads(packet.content) for packet in packets if packet.type == NODE_CLAIM]
    return [(one["node"], one["server"]) for one in found]


@contextlib.asynccontextmanager
async def claiming(port: FakeLogPort, folder: Path, **options: Any) -> AsyncIterator[ClaimedNode]:
    """One server's claim, alone."""
    background = Background()
    chosen: dict[str, Any] = {"place": "kafka:9092 SessionInfo", "wanted": None, "instance": "first", **options}
    try:
        yield ClaimedNode(port, SESSIONS, background, data_dir=str(folder), **chosen)
    finally:
        await background.stop()


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_the_first_claim_of_a_number_holds() -> None:
    fold = NodeFold()
    assert fold.apply(claim(0, "A")) == Claim(0, "A", "i")
    assert fold.apply(claim(0, "B")) is None
    assert fold.apply(claim(0, "A")) == Claim(0, "A", "i"), "renewed"
    assert (fold.holder(0), fold.free(), fold.held_by("A"), fold.held_by("B")) == ("A", 1, 0, None)


def test_when_all_are_held_the_longest_not_renewed_changes_hands() -> None:
    fold = NodeFold()
    for node in range(NODES):
        fold.apply(claim(node, f"server {node}"))
    fold.apply(claim(0, "server 0"))  # renewed, so that 1 is the oldest
    assert fold.free() == 1
    assert fold.apply(claim(0, "late")) is None and fold.apply(claim(2, "late")) is None
    assert fold.apply(claim(1, "late")) == Claim(1, "late", "i")
    assert (fold.holder(1), fold.free()) == ("late", 2)


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff",
        data.Packet(type=NODE_CLAIM, content=b"{}").SerializeToString(),
        data.Packet(type=NODE_CLAIM, content=b"\xff").SerializeToString(),
        data.Packet(type=NODE_CLAIM, content=b'{"node": 0, "server": "\xff", "instance": "i"}').SerializeToString(),
        data.Packet(type=NODE_CLAIM, content=b'{"x": ' + b"[" * 10_000).SerializeToString(),
        data.Packet(type="NewSession", content=b'{"node": 1, "server": "s", "instance": "i"}').SerializeToString(),
        claim(1000, "s").packet,
        claim(-1, "s").packet,
    ],
)
def test_what_is_no_claim_is_passed_over(packet: bytes) -> None:
    fold = NodeFold()
    assert fold.apply(LoggedEntry(0, 0, b"", b"", packet)) is None
    assert fold.free() == 0


def test_a_claim_says_nothing_about_sessions() -> None:
    sessions = SessionFold()
    sessions.apply(claim(1, "s"))
    assert not any(sessions.statistics().values())


@pytest.mark.fact("K10")
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40))
@settings(max_examples=50)
def test_no_number_has_two_holders(asked: list[tuple[int, int]]) -> None:
    """What each server was told it has, by its own reading of one log, while not all are held."""
    fold, held = NodeFold(), dict[int, int]()
    for node, server in asked:
        if fold.apply(claim(node, str(server))) is not None:
            assert held.setdefault(node, server) == server


# -- one server -------------------------------------------------------------------------------------------------------


def test_a_server_keeps_its_number_over_restarts(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        log.append(SESSIONS, claim(0, "another").packet)
        for instance in ("first", "second"):
            async with claiming(FakeLogPort(log), tmp_path, instance=instance) as node:
                assert await node.number() == 1
                await until(lambda i=instance: len(claims_in(log)) == (2 if i == "first" else 3))  # type: ignore[misc]
        assert len(set(claims_in(log))) == 2, "the same claim again"

    run(scenario())


def test_a_number_that_was_held_is_good_while_the_log_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_number, "LOG_SECONDS", 0.05)

    async def scenario() -> None:
        port = FakeLogPort()
        async with claiming(port, tmp_path) as node:
            await node.number()
        port.away = "no broker answers"
        async with claiming(port, tmp_path) as node:
            assert await node.number() == 0
        async with claiming(port, tmp_path, place="another:9092 SessionInfo") as node:
            with pytest.raises(LogAway, match=r"no node number.*no broker answers"):
                await node.number()
            port.away = ""
            monkeypatch.setattr(node_number, "LOG_SECONDS", 5.0)
            monkeypatch.setattr(node_number, "RETRY_SECONDS", 0.01)
            assert await node.number() == 0

    run(scenario())


def test_the_configured_number_is_taken_if_nobody_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = FakeLog()
        log.append(SESSIONS, claim(7, "another").packet)
        async with claiming(FakeLogPort(log), tmp_path / "a", wanted=5) as node:
            assert await node.number() == 5
        async with claiming(FakeLogPort(log), tmp_path / "b", wanted=7) as node:
            assert await node.number() == 0
        async with claiming(FakeLogPort(log), tmp_path / "a", wanted=6) as node:
            assert await node.number() == 6, "configured anew"

    run(scenario())
    assert "node number 7 belongs to another server, another" in caplog.text


def test_a_number_that_went_to_another_server_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with claiming(FakeLogPort(log), tmp_path) as node:
            assert await node.number() == 0
            for other in range(1, NODES):
                log.append(SESSIONS, claim(other, f"server {other}").packet)
            log.append(SESSIONS, claim(0, "taker").packet)
            await until(lambda: len(claims_in(log)) == NODES + 2)
            assert await node.number() == 1

    run(scenario())


def test_a_copy_of_a_data_directory_gets_a_number_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with claiming(FakeLogPort(log), tmp_path / "one", instance="one") as one:
            assert await one.number() == 0
            (tmp_path / "two").mkdir()
            (tmp_path / "two" / "node.json").write_bytes((tmp_path / "one" / "node.json").read_bytes())
            async with claiming(FakeLogPort(log), tmp_path / "two", instance="two") as two:
                await until(lambda: len(claims_in(log)) == 3)
                assert sorted([await one.number(), await two.number()]) == [0, 1]

    run(scenario())
    assert "copy of this data directory" in caplog.text


def test_another_log_is_claimed_in_anew(tmp_path: Path) -> None:
    """Also one in which an older run of this server has claimed before: that was no copy of it."""

    async def scenario() -> None:
        log = FakeLog()
        async with claiming(FakeLogPort(log), tmp_path) as node:
            await node.number()
            server = claims_in(log)[0][1]
            log.restart()
            log.append(SESSIONS, claim(0, server, instance="an older run").packet)
            await until(lambda: len(claims_in(log)) == 2)
            assert claims_in(log) == [(0, server), (0, server)]
            assert await node.number() == 0

    run(scenario())


def test_a_damaged_memory_is_another_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with claiming(FakeLogPort(log), tmp_path) as node:
            await node.number()
        (tmp_path / "node.json").write_bytes(b"{")
        async with claiming(FakeLogPort(log), tmp_path) as node:
            assert await node.number() == 1

    run(scenario())
    assert "node.json cannot be read" in caplog.text


def test_claims_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_number, "RENEW_SECONDS", 0.01)

    async def scenario() -> None:
        log = FakeLog()
        async with claiming(FakeLogPort(log), tmp_path):
            await until(lambda: len(claims_in(log)) >= 4)
        assert len(set(claims_in(log))) == 1

    run(scenario())


# -- several servers --------------------------------------------------------------------------------------------------


@pytest.mark.fact("K10")
def test_ten_servers_that_start_at_once_have_ten_numbers(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with contextlib.AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(claiming(FakeLogPort(log), tmp_path / str(n), instance=str(n)))
                for n in range(10)
            ]
            assert sorted(await asyncio.gather(*(node.number() for node in nodes))) == list(range(10))

    run(scenario())


def test_keys_of_two_servers_on_one_kafka_differ_in_their_low_digits() -> None:
    async def scenario() -> None:
        log = FakeLog()
        with short_folder() as a, short_folder() as b:
            async with (
                running(FakeLogPort(log), folder=a, broker="kafka:9092") as one,
                running(FakeLogPort(log), folder=b, broker="kafka:9092") as two,
            ):
                request = messages.GenerateUniqueKeyRequest(type=messages.KEY_TYPE_ULONG)
                answers = await asyncio.gather(*(s.keys.GenerateUniqueKey(request) for s in [one, two] * 100))
                keys = [answer.ulong_key for answer in answers]
                assert len(set(keys)) == 200
                assert sorted({key % NODES for key in keys}) == [0, 1]

    run(scenario())


def test_without_the_log_there_is_no_first_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_number, "LOG_SECONDS", 0.05)

    async def scenario() -> None:
        port = FakeLogPort()
        port.away = "no broker answers"
        async with running(port, broker="kafka:9092", ready=False) as server:
            request = messages.GenerateUniqueKeyRequest(type=messages.KEY_TYPE_ULONG)
            code, text = await refused(server.keys.GenerateUniqueKey(request))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "no node number" in text and "no broker answers" in text
            request = messages.GenerateUniqueKeyRequest(type=messages.KEY_TYPE_STRING)
            assert (await server.keys.GenerateUniqueKey(request)).string_key, "a GUID needs nobody"

    run(scenario())
