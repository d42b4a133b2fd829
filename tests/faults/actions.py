"""What may happen to a server: the vocabulary of which faults are made.

An action is a function of the :class:`Scene`; the functions here make them. Each leaves processes running that can
become whole again by themselves, and waits only where it says so.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from faults.checker import Checker
from faults.lanes import LABELS, LARGE_BYTES, Lane, sources
from kafka_broker import KafkaBroker
from server import Server, wait_until
from stepped import step_clock

from trackside.control_plane.worker_handle import FRUITLESS_SECONDS
from trackside.data_plane.naming import naming_of
from trackside.data_plane.routing import owner
from trackside.data_plane.spec import Settings
from trackside.shm.counters import read_counters
from trackside.shm.liveness import WorkerState

__all__ = [
    "ROLES",
    "Action",
    "Scene",
    "any_of",
    "disk_full",
    "drain",
    "hang",
    "is_alive",
    "kafka_away",
    "kafka_deletes_topic",
    "kafka_denies_topic",
    "kafka_refuses_large",
    "kafka_slow",
    "kill",
    "kill_control_plane_without_log",
    "kill_group",
    "kill_starting",
    "kill_supervisor",
    "kill_unawaited",
    "kill_while_draining",
    "kill_while_recovering",
    "kill_while_starting",
    "lose_run_directory",
    "pause",
    "step_clock_to",
    "take_over",
]

ROLES = ("producer", "consumer", "gateway", "control-plane")
SMALL_BYTES, AS_BEFORE_BYTES = LARGE_BYTES // 2, 1 << 20
READERS_METRIC = "trackside_gateway_readers"


class Scene:
    """Where a fault happens. ``breaks_allowed`` counts the reads whose own gateway was taken away; ``did`` counts."""

    def __init__(
        self, server: Server, checker: Checker, rng: random.Random, broker: KafkaBroker | None, *, long: bool
    ) -> None:
        self.server = server
        self.checker = checker
        self.rng = rng
        self.broker = broker
        self.long = long
        self.did: Counter[str] = Counter()
        self.breaks_allowed = 0

    @property
    def kills(self) -> int:
        return sum(count for what, count in self.did.items() if what.startswith("SIGKILL"))

    def victim(self, role: str) -> str:
        return self.rng.choice(self.server.names(role))

    def allow_breaks(self, names: Iterable[str]) -> None:
        """The reads of these gateways may break; all who want to read do so by now."""
        readers = self.checker.status["readers"]
        wait_until(lambda: self.checker.status["open"] == readers, "every reader has its call")
        for name in names:
            if name.startswith("gateway"):
                self.breaks_allowed += readers_of(self.server, name)

    def allow_all_breaks(self) -> None:
        """Every read may break once more: nobody can say which of them have come to the server again by now."""
        self.breaks_allowed += self.checker.status["readers"]

    def serving(self) -> None:
        self.server.wait_state("SERVING")

    def stay(self, seconds: float, short_seconds: float = 0.0) -> None:
        """Leave things as bad as they are for so long."""
        time.sleep(seconds if self.long else short_seconds)


def readers_of(server: Server, gateway: str) -> int:
    rows = read_counters(server.slot(gateway)["counters"])
    return next((value for name, _, value in rows if name == READERS_METRIC), 0)


Action = Callable[[Scene], None]


def kill(*roles: str) -> Action:
    """SIGKILL one process of each of these roles, at once; a role may be given twice. Waits for all successors."""

    def act(scene: Scene) -> None:
        server = scene.server
        names = dict.fromkeys(scene.victim(role) for role in roles)
        for name in names:
            _let_live(server.liveness(name).pid)
        scene.allow_breaks(names)
        epochs = {name: server.liveness(name).epoch for name in names}
        for name in names:
            server.send(name, signal.SIGKILL)
            scene.did[f"SIGKILL {name.rstrip('0123456789').rstrip('-')}"] += 1
        for name, epoch in epochs.items():
            wait_successor(server, name, epoch)

    return act


def _let_live(pid: int) -> None:
    """Whoever dies as soon as it has started, time after time, is given up for a while, as it should be."""
    born = psutil.Process(pid).create_time()
    wait_until(lambda: time.time() - born > FRUITLESS_SECONDS + 0.2, "it has lived")


def kill_unawaited(role: str) -> Action:
    """SIGKILL a process whose successor cannot be ready as things are."""

    def act(scene: Scene) -> None:
        name = scene.victim(role)
        scene.allow_breaks([name])
        scene.server.send(name, signal.SIGKILL)
        scene.did[f"SIGKILL {role}"] += 1

    return act


def wait_successor(server: Server, name: str, epoch: int) -> None:
    liveness = server.liveness(name)
    wait_until(lambda: liveness.epoch > epoch and liveness.state == WorkerState.READY, f"successor of {name}")


def kill_starting(role: str) -> Action:
    """Kill a process, and its successor as soon as there is one: while it starts, or a moment later."""

    def act(scene: Scene) -> None:
        server, name = scene.server, scene.victim(role)
        scene.allow_breaks([name])
        liveness = server.liveness(name)
        for again in (True, True, False):
            epoch = liveness.epoch
            server.send(name, signal.SIGKILL)
            scene.did[f"SIGKILL {role} starting"] += 1
            if again:
                wait_until(lambda epoch=epoch: liveness.epoch > epoch and _is_there(liveness.pid), f"{name} is started")
                time.sleep(scene.rng.uniform(0.0, 0.5))
                if role == "gateway":
                    scene.allow_all_breaks()
        wait_successor(server, name, epoch)

    return act


def _is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/stat")


def pause(*roles: str, seconds: float, short_seconds: float = 1.0) -> Action:
    """SIGSTOP, wait, SIGCONT; shorter than StallSeconds, so that nobody is killed."""

    def act(scene: Scene) -> None:
        names = dict.fromkeys(scene.victim(role) for role in roles)
        pids = [scene.server.liveness(name).pid for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        scene.stay(seconds, short_seconds)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for role in roles:
            scene.did[f"SIGSTOP {role}"] += 1

    return act


def hang(role: str) -> Action:
    """SIGSTOP for good: found by its silence, killed and replaced after StallSeconds."""

    def act(scene: Scene) -> None:
        server, name = scene.server, scene.victim(role)
        scene.allow_breaks([name])
        epoch = server.liveness(name).epoch
        server.send(name, signal.SIGSTOP)
        scene.did[f"SIGSTOP {role} for good"] += 1
        wait_successor(server, name, epoch)

    return act


# -- the whole server ------------------------------------------------------------------------------------------------


def kill_group(scene: Scene) -> None:
    """SIGKILL of all processes at once, and the next start."""
    _end(scene, "group")
    scene.server.start()


def kill_supervisor(scene: Scene) -> None:
    """SIGKILL of the parent alone: all others die with it. And the next start."""
    _end(scene, "supervisor")
    scene.server.start()


def _end(scene: Scene, how: str) -> None:
    server = scene.server
    scene.allow_breaks(server.names("gateway"))
    pids = server.pids()
    server.kill_group() if how == "group" else server.kill_supervisor()
    scene.did[f"SIGKILL {how}"] += 1
    wait_until(lambda: not any(map(is_alive, pids)), "no process outlives its supervisor")


def kill_while_starting(scene: Scene) -> None:
    """The group, and again at a moment of the start that chance chooses: laying out, recovering, starting, serving."""
    _end(scene, "group")
    for _ in range(2):
        scene.server.start(wait=False)
        time.sleep(scene.rng.uniform(0.1, 1.5))
        scene.allow_all_breaks()
        scene.server.kill_group()
        scene.did["SIGKILL group starting"] += 1
    scene.server.start()


def kill_while_recovering(scene: Scene) -> None:
    """The log is stopped while packets are accepted, so that the recovery has work, and is killed at it."""
    server = scene.server
    for name in server.names("producer"):
        server.send(name, signal.SIGSTOP)
    wait_until(lambda: sum(ring.used_bytes for ring in server.rings()) > 20_000, "packets wait in rings")
    _end(scene, "group")
    left = set((server.run_dir / "instances").iterdir())
    server.start(wait=False)
    server.wait_state("RECOVERING", "SERVING", "NOT_SERVING")
    time.sleep(scene.rng.uniform(0.0, 0.3))
    scene.allow_all_breaks()
    server.kill_group()
    at_it = any(instance.exists() for instance in left)
    scene.did["SIGKILL group recovering" if at_it else "SIGKILL group just recovered"] += 1
    server.start()


def kill_while_draining(scene: Scene) -> None:
    server = scene.server
    scene.allow_breaks(server.names("gateway"))
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    time.sleep(scene.rng.uniform(0.0, 0.5))
    if server.process.poll() is None:
        scene.did["SIGKILL group draining"] += 1
        server.kill_group()
    else:
        scene.did["SIGTERM"] += 1
    server.start()


def drain(scene: Scene) -> None:
    """SIGTERM under load, and the next start."""
    scene.allow_breaks(scene.server.names("gateway"))
    assert scene.server.stop() == 0
    scene.did["SIGTERM"] += 1
    scene.server.start()


def take_over(scene: Scene) -> None:
    """Another server takes the place of the one that runs."""
    server = scene.server
    scene.allow_breaks(server.names("gateway"))
    before = server.take_over()
    scene.serving()
    assert before.wait(60) == 0, "the server that was drains and leaves"
    scene.did["take-over"] += 1


def lose_run_directory(scene: Scene) -> None:
    """As a power cut: all processes die and the tmpfs is gone. What was told to be logged must be in the log."""
    _end(scene, "group")
    shutil.rmtree(scene.server.run_dir)
    scene.server.start()


def any_of(*actions: Action, count: int) -> Action:
    """So many of them, which ones chance decides; one may come again."""

    def act(scene: Scene) -> None:
        for action in scene.rng.choices(actions, k=count):
            action(scene)
            scene.serving()

    return act


def is_alive(pid: int) -> bool:
    return _state_of(pid) not in ("", "Z")


def _state_of(pid: int) -> str:
    """As ps shows it, empty for one that is not there."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


