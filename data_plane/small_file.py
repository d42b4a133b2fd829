"""Files of an operator that are read whole and may change while the server runs: certificates, keys, tokens."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FileNotReadable", "WatchedFiles", "is_open_to_all", "read_small_file"]

FILE_BYTES_MAX = 1 << 20

SETTLED_SECONDS = 2.0
"""A file may change twice within one tick of its time stamp; one that is younger than this is read again."""


class FileNotReadable(Exception):
    """One line: which file, and why."""


def read_small_file(path: str) -> bytes:
    """All of a regular file of at most 1 MiB that not everybody may change. Never waits for a pipe's writer. Raises
    FileNotReadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise FileNotReadable(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotReadable(f"{path}: is no file")
        if os.fstat(descriptor).st_mode & stat.S_IWOTH:
            raise FileNotReadable(f"{path}: everybody on this machine may change it; chmod o-w")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise FileNotReadable(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > FILE_BYTES_MAX:
        raise FileNotReadable(f"{path}: is larger than {FILE_BYTES_MAX >> 20} MiB")
    return data


def is_open_to_all(path: str) -> bool:
    """Whether everybody on this machine may read the file, and pass through the folders that lead to it; for files that
    hold a secret."""
    try:
        real = Path(path).resolve(strict=True)
        passable = all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents)
        return passable and bool(real.stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        return False


class WatchedFiles:
    """The contents of some files, and whether they have changed. Blocks for the file system: not on an event loop."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        self._stamps: list[object] | None = None
        self._contents: list[bytes] | None = None

    def read_changed(self) -> list[bytes] | None:
        """All contents when any differs from what was returned before, else None. Raises FileNotReadable, once for
        each change of the files."""
        stamps = [_stamp(path) for path in self._paths]
        if stamps == self._stamps:
            return None
        self._stamps = stamps
        contents = [read_small_file(path) for path in self._paths]
        if contents == self._contents:
            return None
        self._contents = contents
        return contents


def _stamp(path: str) -> object:
    """Equal to the one before only when the file is as it was."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        return str(error)
    age = time.time_ns() / 1e9 - max(found.st_mtime, found.st_ctime)
    settled = age > SETTLED_SECONDS
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, settled or object()
