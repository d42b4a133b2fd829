"""The log of a consumer on Apache Kafka.

A cursor asks first where its partition stands. In the past it is fed by a catch-up client (a bounded number at a time,
in slices); at the end it joins the live client, which fetches each partition once for all cursors there. While a
partition is new to the live client, or is ahead of a cursor, a catch-up fills the gap: both feed the cursor, which
takes from each what is new.

::

    open --> look up --absent--> look up again
                |  ^
          in the|  | fault, another log
            past v  |
               queue --> catch-up --at the end--> live
                 ^                                  |
                 +------ slower than the partition -+
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from trackside.data_plane.kafka_admin import AdminError, KafkaAdmin, TopicInfo
from trackside.data_plane.kafka_catalog import TopicCatalog
from trackside.data_plane.kafka_config import admin_config, catch_up_config, check_address, group_config, live_config
from trackside.data_plane.kafka_cursor import KafkaCursor
from trackside.data_plane.kafka_fetch import Block, CatchUp, Fault, LiveFetch
from trackside.data_plane.kafka_group_clients import GroupClients
from trackside.data_plane.kafka_groups import KafkaGroups
from trackside.data_plane.kafka_health import BrokerHealth
from trackside.data_plane.kafka_lookup import ABSENT, UNKNOWN_TOPIC, Answers, Found, look_up
from trackside.data_plane.log import END, LogState, Partition, Progress, Wake, Watermarks
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = ["KafkaLogReader", "LivePartition"]

CATCH_UPS_MAX = 4
"""Catch-up clients at a time: each is a few threads, a connection and 8 MiB of prefetch."""

SLICE_BYTES = 8 << 20
SLICE_SECONDS = 1.0
STALLED_SECONDS = 0.25
"""A catch-up ends after this much, this long, or this long without its cursor being read: if another one waits."""

IDLE_BYTES_MAX = 64 << 20
"""What cursors in the past hold unread while nothing is fetched for them, all together."""

TICK_SECONDS = 0.02
RETRY_SECONDS = 0.2
"""Between two looks for a partition that does not exist, or that nobody answers for."""

IDENTITY_SECONDS = 1.0
IDENTITIES_PER_SECOND = 100
"""How often topics are checked for having been deleted and made again: of that a fetch says nothing."""

WATERMARK_SECONDS = 5.0


class LivePartition:
    """A partition that the live client follows, up to ``next_offset``. ``active``: it has delivered something."""

    def __init__(self, partition: Partition, identity: bytes, token: int, next_offset: int) -> None:
        self.partition = partition
        self.identity = identity
        self.token = token
        self.next_offset = next_offset
        self.active = False
        self.cursors: dict[KafkaCursor, None] = {}


class _Question:
    """Watermarks that somebody waits for."""

    def __init__(self, partitions: Sequence[Partition], done: Callable[[dict[Partition, Watermarks] | None], None]):
        self.partitions = tuple(partitions)
        self.done = done
        self.deadline = time.monotonic() + WATERMARK_SECONDS
        self.ask_at = 0.0
        self.asked = False


class KafkaLogReader:
    """A :class:`~trackside.data_plane.log.LogReader`. Raises LogConfigurationError from here and from ``do_work``."""

    def __init__(self, settings: Settings, *, wake: Wake) -> None:
        check_address(settings.broker)
        self._settings = settings
        self._wake = wake
        self._health = BrokerHealth(settings.broker)
        self._admin = KafkaAdmin(admin_config(settings), wake)
        self._catalog = TopicCatalog(self._admin, wake)
        self._groups = KafkaGroups(self._admin, GroupClients(partial(group_config, settings), wake))
        self._fetch = LiveFetch(live_config(settings), self._health, wake)
        self._tokens = itertools.count(1)

        self._cursors: dict[KafkaCursor, None] = {}
        self._ready: dict[KafkaCursor, None] = {}
        self._unplaced: dict[KafkaCursor, float] = {}  # when to look them up
        self._looking_up: dict[KafkaCursor, None] = {}
        self._queue: dict[KafkaCursor, None] = {}  # waiting for a catch-up, in turn
        self._catching_up: dict[KafkaCursor, CatchUp] = {}
        self._live: dict[Partition, LivePartition] = {}
        self._questions: deque[_Question] = deque()

        self._tick_at = 0.0
        self._identities_at = 0.0
        self._fetches: Counter[Partition] = Counter()
        self._count = Counter(dict.fromkeys(("undecodable", "holes", "catch_ups", "restarts", "faults", "dropped"), 0))

    # -- LogReader ----------------------------------------------------------------------------------------------------

    def open(self, partition: Partition, offset: int) -> KafkaCursor:
        cursor = KafkaCursor(self, partition, max(END, offset))
        self._cursors[cursor] = None
        live = self._live.get(partition)
        if live is not None and live.active and offset == live.next_offset:
            cursor.start_at(live.identity, offset, offset)
            self._join(cursor)
        else:
            self._unplaced[cursor] = 0.0
        return cursor

    def watermarks(
        self, partitions: Sequence[Partition], done: Callable[[dict[Partition, Watermarks] | None], None]
    ) -> None:
        self._questions.append(_Question(partitions, done))

    def committed(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        self._groups.committed(group, partitions, done)

    def commit(self, group: str, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        self._groups.commit(group, progress, done)

    def list_topics(self, done: Callable[[Mapping[str, int] | None], None]) -> None:
        self._catalog.list(done)

    def topics(self) -> Mapping[str, int]:
        return self._catalog.topics()

    def watch(self, on: bool) -> None:
        self._catalog.watch(on)

    def do_work(self) -> int:
        done = self._admin.do_work()
        done += self._catalog.do_work() + self._groups.do_work()
        done += self._take_live()
        done += self._take_catch_ups()
        now = time.monotonic()
        if now >= self._tick_at:
            self._tick_at = now + TICK_SECONDS
            self._tick(now)
        if self._unplaced and not self._looking_up:
            self._look_up(now)
        if self._questions:
            done += self._ask(now)
        if self._queue:
            self._grant(now)
        return done

    def ready(self) -> Iterable[KafkaCursor]:
        return tuple(self._ready)

    def state(self) -> LogState:
        return self._health.state()

    def statistics(self) -> Mapping[str, int]:
        """``fetches`` are runs that were fetched, of all partitions; ``holes`` offsets without an entry,
        ``restarts`` cursors that met another log, ``dropped`` bytes fetched in vain, ``uncommitted`` commits of
        consumer groups that Kafka did not take."""
        return {"fetches": self._fetches.total(), **self._count, "uncommitted": self._groups.uncommitted}

    def fetches(self) -> Mapping[Partition, int]:
        """Fetches of each partition so far: as many for a hundred cursors at its end as for one."""
        return self._fetches

    @property
    def live_cursors(self) -> int:
        """Cursors that the live client alone serves."""
        return sum(cursor.live is not None and cursor not in self._catching_up for cursor in self._cursors)

    def close(self) -> None:
        self._catalog.close()
        self._groups.close()
        fetches = [self._fetch, *self._catching_up.values()]
        for fetch in fetches:
            fetch.stop()
        deadline = time.monotonic() + 2.0
        for fetch in fetches:
            fetch.join(max(0.0, deadline - time.monotonic()))

    # -- where a cursor stands ----------------------------------------------------------------------------------------

    def _look_up(self, now: float) -> None:
        """One question at a time, for all cursors that are due."""
        due = [cursor for cursor, at in self._unplaced.items() if at <= now]
        if not due:
            return
        for cursor in due:
            del self._unplaced[cursor]
            self._looking_up[cursor] = None
        look_up(self._admin, {cursor.partition for cursor in due}, self._on_looked_up)

    def _on_looked_up(self, answers: Answers) -> None:
        cursors, self._looking_up = self._looking_up, {}
        for cursor in cursors:
            if not cursor.closed:
                self._place(cursor, answers[cursor.partition])

    def _place(self, cursor: KafkaCursor, found: Found | AdminError) -> None:
        if isinstance(found, AdminError) or found == ABSENT:
            if not isinstance(found, AdminError):
                cursor.wait_for_partition()
            self._unplaced[cursor] = time.monotonic() + RETRY_SECONDS
            return
        self._health.on_answer()
        if cursor.identity not in (b"", found.identity):
            self._count["restarts"] += 1
        cursor.start_at(found.identity, found.end if cursor.fed == END else found.earliest, found.end)
        if cursor.fed >= found.end:
            self._join(cursor)
        self._arrange(cursor)

    def _place_again(self, cursor: KafkaCursor, seconds: float) -> None:
        """Something is wrong with its partition: from the start, but for what it has."""
        self._leave(cursor)
        self._stop_catch_up(cursor)
        self._queue.pop(cursor, None)
        self._unplaced[cursor] = time.monotonic() + seconds

    def _arrange(self, cursor: KafkaCursor) -> None:
        """Called whenever what a cursor has or gets has changed: is it served by what it needs?"""
        if cursor.readable:
            self._ready[cursor] = None
        live = cursor.live
        if live is not None and live.active and cursor.fed >= live.next_offset:
            self._stop_catch_up(cursor)
            self._queue.pop(cursor, None)
        elif cursor not in self._catching_up and cursor.wants_more and self._is_placed(cursor):
            self._queue.setdefault(cursor)

    def _is_placed(self, cursor: KafkaCursor) -> bool:
        return cursor.placed and cursor not in self._unplaced and cursor not in self._looking_up

    def on_read(self, cursor: KafkaCursor) -> None:
        """A cursor has been read."""
        if not cursor.readable:
            self._ready.pop(cursor, None)
        self._arrange(cursor)

    def on_close(self, cursor: KafkaCursor) -> None:
        self._leave(cursor)
        self._stop_catch_up(cursor)
        for place in (self._cursors, self._ready, self._unplaced, self._looking_up, self._queue):
            place.pop(cursor, None)

    # -- live ---------------------------------------------------------------------------------------------------------

    def _join(self, cursor: KafkaCursor) -> None:
        """Follow the live client from here on; what lies between is a catch-up's."""
        live = self._live.get(cursor.partition)
        if live is not None and live.identity != cursor.identity:
            self._drop_live(live, 0.0)
            live = None
        if live is None:
            place = min(cursor.fed, cursor.known_end)
            live = LivePartition(cursor.partition, cursor.identity, next(self._tokens), place)
            self._live[cursor.partition] = live
            self._fetch.assign(cursor.partition, place, live.token)
        cursor.live = live
        live.cursors[cursor] = None
        self._arrange(cursor)

    def _leave(self, cursor: KafkaCursor) -> None:
        live, cursor.live = cursor.live, None
        cursor.drop_held()
        if live is not None:
            live.cursors.pop(cursor, None)
            if not live.cursors and self._live.get(live.partition) is live:
                del self._live[live.partition]
                self._fetch.unassign(live.partition)

    def _drop_live(self, live: LivePartition, seconds: float) -> None:
        for cursor in list(live.cursors):
            self._place_again(cursor, seconds)

    def _take_live(self) -> int:
        done = 0
        while (found := self._fetch.take()) is not None:
            done += 1
            live = self._live.get(found.partition)
            if isinstance(found, Block):
                self._fetch.give_room(found.size)
                if live is not None and live.token == found.token:
                    self._on_live(live, found)
            elif live is not None and live.token == found.token:
                self._on_fault(found)
                self._drop_live(live, RETRY_SECONDS)
        return done

    def _on_live(self, live: LivePartition, block: Block) -> None:
        self._on_block(block)
        live.active = True
        live.next_offset = max(live.next_offset, block.next_offset)
        for cursor in list(live.cursors):
            cursor.offer(block)
            if cursor.too_slow:
                self._leave(cursor)
            self._arrange(cursor)

    # -- catching up --------------------------------------------------------------------------------------------------

    def _grant(self, now: float) -> None:
        """Catch-ups to those whose turn it is; with others waiting, a slice each.

        A cold cursor (at the end, but new to the live client) gets one only while nobody in the past wants it.
        """
        past = [cursor for cursor in self._queue if not cursor.cold]
        for cursor in past or list(self._queue):
            if len(self._catching_up) >= CATCH_UPS_MAX:
                break
            del self._queue[cursor]
            self._start_catch_up(cursor)
        if any(cursor in self._queue for cursor in past):
            for cursor, catch_up in list(self._catching_up.items()):
                if cursor.cold or catch_up.is_over(now, SLICE_BYTES, SLICE_SECONDS, STALLED_SECONDS):
                    self._stop_catch_up(cursor)
                    self._arrange(cursor)

    def _start_catch_up(self, cursor: KafkaCursor) -> None:
        self._count["catch_ups"] += 1
        offset = min(cursor.fed, cursor.known_end)
        config = catch_up_config(self._settings)
        self._catching_up[cursor] = CatchUp(
            config, cursor.partition, offset, next(self._tokens), self._health, self._wake
        )

    def _stop_catch_up(self, cursor: KafkaCursor) -> None:
        catch_up = self._catching_up.pop(cursor, None)
        if catch_up is not None:
            self._count["dropped"] += catch_up.bytes_ahead
            catch_up.stop()

    def _take_catch_ups(self) -> int:
        return sum([self._take_catch_up(*item) for item in list(self._catching_up.items())])

    def _take_catch_up(self, cursor: KafkaCursor, catch_up: CatchUp) -> int:
        """What it has found, as long as the cursor has room."""
        done = 0
        while not cursor.full and not catch_up.stopping and (found := catch_up.take()) is not None:
            done += 1
            if isinstance(found, Fault):
                self._on_fault(found)
                self._place_again(cursor, RETRY_SECONDS)
                break
            catch_up.give_room(found.size)
            self._on_block(found)
            cursor.offer(found)
            if found.at_end and cursor.live is None:
                self._join(cursor)
            self._arrange(cursor)
        return done

    def _on_block(self, block: Block) -> None:
        self._health.on_answer()
        if block.next_offset > block.start:
            self._fetches[block.partition] += 1
        self._count["undecodable"] += block.undecodable
        self._count["holes"] += block.next_offset - block.start - len(block.values) - block.undecodable

    def _on_fault(self, fault: Fault) -> None:
        self._count["faults"] += 1
        topic, number = fault.partition
        log_line("info", "kafka", "partition looked up again", topic=topic, partition=number, reason=fault.reason)

    # -- now and then -------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._health.do_work(now, self._admin)
        if self._fetch.failure:
            self._replace_live()
        if now >= self._identities_at and self._health.answers:
            self._check_identities(now)
            self._trim()

    def _replace_live(self) -> None:
        log_line("warn", "kafka", "client replaced", reason=self._fetch.failure, partitions=len(self._live))
        live, self._live = self._live, {}
        self._fetch.stop()
        self._fetch = LiveFetch(live_config(self._settings), self._health, self._wake)
        for partition in live.values():
            self._drop_live(partition, RETRY_SECONDS)

    def _check_identities(self, now: float) -> None:
        topics = {partition.topic for partition in self._live}
        topics.update(cursor.partition.topic for cursor in self._catching_up)
        self._identities_at = now + max(IDENTITY_SECONDS, len(topics) / IDENTITIES_PER_SECOND)
        if topics:
            self._admin.describe(sorted(topics), self._on_identity)

    def _on_identity(self, topic: str, answer: TopicInfo | AdminError) -> None:
        if isinstance(answer, AdminError) and answer.code not in UNKNOWN_TOPIC:
            return
        identity = b"" if isinstance(answer, AdminError) else answer.identity
        for cursor in list(self._cursors):
            if cursor.partition.topic == topic and self._is_placed(cursor) and cursor.identity != identity:
                self._place_again(cursor, 0.0)

    def _trim(self) -> None:
        """Cursors that nobody reads and nothing feeds keep what they hold only as long as all of it is not too much."""
        idle = [cursor for cursor in self._cursors if cursor.live is None and cursor not in self._catching_up]
        excess = sum(cursor.buffered for cursor in idle) - IDLE_BYTES_MAX
        for cursor in idle:
            if excess <= 0:
                break
            excess -= cursor.buffered
            self._count["dropped"] += cursor.buffered
            cursor.drop_buffer()
            if not cursor.readable:
                self._ready.pop(cursor, None)
            self._arrange(cursor)

    # -- watermarks ---------------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> int:
        """Ask what has not been asked, give up what has waited too long. Returns how many were given an answer."""
        answered = 0
        for question in list(self._questions):
            if not question.partitions or now >= question.deadline:
                self._questions.remove(question)
                question.done(None if question.partitions else {})
                answered += 1
            elif not question.asked and now >= question.ask_at:
                question.asked = True
                look_up(self._admin, question.partitions, partial(self._on_marks, question))
        return answered

    def _on_marks(self, question: _Question, answers: Answers) -> None:
        if question not in self._questions:
            return  # too late
        found = {partition: answer for partition, answer in answers.items() if isinstance(answer, Found)}
        if len(found) < len(answers):
            question.asked = False  # a leader is being elected, a broker is starting: again, within the bound
            question.ask_at = time.monotonic() + RETRY_SECONDS
            return
        self._health.on_answer()
        self._questions.remove(question)
        question.done({partition: Watermarks(found[partition].earliest, found[partition].end) for partition in found})
