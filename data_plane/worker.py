"""What a worker does for itself: title, core, parent, shared memory, ready, duty cycle, last words, exit code.

Started as ``python -P -m trackside.data_plane.worker FD`` with its :class:`WorkerSpec` as JSON on descriptor FD.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Protocol

from trackside.data_plane.log import LogConfigurationError, LogState
from trackside.data_plane.spec import WorkerSpec, decode_spec
from trackside.shm.counters import CounterTable
from trackside.shm.fence import UnsupportedMachine, require_ordering
from trackside.shm.liveness import Doorbell, Liveness, WorkerState

__all__ = [
    "EXIT_CANNOT_BOOT",
    "EXIT_CRASHED",
    "EXIT_OK",
    "STOP_SIGNALS",
    "Agent",
    "Worker",
    "log_line",
    "run_agent",
]

EXIT_OK = 0
EXIT_CRASHED = 70  # sysexits EX_SOFTWARE: start a successor
EXIT_CANNOT_BOOT = 78  # sysexits EX_CONFIG: starting again would end the same way

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
"""Blocked in a worker until it can handle them: one that comes while it starts is not its death, and is not lost."""

SLEEP_MS_MAX = 100
"""A sleeper looks again after this long even when nobody rings: the back-stop of the wake-up protocol."""

SPIN_SECONDS = 50e-6
"""How long a worker that has a core of its own looks around before it sleeps: about what a wake-up costs (25-50 us here,
8 us for who rings). A worker that shares its cores sleeps at once: its spinning would be taken from the others."""


class Agent(Protocol):
    """A role as a duty cycle. ``do_work`` returns how much was done, 0 when idle, and never blocks for long."""

    def do_work(self) -> int: ...

    def drained(self) -> bool:
        """Whether nothing that was accepted is left to do; asked while the worker drains."""
        ...

    def close(self) -> None: ...


def log_line(level: str, source: str, event: str, **fields: object) -> None:
    """One structured line on stderr; every process uses this and nothing else.

    A reader that has gone, or a full disk, costs the line and not the process.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    text = "".join(f" {key}={json.dumps(value) if isinstance(value, str) else value}" for key, value in fields.items())
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{stamp}Z {level:5} {source} {event}{text}\n")
        sys.stderr.flush()


