"""StreamStarted and StreamStopped packets: on which streams, in which order, and off unless asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from control_plane_support import ManualClock, Running, run, running
from fake_log_port import FakeLogPort

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.log_port import Append, LogAway
from trackside.data_plane.log import Partition

CONTENT = {"StreamStarted": data.StreamStartedPacket, "StreamStopped": data.StreamStoppedPacket}


def port_with(*topics: str, number: int = 0) -> FakeLogPort:
    """A log in which each of these topics has one packet."""
    port = FakeLogPort()
    for topic in topics:
        port.log.append(Partition(topic, number), b"")
    return port


async def create(server: Running, **fields: object) -> messages.CreateSessionResponse:
    request = messages.CreateSessionRequest(data_source="Car", **fields)  # type: ignore[arg-type]
    answer: messages.CreateSessionResponse = await server.sessions.CreateSession(request)
    return answer


async def end(server: Running, key: str, **fields: object) -> messages.EndSessionResponse:
    request = messages.EndSessionRequest(session_key=key, **fields)  # type: ignore[arg-type]
    answer: messages.EndSessionResponse = await server.sessions.EndSession(request)
    return answer


def stream_packets(port: FakeLogPort) -> list[tuple[str, Partition]]:
    """Type and place of all that stand in the log."""
    found = []
    for partition, entries in port.log.partitions.items():
        for entry in entries:
            packet = data.Packet.FromString(entry.packet)
            if packet.type in CONTENT:
                found.append((packet.type, partition))
    return sorted(found)


def test_they_are_off_by_default() -> None:
    async def scenario() -> None:
        port = port_with("Car", "Car.a")
        async with running(port) as server:
            await end(server, (await create(server)).session_key)
        assert not stream_packets(port)

    run(scenario())


def test_streams_that_are_there_hear_of_the_start_and_those_in_use_of_the_end() -> None:
    async def scenario() -> None:
        port = port_with("Car.a", "Car_essential", "Truck.x")
        clock = ManualClock()
        async with running(port, clock=clock, stream_start_stop_packets=True) as server:
            key = (await create(server, creation_time={"seconds": 5})).session_key
            assert stream_packets(port) == [("StreamStarted", Partition("Car.a", 0))]
            entry = port.log.partitions[Partition("Car.a", 0)][-1]
            packet = data.Packet.FromString(entry.packet)
            assert (entry.key, packet.session_key, packet.is_essential) == (key.encode(), key, False)
            started = data.StreamStartedPacket.FromString(packet.content)
            assert (started.data_source, started.session_key, started.stream_name) == ("Car", key, "a")
            assert started.start_time.seconds == 5
            port.log.append(Partition("Car", 0), b"")
            port.log.append(Partition("Car.b", 0), b"")
            await end(server, key, termination_time={"seconds": 9})
            stopped = [place for type, place in stream_packets(port) if type == "StreamStopped"]
            assert stopped == [Partition("Car", 0), Partition("Car.a", 0), Partition("Car.b", 0)]
            last = data.Packet.FromString(port.log.partitions[Partition("Car", 0)][-1].packet)
            content = data.StreamStoppedPacket.FromString(last.content)
            assert (content.stream_name, content.session_key, content.stop_time.seconds) == ("", key, 9)

    run(scenario())


def test_the_start_lies_within_the_sessions_offsets_and_the_end_does() -> None:
    """A reader that starts at the session's offsets gets both, one that stops at its end offsets misses neither."""

    async def scenario() -> None:
        port = port_with("Car.a")
        async with running(port, stream_start_stop_packets=True) as server:
            created = await create(server)
            assert created.new_session.topic_partition_offsets["Car.a:0"] == 1
            ended = await end(server, created.session_key)
            entries = port.log.partitions[Partition("Car.a", 0)]
            assert ended.end_session.topic_partition_offsets["Car.a:0"] == len(entries) == 3
            types = [data.Packet.FromString(entry.packet).type for entry in entries]
            assert types == ["", "StreamStarted", "StreamStopped"]

    run(scenario())


def test_ending_again_says_nothing_again() -> None:
    async def scenario() -> None:
        port = port_with("Car.a")
        async with running(port, stream_start_stop_packets=True) as server:
            key = (await create(server)).session_key
            first = await end(server, key)
            assert await end(server, key) == first
        assert [type for type, _ in stream_packets(port)] == ["StreamStarted", "StreamStopped"]

    run(scenario())


def test_a_stream_that_nobody_used_since_says_nothing_at_the_end() -> None:
    """A session of another program had no StreamStarted here: only what was written since it began counts."""

    async def scenario() -> None:
        port = port_with("D.Data.Car.quiet", "D.Data.Car.used")
        async with running(port, stream_start_stop_packets=True, naming="domain", domain="D") as server:
            # Offsets in the clients' form, as another program may write them.
            new = data.NewSessionPacket(data_source="Car", topic_partition_offsets={"Car.quiet:0": 1, "Car.used:0": 1})
            packet = data.Packet(type="NewSession", session_key="theirs", content=new.SerializeToString())
            port.log.append(Partition("D.Sys.SessionInfo", 0), packet.SerializeToString())
            port.log.append(Partition("D.Data.Car.used", 0), b"")
            while not (await end(server, "theirs")).success:
                pass
        assert stream_packets(port) == [("StreamStopped", Partition("D.Data.Car.used", 0))]

    run(scenario())


def test_partitions_are_streams() -> None:
    async def scenario() -> None:
        port = port_with("Car", number=2)
        mappings = {"b": 2, "a": 1}
        async with running(
            port, strategy="PartitionBased", partition_mappings=mappings, stream_start_stop_packets=True
        ) as server:
            await create(server)
        ((_, place),) = stream_packets(port)
        packet = data.Packet.FromString(port.log.partitions[place][-1].packet)
        assert place == Partition("Car", 2)
        assert data.StreamStartedPacket.FromString(packet.content).stream_name == "b"

    run(scenario())


def test_a_session_starts_and_ends_also_when_they_find_no_room(caplog: pytest.LogCaptureFixture) -> None:
    class Full(FakeLogPort):
        async def append(self, data_source: str, appends: Sequence[Append], timeout: float) -> None:
            if data_source:
                raise LogAway("no room in the ring")
            await super().append(data_source, appends, timeout)

    async def scenario() -> None:
        port = Full()
        port.log.append(Partition("Car.a", 0), b"")
        async with running(port, stream_start_stop_packets=True) as server:
            key = (await create(server)).session_key
            port.log.append(Partition("Car.a", 0), b"")
            assert (await end(server, key)).success

    run(scenario())
    assert caplog.text.count("no room in the ring") == 2
