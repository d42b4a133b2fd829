"""What existing clients rely on, one test or more for each of A1 to A25, as those clients make their calls."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from conformance.cells import Cell
from server import Client, take, wait_until
from service_calls import (
    CALL,
    Subscriber,
    create,
    end,
    event_id,
    event_of,
    info,
    key_stub,
    keys_of,
    make_key,
    parameters_id,
    parameters_of,
)

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.shm.ring import RingView

RESPONSE_BYTES_MAX = 4 << 20
LOGGED = {"metadata": (("trackside-ack", "log"),)}


def open_packets(client: Client, connection: api_pb2.Connection) -> Any:
    return client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), **CALL)


def open_essentials(client: Client, connection: api_pb2.Connection) -> Any:
    return client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), **CALL)


def found_in(responses: list[Any]) -> set[tuple[int, str]]:
    """Numbers and labels."""
    return {(response.packet.id, response.stream) for response in responses}


def numbers_of(responses: list[Any]) -> list[int]:
    return [response.packet.id for response in responses]


def each_packet(call: Any) -> Iterator[Any]:
    for response in call:
        yield from response.response


@pytest.mark.fact("A1", "C7")
def test_every_service_is_on_the_main_port_and_keys_on_a_port_of_their_own(
    cell: Cell, client: Client, source: str
) -> None:
    client.write(source, data.Packet(id=1))
    assert found_in(client.read(client.connect(source), 1)) == {(1, "")}
    key = create(client, source)
    assert info(client, key).success and parameters_id(client, source, "a") > 0
    for port in (cell.server.port, cell.server.described()["key_port"]):
        assert make_key(key_stub(port), key_generator_pb2.KEY_TYPE_ULONG).ulong_key > 0


@pytest.mark.fact("A2", "A23", "R16")
def test_responses_fit_into_the_default_limit_and_none_is_empty(cell: Cell, client: Client, source: str) -> None:
    """More than one response may carry is in the gateway's hands before the client takes any."""
    contents = [bytes([number]) * (600 << 10) for number in range(30)]
    for number, content in enumerate(contents):
        client.write(source, data.Packet(type="RowData", id=number, content=content))
    call = open_packets(client, client.connect(source))
    wait_until(lambda: cell.unsent_bytes() > 1.5 * RESPONSE_BYTES_MAX, "more waits than one response may carry")
    found: list[Any] = []
    while len(found) < len(contents):
        response = next(call)
        assert response.response and response.ByteSize() < RESPONSE_BYTES_MAX
        found += response.response
    call.cancel()
    assert [response.packet.content for response in found] == contents


READERS = 12
SUBSCRIBERS = 120


@pytest.mark.fact("A3", "K5")
def test_unary_calls_are_answered_between_the_responses_of_open_streams(
    topic_cell: Cell, client: Client, source: str
) -> None:
    """As the Python reader does: three streams a reader, two blocking calls after each response."""
    key = create(client, source)
    idle = [Subscriber(client, source, "Stop") for _ in range(SUBSCRIBERS)]

    def read(_: int) -> list[int]:
        mine = topic_cell.client()
        connection = mine.connect(source, session_key=key)
        subscription = Subscriber(mine, source, "Stop")
        calls = [open_essentials(mine, connection), open_packets(mine, connection)]
        found = []
        for packet in itertools.islice(each_packet(calls[1]), 5):
            asked = api_pb2.GetConnectionRequest(connection=connection)
            assert mine.connections.GetConnection(asked, **CALL).details.data_source == source
            assert info(mine, key).success
            found.append(packet.packet.id)
        for call in calls:
            call.cancel()
        subscription.close()
        mine.close()
        return found

    with ThreadPoolExecutor(READERS) as pool:
        reads = [pool.submit(read, number) for number in range(READERS)]
        for number in range(5):
            client.write(source, data.Packet(id=number), session_key=key)
        assert [future.result() for future in reads] == [list(range(5))] * READERS
    for subscriber in idle:
        subscriber.close()


@pytest.mark.fact("A4", "A16", "S18")
def test_a_change_is_in_the_next_answer(topic_cell: Cell, client: Client, source: str) -> None:
    key = create(client, source)
    found = info(client, key)
    assert (found.type, found.version, found.identifier, found.is_complete) == ("Session", 1, "", False)
    for number in range(20):
        asked = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier=f"name {number}")
        assert client.sessions.UpdateSessionIdentifier(asked, **CALL).success
        assert info(client, key).identifier == f"name {number}"
    assert end(client, key).data_source == source  # by its key alone
    assert info(client, key).is_complete


