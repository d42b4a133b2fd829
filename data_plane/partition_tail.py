"""The producer's half of one partition of the local log: its last segment, to which it appends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple

from trackside.data_plane.batch_draft import Draft
from trackside.data_plane.data_dir import segment_path, sync_directory
from trackside.data_plane.device_sync import Unsynced
from trackside.data_plane.ends_table import EndsSlot, EndsWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.log_recovery import OFFSET_GAP, OnDisk, RecoveredPartition, recover
from trackside.data_plane.open_files import OpenFiles
from trackside.data_plane.segments import (
    SegmentHead,
    encode_batch,
    encode_segment_head,
    read_segment_head,
)

__all__ = ["UNSYNCED_ENTRIES_MAX", "PartitionTail", "TailPolicy"]

UNSYNCED_ENTRIES_MAX = OFFSET_GAP // 4
"""With more than this unsynced a partition is synced out of turn: a reboot must not lose more than the gap covers. As many
again may be in a round that is under way."""


class TailPolicy(NamedTuple):
    """What all partitions of a producer have in common. ``keep_ring`` says whose positions a new segment repeats,
    ``is_forwarded`` whether everything below an offset is on Kafka, too, which retention then waits for. ``forwarded``
    are the partitions of which Kafka may have something, as the forwarder's file on the device remembers them."""

    boot: bytes
    segment_bytes: int
    retention_bytes: int
    retention_ns: int
    sync_each: bool
    keep_ring: Callable[[str], bool]
    is_forwarded: Callable[[Partition, int], bool] | None = None
    forwarded: Container[Partition] = frozenset()


