"""The long form of edge mode: a drive is written at its full rate while Kafka is away, then everything must be there.

    ./dev run python tests/edge_run.py                                     a simulated car, Kafka away for a minute
    ./dev run python tests/edge_run.py --away 600 --ibt drive.ibt          ten minutes of a recorded drive
    ./dev run python tests/edge_run.py --away 600 --kill-every 20          and the forwarder killed all the time
    ./dev run python tests/edge_run.py --kill-every 6 --kill any           and any process, the supervisor with all others

A server of its own and a Kafka of its own, in folders that go with them. The drive begins with Kafka there, goes on for
``--away`` seconds without it, and ends with it. At the end every packet that was written is looked for on Kafka: once, in
its order, and each offset in a session packet where it belongs. Exit code 1 when something is missing, twice or swapped.
The seed chooses who is killed, and when.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_kit import OnKafka, read_kafka
from edge_report import EdgeReport, add, table
from kafka_broker import KafkaBroker
from server import Server, wait_until

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.bench.ledger import Ledger
from trackside.bench.talk import Child
from trackside.data_plane.data_dir import partition_dir, partitions_on_disk, read_identity
from trackside.data_plane.log import Partition
from trackside.data_plane.log_recovery import OnDisk, last_offset_on_disk
from trackside.shm.counters import read_counters

LEAD_SECONDS, TAIL_SECONDS = 5.0, 30.0
QUIET_SECONDS = 10.0
"""Before the drive's end nobody is killed any more: its writer ends the session with one call, which is not made twice."""

CATCH_UP_SECONDS = 900.0
STEP_SECONDS = 0.5
LATE_SECONDS = 2.0
"""A backlog whose oldest packet is younger than this is none: the forwarder measures it once a second."""

ROLES = ("forwarder", "producer", "consumer", "gateway", "control-plane", "supervisor")


class Killer:
    """Kills a process now and then: a role, then one of that role, as the seed says."""

    def __init__(self, server: Server, roles: Sequence[str], every_seconds: float, seed: int) -> None:
        self._server = server
        self._roles = roles
        self._every = every_seconds
        self._rng = random.Random(seed)
        self._left: list[str] = []
        self._at = 0.0
        self.kills: Counter[str] = Counter()

    def begin(self) -> None:
        self._at = time.monotonic() + self._rng.uniform(0.2, 1.0) * self._every

    def end(self) -> None:
        self._every = 0.0

    def do_work(self) -> None:
        """Kill somebody when the time has come."""
        if self._every and time.monotonic() > self._at:
            self.begin()
            self._kill(self._next_role())

    def _next_role(self) -> str:
        """All of them, in an order that chance makes, before one comes again."""
        self._left = self._left or self._rng.sample(self._roles, len(self._roles))
        return self._left.pop()

    def _kill(self, role: str) -> None:
        server = self._server
        if role == "supervisor":
            server.kill_supervisor()
            server.start()
        else:
            try:
                server.send(self._rng.choice(server.names(role)), signal.SIGKILL)
            except ProcessLookupError:
                return  # between two incarnations
        self.kills[role] += 1


