"""Where partitions stand: which log they are, what is the earliest and what the next offset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError

from trackside.data_plane.kafka_admin import AdminError, KafkaAdmin, TopicInfo
from trackside.data_plane.log import Partition

__all__ = ["ABSENT", "UNKNOWN_TOPIC", "Found", "Lookup", "look_up"]


class Found(NamedTuple):
    """``identity`` names the log; offsets in [earliest, end) exist, but for holes."""

    identity: bytes
    earliest: int
    end: int


ABSENT = Found(b"", 0, 0)
"""A partition that does not exist."""

UNKNOWN_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError.TOPIC_EXCEPTION})

Answers = dict[Partition, Found | AdminError]


def look_up(admin: KafkaAdmin, partitions: Iterable[Partition], done: Callable[[Answers], None]) -> None:
    """Ask for all of them together; ``done`` is called once, from a later ``do_work`` of ``admin``."""
    Lookup(admin, frozenset(partitions), done).start()


class Lookup:
    """One question: first the topics (asking for offsets of one that does not exist would wait), then the offsets."""

    def __init__(self, admin: KafkaAdmin, partitions: frozenset[Partition], done: Callable[[Answers], None]) -> None:
        assert partitions
        self._admin = admin
        self._partitions = partitions
        self._done = done
        self._topics: dict[str, TopicInfo | AdminError] = {}
        self._ends: list[Mapping[Partition, int | AdminError]] = []
        self._answers: Answers = {}

    def start(self) -> None:
        self._awaited = {partition.topic for partition in self._partitions}
        self._admin.describe(sorted(self._awaited), self._on_topic)

    def _on_topic(self, topic: str, answer: TopicInfo | AdminError) -> None:
        self._topics[topic] = answer
        if len(self._topics) == len(self._awaited):
            self._on_topics()

    def _on_topics(self) -> None:
        existing = []
        for partition in self._partitions:
            topic = self._topics[partition.topic]
            if isinstance(topic, TopicInfo) and partition.number < topic.partitions:
                existing.append(partition)
            elif isinstance(topic, TopicInfo) or topic.code in UNKNOWN_TOPIC:
                self._answers[partition] = ABSENT
            else:
                self._answers[partition] = topic
        if existing:
            self._admin.offsets(existing, end=False, done=self._on_offsets)
            self._admin.offsets(existing, end=True, done=self._on_offsets)
        else:
            self._done(self._answers)

    def _on_offsets(self, offsets: Mapping[Partition, int | AdminError]) -> None:
        """The smaller of the two answers is the earliest offset, whichever came first."""
        self._ends.append(offsets)
        if len(self._ends) < 2:
            return
        for partition in offsets:
            one, other = self._ends[0][partition], self._ends[1][partition]
            if isinstance(one, AdminError) or isinstance(other, AdminError):
                self._answers[partition] = one if isinstance(one, AdminError) else other  # type: ignore[assignment]
            else:
                self._answers[partition] = Found(self._identity(partition), min(one, other), max(one, other))
        self._done(self._answers)

    def _identity(self, partition: Partition) -> bytes:
        topic = self._topics[partition.topic]
        assert isinstance(topic, TopicInfo)
        return topic.identity
