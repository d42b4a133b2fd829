"""Metrics of a real server, in both shapes, as Prometheus reads them: exact values, kills, closed connections."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scrape import Scrape, Values, address
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet, PeriodicDataPacket, SampleDataFormat

KEY = "8a7f1c52-0000-4000-8000-000000000001"


def readiness(server: Server) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address(server, "/readyz"), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    client = shared_server.client()
    yield client
    client.close()


@pytest.fixture
def source() -> str:
    return f"Source{uuid.uuid4().hex[:12]}"


def marker(number: int) -> Packet:
    return Packet(type="Marker", id=number, content=b"")


def speeds(number: int) -> Packet:
    content = PeriodicDataPacket(
        data_format=SampleDataFormat(parameter_identifiers={"parameter_identifiers": ["vCar"]}), interval=1
    )
    return Packet(type="PeriodicData", id=number, content=content.SerializeToString())


def write_stream(client: Client, source: str, streams: tuple[str, ...], packets: list[Packet], **call: str) -> None:
    """One WriteDataPackets call of one message, packets to the streams in turn."""
    details = [
        api_pb2.DataPacketDetails(
            message=packet, data_source=source, stream=streams[index % len(streams)], session_key=call.get("key", KEY)
        )
        for index, packet in enumerate(packets)
    ]
    request = api_pb2.WriteDataPacketsRequest(details=details)
    client.writer.WriteDataPackets(iter([request]), timeout=60, wait_for_ready=True)


def received(call: Any, count: int) -> list[Any]:
    """The next packets of a read, which stays open: what was being sent when a client left is not delivered."""
    found: list[Any] = []
    while len(found) < count:
        found.extend(next(call).response)
    return found


def open_read(client: Client, connection: api_pb2.Connection, count: int) -> Any:
    """A ReadPackets call that has brought so many packets."""
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
    assert len(received(call, count)) == count
    return call


def close(client: Client, connection: api_pb2.Connection) -> None:
    request = api_pb2.CloseConnectionRequest(connection=connection)
    assert client.connections.CloseConnection(request, timeout=30, wait_for_ready=True).success


def settled(server: Server, source: str, name: str, expected: Values, *labels: str) -> None:
    """Wait until the server says so, and fail with what it said last."""
    found: Values = {}

    def says() -> bool:
        nonlocal found
        found = Scrape(server).of(source, name, *labels)
        return found == expected

    try:
        wait_until(says, f"{name} {expected}", seconds=30)
    except AssertionError:
        assert found == expected
        raise


# --- written -------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A1", "C7")
def test_what_was_written_is_published_and_routed(shared_server: Server, client: Client, source: str) -> None:
    """Essential copies and refused requests are not counted; bytes are those of packets."""
    for number in range(3):
        client.write(source, marker(number), session_key=KEY)
    write_stream(client, source, ("", "Engine"), [marker(number) for number in range(10)])
    client.write(source, Packet(type="Configuration", is_essential=True, content=b"x" * 100), stream="Engine")
    with pytest.raises(Exception, match="data_source"):
        client.write("", marker(0))
    expected = {("",): 8.0, ("Engine",): 6.0}
    settled(shared_server, source, "data_packets_published_total", expected, "stream")
    settled(shared_server, source, "data_packets_routed_total", expected, "stream")
    sizes = [marker(number).ByteSize() for number in range(10)]
    configuration = Packet(type="Configuration", is_essential=True, content=b"x" * 100).ByteSize()
    in_bytes = {("",): float(sum(sizes[:3]) + sum(sizes[::2])), ("Engine",): float(sum(sizes[1::2]) + configuration)}
    settled(shared_server, source, "data_packets_routed_bytes_total", in_bytes, "stream")


def test_info_packets_are_counted_for_info_and_sessions_for_their_source(
    shared_server: Server, client: Client, source: str
) -> None:
    before = Scrape(shared_server)
    packet = Packet(type="SystemStatus", content=b"fine")
    request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SYSTEM_STATUS)
    for _ in range(3):
        client.writer.WriteInfoPacket(request, timeout=30, wait_for_ready=True)
    new = api_pb2.CreateSessionRequest(data_source=source, identifier="one")
    assert client.sessions.CreateSession(new, timeout=30, wait_for_ready=True).success
    settled(shared_server, source, "info_packets_routed_total", {(): 1.0})

    def grown(name: str) -> float:
        return Scrape(shared_server).of("Info", name).get((), 0) - before.of("Info", name).get((), 0)

    assert grown("info_packets_published_total") == 3
    wait_until(lambda: grown("info_packets_routed_total") == 3, "three info packets in the log")
    assert grown("info_packets_routed_bytes_total") == 3 * packet.ByteSize()


@pytest.mark.fact("S14")
def test_sessions_and_formats_are_counted_at_once(shared_server: Server, client: Client, source: str) -> None:
    """Of this server's own making: the reference counts those of other servers only."""
    for expected in (1.0, 2.0):
        new = api_pb2.CreateSessionRequest(data_source=source)
        assert client.sessions.CreateSession(new, timeout=30, wait_for_ready=True).success
        assert Scrape(shared_server).of(source, "sessions_total") == {(): expected}
    for names in (["a"], ["a", "b"], ["a"]):
        request = api_pb2.GetParameterDataFormatIdRequest(data_source=source, parameters=names)
        client.formats.GetParameterDataFormatId(request, timeout=30, wait_for_ready=True)
    assert Scrape(shared_server).of(source, "data_formats_total") == {(): 2.0}