class Run:
    """One run in ``folder``, from the start of a Kafka and a server to the verdict."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.broker = KafkaBroker(folder / "kafka")
        (folder / "edge").mkdir()
        self.server = Server(folder / "edge", options.shape, ("--forward-to", self.broker.address))
        roles = ROLES if options.kill == "any" else ("forwarder",)
        self.killer = Killer(self.server, roles, options.kill_every, options.seed)
        self.back_at = 0.0
        self.report = EdgeReport(
            drive=Path(options.ibt).stem if options.ibt else "simulated car",
            shape=options.shape,
            seed=options.seed,
            away_seconds=options.away,
        )

    def count(self, name: str) -> int:
        """A number of the forwarder; 0 while it cannot be read, because everything was killed."""
        with suppress(Exception):
            rows = read_counters(self.server.slot("forwarder")["counters"])
            return next((int(row[2]) for row in rows if row[0] == f"trackside_forwarder_{name}"), 0)
        return 0

    def look(self) -> None:
        report = self.report
        report.backlog_packets = max(report.backlog_packets, self.count("backlog_packets"))
        report.backlog_bytes = max(report.backlog_bytes, self.count("backlog_bytes"))
        report.backlog_seconds = max(report.backlog_seconds, self.count("backlog_seconds") / 1e9)
        if self.back_at and not report.caught_up_seconds and self.is_caught_up():
            report.caught_up_seconds = time.monotonic() - self.back_at

    def pass_time(self, seconds: float) -> None:
        """Look at the backlog, and kill."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(STEP_SECONDS, max(until - time.monotonic(), 0)))
            self.look()
            self.killer.do_work()

    def drive(self) -> dict[str, Any]:
        """The writer's last news. Kafka is there at the beginning and at the end."""
        options = self.options
        seconds = options.lead + options.away + options.tail
        address = f"127.0.0.1:{self.server.port}"
        arguments = {"address": address, "seconds": seconds, "ibt": options.ibt, "seed": options.seed}
        writer = Child("writer", "trackside.bench.demo_writer", arguments, self.folder / "writer.log")
        writer.wait("session", 60)
        writer.order(begin=True)
        time.sleep(options.lead)
        self.broker.kill()
        say(f"Kafka killed; the drive goes on for {options.away:g} s")
        self.killer.begin()
        self.pass_time(options.away)
        say(f"behind by {self.count('backlog_packets')} packets; Kafka starts")
        self.broker.start()
        self.back_at, self.report.packets_to_send = time.monotonic(), self.report.backlog_packets
        killed_before = self.killer.kills.total()
        self.pass_time(options.tail - QUIET_SECONDS)
        self.report.kills_catching_up = self.killer.kills.total() - killed_before
        self.report.kills = dict(self.killer.kills)
        self.killer.end()
        done = writer.wait("done", seconds + 120)
        self.catch_up()
        return done

    def catch_up(self) -> None:
        """Until nothing is left: the forwarder says so, and then a look at Kafka, which reads everything."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not self.report.caught_up_seconds:
            assert time.monotonic() < deadline, f"behind by {self.count('backlog_packets')} packets"
            self.pass_time(STEP_SECONDS)
        wait_until(self.all_there, "everything is forwarded", CATCH_UP_SECONDS)

    def is_caught_up(self) -> bool:
        """Or nearly: the drive goes on."""
        return self.count("link_up") > 0 and self.count("backlog_seconds") < LATE_SECONDS * 1e9

    def all_there(self) -> bool:
        return all(len(self.on_kafka(p)) >= self.local_end(p) for p in partitions_on_disk(self.server.data_dir))

    def local_end(self, partition: Partition) -> int:
        place = OnDisk(partition_dir(self.server.data_dir, partition), self.identity, partition)
        return last_offset_on_disk(place)

    @property
    def identity(self) -> bytes:
        found = read_identity(self.server.data_dir)
        assert found is not None
        return found

    def on_kafka(self, partition: Partition) -> list[OnKafka]:
        if partition.topic not in self.broker.topics():
            return []
        return read_kafka(self.broker.address, partition, self.identity)

    # -- the verdict --------------------------------------------------------------------------------------------------

    def judge(self, done: dict[str, Any]) -> EdgeReport:
        report, ledger = self.report, Ledger()
        there = {p: self.on_kafka(p) for p in partitions_on_disk(self.server.data_dir)}
        for partition, messages in there.items():
            self.judge_places([message.place for message in messages], self.local_end(partition))
            report.bytes += sum(len(message.value) for message in messages)
            if partition.topic in ("Demo", "Demo.Stream1"):
                for message in messages:
                    ledger.note(data.Packet.FromString(message.value))
        report.lost += max(done["written"] - ledger.distinct, 0)
        report.written_again = ledger.duplicates
        if (ledger.distinct, ledger.hash()) != (done["written"], done["hash"]):
            report.broken.append(f"{ledger.distinct} packets, {done['written']} written, or not the same ones")
        if found := [name for name in ("lost", "repeated", "reordered") if getattr(report, name)]:
            report.broken.append(", ".join(found))
        report.broken += self.session_faults(there)
        return report

    def judge_places(self, places: list[int | None], end: int) -> None:
        """Kafka must have each place of a partition once, in their order."""
        seen, newest = set[int](), -1
        for place in places:
            if place is None or place in seen:
                self.report.repeated += 1
                continue
            self.report.reordered += place < newest
            newest = max(newest, place)
            seen.add(place)
        self.report.packets += end
        self.report.lost += end - len(seen)

    def session_faults(self, there: dict[Partition, list[OnKafka]]) -> list[str]:
        """The end of the session: on Kafka, all packets of each partition stand before it."""
        packets = [data.Packet.FromString(message.value) for message in there[Partition("SessionInfo", 0)]]
        ends = [data.EndOfSessionPacket.FromString(p.content) for p in packets if p.type == "EndOfSession"]
        if len(ends) != 1:
            return [f"{len(ends)} ends of the session on Kafka"]
        found = []
        for key, offset in ends[0].topic_partition_offsets.items():
            topic, _, number = key.rpartition(":")
            messages = there.get(Partition(topic, int(number)), [])
            before = sum(message.offset < offset for message in messages)
            if before != len(messages):
                found.append(
                    f"end of the session: {key} is {offset}, with {before} of {len(messages)} packets before it"
                )
        return found


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    options = arguments()
    report = run(options)
    print(table(report))
    if options.json:
        add(options.json, report)
    return 1 if report.broken else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without Kafka")
    parser.add_argument("--lead", type=float, default=LEAD_SECONDS, help="seconds of the drive before that")
    parser.add_argument("--tail", type=float, default=TAIL_SECONDS, help="seconds of the drive after Kafka is back")
    parser.add_argument("--ibt", help="a recorded drive in place of the simulated car")
    parser.add_argument("--shape", default="1/1/1", choices=("1/1/1", "2/2/2"))
    parser.add_argument("--kill-every", type=float, default=0.0, help="kill at most so often, in seconds")
    parser.add_argument("--kill", default="forwarder", choices=("forwarder", "any"), help="whom")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="add the result to this file")
    return parser.parse_args()


def run(options: argparse.Namespace) -> EdgeReport:
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        one = Run(Path(folder), options)
        one.broker.start()
        try:
            one.server.start()
            return one.judge(one.drive())
        finally:
            one.server.remove()
            one.broker.stop()


if __name__ == "__main__":
    sys.exit(main())
