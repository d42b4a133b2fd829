"""Scenarios of the reference server's own tests that no other test of ours holds, in each strategy, over both logs.

Cells with the domain naming batch their responses: so each strategy is read with and without batching.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from conformance.cells import Cell
from server import Client, take, wait_until
from service_calls import CALL, Subscriber, create, end, event_id, info, keys_of, parameters_id

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.keys import new_guid

THOUSAND = 1000
KEY = "request-key"


def write_all(client: Client, source: str, packets: Iterable[tuple[data.Packet, str]], key: str = KEY) -> None:
    """In one client stream, ten packets a message; back when the log has them."""
    details = [
        api_pb2.DataPacketDetails(message=packet, data_source=source, stream=stream, session_key=key)
        for packet, stream in packets
    ]
    requests = (api_pb2.WriteDataPacketsRequest(details=details[n : n + 10]) for n in range(0, len(details), 10))
    client.writer.WriteDataPackets(requests, **CALL)


def two_streams(client: Client, source: str, **details: Any) -> api_pb2.Connection:
    streams = {"streams": ["one", "two"], "stream_offsets": [0, 0]}
    return client.connect(source, session_key=KEY, **streams, **details)


def labels_of(responses: list[Any]) -> set[tuple[int, str]]:
    return {(response.packet.id, response.stream) for response in responses}


# -- writing and reading ----------------------------------------------------------------------------------------------


@pytest.mark.fact("A11", "A10")
@pytest.mark.reference_test(
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a packet of stream 1 has its label",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a packet of stream 2 has its label",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a packet without a stream has the empty label",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: packets of all three have their labels",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a packet of another session key is not delivered",
)
def test_packets_come_with_the_labels_of_their_streams(cell: Cell, client: Client, source: str) -> None:
    """One by one, while the read is open; of another session's packet nothing is seen."""
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=two_streams(client, source)), **CALL)
    arriving = (one for response in call for one in response.response)
    for number, stream in enumerate(("one", "two", "", "one", "two", "")):
        client.write(source, data.Packet(id=100), stream=stream, session_key="another")
        client.write(source, data.Packet(id=number, session_key="inner"), stream=stream, session_key=KEY)
        assert labels_of([next(arriving)]) == {(number, stream)}
    call.cancel()


@pytest.mark.reference_test("PartitionBasedPacketWriteAnd{,Batch}ReadShould: a stream that is not mapped is main")
@pytest.mark.fact("C1")
def test_a_stream_without_a_partition_is_main(cell: Cell, client: Client, source: str) -> None:
    client.write(source, data.Packet(id=1), stream="elsewhere", session_key=KEY)
    client.write(source, data.Packet(id=2), session_key=KEY)
    wanted = {(1, ""), (2, "")} if cell.partitions else {(2, "")}
    assert labels_of(client.read(two_streams(client, source), len(wanted))) == wanted


@pytest.mark.fact("A12", "A23", "W10")
@pytest.mark.reference_test(
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a thousand streamed packets all arrive",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: an essential packet comes from both reads",
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould: a thousand essential packets come twice",
)
@pytest.mark.parametrize("essential", [False, True], ids=["plain", "essential"])
def test_a_thousand_packets_over_three_streams(cell: Cell, client: Client, source: str, essential: bool) -> None:
    streams = ("", "one", "two")
    sent = [(data.Packet(id=n, type="T", is_essential=essential), streams[n % 3]) for n in range(THOUSAND)]
    write_all(client, source, sent)
    found = client.read(two_streams(client, source), THOUSAND)
    assert labels_of(found) == {(packet.id, stream) for packet, stream in sent} and len(found) == THOUSAND
    for stream in streams:
        numbers = [one.packet.id for one in found if one.stream == stream]
        assert numbers == sorted(numbers)
    request = api_pb2.ReadEssentialsRequest(connection=client.connect(source))
    essentials = [one for response in client.reader.ReadEssentials(request, **CALL) for one in response.response]
    assert [one.packet.id for one in essentials] == (list(range(THOUSAND)) if essential else [])
    assert all(one.packet.is_essential and one.stream == "" for one in essentials)


