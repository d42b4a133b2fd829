"""The run directory: all shared memory of a server, on a tmpfs, above the processes that use it.

::

    <run dir>/lock                     flock, inherited by every worker: who gets it knows that all of them have exited
             /starting                 flock of a supervisor that starts, until it has ``lock``: one at a time
             /connections              journal of the connection table, above the instances
             /control-<seq>.sock       the control plane's Unix socket
             /server.json              what observers need: processes, links, ports, state
             /instances/<seq>-<guid>/  one start of the server
                 laid-out              empty; made last: without it nobody has ever used what is there
                 links/*.ring          the rings
                 parks/*.park          packets of blocked topics, one file a producer; and what a recovery copied
                 *.liveness *.counters one pair a process slot
                 *.log-table           published ends of the local log, one a producer; the forwarder's: how far it is

An instance folder that is found at start was left by a server that died. When its write rings or parks hold something, that was
accepted: it is recovered first and removed afterwards. Every other is removed at once. Where the new instance has no room
beside those that hold something, they are moved to the data directory (``kept.py``).
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.kept import LAID_OUT, keep, kept_instances, kept_names
from trackside.control_plane.topology import Topology
from trackside.data_plane.park_file import parked_bytes
from trackside.data_plane.recovery import write_rings_of
from trackside.data_plane.spec import Settings
from trackside.shm.counters import create_counters
from trackside.shm.liveness import create_liveness
from trackside.shm.ring import RingView, create_ring
from trackside.shm.segment import InstanceLock, Locked, NoSpace, SegmentError, free_bytes

__all__ = ["RunDirectory", "control_socket_of", "lock_directory", "unlogged_bytes"]

LOCK_WAIT_SECONDS = 10.0
"""Workers of a supervisor that was killed die with it at once; the kernel needs a moment to unmap their memory."""

STARTING = "starting"


def lock_directory(path: Path, what: str, instance: str, *, name: str = "lock", take: bool = True) -> InstanceLock:
    """Make ``path`` (mode 0700) and take its lock, or with ``take=False`` open it for later. Raises CommandFailed."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = InstanceLock(path, instance, name)
        lock.acquire(LOCK_WAIT_SECONDS) if take else lock.open()
    except Locked as error:
        who = "another server is starting: " if name == STARTING else ""
        raise CommandFailed(ExitCode.TRY_AGAIN, f"{who}{what} {error}; stop that server or choose another") from None
    except OSError as error:
        raise CommandFailed(ExitCode.CANNOT_CREATE, f"{what} {path}: {error.strerror}") from None
    return lock


def _check_ours(path: Path) -> None:
    """A run directory in /dev/shm could have been made by anybody, before us and under our name. Raises
    CommandFailed."""
    try:
        found = path.stat()
    except OSError:
        return  # it is made, or the reason told, by who takes the lock
    if found.st_uid not in (os.geteuid(), 0):
        raise CommandFailed(
            ExitCode.CANNOT_CREATE,
            f"run directory {path}: belongs to user {found.st_uid}, who could read and change what is in it; choose another",
        )
    if found.st_uid == os.geteuid() and found.st_mode & 0o007:
        try:
            path.chmod(stat.S_IMODE(found.st_mode) & 0o770)
        except OSError as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, f"run directory {path}: {error.strerror}") from None


