"""The main job, through the real processes: client, gateway, ring, producer, log, consumer, ring, gateway, client."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from server import Server, take

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet


@pytest.fixture
def server(make_server: Callable[..., Server], shape: str) -> Server:
    return make_server(shape).start()


def packets(count: int, first: int = 1, **fields: object) -> list[Packet]:
    return [Packet(type="RowData", id=n, content=b"%d" % n, **fields) for n in range(first, first + count)]  # type: ignore[arg-type]


def request_of(some: list[Packet], data_source: str = "Car", stream: str = "s") -> api_pb2.WriteDataPacketsRequest:
    return api_pb2.WriteDataPacketsRequest(
        details=[api_pb2.DataPacketDetails(message=p, data_source=data_source, stream=stream) for p in some]
    )


@pytest.mark.fact("A14", "A23", "W10")
def test_what_was_written_is_read(server: Server) -> None:
    client = server.client()
    written = packets(1000)
    client.writer.WriteDataPackets(iter([request_of(written[i : i + 50]) for i in range(0, 1000, 50)]), timeout=30)
    connection = client.connect("Car", streams=["s"], stream_offsets=[0])
    responses = client.read(connection, 1000)
    assert [response.packet for response in responses] == written
    assert {response.stream for response in responses} == {"s"}
    assert all(response.submit_time.seconds for response in responses)


@pytest.mark.fact("A20")
def test_past_and_live_are_one_stream(server: Server) -> None:
    client = server.client()
    for packet in packets(20):
        client.write("Car", packet)
    connection = client.connect("Car", main_offset=0)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    first = next(iter(call))
    for packet in packets(20, first=21):
        client.write("Car", packet)
    rest = take(call, 40 - len(first.response))
    assert [r.packet.id for r in [*first.response, *rest]] == list(range(1, 41))


@pytest.mark.fact("A9")
def test_the_end_means_from_now_on(server: Server) -> None:
    client = server.client()
    client.write("Car", packets(1)[0])
    client.read(client.connect("Car"), 1)
    connection = client.connect("Car", streams=["s"], stream_offsets=[-1], main_offset=-1)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    # The read is open when a packet on a stream that the reader has from its beginning arrives; so write until it does.
    number = 2
    found: list[int] = []
    responses = iter(call)
    import threading

    got = threading.Event()

    def listen() -> None:
        for response in responses:
            found.extend(r.packet.id for r in response.response)
            got.set()
            return

    listener = threading.Thread(target=listen)
    listener.start()
    while not got.wait(0.05):
        client.write("Car", packets(1, first=number)[0])
        number += 1
        assert number < 1000
    call.cancel()
    listener.join()
    assert 1 not in found and found == sorted(found)


@pytest.mark.fact("A12")
def test_essentials_reach_both_topics(server: Server) -> None:
    client = server.client()
    client.write("Car", packets(1, is_essential=True)[0], stream="s")
    client.write("Car", packets(1, first=2)[0], stream="s")
    assert [r.packet.id for r in client.read(client.connect("Car", streams=["s"]), 2)] == [1, 2]
    connection = client.connect("Car")
    essentials = client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), timeout=30)
    assert [r.packet.id for response in essentials for r in response.response] == [1]


@pytest.mark.fact("A13", "R8")
def test_essentials_end_at_once_when_there_are_none(server: Server) -> None:
    client = server.client()
    connection = client.connect("Nobody")
    essentials = client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), timeout=30)
    assert list(essentials) == []


@pytest.mark.fact("A10")
def test_a_session_filter_is_on_the_request_key(server: Server) -> None:
    client = server.client()
    for number, key in enumerate(["a", "b", "a", ""], start=1):
        client.write("Car", Packet(id=number, session_key="other"), session_key=key)
    assert [r.packet.id for r in client.read(client.connect("Car", session_key="a"), 2)] == [1, 3]


@pytest.mark.fact("A11", "A25", "R6")
def test_all_streams_also_those_that_appear_later(server: Server) -> None:
    client = server.client()
    client.write("Car", packets(1)[0], stream="one")
    client.write("Car", packets(1, first=2)[0])
    connection = client.connect("Car")
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    responses = iter(call)
    found: dict[int, str] = {}
    while len(found) < 2:
        found.update({r.packet.id: r.stream for r in next(responses).response})
    client.write("Car", packets(1, first=3)[0], stream="two")
    while len(found) < 3:
        found.update({r.packet.id: r.stream for r in next(responses).response})
    call.cancel()
    assert found == {1: "one", 2: "", 3: "two"}


@pytest.mark.fact("R2")
def test_closing_a_connection_ends_its_readers(server: Server) -> None:
    client = server.client()
    client.write("Car", packets(1)[0])
    connection = client.connect("Car")
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    assert len(next(iter(call)).response) == 1
    assert client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), timeout=30).success
    assert list(call) == [] and call.code() is grpc.StatusCode.OK


@pytest.mark.fact("A17", "C4")
def test_an_unknown_connection_reads_nothing(server: Server) -> None:
    client = server.client()
    request = api_pb2.ReadPacketsRequest(connection=api_pb2.Connection(id=12345))
    assert list(client.reader.ReadPackets(request, timeout=30)) == []


@pytest.mark.fact("W7")
def test_acknowledged_by_the_log(server: Server) -> None:
    client = server.client()
    client.write("Car", packets(1)[0], metadata=(("trackside-ack", "log"),))
    assert all(ring.commit_position == ring.publish_position for ring in server.rings())


@pytest.mark.fact("W8")
@pytest.mark.parametrize(
    ("detail", "field"),
    [
        (None, "detail"),
        (api_pb2.DataPacketDetails(data_source="Car"), "detail.message"),
        (api_pb2.DataPacketDetails(message=Packet(), data_source=""), "detail.data_source"),
        (api_pb2.DataPacketDetails(message=Packet(), data_source="a/b"), "detail.data_source"),
        (api_pb2.DataPacketDetails(message=Packet(), data_source="x" * 300), "detail.data_source"),
        (api_pb2.DataPacketDetails(message=Packet(), data_source="Car", stream="ü"), "detail.stream"),
        (api_pb2.DataPacketDetails(message=Packet(), data_source="Car", session_key="k" * 2000), "detail.session_key"),
        (
            api_pb2.DataPacketDetails(message=Packet(content=bytes(4 << 20)), data_source="Car"),
            "detail.message: 4194309 bytes; a packet may have at most 4128768",
        ),
    ],
)
def test_a_bad_write_is_refused_with_the_field(
    make_server: Callable[..., Server], detail: api_pb2.DataPacketDetails | None, field: str
) -> None:
    client = make_server().start().client()
    with pytest.raises(grpc.RpcError) as caught:
        client.writer.WriteDataPacket(api_pb2.WriteDataPacketRequest(detail=detail), timeout=30, wait_for_ready=True)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(field)


@pytest.mark.fact("W11")
def test_a_bad_item_ends_the_stream_after_everything_before_it(server: Server) -> None:
    client = server.client()
    good = [request_of([packet]) for packet in packets(3)]
    bad = request_of(packets(2, first=9))
    bad.details[1].data_source = "not/possible"
    with pytest.raises(grpc.RpcError) as caught:
        client.writer.WriteDataPackets(iter([*good, bad, *good]), timeout=30)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and error.details().startswith("details[1].data_source")
    assert dict(error.trailing_metadata())["trackside-accepted"] == "3"
    client.write("Car", packets(1, first=50)[0], stream="s")
    assert [r.packet.id for r in client.read(client.connect("Car", streams=["s"]), 4)] == [1, 2, 3, 50]
