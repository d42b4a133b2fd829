"""Consumer groups: a read goes on where the last one of its group stopped, whatever was restarted or killed between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance.cells import Cell
from reading import Reading
from reads import Read, count_of, wait_count, write_packets
from server import wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.log import Partition
from trackside.data_plane.progress_journal import ProgressJournal, whole_frames


@pytest.fixture(
    scope="module",
    params=[
        "topic legacy local 2/2/2",
        pytest.param("partition domain kafka 1/1/1", marks=pytest.mark.kafka),
    ],
)
def groups_cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Servers apart from those of the conformance tests: these are killed, and started with another shape."""
    broker = request.getfixturevalue("kafka_broker") if "kafka" in request.param else None
    cell = Cell(request.param, tmp_path_factory.mktemp("groups"), broker, TRACKSIDE_READER_BUFFER_BYTES="4 MiB")
    yield cell
    cell.server.remove()


@pytest.fixture
def reading(groups_cell: Cell) -> Iterator[Reading]:
    reading = Reading(groups_cell)
    yield reading
    reading.close()


def committed(reading: Reading, group: str, partition: Partition) -> int | None:
    """What the log itself says: the journals in the data directory, or Kafka asked by somebody else."""
    if reading.broker is None:
        found = ProgressJournal(reading.server.data_dir / "groups", "nobody").find(group, partition)
        return None if found is None else found.offset
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": reading.broker.address})
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(*partition)])
    (answer,) = admin.list_consumer_group_offsets([request])[group].result(30).topic_partitions
    return answer.offset if answer.offset >= 0 else None


def wait_committed(reading: Reading, group: str, partition: Partition, offset: int) -> None:
    wait_until(
        lambda: committed(reading, group, partition) == offset,
        f"{group} is at {offset} of {partition}; it is at {committed(reading, group, partition)}",
    )


def group_of(reading: Reading, source: str) -> str:
    """One that no other test, and no other cell on the same broker, has."""
    return f"readers of {reading.place(source).topic}"


@pytest.mark.parametrize("offset", [0, -1, -9])
def test_a_later_read_goes_on_where_the_last_one_stopped(reading: Reading, offset: int) -> None:
    source = reading.source()
    group = group_of(reading, source)
    reading.write(source, main=[1, 2, 3], one=[11, 12])
    first = reading.read(source, consumer_group=group)
    first.wait(1, 2, 3, 11, 12)
    reading.close_reads()
    reading.write(source, main=[4], one=[13, 14], two=[21])
    details: dict[str, Any] = {"main_offset": offset, "consumer_group": group}
    every = reading.read(source, **details)
    some = reading.read(source, streams=["one"], stream_offsets=[offset], exclude_main_stream=True, **details)
    every.wait(4, 13, 14)
    some.wait(13, 14)
    if offset == 0:
        every.wait(21)  # a stream that the group has not met: from its beginning
    assert {1, 2, 3, 11, 12}.isdisjoint(every.numbers + some.numbers)
    assert (21 in every.numbers) == (offset == 0)


def test_a_group_that_has_read_nothing_begins_as_any_read_does(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2])
    early, late = group_of(reading, source), group_of(reading, source) + " late"
    from_start = reading.read(source, streams=[""], consumer_group=early)
    from_end = reading.read(source, streams=[""], main_offset=-1, consumer_group=late)
    reading.wait_live(2)
    reading.write(source, main=[3])
    for read in (from_start, from_end):
        read.wait(3)
    assert (from_start.numbers, from_end.numbers) == ([1, 2, 3], [3])


def test_a_read_of_the_end_that_got_nothing_is_where_it_began(reading: Reading) -> None:
    """Who follows live and loses the connection misses nothing, also when nothing had come yet."""
    source = reading.source()
    group = group_of(reading, source)
    reading.write(source, main=[1, 2])
    reading.read(source, streams=[""], main_offset=-1, consumer_group=group)
    reading.wait_live(1)
    reading.close_reads()
    reading.write(source, main=[3, 4])
    again = reading.read(source, streams=[""], main_offset=-1, consumer_group=group)
    again.wait(3, 4)
    assert again.numbers == [3, 4]


