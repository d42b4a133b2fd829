"""The one rule of readers, against a consumer that may drop, repeat, cut, restart and fill up as it likes.

Whatever happens between a log and a reader, the reader gets each entry that it wants once and in order. The oracle is the
log itself, a list.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.frame import Frame, decode_frame, encode_frame, frames_of
from trackside.data_plane.link import FilterSpec, ForgetFilter, Leave, Mark, Message, Slice, SliceEnd
from trackside.data_plane.log import END, Partition, Run
from trackside.data_plane.reading import Chunk, Place, PlaceState, Reader, Readers, WhenSlow
from trackside.data_plane.spec import Settings

PARTITION = Partition("Car", 0)
KEYS = [(b"one", b""), (b"two", b"")]


class Log:
    def __init__(self, identity: bytes = b"log") -> None:
        self.identity = identity
        self.keys: list[int] = []

    def frames(self, start: int, end: int) -> list[Frame]:
        values = [Packet(id=n + 1).SerializeToString() for n in range(start, end)]
        run = Run(
            PARTITION,
            self.identity,
            start,
            end,
            list(range(start, end)),
            [1] * len(values),
            self.keys[start:end],
            KEYS,
            values,
        )
        return [decode_frame(encode_frame(frame)) for frame in frames_of(run, "", {})[0]]


class Consumer:
    """What a consumer may do, in any order; the test's chooser decides."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.requests: list[Message] = []
        self.live: set[int] = set()
        self.live_next = 0

    def send(self, message: Message) -> None:
        self.requests.append(message)

    def answer(self, readers: Readers, chooser: random.Random) -> None:
        request = self.requests.pop(0)
        if isinstance(request, Leave):
            self.live.discard(request.reader)
        if not isinstance(request, Slice):
            return
        self.live.discard(request.reader)
        end = len(self.log.keys)
        start = end if request.offset == END else request.offset
        until = min(end, start + chooser.randrange(1, 6))
        if chooser.random() < 0.8:  # else: the frames are lost on the way
            for frame in self.log.frames(start, until):
                readers.on_frame(frame)
        live = until >= end
        if live:
            self.live.add(request.reader)
            self.live_next = end
        readers.on_slice_end(SliceEnd(request.reader, *PARTITION, until, live))

    def serve_live(self, readers: Readers, chooser: random.Random) -> None:
        end = len(self.log.keys)
        if not self.live or self.live_next >= end:
            return
        frames = self.log.frames(self.live_next, end)
        self.live_next = end
        if chooser.random() < 0.7:
            for frame in frames:
                readers.on_frame(frame)
        else:
            readers.on_mark(Mark(*PARTITION, "", end))


def numbers_of(reader: Reader) -> list[int]:
    taken: list[int] = []
    while reader.pending:
        taken += [response.packet.id - 1 for response in api_pb2.ReadPacketsResponse.FromString(reader.take()).response]
    return taken


@pytest.mark.parametrize("seed", range(40))
def test_each_entry_once_and_in_order_whatever_happens(seed: int) -> None:
    chooser = random.Random(seed)
    log = Log()
    consumer = Consumer(log)
    settings = msgspec.structs.replace(Settings(), reader_buffer_bytes=chooser.choice([30, 200, 4 << 20]))
    readers = Readers(1, lambda _: consumer, settings)
    opened: list[tuple[Reader, int, bytes | None, list[int]]] = []
    for _ in range(400):
        action = chooser.random()
        if action < 0.3:
            log.keys += [chooser.randrange(2) for _ in range(chooser.randrange(1, 5))]
        elif action < 0.34 and len(opened) < 5:
            key = chooser.choice([None, b"one", b"two"])
            offset = chooser.choice([0, len(log.keys) // 2])
            reader = readers.open(key=key)
            readers.join(reader, PARTITION, offset)
            opened.append((reader, offset, key, []))
        elif action < 0.36:
            killed, consumer = consumer, Consumer(log)  # the successor knows nothing
            readers.on_successor(consumer)
            while killed.requests and chooser.random() < 0.5:
                killed.answer(readers, chooser)  # said before it died, read only now
        elif action < 0.6 and consumer.requests:
            consumer.answer(readers, chooser)
        elif action < 0.8:
            consumer.serve_live(readers, chooser)
        elif opened:
            reader, _, _, got = chooser.choice(opened)
            got += numbers_of(reader)
            readers.sent(reader)
    calm = random.Random(1)
    for _ in range(10_000):
        if consumer.requests:
            consumer.answer(readers, calm)
        consumer.serve_live(readers, calm)
        for reader, _, _, got in opened:
            got += numbers_of(reader)
            readers.sent(reader)
        if not consumer.requests and all(r.places[PARTITION].next_offset == len(log.keys) for r, _, _, _ in opened):
            break
    for _, offset, key, got in opened:
        wanted = [n for n in range(offset, len(log.keys)) if key is None or KEYS[log.keys[n]][0] == key]
        assert got == wanted
    assert all(place.state is PlaceState.LIVE for reader, _, _, _ in opened for place in reader.places.values())


def open_live(readers: Readers, consumer: Consumer, offset: int = 0) -> Reader:
    reader = readers.open()
    readers.join(reader, PARTITION, offset)
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, max(offset, 0), True))
    consumer.requests.clear()
    return reader


