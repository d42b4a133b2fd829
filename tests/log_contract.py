"""What every log must do, whichever way it stores: one suite, run over each LogWriter and LogReader pair.

A test module takes part like this::

    class TestLocalLog(LogContract):
        @pytest.fixture
        def log(self, tmp_path): ...yield a LogUnderTest, close what it opened

Writers and readers here are driven as their processes drive them: by ``do_work``, with a bound on every wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import pytest

from trackside.data_plane.log import END, Cursor, LogReader, LogWriter, Partition, Progress, Run, Watermarks
from trackside.data_plane.record import Record, Route

WAIT_SECONDS = 30.0
"""Bound of every wait; a log that is alive needs a fraction of it."""

READ_BYTES = 1 << 20
YEAR_2020_NS = 1_577_836_800 * 10**9
RING = "11111111-2222-3333-4444-555555555555/gateway-0.producer-0.down"
OTHER_RING = "11111111-2222-3333-4444-555555555555/gateway-1.producer-0.down"


class LogUnderTest(Protocol):
    """One log, as a subclass's ``log`` fixture hands it in. It closes the writers and readers that it opened."""

    partitions: int
    """How many partitions a topic has that its writer creates; at least 2."""

    essentials_first: bool
    """Whether a reader that sees a packet in its own partition always finds the essentials copy there already."""

    def topic(self, name: str) -> str:
        """A topic name that no other test of this run uses and that does not exist yet."""

    def writer(self) -> LogWriter:
        """A writer; the one before it must be closed."""

    def reader(self) -> LogReader: ...


class Entry(NamedTuple):
    offset: int
    key: bytes
    identity: bytes
    value: bytes


# --- packets -------------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def length_delimited(field_number: int, content: bytes) -> bytes:
    return varint(field_number << 3 | 2) + varint(len(content)) + content


def packet(content: bytes = b"", *, kind: str = "PeriodicData", extra: bytes = b"") -> bytes:
    """A serialised ma.streaming.open_data.v1.Packet {type: ``kind``, content}, then ``extra`` bytes."""
    return length_delimited(1, kind.encode()) + length_delimited(4, content) + extra


def packet_of_size(size: int, seed: int = 1) -> bytes:
    """A Packet of exactly ``size`` bytes (200 or more) with content that does not compress."""
    bare = len(packet(bytes(size))) - size
    content = random.Random(seed).randbytes(size - bare)
    filler = size - len(packet(content))  # length prefixes may be shorter than assumed: fill with a longer type name
    made = packet(content, kind="PeriodicData" + "x" * filler)
    assert len(made) == size
    return made


def numbered(start: int, count: int, mark: str = "") -> list[bytes]:
    return [packet(f"{mark}{number}".encode()) for number in range(start, start + count)]


def record(packets: Sequence[bytes], *routes: Route, indexes: Sequence[int] | None = None) -> Record:
    return Record(list(routes), list(indexes if indexes is not None else [0] * len(packets)), list(packets))


# --- driving -------------------------------------------------------------------------------------------------------


