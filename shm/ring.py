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
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from trackside.shm.fence import full_fence, publish_fence, require_ordering
from trackside.shm.layout import (
    PAD_KIND,
    RECORD_ALIGN_BYTES,
    RECORD_CRC_OFFSET,
    RECORD_HEADER_BYTES,
    RECORD_STRUCT,
    RING_CAPACITY_BYTES_MIN,
    RING_DATA_OFFSET,
    RingCell,
    RingOption,
    SegmentKind,
    StaticPage,
)
from trackside.shm.segment import Segment, round_to_pages

__all__ = [
    "RingCorrupt",
    "RingMemory",
    "RingReader",
    "RingRecord",
    "RingView",
    "RingWriter",
    "create_ring",
    "ring_bytes",
]

# As plain numbers: an enum member would cost a look-up at each use.
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
_U64 = 0xFFFFFFFFFFFFFFFF
_ROUND = RECORD_HEADER_BYTES + RECORD_ALIGN_BYTES - 1
_ALIGN = -RECORD_ALIGN_BYTES  # (body + _ROUND) & _ALIGN: what a body takes of the ring, header and alignment counted
_CRC_WORD = RECORD_CRC_OFFSET // 4

_pack_fields = RECORD_STRUCT.pack
_unpack_fields = RECORD_STRUCT.unpack


class RingRecord(NamedTuple):
    """One record as it was published. ``end`` is what ``commit`` is told when it is done with."""

    position: int
    end: int
    kind: int
    count: int  # type: ignore[assignment] # packets; it hides tuple.count, which nobody calls on a record
    stamp_ns: int
    body: bytes


# The generated constructor of a named tuple takes 150 ns longer, a tenth of what a record costs in poll.
_new_record: Callable[[type[RingRecord], tuple[int, int, int, int, int, bytes]], RingRecord] = tuple.__new__


class RingCorrupt(Exception):
    """What lies in the ring is not what its writer published. The ring is *suspect*: nothing more is taken from it."""

    def __init__(self, ring_id: str, position: int, reason: str) -> None:
        super().__init__(f"ring {ring_id}: damaged at position {position}: {reason}")
        self.ring_id = ring_id
        self.position = position
        self.reason = reason


class RingMemory(Protocol):
    """What a ring needs of a Segment; a test hands in a memory that keeps a journal of the stores."""

    memory: Any  # bytes by slices
    cells: Any  # u64 by index
    words: Any  # u32 by index

    def check(self, kind: SegmentKind) -> StaticPage: ...

    def close(self) -> None: ...


def ring_bytes(capacity_bytes: int) -> int:
    """What a ring of this capacity takes of the tmpfs."""
    return round_to_pages(RING_DATA_OFFSET + capacity_bytes)


