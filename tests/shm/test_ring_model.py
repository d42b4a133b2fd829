"""The ring against a plain list: hypothesis publishes, takes, commits, kills and reopens in any order it can think of."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ring_journal import JournalMemory, Killed

from trackside.shm.ring import RingReader, RingRecord, RingView, RingWriter

UNIT = 64


def units(length: int) -> int:
    """What a body takes of the ring, in units: its header and its lines."""
    return 1 + -(-length // UNIT)


def bodies(capacity: int) -> st.SearchStrategy[list[bytes]]:
    """Sizes that sit on the edges: of a line, of half the ring, and everything between."""
    most = capacity // 2 - UNIT
    size = st.one_of(st.sampled_from([0, 1, 63, 64, 65, most - 1, most]), st.integers(0, most))
    return st.lists(size, min_size=1, max_size=4).map(lambda sizes: [bytes([n + 1]) * s for n, s in enumerate(sizes)])


class RingMachine(RuleBasedStateMachine):
    """``published``: every record there ever was. ``taken``: how many the reader of now has taken or left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[RingRecord] = []
        self.taken = 0
        self.committed = 0
        self.answered = 0  # the wish of the writer that the reader of now has rung for
        self.now = 0

    @initialize(capacity=st.sampled_from([256, 512, 1024]), body_crc=st.booleans())
    def start(self, capacity: int, body_crc: bool) -> None:
        self.capacity = capacity
        self.memory = JournalMemory(capacity, body_crc=body_crc)
        self.reopen_writer()
        self.reopen_reader()

    def clock(self) -> int:
        self.now += 1
        return self.now

    @property
    def end(self) -> int:
        return self.published[-1].end if self.published else 0

    @property
    def commit_position(self) -> int:
        return self.published[self.committed - 1].end if self.committed else 0

    def place(self, batch: list[bytes]) -> list[RingRecord]:
        """Where a batch must come to lie, by the rule in the layout's words."""
        placed: list[RingRecord] = []
        position = self.end
        for number, body in enumerate(batch):
            left = (self.capacity - position % self.capacity) // UNIT
            if units(len(body)) > left:
                position += left * UNIT
            end = position + units(len(body)) * UNIT
            placed.append(RingRecord(position, end, number, len(self.published), self.now + 1, body))
            position = end
        return placed

    def impossible(self, batch: list[bytes]) -> bool:
        sizes = [units(len(body)) * UNIT for body in batch]
        return sum(sizes) + max(sizes) - UNIT > self.capacity

    # --- what the two ends do

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        batch = data.draw(bodies(self.capacity))
        placed = self.place(batch)
        records = [(r.kind, r.count, r.body) for r in placed]
        if self.impossible(batch):
            with pytest.raises(ValueError, match=r"at most|up to half"):
                self.writer.try_publish(records)
            return
        room = placed[-1].end - self.commit_position <= self.capacity
        assert self.writer.fits(map(len, batch)) == room
        assert (self.writer.commit_needed(map(len, batch)) <= self.commit_position) == room
        assert self.writer.try_publish(records) == (placed[-1].end if room else None)
        if room:
            self.published += placed
            assert self.writer.stamp_of_last == self.now

    @rule(bytes_max=st.one_of(st.none(), st.integers(1, 400)), back=st.one_of(st.none(), st.integers(0, 600)))
    def poll(self, bytes_max: int | None, back: int | None) -> None:
        until = None if back is None else max(0, self.end - back)
        expected: list[RingRecord] = []
        for record in self.published[self.taken :]:
            start = self.published[self.taken - 1].end if self.taken else 0
            if (until is not None and record.end > until) or (
                bytes_max is not None and expected and expected[-1].end - start >= bytes_max
            ):
                break
            expected.append(record)
        assert self.reader.poll(until, bytes_max) == expected
        self.taken += len(expected)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        upto = data.draw(st.integers(min(self.committed, self.taken), self.taken))
        self.reader.commit(self.published[upto - 1].end if upto else 0)
        self.committed = max(self.committed, upto)

    @rule(wish=st.integers(0, 12))
    def wish_is_rung_once(self, wish: int) -> None:
        """The writer asks for a position ahead of commit; the commit that reaches it says so, the next one does not."""
        wanted = self.commit_position + wish * UNIT
        self.writer.wait_for_commit(wanted)
        if self.taken > self.committed:
            reached = self.published[self.committed].end
            self.committed += 1
            assert self.reader.commit(reached) == (0 < wanted <= reached and wanted != self.answered)
            if 0 < wanted <= reached:
                self.answered = wanted
                assert not self.reader.commit(reached)
        self.writer.wait_for_commit(0)
        assert not self.reader.commit(self.commit_position)

    # --- who dies

    @rule()
    def reopen_writer(self) -> None:
        self.writer = RingWriter("", segment=self.memory, clock=self.clock)

    @rule()
    def reopen_reader(self) -> None:
        self.reader = RingReader("", segment=self.memory)
        self.taken = self.committed
        self.answered = 0

    @rule(data=st.data(), stores=st.integers(0, 60))
    def kill_writer(self, data: st.DataObject, stores: int) -> None:
        batch = data.draw(bodies(self.capacity))
        placed = self.place(batch)
        if self.impossible(batch):
            return
        self.memory.fuse = stores
        with contextlib.suppress(Killed):
            self.writer.try_publish([(r.kind, r.count, r.body) for r in placed])
        self.memory.fuse = None
        self.reopen_writer()
        assert self.writer.publish_position in (self.end, placed[-1].end), "all or none"
        if self.writer.publish_position == placed[-1].end:
            self.published += placed

    @precondition(lambda self: self.end > self.commit_position)
    @rule(stores=st.integers(0, 2))
    def kill_reader(self, stores: int) -> None:
        self.memory.fuse = stores
        with contextlib.suppress(Killed):
            self.reader.poll()
            self.reader.commit(self.reader.read_position)
        self.memory.fuse = None
        if RingView("", segment=self.memory).commit_position != self.commit_position:
            self.committed = len(self.published)  # the invariant checks that it is there, not somewhere between
        self.reopen_reader()

    # --- what always holds

    @invariant()
    def view_agrees(self) -> None:
        view = RingView("", segment=self.memory)
        assert view.commit_position == self.commit_position
        assert view.commit_position <= view.read_position <= view.publish_position == self.end
        assert view.publish_position <= view.commit_position + self.capacity
        assert view.uncommitted() == self.published[self.committed :]
        assert view.used_bytes == self.end - self.commit_position
        waiting = self.published[self.committed :]
        assert view.oldest_age_ns(self.now + 5) == (self.now + 5 - waiting[0].stamp_ns if waiting else 0)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
