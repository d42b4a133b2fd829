"""What a connection reads: each row of the tables of reads and of offsets, in each cell where the row exists.

That nothing else came is shown without waiting: a last packet is written to every stream, and what is not there when that
has come is not coming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from conformance.cells import Cell, cell_params
from kafka_broker import KafkaBroker
from reading import Reading
from reads import Read, count_of, threads_and_files, wait_count, write_packets
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

MIB = 1 << 20


@pytest.fixture
def reading(cell: Cell) -> Iterator[Reading]:
    reading = Reading(cell)
    yield reading
    reading.close()


def only(*words: str) -> Callable[[Any], Any]:
    """The cells in which a row exists, by words of their names: its tests are not made for the others."""
    return pytest.mark.parametrize("cell", cell_params(*words), indirect=True)


# --- which streams -------------------------------------------------------------------------------------------------


@pytest.mark.fact("R6", "A25", "A11")
def test_no_streams_means_all_with_their_labels(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2], one=[3, 4], two=[5])
    read = reading.read(source)
    read.wait(1, 2, 3, 4, 5)
    reading.rest_of(read, source, "main", "one", "two")
    assert (read.of("")[:2], read.of("one")[:2], read.of("two")[:1]) == ([1, 2], [3, 4], [5])
    assert len(read.got) == 8


@pytest.mark.fact("R6", "A25")
def test_streams_that_appear_later_come_from_their_beginning(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, one=[1])
    read = reading.read(source, main_offset=-1)
    reading.wait_live(reading.places("one"))
    reading.write(source, two=[2, 3], main=[4])
    read.wait(2, 3, 4)
    assert sorted(reading.rest_of(read, source, "main", "one", "two")) == [
        (2, "two"),
        (3, "two"),
        (4, ""),
    ]


@pytest.mark.fact("R6")
def test_without_streams_the_main_offset_is_the_main_streams(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2, 3], one=[4, 5, 6])
    read = reading.read(source, main_offset=2)
    read.wait(3, 4, 5, 6)
    assert sorted(reading.rest_of(read, source, "main", "one")) == [(3, ""), (4, "one"), (5, "one"), (6, "one")]


@pytest.mark.fact("R6", "A9")
def test_without_streams_a_negative_main_offset_is_the_end_of_all_that_exist(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1], one=[2], two=[3])
    read = reading.read(source, main_offset=-1)
    reading.wait_live(reading.places("one", "two"))
    reading.write(source, main=[4], one=[5])
    read.wait(4, 5)
    assert sorted(reading.rest_of(read, source, "main", "one", "two")) == [(4, ""), (5, "one")]


@pytest.mark.fact("R5", "A11")
def test_streams_that_are_given_and_main(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1], one=[2], two=[3])
    read = reading.read(source, streams=["one"])
    read.wait(1, 2)
    reading.write(source, two=[4])
    assert sorted(reading.rest_of(read, source, "main", "one")) == [(1, ""), (2, "one")]


@pytest.mark.fact("A8")
def test_main_can_be_excluded(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1], one=[2], two=[3])
    some = reading.read(source, streams=["one", "two"], exclude_main_stream=True)
    every = reading.read(source, exclude_main_stream=True)
    for read in (some, every):
        read.wait(2, 3)
    reading.write(source, main=[4])
    for read in (some, every):
        assert sorted(reading.rest_of(read, source, "one", "two"))[:2] == [(2, "one"), (3, "two")]
        assert not read.of("")


def test_what_is_excluded_alone_waits_for_what_may_come(reading: Reading) -> None:
    """In the reference such a read had no consumer and hung; here it gets what appears later."""
    source = reading.source()
    read = reading.read(source, exclude_main_stream=True)
    reading.write(source, main=[1], one=[2])
    read.wait(2)
    assert reading.rest_of(read, source, "one") == [(2, "one")]


@pytest.mark.fact("R5", "A9")
def test_offsets_that_are_missing_are_zero(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2], one=[3, 4, 5], two=[6, 7])
    read = reading.read(source, streams=["one", "two"], stream_offsets=[2], main_offset=1)
    read.wait(2, 5, 6, 7)
    assert sorted(reading.rest_of(read, source, "main", "one", "two")) == [(2, ""), (5, "one"), (6, "two"), (7, "two")]


@pytest.mark.fact("R5")
def test_a_stream_that_is_named_twice_is_read_once_from_the_first_offset(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, one=[1, 2, 3])
    read = reading.read(source, streams=["one", "one"], stream_offsets=[1, 0], exclude_main_stream=True)
    read.wait(2, 3)
    assert reading.rest_of(read, source, "one") == [(2, "one"), (3, "one")]


def test_the_main_stream_can_be_named_by_its_empty_name(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2], one=[3])
    alone = reading.read(source, streams=[""])
    chosen = reading.read(source, streams=["one", ""], stream_offsets=[0, 1], exclude_main_stream=True)
    alone.wait(1, 2)
    chosen.wait(2, 3)
    reading.write(source, one=[4])
    assert reading.rest_of(alone, source, "main") == [(1, ""), (2, "")]
    reading.rest_of(chosen, source, "one")
    assert 1 not in chosen.numbers


@only("partition")
@pytest.mark.fact("R5")
def test_a_stream_that_is_not_mapped_is_left_out_and_shifts_nothing(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1], one=[2, 3, 4], nobody=[5])
    read = reading.read(source, streams=["nobody", "one"], stream_offsets=[7, 2])
    read.wait(1, 4, 5)
    # What was written to it is the main stream's, since no partition is its own.
    assert sorted(reading.rest_of(read, source, "main", "one")) == [(1, ""), (4, "one"), (5, "")]


@only("partition")
@pytest.mark.fact("R5", "R10")
def test_a_read_that_could_never_bring_anything_is_refused(reading: Reading) -> None:
    read = reading.read(reading.source(), streams=["nobody"], exclude_main_stream=True)
    assert read.wait_end() is grpc.StatusCode.INVALID_ARGUMENT
    assert read.details.startswith("exclude_main_stream: true")


@only("topic")
@pytest.mark.fact("R17")
def test_a_stream_that_does_not_exist_is_waited_for_and_not_made(reading: Reading) -> None:
    source = reading.source()
    read = reading.read(source, streams=["later"], stream_offsets=[0])
    reading.wait_live(2)
    streams = reading.client.sessions.CreateSession(api_pb2.CreateSessionRequest(data_source=source), timeout=30)
    info = reading.client.sessions.GetSessionInfo(
        api_pb2.GetSessionInfoRequest(session_key=streams.session_key), timeout=30
    )
    assert list(info.streams) == []
    if reading.broker:
        assert not [topic for topic in reading.broker.topics() if source in topic and "later" in topic]
    reading.write(source, later=[1, 2])
    read.wait(1, 2)
    assert read.of("later") == [1, 2]


# --- offsets -------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A9", "A20", "K3")
@pytest.mark.parametrize(
    ("offset", "past"), [(0, [1, 2, 3, 4]), (1, [2, 3, 4]), (3, [4]), (4, []), (-1, []), (-77, [])]
)
def test_where_a_read_begins(reading: Reading, offset: int, past: list[int]) -> None:
    """Zero is the earliest, n exactly n, negative the end; then it stays open and goes on without gap or repeat."""
    source = reading.source()
    reading.write(source, main=[1, 2, 3, 4], one=[11, 12, 13, 14])
    read = reading.read(source, main_offset=offset, streams=["one"], stream_offsets=[offset])
    reading.wait_live(2)
    reading.write(source, main=[5, 6], one=[15, 16])
    read.wait(5, 6, 15, 16)
    assert read.of("") == [*past, 5, 6]
    assert read.of("one") == [number + 10 for number in (*past, 5, 6)]


@pytest.mark.fact("A9")
def test_an_offset_beyond_the_end_is_waited_for(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2])
    read = reading.read(source, main_offset=4, streams=[""])
    witness = reading.read(source, streams=[""])
    witness.wait(2)
    for number in (3, 4, 5, 6):
        reading.write(source, main=[number])
        witness.wait(number)
    read.wait(5, 6)
    assert read.numbers == [5, 6]


@only("local")
@pytest.mark.fact("R4", "A9")
def test_what_retention_has_taken_is_jumped_over_on_disk(reading: Reading) -> None:
    """The earliest that still exists, for 0 as for n; not the end, as in the reference."""
    source = reading.source()
    content = bytes(MIB)
    for first in range(1, 49, 8):
        packets = [("one", Packet(id=number, content=content)) for number in range(first, first + 8)]
        write_packets(reading.client, source, packets)
    first_segment = reading.log_folder(source, "one") / f"{0:020d}.segment"
    wait_until(lambda: not first_segment.exists(), f"retention takes {first_segment}")
    reads = [reading.read(source, streams=["one"], stream_offsets=[offset]) for offset in (0, 3)]
    for read in reads:
        read.wait(48)
        assert read.numbers == list(range(read.numbers[0], 49)) and 8 <= read.numbers[0] <= 40


@only("kafka")
@pytest.mark.fact("R4", "A9")
def test_what_retention_has_taken_is_jumped_over_on_kafka(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, one=range(1, 21))
    assert reading.broker is not None
    reading.broker.delete_records(*reading.place(source, "one"), 12)
    for offset in (0, 3, 12, 15):
        read = reading.read(source, streams=["one"], stream_offsets=[offset])
        read.wait(20)
        assert read.numbers == list(range(max(offset, 12) + 1, 21))


@pytest.mark.fact("A8")
def test_each_read_of_a_connection_begins_at_its_offsets(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2, 3], one=[4])
    connection = reading.client.connect(source, main_offset=1)
    first = reading.read_again(connection)
    first.wait(2, 3, 4)
    second = reading.read_again(connection)
    third = reading.read_data(connection)
    second.wait(2, 3, 4)
    assert first.numbers.count(2) == second.numbers.count(2) == 1
    details = reading.client.connections.GetConnection(api_pb2.GetConnectionRequest(connection=connection), timeout=30)
    assert details.details.main_offset == 1
    first.close()
    for read in (second, reading.read_again(connection)):
        assert sorted(reading.rest_of(read, source, "main", "one"))[:3] == [(2, ""), (3, ""), (4, "one")]
    assert third.got == [] and not third.ended.is_set()  # these are no data packets that a filter lets through


# --- the session filter --------------------------------------------------------------------------------------------


@pytest.mark.fact("A10")
def test_the_session_filter_is_on_the_key_of_the_request(reading: Reading) -> None:
    source = reading.source()
    own = [("one", Packet(id=number, session_key="somebody else's")) for number in (1, 2)]
    write_packets(reading.client, source, own, "mine")
    reading.write(source, "theirs", one=[3], main=[4])
    reading.write(source, "", one=[5], main=[6])
    reading.write(source, "mine", main=[7])
    mine, everybodys = reading.read(source, session_key="mine"), reading.read(source)
    everybodys.wait(1, 2, 3, 4, 5, 6, 7)
    mine.wait(1, 2, 7)
    reading.write(source, "mine", one=[8], main=[9])
    mine.wait(8, 9)
    assert sorted(mine.got) == [(1, "one"), (2, "one"), (7, ""), (8, "one"), (9, "")]


# --- Kafka topics that others write --------------------------------------------------------------------------------


def produce(broker: KafkaBroker, topic: str, partition: int, *messages: tuple[bytes | None, bytes | None]) -> None:
    """What another program does: (key, value) pairs, either of which may be null."""
    from confluent_kafka import Producer

    producer: Any = Producer({"bootstrap.servers": broker.address})
    for key, value in messages:
        producer.produce(topic, value, key, partition=partition)
    assert producer.flush(30) == 0


def value(number: int) -> bytes:
    return Packet(id=number).SerializeToString()


@only("topic", "kafka")
@pytest.mark.fact("R6", "R11")
def test_all_partitions_of_a_topic_that_another_program_made(reading: Reading) -> None:
    source, broker = reading.source(), reading.broker
    assert broker is not None
    main, one = reading.place(source).topic, reading.place(source, "one").topic
    for topic in (main, one):
        broker.create_topic(topic, 3)
        for partition in range(3):
            first = 10 * partition + (100 if topic == one else 0)
            produce(broker, topic, partition, *[(b"k", value(first + n)) for n in (1, 2)])
    all_of_it = {1, 2, 11, 12, 21, 22, 101, 102, 111, 112, 121, 122}
    every = reading.read(source)
    every.wait(*all_of_it)
    assert set(every.of("one")) == {number for number in all_of_it if number > 100}
    assert set(every.of("")) == {number for number in all_of_it if number < 100}
    no_main = reading.read(source, exclude_main_stream=True)
    given = reading.read(source, streams=["one"], stream_offsets=[1])  # of main, then, partition 0 alone
    no_main.wait(121, 122)
    given.wait(1, 2, 102, 112, 122)
    from_end = reading.read(source, streams=["one"], stream_offsets=[-1], exclude_main_stream=True)
    reading.wait_live(6 + 3 + 4 + 3)
    for partition in range(3):
        produce(broker, one, partition, (b"k", value(200 + partition)))
        produce(broker, main, partition, (b"k", value(300 + partition)))
    for read in (every, no_main, given, from_end):
        read.wait(200, 201, 202)
    every.wait(300, 301, 302)
    assert set(no_main.of("one")) == {number for number in all_of_it if number > 100} | {200, 201, 202}
    assert no_main.of("") == [] and sorted(from_end.numbers) == [200, 201, 202]
    assert sorted(given.numbers)[:6] == [1, 2, 102, 112, 122, 200] and not {301, 302} & set(given.numbers)


@only("topic", "kafka")
@pytest.mark.fact("R11")
def test_partitions_that_a_topic_gets_later(reading: Reading) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    source, broker = reading.source(), reading.broker
    assert broker is not None
    reading.write(source, one=[1])
    reads = [reading.read(source), reading.read(source, streams=["one"], stream_offsets=[-1])]
    reading.wait_live(4)
    topic = reading.place(source, "one").topic
    admin = AdminClient({"bootstrap.servers": broker.address})  # held: a client that is gone cancels its requests
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    produce(broker, topic, 2, (b"k", value(7)))
    for read in reads:
        read.wait(7)
        assert read.of("one")[-1] == 7


@only("kafka")
@pytest.mark.fact("R9")
def test_what_is_no_packet_is_skipped_and_counted(reading: Reading) -> None:
    source, broker = reading.source(), reading.broker
    assert broker is not None
    reading.write(source, main=[1])
    read = reading.read(source)
    read.wait(1)
    before = count_of(reading.server, "trackside_log_undecodable_total")
    junk = [(b"k", b"\xff\xff no packet"), (b"k", None), (None, None)]
    produce(broker, reading.place(source).topic, 0, junk[0], (b"k", value(2)), *junk[1:], (b"k", value(3)))
    read.wait(2, 3)
    assert reading.rest_of(read, source, "main") == [(1, ""), (2, ""), (3, "")]
    wait_until(
        lambda: count_of(reading.server, "trackside_log_undecodable_total") >= before + 3, "three entries are counted"
    )


@only("kafka")
@pytest.mark.fact("A10")
def test_a_null_key_is_of_no_session(reading: Reading) -> None:
    source, broker = reading.source(), reading.broker
    assert broker is not None
    reading.write(source, "mine", main=[1])
    produce(broker, reading.place(source).topic, 0, (None, value(2)), (b"", value(3)), (b"mine", value(4)))
    mine, everybodys = reading.read(source, session_key="mine"), reading.read(source)
    everybodys.wait(1, 2, 3, 4)
    mine.wait(1, 4)
    reading.write(source, "mine", main=[5])
    mine.wait(5)
    assert mine.numbers == [1, 4, 5]


# --- essentials ----------------------------------------------------------------------------------------------------


def essential(number: int) -> tuple[str, Packet]:
    return "one", Packet(type="Configuration", id=number, is_essential=True)


@pytest.mark.fact("R7", "R8", "A13", "A12", "A11")
@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({}, [1, 2, 3]),
        ({"main_offset": 3, "stream_offsets": []}, [1, 2, 3]),  # the reference took this one
        ({"essentials_offset": 1}, [2, 3]),
        ({"essentials_offset": 3}, []),
        ({"essentials_offset": 99}, []),
        ({"essentials_offset": -1}, []),
        ({"streams": ["two"], "exclude_main_stream": True}, [1, 2, 3]),
    ],
)
def test_essentials_of_no_session_end_at_the_end_as_it_was(
    reading: Reading, details: dict[str, Any], expected: list[int]
) -> None:
    source = reading.source()
    write_packets(reading.client, source, [essential(number) for number in (1, 2, 3)], "k")
    reading.write(source, one=[4])
    read = reading.essentials(source, **details)
    assert read.wait_end() is grpc.StatusCode.OK
    assert read.got == [(number, "") for number in expected]


@pytest.mark.fact("R8", "A13")
def test_essentials_end_at_once_where_there_are_none(reading: Reading) -> None:
    assert reading.essentials(reading.source()).wait_end() is grpc.StatusCode.OK


@pytest.mark.fact("A13", "A10", "R2")
def test_essentials_of_a_session_follow_it(reading: Reading) -> None:
    source = reading.source()
    session = reading.client.sessions.CreateSession(api_pb2.CreateSessionRequest(data_source=source), timeout=30)
    key = session.session_key
    write_packets(reading.client, source, [essential(1)], key)
    write_packets(reading.client, source, [essential(2)], "another")
    write_packets(reading.client, source, [essential(3)], "")
    from_start = reading.essentials(source, session_key=key)
    from_end = reading.essentials(source, session_key=key, essentials_offset=-1)
    from_start.wait(1)
    reading.wait_live(2)
    write_packets(reading.client, source, [essential(4)], key)
    for read in (from_start, from_end):
        read.wait(4)
    ended = reading.client.sessions.EndSession(
        api_pb2.EndSessionRequest(data_source=source, session_key=key), timeout=30
    )
    assert ended.success
    write_packets(reading.client, source, [essential(5)], key)  # a session's end ends no reader
    for read in (from_start, from_end):
        read.wait(5)
    assert (from_start.numbers, from_end.numbers) == ([1, 4, 5], [4, 5])


# --- how reads end, and what they leave ----------------------------------------------------------------------------

READS = 200


class Ledger:
    """What reads take, before some and after them. Threads and descriptors of librdkafka's clients go a little later."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        reading.close_reads()
        self._feeds = reading.feeds()
        self._used = self._used_now()

    def check(self) -> None:
        self._reading.close_reads()
        wait_until(self._feeds_are_as_before, f"feeds as before, {self._feeds}: {self._reading.feeds()}")
        wait_until(self._is_as_before, f"threads and descriptors as before, {self._used}: {self._used_now()}")

    def _feeds_are_as_before(self) -> bool:
        now = self._reading.feeds()
        return all(now[gauge] <= then for gauge, then in self._feeds.items())

    def _used_now(self) -> dict[str, tuple[int, int]]:
        """Threads and descriptors of every process that has to do with reading."""
        return {name: threads_and_files(pid) for name, pid in self._reading.processes().items()}

    def _is_as_before(self) -> bool:
        now = self._used_now()
        return all(now[name][i] <= then[i] for name, then in self._used.items() for i in (0, 1))


