"""Questions to the coordinator of a consumer group: a client for each group in use, and a few threads that wait.

Both questions block, so they are asked in threads of a small pool; an answer is put aside, the agent thread is woken, and
its ``do_work`` calls ``done`` there. Nobody subscribes, so a client never becomes a member of its group.

The admin client could ask the same without blocking, but keeps a coordinator's connection that is gone for as long as it
is asked for it, and may abort the process (docs/decisions/0014).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from trackside.data_plane.kafka_admin import AdminError
from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import code_of, reason_of
from trackside.data_plane.log import Partition, Wake

__all__ = ["GroupClients", "GroupOffsets"]

GroupOffsets = Mapping[Partition, tuple[int, str]]
"""What a group has committed, with the text beside it, where it has."""

THREADS = 4
REQUEST_SECONDS = 4.0
"""Bound of a question. A commit's own is ``session.timeout.ms``, or ``socket.timeout.ms`` once it is on its way."""

IDLE_SECONDS = 30.0
"""A group that nobody has asked about for so long has no client any more."""

CLIENTS_MAX = 64
"""Clients that are kept for later; one is three threads and two connections."""


class _GroupClient:
    """The client of one group, and how many of its questions have no answer yet."""

    def __init__(self, config: ClientConfig) -> None:
        self.consumer: Any = made(Consumer, config)
        self.open = 0
        self.used_at = time.monotonic()


class GroupClients:
    """Clients by group. Agent thread only, but for the asking itself."""

    def __init__(self, config_of: Callable[[str], ClientConfig], wake: Wake) -> None:
        self._config_of = config_of
        self._wake = wake
        self._clients: dict[str, _GroupClient] = {}  # the one that was used last stands last
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="log-groups")
        self._answers: deque[tuple[_GroupClient, Callable[[], None]]] = deque()

    def group_offsets(
        self, group: str, partitions: Iterable[Partition], done: Callable[[GroupOffsets | AdminError], None]
    ) -> None:
        places = [TopicPartition(*partition) for partition in partitions]
        self._ask(group, lambda consumer: _committed(consumer, places), done)

    def commit_group_offsets(
        self, group: str, offsets: GroupOffsets, done: Callable[[AdminError | None], None]
    ) -> None:
        """``done`` gets the first error of any partition; a topic that is gone is none."""
        places = [TopicPartition(*partition, offset, text) for partition, (offset, text) in offsets.items()]
        self._ask(group, lambda consumer: _commit(consumer, places), done)

    def do_work(self) -> int:
        """Hand out answers that have come, close what nobody uses."""
        done = 0
        while self._answers:
            client, answer = self._answers.popleft()
            client.open -= 1
            answer()
            done += 1
        self._close_unused()
        return done

    def close(self) -> None:
        """Nothing is waited for: questions that are under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, group: str, question: Callable[[Any], Any], done: Callable[[Any], None]) -> None:
        client = self._clients.pop(group, None) or _GroupClient(self._config_of(group))
        self._clients[group] = client
        client.open += 1
        client.used_at = time.monotonic()
        self._threads.submit(self._answer, client, question, done, client.used_at)

    def _answer(
        self, client: _GroupClient, question: Callable[[Any], Any], done: Callable[[Any], None], asked_at: float
    ) -> None:
        """A thread of the pool. While Kafka is away each question takes its whole time: who waited as long is told so."""
        answer: Any = AdminError(KafkaError._TIMED_OUT, "others are waited for")
        try:
            if time.monotonic() < asked_at + REQUEST_SECONDS:
                answer = question(client.consumer)
        except (KafkaException, RuntimeError) as error:  # the last: of a client that was closed
            answer = AdminError(code_of(error), reason_of(error))
        self._answers.append((client, partial(done, answer)))
        self._wake()

    def _close_unused(self) -> None:
        """From the one that has not been used for longest."""
        long_ago = time.monotonic() - IDLE_SECONDS
        for group, client in list(self._clients.items()):
            if client.used_at > long_ago and len(self._clients) <= CLIENTS_MAX:
                return
            if not client.open:
                del self._clients[group]
                self._threads.submit(client.consumer.close)


def _committed(consumer: Any, places: list[TopicPartition]) -> GroupOffsets | AdminError:
    found = consumer.committed(places, timeout=REQUEST_SECONDS)
    if refused := _first_error(found):
        return refused
    return {
        Partition(place.topic, place.partition): (place.offset, place.metadata or "")
        for place in found
        if place.offset >= 0
    }


def _commit(consumer: Any, places: list[TopicPartition]) -> AdminError | None:
    """Kafka keeps the offsets of all partitions that exist, also where the answer as a whole is that one does not."""
    try:
        return _first_error(consumer.commit(offsets=places, asynchronous=False))
    except KafkaException as error:
        if code_of(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def _first_error(places: list[TopicPartition]) -> AdminError | None:
    errors = [place.error for place in places if place.error is not None]
    refused = [error for error in errors if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART]
    return AdminError(refused[0].code(), refused[0].str()) if refused else None