def drive(condition: Callable[[], bool], *agents: LogWriter | LogReader, what: str) -> None:
    """Run the duty cycles of ``agents`` until ``condition`` holds; fails after WAIT_SECONDS naming ``what``."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        if not sum(agent.do_work() for agent in agents):
            time.sleep(0.001)


def log_all(writer: LogWriter, ring: str, position: int) -> None:
    drive(lambda: writer.logged(ring) >= position, writer, what=f"logged({ring}) at {position}")


@dataclass
class Feed:
    """Appends records to one ring of a writer and keeps count of its positions."""

    writer: LogWriter
    ring: str = RING
    position: int = 0

    def append(self, made: Record) -> int:
        self.position += 64 * (1 + len(made.packets))
        self.writer.append(self.ring, self.position, made)
        return self.position

    def append_logged(self, made: Record) -> int:
        self.append(made)
        log_all(self.writer, self.ring, self.position)
        return self.position


@dataclass
class Collector:
    """Reads one cursor and checks on each run what a run promises."""

    reader: LogReader
    cursor: Cursor
    bytes_max: int = READ_BYTES
    entries: list[Entry] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def step(self) -> bool:
        self.reader.do_work()
        before = self.cursor.next_offset
        run = self.cursor.read(self.bytes_max)
        if run is None:
            return False
        check_run(run, self.cursor, before, self.bytes_max)
        self.runs.append(run)
        keyed = [run.keys[index] for index in run.key_index]
        self.entries.extend(
            Entry(offset, key, identity, value)
            for offset, (key, identity), value in zip(run.offsets, keyed, run.values, strict=True)
        )
        return True

    def collect(self, count: int) -> list[Entry]:
        """All entries so far once there are ``count``; never more than that, looked at once again."""

        def enough() -> bool:
            while self.step():
                pass
            return len(self.entries) >= count

        drive(enough, what=f"{count} entries of {self.cursor.partition}, {len(self.entries)} came")
        assert len(self.entries) == count
        return self.entries

    @property
    def values(self) -> list[bytes]:
        return [entry.value for entry in self.entries]


def check_run(run: Run, cursor: Cursor, before: int, bytes_max: int) -> None:
    assert run.partition == cursor.partition
    assert run.identity
    assert before in (run.start, END)
    assert cursor.next_offset == run.next_offset > run.start
    assert len(run.offsets) == len(run.times_ns) == len(run.key_index) == len(run.values)
    assert run.offsets == sorted(set(run.offsets))
    assert all(run.start <= offset < run.next_offset for offset in run.offsets)
    assert all(time_ns > YEAR_2020_NS for time_ns in run.times_ns)
    assert sum(map(len, run.values[:-1])) <= bytes_max


def collector(
    reader: LogReader, topic: str, offset: int = 0, partition: int = 0, bytes_max: int = READ_BYTES
) -> Collector:
    return Collector(reader, reader.open(Partition(topic, partition), offset), bytes_max)


def ask_watermarks(reader: LogReader, *partitions: Partition) -> dict[Partition, Watermarks]:
    answers: list[dict[Partition, Watermarks] | None] = []
    reader.watermarks(list(partitions), answers.append)
    drive(lambda: bool(answers), reader, what=f"watermarks of {partitions}")
    assert answers[0] is not None
    return answers[0]


def ask_committed(reader: LogReader, group: str, *partitions: Partition) -> dict[Partition, int]:
    answers: list[dict[Partition, int] | None] = []
    reader.committed(group, list(partitions), answers.append)
    drive(lambda: bool(answers), reader, what=f"where {group} is in {partitions}")
    assert answers[0] is not None
    return answers[0]


def commit(reader: LogReader, group: str, progress: Mapping[Partition, Progress]) -> None:
    answers: list[bool] = []
    reader.commit(group, progress, answers.append)
    drive(lambda: bool(answers), reader, what=f"commit of {group}")
    assert answers == [True]


def identity_of(reader: LogReader, topic: str) -> bytes:
    """The log that a topic's offsets count in, as a run of it says."""
    reading = collector(reader, topic)
    drive(reading.step, reader, what=f"something of {topic}")
    reading.cursor.close()
    return reading.runs[0].identity


def see_topic(reader: LogReader, topic: str) -> int:
    """Wait until ``reader`` lists ``topic``; returns its partition count."""
    reader.watch(True)
    drive(lambda: topic in reader.topics(), reader, what=f"topic {topic} in the list")
    return reader.topics()[topic]


# --- the contract --------------------------------------------------------------------------------------------------


