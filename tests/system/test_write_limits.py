"""Full is an answer: who writes too much or reads too little is told, or waits, and nobody else notices."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.consumer import SHOW_SECONDS
from trackside.shm.counters import read_counters

KIB, MIB = 1 << 10, 1 << 20
READER_BUFFER_BYTES = 10 * MIB
SERVER_ENVIRONMENT = {
    "TRACKSIDE_READER_BUFFER_BYTES": str(READER_BUFFER_BYTES),  # so that it is not what keeps responses small
    "TRACKSIDE_WRITE_WAIT_SECONDS": "20",  # longer than any test waits: what ends sooner ends for another reason
    "TRACKSIDE_STALL_SECONDS": "300",  # processes are stopped here on purpose
}
DEADLINE_SECONDS = 1.0
"""Of writes that are expected to be refused: much shorter than the server's own bound."""

RING_BYTES = 16 * MIB
TOPIC_BYTES = RING_BYTES // 4
FRAME_BYTES = MIB
"""More than one frame of the packets that are written here has: by so much a buffer can be passed."""

RESPONSE_BYTES = 4 * MIB
PACKET_BYTES_MAX = 4 * MIB - 64 * KIB


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    client = shared_server.client()
    yield client
    client.close()


@pytest.fixture
def source() -> str:
    return f"Source{uuid.uuid4().hex[:12]}"


def counter(server: Server, name: str, **labels: str) -> int:
    """Sum over all processes."""
    paths = [Path(process["counters"]) for process in server.described()["processes"]]
    rows = [row for path in paths for row in read_counters(path)]
    return sum(value for found, its, value in rows if found == name and its.items() >= labels.items())


class Writer:
    """Writes numbered packets of one size, one call each, and knows of each number what became of it."""

    def __init__(self, client: Client, source: str, size: int) -> None:
        self._client, self._source, self._content = client, source, bytes(size)
        self.accepted: list[int] = []
        self.unknown: list[int] = []
        self.refused: list[grpc.RpcError] = []
        self.number = 0

    def packet(self) -> Packet:
        self.number += 1
        return Packet(type="RowData", id=self.number, content=self._content)

    def write(self, stream: str) -> bool:
        """Whether it was accepted within DEADLINE_SECONDS."""
        packet = self.packet()
        try:
            self._client.write(self._source, packet, stream=stream, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # so late that nobody could answer: may be there
                self.unknown.append(packet.id)
            else:
                self.refused.append(error)
            return False
        self.accepted.append(packet.id)
        return True

    def fill(self, stream: str) -> grpc.RpcError:
        """Write until it is refused with an answer, which must come before the client's deadline; returns that."""
        before = len(self.refused)
        while len(self.refused) == before:
            self.write(stream)
            assert len(self.accepted) < 100 and len(self.unknown) < 20
        return self.refused[-1]


@pytest.fixture
def stopped_producers(shared_server: Server) -> Iterator[Callable[[], None]]:
    """All producers stand still; call it to let them go on. They do at the end in any case."""
    names = shared_server.names("producer")

    def go_on() -> None:
        for name in names:
            shared_server.send(name, signal.SIGCONT)

    for name in names:
        shared_server.send(name, signal.SIGSTOP)
    yield go_on
    go_on()


def numbers_of(client: Client, source: str, count: int, **details: Any) -> list[int]:
    connection = client.connect(source, **details)
    return [response.packet.id for response in client.read(connection, count)]


def open_read(client: Client, source: str, stream: str) -> Any:
    connection = client.connect(source, streams=[stream], exclude_main_stream=True)
    return client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)


# -- too much in ------------------------------------------------------------------------------------------------------


