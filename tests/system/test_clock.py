"""The wall clock is stepped an hour both ways under load: nothing is lost, swapped or held up, and nobody dies of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults.load import Load
from server import Client, Server
from stepped import HOUR_SECONDS, give_stepped_clock, step_clock

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet


def session_created(client: Client, data_source: str) -> str:
    request = api_pb2.CreateSessionRequest(data_source=data_source, type="Session")
    return client.sessions.CreateSession(request, timeout=30).session_key


def submitted_ahead(client: Client, data_source: str) -> float:
    """How far ahead of the true time a packet written now says it was submitted, in seconds."""
    client.write(data_source, Packet(id=1))
    (response,) = client.read(client.connect(data_source, streams=[""], stream_offsets=[0]), 1)
    return float(response.submit_time.seconds - time.time())


@pytest.mark.parametrize("first", [1, -1])
def test_an_hour_forth_and_back(make_server: Callable[..., Server], first: int) -> None:
    server = make_server("2/2/2")
    give_stepped_clock(server)
    client = server.start().client()
    epochs = {name: server.liveness(name).epoch for role in ROLES for name in server.names(role)}
    with Load(server, breaks_allowed=0) as load:
        load.wait_more()
        for ahead in (first * HOUR_SECONDS, -first * HOUR_SECONDS, 0):
            step_clock(server, ahead)
            load.wait_more()
            assert session_created(client, f"Clock{ahead}")
            assert abs(submitted_ahead(client, f"Clock{ahead}") - ahead) < HOUR_SECONDS / 2
    assert {name: server.liveness(name).epoch for name in epochs} == epochs
    client.close()


ROLES = ("gateway", "producer", "consumer", "control-plane")
