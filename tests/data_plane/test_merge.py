"""The merge by publish time: promise 3, as a table of what may and may not be taken, and against real rings."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from trackside.data_plane.merge import Merge
from trackside.shm.ring import RingReader, RingRecord, RingWriter, create_ring


class Ring:
    """A ring whose publish position can be moved between two readings of it."""

    def __init__(self, stamps: list[int], first: int, second: int) -> None:
        self.records = [RingRecord(i, i + 1, 1, 1, stamp, b"") for i, stamp in enumerate(stamps)]
        self.readings = [first, second]
        self.taken = 0

    def publish_position(self) -> int:
        return self.readings.pop(0) if self.readings else len(self.records)

    def poll(self, until: int | None = None) -> list[RingRecord]:
        found = self.records[self.taken : until]
        self.taken += len(found)
        return found


def stamps(due: list[tuple[int, RingRecord]]) -> list[int]:
    return [record.stamp_ns for _, record in due]


def test_takes_in_order_of_stamps_across_rings() -> None:
    merge = Merge([Ring([1, 4, 6], 3, 3), Ring([2, 3, 5], 3, 3)])
    assert stamps(merge.take()) == [1, 2, 3, 4, 5, 6]


def test_what_was_published_between_the_readings_waits_when_it_is_newer_than_all_of_the_first() -> None:
    merge = Merge([Ring([1], 1, 1), Ring([2, 7], 1, 2)])
    assert stamps(merge.take()) == [1, 2]
    assert merge.waiting == 1
    assert stamps(merge.take()) == [7]


def test_an_earlier_record_that_was_seen_late_goes_first() -> None:
    """A (stamp 1) was accepted before B (stamp 2) was sent: at the first reading only B's ring had been looked at."""
    merge = Merge([Ring([1], 0, 1), Ring([2], 1, 1)])
    assert stamps(merge.take()) == [1, 2]


def test_nothing_is_taken_when_nothing_lay_below_the_first_reading() -> None:
    merge = Merge([Ring([1], 0, 1), Ring([2], 0, 1)])
    assert merge.take() == []
    assert stamps(merge.take()) == [1, 2]


HAND_OVER = """
import os, sys
from trackside.shm.ring import RingWriter
path, mine, theirs, first, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
writer = RingWriter(path)
for n in range(first, rounds, 2):
    os.read(mine, 1)                       # the other's packet was accepted
    while writer.try_publish([(1, 1, n.to_bytes(8, "little"))]) is None:
        pass
    os.write(theirs, b"x")                 # ours was accepted
"""

ROUNDS = 10_000


def test_a_topic_handed_back_and_forth_between_two_gateways_keeps_its_order(tmp_path: Path) -> None:
    """Ten thousand times: each writer publishes only after it was told that the other's record was accepted."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        create_ring(path, capacity_bytes=1 << 16, ring_id=path.name)
    to_a, from_b = os.pipe()
    to_b, from_a = os.pipe()
    arguments = [(paths[0], to_a, from_a, 0), (paths[1], to_b, from_b, 1)]
    writers = [
        subprocess.Popen([sys.executable, "-c", HAND_OVER, *map(str, given), str(ROUNDS)], pass_fds=given[1:3])
        for given in arguments
    ]
    os.write(from_b, b"x")
    readers = [RingReader(path) for path in paths]
    merge = Merge(readers)
    numbers: list[int] = []
    try:
        while len(numbers) < ROUNDS:
            for index, record in merge.take():
                numbers.append(int.from_bytes(record.body, "little"))
                readers[index].commit(record.end)
            assert all(writer.poll() in (None, 0) for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert numbers == list(range(ROUNDS))


def test_random_interleavings_keep_stamps_in_order(tmp_path: Path) -> None:
    chooser = random.Random(4)
    clock = iter(range(1, 1_000_000))
    paths = [tmp_path / str(i) for i in range(3)]
    for path in paths:
        create_ring(path, capacity_bytes=1 << 16, ring_id=path.name)
    writers = [RingWriter(path, clock=lambda: next(clock)) for path in paths]
    readers = [RingReader(path) for path in paths]
    merge = Merge(readers)
    seen: list[int] = []
    for _ in range(3000):
        if chooser.random() < 0.7:
            chooser.choice(writers).try_publish([(1, 1, b"x" * chooser.randrange(200))])
        else:
            for index, record in merge.take():
                seen.append(record.stamp_ns)
                readers[index].commit(record.end)
    seen += stamps(merge.take())
    assert seen == sorted(seen) and len(seen) == sum(writer.statistics()["records"] for writer in writers)
