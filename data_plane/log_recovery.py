"""What is on disk of a partition, after whatever happened to the process or the machine that wrote it.

Only the last segment is scanned: the ones before it were complete when it was begun. What does not hold there is

- a *torn tail*: an unfinished batch with nothing valid behind it, from a process or a machine that died while it
  wrote. Nobody was told of it; it is cut off;
- *damage*: a bad batch with valid ones behind it, or a last batch that is complete and still does not hold. Its
  bytes are copied to ``<segment>.damaged-<offset>``, its offsets stay a hole that readers jump over.

**No offset is used twice.** What a crash of the process loses was never published. A machine that goes down loses what
it had not synced, though readers may have seen it: so the first append after another boot starts a new segment behind
a gap of at least OFFSET_GAP offsets, and a partition is synced before that many are unsynced. So does the first append
to a partition of which the machine has lost everything, where somebody remembers it: a segment's name, or the forwarder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trackside.data_plane.data_dir import segment_bases, segment_path
from trackside.data_plane.log import Partition
from trackside.data_plane.segments import (
    SEGMENT_HEAD_BYTES_MIN,
    SegmentHead,
    Step,
    Window,
    batch_seed,
    read_segment_head,
    walk,
)

__all__ = [
    "OFFSET_GAP",
    "OnDisk",
    "RecoveredPartition",
    "SegmentScan",
    "last_offset_on_disk",
    "recover",
    "scan_segment",
]

OFFSET_GAP = 1 << 24


class OnDisk(NamedTuple):
    """A partition's place: its folder, the identity of its log, and its name there."""

    folder: Path
    identity: bytes
    partition: Partition

    @property
    def seed(self) -> int:
        return batch_seed(self.identity, *self.partition)


@dataclass
class SegmentScan:
    """What one segment file holds. ``head`` is None when it does not hold or belongs elsewhere.

    ``end_position`` is behind the last batch that holds, ``next_offset`` its end (the base of the segment when
    there is none); ``damage`` what lies between valid batches, ``tail`` what lies behind the last one.
    """

    base_offset: int
    size: int
    head: SegmentHead | None
    rings: dict[str, int]
    next_offset: int
    end_position: int
    batches: int = 0
    newest_ns: int = 0
    damage: list[Step] = field(default_factory=list)
    damage_offsets: list[int] = field(default_factory=list)
    tail: Step | None = None


@dataclass
class RecoveredPartition:
    """Where a producer goes on. ``roll``: its next batch begins a new segment, whose base is ``next_offset``."""

    bases: list[int] = field(default_factory=list)
    size: int = 0
    next_offset: int = 0
    newest_ns: int = 0
    rings: dict[str, int] = field(default_factory=dict)
    roll: bool = True
    torn_tails: int = 0
    damaged: int = 0
    gaps: int = 0


# --- looking -------------------------------------------------------------------------------------------------------


def scan_segment(place: OnDisk, base_offset: int) -> SegmentScan:
    """Reads one segment file whole, changing nothing. Raises OSError, SegmentTooNew."""
    with _opened(segment_path(place.folder, base_offset)) as fd:
        size = os.fstat(fd).st_size
        head, position = _own_head(fd, place, base_offset)
        rings = dict(head.rings) if head is not None else {}
        scan = SegmentScan(base_offset, size, head, rings, base_offset, position)
        for step in walk(Window(fd, size), place.seed, position, base_offset):
            _note(scan, step)
    return scan


def last_offset_on_disk(place: OnDisk) -> int:
    """The end of a partition that no producer has opened yet: behind its last valid batch. Changes nothing.

    A producer that opens it starts there, or behind a gap; so what a reader is told here stays true.
    """
    for base in reversed(segment_bases(place.folder)):
        scan = scan_segment(place, base)
        if scan.head is not None or scan.batches:
            return scan.next_offset
    return 0


def _own_head(fd: int, place: OnDisk, base_offset: int) -> tuple[SegmentHead | None, int]:
    """The head and where the batches begin; (None, 0) for a head that is damaged or belongs elsewhere."""
    found = read_segment_head(fd)
    if found is None:
        return None, 0
    head = found[0]
    own = (head.identity, head.topic, head.partition, head.base_offset) == (
        place.identity,
        *place.partition,
        base_offset,
    )
    return found if own else (None, 0)