# -- Kafka -----------------------------------------------------------------------------------------------------------


def kafka_away(*, seconds: float, short_seconds: float, kill: bool = False, meanwhile: Action | None = None) -> Action:
    """The broker is stopped (or killed), stays away, and comes back."""

    def act(scene: Scene) -> None:
        broker = scene.broker
        assert broker is not None
        broker.kill() if kill else broker.stop()
        scene.did["Kafka killed" if kill else "Kafka stopped"] += 1
        try:
            if meanwhile is not None:
                meanwhile(scene)
            scene.stay(seconds, short_seconds)
        finally:
            broker.start()

    return act


def kill_control_plane_without_log(scene: Scene) -> None:
    """Its successor cannot be ready, but it serves what its predecessor knew."""
    liveness = scene.server.liveness("control-plane")
    epoch = liveness.epoch
    scene.server.send("control-plane", signal.SIGKILL)
    scene.did["SIGKILL control-plane, Kafka away"] += 1
    serving = (WorkerState.DEGRADED, WorkerState.READY)
    wait_until(lambda: liveness.epoch > epoch and liveness.state in serving, "a control plane that serves")


def kafka_slow(*, seconds: float, short_seconds: float) -> Action:
    """The broker's process is stopped half of the time, 0.3 s each."""

    def act(scene: Scene) -> None:
        assert scene.broker is not None
        pid = scene.broker.pid
        deadline = time.monotonic() + (seconds if scene.long else short_seconds)
        while time.monotonic() < deadline:
            for number in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(pid, number)
                time.sleep(0.3)
        scene.did["Kafka slow"] += 1

    return act


