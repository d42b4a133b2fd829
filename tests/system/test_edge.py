"""Edge mode over real servers: the link to Kafka is away and comes back, and everybody is killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
import uuid
from collections.abc import Callable

import pytest
from edge_kit import OnKafka, read_kafka
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until
from service_calls import create, end, info, keys_of

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

    def take_over(self) -> None:
        """Another server in the place of this one, which has left when this returns."""
        before = self.server.take_over()
        self.server.wait_state("SERVING")
        assert before.wait(60) == 0, self.server.log_text()[-2000:]
        self.client.close()
        self.client = self.server.client()

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

    def kill_forwarder(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # between two incarnations
            self.server.send("forwarder", signal.SIGKILL)

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
        edge.kill_forwarder()
        edge.write(10, "", "chassis")
    edge.restart()
    edge.write(10, "", "chassis")
    edge.check()
    assert info(edge.client, key).is_complete


def test_two_edge_servers_and_the_garage(make_server: Callable[..., Server], kafka_broker: KafkaBroker) -> None:
    """Sessions of both are found on Kafka's own server, and reading from where one began gives its packets."""
    domain = f"Edge{uuid.uuid4().hex[:8]}"
    edges = [Edge(make_server(), kafka_broker, domain, source) for source in ("Car", "Truck")]
    garage = make_server(broker=kafka_broker.address)
    garage.environment["TRACKSIDE_DOMAIN"] = domain
    sessions: dict[str, list[str]] = {"Car": [], "Truck": []}
    for part in range(3):
        for edge in edges:
            sessions[edge.source].append(create(edge.client, edge.source, identifier=f"run {part}"))
            edge.write(15, "")
            edge.kill_forwarder()
            edge.write(15, "")
            end(edge.client, sessions[edge.source][-1])
    client = garage.start().client()
    for edge in edges:
        edge.check()
        keys = sessions[edge.source]
        wait_until(lambda keys=keys: all(info(client, key).is_complete for key in keys), "sessions are at the garage")
        assert keys_of(client, edge.source) == keys
        for part, key in enumerate(keys):
            found = info(client, key)
            connection = client.connect(edge.source, main_offset=found.main_offset)
            packets = [data.Packet.FromString(r.packet.SerializeToString()) for r in client.read(connection, 30)]
            assert (found.main_offset, [packet.id for packet in packets[:30]])[1] == list(
                range(part * 30, part * 30 + 30)
            )


def test_a_server_that_takes_over_forwards_on_from_there(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker
) -> None:
    """With a backlog, twice, the second time with packets on their way to Kafka."""
    edge = Edge(make_server(), kafka_broker, f"Edge{uuid.uuid4().hex[:8]}", "Car")
    edge.write(100, "", "chassis")
    os.kill(kafka_broker.pid, signal.SIGSTOP)
    try:
        edge.write(300, "", "chassis")
        edge.take_over()
        edge.write(50, "", "chassis")
    finally:
        os.kill(kafka_broker.pid, signal.SIGCONT)
    edge.take_over()
    edge.write(50, "", "chassis")
    edge.check()
    assert edge.server.log_text().count("took over") == 2
