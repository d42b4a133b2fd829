"""What this machine says of itself: the facts that ``trackside doctor`` judges. Reads only; tests give their own facts."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from trackside.shm.segment import free_bytes

__all__ = ["Machine"]

_STA_UNSYNC = 0x0040  # linux/timex.h
_TIMEX_BYTES = 256  # struct timex has 208 on 64-bit machines
_TIMEX_STATUS_AT = 40  # modes, offset, freq, maxerror, esterror, status; 8 bytes each but for the last


class Machine:
    """Each method answers one question, or None where this machine does not say."""

    def open_files_max(self) -> int:
        """The soft limit, which every process that we start inherits."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def cores(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def governors(self) -> set[str]:
        """How the cores choose their clock; empty in most virtual machines."""
        return set(_texts("/sys/devices/system/cpu/cpufreq", "policy*/scaling_governor"))

    def clock_source(self) -> str | None:
        """Where the kernel reads the time."""
        return next(_texts("/sys/devices/system/clocksource/clocksource0", "current_clocksource"), None)

    def clock_synchronised(self) -> bool | None:
        """Whether somebody (chrony, ntpd, systemd-timesyncd, ptp) disciplines the clock, as the kernel sees it."""
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)
        if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
            return None
        status = int.from_bytes(timex.raw[_TIMEX_STATUS_AT : _TIMEX_STATUS_AT + 4], "little")
        return not status & _STA_UNSYNC

    def memory_available(self) -> int:
        """Bytes that new processes can have: of the machine, or of the container where that is less."""
        available = int(psutil.virtual_memory().available)
        limit = next(_texts("/sys/fs/cgroup", "memory.max"), "max")
        used = next(_texts("/sys/fs/cgroup", "memory.current"), "0")
        return min(available, int(limit) - int(used)) if limit.isdecimal() else available

    def commit_available(self) -> int | None:
        """Bytes that may still be asked for where the kernel is strict about that (vm.overcommit_memory = 2), else None."""
        if next(_texts("/proc/sys/vm", "overcommit_memory"), "0") != "2":
            return None
        memory = dict(line.split(":", 1) for line in next(_texts("/proc", "meminfo"), "").splitlines())
        kilobytes = [int(memory.get(name, "0").split()[0]) for name in ("CommitLimit", "Committed_AS")]
        return max(kilobytes[0] - kilobytes[1], 0) << 10

    def threads_available(self) -> int | None:
        """How many more threads may be started: by this user, which nothing holds for root, and in this container."""
        rooms = []
        limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        if os.geteuid() and limit != resource.RLIM_INFINITY:
            rooms.append(limit - _threads_of(os.getuid()))
        allowed = next(_texts("/sys/fs/cgroup", "pids.max"), "max")
        if allowed.isdecimal():
            rooms.append(int(allowed) - int(next(_texts("/sys/fs/cgroup", "pids.current"), "0")))
        return max(min(rooms), 0) if rooms else None

    def swap(self) -> tuple[int, int]:
        """Bytes of swap, and how eagerly it is used (0 to 200)."""
        swappiness = next(_texts("/proc/sys/vm", "swappiness"), "0")
        return int(psutil.swap_memory().total), int(swappiness)

    def file_system(self, path: Path) -> str:
        """The type of what ``path``, or the nearest folder above it that exists, lies on."""
        real = os.path.realpath(nearest(path))
        mounts = [(found.mountpoint, found.fstype) for found in psutil.disk_partitions(all=True)]
        holding = [(len(point), kind) for point, kind in mounts if _below(real, point)]
        return max(holding, default=(0, "unknown"))[1]

    def free_bytes(self, path: Path) -> int:
        return free_bytes(nearest(path))


def _threads_of(user: int) -> int:
    """Of all processes of a user that can be seen."""
    found = psutil.process_iter(["uids", "num_threads"])
    return sum(process.info["num_threads"] or 0 for process in found if process.info["uids"].real == user)


def nearest(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _texts(folder: str, pattern: str) -> Iterator[str]:
    for path in sorted(Path(folder).glob(pattern)):
        try:
            yield path.read_text().strip()
        except OSError:
            continue
