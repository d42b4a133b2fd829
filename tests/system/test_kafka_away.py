"""A control plane that starts while Kafka is away: what its predecessor knew is answered, nothing is said to be unknown."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until
from service_calls import CALL, create, end, event_id, event_of, info, keys_of, parameters_id, parameters_of

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.shm.liveness import WorkerState

pytestmark = pytest.mark.kafka

SOURCE = "Car"


def refusal(call: Callable[[], Any]) -> str:
    """Text of an UNAVAILABLE; anything else fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, caught.value
    return str(caught.value.details())


def answers(client: Client, keys: list[str], number: int, event: int) -> list[object]:
    return [
        *(info(client, key).SerializeToString(deterministic=True) for key in keys),
        keys_of(client, SOURCE),
        parameters_of(client, SOURCE, number),
        parameters_id(client, SOURCE, "vCar", "gLat"),
        event_of(client, SOURCE, event),
    ]


def replace_control_plane(server: Server) -> None:
    """SIGKILL, and wait for a successor that serves; it cannot be ready without the log."""
    liveness = server.liveness("control-plane")
    epoch = liveness.epoch
    server.send("control-plane", signal.SIGKILL)
    wait_until(
        lambda: liveness.epoch > epoch and liveness.state in (WorkerState.DEGRADED, WorkerState.READY),
        "a control plane that serves",
    )


def test_a_successor_answers_while_kafka_is_away(make_server: Callable[..., Server], kafka_broker: KafkaBroker) -> None:
    server = make_server(broker=kafka_broker.address)
    server.environment["TRACKSIDE_DOMAIN"] = f"Away{uuid.uuid4().hex[:8]}"
    client = server.start().client()
    keys = [create(client, SOURCE, identifier=f"run {number}", details={"n": str(number)}) for number in range(3)]
    client.write(SOURCE, data.Packet(id=1), stream="s")
    end(client, keys[0])
    wait_until(lambda: list(info(client, keys[1]).streams) == ["s"], "the stream is known")
    number, event = parameters_id(client, SOURCE, "vCar", "gLat"), event_id(client, SOURCE, "Lap")
    before = answers(client, keys, number, event)
    unknown = api_pb2.GetSessionInfoRequest(session_key=str(uuid.uuid4()))
    kafka_broker.kill()
    try:
        replace_control_plane(server)
        assert answers(client, keys, number, event) == before
        assert "away" in refusal(lambda: client.sessions.GetSessionInfo(unknown, **CALL))
        refusal(lambda: parameters_of(client, SOURCE, number + 1))
        refusal(lambda: parameters_of(client, "Truck", number))
        refusal(lambda: create(client, SOURCE))
        shutil.rmtree(server.data_dir / "checkpoints")
        replace_control_plane(server)
        refusal(lambda: info(client, keys[0]))
        refusal(lambda: keys_of(client, SOURCE))
        refusal(lambda: parameters_of(client, SOURCE, number))
    finally:
        kafka_broker.start()
    wait_until(lambda: server.liveness("control-plane").state == WorkerState.READY, "the control plane is ready again")
    assert answers(client, keys, number, event) == before
    assert not client.sessions.GetSessionInfo(unknown, **CALL).success
    assert keys_of(client, SOURCE) == keys and create(client, SOURCE) not in keys