def test_an_explicit_offset_goes_first_and_the_group_follows(reading: Reading) -> None:
    source = reading.source()
    group = group_of(reading, source)
    reading.write(source, one=range(1, 11))
    first = reading.read(source, streams=["one"], consumer_group=group)
    first.wait(10)
    reading.close_reads()
    wait_committed(reading, group, reading.place(source, "one"), 10)
    back = reading.read(source, streams=["one"], stream_offsets=[4], consumer_group=group)
    back.wait(*range(5, 11))
    assert back.numbers == list(range(5, 11))
    reading.close_reads()
    reading.write(source, one=[11])
    last = reading.read(source, streams=["one"], consumer_group=group)
    last.wait(11)
    assert last.numbers == [11]


@pytest.mark.fact("R18")
def test_without_a_group_nothing_is_kept(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2, 3])
    before = groups(reading, source)
    for _ in range(2):
        read = reading.read(source)
        read.wait(1, 2, 3)
        read.close()
    assert groups(reading, source) == before
    named = reading.read(source, consumer_group=group_of(reading, source))
    named.wait(1, 2, 3)
    named.close()
    wait_committed(reading, group_of(reading, source), reading.place(source), 3)
    assert groups(reading, source) == before | {group_of(reading, source)}


def groups(reading: Reading, source: str) -> set[str]:
    """Groups that the log knows, and that this server may have made for the data source."""
    if reading.broker is None:
        journals = [path.read_bytes() for path in (reading.server.data_dir / "groups").glob("*.progress")]
        return {body.group for journal in journals for body, _ in whole_frames(journal)}
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": reading.broker.address})
    found = {group.group_id for group in admin.list_consumer_groups().result(30).valid}
    return {group for group in found if source in group or "trackside" in group}


def test_two_readers_of_one_group_both_read(reading: Reading) -> None:
    source = reading.source()
    group = group_of(reading, source)
    # Open before anything is there: what the first has read and committed, the second would not begin with.
    reads = [reading.read(source, consumer_group=group) for _ in range(2)]
    reading.wait_live(2)
    reading.write(source, main=[1, 2], one=[3])
    for read in reads:
        read.wait(1, 2, 3)
    reading.write(source, main=[4], one=[5])
    for read in reads:
        read.wait(4, 5)
        assert sorted(read.numbers) == [1, 2, 3, 4, 5]
    reading.close_reads()
    reading.write(source, main=[6])
    again = reading.read(source, consumer_group=group)
    again.wait(6)
    assert again.numbers == [6]


def test_what_is_read_is_kept_while_the_read_goes_on(reading: Reading) -> None:
    source = reading.source()
    group = group_of(reading, source)
    read = reading.read(source, streams=[""], consumer_group=group)
    for number in (1, 2, 3):
        reading.write(source, main=[number])
        read.wait(number)
        wait_committed(reading, group, reading.place(source), number)


def test_only_what_was_sent_is_kept(reading: Reading) -> None:
    """A client that does not take its responses: what waits for it at the server is not committed."""
    source = reading.source()
    group = group_of(reading, source)
    last = 60
    packets = [("one", Packet(id=number, content=bytes(900_000))) for number in range(1, last + 1)]
    for first in range(0, last, 6):
        write_packets(reading.client, source, packets[first : first + 6])
    connection = reading.client.connect(source, streams=["one"], exclude_main_stream=True, consumer_group=group)
    call = reading.client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
    seen = [one.packet.id for one in next(iter(call)).response]  # and no more
    wait_until(lambda: count_of(reading.server, "trackside_gateway_paused_places") == 1, "the reader is full")
    call.cancel()
    wait_count(reading.server, "trackside_gateway_readers", 0)
    wait_until(lambda: committed(reading, group, reading.place(source, "one")) is not None, "something is committed")
    kept = committed(reading, group, reading.place(source, "one"))
    assert kept is not None and len(seen) <= kept < last
    again = reading.read(source, streams=["one"], exclude_main_stream=True, consumer_group=group)
    again.wait(last)
    assert again.numbers == list(range(kept + 1, last + 1))


