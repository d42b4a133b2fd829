"""The run directory: all shared memory of a server, on a tmpfs, above the processes that use it.

::

    <run dir>/lock                     flock, inherited by every worker: who gets it knows that all of them have exited
             /connections              journal of the connection table, above the instances
             /control.sock             the control plane's Unix socket
             /server.json              what observers need: processes, links, ports, state
             /instances/<seq>-<guid>/  one start of the server
                 laid-out              empty; made last: without it nobody has ever used what is there
                 links/*.ring          the rings
                 *.liveness *.counters one pair a process slot
                 *.log-table           published ends of the local log, one a producer

An instance folder that is found at start was left by a server that died. When its write rings hold something, that was
accepted: it is recovered first and removed afterwards. Every other is removed at once, so that a server that is killed
again and again while the log is away does not fill the tmpfs.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.topology import Topology
from trackside.data_plane.recovery import write_rings_of
from trackside.data_plane.spec import Settings
from trackside.shm.counters import create_counters
from trackside.shm.liveness import create_liveness
from trackside.shm.ring import RingView, create_ring
from trackside.shm.segment import InstanceLock, Locked, NoSpace, SegmentError, free_bytes

__all__ = ["RunDirectory", "lock_directory"]

LOCK_WAIT_SECONDS = 10.0
"""Workers of a supervisor that was killed die with it at once; the kernel needs a moment to unmap their memory."""

LAID_OUT = "laid-out"


def lock_directory(path: Path, what: str, instance: str) -> InstanceLock:
    """Make ``path`` (mode 0700) and take its lock. Raises CommandFailed with one sentence."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = InstanceLock(path, instance)
        lock.acquire(LOCK_WAIT_SECONDS)
    except Locked as error:
        raise CommandFailed(ExitCode.TRY_AGAIN, f"{what} {error}; stop that server or choose another") from None
    except OSError as error:
        raise CommandFailed(ExitCode.CANNOT_CREATE, f"{what} {path}: {error.strerror}") from None
    return lock


class RunDirectory:
    """Made by the supervisor, which owns it until it exits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = Path(settings.run_dir)
        self.guid = uuid.uuid4().hex
        self.lock = lock_directory(self.path, "run directory", self.guid)
        instances = self.path / "instances"
        self.stale = list(self._clean(instances))
        last = int(self.stale[-1].name.split("-")[0]) if self.stale else 0
        self.instance = instances / f"{last + 1:06d}-{self.guid}"
        self.topology = Topology(settings, self.instance)

    def _clean(self, instances: Path) -> Iterator[Path]:
        """Dead instances that hold accepted packets, oldest first; the others are removed."""
        try:
            instances.mkdir(mode=0o700, exist_ok=True)
            for folder in sorted(folder for folder in instances.iterdir() if folder.is_dir()):
                if holds_packets(folder):
                    yield folder
                else:
                    shutil.rmtree(folder)
        except OSError as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, f"run directory {instances}: {error.strerror}") from None

    @property
    def control_socket(self) -> str:
        return str(self.path / "control.sock")

    def lay_out(self) -> None:
        """Make everything of this instance, or nothing and say how much room is missing. Raises CommandFailed."""
        needed = self.topology.shared_bytes()
        if (free := free_bytes(self.path)) < needed:
            raise CommandFailed(
                ExitCode.CANNOT_CREATE,
                f"run directory {self.path}: {free >> 20} MiB free, this shape needs {-(-needed >> 20)} MiB; "
                "enlarge that file system (in a container: --shm-size), or use fewer gateways, producers and consumers",
            )
        try:
            (self.instance / "links").mkdir(mode=0o700, parents=True)
            for ring in self.topology.rings():
                create_ring(ring.path, capacity_bytes=ring.capacity_bytes, ring_id=ring.ring_id)
            for name, role, _ in self.topology.names:
                create_liveness(self.instance / f"{name}.liveness", name)
                create_counters(self.instance / f"{name}.counters", name, rows=self.topology.counter_rows(role))
            (self.instance / LAID_OUT).touch(mode=0o600)
        except NoSpace as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, str(error)) from None
        except OSError as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, f"run directory {self.path}: {error.strerror}") from None

    def describe(self, server: dict[str, object]) -> None:
        """Replace server.json in one step: an observer sees the old text or the new one."""
        aside = self.path / "server.json.new"
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(server), indent=1))
        os.replace(aside, self.path / "server.json")


def holds_packets(instance: Path) -> bool:
    """Whether a dead instance has anything to recover; True also where that cannot be told."""
    if not (instance / LAID_OUT).exists():
        return False
    try:
        return any(RingView(path).used_bytes for path in write_rings_of(instance))
    except SegmentError:
        return True