class Worker:
    """One incarnation of a slot: its spec, its shared memory, its signals."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.stopping = False
        slot = spec.own_slot
        self.liveness = Liveness(slot.liveness)
        self.counters = CounterTable(slot.counters)
        self.doorbell = Doorbell(slot.doorbell, self.liveness)
        self._log_state: LogState | None = None
        self._others: dict[str, tuple[Liveness, Doorbell]] = {}

    def attach(self, name: str) -> tuple[Liveness, Doorbell]:
        """Liveness (for reading) and doorbell of another process."""
        if name not in self._others:
            slot = self.spec.slot(name)
            liveness = Liveness(slot.liveness, writable=False)
            self._others[name] = liveness, Doorbell(slot.doorbell, liveness)
        return self._others[name]

    def log(self, level: str, event: str, **fields: object) -> None:
        log_line(level, self.spec.name, event, **fields)

    def beat(self) -> None:
        self.liveness.heartbeat_ns = time.monotonic_ns()

    def become(self, state: WorkerState, reason: str = "") -> None:
        """Publish the state and, first, why; logged when it changes."""
        if self.liveness.state == state and self.liveness.read_reason() == reason:
            return
        self.liveness.write_reason(reason)
        self.liveness.state = state
        self.log("info", "state", state=state.name, reason=reason)

    def follow_log_state(self, log: LogState) -> None:
        """READY while the log answers, DEGRADED with its reason while it does not."""
        if log != self._log_state and not self.stopping:
            self._log_state = log
            self.become(WorkerState.READY if log.available else WorkerState.DEGRADED, log.reason)

    def on_stop(self, *_: int | FrameType | None) -> None:
        self.stopping = True
        self.doorbell.ring()


def run_agent(worker: Worker, agent: Agent) -> None:
    """The duty cycle: work while there is work, spin a little, then sleep on the doorbell. Ends when drained."""
    poller = select.poll()
    poller.register(worker.doorbell.fd, select.POLLIN)
    liveness = worker.liveness
    spin_ns = int(SPIN_SECONDS * 1e9) if len(worker.spec.own_slot.cores) == 1 else 0
    idle_since = 0
    deadline: float | None = None
    while True:
        begun = time.monotonic_ns()
        done = agent.do_work()
        liveness.heartbeat_ns = now = time.monotonic_ns()
        if done:
            idle_since = 0
            liveness.work_ns += now - begun
            continue
        if worker.stopping:
            deadline = deadline or time.monotonic() + worker.spec.settings.drain_seconds
            if agent.drained() or time.monotonic() > deadline:
                return
        idle_since = idle_since or now
        if now - idle_since >= spin_ns:
            _sleep(worker, agent, poller)
            idle_since = 0


def _sleep(worker: Worker, agent: Agent, poller: select.poll) -> None:
    """Say "asleep", look once more (else a bell rung in between would be lost), then wait, never for ever."""
    worker.doorbell.prepare_sleep()
    begun = time.monotonic_ns()
    if not agent.do_work():
        poller.poll(10 if worker.stopping else SLEEP_MS_MAX)
    worker.doorbell.woken()
    worker.liveness.idle_ns += time.monotonic_ns() - begun


_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_TIMERSLACK = 1, 15, 29
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def _settle_in(spec: WorkerSpec) -> None:
    """Die with the parent, take the title and the core, keep freed memory (large batches: 5 times faster)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != spec.parent_pid:  # it died before we asked to be told
        os._exit(EXIT_CRASHED)
    libc.prctl(_PR_SET_NAME, f"ts-{spec.name}"[:15].encode(), 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    for option, value in ((_M_MMAP_THRESHOLD, 256 << 20), (_M_TRIM_THRESHOLD, 256 << 20), (_M_TOP_PAD, 16 << 20)):
        libc.mallopt(option, value)
    if spec.own_slot.cores:
        os.sched_setaffinity(0, spec.own_slot.cores)


ROLES = {
    "gateway": "trackside.data_plane.gateway",
    "producer": "trackside.data_plane.producer",
    "consumer": "trackside.data_plane.consumer",
    "forwarder": "trackside.data_plane.forwarder",
    "recovery": "trackside.data_plane.recovery",
}
"""The module that plays each role; it has ``run(worker)``. The control plane has an entry of its own."""


def _read_spec(descriptor: int) -> WorkerSpec:
    with os.fdopen(descriptor, "rb") as file:
        return decode_spec(file.read())


def play(run: Callable[[Worker], None] | None = None) -> NoReturn:
    """The whole life of a process: settle in, ``run`` (of the role, unless given), last words, exit code."""
    spec = _read_spec(int(sys.argv[1]))
    _settle_in(spec)
    worker = Worker(spec)
    worker.become(WorkerState.STARTING)
    worker.beat()
    signal.signal(signal.SIGTERM, worker.on_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    code = _guarded(worker, run)
    os._exit(code)  # threads of grpc and librdkafka must not hold up the end


def _guarded(worker: Worker, run: Callable[[Worker], None] | None) -> int:
    try:
        require_ordering()
        run = run or importlib.import_module(ROLES[worker.spec.role]).run
        gc.freeze()
        run(worker)
    except (LogConfigurationError, UnsupportedMachine) as error:
        return _last_words(worker, str(error), EXIT_CANNOT_BOOT)
    except:  # noqa: E722 - also KafkaError, which confluent-kafka raises although it is no exception class
        return _last_words(worker, traceback.format_exc(), EXIT_CRASHED)
    worker.become(WorkerState.STOPPED)
    return EXIT_OK


def _last_words(worker: Worker, text: str, code: int) -> int:
    worker.liveness.write_last_words(text)
    worker.become(WorkerState.FAILED, text.strip().splitlines()[-1])
    return code


if __name__ == "__main__":
    play()
