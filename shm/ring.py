"""The ring: one process publishes records, one takes them, and either may die at any instruction.

Positions are byte counts that only grow; ``layout`` draws them::

    commit <= read <= publish <= commit + capacity

A record counts from the moment ``publish`` has passed it, and is kept until ``commit`` has. A successor of the writer
starts at ``publish`` (what its predecessor had not published never was); a successor of the reader starts at
``commit`` (what its predecessor had taken but not committed is taken again, at the same positions). Every
cell has one writer, so nothing here needs an atomic instruction.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from trackside.shm.fence import full_fence, publish_fence, require_ordering
from trackside.shm.layout import (
    PAD_KIND,
    RECORD_ALIGN_BYTES,
    RECORD_CRC_OFFSET,
    RECORD_FIELDS,
    RECORD_HEADER_BYTES,
    RING_CAPACITY_BYTES_MIN,
    RING_DATA_OFFSET,
    RingCell,
    RingOption,
    SegmentKind,
    StaticPage,
)
from trackside.shm.segment import Segment, round_to_pages

__all__ = ["RingCorrupt", "RingReader", "RingRecord", "RingView", "RingWriter", "create_ring", "ring_bytes"]

PUBLISH = int(RingCell.PUBLISH)
COMMIT_WANTED = int(RingCell.COMMIT_WANTED)
RECORDS = int(RingCell.RECORDS)
PACKETS = int(RingCell.PACKETS)
BYTES = int(RingCell.BYTES)
PADS = int(RingCell.PADS)
FULL = int(RingCell.FULL)
COMMIT = int(RingCell.COMMIT)
READ = int(RingCell.READ)
SUSPECT = int(RingCell.SUSPECT)

_U32 = 0xFFFFFFFF
_ALIGN = -RECORD_ALIGN_BYTES
_ROUND = RECORD_HEADER_BYTES + RECORD_ALIGN_BYTES - 1  # (body + _ROUND) & _ALIGN: bytes of the record in the ring
_CRC_WORD = RECORD_CRC_OFFSET >> 2

_pack_fields = RECORD_FIELDS.pack
_unpack_fields = RECORD_FIELDS.unpack


class RingRecord(NamedTuple):
    """One record as it was published. ``end`` is what ``commit`` is told when it is done with."""

    position: int
    end: int
    kind: int
    count: int  # type: ignore[assignment] # packets, and it hides tuple.count, which nobody calls on a record
    stamp_ns: int
    body: bytes


class RingCorrupt(Exception):
    """What lies in the ring is not what its writer published. The ring is *suspect*: nothing more is taken from it."""

    def __init__(self, ring_id: str, position: int, reason: str) -> None:
        super().__init__(f"ring {ring_id}: damaged at position {position}: {reason}")
        self.ring_id = ring_id
        self.position = position
        self.reason = reason


class RingMemory(Protocol):
    """What a ring needs of a Segment; a test gives it a memory that keeps a journal of the stores."""

    memory: Any
    cells: Any
    words: Any

    def check(self, kind: SegmentKind) -> StaticPage: ...

    def close(self) -> None: ...


def ring_bytes(capacity_bytes: int) -> int:
    """What a ring of this capacity takes of the tmpfs."""
    return round_to_pages(RING_DATA_OFFSET + capacity_bytes)


def create_ring(
    path: str | os.PathLike[str], *, capacity_bytes: int, ring_id: str, body_crc: bool | None = None
) -> None:
    """Makes an empty ring; the supervisor calls it, before either end is started.

    ``capacity_bytes`` is a power of two. ``body_crc`` adds a CRC over each body (a third of the speed at 8 KiB, three quarters at
    1 MiB); not said: only where stores are not ordered by the machine.
    Raises SegmentExists, NoSpace, ValueError.
    """
    if capacity_bytes < RING_CAPACITY_BYTES_MIN or capacity_bytes & (capacity_bytes - 1):
        raise ValueError(
            f"ring capacity: {capacity_bytes} bytes, must be a power of two, at least {RING_CAPACITY_BYTES_MIN}"
        )
    if body_crc is None:
        body_crc = publish_fence is not None
    options = RingOption.BODY_CRC if body_crc else RingOption.NONE
    segment = Segment.create(path, ring_bytes(capacity_bytes))
    try:
        segment.seal(SegmentKind.RING, extent=capacity_bytes, options=options, name=ring_id)
    finally:
        segment.close()


class _Broken(Exception):
    """Why the bytes at a position are no record; becomes a RingCorrupt with the ring's name on it."""


