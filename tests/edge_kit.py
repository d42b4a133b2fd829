"""A local log, a forwarder driven by hand, and what stands on a real Kafka afterwards."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, TopicPartition
from log_contract import RING, packet, record
from worker_kit import Kit

from trackside.data_plane.data_dir import claim_data_dir
from trackside.data_plane.forward_place import offset_of
from trackside.data_plane.forwarder import Forwarder
from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.record import Route
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

WAIT_SECONDS = 60.0


class OnKafka(NamedTuple):
    """One message. ``place`` is where its packet stands in the local log."""

    offset: int
    key: bytes
    value: bytes
    place: int | None
    time_ms: int
    headers: dict[str, bytes]


class EdgeKit:
    """One edge server's log and forwarder in ``folder``; its topics begin with a domain of their own."""

    def __init__(self, folder: Path, address: str, domain: str = "", **settings: Any) -> None:
        self.domain = domain or f"E{uuid.uuid4().hex[:8]}"
        names: dict[str, Any] = {"naming": "domain", "domain": self.domain}
        self.kit = Kit(folder, Settings(forward_to=address, **names, **settings))
        self.settings = self.kit.settings
        self.routing = Routing(self.settings)
        self.data_dir = Path(self.settings.data_dir)
        self.table = folder / "producer-0.ends"
        self.identity = claim_data_dir(self.data_dir)
        self.log = self._writer()
        self.forwarder: Forwarder | None = None
        self._ring = f"{RING}-{uuid.uuid4().hex[:8]}"  # a copy of the data directory knows the rings of the original
        self._position = 0

    def _writer(self) -> LocalLogWriter:
        return LocalLogWriter(self.data_dir, self.table, settings=self.settings)

    def boot(self) -> None:
        """A new writer, after whatever happened to the data directory; nothing in shared memory is left."""
        self.table.unlink()
        Path(self.kit.worker("forwarder").spec.forwarder_table).unlink()
        self.log = self._writer()

    # -- the local log ------------------------------------------------------------------------------------------------

    def write(self, packets: Sequence[bytes], source: str = "Car", stream: str = "", **route: Any) -> None:
        """One record, in the log when this returns."""
        where = self.routing.route(source, stream)
        self.append(packets, Route(where.topic, where.number, b"", **route))

    def append(self, packets: Sequence[bytes], route: Route) -> None:
        self._position += 1
        self.log.append(self._ring, self._position, record(packets, route))
        while not self.log.do_work():
            pass

    def topic(self, source: str = "Car", stream: str = "") -> str:
        return self.routing.route(source, stream).topic

    # -- the forwarder ------------------------------------------------------------------------------------------------

    def start(self) -> Forwarder:
        """A forwarder; the one before it must be closed or forgotten."""
        reader = LocalLogReader(self.data_dir, [self.table], name="forwarder")
        self.forwarder = Forwarder(self.kit.worker("forwarder"), reader, self.identity)
        return self.forwarder

    def drive(self, condition: Callable[[], Any], what: str) -> None:
        assert self.forwarder is not None
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what} ({self.forwarder.state()})"
            if not self.forwarder.do_work():
                time.sleep(0.002)

    def forward_all(self) -> None:
        """Until nothing is left."""
        assert self.forwarder is not None
        forwarder = self.forwarder
        self.drive(lambda: forwarder.is_done(), "everything is forwarded")

    def close(self) -> None:
        if self.forwarder is not None:
            self.forwarder.close()
        self.log.close(0)

    # -- Kafka --------------------------------------------------------------------------------------------------------

    def on_kafka(self, topic: str, number: int = 0, start: int = 0) -> list[OnKafka]:
        """Everything that a reader of committed messages finds now."""
        return read_kafka(self.settings.forward_to, Partition(topic, number), self.identity, start)


def read_kafka(address: str, partition: Partition, identity: bytes, start: int = 0) -> list[OnKafka]:
    config: dict[str, Any] = {
        "bootstrap.servers": address,
        "group.id": uuid.uuid4().hex,
        "enable.partition.eof": True,
        "allow.auto.create.topics": False,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(config)
    consumer.assign([TopicPartition(*partition, start)])
    found = []
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        assert time.monotonic() < deadline, f"{partition} does not end"
        message: Any = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                break
            assert message.error().retriable(), message.error()
            continue
        place = offset_of(message.headers(), identity)
        headers = dict(message.headers() or ())
        key = message.key() or b""
        found.append(OnKafka(message.offset(), key, message.value(), place, message.timestamp()[1], headers))
    consumer.close()
    return found


def some(start: int, count: int, mark: str = "") -> list[bytes]:
    return [packet(f"{mark}{number}".encode()) for number in range(start, start + count)]


def changed(settings: Settings, **fields: Any) -> Settings:
    return msgspec.structs.replace(settings, **fields)
