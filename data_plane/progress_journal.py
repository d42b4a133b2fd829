"""How far consumer groups are in the local log: a journal for each consumer process.

::

    <data_dir>/groups/consumer-0.progress       frames, one after another, the newest last

    u32 length of the body | u32 CRC-32 of the body | body                                            little-endian
    body: MessagePack [group, identity of the log, [[topic, partition, offset, stamp], ...]]

A consumer appends to its own journal only, and reads all of them when it starts: with another number of consumers a
partition is another one's. Of two statements about one partition the higher stamp holds. Stamps count up from the highest
that was read, and a partition has one owner at a time, so the newer statement has the higher stamp without a clock.

Each frame is one ``write``: what was kept survives the death of the process, and within the sync interval the machine's.
A frame that was cut short is the torn tail; it is cut off by its journal's next owner.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from trackside.data_plane.data_dir import sync_directory
from trackside.data_plane.log import Partition, Progress
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["PAIRS_MAX", "JournalDamaged", "ProgressJournal", "whole_frames"]

PAIRS_MAX = 100_000
"""Groups times partitions: some 30 MB of memory. Beyond it the pair that was not committed for longest is forgotten."""

REWRITE_BYTES = 1 << 20
"""A journal up to this size is not worth being rewritten; a larger one is when it has grown to four times its last."""

ROWS_A_FRAME = 1000
SUFFIX = ".progress"

_HEADER = struct.Struct("<II")
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Row = tuple[Annotated[str, msgspec.Meta(min_length=1)], _Number, _Number, _Number]  # topic, partition, offset, stamp


class JournalDamaged(OSError):
    """A frame whose checksum holds and whose body is none: not a torn tail, so nothing is cut. The file stays for a human
    to look at; moved away, its groups begin anew."""


class _Body(msgspec.Struct, array_like=True, frozen=True):
    group: str
    identity: bytes
    rows: list[_Row]


class _Kept(NamedTuple):
    progress: Progress
    stamp: int
    own: bool  # in this process's own journal


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


class ProgressJournal:
    """The journals of all consumers as one table, of which this process writes its own part. Not thread-safe.

    Nothing is read before the first look; :meth:`find` and :meth:`keep` raise OSError when it cannot be (JournalDamaged
    where a frame is none), or when the journal cannot be written, and may be called again.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        sync_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / f"{name}{SUFFIX}"
        self._sync_seconds = sync_seconds
        self._monotonic = monotonic
        self._kept: dict[tuple[str, Partition], _Kept] = {}  # the newest last
        self._stamp = 0
        self._file = -1
        self._bytes = 0
        self._rewrite_at = REWRITE_BYTES
        self._loaded = False
        self._unsynced = False
        self._sync_at = 0.0
        self._syncing: threading.Thread | None = None
        self.sync_failures = 0

    def find(self, group: str, partition: Partition) -> Progress | None:
        """What was kept last."""
        self._load()
        kept = self._kept.get((group, partition))
        return None if kept is None else kept.progress

    def keep(self, group: str, progress: Mapping[Partition, Progress]) -> None:
        """Returns when the kernel has it, or raises OSError; then what was kept before still holds."""
        self._load()
        by_identity: dict[bytes, list[_Row]] = {}
        for stamp, (partition, (identity, offset)) in enumerate(progress.items(), start=self._stamp + 1):
            by_identity.setdefault(identity, []).append((*partition, offset, stamp))
        self._append(b"".join(_frame(group, identity, rows) for identity, rows in by_identity.items()))
        for partition, reached in progress.items():
            self._stamp += 1
            self._set(group, partition, _Kept(reached, self._stamp, own=True))
        self._forget_excess()
        if self._bytes >= self._rewrite_at:
            self._rewrite()

    def do_work(self) -> None:
        """Put what was kept on the device, when it is time. The device is waited for by a thread."""
        if not self._unsynced or self._monotonic() < self._sync_at or (self._syncing and self._syncing.is_alive()):
            return
        self._unsynced = False
        self._sync_at = self._monotonic() + self._sync_seconds
        self._syncing = threading.Thread(target=self._sync, args=(os.dup(self._file),), name="log-groups", daemon=True)
        self._syncing.start()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __len__(self) -> int:
        return len(self._kept)

    # -- the table ----------------------------------------------------------------------------------------------------

    def _set(self, group: str, partition: Partition, kept: _Kept) -> None:
        self._kept.pop((group, partition), None)
        self._kept[group, partition] = kept

    def _forget_excess(self) -> None:
        while len(self._kept) > PAIRS_MAX:
            del self._kept[next(iter(self._kept))]

    def _load(self) -> None:
        if self._loaded:
            return
        found: dict[tuple[str, Partition], _Kept] = {}
        for path in sorted(self.path.parent.glob(f"*{SUFFIX}")):
            whole_bytes = 0
            for body, whole_bytes in whole_frames(path.read_bytes(), str(path)):  # noqa: B007 - the last one is used
                for topic, number, offset, stamp in body.rows:
                    pair, row = (body.group, Partition(topic, number)), Progress(body.identity, offset)
                    if pair not in found or found[pair].stamp < stamp:
                        found[pair] = _Kept(row, stamp, own=path == self.path)
            if path == self.path:
                self._bytes = whole_bytes
                self._open()
        self._kept = dict(sorted(found.items(), key=lambda item: item[1].stamp))
        self._stamp = max((kept.stamp for kept in found.values()), default=0)
        self._forget_excess()
        self._loaded = True

    # -- the own journal ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Go on behind the last whole frame."""
        self.close()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        os.ftruncate(self._file, self._bytes)

    def _append(self, frames: bytes) -> None:
        if self._file < 0:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._open()
        try:
            written = os.write(self._file, frames)
            if written < len(frames):
                raise OSError(errno.ENOSPC, f"no room for another {len(frames)} bytes", str(self.path))
        except OSError:
            os.ftruncate(self._file, self._bytes)  # half a frame must not hide those that will follow
            raise
        self._bytes += len(frames)
        self._unsynced = True

    def _rewrite(self) -> None:
        """Replace the journal by what holds of it. Blocks on the device; a journal that cannot be replaced goes on."""
        rows: dict[tuple[str, bytes], list[_Row]] = {}
        for (group, partition), kept in self._kept.items():
            if kept.own:
                row = *partition, kept.progress.offset, kept.stamp
                rows.setdefault((group, kept.progress.identity), []).append(row)
        frames = b"".join(_frame(group, identity, some) for (group, identity), some in rows.items())
        aside = self.path.with_name(self.path.name + ".new")
        try:
            with open(aside, "wb", opener=lambda path, flags: os.open(path, flags, 0o640)) as file:
                file.write(frames)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
            self._bytes = len(frames)
            self._open()
            sync_directory(self.path.parent)
        except OSError:
            self._rewrite_at = 2 * self._bytes  # another try then
            return
        self._rewrite_at = max(REWRITE_BYTES, 4 * len(frames))

    def _sync(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError:
            self.sync_failures += 1
        finally:
            os.close(file)


def _frame(group: str, identity: bytes, rows: list[_Row]) -> bytes:
    frames = []
    for first in range(0, len(rows), ROWS_A_FRAME):
        body = _encoder.encode(_Body(group, identity, rows[first : first + ROWS_A_FRAME]))
        frames.append(_HEADER.pack(len(body), zlib.crc32(body)) + body)
    return b"".join(frames)


def whole_frames(journal: bytes, name: str = "") -> Iterator[tuple[_Body, int]]:
    """Each whole frame from the beginning and where it ends; nothing behind the first that is not. ``name`` is for
    messages. Raises JournalDamaged."""
    start = 0
    while start + _HEADER.size <= len(journal):
        length, checksum = _HEADER.unpack_from(journal, start)
        end = start + _HEADER.size + length
        body = journal[start + _HEADER.size : end]
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            decoded = _decoder.decode(body)
        except UNDECODABLE as error:
            what = f"the frame at {start} holds and says nothing that can be meant ({error}); move the file away"
            raise JournalDamaged(errno.EBADMSG, what, name) from None
        yield decoded, end
        start = end
