"""Topics of a writer: each is looked up, created or grown through admin before the first packet goes to it.

Never by the broker's auto-creation, which knows nothing of our partition counts. A topic on its way holds up its own
packets only.

::

    describe --there--> enough partitions? --yes--> READY
        |                        | no
        | unknown                v
        v                      grow ----> READY, or READY with the partitions that are there
      create --> READY (describe again: another server may have been first)
        |
        +-- bad name, policy -----> REFUSED: its packets are dead letters; asked again later
        +-- anything else --------> asked again later, its packets wait: brokers start, rights are given
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

from confluent_kafka import KafkaError

from trackside.data_plane.kafka_admin import AdminError, KafkaAdmin, TopicInfo
from trackside.data_plane.worker import log_line

__all__ = ["KafkaTopics", "Topic", "TopicState"]

RETRY_SECONDS = 0.5
"""After an answer that may be another one soon: brokers are starting, a deletion is under way."""

REFUSED_SECONDS = 10.0
"""How long a refusal holds before the next packet asks again: an operator may have allowed it."""

DOUBT_SECONDS = 1.0
"""A topic is not doubted more often than this."""

_UNKNOWN = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})
_FOR_GOOD = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION,  # not a name for a topic
        KafkaError.POLICY_VIOLATION,
    }
)
_FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


class TopicState(enum.Enum):
    UNKNOWN = enum.auto()
    ASKED = enum.auto()
    READY = enum.auto()
    REFUSED = enum.auto()


class Topic:
    """What is known of one topic. ``bytes_max`` is its ``max.message.bytes``, 0 while not known.

    ``untried``: partitions that were made just now. Their broker may not know them for some milliseconds more.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = TopicState.UNKNOWN
        self.partitions = 0
        self.bytes_max = 0
        self.untried: set[int] = set()
        self.reason = ""
        self.ask_at = 0.0

    def refusal(self, number: int) -> str:
        """Why packets of partition ``number`` can never be stored, empty when they can or it is not known yet."""
        if self.state is TopicState.REFUSED:
            return self.reason
        if self.state is TopicState.READY and number >= self.partitions:
            return f"topic {self.name} has {self.partitions} partitions and takes no more: {self.reason}"
        return ""


class KafkaTopics:
    """Agent thread only. ``changed(topic)`` is called whenever a topic's packets should be looked at again."""

    def __init__(
        self,
        admin: KafkaAdmin,
        partitions_of: Callable[[str], int],
        replication_factor: int,
        changed: Callable[[str], None],
    ) -> None:
        self._admin = admin
        self._partitions_of = partitions_of
        self._replication_factor = replication_factor
        self._changed = changed
        self._topics: dict[str, Topic] = {}
        self.created = 0

    def get(self, name: str) -> Topic:
        """What is known; asks when nothing is. Called before packets go to it: cheap when it is READY."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name)
        if topic.state is not TopicState.READY and topic.state is not TopicState.ASKED:
            self._ask_when_due(topic)
        return topic

    def doubt(self, name: str) -> None:
        """Something is wrong with a topic that was READY (deleted underneath?): ask again, its packets wait."""
        topic = self._topics.get(name)
        if topic is not None and topic.state is TopicState.READY and time.monotonic() >= topic.ask_at:
            self._ask(topic)

    def refresh_limit(self, name: str) -> None:
        """Ask again how large its messages may be; its packets do not wait."""
        topic = self.get(name)

        def on_limit(bytes_max: int | None) -> None:
            topic.bytes_max = bytes_max or 0

        self._admin.topic_bytes_max(name, on_limit)

    def forbidden(self, name: str, reason: str) -> None:
        """A packet was refused for want of a right: said once, its packets wait."""
        self._say_once(self.get(name), "topic not allowed", reason)

    # -- the way of a question ----------------------------------------------------------------------------------------

    def _ask_when_due(self, topic: Topic) -> None:
        now = time.monotonic()
        if now >= topic.ask_at:
            self._ask(topic)

    def _ask(self, topic: Topic) -> None:
        topic.ask_at = time.monotonic() + DOUBT_SECONDS
        topic.state = TopicState.ASKED
        self._admin.describe([topic.name], self._on_described)
        self.refresh_limit(topic.name)

    def _on_described(self, name: str, answer: TopicInfo | AdminError) -> None:
        topic = self._topics[name]
        wanted = max(1, self._partitions_of(name))
        if isinstance(answer, TopicInfo):
            topic.partitions = answer.partitions
            if answer.partitions < wanted:
                self._admin.grow(name, wanted, lambda error: self._on_grown(topic, wanted, error))
            else:
                self._become_ready(topic)
        elif answer.code in _UNKNOWN:
            self._admin.create(name, wanted, self._replication_factor, lambda error: self._on_created(topic, error))
        else:
            self._on_error(topic, answer)

    def _on_created(self, topic: Topic, error: AdminError | None) -> None:
        if error is None:
            self.created += 1
            log_line("info", "kafka", "topic created", topic=topic.name, partitions=self._partitions_of(topic.name))
            topic.partitions = max(1, self._partitions_of(topic.name))
            topic.untried.update(range(topic.partitions))
            self._become_ready(topic)
        elif error.code == KafkaError.TOPIC_ALREADY_EXISTS:
            self._wait(topic, RETRY_SECONDS / 10)  # another server was first: describe what it made
        else:
            self._on_error(topic, error)

    def _on_grown(self, topic: Topic, wanted: int, error: AdminError | None) -> None:
        """A topic that cannot grow is used as far as it goes; what belongs beyond is refused."""
        if error is None:
            log_line("info", "kafka", "topic grown", topic=topic.name, partitions=wanted, before=topic.partitions)
            topic.untried.update(range(topic.partitions, wanted))
            topic.partitions = wanted
            self._become_ready(topic)
        elif error.code in _FOR_GOOD | _FORBIDDEN:
            topic.reason = error.reason
            self._become_ready(topic)
        else:
            self._on_error(topic, error)

    def _become_ready(self, topic: Topic) -> None:
        topic.state = TopicState.READY
        self._changed(topic.name)

    def _on_error(self, topic: Topic, error: AdminError) -> None:
        if error.code in _FOR_GOOD:
            self._say_once(topic, "topic refused", error.reason)
            topic.state = TopicState.REFUSED
            topic.ask_at = time.monotonic() + REFUSED_SECONDS
            self._changed(topic.name)
        else:
            self._say_once(topic, "topic not ready", error.reason)
            self._wait(topic, RETRY_SECONDS)

    def _wait(self, topic: Topic, seconds: float) -> None:
        topic.state = TopicState.UNKNOWN
        topic.ask_at = time.monotonic() + seconds

    def _say_once(self, topic: Topic, event: str, reason: str) -> None:
        if topic.reason != reason:
            topic.reason = reason
            log_line("warn", "kafka", event, topic=topic.name, reason=reason)
