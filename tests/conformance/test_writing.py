"""Writing where the reference fails (W1 to W16), looked at in the log: which topic, which partition, what order."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from conformance.cells import MAPPINGS, Cell, Cells, Entry
from server import Client
from service_calls import CALL, parameters_id

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

LOGGED = {"metadata": (("trackside-ack", "log"),)}
STREAMS = ("", "one", "two", "unmapped")


def numbers_in(cell: Cell, source: str, stream: str, count: int) -> list[int]:
    """What lies in the partition of a stream, once there are ``count``."""
    topic, partition = cell.place(source, stream)

    def there(entries: list[Entry]) -> bool:
        return sum(entry.partition == partition for entry in entries) >= count

    return [entry.packet.id for entry in cell.entries(topic, there) if entry.partition == partition]


def essentials_of(client: Client, source: str, **details: Any) -> list[int]:
    request = api_pb2.ReadEssentialsRequest(connection=client.connect(source, **details))
    return [one.packet.id for response in client.reader.ReadEssentials(request, **CALL) for one in response.response]


def info_packet(number: int, kind: int = api_pb2.INFO_TYPE_SYSTEM_STATUS, key: str = "") -> Any:
    packet = Packet(id=number, type="T", session_key=key)
    return api_pb2.WriteInfoPacketRequest(message=packet, type=kind)  # type: ignore[arg-type]


@pytest.mark.fact("W1", "C1", "K9")
def test_every_stream_of_every_data_source_finds_its_place(cell: Cell, client: Client, source: str) -> None:
    """An info packet first, which is what spoils the reference most; then several data sources in turn."""
    client.writer.WriteInfoPacket(info_packet(1), **CALL)
    sources = [f"{source}{number}" for number in range(4)]
    for number, stream in enumerate(STREAMS):
        for name in sources:
            client.write(name, Packet(id=number), stream=stream)
    for name in sources:
        main = [0, 3] if cell.partitions else [0]
        assert numbers_in(cell, name, "", len(main)) == main
        assert [numbers_in(cell, name, stream, 1) for stream in ("one", "two")] == [[1], [2]]
        topics = cell.topics()
        assert topics[cell.naming.main_topic(name)] == (1 + max(MAPPINGS.values()) if cell.partitions else 1)
    assert topics[cell.naming.system_status] == 1 and cell.naming.dead_letter not in topics


@pytest.mark.fact("W2")
@pytest.mark.reference_test("Router: end to end: thirty checks of routes at once make every topic")
def test_first_packets_at_once_over_several_gateways_all_arrive(cell: Cell, source: str) -> None:
    clients = [cell.client() for _ in range(5)]
    start = threading.Barrier(len(clients))

    def write(index: int) -> None:
        start.wait()
        for number in range(6):
            stream = f"s{number}" if not cell.partitions else ""
            clients[index].write(f"{source}{number}", Packet(id=index), stream=stream)

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(write, range(len(clients))))
    for number in range(6):
        stream = f"s{number}" if not cell.partitions else ""
        assert sorted(numbers_in(cell, f"{source}{number}", stream, len(clients))) == list(range(len(clients)))
    for client in clients:
        client.close()


@pytest.mark.fact("W3")
def test_more_data_sources_cost_no_more_threads(topic_cell: Cell, client: Client, source: str) -> None:
    client.write(source, Packet(id=0), stream="first", **LOGGED)
    before = _threads_of_producers(topic_cell)
    for number in range(15):
        client.write(f"{source}{number}", Packet(id=number, is_essential=True), stream="s")
    client.write(f"{source}{number}", Packet(), stream="last", **LOGGED)
    now = _threads_of_producers(topic_cell)
    assert all(after <= first + 1 for after, first in zip(now, before, strict=True)), (
        before,
        now,
    )  # one may be syncing


def _threads_of_producers(cell: Cell) -> list[int]:
    pids = [cell.server.liveness(name).pid for name in cell.server.names("producer")]
    return [len(os.listdir(f"/proc/{pid}/task")) for pid in pids]


@pytest.mark.fact("W4", "W5")
def test_info_packets_go_to_the_topic_of_their_type(cell: Cell, client: Client, source: str) -> None:
    kinds = [api_pb2.INFO_TYPE_UNSPECIFIED, api_pb2.INFO_TYPE_SESSION_INFO, api_pb2.INFO_TYPE_SYSTEM_STATUS]
    for number, kind in enumerate(kinds):
        client.writer.WriteInfoPacket(info_packet(number, kind, source), **CALL)
    requests = [info_packet(number + 10, kind, source) for number, kind in enumerate(kinds)]
    client.writer.WriteInfoPackets(
        (api_pb2.WriteInfoPacketsRequest(message=request.message, type=request.type) for request in requests), **CALL
    )

    def mine(entries: list[Entry]) -> list[tuple[int, bytes]]:
        return [(entry.packet.id, entry.key) for entry in entries if entry.packet.session_key == source]

    key = source.encode()
    for topic, wanted in (
        (cell.naming.session_info, [(0, key), (1, key), (10, key), (11, key)]),
        (cell.naming.system_status, [(2, key), (12, key)]),
    ):
        assert mine(cell.entries(topic, lambda entries, wanted=wanted: len(mine(entries)) >= len(wanted))) == wanted
    assert not {cell.naming.main_topic("Info"), cell.naming.essentials_topic("Info")} & cell.topics().keys()


@contextmanager
def stopped(cell: Cell, *roles: str) -> Iterator[None]:
    """Processes of these roles stand still meanwhile."""
    names = [name for role in roles for name in cell.server.names(role)]
    try:
        for name in names:
            cell.server.send(name, signal.SIGSTOP)
        yield
    finally:
        for name in names:
            cell.server.send(name, signal.SIGCONT)


@pytest.mark.fact("W6", "W14", "D1", "D5")
def test_a_new_data_source_is_written_while_nothing_else_works(cell: Cell, client: Client, source: str) -> None:
    """Neither formats nor sessions can be loaded: the processes that do it stand still."""
    with stopped(cell, "control-plane", "consumer"):
        client.write(source, Packet(id=1, is_essential=True), stream="one", **LOGGED)
        assert numbers_in(cell, source, "one", 1) == [1]
    assert essentials_of(client, source) == [1]


@pytest.mark.fact("W8")
def test_the_largest_packet_is_taken_and_one_byte_more_is_refused(cells: Cells, source: str) -> None:
    """Over the local log; a broker's limit may be lower."""
    client = cells.get("topic legacy local 2/2/2").client()
    limit = (4 << 20) - (64 << 10)
    head = Packet(content=bytes(limit - 100)).ByteSize() - (limit - 100)
    client.write(source, Packet(content=bytes(limit - head)))
    with pytest.raises(grpc.RpcError) as caught:
        client.write(source, Packet(content=bytes(limit - head + 1)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"detail.message: {limit + 1} bytes; a packet may have at most {limit}"
    assert [one.packet.ByteSize() for one in client.read(client.connect(source), 1)] == [limit]
    client.close()


@pytest.mark.kafka
@pytest.mark.fact("W8")
def test_what_the_broker_refuses_is_a_dead_letter_and_its_writer_is_told(cells: Cells, source: str) -> None:
    """Its general limit is known at the door, that of a topic is not. Packets before and behind are in the log."""
    cell = cells.get("topic domain kafka 1/1/1")
    client = cell.client()
    with pytest.raises(grpc.RpcError) as caught:
        client.write(source, Packet(id=1, content=os.urandom(2 << 20)), stream="one", **LOGGED)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    topic, _ = cell.place(source, "one")
    assert cell.broker is not None
    cell.broker.create_topic(topic, config={"max.message.bytes": "50000"})
    client.write(source, Packet(id=2), stream="one")
    with pytest.raises(grpc.RpcError) as caught:
        client.write(source, Packet(id=3, content=os.urandom(100_000)), stream="one", **LOGGED)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"for {topic} is a dead letter" in caught.value.details()
    client.write(source, Packet(id=4), stream="one", **LOGGED)
    assert numbers_in(cell, source, "one", 2) == [2, 4]
    client.close()


@pytest.mark.fact("W11")
@pytest.mark.parametrize("kind", ["data", "info"])
def test_what_stands_before_a_malformed_item_is_safe(cell: Cell, client: Client, source: str, kind: str) -> None:
    """Bytes that are no message at all, in the middle of the stream."""
    if kind == "data":
        details = [api_pb2.DataPacketDetails(message=Packet(id=n), data_source=source, stream="one") for n in range(5)]
        requests = [api_pb2.WriteDataPacketsRequest(details=[one]).SerializeToString() for one in details]
        method = "WriteDataPackets"
    else:
        requests = [info_packet(number, key=source).SerializeToString() for number in range(5)]
        method = "WriteInfoPackets"
    write = client.channel.stream_unary(f"/ma.streaming.api.v1.PacketWriterService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        write(iter([*requests[:3], b"\xff\xff\xff", *requests[3:]]), **CALL)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not readable" in caught.value.details()
    assert dict(caught.value.trailing_metadata())["trackside-accepted"] == "3"
    if kind == "data":
        assert numbers_in(cell, source, "one", 3) == [0, 1, 2]
    else:
        status = cell.naming.system_status
        assert [e.packet.id for e in cell.entries(status, _has(source, 3)) if e.key == source.encode()] == [0, 1, 2]


def _has(key: str, count: int) -> Any:
    return lambda entries: sum(entry.key == key.encode() for entry in entries) >= count


@pytest.mark.fact("W12")
def test_a_dot_in_a_name_loses_nothing(topic_cell: Cell, client: Client, source: str) -> None:
    dotted = f"{source}.B"
    client.write(dotted, Packet(id=1))
    client.write(source, Packet(id=2), stream="B")
    client.write(dotted, Packet(id=3))
    assert numbers_in(topic_cell, source, "B", 3) == [1, 2, 3]
    for details in ({"data_source": dotted}, {"data_source": source, "streams": ["B"]}):
        assert [one.packet.id for one in client.read(client.connect(**details), 3)] == [1, 2, 3]
    assert topic_cell.naming.dead_letter not in topic_cell.topics() or topic_cell.broker is not None


def test_of_names_that_differ_in_dots_and_underscores_alone_the_first_counts(
    cell: Cell, client: Client, source: str
) -> None:
    """Kafka takes the topics of one of them only, so the other one is refused, by whatever gateway knows the first."""
    client.write(f"{source}.B", Packet(id=1), stream="one")
    with pytest.raises(grpc.RpcError) as caught:
        client.write(f"{source}_B", Packet(id=2), stream="two")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"detail.data_source: '{source}_B' is not allowed" in caught.value.details()
    client.write(f"{source}.B", Packet(id=3), stream="one")
    assert numbers_in(cell, f"{source}.B", "one", 2) == [1, 3]


@pytest.mark.fact("W13", "K9")
@pytest.mark.reference_test(
    "DataFormatInfoServiceShould: a data source that is added has one essentials topic and one subscriber",
    "Router: reader: up to the watermark at the start",
    "Router: reader: from offset 10 of 15 to the end",
)
def test_essentials_lie_in_the_one_partition_of_their_topic(cell: Cell, client: Client, source: str) -> None:
    """The broker would make topics of three partitions, and a key would choose among them."""
    for number in range(15):
        client.write(
            source, Packet(id=number, is_essential=True), stream="one", session_key=str(uuid.uuid4()), **LOGGED
        )
    assert cell.topics()[cell.naming.essentials_topic(source)] == 1
    assert essentials_of(client, source) == list(range(15))
    assert essentials_of(client, source, essentials_offset=10) == list(range(10, 15))


@pytest.mark.fact("R17", "K9")
@pytest.mark.reference_test(
    "DataFormatInfoServiceShould: it starts",
    "DataFormatInfoServiceShould: a fresh broker has no essentials topics",
    "SessionInfoServiceShould: the topic is made with one partition",
)
def test_topics_are_made_by_writing_alone(cell: Cell, client: Client, source: str) -> None:
    """Reading makes none. What is made has the partitions that it needs, not the broker's default."""
    connection = client.connect(source, streams=["one"])
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), **CALL)
    assert essentials_of(client, source) == []
    assert not [topic for topic in cell.topics() if source in topic]
    parameters_id(client, source, "a")
    assert next(call).response[0].packet.type == "DataFormatDefinition"  # what appears later is read
    call.cancel()
    client.writer.WriteInfoPacket(info_packet(1, api_pb2.INFO_TYPE_SESSION_INFO), **LOGGED, **CALL)
    assert cell.topics()[cell.naming.session_info] == 1


@pytest.mark.kafka
@pytest.mark.fact("K9")
@pytest.mark.reference_test(
    "Router: end to end: an existing topic keeps its partitions, missing ones are made",
)
def test_a_topic_with_more_partitions_keeps_them_and_is_used_in_partition_0(cells: Cells, source: str) -> None:
    cell = cells.get("topic domain kafka 1/1/1")
    topic, _ = cell.place(source, "one")
    assert cell.broker is not None
    cell.broker.create_topic(topic, partitions=3)
    client = cell.client()
    for number in range(5):
        client.write(source, Packet(id=number), stream="one", session_key=str(number))
    assert numbers_in(cell, source, "one", 5) == list(range(5))
    assert cell.broker.topics()[topic] == 3
    assert [one.packet.id for one in client.read(client.connect(source, streams=["one"]), 5)] == list(range(5))
    client.close()