def create_ring(
    path: str | os.PathLike[str], *, capacity_bytes: int, ring_id: str, body_crc: bool | None = None
) -> None:
    """Makes an empty ring; the supervisor calls it, before either end is started.

    ``capacity_bytes`` is a power of two. ``body_crc`` adds a CRC over each body (a third of the speed at 8 KiB a
    record, three quarters at 1 MiB); when nothing is said, only where the machine does not order stores by itself.
    Raises SegmentExists, NoSpace, ValueError.
    """
    if capacity_bytes < RING_CAPACITY_BYTES_MIN or capacity_bytes & (capacity_bytes - 1):
        raise ValueError(f"ring capacity {capacity_bytes}: not a power of two, or below {RING_CAPACITY_BYTES_MIN}")
    if body_crc is None:
        body_crc = publish_fence is not None
    options = RingOption.BODY_CRC if body_crc else RingOption.NONE
    Segment.make(path, StaticPage(SegmentKind.RING, ring_bytes(capacity_bytes), capacity_bytes, options, ring_id))


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
        # Whatever the position, a body of this size fits an empty ring together with the PAD that it may need.
        self.record_bytes_max = page.extent // 2 - RECORD_HEADER_BYTES

    def walk(self, start: int, end: int) -> Iterator[RingRecord]:
        """The records from position ``start`` to ``end``, moving nothing; both are a cell's value or a record's edge.

        For accounting and tools. Raises ValueError for positions that are not in the ring; the iterator raises
        RingCorrupt at the first record that does not hold (each time: nothing is marked).
        """
        publish = self._cells[PUBLISH]
        if start % RECORD_ALIGN_BYTES or not publish - self.capacity_bytes <= start <= end <= publish:
            raise ValueError(f"ring {self.ring_id}: no records from {start} to {end}, publish is {publish}")
        return self._walk(start, end)

    def close(self) -> None:
        """Unmaps; the ring itself stays. Using this object afterwards raises ValueError."""
        self._segment.close()

    def _walk(self, position: int, end: int) -> Iterator[RingRecord]:
        while position < end:
            try:
                record = self._record_at(position, end)
            except _Broken as broken:
                raise RingCorrupt(self.ring_id, position, str(broken)) from None
            position = record.end
            if record.kind != PAD_KIND:
                yield record

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
        size = (length + _ROUND) & _ALIGN
        end = position + size
        if end > limit or offset + size > self.capacity_bytes:
            raise _Broken(f"its length of {length} bytes passes what is published")
        if kind == PAD_KIND:
            return _new_record(RingRecord, (position, end, kind, 0, stamp_ns, b""))
        start += RECORD_HEADER_BYTES
        body = memory[start : start + length]
        if self._body_crc and crc32(body, position & _U32) != body_crc:
            raise _Broken("its body does not match its CRC")
        return _new_record(RingRecord, (position, end, kind, count, stamp_ns, body))

    def _check_positions(self, commit: int, read: int, publish: int) -> None:
        """The invariant at the top of this file. Raises _Broken when the three cells cannot all be true."""
        if not commit <= read <= publish <= commit + self.capacity_bytes:
            raise _Broken(f"commit {commit}, read {read}, publish {publish}, capacity {self.capacity_bytes}")
        if (commit | read | publish) & (RECORD_ALIGN_BYTES - 1):
            raise _Broken(f"commit {commit}, read {read}, publish {publish}: not all multiples of {RECORD_ALIGN_BYTES}")


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
        """Raises SegmentMissing, LayoutMismatch, RingCorrupt, UnsupportedMachine.

        ``segment`` stands in for what ``path`` names. ``clock`` gives the publish stamps.
        """
        require_ordering()
        super().__init__(segment or Segment.attach(path))
        cells = self._cells
        self._clock = clock
        self._stamp = 0
        self._publish: int = cells[PUBLISH]
        self._records: int = cells[RECORDS]
        self._packets: int = cells[PACKETS]
        self._bytes: int = cells[BYTES]
        self._commit = 0  # the reader's cell as last seen: the true one is the same or higher
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
        """Publish time of what this object published last, 0 before the first."""
        return self._stamp

    def free_bytes(self) -> int:
        """What is free now; headers, alignment and PAD are still to come off. ``fits`` is exact."""
        return self.capacity_bytes - (self._publish - self._refresh_commit())

    def fits(self, sizes: Iterable[int]) -> bool:
        """Whether ``try_publish`` of bodies of these sizes at once would find room now."""
        return self._has_room(self._end_of(sizes))

    def commit_needed(self, sizes: Iterable[int]) -> int:
        """The commit position at which bodies of these sizes fit: what to hand to ``wait_for_commit``."""
        return max(0, self._end_of(sizes) - self.capacity_bytes)

    def try_publish(self, records: Sequence[tuple[int, int, bytes]]) -> int | None:
        """Publishes (kind, count, body) of each record, all or none, visible by one cursor store; never waits.

        Returns the new publish position, which is the end of the last record; None when there is no room now. Raises
        ValueError when there never will be: a body over ``record_bytes_max``, or a sequence that an empty ring
        might not take (up to half the capacity, headers and alignment counted, it always does), or kind PAD_KIND.
        Raises RingCorrupt when the cells contradict each other.
        """
        end = self._end_of([len(body) for _, _, body in records])
        if end - self._publish > self.capacity_bytes >> 1:
            self._refuse_impossible(records)
        if not self._has_room(end):
            self._cells[FULL] += 1
            return None
        # Taken when nothing can delay the cursor store any more (no waiting, nothing awaited): who merges several rings by
        # stamp knows that a stamp older than one it has seen published is published itself, or about to be.
        self._stamp = self._clock()
        self._write(records)
        self._publish_to(end, records)
        return end

    def wait_for_commit(self, position: int) -> None:
        """Asks the reader to ring when ``commit`` reaches ``position``; 0 takes it back. Does not block.

        Look at ``commit_position`` again afterwards, before sleeping: the reader may just have passed it unasked.
        """
        # Publishes the wish. The fence keeps the caller's next load of ``commit`` behind it: either that load sees the
        # reader's commit, or the reader, which fences between its commit and its look at this cell, sees the wish.
        self._cells[COMMIT_WANTED] = position
        full_fence()

    def statistics(self) -> dict[str, int]:
        """What went through this ring since it was made, whoever published it; see RingView.statistics."""
        return _statistics(self._cells)

    def _end_of(self, sizes: Iterable[int]) -> int:
        """The publish position after bodies of these sizes, with the PAD that they need from where the ring stands."""
        mask = self._mask
        capacity = self.capacity_bytes
        end = self._publish
        for length in sizes:
            size = (length + _ROUND) & _ALIGN
            offset = end & mask
            if offset + size > capacity:
                end += capacity - offset
            end += size
        return end

    def _has_room(self, end: int) -> bool:
        """The reader's cell is loaded only when what was seen of it last is not enough."""
        capacity = self.capacity_bytes
        return end - self._commit <= capacity or end - self._refresh_commit() <= capacity

    def _refresh_commit(self) -> int:
        """Loads ``commit``. Raises RingCorrupt rather than write over what might not be committed."""
        commit: int = self._cells[COMMIT]
        try:
            self._check_positions(commit, commit, self._publish)
        except _Broken as broken:
            raise RingCorrupt(self.ring_id, commit, str(broken)) from None
        self._commit = commit
        return commit

    def _write(self, records: Sequence[tuple[int, int, bytes]]) -> None:
        """Stores above ``publish`` only: no reader looks there, so the order of these stores does not matter."""
        position = self._publish
        capacity = self.capacity_bytes
        for kind, count, body in records:
            if kind == PAD_KIND:
                raise ValueError(f"record kind {PAD_KIND} is the ring's own")
            offset = position & self._mask
            size = (len(body) + _ROUND) & _ALIGN
            if offset + size > capacity:
                position += self._write_pad(position, capacity - offset)
            body_crc = crc32(body, position & _U32) if self._body_crc else 0
            start = self._write_header(position, len(body), count, kind, body_crc) + RECORD_HEADER_BYTES
            self._memory[start : start + len(body)] = body
            position += size

    def _write_pad(self, position: int, room: int) -> int:
        self._write_header(position, room - RECORD_HEADER_BYTES, 0, PAD_KIND, 0)
        self._cells[PADS] += 1
        return room

    def _write_header(self, position: int, length: int, count: int, kind: int, body_crc: int) -> int:
        """Returns where in the segment the header starts."""
        start = RING_DATA_OFFSET + (position & self._mask)
        fields = _pack_fields(position, length, count, kind, 0, body_crc, self._stamp)
        self._memory[start : start + RECORD_CRC_OFFSET] = fields
        self._words[(start >> 2) + _CRC_WORD] = crc32(fields, position & _U32)
        return start

    def _publish_to(self, end: int, records: Sequence[tuple[int, int, bytes]]) -> None:
        cells = self._cells
        if publish_fence is not None:
            publish_fence()
        # Publishes every record below ``end``. A reader cannot see it early: x86-64 makes stores visible in program
        # order (memcpy of large bodies, which goes around the caches, fences behind itself), and on machines where
        # that does not hold the fence above keeps headers and bodies before it.
        cells[PUBLISH] = self._publish = end
        # For onlookers; a writer that dies before these three leaves them a call behind, and nothing else.
        self._records += len(records)
        for _, count, body in records:
            self._packets += count
            self._bytes += len(body)
        cells[RECORDS] = self._records
        cells[PACKETS] = self._packets
        cells[BYTES] = self._bytes

    def _refuse_impossible(self, records: Sequence[tuple[int, int, bytes]]) -> None:
        """Raises ValueError for what an empty ring might not take; the same answer at every position."""
        sizes = [(len(body) + _ROUND) & _ALIGN for _, _, body in records]
        largest = max(len(body) for _, _, body in records)
        if largest > self.record_bytes_max:
            raise ValueError(f"ring {self.ring_id}: record of {largest} bytes, at most {self.record_bytes_max}")
        # The largest PAD is the one before the largest record, one unit smaller than that.
        if sum(sizes) + max(sizes) - RECORD_ALIGN_BYTES > self.capacity_bytes:
            raise ValueError(
                f"ring {self.ring_id}: {len(sizes)} records at once take {sum(sizes)} bytes of "
                f"{self.capacity_bytes}; up to half always fits"
            )


