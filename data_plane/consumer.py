"""The consumer process: reads the log for everybody, each partition once.

Readers at the live end of a partition share one cursor (a :class:`Feed`) and one frame a peer; a reader in the past is
served in slices, live first, and joins the feed when the positions meet. A consumer never waits for an up ring: a live
frame that finds no room leaves a mark, and a slice waits for its own peer only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from trackside.data_plane import metrics
from trackside.data_plane.formats_feed import FormatsFeed
from trackside.data_plane.frame import encode_frame, frames_of
from trackside.data_plane.link import (
    FRAME,
    Commit,
    CommitAnswer,
    FilterSpec,
    ForgetFilter,
    Leave,
    Mark,
    Message,
    PeerLink,
    PeerSet,
    ProgressAnswer,
    ProgressRequest,
    Slice,
    SliceEnd,
    Topics,
    TopicsAnswer,
    TopicsRequest,
    Watch,
    WatermarksAnswer,
    WatermarksRequest,
    decode_message,
    encode_message,
    epoch_of,
)
from trackside.data_plane.log import END, Cursor, LogReader, Partition, Progress, Run, Watermarks
from trackside.data_plane.log_backend import open_reader
from trackside.data_plane.routing import Routing
from trackside.data_plane.worker import Worker, run_agent

__all__ = ["Consumer", "run"]

RUN_BYTES = 512 << 10
"""What is read at a time: long enough to be cheap, short enough that live partitions come round often."""

PAST_BYTES_A_ROUND = 1 << 20
"""What is read of the past before live partitions come round again, however many readers are there."""

SHOW_SECONDS = 0.25
"""How often what this process and its log count for themselves is shown to observers."""

TOPICS_SECONDS = 0.25
"""How often the list of topics is compared with what was told, while somebody watches."""

TOPICS_TOLD_MAX = 1000
"""In one message, so that it fits into a ring whatever the names are."""

Sendable = tuple[int, int, bytes]


class Feed:
    """The live end of one partition under one label: one cursor, and for each peer the readers that follow it.

    (One topic can be a stream of data source ``A`` and the main stream of data source ``A.B``: two labels.)
    """

    def __init__(self, cursor: Cursor, label: str) -> None:
        self.cursor = cursor
        self.label = label
        self.members: dict[PeerLink, dict[int, int | None]] = {}  # reader -> its filter
        self.held: Run | None = None  # waits for a data format

    @property
    def partition(self) -> Partition:
        return self.cursor.partition

    @property
    def next_offset(self) -> int:
        return self.held.start if self.held else self.cursor.next_offset

    def filters(self) -> set[int]:
        return {number for readers in self.members.values() for number in readers.values() if number is not None}

    def follow(self, peer: PeerLink, reader: int, number: int | None) -> None:
        self.members.setdefault(peer, {})[reader] = number

    def leave(self, peer: PeerLink, reader: int) -> None:
        readers = self.members.get(peer)
        if readers is not None:
            readers.pop(reader, None)
            if not readers:
                del self.members[peer]


class Past:
    """One reader's place in the past of one partition. ``request`` is the slice that is being served, if any; between
    two slices only the cursor is kept, so that the next one goes on where this one ended."""

    def __init__(self, peer: PeerLink, request: Slice, cursor: Cursor, slice_bytes: int) -> None:
        self.peer = peer
        self.cursor = cursor
        self.end: Cursor | None = None  # where the partition ends, while that is not known
        self._opened_at = request.offset
        self._slice_bytes = slice_bytes
        self.held: Run | None = None
        self.unsent: deque[Sendable] = deque()
        self.begin(request)

    def begin(self, request: Slice) -> None:
        self.request: Slice | None = request
        self.bytes_left = self._slice_bytes

    @property
    def reached(self) -> int:
        return self.held.start if self.held else self.cursor.next_offset

    @property
    def is_served(self) -> bool:
        """Whether something was asked for, or waits for room."""
        return self.request is not None or bool(self.unsent)

    @property
    def may_be_beyond(self) -> bool:
        """The end of the log: one may ask for an entry that is still to come."""
        return self._opened_at not in (END, 0) and self.cursor.next_offset == self._opened_at

    def close(self) -> None:
        self.cursor.close()
        if self.end is not None:
            self.end.close()


class Consumer:
    """The agent. ``do_work`` takes requests, serves the live feeds, then the past, then news."""

    def __init__(self, worker: Worker, reader: LogReader) -> None:
        self.worker = worker
        self.log = reader
        self.routing = Routing(worker.spec.settings)
        self.peers = PeerSet(worker.spec, worker.attach)
        self.formats = FormatsFeed(reader, self.routing)
        self._slice_bytes = worker.spec.settings.slice_bytes
        self._epochs = {peer: peer.epoch for peer in self.peers}
        self._feeds: dict[Partition, dict[str, Feed]] = {}  # by label
        self._by_cursor: dict[Cursor, Feed] = {}
        self._held: dict[Feed, None] = {}  # those with a run that waits for a data format
        self._deserted: dict[Feed, None] = {}  # those that may have no members: closed after the next round
        self._past: dict[tuple[PeerLink, int, Partition], Past] = {}
        self._served: dict[tuple[PeerLink, int, Partition], Past] = {}  # those that are served, in turn
        self._answers: dict[PeerLink, deque[Sendable]] = {peer: deque() for peer in self.peers}
        self._marks: dict[tuple[PeerLink, Partition, str], int] = {}
        self._watches: dict[
            tuple[PeerLink, str], dict[str, int] | None
        ] = {}  # what was told of each; None: nothing yet
        self._listing: set[tuple[PeerLink, str]] = set()  # watches whose first list is on its way
        self._topics: dict[str, int] = {}  # all that existed at the last look
        self._topics_at = 0.0
        self._commits = 0  # of consumer groups, that the log has not answered
        self._count = metrics.consumer_counters(worker.counters)
        self._mirror = metrics.Mirror(worker.counters, metrics.READER_STATISTICS)
        self._shown_at = 0.0

    # -- the duty cycle -----------------------------------------------------------------------------------------------

    def do_work(self) -> int:
        done = self._take_requests()
        done += self.log.do_work()
        done += self.formats.do_work()
        done += self._serve_feeds()
        done += self._serve_past()
        done += self._send_news()
        self.worker.follow_log_state(self.log.state())
        self._show_statistics()
        return done

    def statistics(self) -> dict[str, int]:
        """As of now: partitions followed live, those of them that wait for a data format, places in the past."""
        feeds = sum(map(len, self._feeds.values()))
        return {"feeds": feeds, "held": len(self._held), "past": len(self._past)}

    def _show_statistics(self) -> None:
        now = time.monotonic()
        if now >= self._shown_at + SHOW_SECONDS:
            self._shown_at = now
            self._mirror.show({**self.log.statistics(), **self.statistics()})

    def drained(self) -> bool:
        """Peers leave first: what they had to say was taken, and the log has it."""
        return not self._commits

    def close(self) -> None:
        self.log.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _take_requests(self) -> int:
        """A peer's requests are taken only while none of its answers waits for room: so what waits is bounded."""
        done = 0
        for peer in self.peers:
            if peer.epoch != self._epochs[peer]:
                self._forget_peer(peer)
            if not self._send_answers(peer):
                continue
            found = peer.take()
            if found:
                # Before it is looked at: what kills this process must not meet its successor, whom peers ask again.
                peer.commit(found[-1].end)
            for record in found:
                self._on_request(peer, decode_message(record.kind, record.body))
            if found:
                self._send_answers(peer)
            done += len(found)
        return done

    def _send_answers(self, peer: PeerLink) -> bool:
        """Whether all of them found room."""
        answers = self._answers[peer]
        while answers and peer.try_send([answers[0]]):
            answers.popleft()
        return not answers

    def _on_request(self, peer: PeerLink, message: Message) -> None:
        match message:
            case Slice() if epoch_of(message.reader) == peer.epoch and self._knows_filter(message):
                self._on_slice(peer, message)
            case Leave() if epoch_of(message.reader) == peer.epoch:
                self._on_leave(peer, message.reader, message.partition)
            case WatermarksRequest() if epoch_of(message.request) == peer.epoch:
                self._on_watermarks(peer, message)
            case TopicsRequest() if epoch_of(message.request) == peer.epoch:
                self._on_topics_request(peer, message)
            case FilterSpec() if message.epoch == peer.epoch:
                self.formats.add(message, peer)
            case ForgetFilter() if message.epoch == peer.epoch:
                self.formats.forget(message.number, peer)
            case Watch() if message.epoch == peer.epoch:
                self._on_watch(peer, message)
            case ProgressRequest() if epoch_of(message.request) == peer.epoch:
                self._on_progress_request(peer, message)
            case Commit():
                self._on_commit(peer, message)
            case _:
                self._count.stale_requests.add(1)  # by a predecessor of the peer, or to ours: it will be said again

    def _knows_filter(self, request: Slice) -> bool:
        """Not when the filter was told to our predecessor only."""
        return request.filter is None or self.formats.knows(request.filter)

    def _on_slice(self, peer: PeerLink, request: Slice) -> None:
        feed = self._feed(request)
        if feed is not None:
            self._desert(feed, peer, request.reader)
        if feed is not None and request.offset in (END, feed.next_offset) and self._may_join(request):
            self._close_past(peer, request.reader, request.partition)
            self._join(feed, peer, request, feed.next_offset)
            return
        key = peer, request.reader, request.partition
        past = self._past.get(key)
        if past is not None and past.reached == request.offset and not past.unsent:
            past.begin(request)
        else:
            self._close_past(*key)
            cursor = self.log.open(request.partition, request.offset)
            past = self._past[key] = Past(peer, request, cursor, self._slice_bytes)
        self._served[key] = past

    def _feed(self, request: Slice) -> Feed | None:
        return self._feeds.get(request.partition, {}).get(request.label)

    def _desert(self, feed: Feed, peer: PeerLink, reader: int) -> None:
        feed.leave(peer, reader)
        if not feed.members:
            self._deserted[feed] = None  # unless somebody joins it before

    def _may_join(self, request: Slice) -> bool:
        """Not before the data formats that its filter needs are loaded: all other readers would wait for them, too."""
        return request.filter is None or self.formats.is_loaded(request.filter)

    def _join(self, feed: Feed, peer: PeerLink, request: Slice, reached: int) -> None:
        feed.follow(peer, request.reader, request.filter)
        self._answers[peer].append(_slice_end(request, reached, live=True))

    def _on_watermarks(self, peer: PeerLink, request: WatermarksRequest) -> None:
        partitions = [Partition(*pair) for pair in request.partitions]

        def answer(values: dict[Partition, Watermarks] | None) -> None:
            found = None if values is None else [(values[p].earliest, values[p].end) for p in partitions]
            self._answers[peer].append(encode_message(WatermarksAnswer(request.request, found)))

        self.log.watermarks(partitions, answer)

    def _on_topics_request(self, peer: PeerLink, request: TopicsRequest) -> None:
        def answer(existing: Mapping[str, int] | None) -> None:
            found = None if existing is None else self.routing.topics_of(request.data_source, existing)
            parts = [None] if found is None else _parts(found)
            for number, part in enumerate(parts, 1):
                told = TopicsAnswer(request.request, part, last=number == len(parts))
                self._answers[peer].append(encode_message(told))

        self.log.list_topics(answer)

    def _on_watch(self, peer: PeerLink, watch: Watch) -> None:
        if watch.on:
            self._watches[peer, watch.data_source] = None
            self._topics_at = 0.0
        else:
            self._watches.pop((peer, watch.data_source), None)
        self.log.watch(bool(self._watches))

    def _on_progress_request(self, peer: PeerLink, request: ProgressRequest) -> None:
        partitions = [Partition(*pair) for pair in request.partitions]

        def answer(offsets: dict[Partition, int] | None) -> None:
            found = None if offsets is None else [offsets.get(partition) for partition in partitions]
            self._answers[peer].append(encode_message(ProgressAnswer(request.request, found)))

        self.log.committed(request.group, partitions, answer)

    def _on_commit(self, peer: PeerLink, commit: Commit) -> None:
        def answer(kept: bool) -> None:
            self._commits -= 1
            self._answers[peer].append(encode_message(CommitAnswer(commit.request, kept)))

        self._commits += 1
        progress = {Partition(topic, number): Progress(log, at) for topic, number, log, at in commit.progress}
        self.log.commit(commit.group, progress, answer)

    def _on_leave(self, peer: PeerLink, reader: int, partition: Partition) -> None:
        self._close_past(peer, reader, partition)
        for feed in self._feeds.get(partition, {}).values():
            self._desert(feed, peer, reader)

    def _close_past(self, peer: PeerLink, reader: int, partition: Partition) -> None:
        past = self._past.pop((peer, reader, partition), None)
        self._served.pop((peer, reader, partition), None)
        if past is not None:
            past.close()

    def _forget_peer(self, peer: PeerLink) -> None:
        """The peer is another process now: its predecessor's readers have gone with it."""
        self._epochs[peer] = peer.epoch
        for key in [key for key in self._past if key[0] is peer]:
            self._close_past(*key)
        for feed in self._by_cursor.values():
            feed.members.pop(peer, None)
            self._deserted[feed] = None
        self._answers[peer].clear()
        self._marks = {key: end for key, end in self._marks.items() if key[0] is not peer}
        self._watches = {key: told for key, told in self._watches.items() if key[0] is not peer}
        self.log.watch(bool(self._watches))
        self.formats.forget_owner(peer)

    # -- live ---------------------------------------------------------------------------------------------------------

    def _serve_feeds(self) -> int:
        done = 0
        for cursor in list(self.log.ready()):
            feed = self._by_cursor.get(cursor)
            if feed is not None and feed.held is None and feed.members:
                done += self._advance(feed, cursor.read(RUN_BYTES))
        for feed in list(self._held):
            done += self._advance(feed, feed.held)
        while self._deserted:
            feed, _ = self._deserted.popitem()
            if not feed.members:
                self._close_feed(feed)
        return done

    def _close_feed(self, feed: Feed) -> None:
        feed.cursor.close()
        self._held.pop(feed, None)
        del self._by_cursor[feed.cursor]
        del self._feeds[feed.partition][feed.label]
        if not self._feeds[feed.partition]:
            del self._feeds[feed.partition]

    def _advance(self, feed: Feed, run: Run | None) -> int:
        if run is None:
            return 0
        answers = self._evaluate(run, feed.filters())
        if answers is None:
            feed.held = run
            self._held[feed] = None
            return 0
        feed.held = None
        self._held.pop(feed, None)
        frames, oversize = frames_of(run, feed.label, answers)
        self._count.oversize.add(oversize)
        self._count.live_frames.add(len(frames))
        for frame in frames:
            body = (FRAME, frame.count, encode_frame(frame))
            for peer in feed.members:
                if not peer.try_send([body]):
                    self._marks[peer, feed.partition, feed.label] = frame.next_offset
                    self._count.marks.add(1)
        return len(run.values) + 1

    def _evaluate(self, run: Run, numbers: set[int]) -> dict[int, list[bool]] | None:
        """Each filter's answer an entry, or None while a data format that it names may still be on its way."""
        answers: dict[int, list[bool]] = {}
        for number in filter(self.formats.knows, numbers):
            chosen = self.formats.evaluate(number, run)
            if chosen is None:
                return None
            answers[number] = chosen
        return answers

    # -- past ---------------------------------------------------------------------------------------------------------

    def _serve_past(self) -> int:
        """One run a reader in turn, as much as a round may take; a peer without room waits without holding up another."""
        done = 0
        left = PAST_BYTES_A_ROUND
        full = set()  # peers without room: their readers need not be looked at one by one
        for key, past in list(self._served.items()):
            if left <= 0:
                break
            before = past.bytes_left
            if past.peer in full or not self._flush(past):
                full.add(past.peer)
            else:
                done += self._serve_one(key, past)
            left -= before - past.bytes_left
            if self._served.pop(key, None) is not None and past.is_served:
                self._served[key] = past  # behind the others
        return done

    def _flush(self, past: Past) -> bool:
        while past.unsent:
            if not past.peer.try_send([past.unsent[0]]):
                return False
            past.unsent.popleft()
        return True

    def _serve_one(self, key: tuple[PeerLink, int, Partition], past: Past) -> int:
        if past.request is None or past.cursor.next_offset == END:
            return 0  # nothing was asked, or where the end is must be known first
        if past.request.offset != END:
            run = past.held or past.cursor.read(min(RUN_BYTES, past.bytes_left))
            if run is not None:
                return self._send_run(past, past.request, run)
            if not past.cursor.at_end:
                return 0
        return self._meet(key, past, past.request)

    def _send_run(self, past: Past, request: Slice, run: Run) -> int:
        answers = self._evaluate(run, set() if request.filter is None else {request.filter})
        past.held = run if answers is None else None
        if answers is None:
            return 0
        frames, oversize = frames_of(run, request.label, answers)
        self._count.oversize.add(oversize)
        self._count.past_frames.add(len(frames))
        past.unsent.extend((FRAME, frame.count, encode_frame(frame)) for frame in frames)
        past.bytes_left -= sum(len(frame.elements) for frame in frames)
        if past.bytes_left <= 0:
            past.unsent.append(_slice_end(request, past.reached, live=False))
            past.request = None
        self._flush(past)
        return len(run.values) + 1

    def _meet(self, key: tuple[PeerLink, int, Partition], past: Past, request: Slice) -> int:
        """At the end of the partition: join its live feed, or become it. A feed that is ahead must be caught first."""
        if not self._may_join(request):
            return self._wait_at_end(past, request)
        feed = self._feed(request) or self._new_feed(past, request)
        if feed is None or (request.offset != END and past.reached < feed.next_offset):
            return 0
        if feed.cursor is not past.cursor:
            past.cursor.close()
        del self._past[key], self._served[key]
        self._join(feed, past.peer, request, feed.next_offset if request.offset == END else past.reached)
        return 1

    def _wait_at_end(self, past: Past, request: Slice) -> int:
        """In the past, where it holds up nobody; who asked for the end is told where that was, to miss nothing."""
        if request.offset != END:
            return 0
        self._answers[past.peer].append(_slice_end(request, past.reached, live=False))
        past.request = None
        return 1

    def _new_feed(self, past: Past, request: Slice) -> Feed | None:
        """A feed at the end of the partition. None: not yet, since where that is must be known first."""
        cursor = past.cursor
        if past.may_be_beyond:
            cursor = past.end = past.end or self.log.open(request.partition, END)
            if cursor.next_offset == END:
                return None
            past.end = None
        feed = self._feeds.setdefault(request.partition, {})[request.label] = Feed(cursor, request.label)
        self._by_cursor[cursor] = feed
        self._deserted[feed] = None
        return feed

    # -- news ---------------------------------------------------------------------------------------------------------

    def _send_news(self) -> int:
        done = 0
        for peer, answers in self._answers.items():
            waiting = len(answers)
            self._send_answers(peer)
            done += waiting - len(answers)
        full = set()
        for (peer, partition, label), end in list(self._marks.items()):
            if peer in full:
                continue
            if peer.try_send([encode_message(Mark(*partition, label, end))]):
                del self._marks[peer, partition, label]
                done += 1
            else:
                full.add(peer)
        self._tell_topics()
        return done

    def _tell_topics(self) -> None:
        now = time.monotonic()
        if not self._watches or now < self._topics_at:
            return
        self._topics_at = now + TOPICS_SECONDS
        existing = self.log.topics()
        new = {topic: count for topic, count in existing.items() if self._topics.get(topic) != count}
        gone = any(topic not in existing for topic in self._topics)
        if new or gone:
            self._topics = dict(existing)
        for (peer, data_source), told in list(self._watches.items()):
            if told is None:
                self._tell_first(peer, data_source)
            elif gone:
                self._tell(peer, data_source, self.routing.topics_of(data_source, existing))
            elif own := self.routing.topics_of(data_source, new):
                self._tell(peer, data_source, told | own)

    def _tell_first(self, peer: PeerLink, data_source: str) -> None:
        """What was seen last may be old, or nothing; who begins to watch counts on the first answer."""
        watch = peer, data_source
        if watch in self._listing:
            return
        self._listing.add(watch)

        def answer(existing: Mapping[str, int] | None) -> None:
            self._listing.discard(watch)
            if existing is not None and watch in self._watches:
                self._tell(peer, data_source, self.routing.topics_of(data_source, existing))

        self.log.list_topics(answer)

    def _tell(self, peer: PeerLink, data_source: str, topics: dict[str, int]) -> None:
        """Tell all of them, in parts; what found no room is told whole next time."""
        if topics == self._watches[peer, data_source]:
            return
        parts = _parts(topics)
        messages = [Topics(data_source, part, last=part is parts[-1]) for part in parts]
        told = all(peer.try_send([encode_message(message)]) for message in messages)
        self._watches[peer, data_source] = topics if told else None


def _parts(topics: dict[str, int]) -> list[dict[str, int]]:
    """As many as it takes for each to fit into a message; at least one."""
    names = list(topics)
    parts = [names[first : first + TOPICS_TOLD_MAX] for first in range(0, len(names), TOPICS_TOLD_MAX)] or [[]]
    return [{name: topics[name] for name in part} for part in parts]


def _slice_end(request: Slice, reached: int, *, live: bool) -> Sendable:
    return encode_message(SliceEnd(request.reader, request.topic, request.number, reached, live))


def run(worker: Worker) -> None:
    """Play the role until drained; ``worker.play`` calls it."""
    agent = Consumer(worker, open_reader(worker))
    try:
        run_agent(worker, agent)
    finally:
        agent.close()
