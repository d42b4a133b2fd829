"""A control plane, or a whole server, that starts while Kafka is away: what was known is answered, nothing is said to be
unknown, nothing new is decided, and what was accepted is logged first when Kafka is there again."""

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
from trackside.data_plane.record import decode_record
from trackside.shm.liveness import WorkerState
from trackside.shm.ring import RingView

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


def unlogged(server: Server) -> dict[str, data.Packet]:
    """What the control plane has put in its ring to the producer and is still there, by its type."""
    (link,) = (
        found["down"]
        for found in server.described()["links"]
        if (found["peer"], found["worker"]) == ("control-plane", "producer-0")
    )
    ring = RingView(link)
    records = [decode_record(found.body) for found in ring.walk(ring.commit_position, ring.publish_position)]
    packets = [data.Packet.FromString(packet) for record in records for packet in record.packets]
    return {packet.type: packet for packet in packets}


def first_seen(call: Any, count: int) -> list[int]:
    """Numbers of packets until there are ``count`` different ones; what was on its way at a death may stand twice."""
    seen: dict[int, None] = {}
    for message in call:
        seen.update({one.packet.id: None for one in message.response if one.packet.type != "DataFormatDefinition"})
        if len(seen) == count:
            break
    call.cancel()
    return list(seen)


def test_restarts_while_kafka_is_away(make_server: Callable[..., Server], kafka_broker: KafkaBroker) -> None:
    """Killed with packets, a session and a format in its rings; started, its control plane killed; stopped; started."""
    server = make_server(broker=kafka_broker.address)
    server.environment.update(TRACKSIDE_DOMAIN=f"Away{uuid.uuid4().hex[:8]}", TRACKSIDE_DRAIN_SECONDS="2")
    client = server.start().client()
    keys = [create(client, SOURCE, identifier="run", details={"n": "1"})]
    client.write(SOURCE, data.Packet(id=1))
    number, event = parameters_id(client, SOURCE, "vCar", "gLat"), event_id(client, SOURCE, "Lap")
    before = answers(client, keys, number, event)

    server.send("producer-0", signal.SIGSTOP)
    wanted = api_pb2.GetParameterDataFormatIdRequest(data_source=SOURCE, parameters=["pBrake"])
    asked = [  # a call that nobody holds is cancelled
        client.sessions.CreateSession.future(api_pb2.CreateSessionRequest(data_source=SOURCE), timeout=60),
        client.formats.GetParameterDataFormatId.future(wanted, timeout=60),
    ]
    wait_until(lambda: {"NewSession", "DataFormatDefinition"} <= unlogged(server).keys(), "both are in the ring")
    left = unlogged(server)
    client.write(SOURCE, data.Packet(id=2))
    kafka_broker.kill()
    try:
        server.kill_group()
        assert all(call.exception() is not None for call in asked)
        for count in (3, 4):
            server.start(wait=False)
            server.wait_state("NOT_SERVING")
            connection = client.connect(SOURCE)
            call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
            assert answers(client, keys, number, event) == before
            client.write(SOURCE, data.Packet(id=count))
            if count == 3:
                replace_control_plane(server)
                assert answers(client, keys, number, event) == before
                refusal(lambda: info(client, left["NewSession"].session_key))
                assert "is logged first" in refusal(lambda: create(client, SOURCE))
                assert "is logged first" in server.described()["reason"] and not server.slot("producer-0")["pid"]
                assert server.stop() == 0
    finally:
        kafka_broker.start()
    server.wait_state("SERVING")
    assert first_seen(call, 4) == [1, 2, 3, 4]
    assert keys_of(client, SOURCE) == [*keys, left["NewSession"].session_key]
    defined = data.DataFormatDefinitionPacket.FromString(left["DataFormatDefinition"].content)
    assert parameters_id(client, SOURCE, "pBrake") == defined.identifier
    assert create(client, SOURCE) not in keys_of(client, SOURCE)[:2]
