"""The table in which a producer publishes how far each of its partitions of the local log goes.

One table a producer, in the run directory; consumers map it read-only. It is a chain of files, ``<path>``, ``<path>.1``,
``<path>.2`` ..., each with room for SLOTS partitions, so that memory grows with the partitions that exist::

    page 0    static page of every segment, kind ENDS, extent = SLOTS
    page 1    +0  used      u64           slots that hold a partition; stored last
              ends          u64 * SLOTS   offset that the next entry will get
              earliest      u64 * SLOTS   first offset that still exists
              directory     SLOTS * ENTRY_BYTES:  +0 topic_bytes u32   +4 partition u32   +8 topic, utf-8

    a slot once used keeps its partition; ends and earliest only grow

The producer is the only writer. What an end covers was written to the segment file before the end is stored, and a
slot's directory entry and cells before ``used`` is: stores become visible in this order on x86-64, and on other
machines the worker does not start without a real fence.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from trackside.data_plane.log import Partition
from trackside.shm.layout import CELL_BYTES, PAGE_BYTES, SegmentKind, StaticPage
from trackside.shm.segment import LayoutMismatch, Segment, SegmentMissing

__all__ = ["SLOTS", "TOPIC_BYTES_MAX", "EndsReader", "EndsSlot", "EndsWriter", "create_ends_table"]

SLOTS = 1024
TOPIC_BYTES_MAX = 249
"""Kafka's limit; names are checked at the door."""

