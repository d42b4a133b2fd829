"""Segments: files on a tmpfs that several processes map, and the lock that proves whose they are.

A segment is made by the supervisor, reserved whole (so that no later store can meet a full tmpfs, which would be a
SIGBUS), and outlives every process that maps it. Nothing here deletes one: that is for who owns the run directory.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trackside.shm.layout import CELL_BYTES, MAGIC, PAGE_BYTES, SegmentKind, StaticPage

__all__ = [
    "InstanceLock",
    "LayoutMismatch",
    "Locked",
    "NoSpace",
    "Segment",
    "SegmentError",
    "SegmentExists",
    "SegmentMissing",
    "free_bytes",
]


class SegmentError(Exception):
    """What can be wrong with a segment; the message is one line for an operator."""


class SegmentExists(SegmentError):
    """A segment is made once; here is one already."""


class SegmentMissing(SegmentError):
    """There is no such segment: never made, or its run directory was cleaned."""


class NoSpace(SegmentError):
    """The file system has no room for the segment; nothing of it was left behind."""

    def __init__(self, path: Path, bytes_needed: int, bytes_available: int) -> None:
        super().__init__(f"no room for {path}: {bytes_needed} bytes needed, {bytes_available} bytes available")
        self.path = path
        self.bytes_needed = bytes_needed
        self.bytes_available = bytes_available


class LayoutMismatch(SegmentError):
    """The file is not what was expected: another kind, another layout version, unfinished, cut or damaged."""


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}


class Segment:
    """One mapped file: ``memory`` (the mmap), ``view`` (its bytes), ``cells`` (u64) and ``words`` (u32) over all of it.

    ``close`` releases the views and unmaps; a ring or table over a closed segment raises ValueError instead of
    touching memory that is gone.
    """

    def __init__(self, path: Path, memory: mmap.mmap, *, writable: bool) -> None:
        self.path = path
        self.memory = memory
        self.writable = writable
        self.size = len(memory)
        self.view = memoryview(memory)
        whole = self.view[: self.size - self.size % 8]
        self.cells = whole.cast("Q")
        self.words = whole.cast("I")
        self._whole = whole

    @classmethod
    def create(cls, path: str | os.PathLike[str], size: int) -> Segment:
        """Makes, reserves and maps a file of zeros with mode 0600. Raises SegmentExists, NoSpace."""
        path = Path(path)
        with _new_file(path) as fd:
            _reserve(fd, path, size)
            return cls(path, mmap.mmap(fd, size), writable=True)

    @classmethod
    def attach(cls, path: str | os.PathLike[str], writable: bool = True) -> Segment:
        """Maps an existing file. Raises SegmentMissing, LayoutMismatch (empty or shorter than one page)."""
        path = Path(path)
        try:
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SegmentMissing(f"{path} is not there") from None
        try:
            size = os.fstat(fd).st_size
            if size < PAGE_BYTES:
                raise LayoutMismatch(f"{path}: it has {size} bytes, less than one page")
            return cls(path, _map(fd, writable), writable=writable)
        finally:
            os.close(fd)

    @classmethod
    def make(cls, path: str | os.PathLike[str], page: StaticPage) -> None:
        """Creates a segment that says ``page`` of itself, and leaves it. Raises SegmentExists, NoSpace, ValueError."""
        static = page.encode()
        segment = cls.create(path, page.segment_bytes)
        segment.view[CELL_BYTES : len(static)] = static[CELL_BYTES:]
        # Publishes the segment: who attaches checks the magic first, and its processes are started after this.
        segment.cells[0] = MAGIC
        segment.close()

    def check(self, kind: SegmentKind) -> StaticPage:
        """What the static page says. Raises LayoutMismatch when this is no whole segment of this kind."""
        try:
            page = StaticPage.decode(self.memory[:PAGE_BYTES])
        except ValueError as error:
            raise LayoutMismatch(f"{self.path}: {error}") from None
        if page.kind != kind:
            raise LayoutMismatch(f"{self.path}: it is a segment of kind {page.kind}, {kind.name} is {int(kind)}")
        if page.segment_bytes != self.size:
            raise LayoutMismatch(f"{self.path}: it has {self.size} bytes, {page.segment_bytes} when it was made")
        return page

    def close(self) -> None:
        """Unmaps; may be called again. Raises BufferError while a view that somebody else made of it lives."""
        for view in (self.cells, self.words, self._whole, self.view):
            view.release()
        self.memory.close()


def free_bytes(directory: str | os.PathLike[str]) -> int:
    """What the file system under ``directory`` can still take from this user."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def round_to_pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """A descriptor of a new file; on any error the file is gone again."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SegmentExists(f"{path} is there already") from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise NoSpace(path, 1, free_bytes(path.parent)) from None
        raise
    try:
        yield fd
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _reserve(fd: int, path: Path, size: int) -> None:
    """posix_fallocate, not ftruncate: a page that is only promised is a SIGBUS at its first store on a full tmpfs."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        os.ftruncate(fd, 0)  # what was reserved counts as available again
        raise NoSpace(path, size, free_bytes(path.parent)) from None


def _map(fd: int, writable: bool) -> mmap.mmap:
    """Writers map every page at once (a first touch costs a microsecond); who only looks does not."""
    if not writable:
        return mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    return mmap.mmap(fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


# --- whose -----------------------------------------------------------------------------------------------------------


class Locked(Exception):
    """Another server, or a worker that outlived its server, holds the directory. ``pid`` is None when unknown."""

    def __init__(self, path: Path, pid: int | None, instance: str) -> None:
        holder = f"process {pid} or a worker that it started" if pid else "another process"
        super().__init__(f"{path.parent} is in use by {holder}" + (f" (instance {instance})" if instance else ""))
        self.path = path
        self.pid = pid
        self.instance = instance


class InstanceLock:
    """``flock`` on ``<directory>/<name>``, held until the last process that inherited ``fd`` has exited.

    The supervisor acquires it and hands ``fd`` to every worker (``pass_fds``): so who gets the lock knows that nobody
    of the instance before is alive, whoever was killed in which order.
    """

    def __init__(self, directory: str | os.PathLike[str], instance: str = "", name: str = "lock") -> None:
        self.path = Path(directory) / name
        self.instance = instance
        self._fd = -1

    @property
    def fd(self) -> int:
        """The descriptor for ``pass_fds``; -1 before ``open``. Who inherits it before the lock is taken holds it from
        then on, too: a lock belongs to the open file, not to a process."""
        return self._fd

    def open(self) -> None:
        """Makes the file when it is missing; takes no lock. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_acquire(self) -> bool:
        """Takes the lock, of a file that is open, unless somebody else has it."""
        if not _try_flock(self._fd):
            return False
        _write_holder(self._fd, self.instance)
        return True

    def acquire(self, wait_seconds: float = 0.0) -> None:
        """Takes the lock, trying again for ``wait_seconds``; raises Locked. Blocks the thread while it waits."""
        self.open()
        until = time.monotonic() + wait_seconds
        while not self.try_acquire():
            if time.monotonic() >= until:
                pid, instance = _read_holder(self._fd)
                self.release()
                raise Locked(self.path, pid, instance)
            time.sleep(0.02)

    def release(self) -> None:
        """Closes this process's descriptor; workers that inherited it keep the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(fd: int, instance: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"pid={os.getpid()}\ninstance={instance}\n".encode(), 0)


def _read_holder(fd: int) -> tuple[int | None, str]:
    """For messages only: the text may be torn or of a holder that is gone."""
    text = os.pread(fd, 512, 0).decode(errors="replace")
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = values.get("pid", "")
    return (int(pid) if pid.isdecimal() else None), values.get("instance", "")
