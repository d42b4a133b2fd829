"""The list of topics, fresh while somebody watches, and as of now for whoever asks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaException

from trackside.data_plane.kafka_admin import KafkaAdmin
from trackside.data_plane.log import Wake

__all__ = ["TopicCatalog"]

REFRESH_SECONDS = 0.5
LIST_SECONDS = 4.0
ANSWER_SECONDS = 5.0


class _Question(NamedTuple):
    number: int
    deadline: float
    done: Callable[[Mapping[str, int] | None], None]


class TopicCatalog:
    """Asking for all topics blocks, so a thread does it. All verbs are the agent thread's.

    Questions are numbered; a list answers those that had been asked when it was begun.
    """

    def __init__(self, admin: KafkaAdmin, wake: Wake) -> None:
        self._admin = admin
        self._wake = wake
        self._topics: Mapping[str, int] = {}
        self._watched = False
        self._questions: deque[_Question] = deque()
        self._asked = 0  # written by the agent thread only
        self._answered = 0  # written by the catalog's thread only
        self._nudged = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def topics(self) -> Mapping[str, int]:
        """As last seen. Kafka's own topics are left out."""
        return self._topics

    def watch(self, on: bool) -> None:
        was_on, self._watched = self._watched, on
        if on and not was_on:
            self._nudge()

    def list(self, done: Callable[[Mapping[str, int] | None], None]) -> None:
        """What :meth:`LogReader.list_topics` says."""
        self._asked += 1
        self._questions.append(_Question(self._asked, time.monotonic() + ANSWER_SECONDS, done))
        self._nudge()

    def do_work(self) -> int:
        """Hand out answers. Returns how many."""
        done = 0
        while self._questions and self._questions[0].number <= self._answered:
            self._questions.popleft().done(self._topics)
            done += 1
        while self._questions and self._questions[0].deadline <= time.monotonic():
            self._questions.popleft().done(None)
            done += 1
        return done

    def close(self) -> None:
        self._stopped = True
        self._nudged.set()

    def _nudge(self) -> None:
        self._nudged.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-topics", daemon=True)
            self._thread.start()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            wanted = self._watched or self._asked > self._answered
            self._nudged.wait(REFRESH_SECONDS if wanted else None)
            self._nudged.clear()
            asked = self._asked
            if (self._watched or asked > self._answered) and not self._stopped:
                self._refresh(asked)

    def _refresh(self, asked: int) -> None:
        try:
            found = self._admin.topics(LIST_SECONDS)
        except KafkaException:
            return  # nobody answers: what was seen last stays
        topics = {name: partitions for name, partitions in found.items() if not name.startswith("__")}
        news = topics != self._topics or asked > self._answered
        self._topics = topics
        self._answered = asked  # after the topics: who sees the number sees the list
        if news:
            self._wake()
