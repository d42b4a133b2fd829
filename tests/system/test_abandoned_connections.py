"""Connections that nobody uses are closed after ConnectionIdleSeconds, over a restart of the control plane."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from bad_input import told
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters


def expired_of(server: Server) -> set[int]:
    """As the log says it: to ask with GetConnection would be a use."""
    lines = [line for line in server.log_text().splitlines() if "abandoned connection closed" in line]
    return {int(word.removeprefix("connection=")) for line in lines for word in line.split() if "connection=" in word}


def rows_of(server: Server, connection: int) -> int:
    """Counters with this connection in a label, of all gateways."""
    rows = [row for name in server.names("gateway") for row in read_counters(Path(server.slot(name)["counters"]))]
    return sum(labels.get("connection") == str(connection) for _, labels, _ in rows)


def details_of(client: Client, connection: api_pb2.Connection) -> bool:
    request = api_pb2.GetConnectionRequest(connection=connection)
    return bool(client.connections.GetConnection(request, timeout=30, wait_for_ready=True).HasField("details"))


def test_abandoned_connections_expire_and_those_in_use_do_not(make_server: Callable[..., Server]) -> None:
    server = make_server("2/2/2")
    server.environment = {"TRACKSIDE_CONNECTION_IDLE_SECONDS": "6"}
    server.start()
    client, source = server.client(), f"Source{uuid.uuid4().hex[:12]}"
    client.write(source, Packet(id=1))
    read = client.connect(source)
    reading = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=read), timeout=300)
    assert next(reading).response[0].packet.id == 1
    abandoned = client.connect(source)
    assert client.read(abandoned, 1)[0].packet.id == 1
    never_read = client.connect(source)
    assert rows_of(server, abandoned.id)
    server.kill("control-plane")
    wait_until(lambda: expired_of(server) == {abandoned.id, never_read.id}, "those that nobody uses have expired")
    wait_until(lambda: not rows_of(server, abandoned.id), "its counters have gone with it")
    assert details_of(client, read) and not details_of(client, abandoned) and not details_of(client, never_read)
    client.write(source, Packet(id=2))
    assert next(reading).response[0].packet.id == 2
    counters = read_counters(Path(server.slot("control-plane")["counters"]))
    assert sum(value for name, _, value in counters if name == "trackside_connections_expired_total") == 2
    reading.cancel()
    client.close()


def test_the_number_of_connections_has_a_limit(make_server: Callable[..., Server]) -> None:
    server = make_server("1/1/1")
    server.environment = {"TRACKSIDE_CONNECTIONS_MAX": "3"}
    server.start()
    client = server.client()
    connections = [client.connect("Car") for _ in range(3)]
    with pytest.raises(grpc.RpcError) as caught:
        client.connect("Car")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details().startswith(told("ConnectionsMax", 3))
    client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connections[0]), timeout=30)
    assert client.connect("Car")
    client.close()