def _topics(scene: Scene) -> dict[str, str]:
    """Those of a data source that chance chooses: that data source under "", topics under their streams' names."""
    watch = scene.checker.watch
    assert watch is not None
    data_source = scene.rng.choice(sources(watch.prefix))
    naming = naming_of(Settings(domain=watch.domain, naming="domain" if watch.domain else "legacy"))
    topics = {stream: naming.stream_topic(data_source, stream) for stream in LABELS if stream}
    return {"": data_source, "essentials": naming.essentials_topic(data_source)} | topics


def kafka_deletes_topic(scene: Scene) -> None:
    """A topic is deleted underneath. What was in it is gone; what was accepted and not logged yet is not."""
    assert scene.broker is not None
    server, topics = scene.server, _topics(scene)
    data_source, topic = topics[""], topics["h"]
    producers = server.names("producer")
    producer = producers[owner(data_source, len(producers))]
    server.send(producer, signal.SIGSTOP)
    wait_until(lambda: _state_of(server.liveness(producer).pid) == "T", f"{producer} stands still")
    scene.checker.forgive(data_source, "h")

    def of_the_topic(lane: Lane) -> bool:
        return (lane.data_source, lane.stream) == (data_source, "h")

    scene.checker.wait_more(20, of=of_the_topic)
    scene.broker.delete_topic(topic)
    scene.checker.wait_more(20, of=of_the_topic)
    server.send(producer, signal.SIGCONT)
    scene.did["topic deleted"] += 1