def make() -> tuple[Log, Consumer, Readers]:
    log = Log()
    consumer = Consumer(log)
    return log, consumer, Readers(1, lambda _: consumer, Settings())


@pytest.mark.fact("K3")
def test_another_log_means_from_its_beginning_and_is_counted() -> None:
    log, consumer, readers = make()
    log.keys = [0] * 5
    reader = open_live(readers, consumer)
    readers.on_frame(log.frames(0, 5)[0])
    new = Log(b"new")
    new.keys = [0] * 3
    readers.on_frame(new.frames(0, 3)[0])
    assert numbers_of(reader) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert reader.jumps == 1


@pytest.mark.fact("R14")
def test_a_finite_read_ends_at_its_end_and_sends_nothing_beyond() -> None:
    log, _, readers = make()
    log.keys = [0] * 9
    reader = readers.open()
    readers.join(reader, PARTITION, 2, until=6)
    readers.on_frame(log.frames(0, 9)[0])
    assert reader.finished and numbers_of(reader) == [2, 3, 4, 5]
    assert readers.join(reader, Partition("Other", 0), 0, until=0) is None
    assert reader.finished


def test_a_gap_is_asked_for_once() -> None:
    log, consumer, readers = make()
    log.keys = [0] * 9
    reader = open_live(readers, consumer)
    readers.on_frame(log.frames(4, 6)[0])
    readers.on_frame(log.frames(6, 9)[0])
    assert [request.offset for request in consumer.requests if isinstance(request, Slice)] == [0]
    assert readers.gaps == 1 and not reader.pending


def test_a_full_reader_leaves_the_feed_and_comes_back_when_it_has_drained() -> None:
    log, consumer, _ = make()
    readers = Readers(1, lambda _: consumer, msgspec.structs.replace(Settings(), reader_buffer_bytes=10))
    log.keys = [0] * 4
    reader = open_live(readers, consumer)
    readers.on_frame(log.frames(0, 4)[0])
    assert [type(request) for request in consumer.requests] == [Leave]
    numbers_of(reader)
    readers.sent(reader)
    assert isinstance(consumer.requests[-1], Slice) and consumer.requests[-1].offset == 4


@pytest.mark.fact("R1")
def test_a_closed_reader_is_forgotten_and_its_consumer_told() -> None:
    log, consumer, readers = make()
    log.keys = [0]
    reader = open_live(readers, consumer)
    readers.close(reader)
    assert [type(request) for request in consumer.requests] == [Leave] and len(readers) == 0
    readers.on_frame(log.frames(0, 1)[0])
    assert not reader.pending


@pytest.mark.fact("A2", "R16")
def test_responses_stay_below_four_mebibytes() -> None:
    reader = Reader(1, None, None, Settings())
    chunk = bytes(900_000)
    place = Place(reader, PARTITION, "", 0, None)
    for number in range(20):
        reader.push(Chunk(place, chunk, 1, 0, b"log", number))
    sizes = []
    while reader.pending:
        sizes.append(len(reader.take()))
    assert max(sizes) < 4 << 20 and sum(sizes) == 20 * len(chunk) and reader.pending_bytes == 0


def small_buffer(consumer: Consumer, buffer_bytes: int) -> Readers:
    return Readers(1, lambda _: consumer, msgspec.structs.replace(Settings(), reader_buffer_bytes=buffer_bytes))


def test_a_full_reader_takes_nothing_more_whoever_reads_on_beside_it() -> None:
    log, consumer, _ = make()
    readers = small_buffer(consumer, 100)
    slow, fast = open_live(readers, consumer), open_live(readers, consumer)
    got: list[int] = []
    for start in range(0, 200, 2):
        log.keys += [0, 0]
        readers.on_frame(log.frames(start, start + 2)[0])
        got += numbers_of(fast)
        readers.sent(fast)
    assert got == list(range(200))
    assert slow.pending_bytes < 100 + 50 and slow.places[PARTITION].state is PlaceState.PAUSED


