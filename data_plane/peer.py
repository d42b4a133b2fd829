"""The peer's side of all its links, on an asyncio loop: used by gateways and by the control plane.

The way in is :meth:`Peer.append` and the two waits, the way out is ``Peer.readers`` (``reading.py``). Everything runs on
the loop's thread; the doorbell wakes it, and a timer looks every 20 ms while somebody waits (the back-stop of the
wake-up protocol) and every 100 ms otherwise (to notice that a worker has a successor).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, NamedTuple, TypeVar

from trackside.data_plane.frame import decode_frame
from trackside.data_plane.link import (
    FRAME,
    PACKETS,
    PARKED_STILL,
    CommitAnswer,
    Limits,
    Mark,
    Message,
    Parks,
    ProgressAnswer,
    ProgressRequest,
    Refused,
    SliceEnd,
    Topics,
    TopicsAnswer,
    TopicsRequest,
    Watch,
    WatermarksAnswer,
    WatermarksRequest,
    decode_message,
    encode_message,
    number_of,
)
from trackside.data_plane.log import LogState, Partition, Watermarks
from trackside.data_plane.reading import Readers
from trackside.data_plane.record import Record, decode_record, encode_record
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import LinkSpec
from trackside.data_plane.undecodable import UNDECODABLE
from trackside.data_plane.worker import Worker
from trackside.shm.counters import Counter as Cell
from trackside.shm.fence import full_fence
from trackside.shm.liveness import WorkerState
from trackside.shm.ring import RingReader, RingWriter

__all__ = [
    "Accepted",
    "ConsumerProxy",
    "LogUnavailable",
    "Parcel",
    "Peer",
    "ProducerProxy",
    "RingFull",
    "Stretch",
    "TooManyWait",
]

TICK_SECONDS = 0.1
WAITING_TICK_SECONDS = 0.02

PARTITIONS_ASKED_MAX = 1000
"""In one question about partitions, so that it fits into a ring whatever the names are."""

Answer = TypeVar("Answer")
Request = WatermarksRequest | ProgressRequest | TopicsRequest

TOPIC_SHARE = 4
"""One topic's packets between commit and publish may fill at most this fraction (a quarter) of a ring."""


class Stretch(NamedTuple):
    """Where an accepted request lies in one ring: its records, and nobody else's, end in (begin, end]."""

    producer: ProducerProxy
    begin: int
    end: int
    topics: Iterable[str] = ()  # that its packets go to, copies included


Accepted = list[Stretch]
"""A request has one stretch in each ring that it touched."""


class RingFull(Exception):
    """No room within the bound although the log answers: the caller is too fast. Becomes RESOURCE_EXHAUSTED."""


class TooManyWait(RingFull):
    """So many requests wait for room already that one more is refused at once: WaitingWritesMax, WaitingWritesBytes."""

    def __init__(self, limit: str, value: int, asked: str) -> None:
        super().__init__(f"{limit} = {value}: {asked}")
        self.limit, self.value, self.asked = limit, value, asked


class LogUnavailable(Exception):
    """The log or the process in front of it is away. Becomes UNAVAILABLE; the text says what is away and why."""


class Parcel:
    """What one request has for one producer: its records as a ring takes them, and how much of what it is."""

    __slots__ = ("bodies", "bytes", "packets", "published", "sizes")

    def __init__(self, records: Iterable[Record]) -> None:
        self.bodies: list[tuple[int, int, bytes]] = []
        self.sizes: Counter[str] = Counter()  # bytes of packets by topic, copies included
        self.published: list[tuple[Cell, int]] = []  # what to count when it was accepted; set by the door
        self.packets = 0
        self.bytes = 0
        for record in records:
            record.count()
            self.bodies.append((PACKETS, len(record.packets), encode_record(record)))
            self._count(record)

    def _count(self, record: Record) -> None:
        for route, packets, size in record.amounts():
            self.sizes[route.topic] += size
            if route.essentials:
                self.sizes[route.essentials] += size
            self.packets += packets
            self.bytes += size


