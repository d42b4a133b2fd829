"""The forwarder process: copies the local log to Kafka, for a server that must not depend on the link to it.

::

    segment files --cursors--> loads of a transaction --ForwardLink--> Kafka
                                                                         |
         forwarded.json <-- how far each partition is <--offsets---------+

A log worker without links: it reads what producers publish, as a consumer does, and nobody waits for it. A round sends
what has come, in this order: essentials, then the data that was there before them, then what belongs to no data source,
sessions among it. Whatever goes wrong with Kafka ends the link; the next one begins with a look at what Kafka has.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from confluent_kafka import KafkaError

from trackside.data_plane import metrics
from trackside.data_plane.data_dir import claim_data_dir
from trackside.data_plane.dead_letters import DeadLetterFile, DeadLettersFull
from trackside.data_plane.forward_backlog import NOTHING, BacklogMeter, DiskMeter
from trackside.data_plane.forward_link import ForwardLink, Refused, link_config
from trackside.data_plane.forward_partition import Load, PartitionWay
from trackside.data_plane.forward_place import Forwarded, ForwardedFile
from trackside.data_plane.forward_search import Fenced, ForwardSearch, LinkLost, Ours
from trackside.data_plane.forwarded_ends import ForwardedEndsWriter
from trackside.data_plane.kafka_admin import AdminError, KafkaAdmin, TopicInfo
from trackside.data_plane.kafka_config import admin_config, catch_up_config, check_address, publisher_config
from trackside.data_plane.kafka_health import BrokerHealth
from trackside.data_plane.kafka_lookup import UNKNOWN_TOPIC, Answers, Found, look_up
from trackside.data_plane.kafka_topics import KafkaTopics, TopicState
from trackside.data_plane.local_reader import LocalLogReader
from trackside.data_plane.log import LogConfigurationError, LogReader, LogState, Partition, Run, Watermarks
from trackside.data_plane.naming import ESSENTIAL
from trackside.data_plane.routing import Routing
from trackside.data_plane.session_offsets import session_offsets
from trackside.data_plane.worker import Worker, run_agent
from trackside.shm.liveness import WorkerState

__all__ = ["Forwarder", "run"]

RUN_BYTES = 512 << 10
TRANSACTION_BYTES = 4 << 20
TRANSACTION_BYTES_MIN = 64 << 10
"""Of one transaction: less while they take long, so that a slow link does not spend its time on what it undoes."""

SLOW_SECONDS, QUICK_SECONDS = 2.0, 0.5

ENVELOPE_BYTES = 1024
"""Taken off what a topic allows, for key, headers and all framing of a packet or batch."""

PAUSES_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before the first, second ... link after losses without a packet in between."""

LOOK_SECONDS = 5.0
REFUSED_SECONDS = 10.0
"""After wrong credentials."""

FENCED_SECONDS = 10.0
COPY_ADVICE = "is a copy of this data directory in use elsewhere? start one of the two with an empty one"

SAVE_SECONDS = 1.0
SHOW_SECONDS = 1.0
CHECK_SECONDS, CHECKED_TOPICS = 1.0, 100
"""So many topics at a time are asked whether they are still the same: of that a transaction says nothing."""

DISK_SECONDS = 10.0

AWAY_SECONDS = 1.0
"""A cluster that is silent for less is not away: brokers close idle connections."""

PATIENCE_SECONDS = 10.0
"""After which a transaction under way is given up; a short silence costs a link that takes long to make no new one."""

LEAVE_SECONDS = 1.5
"""What may still be sent when the server stops; the next start goes on with the rest."""

FOR_GOOD = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.POLICY_VIOLATION})
"""Refusals of a whole topic: its packets wait, in the local log, until somebody allows it."""


