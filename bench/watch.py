"""What a load bench sees of the server beside it: the memory of its processes, and what they count."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from trackside.shm.observe import Server

__all__ = ["MIB", "PeakMemory", "anonymous_bytes", "counted", "mebibytes"]

MIB = 1 << 20
SAMPLE_SECONDS = 0.05


def anonymous_bytes(pid: int) -> int:
    """What a process has for itself: resident memory without files and without shared memory. 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(rows["RssAnon"].split()[0]) << 10 if "RssAnon" in rows else 0


def counted(server: Server, name: str) -> int:
    """One metric, summed over all processes and label values."""
    return sum(counter.value for process in server.processes for counter in process.counters if counter.name == name)


def mebibytes(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


class PeakMemory:
    """The most that each process of a server had for itself since the last :meth:`start_again`; a thread looks."""

    def __init__(self, server: Server) -> None:
        self._pids = {process.name: process.pid for process in server.processes}
        self._ended = threading.Event()
        self.start_again()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def start_again(self) -> None:
        self.bytes = {name: anonymous_bytes(pid) for name, pid in self._pids.items()}

    def of(self, role: str) -> int:
        """The largest of a role's processes."""
        return max(self._of(role))

    def sum_of(self, role: str) -> int:
        return sum(self._of(role))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _of(self, role: str) -> Iterable[int]:
        return [size for name, size in self.bytes.items() if name.rpartition("-")[0] == role or name == role]

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for name, pid in self._pids.items():
                self.bytes[name] = max(self.bytes.get(name, 0), anonymous_bytes(pid))
