"""Readers: a next-offset per partition, kept by the peer that serves them.

A frame says "this is all there is in [start, next)". What lies below a reader's next-offset is cut off; a frame that
starts beyond it, or that was not evaluated for the reader's filter, makes the reader ask its consumer for a slice from
its next-offset on. Hand-over from past to live, a consumer's restart, a slow reader and a full ring are this one rule.

::

    LIVE     the consumer sends this partition's frames to this peer as they come
    PAST     a slice was asked for and its end has not come yet
    PAUSED   nothing is asked: the reader has too much unsent, or slices of other partitions have been promised all its
             room; its places wait in line for it

What a reader has unsent stays below its buffer and one frame, however many partitions it reads and whoever else reads
them: it asks for no more than it has room for, and takes nothing while it is full. All readers together share a
``Budget``: of what is free in it each may take as much as is left, so the more of them do not read, the less has each.

A place that has been at the live end and then finds no room has a slow reader. What that means is the reader's choice:
``WhenSlow``.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from trackside.data_plane.frame import Frame, FrameTally
from trackside.data_plane.group_progress import GroupProgress, Member
from trackside.data_plane.link import FilterSpec, ForgetFilter, Leave, Mark, Message, Slice, SliceEnd, number_of
from trackside.data_plane.log import END, Partition
from trackside.data_plane.spec import Settings

__all__ = [
    "FILTERS_MAX",
    "RESPONSE_BYTES_MAX",
    "Budget",
    "Chunk",
    "Place",
    "PlaceState",
    "Reader",
    "Readers",
    "Tally",
    "WhenSlow",
]

RESPONSE_BYTES_MAX = (4 << 20) - 512
"""A response stays under gRPC's default of 4 MiB (A2), with room for what another encoder might add."""


FILTERS_MAX = 256
"""Different filters at a time of all readers of one peer: a large one takes some megabytes of its consumer, and each is
asked for every packet that comes by."""


class Requests(Protocol):
    """The consumer as readers see it."""

    def send(self, message: Message) -> None: ...


class Tally(Protocol):
    """Who counts what a reader gets of one stream."""

    def on_read(self, tally: FrameTally) -> None:
        """A frame came, of which the reader gets so much."""

    def on_sent(self, packets: int) -> None:
        """So much of it was handed to the transport."""


class Chunk:
    """Elements of one partition on their way to the client: all that the reader wants up to ``next_offset`` of ``log``.

    ``logged_ns`` is when the log got the first of these packets (UTC); 0 where that was long ago.
    """

    __slots__ = ("elements", "log", "logged_ns", "next_offset", "packets", "place")

    def __init__(
        self, place: Place, elements: bytes, packets: int, logged_ns: int, log: bytes, next_offset: int
    ) -> None:
        self.place = place
        self.elements = elements
        self.packets = packets
        self.logged_ns = logged_ns
        self.log = log
        self.next_offset = next_offset


class PlaceState(enum.Enum):
    LIVE = enum.auto()
    PAST = enum.auto()
    PAUSED = enum.auto()


class WhenSlow(enum.Enum):
    """What becomes of a reader that does not keep up with the live end. Values are those of the configuration."""

    CATCH_UP = "CatchUp"  # it gets all of it, at its own pace
    SKIP = "Skip"  # it gets what waits for it already, and then goes on at the live end
    END = "End"  # its stream ends


