"""Keys never repeat: not in a burst, not when the clock steps back, not after a restart, not between two nodes."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from control_plane_support import ManualClock, refused, run, running
from hypothesis import given, settings
from hypothesis import strategies as st

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from trackside.control_plane import keys
from trackside.control_plane.keys import NODES, KeyFileDamaged, NumberSource, ticks_of


def take(source: NumberSource, count: int, node: int = 0) -> list[int]:
    taken: list[int] = []
    while len(taken) < count:
        if (key := source.try_next(node)) is None:
            source.reserve()
        else:
            taken.append(key)
    return taken


@pytest.mark.fact("C5")
def test_a_number_is_utc_time_in_ticks_with_the_node_in_the_low_digits(tmp_path: Path) -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    (key,) = take(NumberSource(str(tmp_path), ManualClock(int(moment.timestamp()) * 1_000_000_000)), 1, node=42)
    since_year_1 = moment - datetime(1, 1, 1, tzinfo=UTC)
    assert key - key % NODES == (since_year_1.days * 86_400 + since_year_1.seconds) * 10_000_000
    assert key % NODES == 42


def test_numbers_of_one_moment_and_of_a_clock_that_steps_back_increase(tmp_path: Path) -> None:
    clock = ManualClock()
    source = NumberSource(str(tmp_path), clock)
    taken = take(source, 100_000, node=7)
    clock.now_ns -= 3_600 * 10**9
    taken += take(source, 10, node=7)
    clock.now_ns += 7_200 * 10**9
    taken += take(source, 10, node=7)
    assert all(low < high for low, high in itertools.pairwise(taken))
    assert {key % NODES for key in taken} == {7}
    assert taken[-1] - 9 * NODES == ticks_of(clock.now_ns) // NODES * NODES + 7, "the clock's again once it is ahead"


STEPS = st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 5), st.booleans(), st.sampled_from([0, 5, 999]))


@pytest.mark.fact("K10")
@pytest.mark.reference_test("Router: key generator: a million numbers are unique")
@given(steps=st.lists(STEPS, max_size=12))
@settings(deadline=None, max_examples=100)
def test_no_number_twice_whatever_clocks_restarts_and_node_numbers_do(
    steps: list[tuple[int, int, bool, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And each larger than all before, also when the server had to take another node number."""
    folder = str(tmp_path_factory.mktemp("keys"))
    clock = ManualClock()
    source = NumberSource(folder, clock)
    taken: list[int] = []
    for step_ns, count, restart, node in steps:
        clock.now_ns += step_ns
        if restart:
            source = NumberSource(folder, clock)
        taken += take(source, count, node)
    assert taken == sorted(set(taken))


def test_nothing_is_given_away_that_the_disk_does_not_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "RESERVE_TICKS", 10 * NODES)
    source = NumberSource(str(tmp_path), ManualClock())
    for _ in range(35):
        (key,) = take(source, 1)
        assert key < int((tmp_path / "keys").read_text())


def test_two_nodes_never_meet(tmp_path: Path) -> None:
    clock = ManualClock()
    one, two = (set(take(NumberSource(str(tmp_path / str(node)), clock), 1000, node)) for node in (1, 2))
    assert not one & two


@pytest.mark.parametrize("content", [b"", b"12x", b"-5", b"\xff\xfe"])
def test_a_damaged_file_is_no_reason_to_guess(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(KeyFileDamaged, match="keys"):
        NumberSource(str(tmp_path), ManualClock())


@pytest.mark.fact("C5")
def test_the_service_gives_both_kinds_and_refuses_others() -> None:
    async def scenario() -> None:
        async with running(node_number=3) as server:

            async def generate(type: int) -> messages.GenerateUniqueKeyResponse:
                answer: messages.GenerateUniqueKeyResponse = await server.keys.GenerateUniqueKey(
                    messages.GenerateUniqueKeyRequest(type=type)  # type: ignore[arg-type]
                )
                return answer

            text = (await generate(messages.KEY_TYPE_STRING)).string_key
            assert str(uuid.UUID(text)) == text and uuid.UUID(text).version == 4
            numbers = [
                a.ulong_key for a in await asyncio.gather(*(generate(messages.KEY_TYPE_ULONG) for _ in range(200)))
            ]
            assert len(set(numbers)) == 200 and {number % NODES for number in numbers} == {3}
            for unknown in (messages.KEY_TYPE_UNSPECIFIED, 9):
                code, reason = await refused(generate(unknown))
                assert code is grpc.StatusCode.INVALID_ARGUMENT
                assert reason.startswith(f"type: {unknown} ") and "KEY_TYPE_STRING" in reason

    run(scenario())