class _LinkProxy:
    """What both kinds of links share at the peer's end."""

    def __init__(self, link: LinkSpec, worker: Worker) -> None:
        self.name = link.worker
        self.down = RingWriter(link.down)
        self.up = RingReader(link.up)
        self.liveness, self.doorbell = worker.attach(link.worker)
        self.epoch = self.liveness.epoch

    def log_state(self) -> LogState:
        """What the worker says of the log; a worker that is not there counts as away, with its slot's name."""
        state = self.liveness.state
        if state == WorkerState.READY:
            return LogState(True)
        reason = self.liveness.read_reason() or f"process {self.name} is {WorkerState(state).name.lower()}"
        return LogState(False, reason)

    def has_successor(self) -> bool:
        """Whether the worker was started again since the last call."""
        if self.liveness.epoch == self.epoch:
            return False
        self.epoch = self.liveness.epoch
        return True


class ProducerProxy(_LinkProxy):
    """The way to one producer: its down ring, what each topic has in it, and who waits for its commit."""

    def __init__(self, link: LinkSpec, worker: Worker) -> None:
        super().__init__(link, worker)
        self.value_bytes_max = worker.spec.settings.max_packet_bytes
        self.refusals: deque[Refused] = deque(maxlen=10_000)
        self._parks: dict[str, tuple[int, int]] = {}  # of each parked topic: logged, parked
        self._closed: frozenset[str] = frozenset()  # topics whose park is full
        self._park_waits: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}  # by topic
        self._shares: Counter[str] = Counter()
        self._in_ring: deque[tuple[int, Counter[str]]] = deque()
        self._waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()
        self._recount()

    def _recount(self) -> None:
        """Shares are recomputed from the ring itself, so that no account can leak with a predecessor's death."""
        for found in self.down.walk(self.down.commit_position, self.down.publish_position):
            if found.kind == PACKETS:
                self._note(found.end, _sizes_in(found.body))

    def _note(self, end: int, sizes: Counter[str]) -> None:
        self._in_ring.append((end, sizes))
        self._shares.update(sizes)

    def settle(self) -> int:
        """Take note of what was committed since; wakes who waited for it. Returns the commit position."""
        commit = self.down.commit_position
        while self._in_ring and self._in_ring[0][0] <= commit:
            _, sizes = self._in_ring.popleft()
            self._shares.subtract(sizes)
            for topic in sizes:
                if not self._shares[topic]:
                    del self._shares[topic]
        while self._waits and self._waits[0][0] <= commit:
            _, _, future = heapq.heappop(self._waits)
            if not future.done():
                future.set_result(None)
        return commit

    def blocked_topic(self, sizes: Mapping[str, int]) -> str | None:
        """A topic of ``sizes`` that would exceed its share of the ring, or whose park is full. One that has nothing in
        the ring does not exceed its share."""
        limit = self.down.capacity_bytes // TOPIC_SHARE
        for topic, size in sizes.items():
            if topic in self._closed:
                return topic
            held = self._shares.get(topic, 0)
            if held and held + size > limit:
                return topic
        return None

    def has_room(self, parcel: Parcel) -> bool:
        return not self.blocked_topic(parcel.sizes) and self.down.fits([len(body) for _, _, body in parcel.bodies])

    def check_size(self, parcel: Parcel) -> None:
        """Raises ValueError for what might not even find room in an empty ring: waiting would be for ever."""
        size = sum(len(body) for _, _, body in parcel.bodies) + 128 * (len(parcel.bodies) - 1)
        if size > self.down.record_bytes_max:
            raise ValueError(f"{size} bytes for {self.name} at once; its ring takes {self.down.record_bytes_max}")

    def publish(self, parcel: Parcel) -> Stretch:
        """Only after ``has_room``: nobody else writes this ring."""
        begin = self.down.publish_position
        position = self.down.try_publish(parcel.bodies)
        assert position is not None
        self._note(position, parcel.sizes)
        self.doorbell.ring_if_asleep()
        return Stretch(self, begin, position, parcel.sizes)

    # -- parked topics ------------------------------------------------------------------------------------------------

    def on_parks(self, news: Parks) -> None:
        self._parks = {topic: (logged, parked) for topic, logged, parked in news.topics}
        self._closed = frozenset(news.closed)
        for topic in list(self._park_waits):
            self._wake_unparked(topic)

    def _wake_unparked(self, topic: str) -> None:
        """Only those that this news is about: thousands may wait while it comes ten times a second."""
        logged, parked = self._parks.get(topic, (0, 0))
        waits = self._park_waits[topic]
        if parked < max(end for end, _, _ in waits):
            logged = PARKED_STILL  # they look again
        while waits and waits[0][0] <= logged:
            _, _, future = heapq.heappop(waits)
            if not future.done():
                future.set_result(None)
        if not waits:
            del self._park_waits[topic]

    def is_parked(self, topic: str, end: int) -> bool:
        """Whether packets for ``topic`` in a record that ends at ``end`` are in the park, and not in the log; asked when
        ``commit`` has passed it and the news before that were taken."""
        parks = self._parks.get(topic)
        return parks is not None and parks[0] < end <= parks[1]

    def parked_topics(self) -> list[str]:
        """Of whomever: topics that the log does not have all of."""
        return list(self._parks)

    def has_parks(self) -> bool:
        return bool(self._parks)

    def is_closed(self, topic: str | None) -> bool:
        return topic in self._closed

    def when_unparked(self, topic: str, end: int) -> asyncio.Future[None]:
        """Done at the news that ends :meth:`is_parked`, perhaps before: look again. The caller bounds the wait and
        cancels what it gives up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waits = self._park_waits.setdefault(topic, [])
        while waits and waits[0][2].done():  # given up; there may be no news for hours
            heapq.heappop(waits)
        heapq.heappush(waits, (end, next(self._count), future))
        return future

    def when_committed(self, position: int) -> asyncio.Future[None]:
        """Done when commit has passed ``position``. The caller bounds the wait and cancels what it gives up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waits, (position, next(self._count), future))
        return future

    def want(self, room_waiters: bool) -> bool:
        """Tell the worker which commit somebody here waits for. Returns whether anybody waits."""
        while self._waits and self._waits[0][2].done():
            heapq.heappop(self._waits)
        wanted = self._waits[0][0] if self._waits else 0
        if room_waiters and self.down.commit_position < self.down.publish_position:
            wanted = self.down.commit_position + 1
        self.down.wait_for_commit(wanted)
        return wanted != 0