@only("legacy")
@pytest.mark.fact("R1", "R3", "R12")
def test_cancelled_reads_leave_nothing(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=range(1, 11), one=range(11, 21))
    connection = reading.client.connect(source)
    reading.read_again(connection).wait(10, 20)
    ledger = Ledger(reading)
    for number in range(READS):
        read = (
            reading.read_again(connection)
            if number % 2
            else reading.read_data(connection, include_parameters=[f"p{number}"])
        )
        if number % 4 == 1:
            read.wait(10, 20)
        if number % 3:
            read.close()  # else with the others, at once
    ledger.check()


@only("legacy")
@pytest.mark.fact("R2")
def test_closing_the_connection_ends_its_reads_and_frees_all(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=range(1, 11), one=range(11, 21))
    reading.read(source).wait(10, 20)
    ledger = Ledger(reading)
    closed, stays = reading.client.connect(source), reading.client.connect(source)
    other = reading.read_again(stays)
    reads = [reading.read_again(closed) for _ in range(50)]
    for read in (*reads, other):
        read.wait(*range(1, 21))
    request = api_pb2.CloseConnectionRequest(connection=closed)
    assert reading.client.connections.CloseConnection(request, timeout=30).success
    assert {read.wait_end() for read in reads} == {grpc.StatusCode.OK}
    wait_count(reading.server, "trackside_gateway_readers", 1)
    assert reading.rest_of(other, source, "main", "one") and not other.ended.is_set()
    assert reading.read_again(closed).wait_end() is grpc.StatusCode.OK
    ledger.check()


