"""Servers in which the facts are tested: cells of {topic, partition} x {legacy, domain} x {local, kafka} x {shapes}.

A cell is named by these four words, ``"topic domain kafka 1/1/1"``. Each runs once a test session, and every test has
data sources of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.local_log import LocalLogReader
from trackside.data_plane.log import Partition, Run
from trackside.data_plane.naming import Naming, naming_of
from trackside.data_plane.spec import Settings
from trackside.shm.counters import read_counters

__all__ = ["CELLS", "MAPPINGS", "Cell", "Cells", "Entry", "cell_params"]

CELLS = (
    "topic legacy local 2/2/2",
    "topic domain kafka 1/1/1",
    "partition legacy kafka 2/2/2",
    "partition domain local 1/1/1",
)
"""A server of each strategy and naming, each strategy on both logs, each log in both shapes."""

MAPPINGS = {"one": 1, "two": 2}
"""Streams that have a partition of their own in the cells with partitions."""

BATCHING = ("domain",)
"""Cells of this naming batch their responses, so that each strategy has both."""


SEGMENT_BYTES, RETENTION_BYTES = 8 << 20, 32 << 20
"""Of a partition of the local log: small, so that a test can see retention, and more than any other test writes."""


def cell_params(*words: str) -> list[Any]:
    """Parameters for the fixture ``cell``: the cells whose names have all of these words."""
    return [
        pytest.param(name, marks=[pytest.mark.kafka] if "kafka" in name.split() else [])
        for name in CELLS
        if set(words) <= set(name.split())
    ]


class Entry(NamedTuple):
    """One packet as it lies in the log."""

    partition: int
    key: bytes
    packet: Packet


class Cell:
    """One running server, and its log as other programs see it."""

    def __init__(self, name: str, folder: Path, broker: KafkaBroker | None, **environment: str) -> None:
        self.strategy, naming, _, shape = name.split()
        self.broker = broker
        domain = f"Conf{uuid.uuid4().hex[:8]}" if naming == "domain" else ""
        self.naming: Naming = naming_of(Settings(naming=naming, domain=domain))
        self.server = Server(folder, shape, (), broker.address if broker else "")
        self.server.environment.update(
            TRACKSIDE_STREAM_CREATION_STRATEGY="PartitionBased" if self.partitions else "TopicBased",
            TRACKSIDE_NAMING=naming,
            TRACKSIDE_DOMAIN=domain,
            TRACKSIDE_BATCHING_RESPONSES=str(naming in BATCHING),
            TRACKSIDE_READER_BUFFER_BYTES="64 MiB",  # so that it is not what keeps responses small
            TRACKSIDE_SEGMENT_BYTES=str(SEGMENT_BYTES),
            TRACKSIDE_RETENTION_BYTES=str(RETENTION_BYTES),
        )
        if self.partitions:
            for index, (stream, number) in enumerate(MAPPINGS.items()):
                prefix = f"StreamApiConfig__PartitionMappings__{index}__"
                self.server.environment.update({f"{prefix}Stream": stream, f"{prefix}Partition": str(number)})
        self.server.environment.update(environment)
        self.server.start()

    @property
    def partitions(self) -> bool:
        """Whether streams are partitions."""
        return self.strategy == "partition"

    def client(self) -> Client:
        return self.server.client()

    def place(self, source: str, stream: str) -> Partition:
        """Where packets of the stream lie in the log."""
        if self.partitions:
            return Partition(self.naming.main_topic(source), MAPPINGS.get(stream, 0))
        return Partition(self.naming.stream_topic(source, stream) if stream else self.naming.main_topic(source), 0)

    def unsent_bytes(self) -> int:
        """What gateways hold for readers that take nothing."""
        paths = [Path(process["counters"]) for process in self.server.described()["processes"]]
        rows = (row for path in paths for row in read_counters(path))
        return sum(value for name, _, value in rows if name == "trackside_gateway_reader_bytes")

    def topics(self) -> dict[str, int]:
        """Topics and their partition counts."""
        if self.broker is not None:
            return self.broker.topics()
        reader = self._local_reader()
        found = dict(reader.topics())
        reader.close()
        return found

    def entries(self, topic: str, wanted: Callable[[list[Entry]], bool]) -> list[Entry]:
        """What lies in all partitions of a topic, once that is what is wanted."""
        found: list[Entry] = []

        def looked() -> bool:
            found[:] = self._kafka_entries(topic) if self.broker else self._local_entries(topic)
            return wanted(found)

        wait_until(looked, f"entries of {topic}")
        return found

    def _local_reader(self) -> LocalLogReader:
        return LocalLogReader(
            self.server.data_dir, sorted(self.server.run_dir.glob("instances/*/producer-*.log-table"))
        )

    def _local_entries(self, topic: str) -> Iterable[Entry]:
        reader = self._local_reader()
        for number in range(reader.topics().get(topic, 0)):
            cursor = reader.open(Partition(topic, number), 0)
            while (run := cursor.read(1 << 20)) is not None:
                yield from _entries_of(run)
        reader.close()

    def _kafka_entries(self, topic: str) -> Iterable[Entry]:
        from confluent_kafka import Consumer, TopicPartition

        assert self.broker is not None
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": "nobody", "log_level": 0})
        places = [TopicPartition(topic, number, 0) for number in range(self.broker.topics().get(topic, 0))]
        try:
            left = sum(_end_of(consumer, place) for place in places)
            consumer.assign(places)
            while left:
                message = consumer.poll(10)
                assert message is not None, f"{left} more messages of {topic} do not come"
                if message.error() is None:
                    yield Entry(message.partition(), message.key() or b"", Packet.FromString(message.value()))
                    left -= 1
        finally:
            consumer.close()


def _end_of(consumer: Any, place: Any) -> int:
    """The end of a partition; of one that was made a moment ago the broker may not know yet that it leads it."""
    from confluent_kafka import KafkaException

    def asked() -> tuple[int, int] | None:
        try:
            found: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=10)
        except KafkaException:
            return None
        return found

    _, end = wait_until(asked, f"the end of {place}")
    return int(end)


def _entries_of(run: Run) -> Iterable[Entry]:
    for row, value in zip(run.key_index, run.values, strict=True):
        yield Entry(run.partition.number, run.keys[row][0], Packet.FromString(value))


class Cells:
    """Cells that were asked for in this session; each is started when it is first needed."""

    def __init__(self, make_folder: Callable[[str], Path], request: pytest.FixtureRequest) -> None:
        self._make_folder = make_folder
        self._request = request
        self._cells: dict[str, Cell] = {}

    def get(self, name: str) -> Cell:
        if name not in self._cells:
            broker = self._request.getfixturevalue("kafka_broker") if "kafka" in name.split() else None
            self._cells[name] = Cell(name, self._make_folder("conformance"), broker)
        return self._cells[name]

    def close(self) -> None:
        for cell in self._cells.values():
            cell.server.remove()
