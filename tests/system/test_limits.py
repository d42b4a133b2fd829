"""Limits on what clients may hold and send: refused with the limit's name, value and what was asked; nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input import told
from relay import relay_from
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters

KIB, MIB = 1 << 10, 1 << 20
CALLS, CALLS_PER_PEER, TCP_CONNECTIONS = 9, 5, 40
BYTES_PER_SECOND = 256 * KIB
PACKETS_PER_MESSAGE = 10_000

SERVER_ENVIRONMENT = {
    "TRACKSIDE_OPEN_CALLS_MAX": str(CALLS),
    "TRACKSIDE_OPEN_CALLS_PER_PEER": str(CALLS_PER_PEER),
    "TRACKSIDE_TCP_CONNECTIONS_MAX": str(TCP_CONNECTIONS),
    "TRACKSIDE_BYTES_PER_SECOND_PER_PEER": str(BYTES_PER_SECOND),
    "TRACKSIDE_PACKETS_PER_MESSAGE": str(PACKETS_PER_MESSAGE),
    "TRACKSIDE_WRITE_WAIT_SECONDS": "1",
}


@pytest.fixture
def source() -> str:
    return f"Source{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def client_from(server: Server, address: str) -> Iterator[Client]:
    """A client on one gateway, by its one connection, that seems to be on another host."""
    with relay_from(address, server.port) as port:
        options = [("grpc.use_local_subchannel_pool", 1)]
        client = Client(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
        grpc.channel_ready_future(client.channel).result(60)
        yield client
        client.close()


def limited(server: Server, limit: str) -> int:
    """Sum over all gateways."""
    rows = [row for name in server.names("gateway") for row in read_counters(Path(server.slot(name)["counters"]))]
    name = "trackside_limited_total"
    return sum(value for found, labels, value in rows if found == name and labels == {"limit": limit})


def open_reads(client: Client, connection: api_pb2.Connection, count: int) -> list[Any]:
    """So many open reads that have brought their first packet."""
    calls = []
    for _ in range(count):
        call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=300)
        next(call)
        calls.append(call)
    return calls


def refusal(client: Client, connection: api_pb2.Connection) -> str:
    """Why one more read is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        next(client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return str(caught.value.details())


def test_one_peer_may_hold_so_many_calls_and_leaves_the_rest_to_others(shared_server: Server, source: str) -> None:
    server, before = shared_server, limited(shared_server, "OpenCallsPerPeer")
    with client_from(server, "127.0.0.2") as greedy:
        greedy.write(source, Packet(id=1))
        connection = greedy.connect(source)
        calls = open_reads(greedy, connection, CALLS_PER_PEER)
        assert refusal(greedy, connection) == (
            told("OpenCallsPerPeer", CALLS_PER_PEER)
            + " ipv4:127.0.0.2 are open on this gateway, and it asked for one more; end some"
        )
        with client_from(server, "127.0.0.3") as other:
            other.write(source, Packet(id=2))
            assert len(other.read(connection, 2)) == 2
        assert limited(server, "OpenCallsPerPeer") == before + 1
        assert f'reason="OpenCallsPerPeer = {CALLS_PER_PEER}: ' in server.log_text()
        calls.pop().cancel()

        def has_room() -> bool:
            try:
                greedy.write(source, Packet(id=3), timeout=30)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                return False
            return True

        wait_until(has_room, "a call that ended makes room")


def test_all_calls_of_a_gateway_are_bounded_and_health_is_answered(shared_server: Server, source: str) -> None:
    """With more gateways than one, connections are spread by the kernel: clients are made until one has enough."""
    server = shared_server
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(client_from(server, "127.0.0.4"))
        first.write(source, Packet(id=1))
        connection = first.connect(source)
        peers, calls = iter(range(10, 30)), []
        while True:
            client = stack.enter_context(client_from(server, f"127.0.0.{next(peers)}"))
            try:
                calls += open_reads(client, connection, CALLS_PER_PEER - 1)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert error.details().startswith(told("OpenCallsMax", CALLS))
                break
        check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=60) == b"\x08\x01"
    wait_until(lambda: _is_served(server, source), "room again when they have gone")


