"""The file of a park: packets of blocked topics, copied out of the rings so that ``commit`` can go on.

::

    <instance>/parks/<producer>.park, recovery.park
        +0    magic            8 bytes, "TSPARK" and the number of this format
        +8    entries, one behind the other:
              +0   length      u32  of the body, bytes
              +4   crc         u32  over the body
              +8   body        MessagePack: a ParkEntry

An entry with a record is what the topics named in it had not got of that record when it was copied. An entry without one
says that the log has everything that stands before it of the topics named in it. Entries are only appended; now and then
those that still matter are written to a new file, which takes the old one's place in one step.

A process that dies while it appends leaves a torn entry at the end, which nobody was told of: it is cut. An entry that is
whole and does not hold is damage, and raises.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from trackside.data_plane.data_dir import sync_directory
from trackside.data_plane.record import Record
from trackside.data_plane.undecodable import UNDECODABLE
from trackside.shm.segment import free_bytes

__all__ = [
    "RECOVERY_PARK",
    "ROOM_KEPT_BYTES",
    "ParkDamaged",
    "ParkEntry",
    "ParkFile",
    "Placed",
    "live",
    "park_files",
    "parked_bytes",
    "read_park",
    "rings_in_parks",
]

MAGIC = b"TSPARK\x00\x01"
_HEAD = struct.Struct("<II")

RECOVERY_PARK = "recovery.park"

ROOM_KEPT_BYTES = 1 << 20
"""A park leaves this much of the run directory's file system to what else is written there."""


class ParkDamaged(Exception):
    """The file is not what a park left; the text says where. It stays for a human to look at."""


class ParkEntry(msgspec.Struct, array_like=True, frozen=True):
    """``record`` ended at ``end`` of ``ring`` and was published at ``stamp_ns``; packets that are bound for none of
    ``topics`` are empty in it. None: the log has all of ``topics`` that stands before."""

    topics: list[str]
    ring: str = ""
    end: int = 0
    stamp_ns: int = 0
    record: Record | None = None


class Placed(NamedTuple):
    """Where an entry lies in the file, its head counted."""

    position: int
    size: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ParkEntry)


class ParkFile:
    """The appending end: a producer's, or a recovery's that owns a dead producer's. Never blocks on a device.

    ``bytes_max`` bounds the file. Nothing is made before the first append.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Cuts a torn end. Raises ParkDamaged, OSError."""
        self.path = path
        self.size = 0
        self._bytes_max = bytes_max
        self._fd = -1
        self._found: list[tuple[Placed, ParkEntry]] = []
        self._unsynced = False
        with contextlib.suppress(FileNotFoundError):
            self._open_existing()

    def _open_existing(self) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._fd = fd
        self._found, self.size = _scan(self.path, os.pread(fd, os.fstat(fd).st_size, 0))
        if self.size:
            os.ftruncate(fd, self.size)
        else:
            self._abandon()

    def take_found(self) -> list[tuple[Placed, ParkEntry]]:
        """What was there when the file was opened, in its order; once."""
        found, self._found = self._found, []
        return found

    def bytes_limit(self) -> int:
        """How large the file may get now: its bound, or less where the file system has little room."""
        folder = self.path.parent if self.path.parent.exists() else self.path.parent.parent
        return min(self._bytes_max, self.size + max(0, free_bytes(folder) - ROOM_KEPT_BYTES))

    def append(self, entry: ParkEntry) -> Placed | None:
        """In the file when this returns, safe from the death of every process; None: no room, nothing was changed."""
        body = _encoder.encode(entry)
        size = _HEAD.size + len(body)
        # What ends an entry's life is let in beyond the bound: it is small, and makes room.
        if entry.record is not None and max(self.size, len(MAGIC)) + size > self.bytes_limit():
            return None
        try:
            fd = self._opened()
            _write_all(fd, _HEAD.pack(len(body), crc32(body)) + body, self.size)
        except OSError:
            if self._fd >= 0:
                os.ftruncate(self._fd, self.size)
            return None
        placed = Placed(self.size, size)
        self.size += size
        self._unsynced = True
        return placed

    def sync(self) -> None:
        """Onto the device what was appended: for a park that lies on one. Raises OSError."""
        if self._unsynced:
            os.fdatasync(self._fd)
            sync_directory(self.path.parent)
            self._unsynced = False

    def keep_only(self, entries: Iterable[Placed]) -> list[Placed] | None:
        """Replace the file by one with just these entries, in one step. Returns where they are now; None: it could not
        be done, nothing was changed."""
        entries = list(entries)
        if self._fd < 0 or not entries:
            return self._clear()
        aside = self.path.with_suffix(".new")
        try:
            fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        placed: list[Placed] = []
        size = len(MAGIC)
        try:
            _write_all(fd, MAGIC, 0)
            for entry in entries:
                _write_all(fd, os.pread(self._fd, entry.size, entry.position), size)
                placed.append(Placed(size, entry.size))
                size += entry.size
            os.rename(aside, self.path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                aside.unlink()
            return None
        os.close(self._fd)
        self._fd, self.size = fd, size
        return placed

    def _clear(self) -> list[Placed]:
        """In place, so that it needs no room."""
        if self._fd >= 0:
            os.ftruncate(self._fd, len(MAGIC))
            self.size = len(MAGIC)
        return []

    def _opened(self) -> int:
        if self._fd < 0:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(self._fd, MAGIC, 0)
            except OSError:
                self._abandon()
                raise
            self.size = len(MAGIC)
        return self._fd

    def _abandon(self) -> None:
        """A file without its magic holds nothing, and must not get anything: the next append begins a new one."""
        self.close()
        self.path.unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written


def _scan(path: Path, data: bytes) -> tuple[list[tuple[Placed, ParkEntry]], int]:
    """Entries and where they end; what is torn behind that is left out. Raises ParkDamaged."""
    if len(data) < len(MAGIC):
        return [], 0
    if data[: len(MAGIC)] != MAGIC:
        raise ParkDamaged(f"{path}: no park of this version; start the version that made it once, to empty it")
    found: list[tuple[Placed, ParkEntry]] = []
    position = len(MAGIC)
    while position + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, position)
        end = position + _HEAD.size + length
        if end > len(data) or not length:  # nothing: what a device has of an end that it was cut off from
            break
        body = data[position + _HEAD.size : end]
        if crc32(body) != crc:
            raise ParkDamaged(f"{path}: the entry at {position} does not hold")
        try:
            entry = _decoder.decode(body)
        except UNDECODABLE as error:
            raise ParkDamaged(f"{path}: no entry at {position}: {error}") from None
        if entry.record is not None and not _agrees_with_itself(entry.record):
            raise ParkDamaged(f"{path}: the record of the entry at {position} contradicts itself")
        found.append((Placed(position, end - position), entry))
        position = end
    return found, position