class LogContract:
    """Subclass it, give it a ``log`` fixture."""

    # order, content

    def test_entries_come_back_in_order_of_append_with_offsets_from_zero(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("order"), Feed(log.writer())
        packets = numbered(0, 500)
        for start in range(0, 500, 50):
            feed.append(record(packets[start : start + 50], Route(topic, 0, b"key")))
        log_all(feed.writer, RING, feed.position)
        got = collector(log.reader(), topic).collect(500)
        assert [entry.value for entry in got] == packets
        assert [entry.offset for entry in got] == list(range(500))

    @pytest.mark.reference_test(
        "Router: end to end: several routes, with and without keys", "Router: reader: three partitions"
    )
    def test_every_partition_keeps_its_own_order(self, log: LogUnderTest) -> None:
        topic, other, feed = log.topic("mixed"), log.topic("mixed-other"), Feed(log.writer())
        routes = [Route(topic, 0, b"a"), Route(topic, 1, b"b"), Route(other, 0, b"c")]
        rng = random.Random(7)
        expected: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        for number in range(40):
            indexes = [rng.randrange(3) for _ in range(16)]
            packets = numbered(16 * number, 16)
            for index, value in zip(indexes, packets, strict=True):
                expected[index].append(value)
            feed.append(record(packets, *routes, indexes=indexes))
        log_all(feed.writer, RING, feed.position)
        reader = log.reader()
        for index, route in enumerate(routes):
            found = collector(reader, route.topic, partition=route.partition).collect(len(expected[index]))
            assert [entry.value for entry in found] == expected[index]
            assert {entry.key for entry in found} == {route.key}

    @pytest.mark.fact("C1")
    @pytest.mark.reference_test("Router: producer: value and key arrive unchanged")
    def test_keys_and_identities_come_back(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("keys"), Feed(log.writer())
        routes = [
            Route(topic, 0, b""),
            Route(topic, 0, b"session-1"),
            Route(topic, 0, bytes(range(256))),
            Route(topic, 0, b"session-1", "", b"identity-1"),
            Route(topic, 0, b"", "", b"\x00identity-2\xff"),
        ]
        indexes = [0, 1, 1, 2, 3, 4, 0, 3]
        packets = numbered(0, len(indexes))
        feed.append_logged(record(packets, *routes, indexes=indexes))
        got = collector(log.reader(), topic).collect(len(indexes))
        assert [(entry.key, entry.identity) for entry in got] == [
            (routes[index].key, routes[index].identity) for index in indexes
        ]
        assert [entry.value for entry in got] == packets

    def test_bytes_are_kept_exactly_unknown_fields_too(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("exact"), Feed(log.writer())
        packets = [
            packet(b"known", extra=length_delimited(1000, b"from a newer client")),
            length_delimited(4, b"content before type") + length_delimited(1, b"Marker"),
            packet(b"first", extra=packet(b"last wins")),
            packet(bytes(range(256)) * 8),
        ]
        feed.append_logged(record(packets, Route(topic, 0, b"k")))
        reading = collector(log.reader(), topic)
        reading.collect(len(packets))
        assert reading.values == packets

    @pytest.mark.fact("C1")
    def test_an_essential_packet_reaches_both_topics(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("data"), Feed(log.writer())
        essentials = topic + "_essential"
        routes = [Route(topic, 1, b"k"), Route(topic, 1, b"k", essentials)]
        indexes = [0, 1, 0, 0, 1, 1, 0]
        packets = numbered(0, len(indexes))
        feed.append_logged(record(packets, *routes, indexes=indexes))
        reader = log.reader()
        data, copies = collector(reader, topic, partition=1), collector(reader, essentials)
        data.collect(len(packets))
        copies.collect(3)
        assert data.values == packets
        assert copies.values == [value for value, index in zip(packets, indexes, strict=True) if index == 1]

    @pytest.mark.fact("C1")
    def test_the_essentials_copy_is_there_first(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("first"), Feed(log.writer()), log.reader()
        data, copies = collector(reader, topic), collector(reader, topic + "_essential")
        for number in range(50):
            feed.append(record(numbered(number, 1), Route(topic, 0, b"k", topic + "_essential")))
            feed.writer.do_work()
            while data.step():
                pass
            while log.essentials_first and copies.step():
                pass
            assert not log.essentials_first or len(copies.entries) >= len(data.entries)
        log_all(feed.writer, RING, feed.position)
        assert data.collect(50) == copies.collect(50)

    def test_large_values_up_to_the_limit(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("large"), Feed(log.writer())
        limit = feed.writer.value_bytes_max()
        packets = [packet_of_size(limit), packet(b"small"), packet_of_size(limit, seed=2), packet_of_size(limit // 2)]
        feed.append(record(packets[:1], Route(topic, 0, b"k")))
        feed.append(record(packets[1:], Route(topic, 0, b"k")))
        log_all(feed.writer, RING, feed.position)
        reading = collector(log.reader(), topic)
        reading.collect(len(packets))
        assert reading.values == packets
        assert feed.writer.refusals() == []

    # logged

    def test_logged_moves_only_when_the_log_has_it(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("logged"), Feed(log.writer()), log.reader()
        partition = Partition(topic, 0)
        counts: dict[int, int] = {0: 0}
        assert feed.writer.logged(RING) == 0
        for number in range(20):
            feed.append(record(numbered(10 * number, 10), Route(topic, 0, b"k")))
            counts[feed.position] = 10 * (number + 1)
            feed.writer.do_work()
            there = counts[feed.writer.logged(RING)]
            assert ask_watermarks(reader, partition)[partition].end >= there
        log_all(feed.writer, RING, feed.position)
        assert ask_watermarks(reader, partition)[partition] == Watermarks(0, 200)

    def test_an_append_alone_is_not_logged(self, log: LogUnderTest) -> None:
        feed = Feed(log.writer())
        feed.append(record(numbered(0, 3), Route(log.topic("append"), 0, b"k")))
        assert feed.writer.logged(RING) == 0
        log_all(feed.writer, RING, feed.position)

    def test_rings_are_accounted_apart(self, log: LogUnderTest) -> None:
        topic, writer = log.topic("rings"), log.writer()
        one, two = Feed(writer, RING), Feed(writer, OTHER_RING)
        for number in range(10):
            one.append(record(numbered(number, 1, "one-"), Route(topic, 0, b"1")))
            two.append(record(numbered(number, 1, "two-"), Route(topic, 0, b"2")))
        two.append(record(numbered(10, 5, "two-"), Route(topic, 1, b"2")))
        log_all(writer, RING, one.position)
        log_all(writer, OTHER_RING, two.position)
        assert writer.logged(RING) == one.position
        assert writer.logged(OTHER_RING) == two.position
        assert writer.logged("never-seen") == 0
        reading = collector(log.reader(), topic)
        reading.collect(20)
        expected = zip(numbered(0, 10, "one-"), numbered(0, 10, "two-"), strict=True)
        assert reading.values == [value for pair in expected for value in pair]

    def test_a_record_without_packets_is_logged_too(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("empty"), Feed(log.writer())
        feed.append(record(numbered(0, 2), Route(topic, 0, b"k")))
        feed.append(record([]))
        log_all(feed.writer, RING, feed.position)
        feed.append_logged(record([]))

    def test_close_logs_what_was_appended(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("close"), Feed(log.writer())
        packets = numbered(0, 100)
        feed.append(record(packets, Route(topic, 0, b"k")))
        assert feed.writer.close(WAIT_SECONDS) is True
        assert feed.writer.logged(RING) == feed.position
        reading = collector(log.reader(), topic)
        reading.collect(100)
        assert reading.values == packets

    def test_a_successor_goes_on_behind(self, log: LogUnderTest) -> None:
        topic, reader = log.topic("successor"), log.reader()
        reading, feed = collector(reader, topic), Feed(log.writer())
        feed.append(record(numbered(0, 10), Route(topic, 0, b"k")))
        assert feed.writer.close(WAIT_SECONDS)
        reading.collect(10)
        feed = Feed(log.writer(), position=feed.position)
        feed.append_logged(record(numbered(10, 10), Route(topic, 0, b"k")))
        reading.collect(20)
        assert reading.values == numbered(0, 20)
        assert len({run.identity for run in reading.runs}) == 1

    def test_a_log_that_answers_says_so(self, log: LogUnderTest) -> None:
        feed, reader = Feed(log.writer()), log.reader()
        topic = log.topic("state")
        feed.append_logged(record(numbered(0, 4), Route(topic, 0, b"k")))
        collector(reader, topic).collect(4)
        assert feed.writer.state() == (True, "")
        assert reader.state() == (True, "")
        assert feed.writer.statistics()["appended"] == 4
        assert reader.statistics()["fetches"] >= 1
        assert reader.statistics()["undecodable"] == 0

    # cursors

    @pytest.mark.fact("A9")
    @pytest.mark.reference_test(
        "Router: listener: from offset 10 of 15", "Router: listener: from the earliest with key"
    )
    def test_a_cursor_starts_exactly_where_it_was_opened(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("start"), Feed(log.writer())
        for start in range(0, 60, 20):
            feed.append_logged(record(numbered(start, 20), Route(topic, 0, b"k")))
        reader = log.reader()
        for start in (0, 1, 19, 20, 33, 59):
            got = collector(reader, topic, start).collect(60 - start)
            assert [entry.offset for entry in got] == list(range(start, 60))
            assert [entry.value for entry in got] == numbered(start, 60 - start)

    @pytest.mark.fact("A9")
    @pytest.mark.reference_test("Router: listener: live without key")
    def test_a_cursor_at_the_end_sees_only_what_comes(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("end"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 10), Route(topic, 0, b"k")))
        reading = collector(reader, topic, END)
        drive(lambda: not reading.step() and reading.cursor.next_offset != END, reader, what="the end known")
        assert reading.entries == []
        feed.append_logged(record(numbered(10, 5), Route(topic, 0, b"k")))
        reading.collect(5)
        assert reading.values == numbered(10, 5)

    def test_a_cursor_beyond_the_end_waits_for_its_offset(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("beyond"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 10), Route(topic, 0, b"k")))
        reading, witness = collector(reader, topic, 15), collector(reader, topic)
        for start in (10, 12, 14, 16):
            feed.append_logged(record(numbered(start, 2), Route(topic, 0, b"k")))
            witness.collect(start + 2)
            reading.step()
        got = reading.collect(3)
        assert [entry.offset for entry in got] == [15, 16, 17]

    @pytest.mark.fact("R11")
    def test_a_cursor_waits_for_a_partition_that_does_not_exist(self, log: LogUnderTest) -> None:
        topic, reader = log.topic("later"), log.reader()
        from_start, from_end = collector(reader, topic), collector(reader, topic, END)
        assert not from_start.step()
        assert not from_end.step()
        feed = Feed(log.writer())
        feed.append_logged(record(numbered(0, 10), Route(topic, 0, b"k")))
        from_start.collect(10)
        from_end.collect(10)
        assert from_start.values == from_end.values == numbered(0, 10)

    @pytest.mark.fact("R17")
    def test_reading_creates_no_topic(self, log: LogUnderTest) -> None:
        missing, topic, reader = log.topic("missing"), log.topic("present"), log.reader()
        waiting = collector(reader, missing)
        waiting.step()
        assert ask_watermarks(reader, Partition(missing, 0)) == {Partition(missing, 0): Watermarks(0, 0)}
        Feed(log.writer()).append_logged(record(numbered(0, 1), Route(topic, 0, b"k")))
        see_topic(reader, topic)
        assert missing not in reader.topics()

    @pytest.mark.fact("K2")
    @pytest.mark.reference_test("Router: reader: two readers at once each get everything")
    def test_two_cursors_on_one_partition_are_independent(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("two"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 30), Route(topic, 0, b"k")))
        one = collector(reader, topic)
        one.collect(30)
        two = collector(reader, topic, 10)
        two.collect(20)
        feed.append_logged(record(numbered(30, 10), Route(topic, 0, b"k")))
        two.collect(30)
        two.cursor.close()
        one.collect(40)
        assert one.values == numbered(0, 40)
        assert two.values == numbered(10, 30)

    def test_a_run_is_about_as_large_as_asked_for(self, log: LogUnderTest) -> None:
        topic, feed = log.topic("sizes"), Feed(log.writer())
        packets = [packet_of_size(1000, seed) for seed in range(200)]
        feed.append(record(packets, Route(topic, 0, b"k")))
        log_all(feed.writer, RING, feed.position)
        reader = log.reader()
        for bytes_max in (1, 1500, 10_000, 1 << 20):
            reading = collector(reader, topic, bytes_max=bytes_max)
            reading.collect(200)
            assert reading.values == packets

    def test_ready_names_a_cursor_that_has_something(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("ready"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 1), Route(topic, 0, b"k")))
        reading = collector(reader, topic)
        drive(lambda: reading.cursor in list(reader.ready()), reader, what="the cursor is ready")
        reading.collect(1)
        assert reading.cursor.at_end
        feed.append_logged(record(numbered(1, 1), Route(topic, 0, b"k")))
        drive(lambda: reading.cursor in list(reader.ready()), reader, what="the cursor is ready again")
        reading.collect(2)
        reading.cursor.close()
        assert reading.cursor not in list(reader.ready())

    # what exists

    @pytest.mark.fact("C2")
    @pytest.mark.reference_test("Router: topic helper: high watermarks by partition and topic")
    def test_watermarks_before_and_after(self, log: LogUnderTest) -> None:
        topic, reader = log.topic("marks"), log.reader()
        zero, one = Partition(topic, 0), Partition(topic, 1)
        assert ask_watermarks(reader, zero, one) == {zero: Watermarks(0, 0), one: Watermarks(0, 0)}
        feed = Feed(log.writer())
        feed.append_logged(
            record(numbered(0, 7), Route(topic, 0, b"k"), Route(topic, 1, b"k"), indexes=[0, 1] * 3 + [0])
        )
        assert ask_watermarks(reader, zero, one) == {zero: Watermarks(0, 4), one: Watermarks(0, 3)}
        assert ask_watermarks(reader) == {}

    def test_a_new_topic_is_listed(self, log: LogUnderTest) -> None:
        first, second, reader, feed = log.topic("first"), log.topic("second"), log.reader(), Feed(log.writer())
        feed.append_logged(record(numbered(0, 1), Route(first, 0, b"k")))
        assert see_topic(reader, first) >= 1
        assert second not in reader.topics()
        last = log.partitions - 1
        feed.append_logged(record(numbered(0, 1), Route(second, last, b"k", second + "_essential")))
        assert see_topic(reader, second) == log.partitions
        see_topic(reader, second + "_essential")

    def test_a_list_that_is_asked_for_has_every_topic_that_exists(self, log: LogUnderTest) -> None:
        reader, feed = log.reader(), Feed(log.writer())
        for number in range(5):
            topic = log.topic(f"listed-{number}")
            feed.append_logged(record(numbered(0, 1), Route(topic, 0, b"k")))
            answers: list[Mapping[str, int] | None] = []
            reader.list_topics(answers.append)
            drive(lambda answers=answers: bool(answers), reader, what="the list of topics")
            assert answers[0] is not None and topic in answers[0]

    # consumer groups

    def test_a_group_goes_on_where_it_was_committed(self, log: LogUnderTest) -> None:
        topic, group, feed, reader = log.topic("grouped"), log.topic("group"), Feed(log.writer()), log.reader()
        zero, one = Partition(topic, 0), Partition(topic, 1)
        feed.append_logged(record(numbered(0, 20), Route(topic, 0, b"k"), Route(topic, 1, b"k"), indexes=[0, 1] * 10))
        log_identity = identity_of(reader, topic)
        assert ask_committed(reader, group, zero, one) == {}
        commit(reader, group, {zero: Progress(log_identity, 4), one: Progress(log_identity, 10)})
        assert ask_committed(reader, group, zero, one) == {zero: 4, one: 10}
        commit(reader, group, {zero: Progress(log_identity, 5)})
        commit(reader, group, {one: Progress(log_identity, 2)})
        assert ask_committed(reader, group, zero, one) == {zero: 5, one: 2}
        assert ask_committed(reader, group, one) == {one: 2}
        assert ask_committed(reader, group) == {}

    def test_groups_are_apart(self, log: LogUnderTest) -> None:
        topic, feed, reader = log.topic("grouped"), Feed(log.writer()), log.reader()
        partition = Partition(topic, 0)
        feed.append_logged(record(numbered(0, 9), Route(topic, 0, b"k")))
        names = [log.topic("group"), log.topic("group") + " of cars / \u00fc", log.topic("g" * 1000)]
        for number, group in enumerate(names):
            commit(reader, group, {partition: Progress(b"", number)})
        assert [ask_committed(reader, group, partition) for group in names] == [{partition: n} for n in range(3)]

    def test_a_successor_finds_what_was_committed(self, log: LogUnderTest) -> None:
        topic, group, feed, reader = log.topic("grouped"), log.topic("group"), Feed(log.writer()), log.reader()
        partition = Partition(topic, 0)
        feed.append_logged(record(numbered(0, 9), Route(topic, 0, b"k")))
        log_identity = identity_of(reader, topic)
        for offset in (3, 7, 6):
            commit(reader, group, {partition: Progress(log_identity, offset)})
            assert ask_committed(log.reader(), group, partition) == {partition: offset}

    def test_what_is_not_of_this_log_is_no_progress(self, log: LogUnderTest) -> None:
        topic, group, feed, reader = log.topic("grouped"), log.topic("group"), Feed(log.writer()), log.reader()
        partition, missing = Partition(topic, 0), Partition(log.topic("missing"), 0)
        feed.append_logged(record(numbered(0, 9), Route(topic, 0, b"k")))
        commit(reader, group, {partition: Progress(b"a log that is gone", 4)})
        assert ask_committed(reader, group, partition) == {}
        commit(reader, group, {partition: Progress(b"", 10)})
        assert ask_committed(reader, group, partition) == {}
        commit(reader, group, {partition: Progress(b"", 9), missing: Progress(b"", 3)})
        assert ask_committed(reader, group, partition, missing) == {partition: 9}
        see_topic(reader, topic)
        assert missing.topic not in reader.topics()

    def test_of_many_commits_at_once_the_last_holds(self, log: LogUnderTest) -> None:
        topic, group, feed, reader = log.topic("grouped"), log.topic("group"), Feed(log.writer()), log.reader()
        partition = Partition(topic, 0)
        feed.append_logged(record(numbered(0, 60), Route(topic, 0, b"k")))
        answers: list[bool] = []
        for offset in range(60):
            reader.commit(group, {partition: Progress(b"", offset)}, answers.append)
        drive(lambda: len(answers) == 60, reader, what="all commits")
        assert all(answers)
        assert ask_committed(reader, group, partition) == {partition: 59}