def _is_served(server: Server, source: str) -> bool:
    with client_from(server, "127.0.0.5") as client:
        try:
            client.write(source, Packet(id=2))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False
        return True


def test_a_peer_that_sends_too_fast_is_held_back_and_then_refused(shared_server: Server, source: str) -> None:
    """Its stream says how far it came; a peer that does not is served beside it."""
    content = bytes(3 * MIB)

    def message(number: int) -> api_pb2.WriteDataPacketsRequest:
        packet = Packet(type="RowData", id=number, content=content)
        return api_pb2.WriteDataPacketsRequest(details=[api_pb2.DataPacketDetails(message=packet, data_source=source)])

    with client_from(shared_server, "127.0.0.6") as fast, client_from(shared_server, "127.0.0.7") as calm:
        with pytest.raises(grpc.RpcError) as caught:
            fast.writer.WriteDataPackets((message(number) for number in range(3)), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        limit = told("BytesPerSecondPerPeer", BYTES_PER_SECOND)
        assert caught.value.details().startswith(f"{limit}ipv4:127.0.0.6 sends more bytes")
        assert dict(caught.value.trailing_metadata())["trackside-accepted"] == "1"
        with pytest.raises(grpc.RpcError) as caught:  # control calls are counted as well
            fast.connect(source)
        assert "BytesPerSecondPerPeer" in caught.value.details()
        calm.write(source, Packet(id=9))
        assert [one.packet.id for one in calm.read(calm.connect(source), 2)] == [0, 9]


def test_a_message_of_very_many_packets_is_taken_whole_and_one_of_too_many_is_refused(
    shared_server: Server, source: str
) -> None:
    detail = api_pb2.DataPacketDetails(message=Packet(id=1), data_source=source)
    full = api_pb2.WriteDataPacketsRequest(details=[detail]).SerializeToString() * PACKETS_PER_MESSAGE
    with client_from(shared_server, "127.0.0.8") as client:
        write = client.channel.stream_unary(f"/{api_pb2.DESCRIPTOR.package}.PacketWriterService/WriteDataPackets")
        write(iter([full]), timeout=60)
        assert len(client.read(client.connect(source), PACKETS_PER_MESSAGE)) == PACKETS_PER_MESSAGE
        with pytest.raises(grpc.RpcError) as caught:
            write(iter([full + full[: len(full) // PACKETS_PER_MESSAGE]]), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        limit = told("PacketsPerMessage", PACKETS_PER_MESSAGE)
        assert caught.value.details() == f"{limit}{PACKETS_PER_MESSAGE + 1} packets; send it in parts"
        bad = api_pb2.WriteDataPacketsRequest(details=[api_pb2.DataPacketDetails(data_source=source)])
        with pytest.raises(grpc.RpcError) as caught:
            write(iter([full[: len(full) // 2] + bad.SerializeToString()]), timeout=60)
        assert caught.value.details() == f"details[{PACKETS_PER_MESSAGE // 2}].message: missing"


def test_one_connection_too_many_is_closed_at_once(shared_server: Server, source: str) -> None:
    """gRPC has no words for it; and there is room again when others have gone."""
    count = 3 * TCP_CONNECTIONS  # more than two gateways take
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", shared_server.port))) for _ in range(count)
        ]
        for one in sockets:
            one.setblocking(False)

        def closed() -> int:
            return sum(map(_is_closed, sockets))

        gateways = len(shared_server.names("gateway"))
        wait_until(lambda: closed() >= count - gateways * TCP_CONNECTIONS, "those beyond are closed")
    wait_until(lambda: _is_served(shared_server, source), "room again when they have gone")


def _is_closed(one: socket.socket) -> bool:
    """Whether the other end has closed; what it sent is thrown away."""
    try:
        while one.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