def _agrees_with_itself(record: Record) -> bool:
    """Whether each packet has a route; counts may be missing as a whole."""
    routes = len(record.routes)
    counted = len(record.counts) == len(record.sizes) and len(record.counts) in (0, routes)
    return counted and len(record.indexes) == len(record.packets) and all(0 <= row < routes for row in record.indexes)


def live(found: Iterable[tuple[Placed, ParkEntry]]) -> list[tuple[Placed, ParkEntry, frozenset[str]]]:
    """Entries that the log does not have yet, with those of their topics for which it does not, in order."""
    kept: list[tuple[Placed, ParkEntry, frozenset[str]]] = []
    done: set[str] = set()
    for placed, entry in reversed(list(found)):
        if entry.record is None:
            done.update(entry.topics)
        elif topics := frozenset(entry.topics) - done:
            kept.append((placed, entry, topics))
    return kept[::-1]


def park_files(instance: Path, producer: str = "*") -> list[Path]:
    """The parks of an instance's producers, or of one of them. Behind them all, what a recovery has copied out of the
    rings that they left."""
    found = (instance / "parks").glob(f"{producer}.park")
    return sorted(found, key=lambda path: (path.name == RECOVERY_PARK, path.name))


def rings_in_parks(instance: Path) -> set[str]:
    """Whose packets lie in an instance's parks; not always its own. Raises ParkDamaged, OSError."""
    return {entry.ring for path in park_files(instance) for entry, _ in read_park(path)}


def read_park(path: Path) -> Iterator[tuple[ParkEntry, frozenset[str]]]:
    """What the log does not have yet, changing nothing. Raises ParkDamaged, OSError."""
    found, _ = _scan(path, path.read_bytes())
    return ((entry, topics) for _, entry, topics in live(found))


def parked_bytes(instance: Path, producer: str = "*") -> int:
    """What an instance's parks hold, from outside; all of a damaged one counts."""
    total = 0
    for path in park_files(instance, producer):
        try:
            found, _ = _scan(path, path.read_bytes())
            total += sum(placed.size for placed, _, _ in live(found))
        except ParkDamaged:
            total += path.stat().st_size
    return total