class PartitionTail:
    """Appends batches to one partition. One owner; a failed append leaves everything as it was before it.

    ``next_offset`` is what the next entry gets; ``rings`` how far each source ring is in the log here. Readers see an
    append only after ``publish``.
    """

    def __init__(self, place: OnDisk, policy: TailPolicy, files: OpenFiles, table: EndsWriter) -> None:
        """Recovers what is on disk and publishes where that ends. Raises OSError, NoSpace."""
        slot = table.slot(place.partition)
        published_end = slot.end if slot is not None else 0
        was_forwarded = place.partition in policy.forwarded
        found = recover(place, policy.boot, published_end, was_forwarded=was_forwarded)
        self.recovered: RecoveredPartition = found
        self.next_offset = found.next_offset
        self.rings = found.rings
        self.segments_expired = 0
        self.segments_made = 0
        self.unsynced_entries = 0
        self.retention_held = False
        self._place = place
        self._policy = policy
        self._files = files
        self._seed = place.seed
        self._bases = found.bases
        self._path = str(segment_path(place.folder, found.bases[-1])) if found.bases else ""  # of the last segment
        self._size = found.size
        self._roll_first = found.roll
        self._newest_ns = found.newest_ns
        self._unsynced: dict[str, None] = {}
        self._unsynced_folders: dict[Path, None] = {}
        self._sizes = [_size_of(segment_path(place.folder, base)) for base in self._bases[:-1]]
        self._second_began_ns: int | None = None  # when the oldest segment but one began, once that was looked up
        # Published before the first append: a reader that finds no slot may scan the folder, because nobody writes.
        self._slot: EndsSlot = slot or table.add(place.partition, self.next_offset, self.earliest)
        self.publish()

    @property
    def topic(self) -> str:
        return self._place.partition.topic

    @property
    def earliest(self) -> int:
        return self._bases[0] if self._bases else self.next_offset

    # --- appending

    def append(self, draft: Draft, time_ns: int) -> int:
        """One batch, in the page cache when this returns, or on the device with Sync=Each. Returns its bytes.

        Raises OSError, having taken back what it had written.
        """
        buffers = self._encode(draft, time_ns)
        size = len(buffers[0]) + len(buffers[1])
        if self._must_roll(size):
            self._roll(time_ns)
        self._write(buffers)
        self._size += size
        self.next_offset += len(draft.values)
        self.rings.update(draft.rings)
        self._newest_ns = max(self._newest_ns, time_ns)
        self.unsynced_entries += len(draft.values)
        return size

    def publish(self) -> None:
        """Lets readers see what was appended."""
        self._slot.earliest = self.earliest
        self._slot.end = self.next_offset

    def _encode(self, draft: Draft, time_ns: int) -> tuple[bytes, bytes]:
        return encode_batch(
            self._seed,
            self.next_offset,
            time_ns,
            draft.values,
            draft.lengths,
            list(draft.keys),
            draft.key_index,
            draft.rings,
        )

    def _write(self, buffers: tuple[bytes, bytes]) -> None:
        fd = self._files.fd(self._path)
        self._unsynced[self._path] = None
        try:
            _write_whole(fd, buffers, self._size)
            if self._policy.sync_each:
                self.sync()
        except OSError:
            with contextlib.suppress(OSError):  # what stays behind the end is no batch, and is overwritten next time
                os.ftruncate(fd, self._size)
            raise

    # --- segments

    def _must_roll(self, batch_bytes: int) -> bool:
        full = self._size + batch_bytes > self._policy.segment_bytes
        return self._roll_first or (full and self.next_offset > self._bases[-1])

    def _roll(self, time_ns: int) -> None:
        """Begins a new segment, whose head repeats the positions of the rings that still matter."""
        self.rings = {ring: end for ring, end in self.rings.items() if self._policy.keep_ring(ring)}
        partition = self._place.partition
        head = encode_segment_head(
            SegmentHead(
                self._place.identity,
                self._policy.boot,
                partition.topic,
                partition.number,
                self.next_offset,
                time_ns,
                self.rings,
            )
        )
        path = segment_path(self._place.folder, self.next_offset)
        self._make_file(path, head)
        if self._bases:
            self._sizes.append(self._size)
        self._bases.append(self.next_offset)
        self._path, self._size, self._roll_first = str(path), len(head), False
        self.segments_made += 1

    def _make_file(self, path: Path, head: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = self._files.create(str(path))
        try:
            _write_whole(fd, (head, b""), 0)
        except OSError:
            self._files.drop(str(path))
            path.unlink()
            raise
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            self._unsynced_folders[folder] = None

    # --- syncing

    @property
    def unsynced(self) -> bool:
        return bool(self._unsynced)

    def sync(self) -> None:
        """Puts everything appended on the device; blocks on it. Raises OSError: then it still counts as unsynced."""
        for path in list(self._unsynced):
            os.fdatasync(self._files.fd(path))
            del self._unsynced[path]
        for folder in list(self._unsynced_folders):
            sync_directory(folder)
            del self._unsynced_folders[folder]
        self.unsynced_entries = 0

    def take_unsynced(self) -> Unsynced:
        """What is not on the device; counts as synced from now on, unless it is put back."""
        taken = Unsynced(list(self._unsynced), list(self._unsynced_folders), self.unsynced_entries)
        self._unsynced.clear()
        self._unsynced_folders.clear()
        self.unsynced_entries = 0
        return taken

    def put_back(self, failed: Unsynced) -> None:
        self._unsynced.update(dict.fromkeys(failed.files))
        self._unsynced_folders.update(dict.fromkeys(failed.folders))
        self.unsynced_entries += failed.entries

    # --- retention

    def expire(self) -> int:
        """Deletes the oldest segments as size and age allow, never the last one. Returns how many.

        Age is the distance to the newest entry, so a log that nobody writes to stays. The age of a segment is that of
        its newest entry at most: it was over when the next one began. What is not forwarded yet stays, up to the disk's
        end: ``retention_held`` says so.
        """
        count = 0
        self.retention_held = False
        while len(self._bases) > 1 and (self._too_large() or self._too_old()):
            if not self._is_forwarded(self._bases[1]):
                self.retention_held = True
                break
            self._delete_oldest()
            count += 1
        self.segments_expired += count
        return count

    def _is_forwarded(self, offset: int) -> bool:
        is_forwarded = self._policy.is_forwarded
        return is_forwarded is None or is_forwarded(self._place.partition, offset)

    def _too_large(self) -> bool:
        limit = self._policy.retention_bytes
        return limit > 0 and sum(self._sizes) + self._size > limit

    def _too_old(self) -> bool:
        if self._policy.retention_ns <= 0:
            return False
        if self._second_began_ns is None:
            self._second_began_ns = self._began_ns(self._bases[1])
        return self._newest_ns - self._second_began_ns > self._policy.retention_ns

    def _began_ns(self, base_offset: int) -> int:
        found = read_segment_head(self._files.fd(str(segment_path(self._place.folder, base_offset))))
        return found[0].time_ns if found is not None else self._newest_ns

    def _delete_oldest(self) -> None:
        path = segment_path(self._place.folder, self._bases[0])
        self._slot.earliest = self._bases[1]  # first: who still asks for what goes is sent on
        self._files.drop(str(path))
        for gone in (path, *path.parent.glob(path.name + ".damaged-*")):
            gone.unlink(missing_ok=True)
        self._unsynced.pop(str(path), None)
        del self._bases[0], self._sizes[0]
        self._second_began_ns = None


def _write_whole(fd: int, buffers: tuple[bytes, bytes], position: int) -> None:
    """One ``writev``; what a full disk cut short is tried once more, so that the error says why."""
    written = os.pwritev(fd, buffers, position)
    size = len(buffers[0]) + len(buffers[1])
    if written == size:
        return
    rest = memoryview(b"".join(buffers))
    while written < size:
        more = os.pwrite(fd, rest[written:], position + written)
        if more == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