class _Ring:
    """What both ends and onlookers share: the memory, and taking a record apart without trusting a bit of it."""

    def __init__(self, segment: RingMemory) -> None:
        page = segment.check(SegmentKind.RING)
        self._segment = segment
        self._memory = segment.memory
        self._cells = segment.cells
        self._words = segment.words
        self._mask = page.extent - 1
        self._body_crc = bool(page.options & RingOption.BODY_CRC)
        self.ring_id = page.name
        self.capacity_bytes = page.extent
        self.record_bytes_max = page.extent // 2 - RECORD_HEADER_BYTES
        """The largest body: whatever the position, it fits an empty ring together with the PAD before it."""

    def walk(self, start: int, end: int) -> Iterator[RingRecord]:
        """The records from position ``start`` to position ``end``, moving nothing; both as some RingRecord or cell says.

        For accounting and tools. Raises ValueError for positions that are not in the ring, RingCorrupt at the
        first record that does not hold (each time: nothing is marked).
        """
        publish = self._cells[PUBLISH]
        if start % RECORD_ALIGN_BYTES or not publish - self.capacity_bytes <= start <= end <= publish:
            raise ValueError(f"ring {self.ring_id}: no records from {start} to {end}, published is {publish}")
        position = start
        while position < end:
            try:
                record = self._record_at(position, end)
            except _Broken as broken:
                raise RingCorrupt(self.ring_id, position, str(broken)) from None
            position = record.end
            if record.kind != PAD_KIND:
                yield record

    def close(self) -> None:
        """Unmaps. The ring itself stays; a successor attaches again."""
        self._segment.close()

    def _record_at(self, position: int, limit: int) -> RingRecord:
        """The record or PAD at ``position``, which must end at or below ``limit``. Raises _Broken.

        Reads inside the data only, whatever the bytes say: the header lies inside because positions are aligned, the
        body because its length is checked against the end of the data.
        """
        offset = position & self._mask
        start = RING_DATA_OFFSET + offset
        memory = self._memory
        fields = memory[start : start + RECORD_CRC_OFFSET]
        stamp, length, count, kind, _, body_crc, stamp_ns = _unpack_fields(fields)
        if stamp != position:
            raise _Broken(f"its position stamp is {stamp}")
        if crc32(fields, position & _U32) != self._words[(start >> 2) + _CRC_WORD]:
            raise _Broken("its header does not match its CRC")
        end = position + ((length + _ROUND) & _ALIGN)
        if end > limit or offset + end - position > self.capacity_bytes:
            raise _Broken(f"its length is {length}, which passes the end")
        if kind == PAD_KIND:
            return RingRecord(position, end, kind, 0, stamp_ns, b"")
        body = memory[start + RECORD_HEADER_BYTES : start + RECORD_HEADER_BYTES + length]
        if self._body_crc and crc32(body, position & _U32) != body_crc:
            raise _Broken("its body does not match its CRC")
        return RingRecord(position, end, kind, count, stamp_ns, body)

    def _check_positions(self, commit: int, read: int, publish: int) -> None:
        """The invariant above all: raises _Broken when the three cells cannot be true."""
        if not commit <= read <= publish <= commit + self.capacity_bytes:
            raise _Broken(f"commit {commit}, read {read}, publish {publish} at capacity {self.capacity_bytes}")
        if (commit | read | publish) % RECORD_ALIGN_BYTES:
            raise _Broken(f"commit {commit}, read {read}, publish {publish} are not all multiples of 64")


