"""A crash after every single store of writer and reader, on a memory that keeps a journal.

``test_everybody_dies``: all processes stop after store k, for every k; what lies in memory then must be exactly what was
published before the call that was cut, or what is published after it, and successors must go on from there.
``test_one_dies``: one end stops after store k, for every k, the other lives on with what it remembers.
``test_any_order_without_a_fence``: machines that do not keep stores in order.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import NamedTuple

import pytest
from ring_journal import JournalMemory, Killed, Store, apply

from trackside.shm import ring
from trackside.shm.layout import RING_DATA_OFFSET, RingCell
from trackside.shm.ring import RingCorrupt, RingReader, RingView, RingWriter

CAPACITY = 512
Body = bytes
Records = list[tuple[int, int, Body]]


class Step(NamedTuple):
    """One call on one end. publish: the records; poll: bytes_max; commit: which of the taken ends, counted from the last."""

    verb: str
    records: Records
    number: int


def script(seed: int, steps: int) -> list[Step]:
    """Calls that lap the ring, need PADs, find it full, take and commit in parts."""
    rng = random.Random(seed)
    made: list[Step] = []
    for number in range(steps):
        verb = rng.choice(["publish", "publish", "poll", "commit", "commit"])
        sizes = rng.choice([[0], [1], [64], [65], [100], [192], [0, 0], [0, 0, 60], [1, 64], [0, 128], [40, 1]])
        records = [(n, number, bytes([number % 256, n]) * (size // 2)) for n, size in enumerate(sizes)]
        made.append(Step(verb, records, rng.choice([0, 0, 1, 2])))
    return made


class Play:
    """Runs steps on a ring and keeps what is true about it in plain lists."""

    def __init__(self, memory: JournalMemory) -> None:
        self.memory = memory
        self.writer = RingWriter("", segment=memory, clock=lambda: 7)
        self.reader = RingReader("", segment=memory)
        self.published: list[tuple[int, int, int, Body]] = []  # end, kind, count, body
        self.ends: list[int] = []  # taken, not committed
        self.committed = 0
        self.seen: list[tuple[int, int, int, Body]] = []

    def run(self, step: Step) -> None:
        getattr(self, step.verb)(step)

    def publish(self, step: Step) -> None:
        start = self.writer.publish_position
        if self.writer.try_publish(step.records) is not None:
            self.published += expected_at(start, step.records)

    def poll(self, step: Step) -> None:
        taken = self.reader.poll(bytes_max=1 + 200 * step.number)
        self.ends += [record.end for record in taken]
        self.seen += [(r.end, r.kind, r.count, r.body) for r in taken]

    def commit(self, step: Step) -> None:
        keep = min(step.number, len(self.ends))
        done = self.ends[: len(self.ends) - keep]
        if done:
            self.reader.commit(done[-1])
            self.committed = done[-1]
            self.ends = self.ends[len(done) :]

    def waiting(self) -> list[tuple[int, int, int, Body]]:
        return [record for record in self.published if record[0] > self.committed]


def expected_at(position: int, records: Records) -> list[tuple[int, int, int, Body]]:
    """The rule of PAD and alignment, said again in other words."""
    placed = []
    for kind, count, body in records:
        lines = 1 + -(-len(body) // 64)
        left = 8 - position // 64 % 8
        position += 64 * (lines if lines <= left else left + lines)
        placed.append((position, kind, count, body))
    return placed


def contents(memory: JournalMemory) -> list[tuple[int, int, int, Body]]:
    return [(r.end, r.kind, r.count, r.body) for r in RingView("", segment=memory).uncommitted()]


def go_on(memory: JournalMemory, waiting: list[tuple[int, int, int, Body]]) -> None:
    """Successors of both ends: take what waits, then two laps more."""
    writer, reader = RingWriter("", segment=memory), RingReader("", segment=memory)
    for number in range(9):
        got = [(r.end, r.kind, r.count, r.body) for r in reader.poll()]
        assert got == waiting
        if got:
            reader.commit(got[-1][0])
        start = writer.publish_position
        records = [(5, number, bytes([number]) * 100)]
        assert writer.try_publish(records) is not None
        waiting = expected_at(start, records)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everybody_dies(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    memory = JournalMemory(CAPACITY)
    blank = bytes(memory.image)
    play = Play(memory)
    states = 0
    now = JournalMemory(CAPACITY, image=blank)
    apply(now.image, memory.stores)  # what attaching stored
    for step in script(seed, 1200):
        before, first = play.waiting(), len(memory.stores)
        play.run(step)
        after = play.waiting()
        for store in [*memory.stores[first:], (-1, b"")]:
            successor = JournalMemory(CAPACITY, image=bytes(now.image))
            waiting = contents(successor)
            assert waiting in (before, after), f"store {states} of {step}"
            go_on(successor, waiting)
            apply(now.image, [store])
            states += 1
        assert contents(now) == after
    with capsys.disabled():
        print(f"\nring, everybody dies, seed {seed}: {states} crash states")
    assert play.writer.statistics()["pads"] > 10 and play.writer.statistics()["full"] > 10, "the script is too tame"


@pytest.mark.parametrize("seed", [4, 5])
def test_one_dies(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    steps = script(seed, 300)
    states = 0
    while not _play_with_one_death(steps, fuse=states):
        states += 1
    with capsys.disabled():
        print(f"\nring, one dies, seed {seed}: {states} crash states")
    assert states > 1000


def _play_with_one_death(steps: list[Step], fuse: int) -> bool:
    """True when the fuse was longer than the whole script."""
    play = Play(JournalMemory(CAPACITY))
    play.memory.fuse = fuse
    for step in steps:
        try:
            play.run(step)
        except Killed:
            play.memory.fuse = None
            _replace(play, step)
    survived = play.memory.fuse is not None
    play.memory.fuse = None
    _finish(play)
    return survived


def _replace(play: Play, step: Step) -> None:
    """The supervisor's part. What the dead one had got done is learned from the cells, as in life."""
    if step.verb == "publish":
        placed = expected_at(play.published[-1][0] if play.published else 0, step.records)
        play.writer = RingWriter("", segment=play.memory)
        if play.writer.publish_position == placed[-1][0]:
            play.published += placed
        else:
            play.publish(step)
    else:
        play.reader = RingReader("", segment=play.memory)
        play.committed = play.reader.commit_position
        play.ends = []