def test_refusals_are_counted_by_reason(shared_server: Server, client: Client) -> None:
    name, reason = "trackside_refused_total", {"method": "WriteDataPacket", "status": "invalid_argument"}

    def refused() -> float:
        samples = Scrape(shared_server).samples
        return sum(s.value for s in samples if s.name == name and reason.items() <= s.labels.items())

    before = refused()
    with pytest.raises(Exception, match="detail"):
        client.writer.WriteDataPacket(api_pb2.WriteDataPacketRequest(), timeout=30)
    assert refused() == before + 1


def test_latencies_have_samples(shared_server: Server, client: Client, source: str) -> None:
    before = Scrape(shared_server)
    connection = client.connect(source, main_offset=0)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    client.write(source, marker(0))
    next(call)  # the reader is at the live end, or soon
    for number in range(1, 20):
        client.write(source, marker(number))
        next(call)
    call.cancel()
    after = Scrape(shared_server)
    for name in ("trackside_accepted_to_logged_seconds", "trackside_logged_to_sent_seconds"):
        assert after.total(f"{name}_count") >= before.total(f"{name}_count") + 10
        assert after.total(f"{name}_sum") > before.total(f"{name}_sum")


# --- read ----------------------------------------------------------------------------------------------------------

PER_STREAM = ("connection", "stream")


@pytest.mark.fact("R19")
def test_what_was_read_and_delivered_and_that_it_goes_with_the_connection(
    shared_server: Server, client: Client, source: str
) -> None:
    write_stream(client, source, ("", "Engine"), [marker(number) for number in range(10)])
    write_stream(client, source, ("",), [marker(number) for number in range(4)], key="another")
    connection, other = client.connect(source, session_key=KEY), client.connect(source, streams=["Engine"])
    reads = [open_read(client, connection, 10), open_read(client, other, 14)]
    assert Scrape(shared_server).of(source, "connections_total") == {(): 2.0}
    mine, its = str(connection.id), str(other.id)
    expected = {(mine, ""): 5.0, (mine, "Engine"): 5.0, (its, ""): 9.0, (its, "Engine"): 5.0}
    settled(shared_server, source, "data_packets_read_total", expected, *PER_STREAM)
    settled(shared_server, source, "data_packets_delivered_total", expected, *PER_STREAM)
    received = Scrape(shared_server).of(source, "router_messages_received_total", *PER_STREAM, "session_key")
    assert received == {
        (mine, "", KEY): 5.0,
        (mine, "Engine", KEY): 5.0,
        (its, "", KEY): 5.0,
        (its, "", "another"): 4.0,
        (its, "Engine", KEY): 5.0,
    }
    reads[0].cancel()
    close(client, connection)
    left = {labels: count for labels, count in expected.items() if labels[0] == its}
    settled(shared_server, source, "data_packets_read_total", left, *PER_STREAM)
    close(client, other)  # its read is open, and ends by that
    assert list(reads[1]) == []
    for name in ("data_packets_read_total", "data_packets_delivered_total", "router_messages_received_total"):
        settled(shared_server, source, name, {}, *PER_STREAM)
    assert mine not in str(Scrape(shared_server).samples)
    assert Scrape(shared_server).of(source, "connections_total") == {}


@pytest.mark.fact("R19")
def test_a_filtered_read_delivers_what_passes_the_filter(shared_server: Server, client: Client, source: str) -> None:
    write_stream(client, source, ("",), [marker(1), speeds(2), marker(3), speeds(4), speeds(5)])
    connection = client.connect(source)
    wanted = api_pb2.DataPacketRequest(connection=connection, include_parameters=["^vCar$"], include_markers=False)
    call = client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=wanted), timeout=60)
    assert [response.packet.id for response in received(call, 3)] == [2, 4, 5]
    settled(shared_server, source, "data_packets_read_total", {(str(connection.id), ""): 5.0}, *PER_STREAM)
    settled(shared_server, source, "data_packets_delivered_total", {(str(connection.id), ""): 3.0}, *PER_STREAM)
    close(client, connection)


