"""The faults, by name: what happens, to which logs, and which promises it is about."""

from __future__ import annotations

from typing import NamedTuple

from faults import actions as do
from faults.actions import ROLES, Action
from stepped import HOUR_SECONDS

__all__ = ["FAULTS", "Fault"]

BOTH = ("local", "kafka")


class Fault(NamedTuple):
    """``actions`` are one round, each under load. ``repeats``: packets may stand twice in Kafka afterwards.

    ``short``: on which logs and in which shapes the short form has it; the long form has all. ``statuses``: what writes
    may be answered with besides the usual. Without ``keeps_rings`` what only rings had may be lost, with all connections.
    ``secured``: Kafka asks the server who it is. ``small_disk``: the data directory is on a tmpfs of its own, which wants root.
    ``stepped_clock``: the clock can be set.
    """

    name: str
    title: str
    promises: tuple[int, ...]
    actions: tuple[Action, ...]
    logs: tuple[str, ...] = BOTH
    repeats: bool = False
    short: tuple[str, ...] = ("local 2/2/2", "kafka 1/1/1")
    environment: tuple[tuple[str, str], ...] = ()
    statuses: tuple[str, ...] = ()
    keeps_rings: bool = True
    secured: bool = False
    small_disk: bool = False
    stepped_clock: bool = False


_CANCELLED = ("CANCELLED",)
"""gRPC itself ends calls so that have reached a closing gateway and were not handed to it yet (grpc/grpc#41785)."""

_TURNED = ("local 1/1/1", "kafka 2/2/2")
_QUICK_STALL = (("TRACKSIDE_STALL_SECONDS", "3"), ("TRACKSIDE_GATEWAY_STALL_SECONDS", "3"))