BLOCK_SLOTS = 32
_ENTRY = Struct("=II")
ENTRY_BYTES = 264
_USED = PAGE_BYTES // CELL_BYTES
_ENDS = _USED + 16  # two cache lines behind ``used``
_EARLIEST = _ENDS + SLOTS
_DIRECTORY_OFFSET = (_EARLIEST + SLOTS) * CELL_BYTES
TABLE_BYTES = -(-(_DIRECTORY_OFFSET + SLOTS * ENTRY_BYTES) // PAGE_BYTES) * PAGE_BYTES

assert _ENTRY.size + TOPIC_BYTES_MAX <= ENTRY_BYTES


def create_ends_table(path: Path) -> None:
    """Makes an empty table. Raises SegmentExists, NoSpace."""
    Segment.make(path, StaticPage(SegmentKind.ENDS, TABLE_BYTES, extent=SLOTS, options=0, name=path.name))


def _page_path(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


class _Page:
    """One file of a table, mapped. Raises SegmentMissing, LayoutMismatch."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self._segment = Segment.attach(path, writable=writable)
        try:
            extent = self._segment.check(SegmentKind.ENDS).extent
            if extent != SLOTS or self._segment.size != TABLE_BYTES:
                raise LayoutMismatch(f"{path}: {extent} slots, expected {SLOTS}")
        except LayoutMismatch:
            self._segment.close()
            raise
        self.cells = self._segment.cells

    @property
    def used(self) -> int:
        return self.cells[_USED]

    def ends(self, used: int) -> bytes:
        """A copy of the first ``used`` ends."""
        return self.cells[_ENDS : _ENDS + used].tobytes()

    def partition(self, index: int) -> Partition:
        at = _DIRECTORY_OFFSET + index * ENTRY_BYTES
        topic_bytes, number = _ENTRY.unpack_from(self._segment.view, at)
        topic_at = at + _ENTRY.size
        return Partition(bytes(self._segment.view[topic_at : topic_at + topic_bytes]).decode(), number)

    def add(self, partition: Partition, end: int, earliest: int) -> int:
        """Takes the next slot for ``partition``; there must be one."""
        index, topic = self.used, partition.topic.encode()
        assert index < SLOTS and len(topic) <= TOPIC_BYTES_MAX, partition
        at = _DIRECTORY_OFFSET + index * ENTRY_BYTES
        entry = _ENTRY.pack(len(topic), partition.number) + topic
        self._segment.view[at : at + len(entry)] = entry
        self.cells[_ENDS + index] = end
        self.cells[_EARLIEST + index] = earliest
        # Publishes the slot: nobody looks at an entry at or above ``used``.
        self.cells[_USED] = index + 1
        return index

    def close(self) -> None:
        self._segment.close()


class EndsSlot:
    """The published end and earliest offset of one partition; only the producer's side may assign them."""

    __slots__ = ("_cells", "_earliest_at", "_end_at", "partition")

    def __init__(self, page: _Page, index: int, partition: Partition) -> None:
        self.partition = partition
        self._cells = page.cells
        self._end_at = _ENDS + index
        self._earliest_at = _EARLIEST + index

    @property
    def end(self) -> int:
        return self._cells[self._end_at]

    @end.setter
    def end(self, offset: int) -> None:
        self._cells[self._end_at] = offset

    @property
    def earliest(self) -> int:
        return self._cells[self._earliest_at]

    @earliest.setter
    def earliest(self, offset: int) -> None:
        self._cells[self._earliest_at] = offset


class EndsWriter:
    """The producer's side. A successor finds the slots of its predecessor again. Makes a table that is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages: list[_Page] = [_attach_or_make(path)]
        self._slots: dict[Partition, EndsSlot] = {}
        while self._pages[-1].used == SLOTS and _page_path(path, len(self._pages)).exists():
            self._pages.append(_attach_or_make(_page_path(path, len(self._pages))))
        for page in self._pages:
            for index in range(page.used):
                self._remember(page, index)

    def slot(self, partition: Partition) -> EndsSlot | None:
        return self._slots.get(partition)

    def add(self, partition: Partition, end: int, earliest: int) -> EndsSlot:
        """A slot for a partition that has none. Raises NoSpace, OSError when another file is needed and cannot be."""
        if self._pages[-1].used == SLOTS:
            self._pages.append(_attach_or_make(_page_path(self._path, len(self._pages))))
        page = self._pages[-1]
        return self._remember(page, page.add(partition, end, earliest))

    def __len__(self) -> int:
        return len(self._slots)

    def close(self) -> None:
        for page in self._pages:
            page.close()
        self._pages.clear()
        self._slots.clear()

    def _remember(self, page: _Page, index: int) -> EndsSlot:
        partition = page.partition(index)
        slot = self._slots[partition] = EndsSlot(page, index, partition)
        return slot


def _attach_or_make(path: Path) -> _Page:
    try:
        return _Page(path, writable=True)
    except SegmentMissing:
        pass
    except LayoutMismatch:
        path.unlink()  # its maker, our predecessor, died before it had finished it: nobody could attach
    create_ends_table(path)
    return _Page(path, writable=True)


class _Seen(NamedTuple):
    """What a reader saw last of one page."""

    page: _Page
    slots: list[EndsSlot]
    ends: bytes


class EndsReader:
    """A consumer's side of one producer's table. A table that is not there yet is waited for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: list[_Seen] = []

    def changed(self) -> list[EndsSlot]:
        """Slots whose end moved since the last call, new ones among them. Costs a comparison of memory a page."""
        found: list[EndsSlot] = []
        self._attach()
        for number, seen in enumerate(self._seen):
            ends = seen.page.ends(seen.page.used)
            if ends != seen.ends:
                self._seen[number] = now = _Seen(seen.page, seen.slots, ends)
                found += _moved(now, seen.ends)
        return found

    def close(self) -> None:
        for seen in self._seen:
            seen.page.close()
        self._seen.clear()

    def _attach(self) -> None:
        """Maps the next file of the chain once the ones before it are full."""
        while not self._seen or self._seen[-1].page.used == SLOTS:
            try:
                page = _Page(_page_path(self._path, len(self._seen)), writable=False)
            except (SegmentMissing, LayoutMismatch):  # not there, or not finished
                return
            self._seen.append(_Seen(page, [], b""))


def _moved(now: _Seen, before: bytes) -> list[EndsSlot]:
    """The slots in which ``now`` differs from the ends ``before``, looked for a block at a time; and all new ones."""
    old_count, count = len(before) // CELL_BYTES, len(now.ends) // CELL_BYTES
    for index in range(len(now.slots), count):
        now.slots.append(EndsSlot(now.page, index, now.page.partition(index)))
    found = []
    for start in range(0, old_count, BLOCK_SLOTS):
        block = slice(start * CELL_BYTES, min(start + BLOCK_SLOTS, old_count) * CELL_BYTES)
        if now.ends[block] != before[block]:
            cells = zip(array("Q", now.ends[block]), array("Q", before[block]), strict=True)
            found += [now.slots[start + at] for at, (new, old) in enumerate(cells) if new != old]
    return found + now.slots[old_count:]