class Forwarder:
    """The agent. One thread; what it waits for it waits for in short pieces, with a heartbeat between."""

    def __init__(self, worker: Worker, log: LogReader, identity: bytes) -> None:
        """Raises LogConfigurationError, OSError."""
        settings = worker.spec.settings
        check_address(settings.forward_to)
        self.worker = worker
        self.log = log
        self._identity = identity
        self._settings = msgspec.structs.replace(settings, broker=settings.forward_to)
        self._routing = Routing(settings)
        publisher = publisher_config(self._settings)
        self._batch_bytes = publisher.batch_bytes
        self._link_config = link_config(publisher.bulk, f"trackside-forwarder-{identity.hex()}")
        self._file = ForwardedFile(Path(settings.data_dir), identity)
        self._search = ForwardSearch(catch_up_config(self._settings), identity, self._beat)
        self._letters = DeadLetterFile(Path(settings.data_dir) / "dead-letters")
        self._ends_table = ForwardedEndsWriter(Path(worker.spec.forwarder_table))
        self._backlog = BacklogMeter(Path(settings.data_dir), identity)
        self._disk = DiskMeter(Path(settings.data_dir))
        self._count = metrics.forwarder_counters(worker.counters)
        self._mirror = metrics.Mirror(worker.counters, metrics.READER_STATISTICS)
        self._ways: dict[Partition, PartitionWay] = {}
        self._link: ForwardLink | None = None
        self._bytes_max = TRANSACTION_BYTES
        self._waits_for: tuple[int, dict[Partition, int]] = -1, {}  # of the next session packet, at its offset
        self._unchecked: list[str] = []
        self._vanished = ""
        self._unsaved = ""
        self._suspects: list[PartitionWay] = []  # one of them was refused; each goes by itself
        self._losses = 0
        self._connect_at = self._save_at = self._stop_at = self._health_at = 0.0
        self._show_at = self._disk_at = self._check_at = 0.0
        self._away_since = time.monotonic()
        self._meet()
        self._trouble = self._health.state().reason
        self._told: bool | None = None

    def _meet(self) -> None:
        """Everything that knows the cluster, from the beginning: also for one that has refused us."""
        self._health = BrokerHealth(self._settings.broker)
        self._admin = KafkaAdmin(admin_config(self._settings), self.worker.doorbell.ring)

    # -- the duty cycle -----------------------------------------------------------------------------------------------

    def do_work(self) -> int:
        done = self.log.do_work() + self._admin.do_work()
        self._find_partitions()
        now = time.monotonic()
        try:
            self._look_after(now)
            if self._link is not None:
                done += self._forward()
            elif now >= self._connect_at and self._health.answers and not self.worker.stopping:
                self._connect()
                done += 1
        except LinkLost as lost:
            self._lose(str(lost))
            if isinstance(lost, Fenced):
                self._on_fenced()
            self._tell_state()
        return 0 if self._must_leave() else done

    def state(self) -> LogState:
        """Of the link."""
        return LogState(not self._trouble, self._trouble)

    def is_done(self) -> bool:
        """Whether Kafka has everything that is in the local log."""
        ways = list(self._ways.values())
        ends = self._ends(ways)
        return self._link is not None and all(way.placed and way.next_offset >= ends[way.partition] for way in ways)

    def drained(self) -> bool:
        """Asked when nothing was left to do, or nothing can be."""
        return True

    def close(self) -> None:
        self._drop_link()
        self._save(float("inf"))
        self._ends_table.close()
        self.log.close()

    def _beat(self) -> None:
        """Between waits, which may be long. Raises LinkLost when there is no sense in going on with it."""
        self.worker.beat()
        self._admin.do_work()
        if self._must_leave():
            raise LinkLost("the server stops")
        self._look_after(time.monotonic())

    def _look_after(self, now: float) -> None:
        """What has to be done however long Kafka takes. Raises LinkLost."""
        self._look_at_health(now)
        self._check_topics(now)
        self._save(now)
        self._show(now)
        self._tell_state()

    def _tell_state(self) -> None:
        """One line when the link goes and one when it comes; that it is away for another reason now is only shown."""
        if self.worker.stopping:
            return
        available, reason = self.state()
        if available != self._told:
            self._told = available
            self.worker.become(WorkerState.READY if available else WorkerState.DEGRADED, reason)
        elif reason != self.worker.liveness.read_reason():
            self.worker.liveness.write_reason(reason)

    def _must_leave(self) -> bool:
        if not self.worker.stopping:
            return False
        self._stop_at = self._stop_at or time.monotonic() + LEAVE_SECONDS
        return time.monotonic() > self._stop_at

    # -- the link -----------------------------------------------------------------------------------------------------

    def _look_at_health(self, now: float) -> None:
        """Raises LinkLost when nobody has answered for so long that what is under way is not waited for."""
        if now < self._health_at:
            return
        try:
            self._health.do_work(now, self._admin)
        except LogConfigurationError as refused:  # wrong credentials stop no server that can do without
            self._meet()
            self._health_at = now + REFUSED_SECONDS
            raise LinkLost(str(refused)) from None
        if self._health.answers:
            self._away_since = now
            if self._link is not None:
                self._trouble = ""
        elif now > self._away_since + AWAY_SECONDS:
            self._trouble = self._health.state().reason
            if self._link is not None and now > self._away_since + PATIENCE_SECONDS:
                raise LinkLost(self._trouble)

    def _connect(self) -> None:
        link = ForwardLink(self._link_config, self._health, self._beat)
        try:
            link.open()
        except LinkLost:
            link.close()
            raise
        self._link = link
        self._topics = KafkaTopics(
            self._admin, self._routing.partition_count, self._settings.replication_factor, lambda _: None
        )
        self._trouble = ""

    def _lose(self, reason: str) -> None:
        """The link is no good any more: what is on Kafka is looked up again by the next one.

        Without a reason only the client is, and nobody needs to know.
        """
        self._vanished, self._unchecked = "", []
        self._drop_link()
        if not reason:
            return
        self._trouble = reason
        self._count.link_losses.add()
        self._connect_at = time.monotonic() + PAUSES_SECONDS[min(self._losses, len(PAUSES_SECONDS) - 1)]
        self._losses += 1
        self._bytes_max = max(TRANSACTION_BYTES_MIN, self._bytes_max // 2)

    def _on_fenced(self) -> None:
        """Whoever has the link now is let finish: two that take it from each other in turns would get nowhere."""
        self._trouble = f"another forwarder has begun as log {uuid.UUID(bytes=self._identity)} ({self._trouble})"
        self._connect_at = time.monotonic() + FENCED_SECONDS
        self._count.fenced.add()
        self.worker.log("error", "fenced", reason=self._trouble, advice=COPY_ADVICE)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        for way in self._ways.values():
            way.placed = False
            way.rewind()

    # -- partitions ---------------------------------------------------------------------------------------------------

    def _find_partitions(self) -> None:
        """All that exist in the local log, new ones as they appear."""
        for topic, count in self.log.topics().items():
            for number in range(count):
                partition = Partition(topic, number)
                if partition not in self._ways:
                    self._ways[partition] = self._begin(partition)

    def _begin(self, partition: Partition) -> PartitionWay:
        """Of what exists while there is no file Kafka may have something; of what comes later it cannot."""
        if not self._file.known and partition not in self._file.partitions:
            self._file.note(partition, Forwarded(b"", 0, 0))
        kept = self._file.partitions.get(partition)
        way = PartitionWay(partition, kept.next_offset if kept else 0)
        self._publish(way)
        return way

    def _publish(self, way: PartitionWay) -> None:
        """To producers: what is not forwarded does not fall to their retention."""
        self._ends_table.publish(way.partition, way.next_offset)

    def _place(self) -> None:
        """Find out what Kafka has of the ways whose topics are there. Raises LinkLost."""
        unplaced = {way.partition: way for way in self._ways.values() if not way.placed and self._is_ready(way)}
        if not unplaced:
            return
        found = {place: there for place, there in self._where(unplaced).items() if isinstance(there, Found)}
        there = {place: where for place, where in found.items() if where.identity}
        lasts = self._last_of(there)
        for partition, where in there.items():
            self._place_one(unplaced[partition], where, lasts.get(partition))
        self._remember(there)

    def _remember(self, partitions: Iterable[Partition]) -> None:
        """Before anything is sent there: a partition that the file does not name was never sent. Raises LinkLost."""
        if self._saved() or self._file.names(partitions):
            return
        try:
            self._file.forget()
        except OSError:
            raise LinkLost(self._unsaved) from None

    def _is_ready(self, way: PartitionWay) -> bool:
        """Whether the way's topic is there; asks for it, or makes it, when it is not."""
        topic = self._topics.get(way.partition.topic)
        refusal = topic.refusal(way.partition.number)
        if not way.retry_at:
            way.reason = refusal
        return topic.state is TopicState.READY and not refusal

    def _where(self, partitions: Iterable[Partition]) -> Answers:
        """Where partitions stand on Kafka. Blocks; raises LinkLost."""
        answers: list[Answers] = []
        look_up(self._admin, partitions, answers.append)
        deadline = time.monotonic() + LOOK_SECONDS
        while not answers:
            self._beat()
            if time.monotonic() > deadline:
                raise LinkLost(f"no answer for {LOOK_SECONDS:g} s to the question where partitions stand")
            if not self._admin.do_work():
                time.sleep(0.002)
        return answers[0]

    def _last_of(self, there: dict[Partition, Found]) -> dict[Partition, Ours]:
        """The last message of this log in each partition, as far as it is not known already."""
        behind, whole = {}, []
        for partition, where in there.items():
            kept = self._file.partitions.get(partition)
            if kept is not None and not kept.topic_id:
                whole.append(partition)
            elif kept is not None and kept.topic_id == where.identity and kept.kafka_next < where.end:
                behind[partition] = max(kept.kafka_next, where.earliest), where.end
        if not behind and not whole:
            return {}
        found = self._search.last_between(behind)
        lasts = {place: self._search.last(place, there[place].earliest, there[place].end) for place in whole}
        return found | {place: last for place, last in lasts.items() if last is not None}

    def _place_one(self, way: PartitionWay, where: Found, last: Ours | None) -> None:
        self._must_be_ours(way, last)
        kept = self._file.partitions.get(way.partition)
        if kept is not None and kept.topic_id not in (b"", where.identity):
            self.worker.log(
                "warn", "topic is another one, sent again", topic=way.partition.topic, partition=way.partition.number
            )
            self._count.topics_anew.add()
            kept = None
        if last is not None:
            next_offset, kafka_next = last.offset + 1, last.kafka_offset + 1
        elif kept is not None and kept.topic_id:
            next_offset, kafka_next = kept.next_offset, kept.kafka_next
        else:
            next_offset, kafka_next = 0, where.end
        if kept is not None:
            next_offset = max(next_offset, kept.next_offset)  # a dead letter at the end leaves no message
        way.place(where.identity, where.earliest, next_offset, kafka_next)
        self._publish(way)
        self._file.note(way.partition, Forwarded(where.identity, next_offset, kafka_next))

    def _must_be_ours(self, way: PartitionWay, last: Ours | None) -> None:
        """Raises Fenced when Kafka has packets with places that this process has not sent since it began: they are
        somebody else's, and going on behind them would leave out as many of ours."""
        if way.topic_id and last is not None and last.offset >= way.sent_to:
            raise Fenced(f"{way.partition.topic} has its packets up to offset {last.offset}, sent here {way.sent_to}")

    def _check_topics(self, now: float) -> None:
        """Ask, some at a time, whether topics are still those that were filled. Raises LinkLost when one is not."""
        if self._link is None:
            return
        if self._vanished:
            vanished, self._vanished = self._vanished, ""
            raise LinkLost(vanished)
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        self._unchecked = self._unchecked or sorted({way.partition.topic for way in self._ways.values() if way.placed})
        due, self._unchecked = self._unchecked[:CHECKED_TOPICS], self._unchecked[CHECKED_TOPICS:]
        if due:
            self._admin.describe(due, self._on_described)

    def _on_described(self, topic: str, answer: TopicInfo | AdminError) -> None:
        way = self._ways[Partition(topic, 0)]
        if isinstance(answer, TopicInfo):
            if way.placed and answer.identity != way.topic_id:
                self._vanished = f"topic {topic} was deleted and made again"
        elif answer.code in UNKNOWN_TOPIC:
            self._vanished = f"topic {topic} was deleted"

    # -- a round ------------------------------------------------------------------------------------------------------

    def _forward(self) -> int:
        """Returns how many packets Kafka has taken."""
        self._place()
        alone = self._suspects.pop() if self._suspects else self._held_and_due()
        if alone is not None:
            return self._send(self._gather([alone]))
        essentials, data, common = self._kinds()
        loads = self._gather(data)
        # What these packets need was in the log before them: so these are the ends, looked up after the packets.
        ends = self._ends(
            [way for way in self._ways.values() if self._routing.naming.is_essentials(way.partition.topic)]
        )
        sent = self._send_up_to(essentials, ends)
        waiting = {self._family(place) for place, end in ends.items() if self._ways[place].next_offset < end}
        sent += self._send([load for load in loads if self._family(load.way.partition) not in waiting])
        sent += self._send(self._gather(common))
        return sent

    def _family(self, partition: Partition) -> str:
        """What all topics of a data source have in common: none of its data goes before its essentials can."""
        return self._routing.naming.bare(partition.topic).partition(".")[0].replace(ESSENTIAL, "")

    def _held_and_due(self) -> PartitionWay | None:
        """A way that was held long enough. It is tried alone: what it meets must not be the others' trouble."""
        now = time.monotonic()
        return next((way for way in self._ways.values() if way.placed and 0 < way.retry_at <= now), None)

    def _kinds(self) -> tuple[list[PartitionWay], ...]:
        """The ways that may go on, by kind: essentials, data, what belongs to no data source."""
        naming = self._routing.naming
        kinds: tuple[list[PartitionWay], ...] = ([], [], [])
        for (topic, _), way in self._ways.items():
            if way.placed and not way.retry_at:
                kinds[0 if naming.is_essentials(topic) else 2 if naming.is_common(topic) else 1].append(way)
        return kinds

    def _ends(self, ways: Sequence[PartitionWay]) -> dict[Partition, int]:
        found: list[dict[Partition, Watermarks] | None] = []
        self.log.watermarks([way.partition for way in ways], found.append)
        return {partition: marks.end for partition, marks in (found[0] or {}).items()}

    def _send_up_to(self, ways: Sequence[PartitionWay], ends: dict[Partition, int]) -> int:
        sent = 0
        while behind := [way for way in ways if way.next_offset < ends.get(way.partition, 0) and not way.reason]:
            now = self._send(self._gather(behind))
            if not now:
                break
            sent += now
        return sent

    def _gather(self, ways: Sequence[PartitionWay]) -> list[Load]:
        """What comes next, of each way something."""
        loads: list[Load] = []
        room = self._bytes_max
        for way in ways:
            if room <= 0:
                break
            load = self._next_load(way, min(room, RUN_BYTES))
            if load is not None:
                loads.append(load)
                room -= load.size
        return loads

    def _next_load(self, way: PartitionWay, bytes_max: int) -> Load | None:
        while (run := way.read(self.log, bytes_max)) is not None:
            if not run.values:
                way.next_offset = run.next_offset  # offsets that nobody has
                continue
            load = self._cut(way, run)
            if load is not None:
                return self._with_offsets(load) if way.partition == self._routing.session_info else load
        return None

    def _cut(self, way: PartitionWay, run: Run) -> Load | None:
        """As much of ``run`` as may go at a time; None when its first packet can never go."""
        limit = self._topics.get(way.partition.topic).bytes_max
        stop = len(run.values) if not way.packets_max else min(way.packets_max, len(run.values))
        if limit:
            sizes = [len(value) + ENVELOPE_BYTES for value in run.values[:stop]]
            if sizes[0] > limit:
                self._refuse(Load(way, run, 0, 1), f"{len(run.values[0])} bytes, and the topic takes {limit}")
                return None
            stop = _fitting(sizes, limit, together=limit < self._batch_bytes)
        return Load(way, run, 0, stop)

    # -- session packets ----------------------------------------------------------------------------------------------

    def _with_offsets(self, load: Load) -> Load | None:
        """As much of ``load`` as what it speaks of is on Kafka, with the offsets that this has there."""
        values: list[bytes] = []
        for offset, value in zip(load.offsets, load.values, strict=True):
            told = session_offsets(value, self._routing)
            if told is not None and not self._is_there(offset, told.wanted):
                break
            values.append(value if told is None else told.translated(self._on_kafka))
        return load.first(len(values), values) if values else None

    def _is_there(self, offset: int, wanted: Mapping[Partition, int]) -> bool:
        """Whether all that the session packet at ``offset`` speaks of is on Kafka, as far as there ever was any."""
        ways = [self._ways[partition] for partition in wanted if partition in self._ways]
        if self._waits_for[0] != offset:
            ends = self._ends(ways)
            waits_for = {place: min(wanted[place], end) for place, end in ends.items()}
            self._waits_for = offset, waits_for
        missing = [way for way in ways if not way.placed or way.next_offset < self._waits_for[1][way.partition]]
        self._ways[self._routing.session_info].reason = f"waits for {missing[0].partition.topic}" if missing else ""
        return not missing

    def _on_kafka(self, partition: Partition, offset: int) -> int:
        """What an offset of the local log is on Kafka. Blocks where that is long ago; raises LinkLost."""
        way = self._ways.get(partition)
        if way is not None:
            found = way.map.on_kafka(offset)
            if found is None:
                found = self._search.first_from(partition, offset, way.kafka_earliest, way.map.kafka_base)
            return found
        if offset:
            return offset  # not of this log, so not ours to change
        where = self._where([partition])[partition]
        if not isinstance(where, Found):
            raise LinkLost(f"{partition.topic}: {where.reason}")
        return where.end

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self, loads: Sequence[Load]) -> int:
        """One transaction. Returns how many packets Kafka has taken. Raises LinkLost."""
        if not loads:
            return 0
        assert self._link is not None
        begun = time.monotonic()
        now_ms = time.time_ns() // 1_000_000
        try:
            taken = self._link.send([load.parcel(now_ms) for load in loads])
        except Refused as refused:
            self._on_refused(loads, refused)
            if refused.ended:
                raise LinkLost from None
            return 0
        except LinkLost:
            for load in loads if self._link.in_doubt else ():
                load.way.sent_to = load.next_offset
            raise
        for load, kafka_offsets in zip(loads, taken, strict=True):
            load.way.advance(load, kafka_offsets)
            load.way.packets_max *= 2
            load.way.release()
            self._publish(load.way)
            self._count.packets.add(len(load))
            self._count.bytes.add(load.size)
            self._file.note(load.way.partition, load.way.forwarded())
        self._losses = 0
        self._count.transactions.add()
        self._adapt(time.monotonic() - begun)
        return sum(map(len, loads))

    def _adapt(self, seconds: float) -> None:
        if seconds > SLOW_SECONDS:
            self._bytes_max = max(TRANSACTION_BYTES_MIN, self._bytes_max // 2)
        elif seconds < QUICK_SECONDS:
            self._bytes_max = min(TRANSACTION_BYTES, self._bytes_max * 2)

    def _on_refused(self, loads: Sequence[Load], refused: Refused) -> None:
        """The transaction is undone. The culprit is looked for by halves, and put aside when it is alone."""
        named = [load for load in loads if load.way.partition in refused.partitions]
        self._suspects = [load.way for load in named] if len(named) > 1 else []
        for load in named if len(named) == 1 else ():
            if refused.code in FOR_GOOD:
                self._hold(load.way, refused.reason)
            elif len(load) == 1:
                self._refuse(load, refused.reason)
            else:
                load.way.packets_max = len(load) // 2

    def _hold(self, way: PartitionWay, reason: str) -> None:
        """Nothing of ``way`` goes for a while; what it has stays in the local log."""
        if way.reason != reason:
            self.worker.log(
                "warn", "topic held", topic=way.partition.topic, partition=way.partition.number, reason=reason
            )
        way.hold(reason, time.monotonic())

    def _refuse(self, load: Load, reason: str) -> None:
        """The one packet of ``load`` can never go: to the dead letters with it, and on. Where these take no more it waits."""
        way = load.way
        try:
            self._letters.append([load.letter(0, reason)])
        except (DeadLettersFull, OSError) as error:
            self._hold(way, f"{reason}; it cannot be a dead letter: {error}")
            return
        self.worker.log(
            "error",
            "dead letter",
            topic=way.partition.topic,
            partition=way.partition.number,
            offset=load.offsets[0],
            reason=reason,
        )
        self._count.dead_letters.add()
        way.next_offset = load.next_offset
        self._publish(way)
        self._file.note(way.partition, way.forwarded())
        self._saved()

    def _save(self, now: float) -> None:
        if now >= self._save_at:
            self._save_at = now + SAVE_SECONDS
            self._saved()

    def _saved(self) -> bool:
        """Save the file. On a full disk it lags behind: forwarding is what makes room there."""
        before, self._unsaved = self._unsaved, ""
        try:
            self._file.save()
        except OSError as error:
            self._unsaved = f"{self._file.path} cannot be written: {error.strerror}"
            self._count.save_failures.add()
        if self._unsaved != before:
            level, event = ("warn", "place cannot be saved") if self._unsaved else ("info", "place is saved again")
            self.worker.log(level, event, reason=self._unsaved)
        return not self._unsaved

    # -- what observers see -------------------------------------------------------------------------------------------

    def _show(self, now: float) -> None:
        self._count.link_up.set(int(self.state().available))
        if now < self._show_at:
            return
        self._show_at = now + SHOW_SECONDS
        self._mirror.show(self.log.statistics())
        self._count.held.set(sum(bool(way.reason) for way in self._ways.values()))
        try:
            self._show_backlog()
            if now >= self._disk_at:
                self._disk_at = now + DISK_SECONDS
                self._show_disk(now)
        except OSError as error:  # the disk itself: producers and consumers say more about it
            self.worker.log("warn", "backlog cannot be measured", reason=str(error))

    def _show_backlog(self) -> None:
        ends = self._ends(list(self._ways.values()))
        backlog = NOTHING
        for partition, way in self._ways.items():
            backlog = backlog.plus(self._backlog.measure(partition, way.next_offset, ends.get(partition, 0)))
        self._count.backlog_packets.set(backlog.packets)
        self._count.backlog_bytes.set(backlog.bytes)
        self._count.backlog_seconds.set(time.time_ns() - backlog.oldest_ns if backlog.oldest_ns else 0)

    def _show_disk(self, now: float) -> None:
        use = self._disk.measure(now, self._ways)
        self._count.log_bytes.set(use.log_bytes)
        self._count.log_growth_bytes.set(use.growth_bytes)
        self._count.disk_left_seconds.set(use.left_seconds * 1_000_000_000)


def _fitting(sizes: Sequence[int], limit: int, *, together: bool) -> int:
    """How many from the first on fit into ``limit``, each by itself, or all of them together."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if size > limit or (together and total > limit and count):
            return count
    return len(sizes)


def open_log(worker: Worker) -> tuple[LogReader, bytes]:
    """The local log and its identity. Raises LogConfigurationError, OSError."""
    spec = worker.spec
    data_dir = Path(spec.settings.data_dir)
    identity = claim_data_dir(data_dir)
    tables = [Path(table) for table in spec.log_tables]
    return LocalLogReader(data_dir, tables, name=spec.name), identity


def run(worker: Worker) -> None:
    """Play the role until told to stop; ``worker.play`` calls it."""
    agent = Forwarder(worker, *open_log(worker))
    try:
        run_agent(worker, agent)
    finally:
        agent.close()