_TABLE = (
    Fault("producer", "SIGKILL of a producer", (2, 3, 4), (do.kill("producer"),), repeats=True),
    Fault("consumer", "SIGKILL of a consumer", (4,), (do.kill("consumer"),), short=_TURNED),
    Fault("gateway", "SIGKILL of a gateway", (1, 3), (do.kill("gateway"),), short=("local 2/2/2", "kafka 2/2/2")),
    Fault("control-plane", "SIGKILL of the control plane", (6,), (do.kill("control-plane"),)),
    Fault(
        "several",
        "SIGKILL of one process of each role at once",
        (2, 3, 4, 6),
        (do.kill(*ROLES),),
        repeats=True,
        short=_TURNED,
    ),
    Fault(
        "starting",
        "SIGKILL of a process, and of its successors while they start",
        (2, 4),
        tuple(do.kill_starting(role) for role in ROLES),
        repeats=True,
    ),
    Fault("supervisor", "SIGKILL of the supervisor, with which all die", (2,), (do.kill_supervisor,), repeats=True),
    Fault("group", "SIGKILL of all processes at once", (2,), (do.kill_group,), repeats=True, short=_TURNED),
    Fault("start-up", "SIGKILL of all, twice more during the start", (2,), (do.kill_while_starting,), repeats=True),
    Fault(
        "recovery",
        "SIGKILL of all, again while they recover",
        (2,),
        (do.kill_while_recovering,),
        repeats=True,
        short=_TURNED,
    ),
    Fault(
        "drain",
        "SIGTERM, and SIGKILL while it drains",
        (2,),
        (do.drain, do.kill_while_draining),
        repeats=True,
        statuses=_CANCELLED,
    ),
    Fault(
        "take-over",
        "another server takes over from the one that runs",
        (1, 2, 3),
        (do.take_over,),
        repeats=True,
        short=(),  # tests/system/test_take_over.py has it
        statuses=_CANCELLED,
    ),
    Fault(
        "power",
        "all processes and the run directory are gone at once; what `trackside-ack: log` was told stays",
        (2,),
        (do.lose_run_directory,),
        repeats=True,
        keeps_rings=False,
    ),
    Fault(
        "pause",
        "SIGSTOP for ten seconds, then SIGCONT",
        (3, 4),
        tuple(do.pause(role, seconds=10.0) for role in ROLES),
    ),
    Fault(
        "hang",
        "SIGSTOP for good: killed and replaced after StallSeconds",
        (2, 3, 4),
        tuple(do.hang(role) for role in ROLES),
        repeats=True,
        short=(),  # tests/system/test_supervision.py has it
        environment=_QUICK_STALL,
    ),
    Fault(
        "kafka-stop",
        "Kafka is stopped and started again after 60 s",
        (2, 3, 7),
        (do.kafka_away(seconds=60.0, short_seconds=7.0),),
        logs=("kafka",),
        short=("kafka 1/1/1",),
    ),
    Fault(
        "kafka-restarts",
        "Kafka is killed and started again, three times",
        (2, 3, 7),
        (do.kafka_away(seconds=1.0, short_seconds=0.0, kill=True),) * 3,
        logs=("kafka",),
        short=(),  # a start of Kafka takes as long as everything else of a fault
    ),
    Fault(
        "kafka-stop-control-plane",
        "the control plane is killed while Kafka is away",
        (2, 6),
        (do.kafka_away(seconds=10.0, short_seconds=1.0, meanwhile=do.kill_control_plane_without_log),),
        logs=("kafka",),
        short=("kafka 2/2/2",),
    ),
    Fault(
        "kafka-slow",
        "Kafka's process is stopped half of the time",
        (2, 3, 4),
        (do.kafka_slow(seconds=20.0, short_seconds=3.0),),
        logs=("kafka",),
        short=("kafka 2/2/2",),
    ),
    Fault(
        "kafka-deletes",
        "a topic is deleted underneath",
        (2, 3),
        (do.kafka_deletes_topic,),
        logs=("kafka",),
        short=("kafka 1/1/1",),
        repeats=True,
    ),
    Fault(
        "kafka-refuses",
        "a topic takes no large packets for ten seconds: they are dead letters; a producer is killed behind it",
        (2, 3, 7),
        (do.kafka_refuses_large(seconds=10.0), do.kill("producer")),
        logs=("kafka",),
        short=("kafka 2/2/2",),
        repeats=True,
    ),
    Fault(
        "kafka-denies",
        "a topic may not be written for ten seconds: parked, while others go on; a producer or all are killed meanwhile",
        (2, 3, 8),
        (
            do.kafka_denies_topic(
                seconds=10.0,
                short_seconds=0.0,
                meanwhile=(do.kill("producer"), do.kill("gateway"), do.kill_group, do.drain),
            ),
        ),
        logs=("kafka",),
        short=(),  # tests/system/test_parking.py has it
        environment=(("TRACKSIDE_PARK_AFTER_SECONDS", "0.5"), ("TRACKSIDE_DRAIN_SECONDS", "5")),
        repeats=True,
        statuses=_CANCELLED,
        secured=True,
    ),
    Fault(
        "disk-full",
        "the disk is full for ten seconds; a process or all are killed meanwhile",
        (2, 3, 7),
        (
            do.disk_full(
                seconds=10.0,
                meanwhile=(
                    do.kill_unawaited("producer"),
                    do.kill_unawaited("gateway"),
                    do.kill_unawaited("control-plane"),
                ),
            ),
        ),
        logs=("local",),
        short=(),  # tests/system/test_disk_faults.py has it
        small_disk=True,
    ),
    Fault(
        "clock",
        "the clock is stepped an hour forth and back, and processes are killed while it is wrong",
        (2, 3, 4, 6),
        (
            do.step_clock_to(HOUR_SECONDS),
            do.kill("producer", "consumer"),
            do.step_clock_to(-HOUR_SECONDS),
            do.kill("gateway", "control-plane"),
            do.kill_group,
            do.step_clock_to(0),
        ),
        short=(),  # tests/system/test_clock.py has it
        repeats=True,
        stepped_clock=True,
    ),
    Fault(
        "mixed",
        "whatever may happen, one after another as chance decides",
        (1, 2, 3, 4, 6),
        (
            do.any_of(
                *(do.kill(role) for role in ROLES),
                *(do.kill_starting(role) for role in ROLES),
                do.kill(*ROLES),
                do.kill("producer", "consumer"),
                do.kill("gateway", "gateway"),
                do.pause(*ROLES, seconds=2.0),
                do.kill_group,
                do.kill_supervisor,
                do.kill_while_starting,
                do.kill_while_recovering,
                do.drain,
                do.kill_while_draining,
                do.take_over,
                count=5,
            ),
        ),
        repeats=True,
        short=(),  # it is made of the others
        statuses=_CANCELLED,
    ),
)

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _TABLE}
