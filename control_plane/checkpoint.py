"""What a fold has taken, kept on disk for the next process: so it can answer while the log is away.

::

    <data_dir>/checkpoints/<name>     one frame with the state, then one for each run of entries since

    written before any answer that stands on it, so a successor knows all that this process has said

The log wins: a checkpoint says of which log it is and up to which offset, its last entry is read again there, and another
log, or a shorter one, makes an end of it. Deleting checkpoints changes nothing but what can be answered without the log.
A process that cannot write one goes on without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from trackside.control_plane.frame_file import FrameFile
from trackside.control_plane.log_port import LoggedEntry
from trackside.data_plane.log import Partition
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["Checkpoint", "Checkpoints", "Dumps", "Restored"]

log = logging.getLogger(__name__)

VERSION = 1
"""Of the frames and of the states in them; a checkpoint of another version is none."""

SLACK_BYTES = 1 << 20
"""The state is written anew when the entries since have more bytes than it has, and this."""


class Dumps(Protocol):
    """A fold whose state can be kept."""

    def dump(self) -> bytes:
        """All that :meth:`apply` and every question depend on. The fold's class has a ``load`` that takes it."""


F = TypeVar("F", bound=Dumps)


class _State(msgspec.Struct, array_like=True):
    version: int
    place: str
    partition: Partition
    log: bytes
    next_offset: int
    complete: bool
    state: bytes


class _Since(msgspec.Struct, array_like=True):
    next_offset: int
    complete: bool
    entries: list[LoggedEntry]


class Restored(NamedTuple, Generic[F]):
    """``log`` names the log, ``complete`` says that the fold had once come to its end."""

    fold: F
    entries: list[LoggedEntry]
    log: bytes
    next_offset: int
    complete: bool


class Checkpoint(Generic[F]):
    """The checkpoint of one fold. ``place`` says in words which log it is, for when the log itself cannot say."""

    def __init__(self, path: Path, place: str, partition: Partition, load: Callable[[bytes], F]) -> None:
        self._file = FrameFile(path)
        self._path = path
        self._place = place
        self._partition = partition
        self._load = load
        self._state_bytes = 0
        self._written = False  # there is a file, and it is this log's

    def restore(self) -> Restored[F] | None:
        """The state when it was last written, and the entries since; None when there is none of this log."""
        try:
            return self._restore()
        except (*UNDECODABLE, DecodeError, OSError, ValueError) as damaged:
            log.warning("%s is not used: %s", self._path, damaged)
            return None

    def _restore(self) -> Restored[F] | None:
        frames = self._file.read()
        if not frames:
            return None
        found = msgspec.msgpack.decode(frames[0], type=_State)
        if (found.version, found.place, found.partition) != (VERSION, self._place, self._partition):
            return None
        since = [msgspec.msgpack.decode(frame, type=_Since) for frame in frames[1:]]
        self._state_bytes, self._written = len(frames[0]), True
        last = since[-1] if since else found
        entries = [entry for run in since for entry in run.entries]
        return Restored(self._load(found.state), entries, found.log, last.next_offset, last.complete)

    def note(self, fold: F, log_: bytes, next_offset: int, entries: Sequence[LoggedEntry], complete: bool) -> None:
        """``entries`` were applied to ``fold``, which has come to ``next_offset``. Blocks for a write, not for a sync."""
        try:
            if not self._written or self._file.size_bytes > 2 * self._state_bytes + SLACK_BYTES:
                self._write_state(fold, log_, next_offset, complete)
            else:
                self._file.append(msgspec.msgpack.encode(_Since(next_offset, complete, list(entries))))
        except OSError as error:
            log.warning(
                "%s: %s; without it nothing is answered after a restart until the log is there", self._path, error
            )
            self.remove()

    def _write_state(self, fold: F, log_: bytes, next_offset: int, complete: bool) -> None:
        state = _State(VERSION, self._place, self._partition, log_, next_offset, complete, fold.dump())
        frame = msgspec.msgpack.encode(state)
        self._file.replace([frame])
        self._state_bytes, self._written = len(frame), True

    def remove(self) -> None:
        """What was written no longer holds. The next note writes the whole state."""
        self._written = False
        try:
            self._file.remove()
        except OSError as error:
            log.warning("%s cannot be removed: %s", self._path, error)


class Checkpoints:
    """Where checkpoints are kept, and the log that they must be of, in words: ``broker`` and the topic's name."""

    def __init__(self, data_dir: str, broker: str) -> None:
        self._folder = Path(data_dir) / "checkpoints"
        self._broker = broker

    @property
    def broker(self) -> str:
        return self._broker

    def path(self, name: str) -> Path:
        return self._folder / name

    def of(self, name: str, partition: Partition, load: Callable[[bytes], F]) -> Checkpoint[F]:
        return Checkpoint(self.path(name), self._broker, partition, load)