def _finish(play: Play) -> None:
    taken = play.reader.poll()
    play.seen += [(r.end, r.kind, r.count, r.body) for r in taken]
    first_seen = list(dict.fromkeys(play.seen))
    assert first_seen == play.published, "each record once or again, nothing else, in order"
    repeats = [b for a, b in zip(play.seen, play.seen[1:], strict=False) if b[0] <= a[0]]
    assert len(repeats) <= 1, "one death, one step back"


# --- machines that do not keep stores in order ------------------------------------------------------------------------


def _wrong_states(memory: JournalMemory, image: bytes, stores: list[Store], allowed: list[object]) -> tuple[int, int]:
    """Every subset of the stores between two fences may have arrived; returns (states, those that are wrong)."""
    fences = [index for index, (offset, _) in enumerate(stores) if offset < 0]
    states = wrong = 0
    for begin, end in zip([-1, *fences], [*fences, len(stores)], strict=True):
        group = stores[begin + 1 : end]
        for size in range(len(group) + 1):
            for subset in combinations(group, size):
                memory.image[:] = image
                apply(memory.image, [*stores[: begin + 1], *subset])
                states += 1
                wrong += not _holds(memory, allowed)
    return states, wrong


def _holds(memory: JournalMemory, allowed: list[object]) -> bool:
    try:
        got = [(r.end, r.kind, r.count, r.body) for r in RingReader("", segment=memory).poll()]
    except RingCorrupt:
        return False
    return got in allowed


@pytest.mark.parametrize("fenced", [True, False])
def test_any_order_without_a_fence(fenced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fence nothing but old or new is seen; without it the test must find what it is for."""
    memory = JournalMemory(CAPACITY)
    monkeypatch.setattr(ring, "publish_fence", memory.fence if fenced else None)
    play = Play(memory)
    for number in range(4):  # so that the place is not blank, but holds a record of the lap before
        play.publish(Step("publish", [(1, number, b"old" * 5)], 0))
    for _ in range(8):
        play.poll(Step("poll", [], 2))
        play.commit(Step("commit", [], 0))
        play.publish(Step("publish", [(1, 1, b"")], 0))
    play.poll(Step("poll", [], 2))
    play.commit(Step("commit", [], 0))
    assert play.writer.publish_position % CAPACITY == 0
    image, first = bytes(memory.image), len(memory.stores)
    play.publish(Step("publish", [(2, 9, b"new!")], 0))
    stores = memory.stores[first:]
    assert stores[0][0] == RING_DATA_OFFSET and (RingCell.PUBLISH * 8) in [offset for offset, _ in stores]
    allowed: list[object] = [[], play.waiting()]
    monkeypatch.setattr(ring, "publish_fence", None)
    states, wrong = _wrong_states(JournalMemory(CAPACITY), image, stores, allowed)
    assert states > 50
    assert (wrong == 0) == fenced, f"{wrong} of {states} states are wrong"
