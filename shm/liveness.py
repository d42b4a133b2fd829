"""Whether a process lives, what it does, what it said last; and the doorbell that wakes it.

One segment a process slot, made by the supervisor. It survives every incarnation of the process, so that a successor
and an operator find what the one before left.
"""

from __future__ import annotations

import contextlib
import os
from enum import IntEnum

from trackside.shm.fence import full_fence, publish_fence
from trackside.shm.layout import (
    LAST_WORDS_OFFSET,
    LIVENESS_BYTES,
    REASON_OFFSET,
    TEXT_BYTES_MAX,
    LivenessCell,
    SegmentKind,
    StaticPage,
)
from trackside.shm.segment import Segment

__all__ = ["Doorbell", "Liveness", "WorkerState", "create_doorbell", "create_liveness"]

SLEEPING = int(LivenessCell.SLEEPING)
_U64 = 0xFFFFFFFFFFFFFFFF
_EXITED = 1 << 32  # in the cell last_exit: there was an exit; its code lies below


class WorkerState(IntEnum):
    """What a worker says of itself."""

    STARTING = 0
    RECOVERING = 1
    READY = 2
    DEGRADED = 3
    DRAINING = 4
    STOPPED = 5
    FAILED = 6


def create_liveness(path: str | os.PathLike[str], name: str) -> None:
    """Makes the segment of the process slot ``name``. Raises SegmentExists, NoSpace."""
    Segment.make(path, StaticPage(SegmentKind.LIVENESS, LIVENESS_BYTES, extent=0, options=0, name=name))


class _Cell:
    """A u64 cell as an attribute: reading loads, assigning stores."""

    def __init__(self, cell: LivenessCell) -> None:
        self._index = int(cell)

    def __get__(self, liveness: Liveness, owner: type[Liveness]) -> int:
        return int(liveness.cells[self._index])

    def __set__(self, liveness: Liveness, value: int) -> None:
        liveness.cells[self._index] = value & _U64


class Liveness:
    """One slot. Each attribute has one process that assigns it; everybody may read, at any time, dead or alive."""

    # the supervisor's
    epoch = _Cell(LivenessCell.EPOCH)
    pid = _Cell(LivenessCell.PID)
    restarts = _Cell(LivenessCell.RESTARTS)
    started_ns = _Cell(LivenessCell.STARTED_NS)
    # the worker's; all times are CLOCK_MONOTONIC
    heartbeat_ns = _Cell(LivenessCell.HEARTBEAT_NS)
    work_ns = _Cell(LivenessCell.WORK_NS)
    idle_ns = _Cell(LivenessCell.IDLE_NS)
    sleeping = _Cell(LivenessCell.SLEEPING)

    def __init__(self, path: str | os.PathLike[str], writable: bool = True) -> None:
        """Raises SegmentMissing, LayoutMismatch."""
        self._segment = Segment.attach(path, writable)
        self.name = self._segment.check(SegmentKind.LIVENESS).name
        self.cells = self._segment.cells

    @property
    def state(self) -> WorkerState:
        """FAILED also for a number that this version does not know."""
        try:
            return WorkerState(self.cells[LivenessCell.STATE])
        except ValueError:
            return WorkerState.FAILED

    @state.setter
    def state(self, state: WorkerState) -> None:
        self.cells[LivenessCell.STATE] = int(state)

    @property
    def last_exit(self) -> int | None:
        """Exit code of the incarnation before, negative for a signal as in ``subprocess``; None: there was none."""
        cell = self.cells[LivenessCell.LAST_EXIT]
        if not cell & _EXITED:
            return None
        code = cell & 0xFFFFFFFF
        return int(code - (1 << 32) if code >> 31 else code)

    @last_exit.setter
    def last_exit(self, code: int | None) -> None:
        self.cells[LivenessCell.LAST_EXIT] = 0 if code is None else _EXITED | code & 0xFFFFFFFF

    def read_reason(self) -> str:
        """Why the worker does not serve, one sentence; empty when it does."""
        return self._read(LivenessCell.REASON_BYTES, REASON_OFFSET)

    def write_reason(self, text: str) -> None:
        self._write(LivenessCell.REASON_BYTES, REASON_OFFSET, text)

    def clear_reason(self) -> None:
        self.cells[LivenessCell.REASON_BYTES] = 0

    def read_last_words(self) -> str:
        """What the worker had to say before it died; may be of an incarnation before."""
        return self._read(LivenessCell.LAST_WORDS_BYTES, LAST_WORDS_OFFSET)

    def write_last_words(self, text: str) -> None:
        self._write(LivenessCell.LAST_WORDS_BYTES, LAST_WORDS_OFFSET, text)

    def clear_last_words(self) -> None:
        self.cells[LivenessCell.LAST_WORDS_BYTES] = 0

    def close(self) -> None:
        self._segment.close()

    def _read(self, length_cell: LivenessCell, offset: int) -> str:
        """A text that is written meanwhile comes out as a mixture, never as an error."""
        length = min(self.cells[length_cell], TEXT_BYTES_MAX)
        return self._segment.memory[offset : offset + length].decode(errors="replace")

    def _write(self, length_cell: LivenessCell, offset: int, text: str) -> None:
        """Cut to TEXT_BYTES_MAX, between two characters."""
        data = text.encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore").encode()
        self.cells[length_cell] = 0
        self._segment.memory[offset : offset + len(data)] = data
        if publish_fence is not None:
            publish_fence()
        # Publishes the text: until this store the length is 0.
        self.cells[length_cell] = len(data)


# --- doorbells -------------------------------------------------------------------------------------------------------


def create_doorbell() -> int:
    """An eventfd for one process; the supervisor makes it and hands it to all who may ring, and to every successor."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


class Doorbell:
    """The doorbell of the process whose slot is ``liveness``: others ring, it sleeps on ``fd``.

    The sleeper: ``prepare_sleep``; look once more at everything it waits for; if there is nothing, ``poll`` on ``fd``
    with a time-out; ``woken``.
    """

    def __init__(self, fd: int, liveness: Liveness) -> None:
        self.fd = fd
        self._cells = liveness.cells

    def ring(self) -> None:
        """Wakes, or keeps from the next sleep."""
        with contextlib.suppress(BlockingIOError):  # the count is at its end: it rings already
            os.eventfd_write(self.fd, 1)

    def ring_if_asleep(self) -> None:
        """Once per batch, after the cursor store; costs a fence when nobody sleeps, 8 us when somebody does."""
        # Between our cursor store and the load of ``sleeping``; the sleeper fences between its store of ``sleeping``
        # and its last look at the cursor. So one of the two sees the other.
        full_fence()
        if self._cells[SLEEPING]:
            self.ring()

    def prepare_sleep(self) -> None:
        # Publishes that from now on a ring is needed; what the sleeper loads next is loaded after it.
        self._cells[SLEEPING] = 1
        full_fence()

    def woken(self) -> None:
        """Also when the sleep did not happen or timed out."""
        self._cells[SLEEPING] = 0
        with contextlib.suppress(BlockingIOError):  # nobody rang
            os.eventfd_read(self.fd)
