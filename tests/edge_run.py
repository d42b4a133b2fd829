"""The long form of edge mode: a drive is written at its full rate while Kafka is away, then everything must be there.

    ./dev run python tests/edge_run.py                                     a simulated car, Kafka away for a minute
    ./dev run python tests/edge_run.py --away 600 --ibt drive.ibt          ten minutes of a recorded drive
    ./dev run python tests/edge_run.py --away 600 --kill-every 20          and the forwarder killed all the time

A server of its own and a Kafka of its own, in folders that go with them. The drive begins with Kafka there, goes on for
``--away`` seconds without it, and ends with it. At the end every packet that was written is looked for on Kafka: once, in
its order, and each offset in a session packet where it belongs. Exit code 1 when something is missing, twice or swapped.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_kit import OnKafka, read_kafka
from kafka_broker import KafkaBroker
from server import Server, wait_until

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.bench.ledger import Ledger
from trackside.bench.talk import Child
from trackside.data_plane.data_dir import partitions_on_disk, read_identity
from trackside.data_plane.log import Partition
from trackside.shm.counters import read_counters

LEAD_SECONDS, TAIL_SECONDS = 5.0, 10.0
CATCH_UP_SECONDS = 900.0


class Run:
    def __init__(self, folder: Path, shape: str) -> None:
        self.folder = folder
        self.broker = KafkaBroker(folder / "kafka")
        (folder / "edge").mkdir()
        self.server = Server(folder / "edge", shape, ("--forward-to", self.broker.address))
        self.worst = {"packets": 0, "bytes": 0, "seconds": 0}
        self.kills = 0

    def count(self, name: str) -> int:
        """A number of the forwarder; 0 while it cannot be read, because everything was killed."""
        with suppress(Exception):
            rows = read_counters(self.server.slot("forwarder")["counters"])
            return next((int(row[2]) for row in rows if row[0] == f"trackside_forwarder_{name}"), 0)
        return 0

    def look(self) -> None:
        for unit in self.worst:
            self.worst[unit] = max(self.worst[unit], self.count(f"backlog_{unit}"))

    def pass_time(self, seconds: float, kill_every: float) -> None:
        """Look at the backlog once a second; now and then kill the forwarder."""
        until, kill_at = time.monotonic() + seconds, time.monotonic() + (kill_every or seconds + 1)
        while time.monotonic() < until:
            time.sleep(min(1.0, max(until - time.monotonic(), 0)))
            self.look()
            if time.monotonic() > kill_at:
                kill_at += kill_every
                self.kills += 1
                with suppress(ProcessLookupError):
                    self.server.send("forwarder", signal.SIGKILL)

    def drive(self, options: argparse.Namespace) -> dict[str, Any]:
        """The writer's last news. Kafka is there at the beginning and at the end."""
        seconds = LEAD_SECONDS + options.away + TAIL_SECONDS
        arguments = {"address": f"127.0.0.1:{self.server.port}", "seconds": seconds, "ibt": options.ibt, "seed": 1}
        writer = Child("writer", "trackside.bench.demo_writer", arguments, self.folder / "writer.log")
        writer.wait("session", 60)
        writer.order(begin=True)
        self.pass_time(LEAD_SECONDS, 0)
        self.broker.kill()
        say(f"Kafka killed; the drive goes on for {options.away:g} s")
        self.pass_time(options.away, options.kill_every)
        say(f"behind by {self.count('backlog_packets')} packets; Kafka starts")
        self.broker.start()
        self.back_at, self.sent_before = time.monotonic(), self.count("packets")
        self.behind = self.count("backlog_packets")
        self.pass_time(1.0, options.kill_every)
        return writer.wait("done", seconds + 120)

    def catch_up(self) -> float:
        """Seconds from Kafka's return until nothing is left."""
        wait_until(lambda: self.all_there(), "everything is forwarded", CATCH_UP_SECONDS)
        return time.monotonic() - self.back_at

    def all_there(self) -> bool:
        return all(len(self.on_kafka(p)) >= self.local_end(p) for p in partitions_on_disk(self.server.data_dir))

    def local_end(self, partition: Partition) -> int:
        from trackside.data_plane.data_dir import partition_dir
        from trackside.data_plane.log_recovery import OnDisk, last_offset_on_disk

        return last_offset_on_disk(OnDisk(partition_dir(self.server.data_dir, partition), self.identity, partition))

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

    def faults(self, done: dict[str, Any]) -> list[str]:
        found: list[str] = []
        ledger = Ledger()
        there = {p: self.on_kafka(p) for p in partitions_on_disk(self.server.data_dir)}
        for partition, messages in there.items():
            places = [message.place for message in messages]
            if places != list(range(self.local_end(partition))):
                found.append(f"{partition.topic}: places on Kafka are not 0, 1, 2 ... {self.local_end(partition)}")
            if partition.topic in ("Demo", "Demo.Stream1"):
                for message in messages:
                    ledger.note(data.Packet.FromString(message.value))
        if (ledger.distinct, ledger.hash()) != (done["written"], done["hash"]):
            found.append(
                f"{ledger.distinct} packets with hash {ledger.hash()}, written {done['written']}, {done['hash']}"
            )
        return found + self.session_faults(there)

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without Kafka")
    parser.add_argument("--ibt", help="a recorded drive in place of the simulated car")
    parser.add_argument("--shape", default="1/1/1", choices=("1/1/1", "2/2/2"))
    parser.add_argument("--kill-every", type=float, default=0.0, help="kill the forwarder so often, in seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        run = Run(Path(folder), options.shape)
        run.broker.start()
        try:
            run.server.start()
            done = run.drive(options)
            seconds = run.catch_up()
            faults = run.faults(done)
        finally:
            run.server.remove()
            run.broker.stop()
    rows = {
        "packets written": f"{done['written']} ({done['bytes'] >> 10} KiB)",
        "Kafka away": f"{options.away:g} s, forwarder killed {run.kills} times",
        "backlog at most": f"{run.worst['packets']} packets, {run.worst['bytes'] >> 10} KiB, "
        f"{run.worst['seconds'] / 1e9:.0f} s",
        "caught up": f"{seconds:.1f} s after Kafka was back, with {run.behind} packets to send and the drive going on",
        "found wrong": "; ".join(faults) or "nothing: each packet once, in order, offsets of the session right",
    }
    for name, value in rows.items():
        print(f"{name:16}  {value}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
