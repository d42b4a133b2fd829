"""Where packets end that no log takes: one line of JSON each, on disk before anybody is told.

::

    <data_dir>/dead-letters/refused.jsonl
    {"time":"...","topic":"...","partition":0,"reason":"...","key":"<base64>","value":"<base64>", ...}

All processes of a server append to the same file, one at a time.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from trackside.data_plane.log import Partition

__all__ = ["DeadLetter", "DeadLetterFile"]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused packet: where it should have gone, why it did not, and all that is needed to send it again.

    ``ring``, ``end`` and ``packet`` say where it came from (see ``Refusal``); ``other`` is the other destination of
    an essential packet, which may well have its copy. Bytes are base64 in the file.
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

    @property
    def place(self) -> Partition:
        return Partition(self.topic, self.partition)


def now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class DeadLetterFile:
    """Append-only; a line that a crash cut short is ended before the next is written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "refused.jsonl"

    def append(self, letter: DeadLetter) -> None:
        """Returns when the device has it. Raises OSError when it cannot be written."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            line = msgspec.json.encode(letter) + b"\n"
            _write_all(descriptor, line if self._ends_whole(descriptor) else b"\n" + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _ends_whole(descriptor: int) -> bool:
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
