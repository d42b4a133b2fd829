"""Every row of the table of bad input is sent to one real server and gets the answer that the table says."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from bad_input import EVERY_REQUEST, METHODS, TOLD, Bad, Given, Method, fields_of, page
from google.protobuf.message import Message
from project_tree import ROOT
from server import Client, Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.metrics import LIMITS

SECONDS = 60.0
METHOD_IDS = [method.path.rpartition(".")[2] for method in METHODS]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bad-input"))
    yield server.start()
    server.remove()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    client = server.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def given(client: Client) -> Given:
    client.write("Far.1", Packet(), stream="a.b")
    request = api_pb2.CreateSessionRequest(data_source="Car")
    return Given(client.sessions.CreateSession(request, timeout=SECONDS).session_key, client.connect("Car"))


def answer(client: Client, method: Method, request: bytes) -> tuple[str, str, list[bytes]]:
    """Status, message and the replies of one call with raw bytes."""
    kind = method.descriptor
    try:
        if kind.server_streaming:
            replies = list(client.channel.unary_stream(method.path)(request, timeout=SECONDS))
        elif kind.client_streaming:
            replies = [client.channel.stream_unary(method.path)(iter([request]), timeout=SECONDS)]
        else:
            replies = [client.channel.unary_unary(method.path)(request, timeout=SECONDS)]
    except grpc.RpcError as error:
        return error.code().name, error.details() or "", []
    return "OK", "", replies


def check(client: Client, method: Method, bad: Bad, request: bytes) -> None:
    status, message, replies = answer(client, method, request)
    assert (status, message[: len(bad.message)]) == (bad.status, bad.message), f"{bad.shown}: {message}"
    assert "\n" not in message
    if status == "OK":
        expected: list[Message] = [] if bad.reply is None else [bad.reply]
        assert [type(one).FromString(reply) for one, reply in zip(expected, replies, strict=True)] == expected


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_every_row_gets_its_answer(client: Client, given: Given, method: Method) -> None:
    for field in method.fields:
        for bad in field.bad:
            check(client, method, bad, bad.built(given))


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_every_method_refuses_what_it_cannot_read(client: Client, given: Given, method: Method) -> None:
    for bad in EVERY_REQUEST:
        check(client, method, bad, bad.built(given))


def test_a_bad_item_of_a_stream_leaves_what_was_before_it(client: Client) -> None:
    """The same as in a unary call, and the trailer says how many messages were accepted."""
    good = api_pb2.WriteInfoPacketsRequest(message=Packet(type="Other"))
    bad = api_pb2.WriteInfoPacketsRequest(message=Packet(type="Other"), type=7)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        client.writer.WriteInfoPackets(iter([good, good, bad, good]), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata())["trackside-accepted"] == "2"


def test_the_server_minds_none_of_it(server: Server, client: Client, given: Given) -> None:
    """Stands last: nothing was changed by what was refused, no process died, nothing unexpected was logged."""
    assert all(server.liveness(process["name"]).restarts == 0 for process in server.described()["processes"])
    assert "Traceback" not in server.log_text()
    request = api_pb2.GetSessionInfoRequest(session_key=given.session_key)
    found = client.sessions.GetSessionInfo(request, timeout=SECONDS)
    assert (found.success, found.is_complete, found.identifier, dict(found.details)) == (True, False, "", {})
    assert not list(server.data_dir.glob("log/*essential*essential*"))


def test_the_table_has_every_field_of_every_method() -> None:
    for method in METHODS:
        named = [field.name for field in method.fields]
        assert named == list(fields_of(method.descriptor.input_type)), method.path
    services = {method.descriptor.containing_service for method in METHODS}
    there = {(service.full_name, method.name) for service in services for method in service.methods}
    described = {(method.descriptor.containing_service.full_name, method.descriptor.name) for method in METHODS}
    assert there - described <= {("grpc.health.v1.Health", "List")}, "not served, and not in every release of grpc"


def test_each_limit_has_a_row_and_each_row_a_test() -> None:
    names = [row.name for row in TOLD]
    assert set(LIMITS) <= set(names) and len(set(names)) == len(names)
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in names if f'told("{name}"' not in tests] == []


def test_the_page_is_fresh() -> None:
    again = "python tests/bad_input.py docs/errors.md"
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == page(), f"write it anew: {again}"
