"""``trackside demo``: a server, a car that writes, a reader, and at the end the proof that nothing was lost.

::

    demo ---starts---> server (its own processes)      demo reads their shared memory, nothing else of them
      |                  ^              |
      |             gRPC |              | gRPC
      +--> demo_writer --+              +--> demo_reader
                 numbers and hashes <-> numbers and hashes

Writer and reader are processes of their own and speak gRPC, as anybody's program would. Processes of the server can
be killed on the way (``--kill``); the proof must hold all the same. ``--server`` takes a server that runs already.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

from trackside.bench.demo_proof import Outcome, document, failures
from trackside.bench.demo_server import DemoServer, KillResult, ServerFailed, Shape, find_process
from trackside.bench.demo_view import Moment, View, fill_of, summary
from trackside.bench.ibt import BrokenRecording, Recording
from trackside.bench.running_server import RunningServer
from trackside.bench.talk import Child, ChildFailed
from trackside.client.access import Access
from trackside.shm.observe import Server, flows

__all__ = ["Options", "main"]

LOOK_SECONDS = 0.25
SESSION_SECONDS = 60.0
QUIET_SECONDS = 20.0
READ_SECONDS = 60.0
"""How long after its last packet a writer or a reader may take to be done."""

EXIT_OK, EXIT_NOT_PROVED, EXIT_USAGE, EXIT_CANNOT_CREATE = 0, 1, 2, 73


class Options(Protocol):
    """What the command line gives."""

    seconds: float
    forever: bool
    ibt: str | None
    broker: str | None
    kill: str | None
    gateways: int
    producers: int
    consumers: int
    port: int
    keep: bool
    as_json: bool
    server: str | None
    roots: str | None
    certificate: str | None
    key: str | None
    token_file: str | None


class Plan(NamedTuple):
    """The options, checked. ``kills`` are (second, process), in order."""

    seconds: float | None
    ibt: str | None
    kills: list[tuple[float, str]]
    shape: Shape
    access: Access


class Interrupted(Exception):
    """Somebody wants us to leave now: Ctrl-C a second time, or SIGTERM."""


def main(options: Options) -> int:
    """Run one demonstration; returns its exit code. Errors are one line on stderr."""
    try:
        plan = _plan(options)
    except (ValueError, OSError) as error:
        return _fail(str(error), EXIT_USAGE)
    try:
        server = _server_of(options, plan)
    except OSError as error:
        return _fail(f"no folder for the demo: {error}", EXIT_CANNOT_CREATE)
    try:
        demonstration = Demonstration(plan, server, quiet=options.as_json)
        outcome = demonstration.run()
    except ServerFailed as error:
        return _fail(str(error), error.code)
    except ChildFailed as error:
        return _fail(str(error), EXIT_NOT_PROVED)
    except Interrupted as signalled:
        return 128 + int(signalled.args[0])
    finally:
        server.stop()
        server.remove()
        if isinstance(server, DemoServer) and options.keep:
            print(f"kept: run directory {server.run_dir}, log and messages {server.folder}", file=sys.stderr)
    return _conclude(outcome, options.as_json)


def _plan(options: Options) -> Plan:
    """Raises ValueError, OSError with one line."""
    shape = Shape(options.gateways, options.producers, options.consumers)
    names = [find_process(name.strip(), shape) for name in (options.kill or "").split(",") if name.strip()]
    if names and options.forever:
        raise ValueError("--kill comes half-way, and --forever has no half: use one of them")
    if options.server:
        _check_use_of_a_running_server(options)
    if options.ibt:
        _check_recording(options.ibt)
    access = Access(options.roots or "", options.certificate or "", options.key or "", options.token_file or "")
    access.check()
    kills = [(options.seconds * (index + 1) / (len(names) + 1), name) for index, name in enumerate(names)]
    return Plan(None if options.forever else options.seconds, options.ibt, kills, shape, access)


def _check_use_of_a_running_server(options: Options) -> None:
    """Raises ValueError for no address, and for what only a server of the demo's own can do."""
    if not re.fullmatch(r"\S+:\d{1,5}", options.server or ""):
        raise ValueError(f"--server {options.server}: must be HOST:PORT")
    own = {"kill": None, "broker": None, "port": 0, "keep": False, "gateways": 1, "producers": 1, "consumers": 1}
    asked = [f"--{name}" for name, default in own.items() if getattr(options, name) != default]
    if asked:
        raise ValueError(f"{', '.join(asked)} is for a server of the demo's own, and --server names one that runs")


def _server_of(options: Options, plan: Plan) -> DemoServer | RunningServer:
    """Raises OSError."""
    if options.server:
        return RunningServer(options.server, plan.access)
    return DemoServer(plan.shape, broker=options.broker or "", port=options.port, keep=options.keep)


def _check_recording(path: str) -> None:
    try:
        Recording(path)
    except BrokenRecording:
        raise
    except OSError as error:
        raise OSError(f"--ibt {path}: {error.strerror}") from None


def _fail(reason: str, code: int) -> int:
    print(f"trackside: {reason}", file=sys.stderr)
    return code


def _conclude(outcome: Outcome, as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps(document(outcome)))
    else:
        print(summary(outcome))
    return EXIT_NOT_PROVED if failures(outcome) else EXIT_OK