class Place:
    """One reader in one partition. ``next_offset`` only grows while ``log`` stays the same.

    ``last`` is the newest chunk that is not sent, where a consumer group has to know that. ``skips`` says that it goes on
    at the live end when its reader has sent everything; ``skipped_from`` is where it was when that was asked for.
    """

    __slots__ = (
        "has_been_live",
        "known",
        "label",
        "last",
        "log",
        "next_offset",
        "partition",
        "reader",
        "skipped_from",
        "skips",
        "state",
        "tally",
        "until",
    )

    def __init__(self, reader: Reader, partition: Partition, label: str, offset: int, until: int | None) -> None:
        self.reader = reader
        self.partition = partition
        self.label = label
        self.next_offset = offset
        self.until = until  # a finite read ends here; None: for ever
        self.log = b""
        self.last: Chunk | None = None
        self.state = PlaceState.PAUSED
        self.known = False  # to the consumer, which has to be told when it is wanted no more
        self.has_been_live = False  # until then it is in the past because it wanted to
        self.skips = False
        self.skipped_from: int | None = None
        self.tally = reader.tally_of(label) if reader.tally_of is not None else None

    @property
    def finished(self) -> bool:
        return self.until is not None and self.next_offset >= self.until


class Budget:
    """What all readers of one peer may keep in memory together, beyond one slice that each may have in any case.

    ``pending`` waits to be sent, ``sending`` has been handed to the transport, which has not taken it all; ``promised``
    is what slices on the way may bring.
    """

    __slots__ = ("bytes_max", "pending", "promised", "sending")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.pending = 0
        self.sending = 0
        self.promised = 0

    @property
    def free(self) -> int:
        return self.bytes_max - self.pending - self.sending