class RingReader(_Ring):
    """The taking end; one process has one, and no other has it at the same time (the supervisor sees to it).

    Starts at ``commit``. Never blocks. Not for two threads at once.
    """

    def __init__(self, path: str | os.PathLike[str], *, segment: RingMemory | None = None) -> None:
        """Raises SegmentMissing, LayoutMismatch, UnsupportedMachine; damage shows at the first ``poll``.

        ``segment`` stands in for what ``path`` names.
        """
        require_ordering()
        super().__init__(segment or Segment.attach(path))
        cells = self._cells
        self._commit: int = cells[COMMIT]
        self._read: int = self._commit
        self._wish_answered = 0
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
        """Loads the writer's cell; everything below it can be taken."""
        publish: int = self._cells[PUBLISH]
        if publish_fence is not None:
            publish_fence()  # what is loaded next is loaded after the cursor; x86-64 keeps loads in order by itself
        return publish

    def poll(self, until: int | None = None, bytes_max: int | None = None) -> list[RingRecord]:
        """Takes what is published, in order: what ends at or below ``until``, and not much more than ``bytes_max``.

        Moves ``read``. The record that reaches ``bytes_max`` (of the ring: headers count) is the last, and always taken.
        [] when there is nothing, or when the ring is suspect. Raises RingCorrupt once, when the next record
        does not hold (what stood before it was returned by the call before); commits are still taken then.
        """
        publish = self.publish_position()
        if publish == self._read or self.suspect:
            return []
        records: list[RingRecord] = []
        try:
            self._check_positions(self._commit, self._read, publish)
            self._take(records, publish, publish if until is None else until, bytes_max)
        except _Broken as broken:
            if not records:
                raise self._now_suspect(str(broken)) from None
        if records:
            # For onlookers: nothing is decided from this cell, a successor starts at commit.
            self._cells[READ] = self._read = records[-1].end
        return records

    def commit(self, position: int) -> bool:
        """Gives everything below ``position`` back to the writer: the side effects of those records are done.

        ``position`` is the end of a record that was taken; a lower one than before changes nothing. Returns True when the
        writer asked for it: ring its doorbell. Raises ValueError for what was not taken.
        """
        if position > self._read or position & (RECORD_ALIGN_BYTES - 1):
            raise ValueError(f"ring {self.ring_id}: commit to {position}, read is {self._read}")
        cells = self._cells
        if position > self._commit:
            if publish_fence is not None:
                publish_fence()
            # Publishes room: from now on the writer may overwrite what lies below. ``poll`` copied it out, with loads that
            # come before this store: x86-64 never moves a load behind a later store, elsewhere the fence is between.
            cells[COMMIT] = self._commit = position
        # Between our commit and the look at the wish, against a writer that stores its wish, then loads commit.
        full_fence()
        wish: int = cells[COMMIT_WANTED]
        if wish == 0 or wish > self._commit or wish == self._wish_answered:
            return False
        self._wish_answered = wish  # one wish, one ring
        return True

    def _take(self, records: list[RingRecord], publish: int, until: int, bytes_max: int | None) -> None:
        """Fills ``records``; each step moves on by at least a header, towards ``publish``. Raises _Broken."""
        position = self._read
        enough = publish if bytes_max is None else position + bytes_max
        while position < publish:
            record = self._record_at(position, publish)
            position = record.end
            if position > until:
                return
            if record.kind != PAD_KIND:
                records.append(record)
                if position >= enough:
                    return

    def _now_suspect(self, reason: str) -> RingCorrupt:
        self.suspect = True
        self._cells[SUSPECT] = (self._read + 1) & _U64  # one on, so that 0 can mean nowhere
        return RingCorrupt(self.ring_id, self._read, reason)