class Demonstration:
    """One run, from the server's start to its end; everything on the main thread."""

    def __init__(self, plan: Plan, server: DemoServer | RunningServer, *, quiet: bool) -> None:
        self._plan = plan
        self._server = server
        self._quiet = quiet
        self._interrupts = 0
        self._driving = False
        self._begin_ns = time.monotonic_ns()
        self._kills: list[KillResult] = []
        self._fill_max = 0.0
        self._note = "Ctrl-C ends it" if plan.seconds is None else ""

    def run(self) -> Outcome:
        """Raises ServerFailed, ChildFailed, Interrupted."""
        children: list[Child] = []
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, self._on_signal) for number in signals]
        try:
            return self._run(children)
        finally:
            for child in children:
                child.end()
            for number, handler in zip(signals, previous, strict=True):
                signal.signal(number, handler)

    def _run(self, children: list[Child]) -> Outcome:
        self._start_server()
        writer = self._start_writer()
        children.append(writer)
        session = writer.wait("session", SESSION_SECONDS)
        reader = self._start_reader(session)
        children.append(reader)
        reader.wait("reading", SESSION_SECONDS)
        self._begin(writer, reader)
        with View(quiet=self._quiet) as view:
            self._follow(view, session, writer, reader)
            written = self._wait(view, session, writer, reader, writer)
            reader.order(expect=written["written"])
            read = self._wait_for_reader(view, session, writer, reader)
        looked = self._server.wait_until_quiet(QUIET_SECONDS)
        return Outcome(
            drive=session["drive"],
            seconds=self._seconds(),
            written=written,
            read=read,
            kills=[kill.followed_up(looked) for kill in self._kills] if looked else self._kills,
            fill_max=self._fill_max,
            server=looked,
            exit_code=self._server.stop(),
        )

    def _start_server(self) -> None:
        if isinstance(self._server, RunningServer):
            self._say(f"looking for the server on {self._server.address}")
            self._last_look = self._server.start()
            return
        self._say("starting the server")
        self._last_look = found = self._server.start()
        self._say(f"server on 127.0.0.1:{found.port}, pid {found.pid}, log {found.log}")

    def _begin(self, writer: Child, reader: Child) -> None:
        """Both are there: the drive begins, and the reader hears when."""
        writer.order(begin=True)
        clock = writer.wait("clock", SESSION_SECONDS)
        self._begin_ns = clock["begin_ns"]
        self._driving = True
        reader.order(clock={name: clock[name] for name in ("begin_ns", "epoch_ns", "block_ns")})

    # -- the two processes --------------------------------------------------------------------------------------------

    def _start_writer(self) -> Child:
        return self._child("writer", {"seconds": self._plan.seconds, "ibt": self._plan.ibt, "seed": 1})

    def _start_reader(self, session: dict[str, Any]) -> Child:
        return self._child("reader", session)

    def _child(self, name: str, arguments: dict[str, Any]) -> Child:
        log_file = Path(self._server.folder) / f"{name}.log"
        way = {"address": self._server.address, "access": self._plan.access}
        return Child(name, f"trackside.bench.demo_{name}", {**arguments, **way}, log_file)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _follow(self, view: View, session: dict[str, Any], writer: Child, reader: Child) -> None:
        """Until the writer has stopped writing: by itself, or because of Ctrl-C."""
        kills = list(self._plan.kills)
        stopping = False
        while writer.latest("done") is None and writer.latest("ended") is None:
            self._look(view, session, writer, reader)
            if kills and self._seconds() >= kills[0][0]:
                self._kill(kills.pop(0)[1], self._seconds())
            if self._interrupts and not stopping:
                stopping = True
                self._note = "ending; Ctrl-C again leaves at once"
                writer.order(stop=True)
            time.sleep(LOOK_SECONDS)

    def _wait(
        self, view: View, session: dict[str, Any], writer: Child, reader: Child, awaited: Child
    ) -> dict[str, Any]:
        """News ``done`` of ``awaited``, looking meanwhile. Raises ChildFailed."""
        deadline = time.monotonic() + READ_SECONDS
        while awaited.latest("done") is None and awaited.latest("ended") is None and time.monotonic() < deadline:
            self._look(view, session, writer, reader)
            time.sleep(LOOK_SECONDS / 5)
        return awaited.wait("done", 0.0)

    def _wait_for_reader(self, view: View, session: dict[str, Any], writer: Child, reader: Child) -> dict[str, Any]:
        """What it read; what it has read so far when it does not get everything."""
        try:
            return self._wait(view, session, writer, reader, reader)
        except ChildFailed:
            so_far = reader.latest("progress")
            if so_far is None or reader.latest("ended") is not None:
                raise
            return so_far

    def _look(self, view: View, session: dict[str, Any], writer: Child, reader: Child) -> None:
        self._server.check()
        server = self._server.look()
        if server is None:
            return
        self._fill_max = max(self._fill_max, fill_of(server))
        view.show(self._moment(session, writer, reader, server))
        self._last_look = server

    def _moment(self, session: dict[str, Any], writer: Child, reader: Child, server: Server) -> Moment:
        return Moment(
            seconds=self._seconds(),
            session=session,
            writer=writer.latest("done") or writer.latest("progress") or {},
            reader=reader.latest("done") or reader.latest("progress") or {},
            server=server,
            flow=flows(self._last_look, server),
            note=self._note,
        )

    def _kill(self, name: str, at_seconds: float) -> None:
        killed = self._server.kill(name)
        pid, epoch = (killed.pid, killed.epoch) if killed else (0, 0)
        self._note = f"killed {name} (pid {pid}) at {at_seconds:.1f} s"
        self._kills.append(KillResult(name, pid, epoch, at_seconds))

    def _seconds(self) -> float:
        return max(time.monotonic_ns() - self._begin_ns, 0) / 1e9

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """The first Ctrl-C ends the drive and goes on to the proof; before the drive there is nothing to prove."""
        self._interrupts += 1
        if number == signal.SIGTERM or self._interrupts > 1 or not self._driving:
            raise Interrupted(number)

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)
