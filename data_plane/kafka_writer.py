"""The log of a producer on Apache Kafka.

Each partition has its order here (``kafka_queue``); librdkafka holds only about two batches of it, because with
idempotence it has one request in flight a partition and would spin over a longer queue. Refusals are found out by a
second client that is given one packet a partition at a time: the bulk client's gapless guarantee turns a refusal into
the end of that client, so that nothing passes the refused packet.

::

                       +--> bulk client   (gapless, many packets, one report a chunk)
    PartitionQueue ----+
                       +--> single client (one packet a partition, one report a packet) --refused--> dead letters
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaError

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.kafka_admin import KafkaAdmin
from trackside.data_plane.kafka_config import (
    PublisherConfig,
    admin_config,
    check_address,
    publisher_config,
)
from trackside.data_plane.kafka_errors import (
    AFTERMATH,
    CULPABLE,
    FORBIDDEN,
    REFUSALS,
    TOO_LARGE,
    VANISHED,
    code_of,
    reason_of,
)
from trackside.data_plane.kafka_graveyard import Graveyard
from trackside.data_plane.kafka_health import BrokerHealth
from trackside.data_plane.kafka_publisher import KafkaPublisher
from trackside.data_plane.kafka_queue import Chunk, ParkAccount, PartitionQueue, RecordProgress, RingAccount, cut
from trackside.data_plane.kafka_topics import KafkaTopics, TopicState
from trackside.data_plane.log import LogState, Partition, Refusal, Wake
from trackside.data_plane.record import Record, Source
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = ["KafkaLogWriter"]

CHUNK_BYTES = 256 << 10
"""A longer chunk is sent and reported in pieces, so that room is given back in good time."""

BATCHES_HELD = 1.9
"""What librdkafka holds of a partition, in batches: one in flight and one being filled, less the framing."""

BROKER_BYTES_MAX = 1_048_588
"""``message.max.bytes`` of a broker that nobody has configured, and until it has answered."""

ENVELOPE_BYTES = 1024
"""Taken off the broker's limit for key, headers and all framing."""

BATCH_OVERHEAD_BYTES = 100
"""Upper bound of what a batch adds to its messages."""

TICK_SECONDS = 0.05
STUCK_SECONDS = 1.0
"""A partition without progress for this long makes its topic doubtful: it may have been deleted."""

RETRY_SECONDS = 0.1
FORBIDDEN_SECONDS = 0.5
"""How soon a partition that may not be written is tried again: with one packet, which the broker's log notes."""

LIMITS_SECONDS = 60.0
SHORT_LIFE_SECONDS = 1.0
PAUSE_SECONDS = 0.25
"""A client that had only a short life is followed by a pause: a cause that lasts must not eat a core."""

TRIAL_SECONDS = 3.0
"""A client that has lived for this long without work is taken to be let in."""


