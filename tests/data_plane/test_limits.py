"""Limits of a gateway, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from bad_input import told

from trackside.data_plane.limits import ControlCallsOpen, LimitReached, Limits, OpenCalls, Rates
from trackside.data_plane.metrics import LIMITS
from trackside.data_plane.spec import Settings
from trackside.shm.counters import CounterTable, create_counters, read_counters

PEER, OTHER = "ipv4:10.0.0.7", "ipv4:10.0.0.8"


class Worker:
    """What a worker is to its limits."""

    def __init__(self, path: Path) -> None:
        create_counters(path)
        self.path = path
        self.counters = CounterTable(path)

    def limited(self) -> dict[str, int]:
        rows = read_counters(self.path)
        return {labels["limit"]: value for name, labels, value in rows if name == "trackside_limited_total"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "counters")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(worker: Worker) -> Limits:
    return Limits(worker)


def settings(**fields: int) -> Settings:
    return msgspec.structs.replace(Settings(), **fields)


# -- open calls -------------------------------------------------------------------------------------------------------


def test_calls_of_one_peer_leave_room_for_others(limits: Limits, worker: Worker) -> None:
    calls = OpenCalls(settings(open_calls_max=5, open_calls_per_peer=2), limits)
    calls.enter(PEER)
    calls.enter(PEER)
    with pytest.raises(LimitReached, match=r"OpenCallsPerPeer = 2: so many calls from ipv4:10\.0\.0\.7 are open"):
        calls.enter(PEER)
    calls.enter(OTHER)
    calls.leave(PEER)
    calls.enter(PEER)
    assert len(calls) == 3 and worker.limited() == dict.fromkeys(LIMITS, 0) | {"OpenCallsPerPeer": 1}


def test_all_calls_together_are_bounded(limits: Limits) -> None:
    calls = OpenCalls(settings(open_calls_max=3, open_calls_per_peer=2), limits)
    for peer in (PEER, PEER, OTHER):
        calls.enter(peer)
    with pytest.raises(LimitReached, match=r"OpenCallsMax = 3: .* ipv4:10\.0\.0\.8 asked for one more"):
        calls.enter(OTHER)
    for peer in (PEER, PEER, OTHER):
        calls.leave(peer)
    assert len(calls) == 0


def test_control_calls_that_are_not_answered_are_bounded(limits: Limits, worker: Worker) -> None:
    calls = ControlCallsOpen(settings(control_calls_max=2), limits)
    with (
        calls.one_more(PEER),
        calls.one_more(OTHER),
        pytest.raises(LimitReached, match=told("ControlCallsMax", 2)),
        calls.one_more(PEER),
    ):
        pass
    with calls.one_more(PEER):
        assert worker.limited()["ControlCallsMax"] == 1


# -- rates ------------------------------------------------------------------------------------------------------------


class Paced(Rates):
    """``waits`` is how long each message would have to wait; nobody really does."""

    def turn(self, peer: str, size: int, bound: float = 5.0) -> float:
        return self._reserve(peer, size, bound)


def test_a_peer_may_send_a_second_of_its_rate_at_once_and_then_evenly(limits: Limits, clock: Clock) -> None:
    rates = Paced(settings(messages_per_second_per_peer=10), limits, clock)
    waits = [rates.turn(PEER, 1) for _ in range(14)]
    assert [max(0.0, round(wait, 6)) for wait in waits] == [0.0] * 11 + [0.1, 0.2, 0.3]
    assert rates.turn(OTHER, 1) <= 0
    clock.now += 100
    assert rates.turn(PEER, 1) <= 0


def test_what_would_wait_too_long_is_refused_and_not_counted_against_it(limits: Limits, clock: Clock) -> None:
    rates = Paced(settings(messages_per_second_per_peer=10), limits, clock)
    for _ in range(16):
        rates.turn(PEER, 1)
    for _ in range(3):
        with pytest.raises(
            LimitReached,
            match=told("MessagesPerSecondPerPeer", 10) + r".*10\.0\.0\.7 sends more messages; .* in 0\.6 s",
        ):
            rates.turn(PEER, 1, bound=0.55)
    assert round(rates.turn(PEER, 1), 6) == 0.6


def test_bytes_are_paid_for_afterwards(limits: Limits, clock: Clock) -> None:
    """However large a message is: it is taken when what came before is paid for, so none is refused for ever."""
    rates = Paced(settings(bytes_per_second_per_peer=1000), limits, clock)
    assert rates.turn(PEER, 6000) <= 0
    with pytest.raises(LimitReached, match=r"BytesPerSecondPerPeer = 1000: .* now 10; it may send them in 5\.0 s"):
        rates.turn(PEER, 10, bound=1)
    clock.now += 5
    assert rates.turn(PEER, 10, bound=1) <= 0


def test_a_message_waits_its_turn(limits: Limits) -> None:
    rates = Rates(settings(messages_per_second_per_peer=100), limits)

    async def send() -> None:
        for _ in range(105):
            await rates.wait_turn(PEER, 1, 5.0)

    asyncio.run(send())
    assert rates.is_on and not Rates(settings(), limits).is_on