class RingWriter(_Ring):
    """The publishing end; one process has one, and no other has it at the same time (the supervisor sees to it).

    Starts at ``publish``. Never blocks. Not for two threads at once.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        segment: RingMemory | None = None,
    ) -> None:
        """Raises SegmentMissing, LayoutMismatch, RingCorrupt, UnsupportedMachine. ``segment`` stands in for ``path``."""
        require_ordering()
        super().__init__(segment or Segment.attach(path))
        cells = self._cells
        self._clock = clock
        self._publish: int = cells[PUBLISH]
        self._commit: int = cells[COMMIT]  # as last seen; the true one is never lower
        self._records: int = cells[RECORDS]
        self._packets: int = cells[PACKETS]
        self._bytes: int = cells[BYTES]
        self._stamp = 0
        self._refresh_commit()
        cells[COMMIT_WANTED] = 0

    @property
    def publish_position(self) -> int:
        return self._publish

    @property
    def commit_position(self) -> int:
        """Loads the reader's cell."""
        return self._refresh_commit()

    @property
    def stamp_of_last(self) -> int:
        """Publish time of the last records published by this object, 0 before the first."""
        return self._stamp

    def free_bytes(self) -> int:
        """What is free now, headers, alignment and PAD not yet counted."""
        return self.capacity_bytes - (self._publish - self._refresh_commit())

    def fits(self, sizes: Iterable[int]) -> bool:
        """Whether ``try_publish`` of bodies of these sizes would find room now; exact."""
        end = self._end_of(sizes)
        return end - self._commit <= self.capacity_bytes or end - self._refresh_commit() <= self.capacity_bytes

    def commit_needed(self, sizes: Iterable[int]) -> int:
        """The commit position at which bodies of these sizes fit: what to hand to ``wait_for_commit``."""
        return max(0, self._end_of(sizes) - self.capacity_bytes)

    def try_publish(self, records: Sequence[tuple[int, int, bytes]]) -> int | None:
        """Publishes (kind, count, body) of each, all or nothing, visible by one cursor store; never waits.

        Returns the new publish position, which is the end of the last record; None when there is no room now.
        Raises ValueError when there never will be: a body over ``record_bytes_max``, or a sequence that would not fit
        an empty ring (up to half the capacity, headers and alignment counted, always does).
        """
        mask = self._mask
        capacity = self.capacity_bytes
        position = end = self._publish
        for _, _, body in records:
            size = (len(body) + _ROUND) & _ALIGN
            offset = end & mask
            if offset + size > capacity:
                end += capacity - offset
            end += size
        if end - self._commit > capacity or end - position > capacity >> 1:
            self._refuse_impossible(records)
            if end - self._refresh_commit() > capacity:
                self._cells[FULL] += 1
                return None
        # The stamp is taken when nothing can delay the cursor store any more, so that stamps of several rings, compared
        # below publish positions read earlier, order their records (nothing is awaited from here to that store).
        self._stamp = stamp = self._clock()
        for kind, count, body in records:
            offset = position & mask
            size = (len(body) + _ROUND) & _ALIGN
            if offset + size > capacity:
                position = self._write_pad(position, stamp)
            self._write_record(position, kind, count, body, stamp)
            self._packets += count
            self._bytes += len(body)
            position += size
        self._records += len(records)
        self._publish_up_to(end)
        return end

    def _write_record(self, position: int, kind: int, count: int, body: bytes, stamp: int) -> None:
        """Stores above ``publish``: no reader looks there, in whatever order the bytes arrive."""
        start = RING_DATA_OFFSET + (position & self._mask)
        memory = self._memory
        body_crc = crc32(body, position & _U32) if self._body_crc else 0
        fields = _pack_fields(position, len(body), count, kind, 0, body_crc, stamp)
        memory[start : start + RECORD_CRC_OFFSET] = fields
        self._words[(start >> 2) + _CRC_WORD] = crc32(fields, position & _U32)
        start += RECORD_HEADER_BYTES
        memory[start : start + len(body)] = body

    def _write_pad(self, position: int, stamp: int) -> int:
        """Fills the data up to its end; returns the position behind, the next lap's first."""
        room = self.capacity_bytes - (position & self._mask)
        start = RING_DATA_OFFSET + (position & self._mask)
        fields = _pack_fields(position, room - RECORD_HEADER_BYTES, 0, PAD_KIND, 0, 0, stamp)
        self._memory[start : start + RECORD_CRC_OFFSET] = fields
        self._words[(start >> 2) + _CRC_WORD] = crc32(fields, position & _U32)
        self._cells[PADS] += 1
        return position + room

    def _publish_up_to(self, end: int) -> None:
        cells = self._cells
        if publish_fence is not None:
            publish_fence()
        # Publishes every record below ``end``. A reader cannot see it early: x86-64 makes stores visible in program
        # order, and where that does not hold the fence above keeps header and body before it.
        cells[PUBLISH] = self._publish = end
        cells[RECORDS] = self._records
        cells[PACKETS] = self._packets
        cells[BYTES] = self._bytes

    def wait_for_commit(self, position: int) -> None:
        """Asks the reader to ring when ``commit`` reaches ``position``; 0 takes it back. Does not block.

        Look at ``commit_position`` again afterwards, before sleeping: the reader may just have passed it unasked.
        """
        # Publishes the wish. The fence keeps the caller's next load of ``commit`` behind it: either that load sees the
        # reader's commit, or the reader, which fences between its commit and its look at this cell, sees the wish.
        self._cells[COMMIT_WANTED] = position
        full_fence()

    def statistics(self) -> dict[str, int]:
        """What was published through this ring since it was made, by this process and those before it."""
        return _statistics(self._cells)

    def _end_of(self, sizes: Iterable[int]) -> int:
        """The publish position after bodies of these sizes, the PAD counted that this position needs."""
        end = self._publish
        for length in sizes:
            size = (length + _ROUND) & _ALIGN
            offset = end & self._mask
            if offset + size > self.capacity_bytes:
                end += self.capacity_bytes - offset
            end += size
        return end

    def _refresh_commit(self) -> int:
        """Loads ``commit``. Raises RingCorrupt rather than write over what might not be committed."""
        commit: int = self._cells[COMMIT]
        try:
            self._check_positions(commit, commit, self._publish)
        except _Broken as broken:
            raise RingCorrupt(self.ring_id, commit, str(broken)) from None
        self._commit = commit
        return commit

    def _refuse_impossible(self, records: Sequence[tuple[int, int, bytes]]) -> None:
        """Raises ValueError for what does not fit even when the ring is empty, wherever it stands."""
        sizes = [(len(body) + _ROUND) & _ALIGN for _, _, body in records]
        largest = max(sizes)
        if largest - RECORD_HEADER_BYTES > self.record_bytes_max:
            length = max(len(body) for _, _, body in records)
            raise ValueError(f"ring {self.ring_id}: record of {length} bytes, at most {self.record_bytes_max}")
        # The worst PAD lies before the largest record and is one unit smaller than it.
        if sum(sizes) + largest - RECORD_ALIGN_BYTES > self.capacity_bytes:
            raise ValueError(
                f"ring {self.ring_id}: {len(sizes)} records at once take {sum(sizes)} bytes, too much for "
                f"a ring of {self.capacity_bytes}; up to half of it always fits"
            )


