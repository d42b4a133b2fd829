"""Tokens on a real server: what each of them may call, whose connections are whose, and tokens that change.

The calls are made from the descriptors and the table of rights, so that a new method is tried without being named here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
import msgspec
import pytest
from bad_input import told
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server import SHAPES, Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.access import CALLER_METADATA, Grant
from trackside.data_plane.rights import CONNECTION, NEEDS, RIGHTS, SESSION
from trackside.data_plane.tokens_file import hash_of
from trackside.shm.liveness import WorkerState

SECONDS = 30
OPEN_SECONDS = 0.3
"""How long a read or a notification is left open, that is allowed and has nothing to say."""

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (api_pb2.DESCRIPTOR, key_generator_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}
REFLECTION = [path for path in NEEDS if path not in METHODS]

TOKENS: dict[str, dict[str, Sequence[str]]] = {
    "car": {right: ["Car"] for right in RIGHTS},
    "boat": {right: ["Boat", "Car44", "car"] for right in RIGHTS},
    "all": {right: ["*"] for right in RIGHTS},
    "only-read": {"read": ["Car*"]},
    "only-write": {"write": ["C*"]},
    "only-manage": {"manage": ["Car"]},
    "write-all": {"write": ["*"]},
    "nothing": {},
}


def token_of(name: str) -> str:
    return f"s3cret-token-of-{name}"


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token_of(name)}"),)


def write_tokens(server: Server, tokens: dict[str, dict[str, Sequence[str]]], **more: str) -> None:
    """``more`` are further tokens of a name."""
    rows = [
        {"name": name, "sha256": [hash_of(token_of(name)), *([hash_of(more[name])] if name in more else [])], **rights}
        for name, rights in tokens.items()
    ]
    path = server.folder / "tokens.json"
    aside = server.folder / "tokens.json.new"
    aside.write_text(json.dumps({"tokens": rows}))
    os.replace(aside, path)


def change_tokens(server: Server, tokens: dict[str, dict[str, Sequence[str]]], **more: str) -> None:
    """Until every gateway has taken them. They must differ from those before."""

    def reloads() -> Counter[str]:
        return Counter(re.findall(r"(gateway-\d+) tokens reloaded", server.log_text()))

    before = reloads()
    write_tokens(server, tokens, **more)
    names = server.names("gateway")
    wait_until(lambda: all(reloads()[name] > before[name] for name in names), "all gateways have the new tokens")


class _WithToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):  # type: ignore[misc]
    """Sends a token with every call that has no metadata of its own."""

    def __init__(self, name: str) -> None:
        self._metadata = bearer(name)

    def _send(self, go_on: Any, details: Any, request: Any) -> Any:
        return go_on(details._replace(metadata=details.metadata or self._metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _send


def client_of(server: Server, name: str) -> Client:
    return Client(grpc.intercept_channel(server.channel(), _WithToken(name)))


@pytest.fixture(scope="module", params=SHAPES)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("tokens"), request.param)
    server.environment["TRACKSIDE_TOKENS_FILE"] = str(server.folder / "tokens.json")
    write_tokens(server, TOKENS)
    yield server.start()
    server.remove()


class Things:
    """What of data source Car there is to call about."""

    def __init__(self, server: Server) -> None:
        client = client_of(server, "car")
        self.connection = client.connect("Car").id
        created = api_pb2.CreateSessionRequest(data_source="Car")
        self.session = client.sessions.CreateSession(created, timeout=SECONDS).session_key
        client.close()


@pytest.fixture(scope="module")
def car(guarded: Server) -> Things:
    return Things(guarded)


def request_about(path: str, car: Things, data_source: str = "Car") -> bytes:
    """A good request of the method, about ``data_source`` or what there is of Car."""
    request: Any = message_factory.GetMessageClass(METHODS[path].input_type)()
    source = NEEDS[path].source
    if source == SESSION:
        request.session_key = car.session
    elif source == CONNECTION:
        inner = request.request if "request" in METHODS[path].input_type.fields_by_name else request
        inner.connection.id = car.connection
    elif NEEDS[path].right is not None and "." not in source and source != "*":
        request.data_source = data_source
    for field in ("detail", "details", "message"):
        described = METHODS[path].input_type.fields_by_name.get(field)
        if described is None or described.message_type is None or described.message_type.name == "DetailsEntry":
            continue
        part = request.details.add() if field == "details" and "Write" in path else getattr(request, field)
        part.SetInParent()
        if hasattr(part, "data_source"):
            part.data_source = data_source
        if hasattr(part, "message"):
            part.message.type = "RowData"
    if path.endswith("GenerateUniqueKey"):
        request.type = key_generator_pb2.KEY_TYPE_STRING
    return bytes(request.SerializeToString())


def answer(
    channel: grpc.Channel, path: str, request: bytes, metadata: Any, *, open_seconds: float = SECONDS
) -> tuple[str, str]:
    """Status and details; a stream that the server leaves open for ``open_seconds`` is OK."""
    method = METHODS.get(path)
    try:
        if method is None:
            list(channel.stream_stream(path)(iter([request]), timeout=SECONDS, metadata=metadata))
        elif method.client_streaming:
            channel.stream_unary(path)(iter([request]), timeout=SECONDS, metadata=metadata)
        elif method.server_streaming:
            for _ in channel.unary_stream(path)(request, timeout=open_seconds, metadata=metadata):
                break
        else:
            channel.unary_unary(path)(request, timeout=SECONDS, metadata=metadata)
    except grpc.RpcError as error:
        if method is not None and method.server_streaming and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return "OK", ""
        return error.code().name, error.details() or ""
    return "OK", ""


# -- who may call what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "answer_begins"),
    [
        ((), told("no token")),
        ((("authorization", ""),), told("no bearer")),
        ((("authorization", "Bearer nobody"),), told("unknown token")),
        ((("authorization", token_of("all")),), told("no bearer")),
        ((("authorization", f"Basic {token_of('all')}"),), told("no bearer")),
        ((("authorization", f"Bearer {hash_of(token_of('all'))}"),), told("unknown token")),
        ((*bearer("all"), *bearer("all")), told("two tokens")),
        ((*bearer("nobody"), *bearer("all")), told("two tokens")),
        (
            (
                ("trackside-token", token_of("all")),
                (CALLER_METADATA, msgspec.msgpack.encode(Grant("all", ["*"], ["*"]))),
            ),
            told("no token"),
        ),
    ],
)
def test_who_has_no_token_can_call_nothing(guarded: Server, car: Things, metadata: Any, answer_begins: str) -> None:
    with guarded.channel() as channel:
        for path in NEEDS:
            request = request_about(path, car) if path in METHODS else b""
            status, details = answer(channel, path, request, metadata)
            assert status == "UNAUTHENTICATED", (path, details)
            assert details.startswith(answer_begins) and "s3cret" not in details


def test_health_is_open(guarded: Server) -> None:
    with guarded.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == 1


def test_a_token_for_other_data_sources_can_do_nothing_here(guarded: Server, car: Things) -> None:
    """Not even one that pretends, in the metadata that gateways use among themselves, to be another."""
    forged = ((CALLER_METADATA, msgspec.msgpack.encode(Grant("car", ["*"], ["*"], ["*"]))),)
    with guarded.channel() as channel:
        for path, need in NEEDS.items():
            request = request_about(path, car) if path in METHODS else b""
            status, details = answer(channel, path, request, (*bearer("boat"), *forged))
            if need.right is None:
                assert status == "OK", (path, details)
                continue
            assert status == "PERMISSION_DENIED", (path, details)
            assert "token boat" in details and "s3cret" not in details
            if need.source != CONNECTION:
                assert f"no right to {need.right}" in details
                assert "'Car'" in details or "all data sources" in details


@pytest.mark.parametrize("name", ["only-read", "only-write", "only-manage", "write-all", "nothing", "all", "car"])
def test_a_right_is_good_for_what_the_table_says(guarded: Server, name: str) -> None:
    """Each method, with things of its own where the token can make them, else with those that ``all`` has made."""
    granted = TOKENS[name]
    things = Things(guarded)
    with guarded.channel() as channel:
        if "read" in granted:
            client = client_of(guarded, name)
            things.connection = client.connect("Car").id
            client.close()
        last = [path for path in NEEDS if path.endswith("/CloseConnection")]
        for path in [*(path for path in NEEDS if path not in last), *last]:
            need = NEEDS[path]
            allowed = need.right is None or bool(granted.get(need.right))
            if need.source == "*":
                allowed = list(granted.get("write", [])) == ["*"]
            request = request_about(path, things) if path in METHODS else b""
            seconds = OPEN_SECONDS if allowed else SECONDS
            status, details = answer(channel, path, request, bearer(name), open_seconds=seconds)
            assert status == ("OK" if allowed else "PERMISSION_DENIED"), (path, details)


def test_a_right_holds_for_what_lies_below(guarded: Server) -> None:
    """The topic of data source Car.Front is that of stream Front of Car: they cannot be kept apart."""
    client = client_of(guarded, "car")
    client.write("Car.Front", Packet(type="RowData", id=7))
    assert [found.packet.id for found in client.read(client.connect("Car.Front"), 1)] == [7]
    for other in ("Car44", "car", "Ca", "Boat.Car"):
        with pytest.raises(grpc.RpcError) as caught:
            client.write(other, Packet(type="RowData"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == told("no right", "car") + f"write data source {other!r}"
    client.close()


def test_a_stream_of_writes_stops_at_the_first_message_that_is_not_allowed(guarded: Server) -> None:
    """Of which nothing is left behind, and of those before it everything is accepted."""

    def message(*packets: tuple[str, int]) -> api_pb2.WriteDataPacketsRequest:
        details = [
            api_pb2.DataPacketDetails(data_source=source, stream="s", message=Packet(type="RowData", id=number))
            for source, number in packets
        ]
        return api_pb2.WriteDataPacketsRequest(details=details)

    client = client_of(guarded, "car")
    messages = [message(("Car.W", 1)), message(("Car.W", 2), ("Boat.W", 3)), message(("Car.W", 4))]
    with pytest.raises(grpc.RpcError) as caught:
        client.writer.WriteDataPackets(iter(messages), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "token car has no right to write data source 'Boat.W'"
    assert dict(caught.value.trailing_metadata())["trackside-accepted"] == "1"
    client.write("Car.W", Packet(type="RowData", id=5), stream="s")
    connection = client.connect("Car.W", streams=["s"], exclude_main_stream=True)
    assert [found.packet.id for found in client.read(connection, 2)] == [1, 5]
    client.close()


# -- connections --------------------------------------------------------------------------------------------------------


def test_a_connection_is_its_makers_also_after_deaths(guarded: Server) -> None:
    """Another token with the same rights, and even one with all of them, cannot use it."""
    car, everybody = client_of(guarded, "car"), client_of(guarded, "all")
    car.write("Car", Packet(type="RowData", id=1))
    mine, theirs = car.connect("Car"), everybody.connect("Car")
    for name in ("control-plane", "gateway-0"):
        guarded.kill(name)
        wait_until(lambda: guarded.described()["state"] == "SERVING", "all serve")
        for client, name, own, other in ((car, "car", mine, theirs), (everybody, "all", theirs, mine)):
            assert client.read(own, 1)
            for call, request in (
                (client.connections.GetConnection, api_pb2.GetConnectionRequest(connection=other)),
                (client.connections.CloseConnection, api_pb2.CloseConnectionRequest(connection=other)),
                (client.reader.ReadPackets, api_pb2.ReadPacketsRequest(connection=other)),
                (client.reader.ReadEssentials, api_pb2.ReadEssentialsRequest(connection=other)),
            ):
                assert denied(call, request) == told("not the owner", name) + ", and belongs to who made it"
    found = car.connections.GetConnection(api_pb2.GetConnectionRequest(connection=mine), timeout=SECONDS)
    assert found.details.data_source == "Car"
    car.close()
    everybody.close()


def denied(call: Callable[..., Any], request: Any) -> str:
    try:
        found = call(request, timeout=SECONDS, wait_for_ready=True)
        if isinstance(found, Iterable):
            list(found)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, error.details()
        return str(error.details())
    raise AssertionError("it was allowed")


# -- hostile metadata ---------------------------------------------------------------------------------------------------


def test_large_and_many_metadata_harm_nobody(guarded: Server, car: Things) -> None:
    path = "/ma.streaming.api.v1.SessionManagementService/GetCurrentSessions"
    request = request_about(path, car)
    with guarded.channel() as channel:
        for more in (
            [("x", "y" * 7000)],
            [(f"x{number}", "y") for number in range(100)],
            [("x", "y" * 1_000_000)],
            [("grpc-timeout-", "1"), ("te", "trailers"), ("trackside-ack", "log"), ("x-bin", bytes(3000))],
        ):
            status, details = answer(channel, path, request, (*bearer("car"), *more))
            assert status in ("OK", "RESOURCE_EXHAUSTED"), details
        assert answer(channel, path, request, bearer("car")) == ("OK", "")


# -- tokens that change -------------------------------------------------------------------------------------------------


class Reading(threading.Thread):
    """An open read; ``status`` is how it ended."""

    def __init__(self, client: Client, connection: api_pb2.Connection) -> None:
        super().__init__(daemon=True)
        self._call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
        self.ids: list[int] = []
        self.status = self.details = ""
        self.start()

    def run(self) -> None:
        try:
            for response in self._call:
                self.ids += [found.packet.id for found in response.response]
        except grpc.RpcError as error:
            self.status, self.details = error.code().name, error.details() or ""


def test_tokens_change_while_calls_are_open(guarded: Server) -> None:
    car, boat, everybody = (client_of(guarded, name) for name in ("car", "boat", "all"))
    reading = {name: Reading(client, client.connect(source)) for name, client, source in (
        ("car", car, "Car.R"), ("boat", boat, "Boat.R"), ("all", everybody, "Car.R"),
    )}  # fmt: skip
    everybody.write("Car.R", Packet(type="RowData", id=1))
    everybody.write("Boat.R", Packet(type="RowData", id=2))
    wait_until(lambda: all(one.ids for one in reading.values()), "all read")

    (guarded.folder / "tokens.json").write_text("{")
    gateways = len(guarded.names("gateway"))
    wait_until(lambda: guarded.log_text().count("tokens not usable") >= gateways, "the bad file was seen")
    everybody.write("Car.R", Packet(type="RowData", id=3))
    wait_until(lambda: reading["car"].ids == reading["all"].ids == [1, 3], "nobody was harmed")

    changed = {**TOKENS, "boat": {"read": ["Boat"]}}
    change_tokens(guarded, changed, all="another")
    wait_until(lambda: reading["boat"].status, "its rights have changed, so it ends")
    del changed["car"]
    change_tokens(guarded, changed, all="another")
    wait_until(lambda: reading["car"].status, "it has no token any more, so it ends")
    for name in ("car", "boat"):
        assert (reading[name].status, reading[name].details) == (
            "UNAUTHENTICATED",
            told("token withdrawn") + " changed; call again",
        )
    everybody.write("Car.R", Packet(type="RowData", id=4))
    wait_until(lambda: reading["all"].ids == [1, 3, 4], "others notice nothing")
    assert not reading["all"].status
    with guarded.channel() as channel:
        path = "/ma.streaming.api.v1.SessionManagementService/GetCurrentSessions"
        request = api_pb2.GetCurrentSessionsRequest(data_source="Car").SerializeToString()
        assert answer(channel, path, request, bearer("car"))[0] == "UNAUTHENTICATED"
        assert answer(channel, path, request, (("authorization", "Bearer another"),)) == ("OK", "")
    change_tokens(guarded, TOKENS)
    with guarded.channel() as channel:
        assert answer(channel, path, request, bearer("car")) == ("OK", "")
    for client in (car, boat, everybody):
        client.close()


def test_a_gateway_that_finds_no_good_file_waits_for_one(guarded: Server) -> None:
    """It does not let everybody in."""
    (guarded.folder / "tokens.json").unlink()
    liveness = guarded.liveness("gateway-0")
    epoch = liveness.epoch
    guarded.send("gateway-0", signal.SIGKILL)
    wait_until(lambda: liveness.epoch > epoch and liveness.state == WorkerState.DEGRADED, "it says that it waits")
    assert "tokens not usable" in liveness.read_reason()
    write_tokens(guarded, TOKENS)
    wait_until(lambda: liveness.state == WorkerState.READY, "it serves")
    wait_until(lambda: guarded.described()["state"] == "SERVING", "all serve")
    client = client_of(guarded, "car")
    assert client.connect("Car").id
    client.close()


def test_no_token_was_written_anywhere(guarded: Server) -> None:
    """Stands last. Who was kept out is in the log, by name; the tokens, and their hashes, are not."""
    assert "denied" in guarded.log_text() and "token boat has no right" in guarded.log_text()
    assert "Traceback" not in guarded.log_text()
    for path in (*guarded.run_dir.rglob("*"), *guarded.data_dir.rglob("*"), guarded.log_file):
        if path.is_file() and path.stat().st_size < 32 << 20:
            data = path.read_bytes()
            for name in TOKENS:
                assert token_of(name).encode() not in data, path
                assert hash_of(token_of(name)).encode() not in data, path
