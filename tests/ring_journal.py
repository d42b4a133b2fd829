"""A memory for rings that keeps a journal of every store, and can kill who stores.

The ring's own code runs on it unchanged. A store by index (cells, words) is one store; a store by slice is taken
as one store for every eight bytes, because a copy may be cut between any two of them.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from trackside.shm.layout import MAGIC, PAGE_BYTES, RingOption, SegmentKind, StaticPage
from trackside.shm.ring import ring_bytes

Store = tuple[int, bytes]


class Killed(BaseException):
    """Like SIGKILL: nothing of the ring's code may catch it."""


class JournalMemory:
    """Stands in for a Segment. ``fuse``: how many stores are still made before Killed is raised; None: all."""

    def __init__(self, capacity_bytes: int, *, body_crc: bool = False, image: bytes | None = None) -> None:
        self.image = mmap.mmap(-1, ring_bytes(capacity_bytes))
        self.stores: list[Store] = []
        self.fuse: int | None = None
        self.memory = _Slices(self)
        self.cells = _Numbers(self, "Q")
        self.words = _Numbers(self, "I")
        options = RingOption.BODY_CRC if body_crc else RingOption.NONE
        page = StaticPage(SegmentKind.RING, len(self.image), capacity_bytes, options, "journal").encode()
        self.image[:] = image or (MAGIC.to_bytes(8, "little") + page[8:]).ljust(len(self.image), b"\0")

    def store(self, offset: int, data: bytes) -> None:
        if self.fuse is not None:
            if self.fuse == 0:
                raise Killed
            self.fuse -= 1
        self.image[offset : offset + len(data)] = data
        self.stores.append((offset, data))

    def fence(self) -> None:
        """For ``publish_fence``: marks a place in the journal that no store passes."""
        self.stores.append((-1, b""))

    def check(self, kind: SegmentKind) -> StaticPage:
        page = StaticPage.decode(self.image[:PAGE_BYTES])
        assert page.kind == kind
        return page

    def close(self) -> None:
        self.image.close()


def apply(image: mmap.mmap, stores: Sequence[Store]) -> None:
    for offset, data in stores:
        if offset >= 0:
            image[offset : offset + len(data)] = data


class _Slices:
    def __init__(self, journal: JournalMemory) -> None:
        self._journal = journal

    def __getitem__(self, where: slice) -> bytes:
        return self._journal.image[where]

    def __setitem__(self, where: slice, data: bytes) -> None:
        assert where.stop - where.start == len(data)
        for start in range(0, len(data), 8):
            self._journal.store(where.start + start, data[start : start + 8])


class _Numbers:
    def __init__(self, journal: JournalMemory, code: str) -> None:
        self._journal = journal
        self._view = memoryview(journal.image).cast("B").cast(code)  # type: ignore[call-overload]

    def __getitem__(self, index: int) -> int:
        return int(self._view[index])

    def __setitem__(self, index: int, value: int) -> None:
        size = self._view.itemsize
        self._journal.store(index * size, value.to_bytes(size, "little"))
