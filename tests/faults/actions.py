"""What may happen to a server: the vocabulary of which faults are made.

An action is a function of the :class:`Scene`; the functions here make them. Each leaves processes running that can
become whole again by themselves, and waits only where it says so.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable

from faults.checker import Checker
from faults.lanes import sources
from kafka_broker import KafkaBroker
from server import Server, wait_until

from trackside.data_plane.naming import naming_of
from trackside.data_plane.spec import Settings
from trackside.shm.counters import read_counters
from trackside.shm.liveness import WorkerState

__all__ = [
    "ROLES",
    "Action",
    "Scene",
    "any_of",
    "drain",
    "hang",
    "is_alive",
    "kafka_away",
    "kafka_deletes_topic",
    "kafka_slow",
    "kill",
    "kill_control_plane_without_log",
    "kill_group",
    "kill_starting",
    "kill_supervisor",
    "kill_while_draining",
    "kill_while_recovering",
    "kill_while_starting",
    "lose_run_directory",
    "pause",
    "take_over",
]

ROLES = ("producer", "consumer", "gateway", "control-plane")
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


def readers_of(server: Server, gateway: str) -> int:
    rows = read_counters(server.slot(gateway)["counters"])
    return next((value for name, _, value in rows if name == READERS_METRIC), 0)


Action = Callable[[Scene], None]


def kill(*roles: str) -> Action:
    """SIGKILL one process of each of these roles, at once; a role may be given twice. Waits for all successors."""

    def act(scene: Scene) -> None:
        server = scene.server
        names = dict.fromkeys(scene.victim(role) for role in roles)
        scene.allow_breaks(names)
        epochs = {name: server.liveness(name).epoch for name in names}
        for name in names:
            server.send(name, signal.SIGKILL)
            scene.did[f"SIGKILL {name.rstrip('0123456789').rstrip('-')}"] += 1
        for name, epoch in epochs.items():
            wait_successor(server, name, epoch)

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
        time.sleep(seconds if scene.long else short_seconds)
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
    server.start(wait=False)
    server.wait_state("RECOVERING", "SERVING", "NOT_SERVING")
    time.sleep(scene.rng.uniform(0.0, 0.3))
    scene.allow_all_breaks()
    server.kill_group()
    scene.did["SIGKILL group recovering"] += 1
    server.start()


def kill_while_draining(scene: Scene) -> None:
    server = scene.server
    scene.allow_breaks(server.names("gateway"))
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    time.sleep(scene.rng.uniform(0.0, 0.5))
    server.kill_group()
    scene.did["SIGKILL group draining"] += 1
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
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


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
            time.sleep(seconds if scene.long else short_seconds)
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


def _topic(scene: Scene, stream: str) -> tuple[str, str]:
    """A data source that chance chooses, and the topic of one of its streams."""
    watch = scene.checker.watch
    assert watch is not None
    data_source = scene.rng.choice(sources(watch.prefix))
    naming = naming_of(Settings(domain=watch.domain, naming="domain" if watch.domain else "legacy"))
    return data_source, naming.stream_topic(data_source, stream)


def kafka_deletes_topic(scene: Scene) -> None:
    """A topic is deleted underneath; what was in it is gone, what follows is not."""
    assert scene.broker is not None
    data_source, topic = _topic(scene, "h")
    scene.broker.delete_topic(topic)
    scene.did["topic deleted"] += 1
    scene.checker.wait_more(50)
    scene.checker.forgive(data_source, "h")
