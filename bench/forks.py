"""Forks for measurements: one role a process, on a core of its own, gone when its parent is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable

__all__ = ["fork"]

_PR_SET_PDEATHSIG = 1


def fork(role: Callable[[], None], *, core: int | None = None) -> int:
    """Runs ``role`` in a child and returns its pid; the child's exit status is 0 when ``role`` returned.

    For parents without threads. The server itself never forks: its processes are exec'd.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _die_with(parent)
        if core is not None:
            os.sched_setaffinity(0, {core})
        role()
        status = 0
    except BaseException:  # noqa: BLE001 # whatever it was, this process must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
