"""The supervisor: the parent of all processes, and the only one that never touches a packet.

It owns the run directory with all shared memory, the table of processes, the reservation of the ports, restarts,
signals and what systemd is told. Everything happens on its main thread in one loop of at most 50 ms a round.

Start: lock, lay out, start gateways, consumers, control plane; recover what dead instances left; start producers.
Nothing new gets into the log before that is through: only producers write it.
Take-over: the same, but the lock is had after the gateways are up, from a server that drains (``take_over.py``).
Stop: gateways first (take no more, end streams with a status), then the control plane, then producers (log what the
rings hold) and consumers, within the drain bound.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from trackside.control_plane.embedded import LIFELINE
from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.kept import keep
from trackside.control_plane.notify import Notifier
from trackside.control_plane.poison_watch import PoisonWatch, commits_of
from trackside.control_plane.ports import PortReservation
from trackside.control_plane.run_directory import LOCK_WAIT_SECONDS, RunDirectory, lock_directory, unlogged_bytes
from trackside.control_plane.take_over import Predecessor, find_predecessor, log_name
from trackside.control_plane.topology import RECOVERY
from trackside.control_plane.worker_handle import WorkerHandle
from trackside.data_plane.data_dir import claim_data_dir
from trackside.data_plane.log import LogConfigurationError
from trackside.data_plane.poison import trial_of
from trackside.data_plane.spec import Settings, SlotSpec, WorkerSpec
from trackside.data_plane.worker import log_line
from trackside.shm.fence import UnsupportedMachine, require_ordering
from trackside.shm.liveness import WorkerState, create_doorbell
from trackside.shm.segment import Locked, SegmentError

__all__ = ["Supervisor", "run_server"]

ROUND_SECONDS = 0.05
WATCHDOG_SECONDS = 1.0

GAP_SECONDS = 1.0
"""Two looks at the workers that are further apart than this mean that the supervisor itself was stopped."""

DRAIN_SHARES = (
    (("gateway",), 0.5),
    (("control-plane", "recovery"), 0.6),
    (("producer",), 1.0),
    (("consumer", "forwarder"), 1.0),
)
"""Who is stopped after whom, and which part of the drain bound may have passed by then."""

TAKE_OVER_SECONDS = 10.0
"""Beyond its drain bound, what a server that is taken over from has for exiting with all its processes."""

TAKE_OVER_ROUND_SECONDS = 0.01

KAFKA_ROLES = ("producer", "consumer", "recovery", "forwarder")
"""Who talks to Kafka, and is told its credentials. Gateways, which anybody on the network may try, are not."""

RECOVERY_FIRST = "what a server before had accepted is logged first"

LEAVE_SECONDS = 2.0
"""What a process has for leaving when the bound has passed; it needs milliseconds."""


def run_server(
    settings: Settings, *, banner: bool = True, warnings: Sequence[str] = (), take_over: bool = False
) -> int:
    """Run a server until SIGTERM or SIGINT; returns an exit code. Blocks. Raises CommandFailed before it serves.

    ``warnings`` about the settings are logged when nothing is in the way of the start. With ``take_over`` from the
    server that has the run directory, if there is one.
    """
    try:
        require_ordering()
    except UnsupportedMachine as error:
        raise CommandFailed(ExitCode.CONFIGURATION, str(error)) from None
    os.umask(0o077)  # for all processes: whatever they make is for the server's user alone
    supervisor = Supervisor(settings, banner=banner, predecessor=find_predecessor(settings) if take_over else None)
    for warning in warnings:
        log_line("warn", "supervisor", "configuration", reason=warning)
    try:
        return supervisor.run()
    finally:
        supervisor.close()


class Supervisor:
    def __init__(self, settings: Settings, *, banner: bool = True, predecessor: Predecessor | None = None) -> None:
        self.settings = settings
        self._banner = banner
        self._predecessor = predecessor
        self._began = time.monotonic()
        self._stop_signal = 0
        self._state = ""
        self._served = False
        self._recovered = False
        self._described: object = None
        self._not_described = ""  # why server.json could not be written
        self._pinged_at = 0.0
        self._watched_at = self._awake_since = time.monotonic()
        self._systemd = Notifier()
        self._lifeline = select.poll()
        if LIFELINE in os.environ:
            self._lifeline.register(int(os.environ.pop(LIFELINE)), select.POLLIN)
        join = predecessor is not None
        self.run_directory = RunDirectory(settings, beside=join)
        data_dir = Path(settings.data_dir)
        self._data_lock = lock_directory(data_dir, "data directory", self.run_directory.guid, take=not join)
        _check_data_directory(data_dir)
        if not join:
            self.run_directory.adopt_kept()
        port, key_port, status_port = _wanted_ports(settings, predecessor)
        self._ports = [
            PortReservation(settings.listen_address, port, "StreamApiPort", join=join),
            PortReservation(settings.listen_address, key_port, "KeyGeneratorPort", join=join),
        ]
        self._status_port = PortReservation(settings.status_address, status_port, "PrometheusMetricPort", join=join)
        self.run_directory.lay_out()
        topology = self.run_directory.topology
        self._doorbells = {name: create_doorbell() for name, _, _ in topology.names}
        self.slots = topology.slots(self._doorbells)
        self.links = topology.links()
        self._log_tables = topology.log_tables()
        pass_fds = (self.run_directory.lock.fd, self._data_lock.fd, *self._doorbells.values())
        self.workers = {
            slot.name: WorkerHandle(slot, pass_fds, self._stall_seconds(slot), self._poison_watch(slot))
            for slot in self.slots
        }

    def _stall_seconds(self, slot: SlotSpec) -> float:
        return self.settings.gateway_stall_seconds if slot.role == "gateway" else self.settings.stall_seconds

    def _poison_watch(self, slot: SlotSpec) -> PoisonWatch | None:
        """Of those that take records from write rings."""
        directory = self.run_directory
        trial = trial_of(directory.instance, slot.name)
        if slot.role == "producer":
            return PoisonWatch(trial, lambda: commits_of([directory.instance], slot.name))
        # Which instances are dead is known later where this server takes over.
        return PoisonWatch(trial, lambda: commits_of(directory.stale)) if slot.role == "recovery" else None

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        self._catch_signals()
        self._start(self._of_roles("gateway"))
        if self._predecessor is not None and not self._take_over(self._predecessor):
            return int(ExitCode.OK)
        while not self._stop_signal:
            self._watch(restart=True)
            self._recovered = self._recovered or self._is_recovered()
            self._start_next()
            if failed := self._cannot_serve():
                return failed
            self._tell()
            self._wait()
        return self._drain()

    # -- taking over --------------------------------------------------------------------------------------------------

    def _take_over(self, old: Predecessor) -> bool:
        """Until what the old server had is ours; False when a signal came before it was asked to drain.

        Raises CommandFailed, and leaves the old one as it is, when our gateways cannot be brought up beside it.
        """
        gateways = self._of_roles("gateway")
        if not self._await(lambda: all(gateway.up for gateway in gateways), self.settings.start_seconds, gateways):
            self._stop_all(gateways, LEAVE_SECONDS)
            shutil.rmtree(self.run_directory.instance, ignore_errors=True)
            if self._stop_signal:
                return False
            why = next(
                filter(None, (gateway.liveness.read_reason() for gateway in gateways)), "they are not up in time"
            )
            raise CommandFailed(
                ExitCode.TRY_AGAIN, f"cannot take over, the gateways do not start: {why}; pid {old.pid} goes on"
            )
        log_line("info", "supervisor", "taking over", pid=old.pid)
        begun = time.monotonic()
        old.drain()
        if not self._await(self.run_directory.take, self.settings.drain_seconds + TAKE_OVER_SECONDS):
            log_line("warn", "supervisor", "killed the server before, which did not drain in time", pid=old.pid)
            old.kill()
            if not self._await(self.run_directory.take, TAKE_OVER_SECONDS):
                raise CommandFailed(ExitCode.TRY_AGAIN, f"cannot take over: processes of pid {old.pid} do not exit")
        self._take_data_lock()
        old.close()
        log_line("info", "supervisor", "took over", pid=old.pid, seconds=round(time.monotonic() - begun, 3))
        return True

    def _await(self, condition: Callable[[], bool], seconds: float, needed: Sequence[WorkerHandle] = ()) -> bool:
        """Looks after the workers meanwhile; gives up early when one of those ``needed`` is given up, or at a signal."""
        deadline = time.monotonic() + seconds
        while not condition():
            given_up = any(worker.state == "given_up" for worker in needed)
            if given_up or (needed and self._stop_signal) or time.monotonic() > deadline:
                return False
            self._watch(restart=True)
            time.sleep(TAKE_OVER_ROUND_SECONDS)
        return True

    def _take_data_lock(self) -> None:
        """Held by the same processes as the run directory's, unless the data directory is another server's."""
        try:
            self._data_lock.acquire(LOCK_WAIT_SECONDS)
        except Locked as error:
            raise CommandFailed(ExitCode.TRY_AGAIN, f"data directory {error}; stop that server") from None
        self.run_directory.adopt_kept()

    # -- the loop, by parts -------------------------------------------------------------------------------------------

    def _is_recovered(self) -> bool:
        """Whether nothing is left of dead instances. While there is, the recovery runs; also again, if somebody
        stopped it before it was done."""
        recovery = self.workers[RECOVERY]
        if recovery.state in ("idle", "done") and any(folder.exists() for folder in self.run_directory.stale):
            self._start([recovery])
        return recovery.state in ("idle", "done")

    def _start_next(self) -> None:
        """Who may run by now. Reading, and answering what is known, need not wait for the recovery; the log may, for long.

        A control plane decides nothing new while a producer is not READY, and asks where the log ends after that: so no
        decision misses what the recovery has logged.
        """
        roles = ("consumer", "control-plane") + (("producer", "forwarder") if self._recovered else ())
        reason = "" if self._recovered else self._recovery_reason()
        for producer in self._of_roles("producer"):
            if producer.state == "idle" and producer.liveness.read_reason() != reason:
                producer.liveness.write_reason(reason)  # for who asks why it is not there
        self._start([worker for worker in self._of_roles(*roles) if worker.state == "idle"])

    def _recovery_reason(self) -> str:
        """What all wait for until the recovery is through, whether it runs, has died, or was given up."""
        why = self.workers[RECOVERY].liveness.read_reason()
        return f"{RECOVERY_FIRST}: {why}" if why else RECOVERY_FIRST

    def _watch(self, *, restart: bool) -> None:
        now = time.monotonic()
        if now - self._watched_at > GAP_SECONDS:  # a container was paused, or the machine could not keep up
            self._awake_since = now
        self._watched_at = now
        for worker in self.workers.values():
            worker.watch(restart=restart, start_seconds=self.settings.start_seconds, awake_since=self._awake_since)

    def _cannot_serve(self) -> int:
        """Exit code when a worker can never boot, and the server was not up before; else 0.

        While the log is away the server is up; when the log answers at last that it refuses the credentials, they are
        as wrong as they were at the start. A recovery that dies again and again keeps what it has; so does the server.
        """
        if self._served:
            return 0
        up = self._state == "NOT_SERVING"
        for worker in self._wanted():
            goes_on = up or worker.slot.role == "recovery"
            if worker.state == "given_up" and (not goes_on or worker.exit_code == ExitCode.CONFIGURATION):
                words = worker.liveness.read_last_words().strip().splitlines()
                self._stop_all(self.workers.values(), 5.0)
                # Last, where its user looks first.
                print(f"trackside: {worker.name} cannot start: {words[-1] if words else ''}", file=sys.stderr)
                return worker.exit_code if worker.exit_code and worker.exit_code > 0 else int(ExitCode.INTERNAL)
        return 0

    def _wait(self) -> None:
        """A round. A signal ends it at once; so does the end of the lifeline: the program around us has gone."""
        for descriptor, _ in self._lifeline.poll(ROUND_SECONDS * 1000):
            self._lifeline.unregister(descriptor)
            self._stop_signal = signal.SIGTERM

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)

    def _on_stop(self, number: int, _: FrameType | None) -> None:
        self._stop_signal = number

    # -- starting -----------------------------------------------------------------------------------------------------

    def _of_roles(self, *roles: str) -> list[WorkerHandle]:
        return [worker for worker in self.workers.values() if worker.slot.role in roles]

    def _start(self, workers: Iterable[WorkerHandle]) -> None:
        for worker in workers:
            worker.start(self._spec_of(worker.slot))

    def _spec_of(self, slot: SlotSpec) -> WorkerSpec:
        own = [link for link in self.links if slot.name in (link.peer, link.worker)]
        directory = self.run_directory
        return WorkerSpec(
            name=slot.name,
            role=slot.role,
            index=slot.index,
            epoch=0,
            parent_pid=os.getpid(),
            instance=str(directory.instance),
            settings=self.settings if slot.role in KAFKA_ROLES else self.settings.without_kafka(),
            slots=self.slots,
            links=own,
            all_links=self.links,
            control_socket=directory.control_socket,
            log_tables=self._log_tables_of(slot),
            stale_instances=[str(folder) for folder in directory.stale],
            public_addresses=[port.address for port in self._ports] if slot.role == "gateway" else [],
            status_port=self._status_port.port if slot.role == "control-plane" else 0,
            holds_writes=self._predecessor is not None and slot.role == "gateway",
        )

    def _log_tables_of(self, slot: SlotSpec) -> list[str]:
        """The recovery has one of its own, last for those who read: they may run while it writes the log."""
        recovery = str(self.run_directory.instance / "recovery.log-table")
        if slot.role == "recovery":
            return [recovery]
        return [*self._log_tables, recovery] if self.run_directory.stale else self._log_tables

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        state, reason = self._judge()
        self._served = self._served or state == "SERVING"
        if state != self._state:
            self._state = state
            log_line("info", "supervisor", "state", state=state, reason=reason)
            if state in ("SERVING", "NOT_SERVING"):
                self._systemd.ready(f"{state.lower().replace('_', ' ')} {reason}")
                self._print_banner(state, reason)
        self._describe(reason)
        if time.monotonic() - self._pinged_at > WATCHDOG_SECONDS:
            self._pinged_at = time.monotonic()
            self._systemd.watchdog()

    def _judge(self) -> tuple[str, str]:
        """SERVING when all say READY; NOT_SERVING with the reason when all are up but the log or a process is not."""
        wanted = [worker for worker in self._wanted() if worker.slot.role != "recovery"]
        if not self._recovered:
            return self._judge_recovery([worker for worker in wanted if worker.state != "idle"])
        if self._state not in ("SERVING", "NOT_SERVING") and not all(worker.up for worker in wanted):
            return "STARTING", ""
        for worker in wanted:
            state = worker.liveness.state
            if not worker.running or state != WorkerState.READY:
                return "NOT_SERVING", worker.liveness.read_reason() or f"{worker.name} is {state.name.lower()}"
        return "SERVING", ""

    def _judge_recovery(self, started: Sequence[WorkerHandle]) -> tuple[str, str]:
        """NOT_SERVING when all are up that can be, and the recovery says why it waits: up, with the old rings kept."""
        says_why = bool(self.workers[RECOVERY].liveness.read_reason())
        if self._state == "NOT_SERVING" or (says_why and all(worker.up for worker in started)):
            return "NOT_SERVING", self._recovery_reason()
        return "RECOVERING", ""

    def _wanted(self) -> list[WorkerHandle]:
        """Everybody without whom the server does not serve. Nobody but its observers minds whether the forwarder works."""
        return [worker for worker in self.workers.values() if worker.slot.role != "forwarder"]

    def _describe(self, reason: str) -> None:
        """server.json, whenever something in it changed."""
        shown = [
            worker
            for worker in self.workers.values()
            if worker.slot.role != "recovery" or worker.state not in ("idle", "done")
        ]
        ended = [worker for worker in self.workers.values() if worker not in shown and worker.liveness.epoch]
        server: dict[str, object] = {
            "instance": self.run_directory.instance.name,
            "pid": os.getpid(),
            "state": self._state,
            "reason": reason,
            "port": self._ports[0].port,
            "key_port": self._ports[1].port,
            "status_port": self._status_port.port,
            "log": log_name(self.settings),
            "processes": [_process_entry(worker) for worker in shown],
            "ended": [_process_entry(worker) for worker in ended],
            "links": [
                {"peer": link.peer, "worker": link.worker, "down": link.down, "up": link.up} for link in self.links
            ],
        }
        if server != self._described:
            self._write_description(server)

    def _write_description(self, server: dict[str, object]) -> None:
        """A full tmpfs costs observers the news, and nobody else anything; tried again every round."""
        try:
            self.run_directory.describe(server)
        except OSError as error:
            if self._not_described != str(error):
                self._not_described = str(error)
                log_line("error", "supervisor", "server.json cannot be written", reason=str(error))
        else:
            self._described, self._not_described = server, ""

    def _print_banner(self, state: str, reason: str) -> None:
        """Once: what changes later is a line of the log."""
        if not self._banner:
            return
        self._banner = False
        s = self.settings
        log = log_name(s)
        log += f", forwarded to {s.forward_to}" if s.forward_to else ""
        shape = f"{s.gateways} gateway(s), {s.producers} producer(s), {s.consumers} consumer(s)"
        host = "localhost" if s.listen_address in ("0.0.0.0", "127.0.0.1", "::") else s.listen_address
        verdict = "ready" if state == "SERVING" else f"up, NOT SERVING: {reason};"
        lines = [
            f"trackside  pid {os.getpid()}  run {s.run_dir}  log {log}",
            f"  gRPC  {self._ports[0].address}   keys {self._ports[1].address}   {shape}",
            f"  metrics  http://{self._status_port.address}/metrics",
            f"{verdict} after {time.monotonic() - self._began:.1f} s.  A client's address: {host}:{self._ports[0].port}",
            f"next:  trackside top --run-dir {s.run_dir}",
        ]
        with contextlib.suppress(OSError):  # nobody reads it
            print("\n".join(lines), flush=True)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _drain(self) -> int:
        """Everything that was accepted is logged within the bound, or kept for the next start."""
        self._state = "DRAINING"
        log_line("info", "supervisor", "state", state=self._state, signal=signal.Signals(self._stop_signal).name)
        self._systemd.stopping("draining")
        self._describe("")
        begun = time.monotonic()
        for roles, share in DRAIN_SHARES:
            if "producer" in roles:
                self._start(self._missing_producers())
            left = begun + share * self.settings.drain_seconds - time.monotonic()
            self._stop_all(self._of_roles(*roles), max(left, LEAVE_SECONDS))
        self._state = "STOPPED"
        self._describe("")
        self._keep_unlogged()
        log_line("info", "supervisor", "state", state="STOPPED")
        return int(ExitCode.OK)

    def _keep_unlogged(self) -> None:
        """Out of the run directory, which may not outlive this machine's boot; what cannot be kept stays there, and so
        does all that is younger."""
        directory = self.run_directory
        held = {folder: _held_bytes(folder) for folder in (*directory.stale, directory.instance) if folder.exists()}
        if not held.get(directory.instance):
            shutil.rmtree(directory.instance, ignore_errors=True)
        held = {folder: size for folder, size in held.items() if size}
        if not held:
            return
        kept_in = self.settings.data_dir
        try:
            for folder in held:
                keep(folder, Path(self.settings.data_dir))
        except (OSError, SegmentError) as error:
            log_line("error", "supervisor", "unlogged packets stay in the run directory", reason=str(error))
            kept_in = self.settings.run_dir
        what = "not everything was logged; the next start recovers it"
        log_line("warn", "supervisor", what, bytes=sum(held.values()), kept_in=kept_in)

    def _missing_producers(self) -> list[WorkerHandle]:
        """Producers that have gone before their gateways, though something is left to log: a signal to the whole
        group stops all at once. Started once more, they drain as any other. None before all is recovered that is older:
        it would stand behind what is younger."""
        instance = self.run_directory.instance
        if any(folder.exists() for folder in self.run_directory.stale):
            return []
        return [
            worker
            for worker in self._of_roles("producer")
            if not worker.running and unlogged_bytes(instance, worker.name)
        ]

    def _stop_all(self, workers: Iterable[WorkerHandle], seconds: float) -> None:
        """SIGTERM, wait within the bound, then SIGKILL: what they hold is in shared memory."""
        stopping = [worker for worker in workers if worker.running]
        for worker in stopping:
            worker.terminate()
        for kill in (False, True):
            deadline = time.monotonic() + (5.0 if kill else seconds)
            for worker in _running(stopping) if kill else ():
                log_line("warn", "supervisor", "killed a worker that did not stop", worker=worker.name, seconds=seconds)
                worker.kill()
            while any(_running(stopping)) and time.monotonic() < deadline:
                self._watch(restart=False)
                time.sleep(0.01)

    def close(self) -> None:
        """Let go of ports and locks; kills what may still run when the supervisor itself fails."""
        for worker in self.workers.values():
            worker.kill()
        for port in (*self._ports, self._status_port):
            port.close()
        self._data_lock.release()
        self.run_directory.close()


def _wanted_ports(settings: Settings, predecessor: Predecessor | None) -> tuple[int, int, int]:
    """As configured; 0, any that is free, means those of the server that is taken over from."""
    wanted = (settings.port, settings.key_port, settings.status_port)
    if predecessor is None:
        return wanted
    port, key_port, status_port = (own or its for own, its in zip(wanted, predecessor.ports, strict=True))
    return port, key_port, status_port


def _check_data_directory(path: Path) -> None:
    """Writes into it which format it has, whatever log the server has: dead letters, checkpoints and keys lie there, too.

    Raises CommandFailed when a newer version wrote it, or when it cannot be understood."""
    try:
        claim_data_dir(path)
    except LogConfigurationError as error:
        raise CommandFailed(ExitCode.CONFIGURATION, str(error)) from None
    except OSError as error:
        raise CommandFailed(ExitCode.CANNOT_CREATE, f"data directory {path}: {error.strerror}") from None


def _process_entry(worker: WorkerHandle) -> dict[str, object]:
    """A process in server.json."""
    return {
        "name": worker.name,
        "role": worker.slot.role,
        "pid": worker.pid,
        "cores": worker.slot.cores,
        "liveness": worker.slot.liveness,
        "counters": worker.slot.counters,
    }


def _held_bytes(instance: Path) -> int:
    """Something, too, where damage does not let us see how much."""
    try:
        return unlogged_bytes(instance)
    except (OSError, SegmentError):
        return 1


def _running(workers: Iterable[WorkerHandle]) -> Iterator[WorkerHandle]:
    return (worker for worker in workers if worker.running)