def test_partitions_in_the_past_share_the_room_of_their_reader() -> None:
    """However many there are, what was asked for fits into the buffer; each gets its turn."""
    _, consumer, readers = make()
    reader = readers.open()
    for number in range(100):
        readers.join(reader, Partition("Car", number), 0)
    turns: list[int] = []
    for _ in range(100):
        asked = [request for request in consumer.requests if isinstance(request, Slice)]
        assert len(asked) * Settings().slice_bytes <= reader.buffer_bytes
        consumer.requests.clear()
        turns += [request.number for request in asked]
        for request in asked:
            readers.on_slice_end(SliceEnd(reader.number, "Car", request.number, 0, True))
    assert turns == list(range(100))
    assert all(place.state is PlaceState.LIVE for place in reader.places.values())


def test_an_open_end_waits_for_no_room() -> None:
    _, consumer, readers = make()
    reader = readers.open()
    for number in range(100):
        readers.join(reader, Partition("Car", number), END)
    assert len(consumer.requests) == 100


def test_what_a_full_reader_held_at_its_consumer_goes_with_it() -> None:
    log, consumer, _ = make()
    readers = small_buffer(consumer, 10)
    log.keys = [0] * 9
    reader = readers.open()
    readers.join(reader, PARTITION, 0)
    readers.on_frame(log.frames(0, 4)[0])
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 4, False))
    assert reader.is_full and reader.places[PARTITION].state is PlaceState.PAUSED
    consumer.requests.clear()
    readers.close(reader)
    assert [type(request) for request in consumer.requests] == [Leave]


def test_an_answer_of_a_predecessor_leaves_no_reader_behind() -> None:
    """It says "live" of a feed that died with who said it; the successor's answer says that there is more to ask for."""
    _, consumer, readers = make()
    reader = readers.open()
    readers.join(reader, PARTITION, 0)
    readers.on_successor(consumer)
    consumer.requests.clear()
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 0, True))
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 0, False))
    assert any(isinstance(request, Slice) for request in consumer.requests)
    assert reader.places[PARTITION].state is PlaceState.PAST


def test_a_consumer_that_serves_a_reader_which_has_gone_is_told() -> None:
    _, consumer, readers = make()
    reader = readers.open()
    readers.join(reader, PARTITION, 0)
    readers.close(reader)
    consumer.requests.clear()
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 0, True))
    assert consumer.requests == [Leave(reader.number, *PARTITION)]


def test_an_ended_reader_keeps_what_it_has_and_gets_nothing_more() -> None:
    log, consumer, readers = make()
    log.keys = [0] * 4
    reader = open_live(readers, consumer)
    readers.on_frame(log.frames(0, 2)[0])
    readers.end(reader)
    readers.on_frame(log.frames(2, 4)[0])
    readers.join(reader, Partition("Other", 0), 0)
    assert [type(request) for request in consumer.requests] == [Leave]
    assert reader.closed and numbers_of(reader) == [0, 1]


def test_a_filter_is_said_before_its_first_use_and_taken_back_after_its_last() -> None:
    _, consumer, readers = make()
    spec = FilterSpec(5, 0, "Car", [], [], [], [], True)
    first, second = readers.open(filter_spec=spec), readers.open(filter_spec=spec)
    for reader in (first, second):
        readers.join(reader, PARTITION, END)
        readers.join(reader, Partition("Car", 1), END)
    readers.close(first)
    readers.close(first)
    readers.close(second)
    kinds = [type(request) for request in consumer.requests]
    assert kinds == [FilterSpec] + [Slice] * 4 + [Leave] * 4 + [ForgetFilter]
    assert consumer.requests[0].epoch == 1


# -- readers that are too slow ----------------------------------------------------------------------------------------


def open_slow(when_slow: WhenSlow) -> tuple[Log, Consumer, Readers, Reader]:
    """A live reader whose buffer four packets fill."""
    log, consumer, _ = make()
    readers = small_buffer(consumer, 10)
    log.keys = [0] * 4
    reader = readers.open(when_slow=when_slow)
    readers.join(reader, PARTITION, 0)
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 0, True))
    consumer.requests.clear()
    return log, consumer, readers, reader