def test_what_a_filter_leaves_out_is_passed(reading: Reading) -> None:
    source = reading.source()
    group = group_of(reading, source)
    marker = Packet(type="Marker", id=1, content=open_data_pb2.MarkerPacket(label="m").SerializeToString())
    write_packets(reading.client, source, [("", marker)], "mine")
    reading.write(source, "theirs", main=[2, 3])
    connection = reading.client.connect(source, streams=[""], session_key="mine", consumer_group=group)
    mine = reading.read_data(connection, include_markers=True)
    mine.wait(1)
    reading.write(source, "mine", main=[4])  # no data packet
    wait_committed(reading, group, reading.place(source), 4)
    assert mine.numbers == [1]


def test_essentials_come_in_full_each_time(reading: Reading) -> None:
    """A reader that goes on needs the definitions that came before."""
    source = reading.source()
    write_packets(reading.client, source, [("one", Packet(id=n, is_essential=True)) for n in (1, 2)])
    for _ in range(2):
        read = reading.essentials(source, consumer_group=group_of(reading, source))
        read.wait_end()
        assert read.numbers == [1, 2]


# --- restarts and deaths -------------------------------------------------------------------------------------------


def read_in_group(reading: Reading, source: str, *numbers: int) -> Read:
    read = reading.read(source, consumer_group=group_of(reading, source))
    read.wait(*numbers)
    return read


def test_a_consumer_that_is_killed_keeps_what_was_told(reading: Reading) -> None:
    """Killed right after the read, when the commit may be anywhere; more than once."""
    source = reading.source()
    numbers = iter(range(1, 100))
    for _ in range(3):
        number = next(numbers)
        reading.write(source, main=[number], one=[1000 + number])
        read = read_in_group(reading, source, number, 1000 + number)
        assert sorted(read.numbers) == [number, 1000 + number]
        reading.close_reads()
        for name in reading.server.names("consumer"):
            reading.server.kill(name)


def test_a_gateway_that_is_killed_leaves_what_was_committed(reading: Reading) -> None:
    source = reading.source()
    reading.write(source, main=[1, 2, 3])
    read = read_in_group(reading, source, 1, 2, 3)
    wait_committed(reading, group_of(reading, source), reading.place(source), 3)
    for name in reading.server.names("gateway"):
        reading.server.kill(name)
    assert read.ended.wait(60)
    reading.reconnect()
    reading.write(source, main=[4])
    assert read_in_group(reading, source, 4).numbers == [4]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_another_start_of_the_server_goes_on(reading: Reading, how: str) -> None:
    """Stopped in the middle of a read, whose end is then the last thing that is committed; or killed as a whole."""
    source = reading.source()
    group = group_of(reading, source)
    reading.write(source, main=[1, 2], one=[3])
    read_in_group(reading, source, 1, 2, 3)
    if how == "stopped":
        assert reading.server.stop() == 0
    else:
        wait_committed(reading, group, reading.place(source), 2)
        wait_committed(reading, group, reading.place(source, "one"), 1)
        reading.server.kill_group()
    reading.server.start()
    reading.reconnect()
    reading.write(source, main=[4], one=[5])
    again = read_in_group(reading, source, 4, 5)
    assert sorted(again.numbers) == [4, 5]


def test_another_number_of_consumers_goes_on(reading: Reading) -> None:
    sources = [reading.source() for _ in range(4)]  # with two consumers both have some
    for source in sources:
        reading.write(source, main=[1], one=[2])
        read_in_group(reading, source, 1, 2)
    reading.close_reads()
    assert reading.server.stop() == 0
    index = reading.server.arguments.index("--consumers") + 1
    reading.server.arguments[index] = "1" if reading.server.arguments[index] == "2" else "2"
    reading.server.start()
    reading.reconnect()
    for source in sources:
        reading.write(source, main=[3], one=[4])
        assert sorted(read_in_group(reading, source, 3, 4).numbers) == [3, 4]
