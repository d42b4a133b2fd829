"""One topic that a real Kafka does not take: others go on, whatever dies meanwhile, and nothing is lost or swapped."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

pytestmark = pytest.mark.kafka

LOGGED = (("trackside-ack", "log"),)


class Writer:
    """Numbered packets of one data source, and those that stand in the log when they are read again."""

    def __init__(self, client: Client, source: str) -> None:
        self.client = client
        self.source = source
        self.count = 0

    def write(self, count: int = 1, **call: Any) -> None:
        for _ in range(count):
            self.client.write(self.source, Packet(id=self.count), **call)
            self.count += 1

    def check(self) -> None:
        """All there, in order the first time; what a dead producer had on its way may stand twice."""
        connection = self.client.connect(self.source)
        seen: dict[int, None] = {}
        for response in self._responses(connection):
            seen[response.packet.id] = None
            if len(seen) == self.count:
                break
        assert list(seen) == list(range(self.count))

    def _responses(self, connection: api_pb2.Connection) -> Iterator[Any]:
        call = self.client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
        for message in call:
            yield from message.response
        call.cancel()


def top(server: Server) -> str:
    command = [sys.executable, "-P", "-m", "trackside.control_plane", "top", "--once", "--run-dir", str(server.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_one_blocked_topic_then_no_kafka_at_all(make_server: Callable[..., Server], kafka_broker: KafkaBroker) -> None:
    domain = f"Park{uuid.uuid4().hex[:8]}"
    topic = f"{domain}.Data.Car"
    for other in ("Data.Boat", "Sys.SessionInfo"):
        kafka_broker.create_topic(f"{domain}.{other}")
    server = make_server(broker=kafka_broker.address)
    server.environment.update(
        TRACKSIDE_DOMAIN=domain,
        TRACKSIDE_REPLICATION_FACTOR="2",  # there is one broker: it makes no topic, and takes packets for those it has
        TRACKSIDE_PARK_AFTER_SECONDS="0.5",
        TRACKSIDE_WRITE_WAIT_SECONDS="3",
        TRACKSIDE_DRAIN_SECONDS="2",
    )
    client = server.start().client()
    car, boat = Writer(client, "Car"), Writer(client, "Boat")
    car.write()
    wait_until(lambda: topic in server.liveness("producer-0").read_reason(), "the topic is parked")
    assert topic in top(server) and "parked now 1 topics, " in top(server)
    new = api_pb2.CreateSessionRequest(data_source="Car")
    ending = api_pb2.EndSessionRequest(session_key=client.sessions.CreateSession(new, timeout=60).session_key)
    assert client.sessions.EndSession(ending, timeout=60).success
    assert f'missing="{topic}"' in server.log_text()
    boat.write(5, metadata=LOGGED)
    with pytest.raises(grpc.RpcError) as caught:
        car.write(metadata=LOGGED)
    car.count += 1  # accepted all the same
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and "is parked" in str(caught.value.details())
    for _ in range(2):
        car.write(3)
        server.kill("producer-0")
        boat.write(2, metadata=LOGGED)
    wait_until(lambda: all(not ring.used_bytes for ring in server.rings()), "all is safe")
    server.kill_group()
    client = car.client = boat.client = server.start().client()  # serves, though the topic is blocked still
    boat.write(2, metadata=LOGGED)
    boat.check()
    assert topic in server.liveness("producer-0").read_reason() and topic in top(server)
    car.write(2)
    kafka_broker.create_topic(topic)
    car.check()
    boat.check()
    assert "recovered packets " in top(server)

    kafka_broker.kill()
    try:
        wait_until(lambda: server.described()["state"] != "SERVING", "Kafka is missed")
        car.write(3)
        assert server.stop() == 0
        assert "kept_in" in server.log_text() and not list((server.run_dir / "instances").iterdir())
        shutil.rmtree(server.run_dir)  # the machine was booted
    finally:
        kafka_broker.start()
    server.start()
    assert not list((server.data_dir / "unlogged").iterdir())
    car.write()
    car.check()