class Reader:
    """One open read stream: what it wants, where it is, what waits to be sent.

    ``key`` is the session filter on the Kafka key (None: every session). ``on_frame`` replaces the byte buffer for
    readers inside the server (folds), which want frames as they are. ``tally_of`` gives who counts a stream. ``member``
    is told what was sent. ``on_slow`` is called when ``when_slow`` has ended the reader, or made it skip something.
    """

    def __init__(
        self,
        number: int,
        key: bytes | None,
        filter_spec: FilterSpec | None,
        settings: Settings,
        on_frame: Callable[[Frame, int, bool], None] | None = None,
        tally_of: Callable[[str], Tally] | None = None,
        member: Member | None = None,
        when_slow: WhenSlow = WhenSlow.CATCH_UP,
        budget: Budget | None = None,
    ) -> None:
        self.number = number
        self._budget = budget or Budget(settings.all_readers_buffer_bytes)
        self.key = key
        self.filter = filter_spec
        self.buffer_bytes = settings.reader_buffer_bytes
        self.slice_bytes = settings.slice_bytes
        self.on_frame = on_frame
        self.tally_of = tally_of
        self.member = member
        self.when_slow = when_slow
        self.on_slow: Callable[[], None] | None = None
        self.is_overrun = False  # ended because it was slow
        self.skips = 0  # times that a place went on at the live end
        self.skipped = 0  # entries of the log that were passed by then, whoever they were for
        self.places: dict[Partition, Place] = {}
        self.promised: set[Place] = set()  # their slices are on the way and may bring something
        self.waiting: dict[Place, None] = {}  # for room, in line
        self.pending: deque[Chunk] = deque()
        self.pending_bytes = 0
        self._in_hand: list[Chunk] = []
        self._in_hand_bytes = 0
        self.wake = asyncio.Event()
        self.closed = False  # ends with OK once what is pending was sent
        self.jumps = 0  # times the log was another one than before

    @property
    def finished(self) -> bool:
        """Whether every place has reached its end (never, while one has none)."""
        return bool(self.places) and all(place.finished for place in self.places.values())

    @property
    def room_bytes(self) -> int:
        """What it may have pending now: its buffer, or its part of what all readers may have."""
        return min(self.buffer_bytes, max(self.slice_bytes, self._budget.free))

    @property
    def is_full(self) -> bool:
        return self.pending_bytes > self.room_bytes

    @property
    def has_room(self) -> bool:
        """For one more slice: the first always, if nothing is unsent."""
        if not self.promised and not self.pending_bytes and not self._in_hand_bytes:
            return True
        room_bytes = min(self.buffer_bytes, self._budget.free - self._budget.promised)
        return self.pending_bytes + (len(self.promised) + 1) * self.slice_bytes <= room_bytes

    @property
    def is_stuffed(self) -> bool:
        """No room even if nothing were on the way."""
        return self.pending_bytes + self.slice_bytes > max(self.room_bytes, 2 * self.slice_bytes)

    def promise(self, place: Place) -> None:
        """A slice is asked for."""
        if place not in self.promised:
            self.promised.add(place)
            self._budget.promised += self.slice_bytes

    def keep_promise(self, place: Place) -> None:
        """It has come, or will not come."""
        if place in self.promised:
            self.promised.discard(place)
            self._budget.promised -= self.slice_bytes

    def push(self, chunk: Chunk) -> None:
        self.pending.append(chunk)
        self.pending_bytes += len(chunk.elements)
        self._budget.pending += len(chunk.elements)
        if self.member is not None:
            chunk.place.last = chunk
        self.wake.set()

    def pass_by(self, place: Place, log: bytes, next_offset: int) -> None:
        """Nothing up to ``next_offset`` is for this reader."""
        if self.member is None:
            return
        if place.last is None:
            self.member.note(place.partition, log, next_offset)
        elif place.last.log == log:
            place.last.next_offset = next_offset

    def drop_pending(self) -> None:
        self.pending.clear()
        self._budget.pending -= self.pending_bytes
        self.pending_bytes = 0

    def take(self) -> bytes:
        """Everything pending that one response can carry."""
        first = self.pending.popleft()
        if len(first.elements) > RESPONSE_BYTES_MAX:
            raise AssertionError("a frame larger than a response")
        chunks, size = [first], len(first.elements)
        while self.pending and size + len(self.pending[0].elements) <= RESPONSE_BYTES_MAX:
            chunk = self.pending.popleft()
            chunks.append(chunk)
            size += len(chunk.elements)
        self.pending_bytes -= size
        self._budget.pending -= size
        self.let_go()
        self._in_hand, self._in_hand_bytes = chunks, size
        self._budget.sending += size
        return first.elements if len(chunks) == 1 else b"".join([chunk.elements for chunk in chunks])

    def on_sent(self) -> tuple[int, int]:
        """What was taken last is sent: it is counted, and its consumer group has got it. Returns how many packets, and
        when the log got the oldest of those that came live (UTC; 0: none did)."""
        sent, oldest_ns = 0, 0
        for chunk in self._in_hand:
            sent += chunk.packets
            if chunk.place.tally is not None:
                chunk.place.tally.on_sent(chunk.packets)
            if chunk.logged_ns and (not oldest_ns or chunk.logged_ns < oldest_ns):
                oldest_ns = chunk.logged_ns
            if self.member is not None:
                self.member.note(chunk.place.partition, chunk.log, chunk.next_offset)
                if chunk.place.last is chunk:
                    chunk.place.last = None
        self.let_go()
        return sent, oldest_ns

    def let_go(self) -> None:
        """What was taken last is not ours any more."""
        self._in_hand = []
        self._budget.sending -= self._in_hand_bytes
        self._in_hand_bytes = 0


