"""Abandoned connections expire, and never one that is in use, whatever happens to the processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.control_plane.connection_uses import ConnectionUses, sweep_seconds

IDLE = 80.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def utc_ns(self) -> int:
        raise AssertionError("the time of day may step")

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def uses(folder: Path, clock: Clock, gateways: int = 1, idle: float = IDLE) -> ConnectionUses:
    return ConnectionUses(folder / "used", idle, gateways, clock)


def expired(of: ConnectionUses, *ids: int) -> list[int]:
    return [id for id, _ in of.idle(ids)]


def test_what_nobody_uses_expires_and_what_is_read_or_asked_for_does_not(tmp_path: Path, clock: Clock) -> None:
    these = uses(tmp_path, clock)
    for id in (1, 2, 3):
        these.use(id)
    for _ in range(20):
        clock.now += IDLE / 8
        these.on_report("gateway-0", [1])
        these.use(2)
    assert expired(these, 1, 2, 3) == [3]
    assert these.idle([3]) == [(3, IDLE * 20 / 8)]


def test_an_open_read_on_any_gateway_is_a_use_and_nothing_expires_while_one_is_silent(
    tmp_path: Path, clock: Clock
) -> None:
    these = uses(tmp_path, clock, gateways=2)
    these.use(1)
    these.use(2)
    clock.now += 2 * IDLE
    these.on_report("gateway-0", [])
    assert not expired(these, 1, 2)
    these.on_report("gateway-1", [1])
    assert expired(these, 1, 2) == [2]
    clock.now += 3 * sweep_seconds(IDLE)
    these.on_report("gateway-0", [])
    assert not expired(these, 1, 2), "gateway-1 may be reading it"


def test_a_successor_goes_on_where_its_predecessor_was(tmp_path: Path, clock: Clock) -> None:
    these = uses(tmp_path, clock)
    these.use(1)
    clock.now += IDLE / 2
    these.use(2)
    these.keep([1, 2])
    clock.now += IDLE / 2 + 1
    successor = uses(tmp_path, clock)
    assert not expired(successor, 1, 2), "no gateway has said yet what it reads"
    successor.on_report("gateway-0", [])
    assert expired(successor, 1, 2) == [1]
    assert (tmp_path / "used").stat().st_mode & 0o777 == 0o600


def test_what_is_not_known_is_new(tmp_path: Path, clock: Clock) -> None:
    """Of a file that is torn or of another boot, whose clock was ahead, nothing expires early."""
    these = uses(tmp_path, clock)
    these.use(1)
    these.keep([1])
    (tmp_path / "used").write_bytes((tmp_path / "used").read_bytes() + b"torn")
    clock.now = 10.0
    successor = uses(tmp_path, clock)
    clock.now += IDLE - 1
    successor.on_report("gateway-0", [])
    assert not expired(successor, 1, 2)
    clock.now += 2
    successor.on_report("gateway-0", [])
    assert expired(successor, 1, 2) == [1]


def test_nothing_expires_without_an_idle_time(tmp_path: Path, clock: Clock) -> None:
    these = uses(tmp_path, clock, idle=0)
    these.use(1)
    clock.now += 1e9
    these.on_report("gateway-0", [])
    assert not expired(these, 1)
    these.keep([])
    assert (tmp_path / "used").read_bytes() == b""
