"""What the log writer costs on top of librdkafka, against plain producing in the same run.

::

    records of 64 x 1 KiB --KafkaLogWriter.append, do_work--> Kafka         one partition, idempotence, acks=all
    the same packets      --Producer.produce, capped--------> Kafka         as little Python around it as can be
    the same packets      --Producer.produce, a report each-> Kafka         what a naive server does

    python -m trackside.bench.kafka_writer --broker HOST:PORT [--packets 200000] [--repeats 3]

CPU microseconds a packet of this process are the honest number: all threads, librdkafka's among them, without the
broker. Runs are interleaved and medians given, because a virtual machine may be twice as fast in the next minute. The
hash over what is in Kafka afterwards shows that all of it came there, in order.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from trackside.data_plane.kafka_config import publisher_config
from trackside.data_plane.kafka_log import KafkaLogWriter
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

__all__ = ["Load", "Measured", "main", "measure"]

RING = "00000000-0000-0000-0000-000000000000/gateway-0.producer-0.down"
KEY = b"3f2c9c1e-7a55-4a9e-8b90-2b1f5f7e1c11"
HELD_BYTES = 1_900_000
RECORDS_AHEAD = 200
"""What waits in the rings while the writer works, 13 MiB: it is always behind, as under full load."""


class Load(NamedTuple):
    packets: int
    packet_bytes: int = 1024
    record_packets: int = 64


class Measured(NamedTuple):
    """One way of one repeat; ``intact``: what is in Kafka has the hash of what was sent."""

    name: str
    per_second: float
    cpu_us: float
    intact: bool


Send = Callable[[str, str, list[list[bytes]]], None]


def measure(broker: str, load: Load) -> list[Measured]:
    """One run of each way. Leaves three topics behind."""
    rng = random.Random(5)
    distinct = [[rng.randbytes(load.packet_bytes) for _ in range(load.record_packets)] for _ in range(32)]
    records = list(itertools.islice(itertools.cycle(distinct), load.packets // load.record_packets))
    ways: dict[str, Send] = {"log writer": _by_writer, "plain, capped": _plain_capped, "plain": _plain}
    return [_measure_one(name, send, broker, records) for name, send in ways.items()]


def _measure_one(name: str, send: Send, broker: str, records: list[list[bytes]]) -> Measured:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": broker})  # held: a client that is gone cancels its requests
    admin.create_topics([NewTopic(topic, 1)])[topic].result(15)
    cpu, begun = time.process_time(), time.perf_counter()
    send(broker, topic, records)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
    packets = sum(map(len, records))
    return Measured(name, packets / seconds, cpu / packets * 1e6, _hash(records) == _hash_in_kafka(broker, topic))


def _by_writer(broker: str, topic: str, records: list[list[bytes]]) -> None:
    rung = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(broker=broker, data_dir=folder)
        writer = KafkaLogWriter(settings, wake=rung.set, partitions_of=lambda _: 1, dead_letter_topic="bench-dead")
        appended = 0
        while writer.logged(RING) < len(records):
            while appended < len(records) and appended - writer.logged(RING) < RECORDS_AHEAD:
                packets = records[appended]
                appended += 1
                writer.append(RING, appended, Record([Route(topic, 0, KEY)], [0] * len(packets), packets))
            if not writer.do_work():
                rung.wait(0.05)
                rung.clear()
        writer.close(5.0)


class _Plain:
    """A producer as the log writer sets it up, and a thread that polls."""

    def __init__(self, broker: str) -> None:
        self.producer: Any = Producer(publisher_config(Settings(broker=broker)).bulk)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            self.producer.poll(0.1)

    def close(self) -> None:
        while len(self.producer):
            time.sleep(0.001)
        self._stopping = True
        self._thread.join()


def _plain_capped(broker: str, topic: str, records: list[list[bytes]]) -> None:
    """A report a record, and never more than two batches at librdkafka."""
    plain = _Plain(broker)
    produce = plain.producer.produce
    sizes = [sum(map(len, packets)) for packets in records]
    sent = reported = 0
    news = threading.Event()

    def on_report(_error: object, _message: object) -> None:
        nonlocal reported
        reported += sizes[0]
        news.set()

    for packets, size in zip(records, sizes, strict=True):
        while sent - reported > HELD_BYTES - size:
            news.clear()
            if sent - reported > HELD_BYTES - size:
                news.wait(0.1)
        for packet in packets[:-1]:
            produce(topic, packet, KEY, 0)
        produce(topic, packets[-1], KEY, 0, on_report)
        sent += size
    plain.close()


def _plain(broker: str, topic: str, records: list[list[bytes]]) -> None:
    """A report a packet, and librdkafka's own queue as the only bound."""
    plain = _Plain(broker)
    produce = plain.producer.produce
    failed: list[object] = []

    def on_report(error: object, _message: object) -> None:
        if error is not None:
            failed.append(error)

    for packets in records:
        while len(plain.producer) > 50_000:
            time.sleep(0.001)
        for packet in packets:
            produce(topic, packet, KEY, 0, on_report)
    plain.close()
    assert not failed


def _hash(records: list[list[bytes]]) -> str:
    digest = hashlib.sha256()
    for packets in records:
        for packet in packets:
            digest.update(packet)
    return digest.hexdigest()


def _hash_in_kafka(broker: str, topic: str) -> str:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "bench", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    digest = hashlib.sha256()
    while (message := consumer.poll(10.0)) is not None and message.error() is None:
        digest.update(message.value() or b"")
    consumer.close()
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs = [one for _ in range(options.repeats) for one in measure(options.broker, Load(options.packets))]
    for name in dict.fromkeys(one.name for one in runs):
        mine = [one for one in runs if one.name == name]
        cpu_us = statistics.median(one.cpu_us for one in mine)
        per_second = statistics.median(one.per_second for one in mine)
        intact = "intact" if all(one.intact for one in mine) else "NOT INTACT"
        print(f"{name:14} {cpu_us:6.2f} us CPU a packet  {per_second / 1000:6.0f} k/s  {intact}")


if __name__ == "__main__":
    main()
