"""Where an offset lies in a segment file, without reading the file again for each cursor that asks."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict

from trackside.data_plane.segments import BATCH_HEAD_BYTES, Window, find_batch, read_batch_head, read_segment_head

__all__ = ["SegmentIndex", "SegmentIndexes"]

SPACING_BYTES = 64 << 10
"""Distance between two places that an index remembers, at least: 1,024 of them in a full segment."""

HOP_BYTES = 64 << 10
INDEXES_MAX = 256


class SegmentIndex:
    """A sparse table offset -> position, which grows as far as somebody asked.

    Positions are those of batches whose head holds; their bodies are checked by who reads them.
    """

    def __init__(self, seed: int, base_offset: int, first_position: int) -> None:
        self._seed = seed
        self._offsets = [base_offset]
        self._positions = [first_position]

    def locate(self, fd: int, offset: int) -> int:
        """Position of the batch that has ``offset``, or of the first one behind it, or the end of the file."""
        place = bisect_right(self._offsets, offset) - 1
        position, offset_min = self._positions[place], self._offsets[place]
        window = Window(fd, os.fstat(fd).st_size, HOP_BYTES)
        while position < window.size:
            head = read_batch_head(window.at(position, BATCH_HEAD_BYTES), 0, self._seed)
            if head is None or head.base_offset < offset_min:
                found = find_batch(window, self._seed, position + 1, offset_min)
                if found is None:
                    return window.size
                position = found
                continue
            self._remember(head.base_offset, position)
            if head.next_offset > offset:
                break
            position, offset_min = position + head.size, head.next_offset
        return position

    def _remember(self, offset: int, position: int) -> None:
        if position >= self._positions[-1] + SPACING_BYTES:
            self._offsets.append(offset)
            self._positions.append(position)


class SegmentIndexes:
    """The indexes of the segments that were looked into last. Bounded."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, SegmentIndex] = OrderedDict()

    def get(self, path: str, fd: int, seed: int, base_offset: int) -> SegmentIndex:
        """The index of an open segment. Raises OSError, SegmentTooNew."""
        index = self._indexes.get(path)
        if index is None:
            head = read_segment_head(fd)
            # Without a head that holds the search for the first batch begins at the start of the file.
            index = self._indexes[path] = SegmentIndex(seed, base_offset, 0 if head is None else head[1])
            if len(self._indexes) > INDEXES_MAX:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(path)
        return index
