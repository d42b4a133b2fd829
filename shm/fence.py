"""The one thing that plain stores and loads cannot do: order a store before a later load.

On x86-64 stores become visible in order and loads are made in order, so a cursor stored after its data publishes the
data. Only a store followed by a load of another cell may swap; that is what going to sleep does ("I sleep", then "is
there something?"), on both sides, and so both sides need a full fence there. Python has none, but a lock is taken
with a locked instruction, which is one.

Other machines (aarch64) order nothing by themselves. There a fence is needed at each publishing store as well, and
taking a lock is not one (acquire and release let their neighbours move in and swap); it must come from
``atomicshm`` or from ``libatomic``, else this package refuses to run.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
import threading
from collections.abc import Callable

__all__ = ["UnsupportedMachine", "full_fence", "publish_fence", "require_ordering"]

Fence = Callable[[], None]

_ORDERED_MACHINES = ("x86_64", "AMD64", "amd64")
_SEQ_CST = 5


class UnsupportedMachine(Exception):
    """This machine needs a fence that nothing installed here provides; the message says what to install."""


_lock = threading.Lock()


def _lock_fence() -> None:
    with _lock:
        pass


def _atomicshm_fence() -> Fence | None:
    try:
        fence: Fence = importlib.import_module("atomicshm").fence
    except (ImportError, AttributeError):
        return None
    return fence


def _libatomic_fence() -> Fence | None:
    try:
        function = ctypes.PyDLL("libatomic.so.1").atomic_thread_fence
    except (OSError, AttributeError):
        return None
    function.restype = None

    def fence() -> None:
        function(_SEQ_CST)

    return fence


def _missing_fence() -> None:
    require_ordering()


def find_fences(machine: str) -> tuple[Fence, Fence | None] | None:
    """(full fence, publish fence or None when publishing needs none) for this machine; None when there is none."""
    if machine in _ORDERED_MACHINES:
        return _lock_fence, None
    fence = _atomicshm_fence() or _libatomic_fence()
    return (fence, fence) if fence else None


def require_ordering(machine: str | None = None) -> None:
    """Called once by every process before it attaches a ring. Raises UnsupportedMachine."""
    machine = machine or platform.machine()
    if find_fences(machine) is None:
        raise UnsupportedMachine(
            f"machine {machine}: its memory order needs a fence; install the package atomicshm or libatomic.so.1"
        )


full_fence, publish_fence = find_fences(platform.machine()) or (_missing_fence, _missing_fence)
"""``full_fence()``: no store before it is seen after a load behind it. ``publish_fence``: None where stores stay in
order by themselves, else to be called between data and the store that publishes it, and behind a load of a cursor."""