class RingView(_Ring):
    """An onlooker (``top``, ``doctor``, recovery accounting): maps read-only, stores nothing, needs nobody alive."""

    def __init__(self, path: str | os.PathLike[str], *, segment: RingMemory | None = None) -> None:
        """Raises SegmentMissing, LayoutMismatch."""
        super().__init__(segment or Segment.attach(path, writable=False))

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
        """From where the reader could not go on; None when it could."""
        cell = int(self._cells[SUSPECT])
        return cell - 1 if cell else None

    @property
    def used_bytes(self) -> int:
        """From ``commit`` to ``publish``."""
        commit = self.commit_position  # the lower one first: in between both may only grow
        return max(0, self.publish_position - commit)

    def used_parts(self) -> list[tuple[int, int]]:
        """Where in the file is what its readers' successor needs, as (begin, end): all before the data, and the records
        from ``commit`` to ``publish``."""
        begin, size = self.commit_position & self._mask, self.used_bytes
        first = min(size, self.capacity_bytes - begin)
        data = [(begin, begin + first), (0, size - first)]
        return [(0, RING_DATA_OFFSET), *((RING_DATA_OFFSET + a, RING_DATA_OFFSET + b) for a, b in data if a < b)]

    def statistics(self) -> dict[str, int]:
        """Since the ring was made: records, packets (sum of their counts), bytes (of bodies), pads, full (refusals).

        A writer that was killed in ``try_publish`` may have left them one call behind.
        """
        return _statistics(self._cells)

    def uncommitted(self) -> list[RingRecord]:
        """What a successor of the reader would take, up to the first record that does not hold. Never raises.

        While the ring is in use the writer may overwrite what is being looked at; then the list ends there.
        """
        commit = self.commit_position
        records: list[RingRecord] = []
        with contextlib.suppress(RingCorrupt, ValueError):
            records.extend(self.walk(commit, self.publish_position))  # keeps what came before an error
        return records

    def oldest_age_ns(self, now_ns: int | None = None) -> int:
        """For how long the oldest uncommitted record has been waiting, CLOCK_MONOTONIC; 0 when there is none."""
        commit = self.commit_position
        with contextlib.suppress(RingCorrupt, ValueError):
            for oldest in self.walk(commit, self.publish_position):
                return max(0, (time.monotonic_ns() if now_ns is None else now_ns) - oldest.stamp_ns)
        return 0


def _statistics(cells: Any) -> dict[str, int]:
    return {
        "records": int(cells[RECORDS]),
        "packets": int(cells[PACKETS]),
        "bytes": int(cells[BYTES]),
        "pads": int(cells[PADS]),
        "full": int(cells[FULL]),
    }
