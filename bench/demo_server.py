"""The demo's server: started as a user would start it, watched from outside, killed in parts on request."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trackside.bench.talk import last_lines
from trackside.shm.observe import NothingToObserve, Process, Ring, Server, observe

__all__ = [
    "FOLDER_PREFIX",
    "DemoServer",
    "KillResult",
    "ServerFailed",
    "Shape",
    "find_process",
    "is_way_in",
    "remove_leftovers",
]

START_SECONDS = 60.0
STOP_SECONDS = 40.0
_PR_SET_PDEATHSIG = 1
FOLDER_PREFIX, _KEPT_PREFIX = "trackside-demo-", "trackside-kept-"


class ServerFailed(Exception):
    """The server did not start or did not last. ``code`` is its own exit code, or 69 when it runs but does not serve."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


class Shape(NamedTuple):
    gateways: int = 1
    producers: int = 1
    consumers: int = 1

    def names(self) -> list[str]:
        counts = {"gateway": self.gateways, "producer": self.producers, "consumer": self.consumers}
        return [f"{role}-{index}" for role, count in counts.items() for index in range(count)] + ["control-plane"]


class KillResult(NamedTuple):
    """One process that was killed: its slot, which incarnation it was, and the number of its successor once that is
    ready. None: there is none yet."""

    name: str
    pid: int
    epoch: int
    at_seconds: float
    successor_pid: int | None = None

    def followed_up(self, server: Server) -> KillResult:
        """The same with its successor, if the server has one that is ready."""
        process = server.process(self.name)
        if self.successor_pid or process is None or process.epoch <= self.epoch or process.state != "ready":
            return self
        return self._replace(successor_pid=process.pid)


def find_process(name: str, shape: Shape) -> str:
    """The process that ``name`` (``producer-1``, or ``producer`` for the first) means. Raises ValueError."""
    names = shape.names()
    found = name if name in names else f"{name}-0"
    if found not in names:
        raise ValueError(f"no process is named {name!r}; there are {', '.join(names)}")
    return found


class DemoServer:
    """A server with folders of its own, which are removed by :meth:`remove`. Start, stop and look from one thread.

    The run directory lies in /dev/shm where there is one, all else in the folder for temporary files. When this
    process dies, the kernel tells the server to drain.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        broker: str = "",
        port: int = 0,
        keep: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``environment`` are keys of the configuration by their ``TRACKSIDE_`` names."""
        remove_leftovers()
        name = f"{_KEPT_PREFIX if keep else FOLDER_PREFIX}{os.getpid()}-"
        self.keep = keep
        self.folder = Path(tempfile.mkdtemp(prefix=name))
        self.run_dir = Path(tempfile.mkdtemp(prefix=name, dir=_memory_folder()))
        self.log_file = self.folder / "server.log"
        self._options = [f"--{key}={value}" for key, value in shape._asdict().items()]
        self._options += [f"--broker={broker}"] if broker else []
        self._port = port
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start and wait until it serves. Raises ServerFailed."""
        command = [sys.executable, "-P", "-m", "trackside.control_plane", "serve", "--listen=127.0.0.1"]
        command += [f"--port={self._port}", "--key-port=0", "--status-port=0", f"--run-dir={self.run_dir}"]
        command += [f"--data-dir={self.folder / 'data'}", *self._options]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - there are no threads yet
            )
        return self._wait_until_it_serves(self._process)

    def look(self) -> Server | None:
        """What it is now; None before it has described itself."""
        try:
            return observe(self.run_dir, counters=False)
        except NothingToObserve:
            return None

    @property
    def address(self) -> str:
        """Where clients find it, once it serves."""
        server = self.look()
        assert server is not None, "it has described itself"
        return f"127.0.0.1:{server.port}"

    def check(self) -> None:
        """Raises ServerFailed when the server has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise ServerFailed(self._why(code), code if code > 0 else 70)

    def kill(self, name: str) -> Process | None:
        """SIGKILL the process in slot ``name``; what it was, or None when nobody is in it right now."""
        server = self.look()
        process = server.process(name) if server else None
        if process is None or not process.alive:
            return None
        os.kill(process.pid, signal.SIGKILL)
        return process

    def wait_until_quiet(self, seconds: float) -> Server | None:
        """The last look, taken when the rings to the producers were empty and everybody was ready, or the bound passed."""
        deadline = time.monotonic() + seconds
        while True:
            server = self.look()
            if (server and _quiet(server)) or time.monotonic() > deadline:
                return server
            time.sleep(0.02)

    def stop(self) -> int:
        """Drain; the exit code, negative for a signal. Kills it when that takes longer than the bound."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def remove(self) -> None:
        """Take the folders away, unless they are to be kept. After :meth:`stop`."""
        if self.keep:
            return
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> Server:
        deadline = time.monotonic() + START_SECONDS
        server = None
        while time.monotonic() < deadline:
            self.check()
            server = self.look()
            if server and server.pid == process.pid and server.state == "SERVING":
                return server
            time.sleep(0.02)
        state = f"{server.state}: {server.reason}" if server else "it said nothing"
        raise ServerFailed(f"the server does not serve after {START_SECONDS:.0f} s ({state})", 69)

    def _why(self, code: int) -> str:
        said = [line.removeprefix("trackside: ") for line in last_lines(self.log_file, 5) if "trackside: " in line]
        return f"the server ended with {code}: {said[-1] if said else ' '.join(last_lines(self.log_file, 1))}"


def _quiet(server: Server) -> bool:
    waiting = any(ring.used_bytes for ring in server.rings if is_way_in(ring))
    return not waiting and all(process.state == "ready" for process in server.processes)


def is_way_in(ring: Ring) -> bool:
    """Whether a ring carries packets towards the log."""
    return ring.direction == "down" and ring.worker.startswith("producer")


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def remove_leftovers() -> None:
    """Folders of demos that were killed, told by the number of a process that is gone: memory comes back only so."""
    for base in {_memory_folder() or tempfile.gettempdir(), tempfile.gettempdir()}:
        for folder in Path(base).glob(f"{FOLDER_PREFIX}*-*"):
            owner = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
            if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def _die_with_us() -> None:
    """In the child, before exec: SIGTERM, which drains, when the demo's main thread ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