def kafka_denies_topic(*, seconds: float, short_seconds: float, meanwhile: Iterable[Action] = ()) -> Action:
    """We may not write a topic any more (one of essentials, at times), and later we may again; one of ``meanwhile``
    happens between. Others are written all the time."""

    def act(scene: Scene) -> None:
        broker, topics = scene.broker, _topics(scene)
        assert broker is not None
        data_source, topic = topics[""], topics[scene.rng.choice(("h", "essentials"))]

        def of_others(lane: Lane) -> bool:
            return lane.data_source != data_source

        broker.forbid_writing(topic)
        try:
            wait_until(lambda: _is_parked(scene.server, topic), f"{topic} is parked")
            scene.did["topic denied"] += 1
            scene.checker.wait_more(of=of_others)
            if meanwhile:
                scene.rng.choice(list(meanwhile))(scene)
                wait_until(lambda: _is_parked(scene.server, topic), f"{topic} is still parked")
                scene.checker.wait_more(of=of_others)
            scene.stay(seconds, short_seconds)
        finally:
            broker.allow_writing(topic)
        wait_until(lambda: not _is_parked(scene.server, topic), f"{topic} is parked no more")

    return act


def _letters(server: Server) -> int:
    return server.log_text().count(" dead letter topic=")


def _is_parked(server: Server, topic: str) -> bool:
    return any(topic in server.liveness(name).read_reason() for name in server.names("producer"))


def kafka_refuses_large(*, seconds: float) -> Action:
    """The topics of a data source take only small packets, until some others have become dead letters, and longer."""

    def act(scene: Scene) -> None:
        assert scene.broker is not None
        before = _letters(scene.server)
        topics = [topic for stream, topic in _topics(scene).items() if stream in LABELS and stream]
        for topic in topics:
            scene.broker.configure_topic(topic, {"max.message.bytes": str(SMALL_BYTES)})
        wait_until(lambda: _letters(scene.server) > before, "a large packet is a dead letter")
        scene.did["large packets refused"] += 1
        scene.stay(seconds)
        for topic in topics:
            scene.broker.configure_topic(topic, {"max.message.bytes": str(AS_BEFORE_BYTES)})

    return act


# -- the clock ------------------------------------------------------------------------------------------------------


def step_clock_to(ahead_seconds: int) -> Action:
    """Somebody sets the clock, so far off the true time. Wants ``Fault.stepped_clock``."""

    def act(scene: Scene) -> None:
        step_clock(scene.server, ahead_seconds)
        scene.did["clock stepped"] += 1

    return act


# -- the disk --------------------------------------------------------------------------------------------------------


def disk_full(*, seconds: float, meanwhile: Iterable[Action] = ()) -> Action:
    """Nothing more fits on the data directory's device, and later there is room again; one of ``meanwhile`` happens
    between. Wants ``Fault.small_disk``."""

    def act(scene: Scene) -> None:
        ballast = scene.server.data_dir / "ballast"
        _fill(ballast)
        try:
            scene.did["disk full"] += 1
            scene.server.wait_state("NOT_SERVING")
            scene.rng.choice(list(meanwhile))(scene)
            scene.stay(seconds)
        finally:
            ballast.unlink()

    return act


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
