"""One process slot as the supervisor holds it: start, watch, stop, start again."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import msgspec

from trackside.control_plane.config_keys import KEYS
from trackside.control_plane.poison_watch import PoisonWatch, is_own_end
from trackside.data_plane.spec import SlotSpec, WorkerSpec, encode_spec
from trackside.data_plane.worker import EXIT_CANNOT_BOOT, EXIT_CRASHED, STOP_SIGNALS, log_line
from trackside.shm.liveness import Liveness, WorkerState

__all__ = ["WorkerHandle"]

MODULES = {"control-plane": "trackside.control_plane.process"}
WORKER_MODULE = "trackside.data_plane.worker"

BACK_OFF_SECONDS = (0.0, 0.2, 1.0, 2.0, 5.0)
"""Before the first, second ... start after deaths without progress in between; the last one repeats."""

EXEC_AGAIN_SECONDS = 1.0

GIVE_UP_DEATHS, GIVE_UP_SECONDS = 5, 60.0
"""Deaths before it was ready, or within FRUITLESS_SECONDS of its start, after which a slot is given up: so many of them in
this time, with none between that came later in a life."""

FRUITLESS_SECONDS = 1.0
"""Who dies so soon has perhaps booted, but dies of its work."""

GIVEN_UP_SECONDS, GIVEN_UP_SECONDS_MAX = 60.0, 600.0
"""How long a slot stays given up: what it died of may have gone meanwhile, such as a full disk. Twice as long each time
that it was in vain, up to the second. What says that it can never boot stays given up."""

AFTER_DEATH = {"waiting": "died and is being started again", "given_up": "died and was given up", "done": "died"}
"""What a reason says of a dead process, by the state of its slot."""


class WorkerHandle:
    """States by name: ``idle`` (not wanted), ``running``, ``waiting`` (dead, back-off), ``given_up`` (dead, for
    long or for ever), ``done``."""

    def __init__(
        self, slot: SlotSpec, pass_fds: tuple[int, ...], stall_seconds: float, poison: PoisonWatch | None = None
    ) -> None:
        self.slot = slot
        self.name = slot.name
        self.liveness = Liveness(slot.liveness)
        self.state = "idle"
        self.exit_code: int | None = None
        self._pass_fds = pass_fds
        self._stall_seconds = stall_seconds
        self._poison = poison
        self._process: subprocess.Popen[bytes] | None = None
        self._spec: WorkerSpec | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._killed = False
        self._fruitless: list[float] = []
        self._given_up_seconds = GIVEN_UP_SECONDS  # the next time

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def up(self) -> bool:
        """Booted, whatever it says of the log."""
        return self.running and self.liveness.state in (WorkerState.READY, WorkerState.DEGRADED)

    def start(self, spec: WorkerSpec) -> None:
        """Exec the worker. From the supervisor's main thread only: the parent-death signal is per thread.

        A machine that has no process or no memory to give is asked again after a while: the state is ``waiting`` then.
        """
        # The state first: who sees the new epoch must not take the READY of the old one for its own.
        self.liveness.state = WorkerState.STARTING
        self.liveness.epoch += 1
        self.liveness.heartbeat_ns = time.monotonic_ns()
        careful = self._poison is not None and self._poison.careful
        self._spec = msgspec.structs.replace(spec, epoch=self.liveness.epoch, careful=careful)
        try:
            self._process = self._exec(self._spec)
        except OSError as error:
            self._start_at = time.monotonic() + EXEC_AGAIN_SECONDS
            self.state = "waiting"
            self.liveness.write_reason(f"process {self.name} cannot be started: {error}")
            log_line("error", "supervisor", "worker cannot be started", worker=self.name, reason=str(error))
            return
        self.liveness.pid = self._process.pid
        self.liveness.started_ns = time.monotonic_ns()
        self._started_at = time.monotonic()
        self._killed = False
        self.state = "running"

    def _exec(self, spec: WorkerSpec) -> subprocess.Popen[bytes]:
        descriptor = os.memfd_create("spec", 0)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(encode_spec(spec))
            os.lseek(descriptor, 0, os.SEEK_SET)
            # -P: a folder named trackside in the working directory must not be run instead.
            command = [sys.executable, "-P", "-m", MODULES.get(self.slot.role, WORKER_MODULE), str(descriptor)]
            fds = (descriptor, *self._pass_fds)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # inherited
            try:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=fds, env=_environment()
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        finally:
            os.close(descriptor)

    def watch(self, *, restart: bool, start_seconds: float, awake_since: float = 0.0) -> None:
        """Look once: reap, judge, kill what hangs, start what is due.

        ``awake_since`` (CLOCK_MONOTONIC, seconds) is when this process itself began to look without a gap: nobody is
        blamed for silence before, since what stopped the supervisor has probably stopped them, too.
        """
        if self.state in ("waiting", "given_up") and restart and time.monotonic() >= self._start_at:
            assert self._spec is not None
            self.liveness.restarts += 1
            self.start(self._spec)
        if not self.running or self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self._on_exit(code, restart)
        elif not self._killed and (reason := self._hangs(start_seconds, awake_since)):
            log_line("error", "supervisor", "killed a worker that hangs", worker=self.name, pid=self.pid, reason=reason)
            self.kill()

    def _hangs(self, start_seconds: float, awake_since: float) -> str:
        """Why it must be replaced; empty when it is fine. Death is proven by reaping, never by a time-out alone."""
        now = time.monotonic()
        silent = now - max(self.liveness.heartbeat_ns / 1e9, awake_since)
        if self.liveness.state == WorkerState.STARTING:
            if now - max(self._started_at, awake_since) > start_seconds:
                return f"not ready within {start_seconds:g} s; look at the machine's load, the disk and the lines above"
            return ""
        return f"no heartbeat for {silent:.0f} s" if silent > self._stall_seconds else ""

    def _on_exit(self, code: int, restart: bool) -> None:
        self.exit_code = self.liveness.last_exit = code
        self._process = None
        if code == 0 and (not restart or self.slot.role == "recovery"):
            self.state = "done"
            return
        booted = self.liveness.state not in (WorkerState.STARTING, WorkerState.FAILED)
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        if code not in (EXIT_CRASHED, EXIT_CANNOT_BOOT):  # else they are its own
            self.liveness.write_last_words(how)
        words = self.liveness.read_last_words().strip()
        last_line = words.splitlines()[-1] if words else ""
        log_line("error", "supervisor", "worker died", worker=self.name, how=how, last_words=last_line)
        if self._poison is not None:
            self._poison.on_death(is_own_end(code, hung=self._killed))
        if restart:
            self._plan_restart(code, booted)
        else:
            self.state = "done"
        # Said for the dead, who may have left READY there: until its successor says otherwise nobody may count on it.
        self.liveness.write_reason(f"process {self.name} {AFTER_DEATH[self.state]}: {last_line}")
        self.liveness.state = WorkerState.FAILED

    def _plan_restart(self, code: int, booted: bool) -> None:
        now = time.monotonic()
        if booted and now - self._started_at > FRUITLESS_SECONDS:
            self._fruitless.clear()  # it worked: this death is not one of a series
            self._given_up_seconds = GIVEN_UP_SECONDS
        self._fruitless = [at for at in self._fruitless if now - at < GIVE_UP_SECONDS]
        hopeless = len(self._fruitless) >= GIVE_UP_DEATHS and not (self._poison is not None and self._poison.moved)
        if code == EXIT_CANNOT_BOOT or hopeless:
            self._give_up(math.inf if code == EXIT_CANNOT_BOOT else now + self._given_up_seconds)
            return
        self._start_at = now + BACK_OFF_SECONDS[min(len(self._fruitless), len(BACK_OFF_SECONDS) - 1)]
        self._fruitless.append(now)
        self.state = "waiting"

    def _give_up(self, until: float) -> None:
        again = "never" if until == math.inf else f"in {self._given_up_seconds:g} s"
        log_line(
            "error", "supervisor", "worker given up", worker=self.name, deaths=len(self._fruitless), started_again=again
        )
        self.state = "given_up"
        self._start_at = until
        self._given_up_seconds = min(2 * self._given_up_seconds, GIVEN_UP_SECONDS_MAX)

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        self._killed = True
        if self._process is not None:
            self._process.kill()


SECRET_VARIABLES = {variable.lower() for key in KEYS if key.secret for variable in key.variables}


def _environment() -> dict[str, str]:
    """For a worker, which is told everything by its spec: without secrets, which anybody of our user could read there.

    grpc would write a line of its own for each client that fails at TLS, so it is quiet unless asked not to be.
    """
    kept = {name: value for name, value in os.environ.items() if name.lower() not in SECRET_VARIABLES}
    return {"GRPC_VERBOSITY": "ERROR", **kept}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"
