"""Edge mode over real servers: the link to Kafka is away and comes back, and everybody is killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
import urllib.request
import uuid
from collections.abc import Callable

import pytest
from edge_kit import OnKafka, read_kafka
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until
from service_calls import create, end, info

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.data_dir import read_identity
from trackside.data_plane.log import Partition
from trackside.shm.liveness import WorkerState

pytestmark = pytest.mark.kafka


class Edge:
    """An edge server, one client, and what the client wrote: numbered packets, by stream."""

    def __init__(self, server: Server, broker: KafkaBroker, domain: str, source: str) -> None:
        self.server = server
        self.broker = broker
        self.domain = domain
        self.source = source
        server.environment["TRACKSIDE_DOMAIN"] = domain
        server.arguments += ["--forward-to", broker.address]
        self.client: Client = server.start().client()
        self.written: dict[str, int] = {}

    def write(self, count: int, *streams: str) -> None:
        for _ in range(count):
            for stream in streams:
                number = self.written.get(stream, 0)
                packet = data.Packet(type="PeriodicData", id=number, content=b"%d" % number)
                self.client.write(self.source, packet, stream=stream, session_key="k")
                self.written[stream] = number + 1

    def restart(self) -> None:
        self.server.kill_group()
        self.client.close()
        self.client = self.server.start().client()

    def topic(self, stream: str) -> str:
        return f"{self.domain}.Data.{self.source}" + (f".{stream}" if stream else "")

    def on_kafka(self, topic: str) -> list[OnKafka]:
        identity = read_identity(self.server.data_dir)
        assert identity is not None
        return read_kafka(self.broker.address, Partition(topic, 0), identity)

    def is_there(self, stream: str) -> bool:
        return len(self.on_kafka(self.topic(stream))) >= self.written[stream]

    def check(self) -> None:
        """Everything that was written is there, once, in its order."""
        for stream, count in self.written.items():
            wait_until(lambda stream=stream: self.is_there(stream), f"{stream} is on Kafka")
            found = self.on_kafka(self.topic(stream))
            assert [data.Packet.FromString(message.value).id for message in found] == list(range(count))

    def link_is(self, state: WorkerState) -> bool:
        return self.server.liveness("forwarder").state == state


def status(server: Server) -> int:
    address = f"http://127.0.0.1:{server.described()['status_port']}/readyz"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return int(answer.status)


def test_nothing_here_notices_that_the_link_is_away(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker
) -> None:
    domain = f"Edge{uuid.uuid4().hex[:8]}"
    kafka_broker.kill()
    try:
        edge = Edge(make_server("2/2/2"), kafka_broker, domain, "Car")
        key = create(edge.client, "Car", identifier="run 1")
        edge.write(50, "", "chassis")
        wait_until(lambda: edge.link_is(WorkerState.DEGRADED), "the forwarder says that the link is away")
        assert status(edge.server) == 200
        edge.restart()
        edge.write(50, "", "chassis")
        ended = end(edge.client, key)
        assert ended.topic_partition_offsets["Car:0"] == 100
    finally:
        kafka_broker.start()
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):  # between two incarnations
            edge.server.send("forwarder", signal.SIGKILL)
        edge.write(10, "", "chassis")
    edge.restart()
    edge.write(10, "", "chassis")
    edge.check()
    assert info(edge.client, key).is_complete