class RunDirectory:
    """Made by the supervisor, which owns it until it exits.

    With ``beside=True`` another server still has it: this one lays out its instance next to that one's, and owns the
    directory when :meth:`take` says so.
    """

    def __init__(self, settings: Settings, *, beside: bool = False) -> None:
        self.settings = settings
        self.path = Path(settings.run_dir)
        self.guid = uuid.uuid4().hex
        self.stale: list[Path] = []
        _check_ours(self.path)
        # Else who starts while one server takes over from another could get the lock between them, and clean up.
        self._starting = lock_directory(self.path, "run directory", self.guid, name=STARTING)
        self.lock = lock_directory(self.path, "run directory", self.guid, take=not beside)
        if not beside:
            self._own()
        self._sequence = self._last_sequence() + 1
        self.instance = self._instances / f"{self._sequence:06d}-{self.guid}"
        self.topology = Topology(settings, self.instance)

    def take(self) -> bool:
        """Own the directory, once the server that had it has exited with all its processes. Does not wait."""
        if not self.lock.try_acquire():
            return False
        self._own()
        return True

    @property
    def _instances(self) -> Path:
        return self.path / "instances"

    def _own(self) -> None:
        self._starting.release()
        self.stale = list(self._clean())

    def _clean(self) -> Iterator[Path]:
        """Dead instances that hold accepted packets, oldest first; the others are removed."""
        try:
            self._instances.mkdir(mode=0o700, exist_ok=True)
            for folder in sorted(folder for folder in self._instances.iterdir() if folder.is_dir()):
                if folder.name.endswith(self.guid):
                    continue
                if holds_packets(folder):
                    yield folder
                else:
                    shutil.rmtree(folder)
            for socket in self.path.glob("control*.sock"):
                socket.unlink()
        except OSError as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, f"run directory {self._instances}: {error.strerror}") from None

    def adopt_kept(self) -> None:
        """Have what a server that stopped has put into the data directory recovered, too, and first: it is older than
        all that is here. Only for who has the lock of the data directory. Raises CommandFailed."""
        data_dir = Path(self.settings.data_dir)
        try:
            kept = kept_instances(data_dir)
            copied = {folder.name for folder in kept}
            for folder in self.stale:
                if folder.name in copied:  # it died before it could take this one away
                    shutil.rmtree(folder)
        except OSError as error:
            raise CommandFailed(ExitCode.CANNOT_CREATE, f"data directory {data_dir}: {error.strerror}") from None
        self.stale = kept + [folder for folder in self.stale if folder.name not in copied]

    def _last_sequence(self) -> int:
        kept = kept_names(Path(self.settings.data_dir))
        numbers = (name.split("-")[0] for name in [*os.listdir(self._instances), *kept])
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    @property
    def control_socket(self) -> str:
        """One an instance: gateways that take over must not ask the control plane that they take over from."""
        return control_socket_of(self.path, self.instance.name)

    def close(self) -> None:
        """Let go of the locks; workers that inherited them keep them."""
        self._starting.release()
        self.lock.release()

    def lay_out(self) -> None:
        """Make everything of this instance, or nothing and say how much room is missing. Raises CommandFailed."""
        needed = self.topology.shared_bytes()
        self._make_room(needed)
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

    def _make_room(self, needed: int) -> None:
        """Move what dead instances hold into the data directory, oldest first, until this one has room beside them: a
        server that was killed must not keep its successor from starting. Raises CommandFailed."""
        data_dir = Path(self.settings.data_dir)
        for position, folder in enumerate(self.stale):
            if free_bytes(self.path) >= needed:
                return
            try:
                keep(folder, data_dir)
            except (OSError, SegmentError) as error:
                raise CommandFailed(
                    ExitCode.CANNOT_CREATE,
                    f"run directory {self.path}: no room beside the accepted packets of a server that died, which cannot be "
                    f"moved to {data_dir}: {error}; enlarge that file system (in a container: --shm-size) or make room there",
                ) from None
            self.stale[position] = data_dir / "unlogged" / folder.name

    def describe(self, server: dict[str, object]) -> None:
        """Replace server.json in one step: an observer sees the old text or the new one."""
        aside = self.path / "server.json.new"
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(server), indent=1))
        os.replace(aside, self.path / "server.json")


def control_socket_of(run_dir: Path, instance: str) -> str:
    """The Unix socket of the control plane of an instance, named as its folder and in server.json."""
    return str(run_dir / f"control-{int(instance.split('-')[0])}.sock")


def holds_packets(instance: Path) -> bool:
    """Whether a dead instance has anything to recover; True also where that cannot be told."""
    if not (instance / LAID_OUT).exists():
        return False
    try:
        return unlogged_bytes(instance) > 0
    except (SegmentError, OSError):
        return True


def unlogged_bytes(instance: Path, producer: str | None = None) -> int:
    """What an instance's rings and parks hold, or those of one producer. Raises SegmentError, OSError."""
    used = sum(RingView(path).used_bytes for path in write_rings_of(instance, producer or "producer-*"))
    return used + parked_bytes(instance, producer or "*")