# --- responses -----------------------------------------------------------------------------------------------------


@pytest.mark.fact("A2", "A23", "R16")
def test_responses_are_never_empty_and_below_four_mebibytes(reading: Reading) -> None:
    """Also what a filter leaves nothing of; the client takes 4 MiB, as gRPC does by default."""
    source = reading.source()
    sizes = (4 * MIB - 80_000, 900_000, 3 * MIB, 700, 2 * MIB, 900_000, 900_000)
    contents = [bytes(min(size, 1_000_000) if reading.broker else size) for size in sizes]
    packets = [("one", Packet(id=number, content=content)) for number, content in enumerate(contents, start=1)]
    write_packets(reading.client, source, packets, "mine")
    write_packets(reading.client, source, [("one", Packet(id=number)) for number in range(100, 1100)], "theirs")
    read, mine = reading.read(source), reading.read(source, session_key="mine")
    read.wait(*range(1, 8), 1099)
    mine.wait(*range(1, 8))
    for each in (read, mine):
        assert max(each.sizes) < 4 * MIB and min(each.counts) > 0
    assert read.numbers == [*range(1, 8), *range(100, 1100)]
    assert len(read.counts) < 100, "what is ready goes together"


@pytest.fixture(scope="module")
def batching_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = Server(tmp_path_factory.mktemp("batching"))
    server.environment |= {
        "TRACKSIDE_BATCHING_RESPONSES": "true",
        "TRACKSIDE_BATCHING_SIZES_KB": "64",
        "TRACKSIDE_BATCHING_TIME_MS": "3000",
    }
    yield server.start().client()
    server.remove()


