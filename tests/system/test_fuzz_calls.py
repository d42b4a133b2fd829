"""Whatever is sent to a method: the answer is one of the table in ``bad_input``, and nothing else comes of it.

Few examples each time, always the same ones; ``TRACKSIDE_FUZZ_EXAMPLES=1000`` tries that many new ones a method.
"""

from __future__ import annotations

import os
import re
from typing import Any

import grpc
import pytest
from bad_input import EVERY_REQUEST, METHODS, Method
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_requests import Known, requests
from server import Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.liveness import WorkerState

EXAMPLES = int(os.environ.get("TRACKSIDE_FUZZ_EXAMPLES", "0"))
SHORT_EXAMPLES = 15
SECONDS = 30.0
OPEN_SECONDS = 0.05
"""How long a stream that the server leaves open is listened to."""

FUZZED = settings(
    max_examples=EXAMPLES or SHORT_EXAMPLES,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
METHOD_IDS = [method.path.rpartition(".")[2] for method in METHODS]


@pytest.fixture(scope="module")
def known(shared_server: Server) -> Known:
    """Sessions and connections to hit: with data, with essentials, with a filter's worth of streams."""
    client = shared_server.client()
    created = api_pb2.CreateSessionRequest(data_source="Car", identifier="known")
    key = client.sessions.CreateSession(created, timeout=SECONDS).session_key
    for number in range(1, 4):
        packet = Packet(type="RowData", id=number, session_key=key, is_essential=number == 1)
        client.write("Car", packet, stream="s", session_key=key)
    connections = [client.connect("Car"), client.connect("Car", session_key=key, streams=["s"], main_offset=-1)]
    client.close()
    return Known([key], [connection.id for connection in connections])


@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_every_answer_is_in_the_table(shared_server: Server, known: Known, method: Method) -> None:
    client = shared_server.client()
    several = st.lists(requests(method.descriptor.input_type, known), min_size=1, max_size=3)

    @FUZZED
    @given(several)
    def send(messages: list[bytes]) -> None:
        if method.descriptor.client_streaming:
            check(method, *answer(client.channel.stream_unary(method.path), iter(messages)))
            return
        for message in messages:
            if method.descriptor.server_streaming:
                check(method, *answer(client.channel.unary_stream(method.path), message, OPEN_SECONDS))
            else:
                check(method, *answer(client.channel.unary_unary(method.path), message))

    send()
    client.close()


def test_what_new_connection_takes_can_be_read(shared_server: Server, known: Known) -> None:
    """By all three calls, to the end of what is there."""
    client = shared_server.client()
    by_name = {method.descriptor.name: method for method in METHODS}
    new = by_name["NewConnection"]

    @FUZZED
    @given(requests(new.descriptor.input_type, known))
    def send(message: bytes) -> None:
        try:
            reply = client.channel.unary_unary(new.path)(message, timeout=SECONDS)
        except grpc.RpcError:
            return  # the test before looks at it
        connection = api_pb2.NewConnectionResponse.FromString(reply).connection
        filtered = api_pb2.DataPacketRequest(connection=connection, include_parameters=["v"])
        for name, request in {
            "ReadPackets": api_pb2.ReadPacketsRequest(connection=connection),
            "ReadEssentials": api_pb2.ReadEssentialsRequest(connection=connection),
            "ReadDataPackets": api_pb2.ReadDataPacketsRequest(request=filtered),
        }.items():
            call = client.channel.unary_stream(by_name[name].path)
            status, said = answer(call, request.SerializeToString(), OPEN_SECONDS)
            assert status in ("OK", "DEADLINE_EXCEEDED"), said

    send()
    client.close()


def answer(call: Any, request: Any, seconds: float = SECONDS) -> tuple[str, str]:
    try:
        replies = call(request, timeout=seconds)
        for _ in replies if hasattr(replies, "code") else ():
            pass
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def check(method: Method, status: str, message: str) -> None:
    if method.descriptor.server_streaming and status == "DEADLINE_EXCEEDED":
        return  # it was left open
    bad = [*EVERY_REQUEST, *(bad for field in method.fields for bad in field.bad)]
    assert status in {"OK", *(one.status for one in bad)}, message
    if status == "INVALID_ARGUMENT":
        named = re.sub(r"\[\d*\]", "", message.partition(":")[0])
        fields = [field.name.replace("[]", "") for field in method.fields]
        assert any(f"{named}.".startswith(f"{field}.") for field in (*fields, "request")), message
        assert "\n" not in message


def test_afterwards_the_server_is_as_it_was(shared_server: Server, known: Known) -> None:
    """Stands last: no process died, nothing unexpected was logged, and the main job is done as before."""
    for process in shared_server.described()["processes"]:
        liveness = shared_server.liveness(process["name"])
        assert (liveness.restarts, liveness.state) == (0, WorkerState.READY), process["name"]
    assert "Traceback" not in shared_server.log_text()
    assert not re.findall(r"^\S+ error .*$", shared_server.log_text(), re.MULTILINE)
    client = shared_server.client()
    for number in range(1, 101):
        client.write("Afterwards", Packet(type="RowData", id=number), stream="s")
    connection = client.connect("Afterwards", streams=["s"])
    assert [response.packet.id for response in client.read(connection, 100)] == list(range(1, 101))
    created = api_pb2.CreateSessionRequest(data_source="Afterwards")
    key = client.sessions.CreateSession(created, timeout=SECONDS).session_key
    assert client.sessions.EndSession(api_pb2.EndSessionRequest(session_key=key), timeout=SECONDS).success
    client.close()
    wait_until(
        lambda: all(ring.commit_position == ring.publish_position for ring in shared_server.rings()), "all logged"
    )