class Readers:
    """All readers of one peer, by partition, and the one rule that moves them. Runs on the loop's thread."""

    def __init__(self, epoch: int, consumer_of: Callable[[str], Requests], settings: Settings) -> None:
        self._epoch = epoch
        self._consumer_of = consumer_of
        self._settings = settings
        self._numbers = itertools.count(1)
        self._places: dict[tuple[Partition, str], dict[int, Place]] = {}
        self._readers: dict[int, Reader] = {}
        self._filters: dict[int, tuple[FilterSpec, set[Reader]]] = {}  # those in use, and who uses them
        self.groups = GroupProgress(epoch, consumer_of)
        self.budget = Budget(settings.all_readers_buffer_bytes)
        self.gaps = 0  # slices asked for because a frame began beyond a reader
        self.slow = 0  # places that left the live feed because their reader was full
        self.skips = 0  # times that a place of a slow reader went on at the live end
        self.skipped = 0  # entries of the log that they passed by
        self.overruns = 0  # readers that ended because they were slow
        self.jumps = 0  # times that a place met another log

    def __len__(self) -> int:
        return len(self._readers)

    def statistics(self) -> dict[str, int]:
        """As of now: bytes that all readers and the slowest have unsent, places by state; counts since the start."""
        unsent = [reader.pending_bytes for reader in self._readers.values()]
        states = Counter(place.state for places in self._places.values() for place in places.values())
        return {
            "reader_bytes": self.budget.pending,
            "sending_bytes": self.budget.sending,
            "reader_bytes_max": max(unsent, default=0),
            "live_places": states[PlaceState.LIVE],
            "past_places": states[PlaceState.PAST],
            "paused_places": states[PlaceState.PAUSED],
            "gaps": self.gaps,
            "slow": self.slow,
            "skips": self.skips,
            "skipped": self.skipped,
            "overruns": self.overruns,
            "jumps": self.jumps,
            "uncommitted": self.groups.uncommitted,
        }

    # -- opened and closed by the peer --------------------------------------------------------------------------------

    def open(
        self,
        *,
        key: bytes | None = None,
        filter_spec: FilterSpec | None = None,
        on_frame: Callable[[Frame, int, bool], None] | None = None,
        tally_of: Callable[[str], Tally] | None = None,
        group: str = "",
        when_slow: WhenSlow = WhenSlow.CATCH_UP,
    ) -> Reader:
        """A reader of nothing yet; :meth:`join` gives it partitions. With a filter only after :meth:`takes`.

        In a consumer ``group`` what is sent to it is committed. Where the group is, its opener asks.
        """
        number = number_of(self._epoch, next(self._numbers))
        member = self.groups.join(group) if group else None
        reader = Reader(number, key, filter_spec, self._settings, on_frame, tally_of, member, when_slow, self.budget)
        self._readers[number] = reader
        if filter_spec is not None:
            self._use(filter_spec, reader)
        return reader

    def takes(self, filter_spec: FilterSpec) -> bool:
        """Whether a reader with this filter can be opened: others have it already, or there are not too many."""
        return filter_spec.number in self._filters or len(self._filters) < FILTERS_MAX

    def _use(self, spec: FilterSpec, reader: Reader) -> None:
        if spec.number not in self._filters:
            spec = msgspec.structs.replace(spec, epoch=self._epoch)
            self._filters[spec.number] = spec, set()
            self._consumer_of(spec.data_source).send(spec)
        self._filters[spec.number][1].add(reader)

    def _use_no_more(self, spec: FilterSpec, reader: Reader) -> None:
        _, users = self._filters.get(spec.number, (spec, set()))
        users.discard(reader)
        if not users and self._filters.pop(spec.number, None) is not None:
            self._consumer_of(spec.data_source).send(ForgetFilter(spec.number, self._epoch))

    def join(
        self, reader: Reader, partition: Partition, offset: int, *, label: str = "", until: int | None = None
    ) -> None:
        """Read ``partition`` from ``offset`` on (END: what comes from now on), up to ``until`` if given.

        ``label`` is the stream that responses name. A reader that was closed meanwhile gets nothing.
        """
        if reader.closed:
            return
        place = Place(reader, partition, label, offset, until)
        reader.places[partition] = place
        if place.finished:
            reader.wake.set()
            return
        self._places.setdefault((partition, label), {})[reader.number] = place
        self._want(place)

    def close(self, reader: Reader) -> None:
        """Forget the reader at once; its consumers are told."""
        self.end(reader)
        reader.drop_pending()
        reader.let_go()
        if self._readers.pop(reader.number, None) is not None and reader.member is not None:
            reader.member.leave()

    def end(self, reader: Reader) -> None:
        """Nothing more for this reader; what is pending stays, to be sent before its stream ends."""
        reader.closed = True  # first, so that no place asks for the room that another one gives back
        for place in reader.places.values():
            self._forget(place)
        if reader.filter is not None:
            self._use_no_more(reader.filter, reader)
        reader.wake.set()

    def sent(self, reader: Reader) -> None:
        """Called after each response: there is room again for places that wait."""
        self._ask_waiting(reader)

    # -- what arrives -------------------------------------------------------------------------------------------------

    def on_frame(self, frame: Frame) -> None:
        for place in list(self._places.get((frame.partition, frame.label), {}).values()):
            self._offer(place, frame)

    def _offer(self, place: Place, frame: Frame) -> None:
        if place.log != frame.log:
            self._meet(place, frame)
        if place.state is PlaceState.PAUSED:
            return
        reader = place.reader
        number = reader.filter.number if reader.filter else None
        beyond = place.next_offset == END or frame.start > place.next_offset
        if not beyond and frame.next_offset <= place.next_offset:
            return
        if beyond or reader.is_full or (number is not None and number not in frame.filters):
            # Of no use, or no room for it. A place in the past learns that from the end of its slice.
            if place.state is PlaceState.LIVE:
                self.gaps += beyond
                self.slow += not beyond and reader.is_full
                self._want(place)
            return
        self._deliver(place, frame, number)

    def _deliver(self, place: Place, frame: Frame, number: int | None) -> None:
        reader, first = place.reader, place.next_offset
        place.next_offset = frame.next_offset
        if reader.on_frame is not None:
            reader.on_frame(frame, first, False)
        else:
            self._hand_over(place, frame, first, number)
        if place.finished:
            self._forget(place)
            reader.wake.set()
        elif place.state is PlaceState.LIVE and reader.is_full:
            self.slow += 1
            self._want(place)

    @staticmethod
    def _hand_over(place: Place, frame: Frame, first: int, number: int | None) -> None:
        reader, packets = place.reader, 0
        if place.tally is not None:
            tally = frame.tally(first, reader.key, number, place.until)
            place.tally.on_read(tally)
            packets = tally.chosen
        if elements := frame.cut(first, reader.key, number, place.until):
            logged_ns = frame.logged_ns if place.state is PlaceState.LIVE else 0
            reader.push(Chunk(place, elements, packets, logged_ns, frame.log, frame.next_offset))
        else:
            reader.pass_by(place, frame.log, frame.next_offset)

    def _meet(self, place: Place, frame: Frame) -> None:
        """The first frame says which log this is; another one later means that offsets start anew."""
        first_meeting = not place.log
        place.log = frame.log
        if first_meeting:
            return
        place.reader.jumps += 1
        self.jumps += 1
        place.next_offset = 0
        place.skipped_from = None
        if place.state is PlaceState.PAST:
            place.state = PlaceState.LIVE  # so that the gap, if there is one, is asked for
        if place.reader.on_frame is not None:
            place.reader.on_frame(frame, 0, True)

    def on_slice_end(self, end: SliceEnd) -> None:
        reader = self._readers.get(end.reader)
        place = reader.places.get(end.partition) if reader is not None else None
        if place is None or not place.known:  # a consumer's successor met the request, and not that it was taken back
            self._consumer_of(end.topic).send(Leave(end.reader, end.topic, end.number))
            return
        if place.state is PlaceState.PAUSED:
            if end.live:
                self._leave(place)
            return
        if place.next_offset == END:
            place.next_offset = end.next_offset
            self._count_skipped(place)
            place.reader.pass_by(place, place.log, place.next_offset)  # the past is not wanted, next time neither
        if end.live and place.next_offset >= end.next_offset:
            place.state = PlaceState.LIVE
            place.has_been_live = True
            self._keep_promise(place)
        else:  # more to come; or a frame of this slice was of no use, or did not come
            self._want(place)

    def on_mark(self, mark: Mark) -> None:
        for place in list(self._places.get((mark.partition, mark.label), {}).values()):
            if place.state is PlaceState.LIVE and place.next_offset < mark.end:
                self.gaps += 1
                self._want(place)

    def on_successor(self, consumer: Requests) -> None:
        """The consumer is another process: send it every open reader again, with its next-offset."""
        for spec, _ in self._filters.values():
            if self._consumer_of(spec.data_source) is consumer:
                consumer.send(spec)
        self.groups.on_successor(consumer)
        for (partition, _), places in list(self._places.items()):
            if self._consumer_of(partition.topic) is not consumer:
                continue
            for place in list(places.values()):
                place.known = False
                self._want(place)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _want(self, place: Place) -> None:
        """Ask for what follows: now, or when it is this place's turn and there is room.

        Until then a place that was live leaves its feed; in the past the consumer keeps where its last slice ended.
        """
        reader, was_live = place.reader, place.state is PlaceState.LIVE
        reader.keep_promise(place)
        place.state = PlaceState.PAUSED
        if place.next_offset == END:
            self._ask(place)
            return
        reader.waiting[place] = None
        self._ask_waiting(reader)
        if place.state is PlaceState.PAUSED and place.has_been_live and reader.is_stuffed:
            self._on_slow(place)
        if was_live and place.state is PlaceState.PAUSED:
            self._leave(place)

    def _on_slow(self, place: Place) -> None:
        """It has been at the live end, and its reader has no room for more. A finite read is of the past, and waits."""
        reader = place.reader
        if place.until is not None or reader.closed:
            return
        if reader.when_slow is WhenSlow.SKIP:
            place.skips = True
        elif reader.when_slow is WhenSlow.END:
            self.overruns += 1
            reader.is_overrun = True
            self.end(reader)
            reader.drop_pending()
            if reader.on_slow is not None:
                reader.on_slow()

    def _count_skipped(self, place: Place) -> None:
        """It is known now where the live end is that a slow reader goes on at.

        The end of an older slice may be taken for that, said by a consumer that died; nobody goes back for it.
        """
        if place.skipped_from is None:
            return
        reader, skipped = place.reader, place.next_offset - place.skipped_from
        place.next_offset = max(place.next_offset, place.skipped_from)
        place.skipped_from = None
        if skipped <= 0:
            return
        reader.skips += 1
        reader.skipped += skipped
        self.skips += 1
        self.skipped += skipped
        if reader.on_slow is not None:
            reader.on_slow()

    def _keep_promise(self, place: Place) -> None:
        """The slice has come: the room that it did not use is for others."""
        place.reader.keep_promise(place)
        self._ask_waiting(place.reader)

    def _ask_waiting(self, reader: Reader) -> None:
        while reader.waiting and not reader.closed:
            place = next(iter(reader.waiting))
            if reader.pending if place.skips else not reader.has_room:
                return
            del reader.waiting[place]
            if place.skips:
                place.skips = False
                place.skipped_from, place.next_offset = place.next_offset, END
            else:
                reader.promise(place)
            self._ask(place)

    def _ask(self, place: Place) -> None:
        reader = place.reader
        place.state = PlaceState.PAST
        place.known = True
        number = reader.filter.number if reader.filter else None
        topic, partition = place.partition
        self._consumer_of(topic).send(Slice(reader.number, topic, partition, place.label, place.next_offset, number))

    def _leave(self, place: Place) -> None:
        """Off the live feed, and no slice wanted."""
        if place.known:
            place.known = False
            topic, partition = place.partition
            self._consumer_of(topic).send(Leave(place.reader.number, topic, partition))

    def _forget(self, place: Place) -> None:
        """For good."""
        self._leave(place)
        place.state = PlaceState.PAUSED
        place.reader.waiting.pop(place, None)
        self._keep_promise(place)
        places = self._places.get((place.partition, place.label), {})
        places.pop(place.reader.number, None)
        if not places:
            self._places.pop((place.partition, place.label), None)
