"""Looking for our own messages on Kafka: which was the last, and which the first from some offset on.

Reads committed messages only: what an interrupted transaction left behind is not there for anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from trackside.data_plane.forward_place import offset_of
from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import LIBRDKAFKA_LOG, reason_of
from trackside.data_plane.log import Partition

__all__ = ["ForwardSearch", "LinkLost"]

POLL_SECONDS = 0.1
SILENCE_SECONDS = 10.0
"""Without a message or an end for this long the search is given up."""

BATCH = 500
WINDOW = 64
WINDOW_GROWTH = 8
"""Going back from the end, each window is so much longer than the one before."""


class LinkLost(Exception):
    """Kafka does not answer as it should: everything of this connection is thrown away and begun anew."""


class ForwardSearch:
    """One consuming client, used by the forwarder's thread. ``beat`` is called between waits, and may raise.

    Verbs block while Kafka answers, and raise LinkLost when it does not.
    """

    def __init__(self, config: ClientConfig, identity: bytes, beat: Callable[[], None]) -> None:
        fixed = {"isolation.level": "read_committed", "enable.partition.eof": True, "logger": LIBRDKAFKA_LOG}
        self._consumer: Any = made(Consumer, config | fixed)
        self._identity = identity
        self._beat = beat

    def close(self) -> None:
        self._consumer.close()

    def last_between(self, ranges: Mapping[Partition, tuple[int, int]]) -> dict[Partition, tuple[int, int]]:
        """(local offset, offset on Kafka) of our last message in [start, end) of each partition that has one."""
        found: dict[Partition, tuple[int, int]] = {}
        for partition, offset, kafka_offset in self._messages(ranges):
            found[partition] = offset, kafka_offset
        return found

    def last(self, partition: Partition, earliest: int, end: int) -> tuple[int, int] | None:
        """Our last message in [earliest, end), looked for from the end, in windows that grow."""
        window, stop = WINDOW, end
        while stop > earliest:
            start = max(earliest, stop - window)
            found = self.last_between({partition: (start, stop)})
            if found:
                return found[partition]
            window, stop = window * WINDOW_GROWTH, start
        return None

    def first_from(self, partition: Partition, offset: int, earliest: int, end: int) -> int:
        """The least offset on Kafka in [earliest, end] with all our packets before ``offset`` of the local log below it.

        Halves the range with each look: our messages stand in the order of the local log.
        """
        low, high = earliest, end
        while low < high:
            middle = (low + high) // 2
            found = next(self._messages({partition: (middle, high)}), None)
            if found is None or found[1] >= offset:
                high = middle
            else:
                low = found[2] + 1
        return low

    def _messages(self, ranges: Mapping[Partition, tuple[int, int]]) -> Iterator[tuple[Partition, int, int]]:
        """Our messages, as (partition, local offset, offset on Kafka), up to the end of every range."""
        open_ranges = {partition: end for partition, (start, end) in ranges.items() if start < end}
        if not open_ranges:
            return
        self._consumer.assign([TopicPartition(*partition, ranges[partition][0]) for partition in open_ranges])
        heard_at = time.monotonic()
        while open_ranges:
            self._beat()
            messages = self._consumer.consume(BATCH, POLL_SECONDS)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() > heard_at + SILENCE_SECONDS:
                raise LinkLost(f"no answer for {SILENCE_SECONDS:g} s to a look at what is forwarded")
            for message in messages:
                partition = Partition(message.topic(), message.partition())
                if self._ends(message, open_ranges.get(partition)):
                    open_ranges.pop(partition, None)
                elif partition in open_ranges:
                    offset = offset_of(message.headers(), self._identity)
                    if offset is not None:
                        yield partition, offset, message.offset()
                    if message.offset() + 1 >= open_ranges[partition]:
                        del open_ranges[partition]

    @staticmethod
    def _ends(message: Any, end: int | None) -> bool:
        """Whether a range ends before ``message``. Raises LinkLost for an error."""
        error = message.error()
        if error is None:
            return end is None or message.offset() >= end
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        raise LinkLost(f"a look at what is forwarded failed: {reason_of(error)}")
