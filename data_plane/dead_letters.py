"""Where packets end that no log takes: one line of JSON each, on disk before anybody is told.

::

    <data_dir>/dead-letters/refused.jsonl
    {"time":"...","topic":"...","partition":0,"reason":"...","key":"<base64>","value":"<base64>", ...}

All processes of a server append to the same file, one at a time. It has a bound: what no longer fits is the one kind of
packet that is given up, counted and said.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from trackside.data_plane.log import Partition
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["FILE_BYTES_MAX", "DeadLetter", "DeadLetterFile", "DeadLettersFull", "Found", "letter_id", "now_text"]

FILE_BYTES_MAX = 256 << 20
"""Of the file: whoever has that many dead letters has a fault that more of them would not explain better."""


class DeadLettersFull(Exception):
    """The file has reached its bound. Its text says what to do."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused packet: where it should have gone, why it did not, and all that is needed to send it again.

    ``ring``, ``end`` and ``packet`` say where it came from (see ``Refusal``); ``other`` is the other destination of
    an essential packet, which may well have its copy; ``essentials`` is the topic of a copy that was not made, either.
    ``quarantined``: it was not refused, its record ended the process that had it. Bytes are base64 in the file.
    Without ``topic`` nobody knows where the value belongs.
    """

    time: str
    topic: str
    partition: int
    reason: str
    key: bytes
    value: bytes
    identity: bytes = b""
    ring: str = ""
    end: int = 0
    packet: int = 0
    other: str = ""
    essentials: str = ""
    quarantined: bool = False

    @property
    def place(self) -> Partition:
        return Partition(self.topic, self.partition)


class Found(msgspec.Struct, frozen=True):
    """A letter where it lies. ``where`` is ``file`` or the place in the topic, ``TOPIC:PARTITION:OFFSET``."""

    id: str
    where: str
    letter: DeadLetter


_decoder = msgspec.json.Decoder(DeadLetter)


def now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def letter_id(what: bytes) -> str:
    """The name of a letter, from bytes that are its alone: its line, or its place in a topic."""
    return hashlib.sha256(what).hexdigest()[:12]


class DeadLetterFile:
    """Append-only but for :meth:`keep`; a line that a crash cut short is ended before the next is written."""

    def __init__(self, folder: Path, bytes_max: int = FILE_BYTES_MAX) -> None:
        self.path = folder / "refused.jsonl"
        self._bytes_max = bytes_max

    def append(self, letters: Sequence[DeadLetter]) -> None:
        """All of them or none; returns when the device has them. Raises DeadLettersFull, and OSError when the file
        cannot be written."""
        lines = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor:
            size = os.fstat(descriptor).st_size
            if size + len(lines) >= self._bytes_max:
                raise DeadLettersFull(
                    f"{self.path} has {size} of {self._bytes_max} bytes: send its letters again, or move it away"
                )
            try:
                _write_all(descriptor, lines if _ends_whole(descriptor, size) else b"\n" + lines)
            except OSError:
                os.ftruncate(descriptor, size)  # half a letter would be in the way of the next try
                raise
            os.fsync(descriptor)

    def letters(self) -> Iterator[Found]:
        """What is there now, oldest first. Lines that are none, cut short by a crash, are left out. Raises OSError."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below; only its absence is no error
        except FileNotFoundError:
            return
        with file:
            left = os.fstat(file.fileno()).st_size  # what comes meanwhile is for the next time
            while left > 0 and (line := file.readline()):
                left -= len(line)
                with contextlib.suppress(*UNDECODABLE):
                    yield Found(letter_id(line.strip()), "file", _decoder.decode(line))

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Take out every letter whose id is not ``wanted``. Raises OSError; then the file is as it was."""
        if not self.path.exists():
            return
        with self._locked(os.O_RDONLY):
            aside = self.path.with_name(self.path.name + ".new")
            with open(aside, "wb", opener=_private) as file, open(self.path, "rb") as before:
                file.writelines(line for line in before if wanted(letter_id(line.strip())))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)

    @contextlib.contextmanager
    def _locked(self, flags: int) -> Iterator[int]:
        """The file, alone. It may have been replaced while its lock was waited for: then it is another file."""
        while True:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, self.path):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ends_whole(descriptor: int, size: int) -> bool:
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
