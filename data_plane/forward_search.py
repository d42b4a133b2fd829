"""Looking for our own messages on Kafka: which was the last, and which the first from some offset on.

Reads committed messages only: what an interrupted transaction left behind is not there for anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

from trackside.data_plane.forward_place import offset_of
from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import LIBRDKAFKA_LOG, reason_of
from trackside.data_plane.log import Partition

__all__ = ["Fenced", "ForwardSearch", "LinkLost", "Ours"]

POLL_SECONDS = 0.1
SILENCE_SECONDS = 10.0
"""Without a message or an end for this long the search is given up."""

BATCH = 500
WINDOW = 64
WINDOW_GROWTH = 8
"""Going back from the end, each window is so much longer than the one before."""


class Ours(NamedTuple):
    """One of our messages: its offset in the local log, and on Kafka."""

    offset: int
    kafka_offset: int


class LinkLost(Exception):
    """Kafka does not answer as it should: everything of this connection is thrown away and begun anew."""


class Fenced(LinkLost):
    """Somebody else has begun with the same transactional id: a forwarder of the same log, or of a copy of it."""


class ForwardSearch:
    """Used by the forwarder's thread. ``beat`` is called between waits, and may raise.

    Verbs block while Kafka answers, and raise LinkLost when it does not. Each look has a client of its own: what one had
    fetched before it was pointed elsewhere would be taken for what is there.
    """

    def __init__(self, config: ClientConfig, identity: bytes, beat: Callable[[], None]) -> None:
        self._config = config | {"isolation.level": "read_committed", "logger": LIBRDKAFKA_LOG}
        self._identity = identity
        self._beat = beat

    def last_between(self, ranges: Mapping[Partition, tuple[int, int]]) -> dict[Partition, Ours]:
        """Our last message in [start, end) of each partition that has one."""
        return {partition: messages[-1] for partition, messages in self._messages(ranges, keep=1).items()}

    def last(self, partition: Partition, earliest: int, end: int) -> Ours | None:
        """Our last message in [earliest, end), looked for from the end."""
        for start, stop in _windows(earliest, end):
            found = self.last_between({partition: (start, stop)})
            if found:
                return found[partition]
        return None

    def first_from(self, partition: Partition, offset: int, earliest: int, end: int) -> int:
        """The offset on Kafka in [earliest, end] behind our last packet before ``offset`` of the local log.

        Looked for from the end: who asks means what was sent a moment ago.
        """
        for start, stop in _windows(earliest, end):
            messages = self._messages({partition: (start, stop)}).get(partition, [])
            before = [ours for ours in messages if ours.offset < offset]
            if before:
                return before[-1].kafka_offset + 1
        return earliest

    def _messages(self, ranges: Mapping[Partition, tuple[int, int]], keep: int = 0) -> dict[Partition, list[Ours]]:
        """Ours in each range, or the last ``keep`` of them."""
        open_ranges = {partition: end for partition, (start, end) in ranges.items() if start < end}
        found: dict[Partition, list[Ours]] = {}
        if not open_ranges:
            return found
        consumer: Any = made(Consumer, self._config)
        try:
            consumer.assign([TopicPartition(*partition, ranges[partition][0]) for partition in open_ranges])
            heard_at = time.monotonic()
            while open_ranges:
                self._beat()
                messages = consumer.consume(BATCH, POLL_SECONDS)
                if messages:
                    heard_at = time.monotonic()
                elif time.monotonic() > heard_at + SILENCE_SECONDS:
                    raise LinkLost(f"no answer for {SILENCE_SECONDS:g} s to a look at what is forwarded")
                for message in messages:
                    self._take(message, open_ranges, found, keep)
        finally:
            consumer.close()
        return found

    def _take(
        self, message: Any, open_ranges: dict[Partition, int], found: dict[Partition, list[Ours]], keep: int
    ) -> None:
        partition = Partition(message.topic(), message.partition())
        end = open_ranges.get(partition)
        if end is None:
            return
        if self._ends(message, end):
            del open_ranges[partition]
            return
        offset = offset_of(message.headers(), self._identity)
        if offset is not None:
            ours = found.setdefault(partition, [])
            ours.append(Ours(offset, message.offset()))
            del ours[: -keep or 0]
        if message.offset() + 1 >= end:
            del open_ranges[partition]

    @staticmethod
    def _ends(message: Any, end: int) -> bool:
        """Whether a range ends before ``message``. Raises LinkLost for an error."""
        error = message.error()
        if error is None:
            return bool(message.offset() >= end)
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        raise LinkLost(f"a look at what is forwarded failed: {reason_of(error)}")


def _windows(earliest: int, end: int) -> Iterator[tuple[int, int]]:
    """[earliest, end) in pieces, the last one first."""
    window = WINDOW
    while end > earliest:
        start = max(earliest, end - window)
        yield start, end
        window, end = window * WINDOW_GROWTH, start
