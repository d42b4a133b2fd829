"""Questions to the cluster that are answered later: topics, configurations, watermarks.

No verb blocks. librdkafka answers in a thread of its own; the answer is put aside, the agent thread is woken, and its
``do_work`` calls ``done`` there. So everything above this file runs in one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import confluent_kafka.admin
from confluent_kafka import (
    IsolationLevel,
    TopicCollection,
    TopicPartition,
)

from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import code_of, reason_of
from trackside.data_plane.log import Partition, Wake

__all__ = ["AdminError", "KafkaAdmin", "TopicInfo"]

REQUEST_SECONDS = 4.0
"""Bound of every question; less than the five seconds that :meth:`LogReader.watermarks` promises."""


_api: Any = confluent_kafka.admin  # untyped in part, and differently so from version to version


class TopicInfo(NamedTuple):
    """``identity`` is Kafka's topic id: another one when a topic has been deleted and made again, never used twice."""

    identity: bytes
    partitions: int


class AdminError(NamedTuple):
    """What the cluster said instead of an answer."""

    code: int
    reason: str


class KafkaAdmin:
    """One AdminClient and its unanswered questions. Agent thread only, but for the arrival of answers."""

    def __init__(self, config: ClientConfig, wake: Wake) -> None:
        self._client: Any = made(_api.AdminClient, config)
        self._wake = wake
        self._answers: deque[tuple[Callable[[Future[Any]], None], Future[Any]]] = deque()

    def do_work(self) -> int:
        """Hand out answers that have come."""
        done = 0
        while self._answers:
            handle, future = self._answers.popleft()
            handle(future)
            done += 1
        return done

    # -- questions ----------------------------------------------------------------------------------------------------

    def probe(self, done: Callable[[str | None], None]) -> None:
        """Whether a broker answers: ``done(None)``, or the reason why not."""

        def handle(future: Future[Any]) -> None:
            error = _error(future)
            done(error.reason if error else None)

        self._ask(self._client.describe_cluster(request_timeout=REQUEST_SECONDS), handle)

    def describe(self, topics: Sequence[str], done: Callable[[str, TopicInfo | AdminError], None]) -> None:
        """Identity and partition count of each topic; ``done`` is called once for each."""
        futures = self._client.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_SECONDS)
        for topic, future in futures.items():
            self._ask(future, partial(self._on_described, topic, done))

    @staticmethod
    def _on_described(topic: str, done: Callable[[str, TopicInfo | AdminError], None], future: Future[Any]) -> None:
        error = _error(future)
        done(topic, error or TopicInfo(str(future.result().topic_id).encode(), len(future.result().partitions)))

    def create(self, topic: str, partitions: int, replication: int, done: Callable[[AdminError | None], None]) -> None:
        new = _api.NewTopic(topic, num_partitions=partitions, replication_factor=replication)
        futures = self._client.create_topics([new], request_timeout=REQUEST_SECONDS, operation_timeout=REQUEST_SECONDS)
        self._ask(futures[topic], lambda future: done(_error(future)))

    def grow(self, topic: str, partitions: int, done: Callable[[AdminError | None], None]) -> None:
        """More partitions for a topic that exists."""
        new = _api.NewPartitions(topic, partitions)
        futures = self._client.create_partitions([new], request_timeout=REQUEST_SECONDS)
        self._ask(futures[topic], lambda future: done(_error(future)))

    def topic_bytes_max(self, topic: str, done: Callable[[int | None], None]) -> None:
        """``max.message.bytes`` of a topic, None when we are not told."""
        self._read_number(_api.ConfigResource(_api.ResourceType.TOPIC, topic), "max.message.bytes", done)

    def broker_bytes_max(self, done: Callable[[int | None], None]) -> None:
        """``message.max.bytes`` of each broker in turn, None for one that does not say."""

        def on_cluster(future: Future[Any]) -> None:
            nodes = [] if _error(future) else future.result().nodes
            for node in nodes:
                self._read_number(
                    _api.ConfigResource(_api.ResourceType.BROKER, str(node.id)), "message.max.bytes", done
                )

        self._ask(self._client.describe_cluster(request_timeout=REQUEST_SECONDS), on_cluster)

    def _read_number(self, resource: Any, name: str, done: Callable[[int | None], None]) -> None:
        def handle(future: Future[Any]) -> None:
            entry = None if _error(future) else future.result().get(name)
            done(int(entry.value) if entry is not None and entry.value is not None else None)

        self._ask(self._client.describe_configs([resource], request_timeout=REQUEST_SECONDS)[resource], handle)

    def offsets(
        self,
        partitions: Iterable[Partition],
        *,
        end: bool,
        done: Callable[[Mapping[Partition, int | AdminError]], None],
    ) -> None:
        """The first offset that exists, or with ``end`` the one after the last, of each partition; all in one answer."""
        spec = _api.OffsetSpec.latest() if end else _api.OffsetSpec.earliest()
        asked = {TopicPartition(topic, number): spec for topic, number in partitions}
        futures = self._client.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
        )
        found: dict[Partition, int | AdminError] = {}

        def handle(partition: Partition, future: Future[Any]) -> None:
            found[partition] = _error(future) or int(future.result().offset)
            if len(found) == len(futures):
                done(found)

        for place, future in futures.items():
            partition = Partition(place.topic, place.partition)
            self._ask(future, partial(handle, partition))

    def topics(self, timeout_seconds: float) -> dict[str, int]:
        """All topics and their partition counts. **Blocks**: not for the agent thread. Raises KafkaException."""
        found = self._client.list_topics(timeout=timeout_seconds).topics
        return {name: len(metadata.partitions) for name, metadata in found.items() if metadata.error is None}

    # -- answers ------------------------------------------------------------------------------------------------------

    def _ask(self, future: Future[Any], handle: Callable[[Future[Any]], None]) -> None:
        def arrived(answered: Future[Any]) -> None:  # a thread of librdkafka
            self._answers.append((handle, answered))
            self._wake()

        future.add_done_callback(arrived)


def _error(future: Future[Any]) -> AdminError | None:
    raised = future.exception()
    return None if raised is None else AdminError(code_of(raised), reason_of(raised))
