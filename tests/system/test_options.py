"""What is off by default, over real servers: keys from another server, and packets that say that a session begins or ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import grpc
import pytest
from server import Client, Server
from service_calls import CALL, create, end, info, key_stub, make_key, parameters_id

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data

ULONG, STRING = key_generator_pb2.KEY_TYPE_ULONG, key_generator_pb2.KEY_TYPE_STRING


@pytest.mark.fact("K10")
def test_keys_of_another_server(make_server: Callable[..., Server]) -> None:
    """Sessions, data formats and both kinds of keys; without it each is refused, in words that name it."""
    source = make_server(name="source")
    source.environment["TRACKSIDE_NODE_NUMBER"] = "321"
    address = f"127.0.0.1:{source.start().described()['key_port']}"
    server = make_server(name="user")
    server.environment["TRACKSIDE_USE_REMOTE_KEY_GENERATOR"] = "true"
    server.environment["TRACKSIDE_REMOTE_KEY_GENERATOR_SERVICE_ADDRESS"] = address
    client, stub = server.start().client(), key_stub(server.port)
    assert make_key(stub, ULONG).ulong_key % 1000 == 321
    assert parameters_id(client, "Car", "vCar") % 1000 == 321
    assert str(uuid.UUID(make_key(stub, STRING).string_key)) and info(client, create(client, "Car")).success
    source.kill_group()
    calls: list[Callable[[], object]] = [
        lambda: make_key(stub, ULONG),
        lambda: create(client, "Car"),
        lambda: parameters_id(client, "Car", "new"),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and address in caught.value.details()


@pytest.fixture
def client(make_server: Callable[..., Server], shape: str) -> Iterator[Client]:
    server = make_server(shape)
    server.environment["TRACKSIDE_STREAM_START_STOP_PACKETS"] = "true"
    client = server.start().client()
    yield client
    client.close()


def test_streams_say_that_a_session_begins_and_ends(client: Client) -> None:
    """Within the session's offsets, with its key, on the streams that it uses, and not among the essentials."""
    client.write("Car", data.Packet(type="RowData", id=1), stream="s")
    first = create(client, "Car")
    client.write("Car", data.Packet(type="RowData", id=2), stream="s", session_key=first)
    client.write("Car", data.Packet(type="RowData", id=3), session_key=first)
    ended = end(client, first).topic_partition_offsets
    assert (ended["Car.s:0"], ended["Car:0"], ended["Car_essential:0"]) == (4, 2, 0)
    begun = info(client, first).topic_partition_offsets
    connection = client.connect("Car", streams=["s"], stream_offsets=[begun["Car.s:0"]], session_key=first)
    responses = client.read(connection, 5)
    of_s = [response.packet for response in responses if response.stream == "s"]
    of_main = [response.packet for response in responses if response.stream == ""]
    assert [packet.type for packet in of_s] == ["StreamStarted", "RowData", "StreamStopped"]
    assert [packet.type for packet in of_main] == ["RowData", "StreamStopped"], "it was not there at the start"
    stopped = data.StreamStoppedPacket.FromString(of_s[-1].content)
    assert (stopped.data_source, stopped.session_key, stopped.stream_name) == ("Car", first, "s")
    assert stopped.stop_time == info(client, first).termination_time
    essentials = api_pb2.ReadEssentialsRequest(connection=client.connect("Car"))
    assert not list(client.reader.ReadEssentials(essentials, **CALL))
