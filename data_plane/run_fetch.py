"""From segment files to a run: one ``pread``, then batch after batch, every CRC checked."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from trackside.data_plane.data_dir import segment_path
from trackside.data_plane.log import Partition, Run
from trackside.data_plane.open_files import OpenFiles
from trackside.data_plane.partition_view import PartitionView
from trackside.data_plane.segment_index import SegmentIndexes
from trackside.data_plane.segments import Batch, KeyRow, Window, batch_holds, damage_at, decode_batch, read_batch_head

__all__ = ["Place", "RunFetcher"]

OPEN_FILES_MAX = 512
READ_BYTES_MIN = 64 << 10
READ_BYTES_MAX = 4 << 20
READ_SLACK_BYTES = 32 << 10
"""Read beyond the bytes of values that were asked for: tables of lengths and keys."""

PARTLY_READ_MAX = 8
"""Batches kept taken apart because a cursor had room for a part of one only."""


@dataclass(eq=False)
class Place:
    """Where a cursor goes on: at ``position`` of the segment ``base`` (the file ``path``); to be looked up when None.

    ``partly`` is the base offset of the batch there when some of its entries were taken already.
    """

    base: int | None = None
    path: str = ""
    position: int = 0
    partly: int | None = None


class _Stop(Enum):
    """Why no further batch was taken from what was read."""

    ENOUGH = "the run is as large as was asked for, or the bytes that were read are used up"
    HOLE = "the next batch begins behind the next offset: ``hole_end`` says where"
    UNPUBLISHED = "the next batch is not published yet"
    NO_BATCH = "the end of the file, or damage"


class _Columns:
    """A run in the making. ``hole_end``: where the next batch begins, when that is behind ``next_offset``."""

    def __init__(self, view: PartitionView, start: int, bytes_max: int) -> None:
        self.start = self.next_offset = start
        self.hole_end = start
        self.room_bytes = bytes_max
        self._view = view
        self._offsets: list[int] = []
        self._times_ns: list[int] = []
        self._key_index: list[int] = []
        self._keys: list[KeyRow] = []
        self._values: list[bytes] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, batch: Batch) -> bool:
        """Takes the entries of ``batch`` from ``next_offset`` on, as far as there is room. True when that was all."""
        first = self.next_offset - batch.base_offset
        stop = self._fitting(batch, first)
        self.next_offset = batch.base_offset + stop
        self._offsets += range(batch.base_offset + first, self.next_offset)
        self._times_ns += [batch.time_ns] * (stop - first)
        self._values += batch.values[first:stop]
        self._add_keys(batch.keys, batch.key_index[first:stop])
        return stop == len(batch.values)

    def _fitting(self, batch: Batch, first: int) -> int:
        """Behind the last entry from ``first`` on for which there is room; the first of a run always has."""
        whole = first == 0 and batch.value_bytes <= self.room_bytes
        if whole:
            self.room_bytes -= batch.value_bytes
            return len(batch.values)
        stop = first
        for value in batch.values[first:]:
            if len(value) > self.room_bytes and (stop > first or len(self)):
                break
            self.room_bytes -= len(value)
            stop += 1
        return stop

    def _add_keys(self, keys: list[KeyRow], index: list[int]) -> None:
        if not self._keys:
            self._keys = keys
        if self._keys == keys:
            self._key_index += index
            return
        rows = {key: row for row, key in enumerate(self._keys)}
        place = [rows.setdefault(key, len(rows)) for key in keys]
        self._keys = list(rows)
        self._key_index += [place[row] for row in index]

    def run(self, next_offset: int) -> Run:
        return Run(
            self._view.place.partition,
            self._view.place.identity,
            self.start,
            next_offset,
            self._offsets,
            self._times_ns,
            self._key_index,
            self._keys,
            self._values,
        )


class RunFetcher:
    """Reads runs for all cursors of a consumer; holds the open files, the indexes and nothing that must be kept."""

    def __init__(self) -> None:
        self.fetches = 0
        self.fetched_bytes = 0
        self.holes = 0
        self.expired = 0
        self.damaged = 0
        self._files = OpenFiles(OPEN_FILES_MAX, os.O_RDONLY)
        self._indexes = SegmentIndexes()
        self._partly_read: OrderedDict[tuple[Partition, int], Batch] = OrderedDict()

    def fetch(self, view: PartitionView, place: Place, start: int, end: int, bytes_max: int) -> Run:
        """All there is from ``start`` on, which is below ``end``, the published end; moves ``place``. Raises OSError.

        A run has entries or, where offsets do not exist, none: it never spans a hole with entries on both sides.
        """
        columns = _Columns(view, start, bytes_max)
        self._take_partly_read(columns, view, place)
        while not len(columns) and columns.hole_end == start:
            try:
                if not self._go_on(view, place, columns, end, bytes_max):
                    columns.hole_end = end
            except FileNotFoundError:  # retention was faster
                place.base = None
                view.look_again()
        if len(columns):
            return columns.run(columns.next_offset)
        self._count_jump(view, start)
        return columns.run(columns.hole_end)

    def let_go(self) -> None:
        """Of segments that retention has deleted: whoever was in one goes on behind it, as if it came later."""
        self._files.drop_deleted()

    def close(self) -> None:
        self._files.close()

    def _go_on(self, view: PartitionView, place: Place, columns: _Columns, end: int, bytes_max: int) -> bool:
        """One step further: entries, or a hole, or past what does not hold. False: there is nothing below ``end``."""
        if place.base is None and not self._find(view, place, columns.start):
            return False
        stop = self._take(view, place, columns, end, bytes_max)
        if stop is _Stop.NO_BATCH and not len(columns):
            return self._pass_by(view, place, columns.start)
        return stop is not _Stop.UNPUBLISHED or len(columns) > 0

    # --- finding the place

    def _find(self, view: PartitionView, place: Place, offset: int) -> bool:
        """Points ``place`` at the batch that has ``offset``, or the first one behind it. False when there is none."""
        base = view.base_for(offset)
        if base is not None:
            self._point(view, place, base, offset)
        return base is not None

    def _point(self, view: PartitionView, place: Place, base: int, offset: int) -> None:
        path = str(segment_path(view.place.folder, base))
        fd = self._files.fd(path)
        index = self._indexes.get(path, fd, view.seed, base)
        position = index.locate(fd, max(offset, base))
        place.base, place.path, place.position, place.partly = base, path, position, None

    def _pass_by(self, view: PartitionView, place: Place, offset: int) -> bool:
        """No batch holds at ``place``: goes on behind the damage, or in the next segment. False when there is none."""
        assert place.base is not None
        fd = self._files.fd(place.path)
        size = os.fstat(fd).st_size
        if place.position < size:
            self.damaged += 1
            step = damage_at(Window(fd, size), view.seed, place.position, offset)
            if step.next_position < size:
                place.position = step.next_position
                return True
        base = view.base_after(place.base)
        place.base = None  # when there is no next one yet, this one may still grow: looked up again next time
        if base is not None:
            self._point(view, place, base, offset)
        return base is not None

    def _count_jump(self, view: PartitionView, start: int) -> None:
        if start < view.earliest:
            self.expired += 1
        else:
            self.holes += 1

    # --- taking

    def _take(self, view: PartitionView, place: Place, columns: _Columns, end: int, bytes_max: int) -> _Stop:
        """Takes batches from ``place`` on into ``columns``, with one read, or two for a very large batch."""
        data = self._read(view, place, min(max(bytes_max, READ_BYTES_MIN), READ_BYTES_MAX) + READ_SLACK_BYTES)
        at = 0
        while columns.room_bytes > 0 or not len(columns):
            head = read_batch_head(data, at, view.seed)
            if head is None:
                return _Stop.NO_BATCH
            if head.base_offset >= end:
                return _Stop.UNPUBLISHED
            if at + head.size > len(data):
                if at > 0:
                    return _Stop.ENOUGH
                data = self._read(view, place, head.size)
            if not batch_holds(memoryview(data), at, head, view.seed):
                return _Stop.NO_BATCH
            if head.base_offset > columns.next_offset:
                columns.hole_end = head.base_offset
                return _Stop.HOLE
            if head.next_offset > columns.next_offset:
                if len(columns) and head.value_bytes > columns.room_bytes:
                    return _Stop.ENOUGH
                batch = decode_batch(data, at, head)
                if not columns.add(batch):
                    self._keep_partly_read(view, place, batch)
                    return _Stop.ENOUGH
            at += head.size
            place.position += head.size
        return _Stop.ENOUGH

    def _read(self, view: PartitionView, place: Place, size: int) -> bytes:
        fd = self._files.fd(place.path)
        # Asking for what is there, no more: a megabyte made ready for a kilobyte costs more than all the rest.
        there = os.fstat(fd).st_size - place.position
        data = os.pread(fd, max(min(size, there), 0), place.position)
        view.fetches += 1
        self.fetches += 1
        self.fetched_bytes += len(data)
        return data

    # --- batches that were too large for a run

    def _keep_partly_read(self, view: PartitionView, place: Place, batch: Batch) -> None:
        place.partly = batch.base_offset
        self._partly_read[view.place.partition, batch.base_offset] = batch
        if len(self._partly_read) > PARTLY_READ_MAX:
            self._partly_read.popitem(last=False)

    def _take_partly_read(self, columns: _Columns, view: PartitionView, place: Place) -> None:
        """Goes on in a batch that is still kept; when it is not, ``place`` still points at it on disk."""
        if place.partly is None:
            return
        base_offset, place.partly = place.partly, None
        batch = self._partly_read.get((view.place.partition, base_offset))
        if batch is None:
            return
        if columns.add(batch):
            place.position += batch.size
        else:
            place.partly = base_offset