def test_a_slow_reader_that_skips_gets_what_waits_and_then_the_live_end() -> None:
    log, consumer, readers, reader = open_slow(WhenSlow.SKIP)
    told: list[int] = []
    reader.on_slow = lambda: told.append(reader.skipped)
    readers.on_frame(log.frames(0, 4)[0])
    assert [type(request) for request in consumer.requests] == [Leave]
    log.keys += [0] * 6
    readers.on_frame(log.frames(4, 10)[0])
    assert numbers_of(reader) == [0, 1, 2, 3] and readers.skips == 0
    readers.sent(reader)
    assert isinstance(consumer.requests[-1], Slice) and consumer.requests[-1].offset == END
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 10, True))
    log.keys += [0]
    readers.on_frame(log.frames(10, 11)[0])
    assert numbers_of(reader) == [10]
    assert (reader.skips, reader.skipped, told) == (1, 6, [6])
    assert readers.statistics()["skips"] == 1 and readers.statistics()["skipped"] == 6


def test_a_reader_that_skips_goes_on_when_everything_is_sent_and_not_before() -> None:
    """Else it would get many small pieces of the past, and never be near the live end."""
    log, consumer, readers, reader = open_slow(WhenSlow.SKIP)
    for start in range(4):
        readers.on_frame(log.frames(start, start + 1)[0])
    consumer.requests.clear()
    reader.pending.append(reader.pending[-1])  # one response does not carry everything
    reader.take()
    reader.push(Chunk(reader.places[PARTITION], b"rest", 1, 0, b"log", 4))
    readers.sent(reader)
    assert not consumer.requests


def test_a_skip_that_meets_a_successor_is_asked_of_it_too() -> None:
    log, consumer, readers, reader = open_slow(WhenSlow.SKIP)
    readers.on_frame(log.frames(0, 4)[0])
    numbers_of(reader)
    readers.sent(reader)
    consumer.requests.clear()
    readers.on_successor(consumer)
    assert [request.offset for request in consumer.requests if isinstance(request, Slice)] == [END]
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 9, True))
    assert reader.skipped == 5


def test_a_slow_reader_that_ends_is_told_once_and_keeps_nothing() -> None:
    log, consumer, readers, reader = open_slow(WhenSlow.END)
    told: list[bool] = []
    reader.on_slow = lambda: told.append(reader.is_overrun)
    readers.on_frame(log.frames(0, 4)[0])
    assert told == [True] and reader.closed and not reader.pending and reader.pending_bytes == 0
    assert [type(request) for request in consumer.requests] == [Leave]
    readers.on_frame(log.frames(0, 4)[0])
    readers.close(reader)
    assert told == [True] and readers.overruns == 1 and len(readers) == 0


@pytest.mark.parametrize("when_slow", [WhenSlow.SKIP, WhenSlow.END])
def test_who_reads_the_past_is_not_slow(when_slow: WhenSlow) -> None:
    """It has not been at the live end: it is behind because it wanted to be."""
    log, consumer, _ = make()
    readers = small_buffer(consumer, 10)
    log.keys = [0] * 8
    reader = readers.open(when_slow=when_slow)
    readers.join(reader, PARTITION, 0)
    readers.on_frame(log.frames(0, 4)[0])
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 4, False))
    numbers_of(reader)
    readers.sent(reader)
    assert isinstance(consumer.requests[-1], Slice) and consumer.requests[-1].offset == 4
    assert not reader.closed and readers.skips == readers.overruns == 0


@pytest.mark.parametrize("when_slow", [WhenSlow.SKIP, WhenSlow.END])
def test_who_misses_a_frame_and_has_room_is_not_slow(when_slow: WhenSlow) -> None:
    log, consumer, readers, reader = open_slow(when_slow)
    reader.buffer_bytes, reader.slice_bytes = 800, 100
    log.keys = [0] * 3
    readers.on_mark(Mark(*PARTITION, "", 3))
    assert [request.offset for request in consumer.requests if isinstance(request, Slice)] == [0]
    readers.on_frame(log.frames(0, 1)[0])
    readers.on_slice_end(SliceEnd(reader.number, *PARTITION, 3, True))
    assert not reader.closed and readers.skips == readers.overruns == 0


