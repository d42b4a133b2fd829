"""What the log has, without the server: segment files batch by batch, Kafka by a consumer that knows nothing of us."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faults.lanes import entry_of
from faults.reading import entries

from trackside.data_plane.data_dir import partition_dir, segment_bases, segment_path
from trackside.data_plane.log import Partition
from trackside.data_plane.segments import Window, batch_seed, decode_batch, read_segment_head, walk

__all__ = ["Column", "KafkaContents", "LocalContents"]

POLL_SECONDS = 0.1
READ_SECONDS = 120.0


class Column(NamedTuple):
    """One partition from its beginning: entries in their order, and the key of each."""

    entries: array[int]
    keys: list[str]
    damaged: int  # places that do not hold

    def of_session(self, key: str) -> array[int]:
        return array("Q", (entry for entry, own in zip(self.entries, self.keys, strict=True) if own == key))


class LocalContents:
    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def read(self, topics: list[str]) -> dict[str, Column]:
        return {topic: self._read(topic) for topic in topics}

    def _read(self, topic: str) -> Column:
        column, damaged = Column(entries(), [], 0), 0
        for path in self._segments(topic):
            for values, keys in _batches(path):
                if values is None:
                    damaged += 1
                else:
                    column.entries.extend(map(entry_of, values))
                    column.keys.extend(keys)
        return column._replace(damaged=damaged)

    def _segments(self, topic: str) -> list[Path]:
        folder = partition_dir(self._data_dir, Partition(topic, 0))
        return [segment_path(folder, base) for base in segment_bases(folder)]


def _batches(path: Path) -> Iterator[tuple[list[bytes] | None, list[str]]]:
    """Values and keys of each batch; None for what does not hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = read_segment_head(descriptor)
        if found is None:
            yield None, []
            return
        head, size = found
        window = Window(descriptor, os.fstat(descriptor).st_size)
        for step in walk(window, batch_seed(head.identity, head.topic, head.partition), size, head.base_offset):
            if step.head is None:
                yield None, []
                continue
            batch = decode_batch(bytes(window.at(step.position, step.head.size)[: step.head.size]), 0, step.head)
            names = [key.decode() for key, _ in batch.keys]
            yield batch.values, [names[index] for index in batch.key_index]
    finally:
        os.close(descriptor)


class KafkaContents:
    """Partition 0 of topics, all by one consumer: making one takes longer than reading."""

    def __init__(self, broker: str) -> None:
        self._broker = broker

    def read(self, topics: list[str]) -> dict[str, Column]:
        """Up to the ends as they are now. Raises RuntimeError when those are not reached in time."""
        import confluent_kafka as kafka

        consumer = kafka.Consumer(
            {"bootstrap.servers": self._broker, "group.id": "checker", "enable.auto.commit": False, "log_level": 0}
        )
        columns = {topic: Column(entries(), [], 0) for topic in topics}
        try:
            left = {}
            there = consumer.list_topics(timeout=READ_SECONDS).topics
            for topic in columns.keys() & there.keys():
                first, end = consumer.get_watermark_offsets(kafka.TopicPartition(topic, 0), timeout=READ_SECONDS)
                if first < end:
                    left[topic] = first, end
            consumer.assign([kafka.TopicPartition(topic, 0, first) for topic, (first, _) in left.items()])
            deadline = time.monotonic() + READ_SECONDS
            while left:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not read to their ends within {READ_SECONDS:g} s: {left}")
                for message in consumer.consume(1000, POLL_SECONDS):
                    if message.error() is None:
                        _take(columns[message.topic()], message)
                        if message.offset() + 1 >= left.get(message.topic(), (0, 1 << 62))[1]:
                            del left[message.topic()]
        except kafka.KafkaException as error:
            raise RuntimeError(str(error)) from None
        finally:
            consumer.close()
        return columns


def _take(column: Column, message: Any) -> None:
    column.entries.append(entry_of(message.value()))
    column.keys.append((message.key() or b"").decode())
