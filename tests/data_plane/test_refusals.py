"""Refusals of one process: counted each, logged now and then, whatever clients ask for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from trackside.data_plane.refusals import LOG_SECONDS, METHOD, OTHER_METHOD, REASON_CHARACTERS_MAX, Refusals
from trackside.shm.counters import CounterTable, create_counters, read_counters

EXHAUSTED, INVALID = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT


class Aborted(Exception):
    pass


class Context:
    """What a refusal sees of its call."""

    def peer(self) -> str:
        return "ipv4:10.0.0.7:1234"

    async def abort(self, *ended: object) -> None:
        self.ended = ended
        raise Aborted


class Told:
    """Refusals on a clock of the test's own, with their lines and counts."""

    def __init__(self, path: Path) -> None:
        create_counters(path)
        self.path = path
        self.now = 100.0
        self.lines: list[dict[str, object]] = []
        self.refusals = Refusals(CounterTable(path), self.log, lambda: self.now)

    def log(self, level: str, event: str, **fields: object) -> None:
        assert (level, event) == ("warn", "refused")
        self.lines.append(fields)

    def counted(self) -> dict[tuple[str, str], int]:
        rows = read_counters(self.path)
        return {(labels["method"], labels["status"]): value for name, labels, value in rows if labels}


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "counters")


def test_each_is_counted_and_some_are_told_with_how_many_there_were(told: Told) -> None:
    for number in range(1000):
        told.refusals.note("ReadPackets", EXHAUSTED, "p", f"reason {number}")
    assert told.counted() == {("ReadPackets", "resource_exhausted"): 1000}
    assert [(line["reason"], line["times"]) for line in told.lines] == [("reason 0", 1)]
    told.refusals.note("ReadPackets", INVALID, "p", "another status has a line of its own")
    told.refusals.note("WriteDataPacket", EXHAUSTED, "p", "and so has another method")
    assert [line["times"] for line in told.lines[1:]] == [1, 1]
    told.now += LOG_SECONDS
    told.refusals.note("ReadPackets", EXHAUSTED, "p", "later")
    assert (told.lines[-1]["reason"], told.lines[-1]["times"]) == ("later", 1000)


def test_the_call_ends_with_the_reason_and_is_told_with_method_and_peer(told: Told) -> None:
    context = Context()

    async def call() -> None:
        METHOD.set("GetConnection")
        await told.refusals.refuse(context, INVALID, "connection: missing", (("key", "value"),))  # type: ignore[arg-type]

    with pytest.raises(Aborted):
        asyncio.run(call())
    assert context.ended == (INVALID, "connection: missing", (("key", "value"),))
    assert told.counted() == {("GetConnection", "invalid_argument"): 1}
    (line,) = told.lines
    assert line == {
        "method": "GetConnection",
        "status": "invalid_argument",
        "peer": "ipv4:10.0.0.7:1234",
        "reason": "connection: missing",
        "times": 1,
    }


def test_a_long_reason_is_cut_in_the_log(told: Told) -> None:
    told.refusals.note(OTHER_METHOD, grpc.StatusCode.UNIMPLEMENTED, "", "x" * 10_000)
    assert len(str(told.lines[0]["reason"])) == REASON_CHARACTERS_MAX