@pytest.mark.parametrize("when_slow", list(WhenSlow))
def test_who_misses_a_frame_and_never_reads_is_slow(when_slow: WhenSlow) -> None:
    """Frames can be lost on the way, too; that must not be a way around."""
    log, _, readers, reader = open_slow(when_slow)
    for start in range(2):
        readers.on_frame(log.frames(start, start + 1)[0])
    size = reader.pending_bytes
    reader.buffer_bytes, reader.slice_bytes = size, 1
    readers.on_mark(Mark(*PARTITION, "", 4))
    assert reader.closed == (when_slow is WhenSlow.END)
    assert reader.places[PARTITION].skips == (when_slow is WhenSlow.SKIP)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_reader_that_skips_did_not_get_is_what_it_was_told(seed: int) -> None:
    """Whatever happens on the way: each entry once and in order, or counted as skipped."""
    chooser = random.Random(seed)
    log = Log()
    consumer = Consumer(log)
    settings = msgspec.structs.replace(Settings(), reader_buffer_bytes=chooser.choice([30, 200]))
    readers = Readers(1, lambda _: consumer, settings)
    reader = readers.open(when_slow=WhenSlow.SKIP)
    readers.join(reader, PARTITION, 0)
    got: list[int] = []
    for _ in range(600):
        action = chooser.random()
        if action < 0.4:
            log.keys += [0] * chooser.randrange(1, 5)
        elif action < 0.42:
            killed, consumer = consumer, Consumer(log)
            readers.on_successor(consumer)
            while killed.requests and chooser.random() < 0.5:
                killed.answer(readers, chooser)
        elif action < 0.7 and consumer.requests:
            consumer.answer(readers, chooser)
        elif action < 0.9:
            consumer.serve_live(readers, chooser)
        else:
            got += numbers_of(reader)
            readers.sent(reader)
    calm = random.Random(1)
    for _ in range(1000):
        if consumer.requests:
            consumer.answer(readers, calm)
        consumer.serve_live(readers, calm)
        got += numbers_of(reader)
        readers.sent(reader)
    assert reader.places[PARTITION].state is PlaceState.LIVE
    assert got == sorted(set(got)) and len(got) + reader.skipped == len(log.keys)


def test_another_log_ends_a_skip() -> None:
    log, _, readers, reader = open_slow(WhenSlow.SKIP)
    readers.on_frame(log.frames(0, 4)[0])
    numbers_of(reader)
    readers.sent(reader)
    new = Log(b"new")
    new.keys = [0] * 3
    readers.on_frame(new.frames(0, 3)[0])
    assert numbers_of(reader) == [0, 1, 2] and reader.jumps == 1 and reader.skips == 0


# -- all readers together ---------------------------------------------------------------------------------------------


def test_readers_that_never_read_share_what_all_may_have() -> None:
    """However many there are; and who does read has its share beside them, and gets everything."""
    consumer = Consumer(Log())
    settings = msgspec.structs.replace(Settings(), reader_buffer_bytes=8000, all_readers_buffer_bytes=20_000)
    readers = Readers(1, lambda _: consumer, settings)
    stuck, fast = [open_live(readers, consumer) for _ in range(50)], open_live(readers, consumer)
    got: list[int] = []
    for start in range(0, 400, 4):
        consumer.log.keys += [0] * 4
        readers.on_frame(consumer.log.frames(start, start + 4)[0])
        got += numbers_of(fast)
        readers.sent(fast)
        if start == 200:
            for reader in stuck:
                reader.take()  # handed to a transport that takes nothing
    frame = 200
    assert got == list(range(400)) and fast.places[PARTITION].state is PlaceState.LIVE
    held = readers.budget.pending + readers.budget.sending
    assert held == sum(reader.pending_bytes for reader in stuck) + readers.budget.sending
    assert 10_000 < held <= 20_000 + len(stuck) * (settings.slice_bytes + frame)
    for reader in (*stuck, fast):
        readers.close(reader)
    assert (readers.budget.pending, readers.budget.sending, readers.budget.promised) == (0, 0, 0)


def test_slices_that_are_on_the_way_are_counted_and_each_reader_gets_its_turn() -> None:
    """A thousand that begin in the past at the same time ask for what all may have, and one slice each."""
    consumer = Consumer(Log())
    settings = msgspec.structs.replace(Settings(), reader_buffer_bytes=8000, all_readers_buffer_bytes=20_000)
    readers = Readers(1, lambda _: consumer, settings)
    opened = [readers.open() for _ in range(100)]
    for number in range(8):
        for reader in opened:
            readers.join(reader, Partition("Car", number), 0)
    asked = [request.reader for request in consumer.requests if isinstance(request, Slice)]
    assert set(asked) == {reader.number for reader in opened}
    assert len(asked) * settings.slice_bytes <= 20_000 + len(opened) * settings.slice_bytes
    for reader in opened:
        readers.close(reader)
    assert readers.budget.promised == 0
