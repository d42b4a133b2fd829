"""The list of topics, fresh while somebody watches."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from confluent_kafka import KafkaException

from trackside.data_plane.kafka_admin import KafkaAdmin
from trackside.data_plane.log import Wake

__all__ = ["TopicCatalog"]

REFRESH_SECONDS = 0.5
LIST_SECONDS = 4.0


class TopicCatalog:
    """Asking for all topics blocks, so a thread does it. Agent thread: ``watch`` and ``topics``."""

    def __init__(self, admin: KafkaAdmin, wake: Wake) -> None:
        self._admin = admin
        self._wake = wake
        self._topics: Mapping[str, int] = {}
        self._watched = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def topics(self) -> Mapping[str, int]:
        """As last seen. Kafka's own topics are left out."""
        return self._topics

    def watch(self, on: bool) -> None:
        if not on:
            self._watched.clear()
            return
        self._watched.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-topics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._watched.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._watched.wait()
            self._refresh()
            self._stopped.wait(REFRESH_SECONDS)

    def _refresh(self) -> None:
        try:
            found = self._admin.topics(LIST_SECONDS)
        except KafkaException:
            return  # nobody answers: what was seen last stays
        topics = {name: partitions for name, partitions in found.items() if not name.startswith("__")}
        if topics != self._topics:
            self._topics = topics
            self._wake()
