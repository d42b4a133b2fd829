"""Whether one and the same record may be ending a log worker: deaths at an unmoved ``commit``.

The supervisor's half of ``data_plane/poison.py``. Only ends that a record can cause count: an exit of its own, a signal that
the machine raises, a process that hangs. Whoever is killed from outside has nothing to do with what was in its hands.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from trackside.data_plane.poison import Trial
from trackside.data_plane.recovery import write_rings_of
from trackside.data_plane.worker import EXIT_CANNOT_BOOT
from trackside.shm.ring import RingView
from trackside.shm.segment import SegmentError

__all__ = ["PoisonWatch", "commits_of", "is_own_end"]

CAREFUL_DEATHS = 2
"""From this many at one place on, the successor takes one record at a time."""

_CRASHES = frozenset(
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)

Commits = dict[str, int]


def commits_of(instances: list[Path], producer: str = "producer-*") -> Commits:
    """Commit positions by file, of the rings that lead to ``producer``; a ring that is gone is not among them."""
    found = {}
    for path in (path for instance in instances for path in write_rings_of(instance, producer)):
        try:
            found[str(path)] = RingView(path).commit_position
        except (SegmentError, OSError):
            continue
    return found


def is_own_end(code: int, hung: bool) -> bool:
    """Whether something that the process did may have ended it. ``code`` as of Popen; ``hung``: we killed it for that."""
    return hung or code in _CRASHES or (code > 0 and code != EXIT_CANNOT_BOOT)


class PoisonWatch:
    """One process slot. ``careful``: how its next process must start. ``moved``: whether anything was committed between
    the last two deaths, that is, whether starting it again leads anywhere."""

    def __init__(self, trial: Trial, commits: Callable[[], Commits]) -> None:
        self._trial = trial
        self._commits = commits
        self._before: Commits | None = None
        self._deaths = 0
        self.careful = False
        self.moved = True

    def on_death(self, own_end: bool) -> None:
        now = self._commits()
        self.moved, self._before = now != self._before, now
        if not own_end:
            self._trial.clear()
            return
        on_trial = self._trial.read() is not None
        self._deaths = 1 if self.moved and not on_trial else self._deaths + 1
        self.careful = self._deaths >= CAREFUL_DEATHS
