"""Refusals of a real server, one of each kind: the status that the client hears, a counter, and a line in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from scrape import Scrape
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2

SERVER_ENVIRONMENT = {"TRACKSIDE_CONNECTIONS_MAX": "1"}


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    client = shared_server.client()
    yield client
    client.close()


def counted(server: Server, **labels: str) -> float:
    return sum(
        sample.value
        for sample in Scrape(server).samples
        if sample.name == "trackside_refused_total" and labels.items() <= sample.labels.items()
    )


def raw(client: Client, path: str) -> Any:
    return client.channel.unary_unary(path)(b"\xff\xff", timeout=30, wait_for_ready=True)


def read(client: Client, **fields: Any) -> Any:
    return next(client.reader.ReadPackets(api_pb2.ReadPacketsRequest(**fields), timeout=30, wait_for_ready=True))


API = "/ma.streaming.api.v1"
CASES: dict[str, tuple[Callable[[Client], Any], str, str, str]] = {
    "a write": (
        lambda client: client.writer.WriteDataPacket(api_pb2.WriteDataPacketRequest(), timeout=30, wait_for_ready=True),
        "WriteDataPacket",
        "invalid_argument",
        "detail: missing",
    ),
    "a read without a connection": (
        lambda client: read(client),
        "ReadPackets",
        "invalid_argument",
        "connection: missing",
    ),
    "a control call": (
        lambda client: client.connections.NewConnection(
            api_pb2.NewConnectionRequest(), timeout=30, wait_for_ready=True
        ),
        "NewConnection",
        "invalid_argument",
        "details: missing",
    ),
    "what cannot be read": (
        lambda client: raw(client, f"{API}.PacketWriterService/WriteInfoPacket"),
        "WriteInfoPacket",
        "invalid_argument",
        "request: not readable",
    ),
    "a health check that cannot be read": (
        lambda client: raw(client, "/grpc.health.v1.Health/Check"),
        "Check",
        "invalid_argument",
        "request: not readable",
    ),
    "a method that is none": (
        lambda client: raw(client, "/nobody.Knows/This"),
        "other",
        "unimplemented",
        "no method /nobody.Knows/This",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_refusal_is_counted_and_logged(shared_server: Server, client: Client, case: str) -> None:
    ask, method, status, reason = CASES[case]
    before = counted(shared_server, method=method, status=status)
    with pytest.raises(grpc.RpcError) as refused:
        ask(client)
    assert refused.value.code().name.lower() == status
    wait_until(lambda: counted(shared_server, method=method, status=status) == before + 1, "the counter")
    line = f'refused method="{method}" status="{status}" peer='
    found = [text for text in shared_server.log_text().splitlines() if line in text and reason in text]
    assert len(found) == 1 and " warn  gateway-" in found[0] and found[0].endswith(" times=1")


def test_a_limit_of_the_control_plane_is_counted_by_its_key_and_the_call_by_its_gateway(
    shared_server: Server, client: Client
) -> None:
    connection = client.connect("Car")
    with pytest.raises(grpc.RpcError, match=r"ConnectionsMax = 1: "):
        client.connect("Car")
    samples = [sample for sample in Scrape(shared_server).samples if sample.name == "trackside_limited_total"]
    assert {(s.labels["worker"], s.labels["limit"]) for s in samples if s.value} == {
        ("control-plane", "ConnectionsMax")
    }
    assert counted(shared_server, method="NewConnection", status="resource_exhausted") == 1
    assert counted(shared_server, worker="control-plane") == 0
    client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), timeout=30)


def test_the_tcp_connections_of_a_gateway_are_seen(shared_server: Server, client: Client) -> None:
    client.connections.GetConnection(
        api_pb2.GetConnectionRequest(connection=api_pb2.Connection(id=1)), timeout=30, wait_for_ready=True
    )
    wait_until(
        lambda: Scrape(shared_server).total("trackside_gateway_tcp_connections") >= 1, "this client's connection"
    )