class RingReader(_Ring):
    """The taking end; one process has one, and no other has it at the same time (the supervisor sees to it).

    Starts at ``commit``. Never blocks. Not for two threads at once.
    """

    def __init__(self, path: str | os.PathLike[str], *, segment: RingMemory | None = None) -> None:
        """Raises SegmentMissing, LayoutMismatch, UnsupportedMachine; damage shows at the first ``poll``."""
        require_ordering()
        super().__init__(segment or Segment.attach(path))
        cells = self._cells
        self._commit: int = cells[COMMIT]
        self._read: int = self._commit
        self._told = 0
        self.suspect = False
        cells[READ] = self._read
        cells[SUSPECT] = 0

    @property
    def read_position(self) -> int:
        return self._read

    @property
    def commit_position(self) -> int:
        return self._commit

    def publish_position(self) -> int:
        """Loads the writer's cell. Everything below it can be taken."""
        publish: int = self._cells[PUBLISH]
        if publish_fence is not None:
            publish_fence()
        return publish

    def poll(self, until: int | None = None, bytes_max: int | None = None) -> list[RingRecord]:
        """Takes what is published, in order: up to position ``until``, and about ``bytes_max`` bytes (at least a record).

        Moves ``read``. [] means that there is nothing, or that the ring is suspect. Raises RingCorrupt once, when it
        comes to a record that does not hold; what stands before it was returned by the call before.
        """
        position = self._read
        publish = self.publish_position()
        if position == publish or self.suspect:
            return []
        limit = publish if until is None else min(until, publish)
        budget = self.capacity_bytes if bytes_max is None else bytes_max
        records: list[RingRecord] = []
        try:
            self._check_positions(self._commit, position, publish)
            while position < limit and budget > 0:
                record = self._record_at(position, publish)
                position = record.end
                if position > limit:
                    break
                if record.kind != PAD_KIND:
                    records.append(record)
                    budget -= len(record.body)
        except _Broken as broken:
            if not records:
                self._suspect(position, str(broken))
        if records:
            # For onlookers only: nothing is decided from this cell, a successor starts at commit.
            self._read = self._cells[READ] = records[-1].end
        return records

    def commit(self, position: int) -> bool:
        """Gives everything below ``position`` back to the writer: the side effects of those records are done.

        Returns True when the writer sleeps for it: ring its doorbell. Raises ValueError for a position
        that was not taken. A lower one than before changes nothing.
        """
        if position > self._read or position % RECORD_ALIGN_BYTES:
            raise ValueError(f"ring {self.ring_id}: commit to {position}, read is {self._read}")
        cells = self._cells
        if position > self._commit:
            # Publishes free room: the writer may overwrite below it at once. The bodies were copied out by poll, whose
            # loads are made before this store (a load never passes a later store on x86-64; else by the fence).
            if publish_fence is not None:
                publish_fence()
            cells[COMMIT] = self._commit = position
        # Against a writer that stores its wish, then loads commit: see wait_for_commit.
        full_fence()
        wanted: int = cells[COMMIT_WANTED]
        if wanted == 0 or wanted > position or wanted == self._told:
            return False
        self._told = wanted  # ring once a wish
        return True

    def _suspect(self, position: int, reason: str) -> None:
        self.suspect = True
        self._cells[SUSPECT] = position + 1 & 0xFFFFFFFFFFFFFFFF
        raise RingCorrupt(self.ring_id, position, reason)