def _sizes_in(body: bytes) -> Counter[str]:
    """By topic; of no topic when it is no record: that is its producer's to deal with."""
    try:
        return Parcel([decode_record(body)]).sizes
    except (*UNDECODABLE, IndexError, ValueError):
        return Counter()


class _Question(NamedTuple):
    """Asked of a consumer, and asked again of its successor."""

    request: Request
    answer: asyncio.Future[Any]
    topics: dict[str, int]  # parts that have come


class ConsumerProxy(_LinkProxy):
    """The way to one consumer: requests down, frames and answers up. Requests that find no room wait their turn."""

    def __init__(self, link: LinkSpec, worker: Worker) -> None:
        super().__init__(link, worker)
        self._own_epoch = worker.spec.epoch
        self._unsent: deque[Message] = deque()
        self.watched: dict[str, int] = {}
        self.topics: dict[str, dict[str, int]] = {}
        self.arriving: dict[str, dict[str, int]] = {}  # parts of what will replace that
        self.asked: dict[int, _Question] = {}

    def send(self, message: Message) -> None:
        """To a dead consumer nothing is said: its successor is told everything that still holds then."""
        if self.liveness.state == WorkerState.FAILED:
            return
        self._unsent.append(message)
        self.push()

    def push(self) -> None:
        sent = False
        while self._unsent and self.down.try_publish([encode_message(self._unsent[0])]) is not None:
            self._unsent.popleft()
            sent = True
        if sent:
            self.doorbell.ring_if_asleep()

    def repeat_requests(self) -> None:
        """A successor knows nothing: say again what still holds (readers are sent again by ``Readers``)."""
        self._unsent.clear()
        for data_source in self.watched:
            self.send(Watch(data_source, True, self._own_epoch))
        for question in self.asked.values():
            self.send(question.request)

    def on_answer(self, request: int, answer: Any) -> None:
        """The whole answer to a question, None when the log gave none. Nobody may wait for it any more."""
        question = self.asked.pop(request, None)
        if question is not None and not question.answer.done():
            question.answer.set_result(answer)

    def on_topics_answer(self, part: TopicsAnswer) -> None:
        question = self.asked.get(part.request)
        if question is None:
            return
        if part.topics is not None:
            question.topics.update(part.topics)
        if part.last:
            self.on_answer(part.request, None if part.topics is None else question.topics)


