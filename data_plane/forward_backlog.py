"""What is left to forward, and how long the disk lasts: read from the segment files, which nobody else has to know."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from trackside.data_plane.data_dir import partition_dir, segment_bases, segment_path
from trackside.data_plane.log import Partition
from trackside.data_plane.log_recovery import OFFSET_GAP, OnDisk
from trackside.data_plane.segment_index import SegmentIndexes
from trackside.data_plane.segments import BATCH_HEAD_BYTES, Window, read_batch_head, read_segment_head

__all__ = ["NOTHING", "Backlog", "BacklogMeter", "DiskMeter", "DiskUse"]

GROWTH_SECONDS = 600.0
"""Over which the rate is taken at which the log grows."""

YEARS_SECONDS = 10 * 365 * 86_400
"""What a disk lasts that never gets full: a number, since a gauge has no infinity."""


class Backlog(NamedTuple):
    """``oldest_ns`` is when the oldest packet of it was logged (UTC, nanoseconds), 0 when there is none."""

    packets: int
    bytes: int
    oldest_ns: int

    def plus(self, other: Backlog) -> Backlog:
        oldest = min(filter(None, (self.oldest_ns, other.oldest_ns)), default=0)
        return Backlog(self.packets + other.packets, self.bytes + other.bytes, oldest)


NOTHING = Backlog(0, 0, 0)


class BacklogMeter:
    """Measures one partition after another; opens files and closes them. Raises OSError."""

    def __init__(self, data_dir: Path, identity: bytes) -> None:
        self._data_dir = data_dir
        self._identity = identity
        self._indexes = SegmentIndexes()
        self._ends: dict[str, int] = {}  # of segments before a gap, which do not grow any more

    def measure(self, partition: Partition, next_offset: int, end: int) -> Backlog:
        """What there is in [next_offset, end)."""
        if next_offset >= end:
            return NOTHING
        place = OnDisk(partition_dir(self._data_dir, partition), self._identity, partition)
        bases = segment_bases(place.folder)
        first = max(bisect_right(bases, next_offset) - 1, 0)
        if not bases[first:]:
            return NOTHING
        passed, oldest_ns = self._look_into(place, bases[first], next_offset)
        sizes = sum(segment_path(place.folder, base).stat().st_size for base in bases[first:])
        packets = end - max(next_offset, bases[first]) - self._gaps(place, bases[first:], next_offset)
        return Backlog(max(packets, 0), max(sizes - passed, 0), oldest_ns)

    def _look_into(self, place: OnDisk, base: int, offset: int) -> tuple[int, int]:
        """Position and time of the batch that has ``offset``."""
        path = str(segment_path(place.folder, base))
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            position = self._indexes.get(path, fd, place.seed, base).locate(fd, max(offset, base))
            head = read_batch_head(os.pread(fd, BATCH_HEAD_BYTES, position), 0, place.seed)
            return position, head.time_ns if head is not None else 0
        finally:
            os.close(fd)

    def _gaps(self, place: OnDisk, bases: list[int], next_offset: int) -> int:
        """Offsets that nobody has got, left out after a reboot: a gap ends with a segment that begins at a multiple."""
        return sum(
            base - max(self._end_of(place, before), next_offset)
            for before, base in pairwise(bases)
            if base % OFFSET_GAP == 0 and base - before >= OFFSET_GAP
        )

    def _end_of(self, place: OnDisk, base: int) -> int:
        """Behind the last batch of a segment, from one head to the next."""
        path = str(segment_path(place.folder, base))
        if path in self._ends:
            return self._ends[path]
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = read_segment_head(fd)
            window = Window(fd, os.fstat(fd).st_size)
            position, end = found[1] if found is not None else 0, base
            while (head := read_batch_head(window.at(position, BATCH_HEAD_BYTES), 0, place.seed)) is not None:
                position, end = position + head.size, head.next_offset
        finally:
            os.close(fd)
        self._ends[path] = end
        return end


class DiskUse(NamedTuple):
    log_bytes: int
    growth_bytes: int  # a second
    left_seconds: int


class DiskMeter:
    """What the log takes of its disk, and for how long the disk lasts when it goes on like this."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._seen: deque[tuple[float, int]] = deque()

    def measure(self, now: float, partitions: Iterable[Partition]) -> DiskUse:
        """``now`` is CLOCK_MONOTONIC. Lists all segments: for every few seconds. Raises OSError."""
        size = sum(map(self._size_of, partitions))
        self._seen.append((now, size))
        while len(self._seen) > 2 and self._seen[1][0] < now - GROWTH_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        growth = max(size - before, 0) / (now - then) if now > then else 0.0
        disk = os.statvfs(self._data_dir)
        free = disk.f_bavail * disk.f_frsize
        left = min(free / growth, YEARS_SECONDS) if growth else YEARS_SECONDS
        return DiskUse(size, int(growth), int(left))

    def _size_of(self, partition: Partition) -> int:
        try:
            with os.scandir(partition_dir(self._data_dir, partition)) as entries:
                return sum(entry.stat().st_size for entry in entries)
        except FileNotFoundError:
            return 0