@pytest.mark.fact("R2")
@pytest.mark.reference_test("Router: listener: nothing after Stop", "Router: reader: later messages are not delivered")
def test_nothing_comes_after_the_end(cell: Cell, client: Client, source: str) -> None:
    """Of a read whose connection was closed, and of one that ends where the topic ended when it began."""
    client.write(source, data.Packet(id=1, is_essential=True), session_key=KEY)
    connection = client.connect(source)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), **CALL)
    assert [one.packet.id for one in next(call).response] == [1]
    assert client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), **CALL).success
    request = api_pb2.ReadEssentialsRequest(connection=client.connect(source))
    essentials = client.reader.ReadEssentials(request, **CALL)
    first = next(essentials)
    client.write(source, data.Packet(id=2, is_essential=True), session_key=KEY)
    assert list(call) == []
    assert [one.packet.id for response in (first, *essentials) for one in response.response] == [1]


# -- filtered reads ---------------------------------------------------------------------------------------------------


def samples(number: int, kind: str, *names: str) -> data.Packet:
    """A packet of samples that names its parameters."""
    named = data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=names))
    contents = {
        "PeriodicData": data.PeriodicDataPacket,
        "RowData": data.RowDataPacket,
        "SynchroData": data.SynchroDataPacket,
    }
    return data.Packet(id=number, type=kind, content=contents[kind](data_format=named).SerializeToString())


def event(number: int, name: str) -> data.Packet:
    content = data.EventPacket(data_format=data.EventDataFormat(event_identifier=name))
    return data.Packet(id=number, type="Event", content=content.SerializeToString())


WRITTEN = [
    (samples(1, "PeriodicData", "p1"), "one"),
    (samples(2, "SynchroData", "p1"), "two"),
    (samples(3, "RowData", "p1"), "two"),
    (samples(4, "RowData", "p2"), "one"),
    (samples(5, "PeriodicData", "p2"), ""),
    (samples(6, "SynchroData", "p2"), "one"),
    (samples(7, "RowData", "p1", "p2"), "one"),
    (event(8, "Lap"), "one"),
    (event(9, "Pit"), ""),
    (data.Packet(id=10, type="Marker"), "two"),
    (data.Packet(id=11, type="RawCANData"), "two"),
    (samples(12, "PeriodicData", "last"), "one"),
]


@pytest.mark.fact("C3")
@pytest.mark.reference_test(
    "TopicBasedDataPacketWriteAndReadShould: periodic, row and synchro packets pass without a filter",
    "TopicBasedDataPacketWriteAndReadShould: rows and periodic data have their labels",
    "TopicBasedDataPacketWriteAndReadShould: a packet of another session key is not delivered",
    "TopicBasedDataPacketWriteAndReadShould: an event passes without a filter",
    "TopicBasedDataPacketWriteAndReadShould: markers pass only when they are asked for",
    "TopicBasedDataPacketWriteAndReadShould: included parameters, in each kind of packet",
    "TopicBasedDataPacketWriteAndReadShould: excluded parameters, in each kind of packet",
    "TopicBasedDataPacketWriteAndReadShould: included and excluded events",
    "TopicBasedDataPacketWriteAndReadShould: a parameter in both lists is excluded",
    "TopicBasedDataPacketWriteAndReadShould: one included name is enough beside an excluded one",
)
@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        pytest.param({}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 12}, id="no filter"),
        pytest.param({"include_markers": True}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12}, id="markers"),
        pytest.param({"include_parameters": ["p1"]}, {1, 2, 3, 7, 8, 9}, id="included parameters"),
        pytest.param({"exclude_parameters": ["p1"]}, {4, 5, 6, 7, 8, 9, 12}, id="excluded parameters"),
        pytest.param({"include_events": ["La"]}, {1, 2, 3, 4, 5, 6, 7, 8, 12}, id="included events"),
        pytest.param({"exclude_events": ["La"]}, {1, 2, 3, 4, 5, 6, 7, 9, 12}, id="excluded events"),
        pytest.param({"include_parameters": ["p1"], "exclude_parameters": ["p1"]}, {8, 9}, id="in both lists"),
        pytest.param(
            {"include_parameters": ["p."], "exclude_parameters": ["2"]}, {1, 2, 3, 7, 8, 9}, id="one is enough"
        ),
    ],
)
def test_filters(cell: Cell, client: Client, source: str, wanted: dict[str, Any], numbers: set[int]) -> None:
    """Everything that passes, and nothing else: the read is over when a packet that always passes has come last."""
    write_all(client, source, WRITTEN, "another")
    write_all(client, source, WRITTEN)
    request = api_pb2.DataPacketRequest(connection=two_streams(client, source), **wanted)
    call = client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), **CALL)
    responses = take(call, len(numbers))
    assert {one.packet.id for one in responses} == numbers and len(responses) == len(numbers)
    streams = {packet.id: stream for packet, stream in WRITTEN}
    assert all(one.stream == streams[one.packet.id] for one in responses)