class TestBatching:
    """With BatchingResponses a response waits for its size, or for its time."""

    def read(self, client: Client, source: str, **details: Any) -> Read:
        connection = client.connect(source, **details)
        return Read(client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60))

    @pytest.mark.fact("R16")
    def test_by_size_and_the_rest_by_time(self, batching_client: Client) -> None:
        """A hundred packets of one kilobyte, each logged before the next is written, so each could go alone."""
        started = time.monotonic()
        with self.read(batching_client, "Sized") as read:
            for number in range(1, 101):
                write_packets(batching_client, "Sized", [("one", Packet(id=number, content=bytes(1000)))])
            read.wait(100)
            assert read.numbers == list(range(1, 101))
            times = (time.monotonic() - started) // 3  # how often the time can have come before the size did
            assert min(read.counts) > 0 and len(read.counts) <= 3 + times
            assert read.sizes[0] >= 64 * 1024 or times

    def test_what_has_come_is_sent_when_the_read_is_over(self, batching_client: Client) -> None:
        """Neither the size nor the time is reached: the end of a finite read sends what there is."""
        write_packets(batching_client, "Finite", [("one", Packet(id=n, is_essential=True)) for n in (1, 2, 3)])
        connection = batching_client.connect("Finite")
        read = Read(
            batching_client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), timeout=60)
        )
        assert read.wait_end() is grpc.StatusCode.OK
        assert read.numbers == [1, 2, 3] and min(read.counts) > 0

    def test_closing_a_connection_sends_what_is_in_hand(self, batching_client: Client) -> None:
        connection = batching_client.connect("Closed", streams=["one"], stream_offsets=[0])
        read = Read(batching_client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60))
        write_packets(batching_client, "Closed", [("one", Packet(id=n, content=bytes(1000))) for n in range(1, 120)])
        read.wait(60)
        batching_client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), timeout=30)
        assert read.wait_end() is grpc.StatusCode.OK
        assert read.numbers == list(range(1, len(read.numbers) + 1)) and min(read.counts) > 0