@pytest.mark.fact("A4", "A19", "S19")
def test_notifications_tell_what_comes_and_the_session_is_complete_by_then(
    topic_cell: Cell, client: Client, source: str
) -> None:
    before = create(client, source)
    call = client.sessions.GetSessionStartNotification(
        api_pb2.GetSessionStartNotificationRequest(data_source=source), **CALL
    )
    call.initial_metadata()
    stops = Subscriber(client, source, "Stop")
    create(client, f"{source}x")
    key = create(client, source, identifier="Lap 1")
    told = next(call)
    assert (told.session_key, told.data_source) == (key, source)
    assert info(client, told.session_key).identifier == "Lap 1"
    end(client, before)
    wait_until(lambda: stops.keys, "the end is told")
    assert stops.keys == [before] and not stops.ended and call.is_active()
    call.cancel()
    stops.close()


@pytest.mark.fact("A5")
def test_sessions_are_listed_oldest_first_finished_ones_too(topic_cell: Cell, client: Client, source: str) -> None:
    keys = [create(client, source) for _ in range(5)]
    end(client, keys[1])
    end(client, keys[4])
    assert keys_of(client, source) == keys


@pytest.mark.fact("A6", "C2")
def test_offsets_have_the_names_that_clients_look_for(cell: Cell, client: Client, source: str) -> None:
    """By ``{data source}.{stream}:0``, or ``{data source}:{partition}``, whatever topics are called on the log."""
    for stream, count in (("one", 2), ("two", 3), ("", 4)):
        for number in range(count):
            essential = stream == "two" and number == 0
            client.write(source, data.Packet(id=number, is_essential=essential), stream=stream, **LOGGED)
    streams = ("one", "two")
    named = [f"{source}:{number}" for number in (1, 2)] if cell.partitions else [f"{source}.{s}:0" for s in streams]
    wanted = {f"{source}:0": 4, f"{source}_essential:0": 1, named[0]: 2, named[1]: 3}

    def complete() -> str:
        key = create(client, source)
        return key if dict(info(client, key).topic_partition_offsets) == wanted else ""

    key = wait_until(complete, "all streams are seen by a session that begins")
    found = info(client, key)
    assert (found.main_offset, found.essentials_offset, sorted(found.streams)) == (4, 1, ["one", "two"])
    client.write(source, data.Packet(id=9), stream="one")
    assert dict(end(client, key).topic_partition_offsets) == {**wanted, named[0]: 3}


@pytest.mark.fact("A7", "S6", "S7")
def test_a_new_stream_appears_in_the_session_of_its_data_source(topic_cell: Cell, client: Client, source: str) -> None:
    key, other = create(client, source), create(client, source.lower())
    assert list(info(client, key).streams) == []
    client.write(source, data.Packet(id=1))  # the main stream is none of them
    for number in range(1, 4):
        client.write(source, data.Packet(id=1), stream=f"stream{number}")
        wanted = [f"stream{n}" for n in range(1, number + 1)]
        wait_until(lambda wanted=wanted: sorted(info(client, key).streams) == wanted, f"{wanted} are seen")
    assert list(info(client, other).streams) == []


@pytest.mark.fact("A10", "C1")
def test_the_session_filter_is_on_the_key_of_the_request(cell: Cell, client: Client, source: str) -> None:
    for number, key in enumerate(["mine", "other", "", "mine"]):
        client.write(source, data.Packet(id=number, session_key=f"inner {number}"), session_key=key, stream="one")
    read = client.read(client.connect(source, session_key="mine", streams=["one"]), 2)
    assert [(r.packet.id, r.packet.session_key) for r in read] == [(0, "inner 0"), (3, "inner 3")]
    assert numbers_of(client.read(client.connect(source, streams=["one"]), 4)) == [0, 1, 2, 3]


@pytest.mark.fact("A11", "A12", "C6")
def test_essentials_come_from_both_with_their_labels(cell: Cell, client: Client, source: str) -> None:
    client.write(source, data.Packet(id=1, is_essential=True), stream="one")
    client.write(source, data.Packet(id=2, is_essential=True))
    client.write(source, data.Packet(id=3), stream="one")
    connection = client.connect(source, streams=["one"])
    assert found_in(client.read(connection, 3)) == {(1, "one"), (2, ""), (3, "one")}
    essentials = list(each_packet(open_essentials(client, connection)))
    assert [(r.packet.id, r.stream, r.packet.is_essential) for r in essentials] == [(1, "", True), (2, "", True)]
    assert all(r.submit_time.seconds for r in essentials)