@pytest.mark.fact("W7", "W9")
def test_a_topic_with_its_share_stops_itself_alone(
    shared_server: Server, client: Client, source: str, stopped_producers: Callable[[], None]
) -> None:
    """Refused with advice before the client's deadline, leaving nothing behind; other topics are let in meanwhile."""
    refused_before = counter(
        shared_server, "trackside_refused_total", method="WriteDataPacket", status="resource_exhausted"
    )
    writer = Writer(client, source, 512 * KIB)
    error = writer.fill("s")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"topic {source}.s has used its share of the ring to producer-" in error.details()
    assert "send more slowly" in error.details()
    assert TOPIC_BYTES - MIB < 512 * KIB * len(writer.accepted) <= TOPIC_BYTES
    # Those that wait do not stand in the way of another topic, on the same gateway and in the same ring.
    waiting = [
        client.writer.WriteDataPacket.future(
            api_pb2.WriteDataPacketRequest(
                detail=api_pb2.DataPacketDetails(message=writer.packet(), data_source=source, stream="s")
            ),
            timeout=60,
        )
        for _ in range(3)
    ]
    late = list(range(writer.number - 2, writer.number + 1))
    other = Writer(client, source, KIB)
    other.number = 1000
    wait_until(lambda: other.write("t"), "another topic is let in")
    assert not any(call.done() for call in waiting)
    stopped_producers()
    for call in waiting:
        call.result()  # what waited was let in when there was room
    there = numbers_of(client, source, len(writer.accepted) + 3, streams=["s"], exclude_main_stream=True)
    assert there == sorted(there)
    assert set(writer.accepted) | set(late) <= set(there) <= {*writer.accepted, *late, *writer.unknown}
    assert set(other.accepted) <= set(numbers_of(client, source, 1, streams=["t"], exclude_main_stream=True))
    refused = (
        counter(shared_server, "trackside_refused_total", method="WriteDataPacket", status="resource_exhausted")
        - refused_before
    )
    assert len(writer.refused) <= refused <= len(writer.refused) + len(writer.unknown + other.unknown)


@pytest.mark.fact("W7")
def test_a_full_ring_is_an_answer(
    shared_server: Server, client: Client, source: str, stopped_producers: Callable[[], None]
) -> None:
    """Streams of one data source share one ring. Unary and streaming writes are told; nothing needs a restart."""
    writer = Writer(client, source, 512 * KIB)
    for stream in "abcdefgh":
        error = writer.fill(stream)
        if "no room in" in error.details():
            break
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "no room in the ring to producer-" in error.details() and "(16 MiB)" in error.details()
    assert RING_BYTES - 2 * MIB < 512 * KIB * len(writer.accepted) <= RING_BYTES
    details = [api_pb2.DataPacketDetails(message=writer.packet(), data_source=source, stream="z")]
    request = api_pb2.WriteDataPacketsRequest(details=details)

    def streamed() -> grpc.RpcError | None:
        with pytest.raises(grpc.RpcError) as caught:
            client.writer.WriteDataPackets(iter([request]), timeout=DEADLINE_SECONDS)
        return caught.value if caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED else None

    error = wait_until(streamed, "an answer before the deadline")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["trackside-accepted"] == "0"
    stopped_producers()
    there = numbers_of(client, source, len(writer.accepted))
    assert set(writer.accepted) <= set(there) <= {*writer.accepted, *writer.unknown}
    assert writer.write("z")
    assert shared_server.described()["state"] == "SERVING"


@pytest.mark.fact("W8", "W9")
def test_a_log_that_cannot_be_written_is_unavailable(shared_server: Server, client: Client, source: str) -> None:
    """One topic cannot be written on disk: its writers hear why, all others write and read on."""
    client.write(source, Packet(id=1), stream="fine", metadata=(("trackside-ack", "log"),))
    obstacle = shared_server.data_dir / "log" / f"{source}.broken"
    obstacle.touch()  # a file where the topic's folder should be
    writer = Writer(client, source, 512 * KIB)
    try:
        error = writer.fill("broken")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert f"cannot write {source}.broken/0: Not a directory" in error.details()
        wait_until(lambda: "Not a directory" in shared_server.described()["reason"], "the reason in server.json")
        client.write(source, Packet(id=2), stream="fine")
        assert numbers_of(client, source, 2, streams=["fine"], exclude_main_stream=True) == [1, 2]
    finally:
        obstacle.unlink()
    there = numbers_of(client, source, len(writer.accepted), streams=["broken"], exclude_main_stream=True)
    assert set(writer.accepted) <= set(there) <= {*writer.accepted, *writer.unknown}
    shared_server.wait_state("SERVING")
    assert shared_server.log_text().count("A client's address") == 1, "what changes later is a line of the log"


# -- too little out ---------------------------------------------------------------------------------------------------