def test_essentials_are_counted_for_themselves(shared_server: Server, client: Client, source: str) -> None:
    for number in range(3):
        client.write(source, Packet(type="Configuration", id=number, is_essential=True))
    settled(shared_server, source, "data_packets_routed_total", {(): 3.0})
    connection = client.connect(source)
    request = api_pb2.ReadEssentialsRequest(connection=connection)
    assert sum(len(answer.response) for answer in client.reader.ReadEssentials(request, timeout=60)) == 3
    expected = {(str(connection.id),): 3.0}
    settled(shared_server, source, "essential_packets_read_total", expected, "connection")
    settled(shared_server, source, "essential_packets_delivered_total", expected, "connection")
    assert Scrape(shared_server).of(source, "data_packets_read_total") == {}
    close(client, connection)
    settled(shared_server, source, "essential_packets_read_total", {}, "connection")


# --- processes -----------------------------------------------------------------------------------------------------


def test_one_scrape_has_every_process_and_ring(shared_server: Server) -> None:
    samples = Scrape(shared_server).samples
    names = {process["name"] for process in shared_server.described()["processes"]}
    for name in ("worker_up", "worker_restarts_total", "worker_heartbeat_age_seconds", "worker_resident_bytes"):
        assert {sample.labels["worker"] for sample in samples if sample.name == f"trackside_{name}"} == names
    links = {(link["peer"], link["worker"]) for link in shared_server.described()["links"]}
    rings = {f"{a}>{b}" for pair in links for a, b in (pair, pair[::-1])}
    assert {sample.labels["ring"] for sample in samples if sample.name == "trackside_ring_used_ratio"} == rings


def test_nothing_goes_back_when_processes_are_killed(shared_server: Server, source: str) -> None:
    """Each kind once, with a connection open; its rows outlive the gateways, and go when it is closed."""
    client = shared_server.client()
    connection = client.connect(source, session_key=KEY)
    client.write(source, marker(0), session_key=KEY)
    client.read(connection, 1)
    before = Scrape(shared_server)
    victims = [name for role in ("gateway", "producer", "consumer") for name in shared_server.names(role)]
    for number, name in enumerate([*victims, "control-plane"], 1):
        shared_server.kill(name)
        client.write(source, marker(number), session_key=KEY)
    written = 1 + len(victims) + 1
    settled(shared_server, source, "data_packets_routed_total", {("",): float(written)}, "stream")
    after = Scrape(shared_server)
    went_back = {key: (value, after.counters().get(key)) for key, value in before.counters().items()}
    assert not {key: pair for key, pair in went_back.items() if pair[1] is None or pair[1] < pair[0]}
    restarts = after.total("trackside_worker_restarts_total") - before.total("trackside_worker_restarts_total")
    assert restarts == len(victims) + 1
    assert after.of(source, "data_packets_published_total", "stream") == {("",): float(written)}
    close(client, connection)
    settled(shared_server, source, "data_packets_read_total", {}, "connection")
    client.close()


# --- the port ------------------------------------------------------------------------------------------------------


def test_ready_while_the_server_serves(shared_server: Server) -> None:
    assert readiness(shared_server) == (200, "ready\n")
    assert urllib.request.urlopen(address(shared_server, "/livez"), timeout=30).status == 200


def test_not_ready_without_a_log(make_server: Callable[..., Server]) -> None:
    """Nobody answers at the broker's address: the server is up, says why it does not serve, and is scraped."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = make_server(broker=f"127.0.0.1:{nobody.getsockname()[1]}").start(wait=False)
        server.wait_state("NOT_SERVING")
        code, text = readiness(server)
        assert code == 503 and text.startswith("not serving: ") and len(text) > len("not serving: \n")
        scrape = Scrape(server)
        assert scrape.total("trackside_serving") == 0 and scrape.total("trackside_info") == 1


def test_a_port_in_use_is_said_at_the_start(make_server: Callable[..., Server]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = make_server("1/1/1", "--status-port", str(port)).start(wait=False)
        assert server.process is not None
        try:
            assert server.process.wait(60) == 73
        except subprocess.TimeoutExpired:
            pytest.fail("it started")
    assert f"PrometheusMetricPort {port} on 127.0.0.1: Address already in use" in server.log_text()