@pytest.mark.fact("A14", "W10")
@pytest.mark.parametrize("kind", ["data", "info"])
def test_half_close_is_answered_when_the_log_has_everything(cell: Cell, client: Client, source: str, kind: str) -> None:
    packets = [data.Packet(id=number, type="Nothing", session_key=source) for number in range(50)]
    if kind == "data":
        details = [api_pb2.DataPacketDetails(message=p, data_source=source, stream="one") for p in packets]
        client.writer.WriteDataPackets((api_pb2.WriteDataPacketsRequest(details=[d]) for d in details), **CALL)
        topic = cell.place(source, "one").topic
    else:
        status = api_pb2.INFO_TYPE_SYSTEM_STATUS
        client.writer.WriteInfoPackets(
            (api_pb2.WriteInfoPacketsRequest(message=p, type=status) for p in packets), **CALL
        )
        topic = cell.naming.system_status
    there = [entry.packet.id for entry in cell.entries(topic, bool) if entry.packet.session_key == source]
    assert there == list(range(50))


@pytest.mark.fact("A15", "A24", "C3")
def test_types_and_contents_are_the_clients_own(cell: Cell, client: Client, source: str) -> None:
    types = ["sampleCustomObject", "VehicleState", "0", "999", "", "RawCANData", "CoverageCursorInfo", "Straße"]
    junk = [data.Packet(id=n, type=t, content=b"\xff\xfe%d" % n) for n, t in enumerate(types)]
    junk += [
        data.Packet(id=20, type="RowData", content=b"\xff" * 40),
        data.Packet(id=21, type="Event", content=b"\x08"),
    ]
    for packet in junk:
        client.write(source, packet, stream="one")
    assert [r.packet for r in client.read(client.connect(source, streams=["one"]), len(junk))] == junk
    client.write(source, data.Packet(id=30, type="Marker"), stream="one")
    request = api_pb2.DataPacketRequest(connection=client.connect(source), include_markers=True)
    call = client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), **CALL)
    assert numbers_of(take(call, 1)) == [30]


@pytest.mark.fact("A17", "C4", "S13")
def test_what_is_not_there_is_an_answer(cell: Cell, client: Client, source: str) -> None:
    unknown = api_pb2.Connection(id=987654321)
    for read in (open_packets, open_essentials):
        call = read(client, unknown)
        assert list(call) == [] and call.code() is grpc.StatusCode.OK
    request = api_pb2.DataPacketRequest(connection=unknown)
    call = client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), **CALL)
    assert list(call) == [] and call.code() is grpc.StatusCode.OK
    assert not client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=unknown), **CALL).success
    asked = api_pb2.GetConnectionRequest(connection=unknown)
    assert not client.connections.GetConnection(asked, **CALL).HasField("details")
    assert parameters_of(client, source, 1) == [] and event_of(client, source, 1) == ""
    nobody = str(uuid.uuid4())
    assert not info(client, nobody).success
    changes = (
        client.sessions.EndSession(api_pb2.EndSessionRequest(session_key=nobody), **CALL),
        client.sessions.UpdateSessionIdentifier(
            api_pb2.UpdateSessionIdentifierRequest(session_key=nobody, identifier="x"), **CALL
        ),
        client.sessions.UpdateSessionDetails(api_pb2.UpdateSessionDetailsRequest(session_key=nobody), **CALL),
        client.sessions.AddAssociateSession(
            api_pb2.AddAssociateSessionRequest(session_key=nobody, associate_session_key="x"), **CALL
        ),
    )
    assert not any(reply.success for reply in changes)
    other = api_pb2.EndSessionRequest(session_key=create(client, source), data_source=f"{source}x")
    assert not client.sessions.EndSession(other, **CALL).success


@pytest.mark.fact("A18", "C5", "D3")
def test_format_ids_stand_for_lists_in_their_order(cell: Cell, client: Client, source: str) -> None:
    lists = [["a", "b"], ["b", "a"], ["a,b"], ["a", "b", "b"], ["a"], []]
    ids = [parameters_id(client, source, *names) for names in lists]
    assert len(set(ids)) == len(lists) and min(ids) > 0
    assert [parameters_of(client, source, number) for number in ids] == lists
    assert [parameters_id(client, source, *names) for names in lists] == ids
    event = event_id(client, source, "a")
    assert event > 0 and event_of(client, source, event) == "a" and event_id(client, source, "a") == event