class _Submission:
    """A request that waits for room in all rings it touches."""

    __slots__ = ("blocked_by", "bytes", "future", "parts", "topics")

    def __init__(self, parts: Mapping[ProducerProxy, Parcel]) -> None:
        self.parts = parts
        self.topics = {topic for parcel in parts.values() for topic in parcel.sizes}
        self.bytes = sum(parcel.bytes for parcel in parts.values())
        self.future: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self.blocked_by: str | None = None


class Peer:
    """All links of this process, and the loop that serves them."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        spec = worker.spec
        roles = {slot.name: slot.role for slot in spec.slots}
        self.producers = [ProducerProxy(link, worker) for link in spec.links if roles[link.worker] == "producer"]
        self.consumers = [ConsumerProxy(link, worker) for link in spec.links if roles[link.worker] == "consumer"]
        self._routing = Routing(spec.settings)
        self.readers = Readers(spec.epoch, self.consumer_of, spec.settings)
        self.on_topics: list[Callable[[str, dict[str, int]], None]] = []
        """Called with a watched data source and those of its topics that are new, or have more partitions now."""
        self._numbers = itertools.count(1)
        self._submissions: dict[_Submission, None] = {}  # oldest first
        self._blocked: set[str] = set()  # topics of submissions that wait for a topic's share
        self._is_full = False  # a submission waits for room, and everybody behind it
        self._held = worker.spec.holds_writes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- the loop -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve the links on the running loop. ``failed`` is done when that cannot go on: then the process has
        to end, since it would look alive and be deaf."""
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self.worker.doorbell.fd, self._run, self._on_bell)
        self._on_timer()

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.worker.doorbell.fd)
        if self._timer is not None:
            self._timer.cancel()

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, such as a RingCorrupt
            if not self.failed.done():
                self.failed.set_exception(error)

    def _on_bell(self) -> None:
        self.worker.doorbell.woken()
        self._serve()

    def _on_timer(self) -> None:
        assert self._loop is not None
        self.worker.beat()
        for consumer in self.consumers:
            if consumer.has_successor():
                consumer.repeat_requests()
                self.readers.on_successor(consumer)
        self.readers.groups.commit_when_due(self._loop.time())
        waiting = self._serve()
        self._timer = self._loop.call_later(
            WAITING_TICK_SECONDS if waiting else TICK_SECONDS, self._run, self._on_timer
        )

    def _serve(self) -> bool:
        """Take everything that the workers published; returns whether somebody waits for a commit.

        Ends asleep: the flag is set before the last look, so a bell is rung for whatever comes after it.
        """
        self._take_all()
        self.worker.doorbell.prepare_sleep()
        if self._take_all():
            assert self._loop is not None
            self._loop.call_soon(self._run, self._again)
        return self._settle()

    def _again(self) -> None:
        if self._take_all():
            assert self._loop is not None
            self._loop.call_soon(self._run, self._again)
        self._settle()

    def take_news(self) -> None:
        """Take what the workers published up to now, without waiting for the next bell."""
        self._take_all()

    def _take_all(self) -> int:
        return sum([self._take_up(proxy) for proxy in (*self.consumers, *self.producers)])

    def _take_up(self, proxy: _LinkProxy) -> int:
        found = proxy.up.poll()
        for record in found:
            if record.kind == FRAME:
                self.readers.on_frame(decode_frame(record.body))
            else:
                self._on_message(proxy, decode_message(record.kind, record.body))
        # What was taken is in this process's memory and dies with its readers: nothing needs it in the ring.
        if found and proxy.up.commit(found[-1].end):
            proxy.doorbell.ring()
        return len(found)

    def _on_message(self, proxy: _LinkProxy, message: Message) -> None:
        match message:
            case SliceEnd():
                self.readers.on_slice_end(message)
            case Mark():
                self.readers.on_mark(message)
            case WatermarksAnswer() if isinstance(proxy, ConsumerProxy):
                proxy.on_answer(message.request, message.values)
            case TopicsAnswer() if isinstance(proxy, ConsumerProxy):
                proxy.on_topics_answer(message)
            case ProgressAnswer() if isinstance(proxy, ConsumerProxy):
                proxy.on_answer(message.request, message.offsets)
            case CommitAnswer():
                self.readers.groups.on_answer(message)
            case Topics() if isinstance(proxy, ConsumerProxy):
                self._on_topics(proxy, message)
            case Limits() if isinstance(proxy, ProducerProxy):
                proxy.value_bytes_max = min(message.value_bytes_max, self.worker.spec.settings.max_packet_bytes)
            case Refused() if isinstance(proxy, ProducerProxy):
                proxy.refusals.append(message)
            case Parks() if isinstance(proxy, ProducerProxy):
                proxy.on_parks(message)
            case _:
                raise AssertionError(f"{type(message).__name__} from {proxy.name}")

    def _on_topics(self, proxy: ConsumerProxy, news: Topics) -> None:
        if news.data_source not in proxy.watched:
            return  # said before the consumer heard that nobody watches any more
        arriving = proxy.arriving.setdefault(news.data_source, {})
        arriving.update(news.topics)
        if not news.last:
            return
        known = proxy.topics.get(news.data_source, {})
        proxy.topics[news.data_source] = proxy.arriving.pop(news.data_source)
        new = {topic: count for topic, count in arriving.items() if known.get(topic) != count}
        for notify in self.on_topics:
            notify(news.data_source, new)

    def _settle(self) -> bool:
        for consumer in self.consumers:
            consumer.push()
        for producer in self.producers:
            producer.settle()
        self._admit()
        waiting = [producer.want(bool(self._submissions)) for producer in self.producers]
        if any(waiting):
            full_fence()  # "wanted" must be seen before we look at commit for the last time
            for producer in self.producers:
                producer.settle()
        return any(waiting) or bool(self._submissions)

    # -- the way in ---------------------------------------------------------------------------------------------------

    def producer_of(self, name: str) -> ProducerProxy:
        """The producer that owns a data source or topic ("" for session info and status)."""
        return self.producers[self._routing.owner(name, len(self.producers))]

    def consumer_of(self, name: str) -> ConsumerProxy:
        return self.consumers[self._routing.owner(name, len(self.consumers))]

    def try_append(self, parcels: Mapping[ProducerProxy, Parcel]) -> Accepted | None:
        """Publish a request's parcels: all of them, with one cursor store a ring, or (None) nothing at all.

        None also while older requests wait for room: nobody is overtaken (by nothing, nobody is).
        """
        if self._submissions and parcels:
            return None
        return self._try(parcels)

    async def append(self, parcels: Mapping[ProducerProxy, Parcel], timeout: float) -> Accepted:
        """As :meth:`try_append`, waiting up to ``timeout`` seconds for room. Raises RingFull or LogUnavailable.

        Raises ValueError for what would not even find room in an empty ring.
        """
        accepted = self.try_append(parcels)
        if accepted is not None:
            return accepted
        for producer, parcel in parcels.items():
            producer.check_size(parcel)
        submission = _Submission(parcels)
        self._submissions[submission] = None
        try:
            self._consider_new(submission)
            async with asyncio.timeout(timeout):
                return await submission.future
        except TimeoutError:
            if submission.future.done() and not submission.future.cancelled():
                return submission.future.result()  # let in at the very moment the bound passed: accepted is accepted
            limit = f"WriteWaitSeconds = {self.worker.spec.settings.write_wait_seconds:g}: "
            raise self._refusal(submission, f"within {timeout:g} s", limit) from None
        finally:
            self._submissions.pop(submission, None)

    def _consider_new(self, submission: _Submission) -> None:
        """Let it in at once, if it may overtake those that wait. Raises TooManyWait or LogUnavailable when too much waits."""
        if len(self._submissions) == 1:
            self._settle()
        else:
            self._consider(submission)
        if submission.future.done():
            return
        settings = self.worker.spec.settings
        if len(self._submissions) > settings.waiting_writes_max:
            raise self._refusal_at_once(submission, "WaitingWritesMax", settings.waiting_writes_max)
        if sum(other.bytes for other in self._submissions) > settings.waiting_writes_bytes:
            raise self._refusal_at_once(submission, "WaitingWritesBytes", settings.waiting_writes_bytes)

    def _refusal_at_once(self, submission: _Submission, limit: str, value: int) -> Exception:
        refusal = self._refusal(submission, f"at once, since {len(self._submissions) - 1} requests wait already")
        return TooManyWait(limit, value, str(refusal)) if isinstance(refusal, RingFull) else refusal

    def _try(self, parcels: Mapping[ProducerProxy, Parcel]) -> Accepted | None:
        if self._held and self._must_wait():
            return None
        if not all(producer.has_room(parcel) for producer, parcel in parcels.items()):
            return None
        return [producer.publish(parcel) for producer, parcel in parcels.items()]

    def _must_wait(self) -> bool:
        """Whether a server that is taken over from may still log: our producers are started when all of it is gone."""
        self._held = not all(producer.liveness.epoch for producer in self.producers)
        return self._held

    def _admit(self) -> None:
        """Let waiting requests in, oldest first; one that waits for its topic's share holds up only its topics."""
        self._blocked.clear()
        self._is_full = False
        for submission in list(self._submissions):
            self._consider(submission)

    def _consider(self, submission: _Submission) -> None:
        """All older ones have been considered since the last commit, or will be at the next."""
        if self._is_full or submission.future.done():
            return
        if self._blocked.isdisjoint(submission.topics):
            shares = (producer.blocked_topic(parcel.sizes) for producer, parcel in submission.parts.items())
            submission.blocked_by = next(filter(None, shares), None)
            if submission.blocked_by is None:
                accepted = self._try(submission.parts)
                self._is_full = accepted is None  # first come, first served
                if accepted is not None:
                    del self._submissions[submission]
                    submission.future.set_result(accepted)
                return
        else:
            submission.blocked_by = next(iter(self._blocked & submission.topics))
        self._blocked |= submission.topics

    def _refusal(self, submission: _Submission, when: str, limit: str = "") -> Exception:
        for producer in submission.parts:
            state = producer.log_state()
            if not state.available:
                return LogUnavailable(f"not accepted {when}: {state.reason}")
        for producer in submission.parts:
            if producer.is_closed(submission.blocked_by):
                return LogUnavailable(
                    f"not accepted {when}: the log does not take topic {submission.blocked_by}, and the park of "
                    f"{producer.name} for what waits for it is full; other topics are taken"
                )
        producer = next(iter(submission.parts))
        what = f"topic {submission.blocked_by} has used its share of" if submission.blocked_by else "no room in"
        return RingFull(
            f"{limit}not accepted {when}: {what} the ring to {producer.name} "
            f"({producer.down.capacity_bytes >> 20} MiB); send more slowly, or in fewer streams at once"
        )

    async def wait_committed(self, positions: Mapping[ProducerProxy, int], timeout: float) -> bool:
        """``wait_safe``: until commit has passed these positions; False when the bound passed first."""
        missing = [(producer, end) for producer, end in positions.items() if producer.settle() < end]
        if not missing:
            return True
        waits = [producer.when_committed(end) for producer, end in missing]
        self._settle()
        try:
            _, pending = await asyncio.wait(waits, timeout=timeout)
        finally:
            for wait in waits:
                wait.cancel()
        return not pending

    async def wait_logged(self, ends: Mapping[ProducerProxy, Mapping[str, int]], timeout: float) -> bool:
        """Until the log has everything up to these positions, for these topics; False when the bound passed first.

        As :meth:`wait_committed`, but what is parked does not count.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        if not await self.wait_committed({producer: max(of.values()) for producer, of in ends.items() if of}, timeout):
            return False
        self.take_news()
        for producer, of_producer in ends.items():
            for topic, end in of_producer.items():
                while producer.is_parked(topic, end):
                    left = deadline - asyncio.get_running_loop().time()
                    try:
                        await asyncio.wait_for(producer.when_unparked(topic, end), max(0.0, left))
                    except TimeoutError:
                        return False
        return True

    # -- questions ----------------------------------------------------------------------------------------------------

    async def watermarks(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Watermarks]:
        """(earliest, end) of each partition now. Raises LogUnavailable."""

        async def ask(consumer: ConsumerProxy, some: list[Partition]) -> dict[Partition, Watermarks]:
            pairs = [(partition.topic, partition.number) for partition in some]
            values = await self._ask(consumer, WatermarksRequest(self.new_number(), pairs), timeout)
            return {partition: Watermarks(*value) for partition, value in zip(some, values, strict=True)}

        return _merged(await asyncio.gather(*starmap(ask, self._shares(partitions))))

    async def committed(self, group: str, partitions: Sequence[Partition], timeout: float) -> dict[Partition, int]:
        """The next offset of a consumer group, for each partition where it has been. Raises LogUnavailable."""

        async def ask(consumer: ConsumerProxy, some: list[Partition]) -> dict[Partition, int]:
            pairs = [(partition.topic, partition.number) for partition in some]
            offsets = await self._ask(consumer, ProgressRequest(self.new_number(), group, pairs), timeout)
            return {place: offset for place, offset in zip(some, offsets, strict=True) if offset is not None}

        return _merged(await asyncio.gather(*starmap(ask, self._shares(partitions))))

    async def topics_now(self, data_source: str, timeout: float) -> dict[str, int]:
        """Topics of a data source with their partition counts: all that exist at the call. Raises LogUnavailable.

        It costs the log a question each time; who asks often watches and takes :meth:`topics_of`.
        """
        request = TopicsRequest(self.new_number(), data_source)
        topics: dict[str, int] = await self._ask(self.consumer_of(data_source), request, timeout)
        return topics

    def _shares(self, partitions: Sequence[Partition]) -> Iterator[tuple[ConsumerProxy, list[Partition]]]:
        """Which partitions to ask whom about, in questions of a bounded size."""
        by_consumer: dict[ConsumerProxy, list[Partition]] = {}
        for partition in dict.fromkeys(partitions):
            by_consumer.setdefault(self.consumer_of(partition.topic), []).append(partition)
        for consumer, some in by_consumer.items():
            for first in range(0, len(some), PARTITIONS_ASKED_MAX):
                yield consumer, some[first : first + PARTITIONS_ASKED_MAX]

    async def _ask(self, consumer: ConsumerProxy, request: Request, timeout: float) -> Any:
        question = _Question(request, asyncio.get_running_loop().create_future(), {})
        consumer.asked[request.request] = question
        consumer.send(request)
        try:
            async with asyncio.timeout(timeout):
                answer = await question.answer
        except TimeoutError:
            answer = None
        finally:
            consumer.asked.pop(request.request, None)
        if answer is None:
            reason = consumer.log_state().reason or f"{consumer.name} did not answer within {timeout:g} s"
            raise LogUnavailable(reason)
        return answer

    def new_number(self) -> int:
        return number_of(self.worker.spec.epoch, next(self._numbers))

    def watch_topics(self, data_source: str) -> None:
        """Keep ``topics_of(data_source)`` fresh from now on. Each call wants one :meth:`unwatch_topics`."""
        consumer = self.consumer_of(data_source)
        consumer.watched[data_source] = consumer.watched.get(data_source, 0) + 1
        if consumer.watched[data_source] == 1:
            consumer.send(Watch(data_source, True, self.worker.spec.epoch))

    def unwatch_topics(self, data_source: str) -> None:
        consumer = self.consumer_of(data_source)
        consumer.watched[data_source] -= 1
        if not consumer.watched[data_source]:
            del consumer.watched[data_source]
            consumer.topics.pop(data_source, None)
            consumer.arriving.pop(data_source, None)
            consumer.send(Watch(data_source, False, self.worker.spec.epoch))

    def topics_of(self, data_source: str) -> dict[str, int] | None:
        """Existing topics of a watched data source, or None while the first answer is on its way."""
        return self.consumer_of(data_source).topics.get(data_source)


def _merged(answers: Iterable[dict[Partition, Answer]]) -> dict[Partition, Answer]:
    return {partition: value for answer in answers for partition, value in answer.items()}
