"""A file of frames, one write each: what a killed process wrote is there, and a half written end is cut.

::

    u32 length of the body | u32 CRC-32 of the body | body        all little-endian, one after another

Nothing is forced to the device: these files are for the next process, and after a power cut the log is read again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["FrameFile"]

_HEADER = struct.Struct("<II")


class FrameFile:
    """One process at a time. The file is made by the first :meth:`replace`. Raises OSError where it writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = 0

    def read(self) -> list[bytes]:
        """The bodies of all whole frames; what follows them is cut off. None when there is no such file."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return []
        bodies = list(_bodies(content))
        self.size_bytes = sum(_HEADER.size + len(body) for body in bodies)
        if self.size_bytes < len(content):
            os.truncate(self._path, self.size_bytes)
        return bodies

    def append(self, body: bytes) -> None:
        frame = _frame(body)
        with open(self._path, "ab", buffering=0) as file:
            written = file.write(frame)
        if written != len(frame):
            raise OSError(f"{self._path}: {written} of {len(frame)} bytes written")
        self.size_bytes += len(frame)

    def replace(self, bodies: Iterable[bytes]) -> None:
        """Have these frames instead of all that are there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = b"".join(map(_frame, bodies))
        aside = self._path.with_name(self._path.name + ".new")
        aside.write_bytes(content)
        os.replace(aside, self._path)
        self.size_bytes = len(content)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self.size_bytes = 0


def _frame(body: bytes) -> bytes:
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def _bodies(content: bytes) -> Iterator[bytes]:
    start = 0
    while start + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, start)
        body = content[start + _HEADER.size : start + _HEADER.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        yield body
        start += _HEADER.size + length
