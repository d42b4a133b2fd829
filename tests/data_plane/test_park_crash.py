"""A producer or a recovery that dies at any step of parking loses nothing and swaps nothing, on both kinds of logs."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from park_bench import BLOCKABLE, KilledAt, LocalStore, MemoryStore, ParkBench, Store

from trackside.data_plane import parking

SEEDS = int(os.environ.get("TRACKSIDE_PARK_SEEDS", "20"))
"""Random lives a log and kind; the long form is TRACKSIDE_PARK_SEEDS=3000."""

STRIDE = 5 if SEEDS <= 20 else 1
"""Of the steps of a recovery every so-manieth is one to be killed at; in the long form each."""


@pytest.fixture(autouse=True)
def little_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "GARBAGE_BYTES", 600)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> KilledAt:
    return KilledAt(monkeypatch)


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """Hundreds of lives with rings of their own are too much for a disk; each is taken away after it was looked at."""
    folder = Path(tempfile.mkdtemp(prefix="trackside-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=[MemoryStore, LocalStore])
def make_store(request: pytest.FixtureRequest) -> type[Store]:
    kind: type[Store] = request.param
    return kind


def life(bench: ParkBench, chooser: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(chooser.randint(0, 3)):
            bench.append(chooser)
        what = chooser.random()
        if what < 0.25:
            bench.store.blocked.add(chooser.choice(BLOCKABLE))
        elif what < 0.4:
            bench.store.blocked.clear()
        bench.work(chooser.randint(1, 2))


def one_topic_blocked(bench: ParkBench) -> None:
    """Packets before, while and after it is parked, also behind one that could not be."""
    chooser = random.Random(5)
    bench.append(chooser)
    bench.work()
    bench.store.blocked.add("Car")
    for _ in range(4):
        bench.append(chooser)
        bench.append(chooser)
        bench.work()
    bench.store.blocked.clear()
    for _ in range(3):
        bench.append(chooser)
        bench.work()
    bench.finish()


@pytest.mark.parametrize("torn", [0.0, 0.4, 1.0])
def test_killed_before_each_step(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch, make_store: type[Store], steps: KilledAt, torn: float
) -> None:
    kill_at, killed = 1, True
    while killed:
        folder = tmpfs / str(kill_at)
        with monkeypatch.context() as patch:
            bench = ParkBench(folder, make_store(folder, patch), steps, park_after_seconds=0.0)
            steps.steps, steps.kill_at, steps.torn = 0, kill_at, torn
            one_topic_blocked(bench)
            bench.check()
            bench.close()
        shutil.rmtree(folder)
        killed = bench.deaths > 0
        kill_at += 1
    assert kill_at > 40


def topics_blocked_over_restarts(bench: ParkBench, all_die: bool) -> None:
    """Two of them, with packets in the park and in the rings; one is taken while the second recovery is at work."""
    chooser = random.Random(6)
    bench.store.blocked |= {"Car", "Boat"}
    for _ in range(3):
        bench.append(chooser)
        bench.append(chooser)
        bench.work()
    for _ in range(2):
        bench.append(chooser)
    bench.recover(chooser, all_die=all_die)
    bench.append(chooser)
    bench.work(2)
    bench.append(chooser)
    bench.start_server()  # and it dies before it has recovered anything
    for _ in range(3):
        bench.append(chooser)
    bench.recover(chooser, all_die=all_die)
    bench.finish()


@pytest.mark.parametrize("all_die", [False, True], ids=["the recovery dies", "all die"])
def test_killed_before_each_step_of_a_recovery(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch, make_store: type[Store], steps: KilledAt, all_die: bool
) -> None:
    kill_at, killed = 1, True
    while killed:
        folder = tmpfs / str(kill_at)
        with monkeypatch.context() as patch:
            bench = ParkBench(folder, make_store(folder, patch), steps, park_after_seconds=0.0)
            steps.steps, steps.kill_at, steps.torn = 0, kill_at, 0.4
            topics_blocked_over_restarts(bench, all_die)
            try:
                bench.check()
            except AssertionError as error:
                raise AssertionError(f"killed at {kill_at}: {error}") from None
            bench.close()
        shutil.rmtree(folder)
        killed = bench.deaths > 0
        kill_at += STRIDE
    assert kill_at > 60


@pytest.mark.parametrize("kind", ["follows", "leaves", "full"])
def test_random_lives(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch, make_store: type[Store], steps: KilledAt, kind: str
) -> None:
    for seed in range(SEEDS):
        chooser = random.Random(f"{kind}{seed}")
        folder = tmpfs / str(seed)
        settings = {"park_after_seconds": 2.0 if kind == "leaves" else 0.0}
        if kind == "full":
            settings["park_bytes"] = chooser.choice((500, 2000, 5000))
        with monkeypatch.context() as patch:
            bench = ParkBench(folder, make_store(folder, patch), steps, **settings)
            for _ in range(chooser.randint(1, 4)):
                steps.steps, steps.kill_at, steps.torn = 0, chooser.randint(5, 120), chooser.random()
                life(bench, chooser, 12)
                if chooser.random() < 0.5:
                    steps.steps, steps.kill_at = 0, chooser.randint(1, 80)
                    bench.recover(chooser, all_die=chooser.random() < 0.5)
            bench.finish()
            try:
                bench.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from None
            bench.close()
        shutil.rmtree(folder)
