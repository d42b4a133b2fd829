"""Writing and reading through calls that break: in order, nothing lost, and nothing twice that need not be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from stand_in_server import StandIn, stand_in

from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.client.channel import open_channel
from trackside.client.errors import NotReachable, Refused
from trackside.client.reader import PacketReader, SessionStart, session_start
from trackside.client.writer import PacketStream, create_session, end_session, event_format, parameter_format

BOUND = 20.0


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as servicer:
        yield servicer


@pytest.fixture
def channel(server: StandIn) -> Iterator[grpc.Channel]:
    with open_channel(server.address) as channel:
        yield channel


def packet(number: int) -> pb.Packet:
    return pb.Packet(type="Number", id=number, content=bytes(number % 50))


def stored(server: StandIn, stream: str = "Stream1") -> list[int]:
    return [entry.message.id for entry in server.entries[stream]]


def write(stream: PacketStream, first: int, stop: int) -> None:
    for number in range(first, stop):
        stream.write([("Stream1", packet(number))])


# --- writing


def test_what_was_written_is_there_after_flush(server: StandIn, channel: grpc.Channel) -> None:
    stream = PacketStream(channel, "Demo", "key")
    stream.write([("", packet(1)), ("Stream1", packet(2))])
    write(stream, 3, 200)
    stream.flush(BOUND)
    assert (stored(server, ""), stored(server)) == ([1], [*range(2, 200)])
    assert {(entry.data_source, entry.session_key) for entry in server.entries["Stream1"]} == {("Demo", "key")}
    assert stream.statistics() == {
        "confirmed_packets": 199, "resent_packets": 0, "broken_calls": 0, "unconfirmed_messages": 0,
    }  # fmt: skip
    write(stream, 200, 210)  # a flush is not the end
    stream.flush(BOUND)
    assert stored(server) == [*range(2, 210)]
    stream.close()


def test_a_call_that_says_what_it_accepted_makes_no_duplicates(server: StandIn, channel: grpc.Channel) -> None:
    server.break_write_at = [5, 1, 30]
    stream = PacketStream(channel, "Demo", "key")
    write(stream, 1, 101)
    stream.flush(BOUND)
    assert stored(server) == [*range(1, 101)]
    assert stream.statistics()["broken_calls"] == 3
    stream.close()


def test_a_call_that_dies_silently_is_repeated_whole_and_in_order(server: StandIn, channel: grpc.Channel) -> None:
    server.break_write_at, server.tell_accepted = [7], False
    stream = PacketStream(channel, "Demo", "key")
    write(stream, 1, 51)
    stream.flush(BOUND)
    assert stored(server) == [*range(1, 8), *range(1, 51)]
    statistics = stream.statistics()
    assert statistics["confirmed_packets"] == 50 and statistics["resent_packets"] >= 7
    stream.close()


def test_renewing_calls_bounds_what_a_silent_death_repeats(server: StandIn, channel: grpc.Channel) -> None:
    """Each write is older than the renewal, so every call takes what there is and is then answered."""
    stream = PacketStream(channel, "Demo", "key", renew_seconds=0.0)
    for number in range(1, 40):
        write(stream, number, number + 1)
        with server.changed:
            server.changed.wait_for(lambda number=number: len(stored(server)) >= number, BOUND)
    stream.flush(BOUND)
    assert stored(server) == [*range(1, 40)] and server.write_calls > 5
    stream.close()


def test_a_refusal_ends_the_stream_and_says_why(server: StandIn, channel: grpc.Channel) -> None:
    server.refuse_writes = grpc.StatusCode.INVALID_ARGUMENT
    stream = PacketStream(channel, "Demo", "key")
    write(stream, 1, 3)
    with pytest.raises(Refused, match="INVALID_ARGUMENT: detail"):
        stream.flush(BOUND)
    with pytest.raises(Refused):
        write(stream, 3, 4)
    stream.close()


def test_no_server_is_not_reachable_within_the_bound() -> None:
    with open_channel("127.0.0.1:1") as channel:
        stream = PacketStream(channel, "Demo", "key", give_up_seconds=0.2)
        write(stream, 1, 3)
        with pytest.raises(NotReachable):
            stream.flush(BOUND)
        stream.close()


def test_flush_is_bounded(server: StandIn, channel: grpc.Channel) -> None:
    server.refuse_writes = grpc.StatusCode.UNAVAILABLE
    stream = PacketStream(channel, "Demo", "key")
    write(stream, 1, 3)
    with pytest.raises(NotReachable, match="2 messages not confirmed"):
        stream.flush(0.2)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        write(stream, 3, 4)


# --- reading


def read_until(reader: PacketReader, *wanted: int) -> list[int]:
    """Numbers in the order of arrival until all ``wanted`` are there; a watchdog closes the reader."""
    watchdog = threading.Timer(BOUND, reader.close)
    watchdog.start()
    numbers: list[int] = []
    for items in reader.responses():
        numbers += [item.packet.id for item in items]
        if set(wanted) <= set(numbers):
            reader.close()
    watchdog.cancel()
    return numbers


def fill(server: StandIn, channel: grpc.Channel, packets: int) -> None:
    stream = PacketStream(channel, "Demo", "key")
    write(stream, 1, packets + 1)
    stream.flush(BOUND)
    stream.close()


def reader_of(channel: grpc.Channel, **offsets: int) -> PacketReader:
    return PacketReader(channel, "key", ["Stream1"], SessionStart("Demo", "A drive", offsets))


def test_reading_from_the_start_and_on(server: StandIn, channel: grpc.Channel) -> None:
    fill(server, channel, 50)
    assert read_until(reader_of(channel), 50) == [*range(1, 51)]
    assert read_until(reader_of(channel, Stream1=40), 50) == [*range(41, 51)]


def test_a_broken_read_goes_on_behind_what_was_delivered(server: StandIn, channel: grpc.Channel) -> None:
    fill(server, channel, 50)
    server.break_read_at, server.end_read_at = [2, 4], [100, 100, 3]
    reader = reader_of(channel)
    numbers = read_until(reader, 50)
    assert set(numbers) == set(range(1, 51)) and numbers == sorted(numbers)
    assert reader.broken_calls == 3
    # An abort may overtake messages that were sent before it, so where it goes on is not fixed; that nothing is
    # delivered twice is.
    assert len(numbers) == 50
    assert not server.connections  # every connection was closed again


def test_the_main_stream_has_an_offset_of_its_own(server: StandIn, channel: grpc.Channel) -> None:
    stream = PacketStream(channel, "Demo", "key")
    stream.write([("", packet(1)), ("", packet(2)), ("Stream1", packet(3)), ("Stream1", packet(4))])
    stream.flush(BOUND)
    reader = PacketReader(channel, "key", ["Stream1"], SessionStart("Demo", "A drive", {"": 1, "Stream1": 1}))
    server.break_read_at = [1]
    assert sorted(read_until(reader, 2, 4)) == [2, 4]
    assert (server.opened[0].main_offset, list(server.opened[0].stream_offsets)) == (1, [1])
    stream.close()


def test_close_ends_a_reader_that_waits(server: StandIn, channel: grpc.Channel) -> None:
    reader = reader_of(channel)
    thread = threading.Thread(target=lambda: [*reader.responses()])
    thread.start()
    with server.changed:
        assert server.changed.wait_for(lambda: server.connections, BOUND)
    reader.close()
    thread.join(BOUND)
    assert not thread.is_alive()


def test_an_unreachable_server_ends_a_reader_within_the_bound() -> None:
    with open_channel("127.0.0.1:1") as channel:
        reader = PacketReader(channel, "key", [], SessionStart("Demo", "", {}), give_up_seconds=0.2)
        with pytest.raises(NotReachable):
            [*reader.responses()]


# --- sessions and formats


def test_sessions_and_formats(server: StandIn, channel: grpc.Channel) -> None:
    key = create_session(channel, "Demo", "A drive")
    assert session_start(channel, key, ["Stream1", "Stream2"]) == SessionStart(
        "Demo", "A drive", {"": 1, "Stream1": 2, "Stream2": 0}
    )
    assert parameter_format(channel, "Demo", ["a", "b"]) == 2 and event_format(channel, "Demo", "abc") == 3
    end_session(channel, "Demo", key)


def test_what_the_server_does_not_know_is_refused(server: StandIn, channel: grpc.Channel) -> None:
    for refused in (
        lambda: create_session(channel, "", "A drive"),
        lambda: session_start(channel, "nobody", []),
        lambda: end_session(channel, "Demo", "nobody"),
        lambda: parameter_format(channel, "Demo", []),
    ):
        with pytest.raises(Refused):
            refused()