@pytest.mark.fact("A18", "C3", "D1")
@pytest.mark.reference_test("TopicBasedDataPacketWriteAndReadShould: a thousand streamed packets all arrive")
def test_a_thousand_packets_of_a_format_pass_its_filter(cell: Cell, client: Client, source: str) -> None:
    """By the number of their format, which is known from its first packet on."""
    number = parameters_id(client, source, "p1", "p2")
    lap = event_id(client, source, "Lap")
    content = data.RowDataPacket(data_format=data.SampleDataFormat(data_format_identifier=number)).SerializeToString()
    told = data.EventPacket(data_format=data.EventDataFormat(data_format_identifier=lap)).SerializeToString()
    write_all(client, source, ((data.Packet(id=n, type="RowData", content=content), "one") for n in range(THOUSAND)))
    write_all(client, source, [(data.Packet(id=THOUSAND, type="Event", content=told), "one")])
    asked = {"include_parameters": ["^p2$"], "include_events": ["Lap"]}
    request = api_pb2.DataPacketRequest(connection=two_streams(client, source), **asked)
    call = client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), **CALL)
    assert [one.packet.id for one in take(call, THOUSAND + 1)] == list(range(THOUSAND + 1))


# -- sessions ---------------------------------------------------------------------------------------------------------


def write_info(client: Client, key: str, content: Any) -> None:
    """What another program puts on the session-info topic."""
    kind = type(content).__name__.removesuffix("Packet")
    packet = data.Packet(type=kind, session_key=key, content=content.SerializeToString())
    request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SESSION_INFO)
    client.writer.WriteInfoPacket(request, **CALL)


@pytest.mark.fact("A22", "C2")
@pytest.mark.reference_test("SessionInfoServiceShould: a session is rebuilt from the packets of another program")
def test_a_session_of_another_program(cell: Cell, client: Client, source: str) -> None:
    key = str(uuid.uuid4())
    stops = Subscriber(client, source, "Stop")
    new = data.NewSessionPacket(data_source=source, topic_partition_offsets={f"{source}:0": 10})
    new.utc_offset.seconds = -7200
    write_info(client, key, new)
    write_info(client, key, data.SessionInfoPacket(type="Race", version=1))
    write_info(client, key, data.SessionInfoPacket(identifier="theirs"))
    for associates in (["a"], ["a", "b"], ["a", "b"]):
        write_info(client, key, data.SessionInfoPacket(associate_session_keys=associates))
    write_info(client, key, data.EndOfSessionPacket(data_source=source))
    wait_until(lambda: stops.keys == [key], "its end is told")
    stops.close()
    assert keys_of(client, source) == [key]
    found = info(client, key)
    assert (found.identifier, found.type, found.version, found.is_complete) == ("theirs", "Race", 1, True)
    assert list(found.associate_session_keys) == ["a", "b"]
    assert found.utc_offset.seconds == -7200
    assert (dict(found.topic_partition_offsets), found.main_offset) == ({f"{source}:0": 10}, 10)


