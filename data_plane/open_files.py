"""A bounded number of open files: thousands of partitions must not need thousands of descriptors."""

from __future__ import annotations

import os
from collections import OrderedDict

__all__ = ["OpenFiles"]


class OpenFiles:
    """Descriptors by path, at most ``limit`` of them; the one that was not used for longest is closed first.

    A descriptor is valid until the next call of ``fd`` or ``create``. Paths are text, which is looked up five times
    faster than a Path. Not thread-safe.
    """

    def __init__(self, limit: int, flags: int) -> None:
        self._limit = limit
        self._flags = flags | os.O_CLOEXEC
        self._fds: OrderedDict[str, int] = OrderedDict()

    def fd(self, path: str) -> int:
        """The descriptor of an existing file. Raises OSError (FileNotFoundError when it is gone)."""
        found = self._fds.get(path)
        if found is not None:
            self._fds.move_to_end(path)
            return found
        self._make_room()
        self._fds[path] = fd = os.open(path, self._flags)
        return fd

    def create(self, path: str) -> int:
        """The descriptor of a new file. Raises OSError (FileExistsError when there is one)."""
        self._make_room()
        self._fds[path] = fd = os.open(path, self._flags | os.O_CREAT | os.O_EXCL, 0o640)
        return fd

    def drop(self, path: str) -> None:
        """Closes the descriptor of ``path`` if there is one."""
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)

    def drop_deleted(self) -> None:
        """Closes the descriptors of files that have no name any more: until then the disk keeps their bytes."""
        for path in [path for path, fd in self._fds.items() if not os.fstat(fd).st_nlink]:
            self.drop(path)

    def close(self) -> None:
        for path in list(self._fds):
            self.drop(path)

    def __len__(self) -> int:
        return len(self._fds)

    def _make_room(self) -> None:
        while len(self._fds) >= self._limit:
            self.drop(next(iter(self._fds)))