class RingView(_Ring):
    """An onlooker (``top``, ``doctor``, recovery accounting): maps read-only, stores nothing, needs nobody alive."""

    def __init__(self, path: str | os.PathLike[str], *, segment: RingMemory | None = None) -> None:
        """Raises SegmentMissing, LayoutMismatch."""
        super().__init__(segment or Segment.attach(path, writable=False))
        self.path = Path(path)

    @property
    def publish_position(self) -> int:
        return int(self._cells[PUBLISH])

    @property
    def read_position(self) -> int:
        return int(self._cells[READ])

    @property
    def commit_position(self) -> int:
        return int(self._cells[COMMIT])

    @property
    def suspect_position(self) -> int | None:
        """Where the reader found a record that does not hold; None: nowhere."""
        cell = int(self._cells[SUSPECT])
        return cell - 1 if cell else None

    @property
    def used_bytes(self) -> int:
        commit = self.commit_position
        return max(0, self.publish_position - commit)

    def statistics(self) -> dict[str, int]:
        """As of RingWriter; off by the records of one call when the writer died in it."""
        return _statistics(self._cells)

    def uncommitted(self) -> list[RingRecord]:
        """The records that a successor of the reader would take, up to the first that does not hold. Never raises.

        While the ring is in use the writer may overwrite under the walk; then the list ends early.
        """
        commit = self.commit_position
        records: list[RingRecord] = []
        with contextlib.suppress(RingCorrupt, ValueError):
            records.extend(self.walk(commit, self.publish_position))  # keeps what came before an error
        return records

    def oldest_age_ns(self, now_ns: int | None = None) -> int:
        """How long the oldest uncommitted record has been waiting; 0 when there is none. CLOCK_MONOTONIC."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        commit = self.commit_position
        try:
            oldest = next(self.walk(commit, self.publish_position), None)
        except (RingCorrupt, ValueError):
            return 0
        return max(0, now_ns - oldest.stamp_ns) if oldest else 0


def _statistics(cells: Any) -> dict[str, int]:
    return {
        "records": int(cells[RECORDS]),
        "packets": int(cells[PACKETS]),
        "bytes": int(cells[BYTES]),
        "pads": int(cells[PADS]),
        "full": int(cells[FULL]),
    }