@pytest.mark.fact("A4", "A5", "A19", "S12", "C5")
@pytest.mark.reference_test(
    "{TopicBased,PartitionBased}SessionManagerShould: the life of a session",
    "SessionManagementServiceShould: CreateSession writes one NewSession packet",
    "SessionManagementServiceShould: EndSession gives four offsets and writes one EndOfSession packet",
    "SessionManagementServiceShould: GetSessionInfo gives the record of the key",
    "SessionManagementServiceShould: UpdateSessionIdentifier writes one SessionInfo packet",
    "SessionManagementServiceShould: UpdateSessionDetails merges",
    "SessionManagementServiceShould: AddAssociateSession appends in order",
)
def test_the_life_of_a_session(cell: Cell, client: Client, source: str) -> None:
    old = create(client, source)
    end(client, old)
    for stream in ("one", "two"):
        client.write(source, data.Packet(), stream=stream, metadata=(("trackside-ack", "log"),))
    starts, stops = Subscriber(client, source, "Start"), Subscriber(client, source, "Stop")
    offset = {"utc_offset": {"seconds": -7200}}
    key = create(client, source, version=20, details={"a": "1", "b": "2"}, associate_session_key=["x"], **offset)
    assert str(uuid.UUID(key)) == key and keys_of(client, source) == [old, key]
    wait_until(lambda: starts.keys, "the start is told")
    assert info(client, old).is_complete
    rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier="Lap 1")
    assert client.sessions.UpdateSessionIdentifier(rename, **CALL).success
    for associate in ("z", "y"):
        join = api_pb2.AddAssociateSessionRequest(session_key=key, associate_session_key=associate)
        assert client.sessions.AddAssociateSession(join, **CALL).success
    describe = api_pb2.UpdateSessionDetailsRequest(session_key=key, details={"b": "3", "c": "4"})
    assert client.sessions.UpdateSessionDetails(describe, **CALL).success

    def check(complete: bool) -> None:
        found = info(client, key)
        assert (found.type, found.version, found.identifier, found.is_complete) == ("Session", 20, "Lap 1", complete)
        assert list(found.associate_session_keys) == ["x", "z", "y"]
        assert dict(found.details) == {"a": "1", "b": "3", "c": "4"} and found.utc_offset.seconds == -7200

    check(complete=False)
    ended = [end(client, key) for _ in range(2)]  # the second time tells the same and writes nothing
    named = [f"{source}:1", f"{source}:2"] if cell.partitions else [f"{source}.one:0", f"{source}.two:0"]
    wanted = {f"{source}:0": 0, f"{source}_essential:0": 0, **dict.fromkeys(named, 1)}
    assert [dict(one.topic_partition_offsets) for one in ended] == [wanted] * 2
    check(complete=True)
    wait_until(lambda: stops.keys, "the end is told")
    assert (starts.keys, stops.keys) == ([key], [key])
    starts.close()
    stops.close()

    def mine(entries: list[Any]) -> list[str]:
        return [entry.packet.type for entry in entries if entry.packet.session_key == key]

    types = mine(cell.entries(cell.naming.session_info, lambda entries: "EndOfSession" in mine(entries)))
    assert types == ["NewSession", *["SessionInfo"] * 4, "EndOfSession"]


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.fact("C5")
@pytest.mark.reference_test("Router: key generator: a million texts are unique")
def test_text_keys_never_repeat() -> None:
    count = 100_000
    keys = {new_guid() for _ in range(count)}
    assert len(keys) == count and all(uuid.UUID(key).version == 4 for key in list(keys)[:100])