def test_a_slow_reader_costs_itself_alone(shared_server: Server, client: Client, source: str) -> None:
    """It never reads: another reader has everything, the gateway keeps a bounded part, and later it gets all of it."""
    count, size = 240, 100 * KIB
    slow_client = shared_server.client()
    slow = [open_read(slow_client, source, "s") for _ in range(3)]
    fast = open_read(client, source, "s")
    kept_bytes_max = 0
    got: list[int] = []
    for number in range(1, count + 1):
        client.write(source, Packet(type="RowData", id=number, content=os.urandom(size)), stream="s")
        while len(got) < number:
            got += [response.packet.id for response in next(fast).response]
        kept_bytes_max = max(kept_bytes_max, counter(shared_server, "trackside_gateway_reader_bytes"))
    fast.cancel()
    assert got == list(range(1, count + 1))
    wait_until(lambda: counter(shared_server, "trackside_gateway_reader_bytes"), "something is kept for them")
    kept_bytes_max = max(kept_bytes_max, counter(shared_server, "trackside_gateway_reader_bytes"))
    assert kept_bytes_max <= len(slow) * (READER_BUFFER_BYTES + FRAME_BYTES) < len(slow) * count * size
    for call in slow:
        numbers: list[int] = []
        while len(numbers) < count:
            numbers += [response.packet.id for response in next(call).response]
        assert numbers == got
        call.cancel()
    slow_client.close()


@pytest.mark.fact("A2", "R16")
def test_no_response_is_larger_than_clients_take(shared_server: Server, client: Client, source: str) -> None:
    """Whatever lies in the log: the largest packets there can be, and so many small ones that no response holds all.

    Nothing is taken before the gateway has more than a response may carry.
    """
    head = len(Packet(type="RowData", id=199, content=bytes(PACKET_BYTES_MAX)).SerializeToString()) - PACKET_BYTES_MAX
    sizes = [PACKET_BYTES_MAX - head] * 2 + [60 * KIB] * 150 + [PACKET_BYTES_MAX - head]
    for number, size in enumerate(sizes, start=1):
        client.write(source, Packet(type="RowData", id=number, content=bytes(size)), stream="s")
    call = open_read(client, source, "s")
    kept = "trackside_gateway_reader_bytes"
    wait_until(
        lambda: counter(shared_server, kept) > RESPONSE_BYTES,
        f"more than a response may have: {counter(shared_server, kept)}",
    )
    found: list[tuple[int, int]] = []
    responses = 0
    while len(found) < len(sizes):
        response = next(call)
        assert response.response and response.ByteSize() < RESPONSE_BYTES
        responses += 1
        found += [(one.packet.id, len(one.packet.content)) for one in response.response]
    call.cancel()
    assert found == list(enumerate(sizes, start=1))
    assert responses < 60, "what is ready goes together"


# -- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.fact("R3")
def test_a_hundred_readers_cost_the_fetches_of_one(shared_server: Server, source: str) -> None:
    """The log is read once for all who are at its end, whichever gateway they are on."""
    clients = [shared_server.client() for _ in range(4)]
    fetches: dict[int, int] = {}
    number = 0
    for count in (1, 100):
        calls = [open_read(clients[index % len(clients)], source, "s") for index in range(count)]
        for _ in range(3):  # all are at the live end when they have seen what was written after they began
            number += 1
            clients[0].write(source, Packet(id=number), stream="s")
            for call in calls:
                _read_up_to(call, number)
        before = fetched(shared_server)
        for _ in range(20):
            number += 1
            clients[0].write(source, Packet(id=number), stream="s")
            for call in calls:
                assert _read_up_to(call, number) == [number]
        fetches[count] = fetched(shared_server) - before
        for call in calls:
            call.cancel()
    assert fetches[1] == fetches[100] == 20
    for client in clients:
        client.close()


def fetched(server: Server) -> int:
    """How often the log has been read up to now. Consumers show what they count now and then: waits until they did.

    Two heartbeats later than now and SHOW_SECONDS: between them is a whole duty cycle, at the latest that one shows.
    """
    due = time.monotonic_ns() + int(SHOW_SECONDS * 1e9)
    for name in server.names("consumer"):
        liveness = server.liveness(name)
        first = wait_until(lambda at=liveness: at.heartbeat_ns > due and at.heartbeat_ns, f"{name} goes round")
        wait_until(lambda at=liveness, first=first: at.heartbeat_ns > first, f"{name} goes round once more")
    return counter(server, "trackside_consumer_fetches_total")


def _read_up_to(call: Any, number: int) -> list[int]:
    found: list[int] = []
    while not found or found[-1] < number:
        found += [response.packet.id for response in next(call).response]
    assert found[-1] == number
    return found