@pytest.mark.fact("A20")
def test_a_read_of_the_past_stays_open(cell: Cell, client: Client, source: str) -> None:
    end(client, key := create(client, source))  # a session that has ended
    for number in range(20):
        client.write(source, data.Packet(id=number), session_key=key)
    call = open_packets(client, client.connect(source, session_key=key))
    found = each_packet(call)
    assert numbers_of(list(itertools.islice(found, 20))) == list(range(20))
    client.write(source, data.Packet(id=20), session_key=key)
    assert next(found).packet.id == 20 and call.is_active()
    call.cancel()


@pytest.mark.fact("A21", "S5")
def test_session_info_is_answered_from_memory(topic_cell: Cell, client: Client, source: str) -> None:
    """Counted in what the control plane asks of the consumers, which are the ones that ask the log."""
    calls = 300
    key = create(client, source)
    asked = _records_to_consumers(topic_cell)
    for _ in range(calls):
        assert info(client, key).success
    assert _records_to_consumers(topic_cell) - asked < calls // 2


def _records_to_consumers(cell: Cell) -> int:
    links = cell.server.described()["links"]
    rings = [
        link["down"] for link in links if link["worker"].startswith("consumer") and "control-plane" in link["down"]
    ]
    assert rings
    return sum(RingView(ring).statistics()["records"] for ring in rings)


@pytest.mark.fact("A22", "C2", "S3")
def test_info_packets_change_a_session_and_empty_fields_change_nothing(
    topic_cell: Cell, client: Client, source: str
) -> None:
    key = create(client, source, identifier="first", type="Race", version=3, details={"a": "1", "b": "2"})
    content = data.SessionInfoPacket(details={"b": "3"}, associate_session_keys=["x"])
    packet = data.Packet(type="SessionInfo", session_key=key, content=content.SerializeToString())
    request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SESSION_INFO)
    client.writer.WriteInfoPacket(request, **CALL)
    wait_until(lambda: list(info(client, key).associate_session_keys) == ["x"], "the change is folded")
    found = info(client, key)
    assert (found.identifier, found.type, found.version) == ("first", "Race", 3)
    assert dict(found.details) == {"a": "1", "b": "3"}


@pytest.mark.fact("A23", "C1")
def test_packets_come_back_as_they_were_written(cell: Cell, client: Client, source: str) -> None:
    packet = data.Packet(type="T", session_key="inner", is_essential=True, content=b"\0\xff", id=1 << 40)
    unknown = packet.SerializeToString() + b"\xfa\x3e\x05later"  # field 1007, of a client that is newer
    client.write(source, data.Packet.FromString(unknown), stream="one")
    (read,) = client.read(client.connect(source, streams=["one"]), 1)
    assert read.packet.SerializeToString(deterministic=True) == unknown
    assert read.stream == "one" and read.submit_time.seconds > 1_600_000_000


@pytest.mark.fact("A24", "C2", "D7")
def test_packets_of_the_server_have_the_types_that_others_look_for(cell: Cell, client: Client, source: str) -> None:
    key = create(client, source)
    rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier="name")
    assert client.sessions.UpdateSessionIdentifier(rename, **CALL).success
    end(client, key)
    number = parameters_id(client, source, "a", "b")

    def mine(entries: list[Any]) -> list[Any]:
        return [entry for entry in entries if entry.packet.session_key == key]

    told = mine(cell.entries(cell.naming.session_info, lambda entries: len(mine(entries)) >= 3))
    assert [entry.packet.type for entry in told] == ["NewSession", "SessionInfo", "EndOfSession"]
    assert {entry.key for entry in told} == {key.encode()}
    ended = data.EndOfSessionPacket.FromString(told[-1].packet.content)
    assert {topic.rpartition(":")[2] for topic in ended.topic_partition_offsets} >= {"0"}
    for topic in (cell.naming.main_topic(source), cell.naming.essentials_topic(source)):
        (entry,) = cell.entries(topic, bool)
        assert (entry.partition, entry.key, entry.packet.type) == (0, b"", "DataFormatDefinition")
        assert entry.packet.is_essential and entry.packet.session_key == ""
        assert data.DataFormatDefinitionPacket.FromString(entry.packet.content).identifier == number
