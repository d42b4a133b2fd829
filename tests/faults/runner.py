"""Makes one fault happen to a server, round after round under load, and judges what the checker reports."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from faults.actions import Scene
from faults.catalogue import Fault
from faults.checker import Checker, Watch
from faults.verdict import Report
from kafka_broker import KafkaBroker
from server import Server

__all__ = ["Extent", "judge", "log_of", "run_fault", "watch_of"]

STATUSES = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
"""What a write may be answered with that is not accepted."""

ROUND_KILLS = 10
"""What a round in which nobody is killed counts for."""


class Extent(NamedTuple):
    """How long a fault goes on: so many kills, or a tenth as many rounds where nobody is killed, or so much time; always
    whole rounds."""

    kills: int = 0
    seconds: float = 0.0

    def reached(self, scene: Scene, rounds: int, began: float) -> bool:
        if self.seconds:
            return time.monotonic() - began >= self.seconds
        return max(scene.kills, ROUND_KILLS * rounds * (not scene.kills)) >= self.kills


def log_of(server: Server) -> str:
    return "kafka" if server.broker else "local"


def watch_of(server: Server, prefix: str, broker: KafkaBroker | None = None) -> Watch:
    """``broker``: where the checker may read without asking to be let in, if that is not what the server uses."""
    return Watch(
        address=f"127.0.0.1:{server.port}",
        prefix=prefix,
        data_dir=str(server.data_dir),
        broker=broker.address if broker else server.broker,
        domain=server.environment.get("TRACKSIDE_DOMAIN", ""),
    )


def run_fault(
    fault: Fault,
    server: Server,
    checker: Checker,
    broker: KafkaBroker | None,
    *,
    seed: int,
    prefix: str = "",
    extent: Extent | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """One run against a server that serves, and serves afterwards. Without ``extent`` the short form: one round."""
    rng = random.Random(zlib.crc32(f"{seed} {fault.name} {server.shape}".encode()))
    scene = Scene(server, checker, rng, broker, long=extent is not None)
    checker.begin(watch_of(server, prefix or fault.name, broker))
    checker.wait_more()
    began, rounds = time.monotonic(), 0
    while True:
        for action in fault.actions:
            action(scene)
            scene.serving()
            checker.wait_more()
        rounds += 1
        say(f"round {rounds}, {scene.kills} kills, {sum(checker.status['accepted'])} packets accepted")
        if extent is None or extent.reached(scene, rounds, began):
            break
    report = checker.finish()
    report.fault, report.shape, report.seed = fault.name, server.shape, seed
    report.log = log_of(server)
    report.actions, report.breaks_allowed = dict(scene.did), scene.breaks_allowed
    judge(report, fault)
    return report


def judge(report: Report, fault: Fault) -> None:
    """Fill in ``broken``: what does not agree with the promises."""
    may_repeat = fault.repeats and report.log == "kafka"
    for broken, what in (
        (
            report.lost if fault.keeps_rings else report.lost_logged,
            f"{report.lost} accepted packets are lost, {report.lost_logged} of them told to be logged",
        ),
        (report.reordered, f"{report.reordered} packets stand before one that was accepted earlier"),
        (report.repeated and not may_repeat, f"{report.repeated} packets stand twice"),
        (report.corrupted, f"{report.corrupted} packets are not as they were written"),
        (report.left_over, f"{report.left_over} packets of refused requests are there"),
        (report.breaks > report.breaks_allowed, f"{report.breaks} reads broke, {report.breaks_allowed} may have"),
    ):
        if broken:
            report.broken.append(what)
    report.broken += report.misread
    report.broken += [wrong for wrong in report.wrong_answers if fault.keeps_rings or "connection" not in wrong]
    if strange := report.statuses.keys() - STATUSES - set(fault.statuses):
        report.broken.append(f"writes ended with {', '.join(f'{s}: {report.reasons[s]}' for s in sorted(strange))}")
    if empty := [status for status, text in report.reasons.items() if not text]:
        report.broken.append(f"writes ended with {', '.join(empty)} and no reason")