def _note(scan: SegmentScan, step: Step) -> None:
    if step.head is not None:
        scan.batches += 1
        scan.rings.update(step.rings)
        scan.next_offset, scan.end_position = step.head.next_offset, step.next_position
        scan.newest_ns = max(scan.newest_ns, step.head.time_ns)
    elif step.next_position < scan.size:
        scan.damage.append(step)
        scan.damage_offsets.append(scan.next_offset)
    else:
        scan.tail = step


# --- mending -------------------------------------------------------------------------------------------------------


def recover(place: OnDisk, boot: bytes, published_end: int, *, was_forwarded: bool = False) -> RecoveredPartition:
    """Makes a partition fit for appending again. Only the producer that owns it may call this.

    ``published_end`` is what readers were told last (0 when nobody knows): below it nothing is written again.
    ``was_forwarded``: the forwarder has known it, so Kafka may have what the disk has not.
    Raises OSError; called again it starts anew.
    """
    found = RecoveredPartition(bases=segment_bases(place.folder), next_offset=published_end)
    while found.bases:
        scan = scan_segment(place, found.bases[-1])
        if scan.head is not None or scan.batches:
            _adopt(found, place, scan, boot)
            break
        _discard(found, place, scan)
    else:
        if not published_end and (was_forwarded or found.torn_tails or found.damaged):
            _leave_gap(found)
    return found


def _leave_gap(found: RecoveredPartition) -> None:
    """Offsets that somebody may have seen behind what is on disk are nobody's any more."""
    found.next_offset = (found.next_offset // OFFSET_GAP + 2) * OFFSET_GAP
    found.roll = True
    found.gaps += 1


def _discard(found: RecoveredPartition, place: OnDisk, scan: SegmentScan) -> None:
    """Takes away a last segment in which nothing holds; its name still says which offsets were used below it."""
    path = segment_path(place.folder, scan.base_offset)
    if scan.size < SEGMENT_HEAD_BYTES_MIN:
        path.unlink()
        found.torn_tails += 1
    else:
        path.rename(_damaged_path(path, scan.base_offset))
        found.damaged += 1
    found.bases.pop()
    found.next_offset = max(found.next_offset, scan.base_offset)


def _adopt(found: RecoveredPartition, place: OnDisk, scan: SegmentScan, boot: bytes) -> None:
    """Goes on behind what ``scan`` found in the last segment that has something."""
    path = segment_path(place.folder, scan.base_offset)
    _keep_damage(found, path, scan)
    complete_but_bad = _cut_tail(found, path, scan)
    found.size, found.newest_ns = scan.end_position, scan.newest_ns
    found.rings = _earlier_rings(found, place, scan) | scan.rings
    found.roll = scan.head is None or found.next_offset > scan.next_offset
    found.next_offset = max(found.next_offset, scan.next_offset)
    if complete_but_bad or scan.head is None or scan.head.boot != boot:
        _leave_gap(found)


def _keep_damage(found: RecoveredPartition, path: Path, scan: SegmentScan) -> None:
    for step, offset in zip(scan.damage, scan.damage_offsets, strict=True):
        _copy_aside(path, step, offset)
        found.damaged += 1


def _cut_tail(found: RecoveredPartition, path: Path, scan: SegmentScan) -> bool:
    """Cuts what lies behind the last valid batch. True when it was a complete batch: readers may have seen it."""
    step = scan.tail
    if step is None:
        return False
    complete = step.offset_after > 0
    if complete:
        _copy_aside(path, step, scan.next_offset)
        found.damaged += 1
    else:
        found.torn_tails += 1
    os.truncate(path, scan.end_position)
    return complete


def _earlier_rings(found: RecoveredPartition, place: OnDisk, scan: SegmentScan) -> dict[str, int]:
    """The table of ring positions of the segment before, which is needed only when this one's head is lost."""
    if scan.head is not None or len(found.bases) < 2:
        return {}
    return scan_segment(place, found.bases[-2]).rings


def _copy_aside(path: Path, step: Step, offset: int) -> None:
    """Keeps damaged bytes for whoever wants to look; a second recovery finds them kept already."""
    aside = _damaged_path(path, offset)
    if aside.exists():
        return
    with _opened(path) as fd:
        data = os.pread(fd, step.next_position - step.position, step.position)
    draft = aside.with_name(aside.name + ".draft")
    draft.write_bytes(data)
    draft.rename(aside)


def _damaged_path(path: Path, offset: int) -> Path:
    return path.with_name(f"{path.name}.damaged-{offset}")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