class KafkaLogWriter:
    """A :class:`LogWriter` on Kafka. Raises LogConfigurationError from here and from ``do_work``.

    ``partitions_of`` says how many partitions a topic gets that does not exist yet. An essential packet goes to its
    own partition when the essentials topic has its copy.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        wake: Wake,
        partitions_of: Callable[[str], int],
        dead_letter_topic: str,
    ) -> None:
        check_address(settings.broker)
        self._wake = wake
        self._config: PublisherConfig = publisher_config(settings)
        self._health = BrokerHealth(settings.broker)
        self._admin = KafkaAdmin(admin_config(settings), wake)
        self._topics = KafkaTopics(self._admin, partitions_of, settings.replication_factor, self._on_topic_changed)
        self._bulk: KafkaPublisher | None = self._new_client("bulk")
        self._single: KafkaPublisher | None = None
        self._client_at = 0.0
        self._trouble = ""

        self._accounts: dict[str, RingAccount] = {}
        self._queues: dict[Partition, PartitionQueue] = {}
        self._by_topic: dict[str, list[PartitionQueue]] = {}
        self._busy: set[PartitionQueue] = set()
        self._dirty: set[PartitionQueue] = set()
        self._parked = 0  # numbers of the park that are not logged
        self._parked_logged: list[int] = []
        self._held: frozenset[str] = frozenset()

        file = DeadLetterFile(Path(settings.data_dir) / "dead-letters")
        self._graveyard = Graveyard(self._queue(Partition(dead_letter_topic, 0)), file, self._on_buried)
        self._refused: list[Refusal] = []

        self._bytes_held_max = int(BATCHES_HELD * self._config.batch_bytes)
        self._broker_bytes_max = 0
        self._packet_bytes_max = settings.max_packet_bytes
        self._broker_bytes_max_next = 0
        self._tick_at = 0.0
        self._limits_at = 0.0
        self._count = dict.fromkeys(("appended", "bytes", "batches", "repeats", "refused", "clients"), 0)

    # -- LogWriter ----------------------------------------------------------------------------------------------------

    def append(self, ring: str, end: int, record: Record, parked: Mapping[str, int] | None = None) -> None:
        account = self._accounts.get(ring)
        if account is None:
            account = self._accounts[ring] = RingAccount()
        progress = RecordProgress(ring, account, end, time.monotonic())
        account.add(progress)
        touched = (
            cut(record, progress, self._queue, self._owners(ring, end, parked))
            if parked
            else cut(record, progress, self._queue)
        )
        self._take_note(record, touched)
        if not progress.left:
            account.settle()

    def append_parked(self, ring: str, end: int, record: Record, parked: Mapping[str, int]) -> None:
        self._take_note(record, cut(record, None, self._queue, self._owners(ring, end, parked)))

    def _take_note(self, record: Record, touched: list[PartitionQueue]) -> None:
        self._busy.update(touched)
        self._dirty.update(touched)
        self._count["appended"] += len(record.packets)
        self._count["bytes"] += sum(map(len, record.packets))

    def _owners(self, ring: str, end: int, parked: Mapping[str, int]) -> dict[str, RecordProgress | None]:
        by_number: dict[int, RecordProgress | None] = {0: None}
        for number in parked.values():
            if number not in by_number:
                account = ParkAccount(number, self._parked_logged)
                by_number[number] = RecordProgress(ring, account, end, time.monotonic())
                self._parked += 1
        return {topic: by_number[number] for topic, number in parked.items()}

    # -- parking ------------------------------------------------------------------------------------------------------

    def overdue(self, seconds: float) -> set[str]:
        before = time.monotonic() - seconds
        return {queue.partition.topic for queue in self._busy if queue.is_blocked(before)}

    def unlogged(self, topics: Collection[str]) -> dict[Source, set[str]]:
        found: dict[Source, set[str]] = {}
        for topic, _, owner in self._chunks_in_rings(topics):
            found.setdefault(Source(owner.ring, owner.end), set()).add(topic)
        return found

    def _chunks_in_rings(self, topics: Iterable[str]) -> Iterator[tuple[str, Chunk, RecordProgress]]:
        for topic in topics:
            for queue in self._by_topic.get(topic, ()):
                for chunk in (*queue.in_flight, *queue.waiting):
                    if isinstance(chunk.owner, RecordProgress) and not chunk.owner.parked:
                        yield topic, chunk, chunk.owner

    def park(self, numbers: Mapping[Source, Mapping[str, int]]) -> None:
        owners = {source: self._owners(*source, parked) for source, parked in numbers.items()}
        topics = {topic for parked in numbers.values() for topic in parked}
        for topic, chunk, before in list(self._chunks_in_rings(topics)):
            owner = owners.get(Source(before.ring, before.end), {}).get(topic)
            if owner is not None:
                chunk.owner = owner
                owner.appended_at = before.appended_at
                owner.left += 1
                before.on_logged(chunk)  # as far as its ring is concerned

    def parked_logged(self) -> list[int]:
        logged = self._parked_logged.copy()
        self._parked_logged.clear()
        self._parked -= len(logged)
        return logged

    def hold(self, topics: Collection[str]) -> None:
        self._held = frozenset(topics)
        self._dirty |= self._busy

    # -- LogWriter, the rest ------------------------------------------------------------------------------------------

    def do_work(self) -> int:
        done = self._admin.do_work()
        done += self._take_reports()
        now = time.monotonic()
        if now >= self._tick_at:
            self._tick_at = now + TICK_SECONDS
            self._tick(now)
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            done += sum([self._pump(queue, now) for queue in dirty])
        return done

    def logged(self, ring: str) -> int:
        account = self._accounts.get(ring)
        return account.logged if account is not None else 0

    def refusals(self) -> list[Refusal]:
        refused, self._refused = self._refused, []
        return refused

    def state(self) -> LogState:
        state = self._health.state()
        return LogState(False, self._trouble) if state.available and self._trouble else state

    def answers(self) -> bool:
        return self.state().available

    def value_bytes_max(self) -> int:
        """By the brokers' limit, not by topics': one odd topic must not close the door for all others."""
        limit = min(self._broker_bytes_max or BROKER_BYTES_MAX, self._config.message_bytes_max)
        return min(self._packet_bytes_max, limit - ENVELOPE_BYTES)

    def statistics(self) -> Mapping[str, int]:
        """Also: ``repeats`` packets sent again, ``clients`` replaced, ``topics_created``, and the graveyard's."""
        return {**self._count, "topics_created": self._topics.created, **self._graveyard.statistics()}

    def close(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._all_logged() and time.monotonic() < deadline:
            if not self.do_work():
                time.sleep(0.001)
        for client in (self._bulk, self._single):
            if client is not None:
                client.close(max(0.5, deadline - time.monotonic()))
        return self._all_logged()

    def _all_logged(self) -> bool:
        return self._parked == len(self._parked_logged) and all(account.empty for account in self._accounts.values())

    # -- clients ------------------------------------------------------------------------------------------------------

    def _new_client(self, kind: str) -> KafkaPublisher:
        config = self._config.bulk if kind == "bulk" else self._config.single
        return KafkaPublisher(config, kind, self._health, self._wake)

    def _take_reports(self) -> int:
        done = 0
        if self._bulk is not None:
            done += self._bulk.take_reports()
            if self._bulk.retired:
                self._bulk.take_reports()
                self._bury_bulk(self._bulk)
        if self._single is not None:
            done += self._single.take_reports()
            if self._single.retired:
                self._single.take_reports()
                self._bury_single(self._single)
        return done

    def _bury_bulk(self, client: KafkaPublisher) -> None:
        """The bulk client is gone. What it had not reported waits again; partitions under suspicion go one by one.

        The failure names its partition, as a hint. When the hint leads nowhere, everything that was in flight is
        suspect: so each failure takes at least one culprit out of the bulk.
        """
        self._bulk = None
        had = [queue for queue in self._busy if queue.in_flight or queue.broken]
        suspects = {queue for queue in had if queue.suspected or queue.partition == client.suspect}
        if not suspects and not client.soft:
            suspects = set(had)
        for queue in had:
            self._count["repeats"] += queue.restore(suspect=queue in suspects)
        self._after_failure(client, had)

    def _bury_single(self, client: KafkaPublisher) -> None:
        self._single = None
        had = [queue for queue in self._busy if queue.sent]
        for queue in had:
            queue.sent = False
            self._count["repeats"] += 1
        self._after_failure(client, had)

    def _after_failure(self, client: KafkaPublisher, had: list[PartitionQueue]) -> None:
        now = time.monotonic()
        self._count["clients"] += 1
        self._client_at = now + (PAUSE_SECONDS if now - client.born < SHORT_LIFE_SECONDS else 0.0)
        if not had:
            self._trouble = client.failure  # nobody's packet: we are not let in, or not allowed to be idempotent
        log_line("warn", "kafka", "client replaced", reason=client.failure, partitions=len(had))
        self._dirty |= self._busy

    def _client(self, kind: str, now: float) -> KafkaPublisher | None:
        """The client to send with, a new one when there is none; None while that is not the time."""
        client = self._bulk if kind == "bulk" else self._single
        if client is None and now >= self._client_at:
            client = self._new_client(kind)
            if kind == "bulk":
                self._bulk = client
            else:
                self._single = client
        return None if client is None or client.failure else client

    # -- sending ------------------------------------------------------------------------------------------------------

    def _queue(self, partition: Partition) -> PartitionQueue:
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = PartitionQueue(partition)
            self._by_topic.setdefault(partition.topic, []).append(queue)
        return queue

    def _pump(self, queue: PartitionQueue, now: float) -> int:
        """Hand over what may go now. Returns how many messages went."""
        if not queue.waiting or queue.sent or queue.burying or now < queue.retry_at or self._gated(queue):
            return 0
        if self._held and queue.partition.topic in self._held:
            return 0
        topic = self._topics.get(queue.partition.topic)
        refusal = topic.refusal(queue.partition.number)
        if refusal:
            return self._refuse(queue, refusal) if not queue.in_flight else 0
        if topic.state is not TopicState.READY:
            return 0
        if topic.untried and queue.partition.number in topic.untried:
            topic.untried.discard(queue.partition.number)
            self._try_alone(queue)
        if queue.careful or queue is self._graveyard.queue:
            return self._send_one(queue, now) if not queue.in_flight else 0
        return self._send_bulk(queue, max(1, topic.bytes_max - BATCH_OVERHEAD_BYTES) if topic.bytes_max else 0, now)

    @staticmethod
    def _try_alone(queue: PartitionQueue) -> None:
        """The first packet of a partition that was just made goes by itself: a broker that does not know it yet fails
        that packet, which is tried again, and not the client, with all that is under way to other partitions."""
        chunk = queue.waiting[0]
        if len(chunk.values) > 1:
            queue.waiting.insert(1, chunk.cut_off(1))
        queue.suspects = max(queue.suspects, 1)

    @staticmethod
    def _gated(queue: PartitionQueue) -> bool:
        gate = queue.waiting[0].after
        if gate is None or not gate.left:
            return False
        gate.waiting.add(queue)
        return True

    def _send_bulk(self, queue: PartitionQueue, message_bytes_max: int, now: float) -> int:
        """Whole chunks, as far as librdkafka's share of this partition goes.

        A batch must not outgrow what the topic takes, or it is refused with all its innocent packets: where that is
        less than a batch, so little is handed over that it cannot. ``message_bytes_max`` 0: not known.
        """
        client = self._client("bulk", now)
        held_max = self._bytes_held_max
        if 0 < message_bytes_max < self._config.batch_bytes:
            held_max = message_bytes_max
        sent = 0
        while client is not None and not client.failure and queue.waiting and not self._gated(queue):
            chunk = self._shorten_head(queue, min(CHUNK_BYTES, held_max))
            if queue.in_flight and queue.bytes_in_flight + chunk.size > held_max:
                break
            if 0 < message_bytes_max < chunk.size:  # one packet, perhaps too large: it must be alone
                if queue.in_flight:
                    break
                queue.suspects = max(queue.suspects, 1)
                return sent + self._send_one(queue, now)
            queue.waiting.popleft()
            sent += self._produce(client, queue, chunk)
            if now < queue.retry_at:
                break
        return sent

    @staticmethod
    def _shorten_head(queue: PartitionQueue, bytes_max: int) -> Chunk:
        chunk = queue.waiting[0]
        rest = chunk.cut_to(bytes_max) if chunk.size > bytes_max else None
        if rest is not None:
            queue.waiting.popleft()
            queue.waiting.extendleft((rest, chunk))
        return chunk

    def _produce(self, client: KafkaPublisher, queue: PartitionQueue, chunk: Chunk) -> int:
        """Hand over one chunk, just taken off ``waiting``. Returns how many messages librdkafka took."""
        report = partial(self._on_chunk, client, queue, chunk)
        taken, error = client.send(queue.partition, chunk, report, each=not self._config.gapless)
        if taken < len(chunk.values):
            queue.waiting.appendleft(chunk.cut_off(taken) if taken else chunk)
            self._on_not_taken(client, queue, error)
        if taken:
            queue.put_in_flight(chunk)
            self._count["batches"] += 1
        return taken

    def _on_not_taken(self, client: KafkaPublisher, queue: PartitionQueue, error: object) -> None:
        """A full client (its queue has a limit only by an override) is tried again; any other reason ends it."""
        if isinstance(error, BufferError):
            queue.retry_at = time.monotonic() + TICK_SECONDS
            return
        self._on_failure(client, queue, error)

    def _on_failure(self, client: KafkaPublisher, queue: PartitionQueue, error: object) -> None:
        """Something of ``queue`` failed: whatever is reported behind it, all from there on is sent again."""
        code = code_of(error)
        queue.broken = True
        queue.suspected = queue.suspected or code in CULPABLE
        if code in VANISHED:
            self._topics.doubt(queue.partition.topic)
        client.fail(reason_of(error), soft=code not in CULPABLE and code not in AFTERMATH)

    def _send_one(self, queue: PartitionQueue, now: float) -> int:
        """The packet at the head, alone: nothing of this partition is on its way but this."""
        client = self._client("single", now)
        if client is None:
            return 0
        error = client.send_one(queue.partition, queue.waiting[0], queue.index, partial(self._on_single, client, queue))
        if error is not None:
            self._on_single_error(client, queue, error)
            return 0
        queue.sent = True
        queue.progress_at = now
        return 1

    # -- reports ------------------------------------------------------------------------------------------------------

    def _on_chunk(self, client: KafkaPublisher, queue: PartitionQueue, chunk: Chunk, error: KafkaError | None) -> None:
        """A chunk's last message is through (with gaps allowed: each of its messages)."""
        if error is not None:
            self._on_failure(client, queue, error)
            return
        self._on_success()
        chunk.reports -= 1
        if not queue.broken and not chunk.reports:
            self._confirm(queue, chunk)

    def _confirm(self, queue: PartitionQueue, chunk: Chunk) -> None:
        """Everything up to ``chunk`` is in the log; without the gapless guarantee, what has been reported is."""
        queue.passed_at = queue.progress_at = time.monotonic()
        while queue.in_flight:
            if queue.in_flight[0].reports and not self._config.gapless:
                break
            through = queue.pop_in_flight()
            self._dirty.update(through.logged())
            if through is chunk and self._config.gapless:
                break
        self._dirty.add(queue)

    def _on_single(self, client: KafkaPublisher, queue: PartitionQueue, error: KafkaError | None) -> None:
        queue.sent = False
        if error is None:
            self._on_success()
            self._pass_one(queue, refused=False)
        else:
            self._on_single_error(client, queue, error)

    def _on_single_error(self, client: KafkaPublisher, queue: PartitionQueue, error: object) -> None:
        code = code_of(error)
        self._dirty.add(queue)
        if code in REFUSALS or (code in FORBIDDEN and queue is self._graveyard.queue):
            if code in TOO_LARGE:
                self._topics.refresh_limit(queue.partition.topic)
            self._refuse(queue, reason_of(error))
            return
        queue.retry_at = time.monotonic() + (FORBIDDEN_SECONDS if code in FORBIDDEN else RETRY_SECONDS)
        if code in FORBIDDEN:
            self._topics.forbidden(queue.partition.topic, reason_of(error))
        if code in VANISHED:
            self._topics.doubt(queue.partition.topic)
        if code in AFTERMATH:
            client.fail(reason_of(error), soft=False)

    def _on_success(self) -> None:
        self._trouble = ""
        self._health.on_answer()

    def _pass_one(self, queue: PartitionQueue, *, refused: bool) -> None:
        chunk = queue.pass_one(refused=refused)
        if chunk is not None:
            self._dirty.update(chunk.logged())
        self._dirty.add(queue)

    # -- dead letters -------------------------------------------------------------------------------------------------

    def _refuse(self, queue: PartitionQueue, reason: str) -> int:
        """The packet at the head of ``queue`` can never be stored: to the dead letters with it."""
        graveyard = self._graveyard
        if queue is graveyard.queue:
            if graveyard.file_head(f"the dead-letter topic refuses it, too: {reason}"):
                self._pass_one(queue, refused=False)
            return 1
        queue.burying = True
        queue.progress_at = time.monotonic()
        graveyard.bury(queue, reason)
        self._busy.add(graveyard.queue)
        self._dirty.add(graveyard.queue)
        return 1

    def _on_buried(self, queue: PartitionQueue, letter: DeadLetter) -> None:
        """The letter is safe: only now may the packet count as logged."""
        queue.burying = False
        self._count["refused"] += 1
        self._refused.append(Refusal(letter.ring, letter.end, letter.packet, letter.place, letter.reason))
        self._pass_one(queue, refused=True)

    # -- now and then -------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._health.do_work(now, self._admin)
        for queue in list(self._busy):
            if queue.idle:
                self._busy.discard(queue)
            elif (queue.in_flight or queue.sent) and now - queue.progress_at > STUCK_SECONDS and self._health.answers:
                self._topics.doubt(queue.partition.topic)
        self._dirty |= self._busy
        stuck = self._graveyard.stuck(now) and self._health.answers
        if stuck and self._graveyard.file_head("the dead-letter topic cannot be had"):
            self._pass_one(self._graveyard.queue, refused=False)
        self._get_over_trouble(now)
        if now >= self._limits_at and self._health.answers:
            self._limits_at = now + LIMITS_SECONDS
            self._broker_bytes_max_next = 0
            self._admin.broker_bytes_max(self._on_broker_limit)

    def _get_over_trouble(self, now: float) -> None:
        """Nobody sends while the log counts as away: so a new client shows by its life that it has come back."""
        if self._trouble:
            client = self._client("bulk", now)
            if client is not None and now - client.born > TRIAL_SECONDS:
                self._trouble = ""

    def _on_broker_limit(self, bytes_max: int | None) -> None:
        """The smallest of all brokers counts, from one refresh to the next."""
        if bytes_max is not None:
            self._broker_bytes_max_next = min(self._broker_bytes_max_next or bytes_max, bytes_max)
            self._broker_bytes_max = self._broker_bytes_max_next

    def _on_topic_changed(self, name: str) -> None:
        self._dirty.update(queue for queue in self._by_topic.get(name, ()) if not queue.idle)
