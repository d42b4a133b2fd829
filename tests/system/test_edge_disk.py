"""Edge mode on a disk that is full of what Kafka does not have: nobody may throw that away, and nobody has to help."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
from disk_kit import Mount, Writer, counter
from edge_kit import read_kafka
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.data_dir import read_identity
from trackside.data_plane.log import Partition

pytestmark = pytest.mark.kafka

MIB = 1 << 20
DISK_BYTES, SEGMENT_BYTES, RETENTION_BYTES = 72 * MIB, 8 * MIB, 16 * MIB
PACKET_BYTES = 800_000
"""Kafka takes less than the local log does."""


@contextlib.contextmanager
def stopped(broker: KafkaBroker) -> Iterator[None]:
    """Kafka does not answer: its process is stopped."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def fill_up(server: Server) -> None:
    """Not even a small file can be made any more."""
    with contextlib.suppress(OSError), (server.data_dir / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def on_kafka(server: Server, broker: KafkaBroker, topic: str) -> list[int]:
    identity = read_identity(server.data_dir)
    assert identity is not None
    if topic not in broker.topics():
        return []
    return [Packet.FromString(found.value).id for found in read_kafka(broker.address, Partition(topic, 0), identity)]


def test_a_disk_full_of_what_is_not_forwarded(
    make_server: Callable[..., Server], mount: Mount, kafka_broker: KafkaBroker
) -> None:
    """Writers are refused with the reason. Kafka comes back: the backlog goes there, retention makes room, writing goes
    on; no process is started again for it."""
    server = make_server("2/2/2", "--forward-to", kafka_broker.address)
    mount(server.data_dir, f"size={DISK_BYTES}")
    domain = f"Disk{uuid.uuid4().hex[:8]}"
    server.environment |= {
        "TRACKSIDE_DOMAIN": domain,
        "TRACKSIDE_WRITE_WAIT_SECONDS": "1",
        "TRACKSIDE_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "TRACKSIDE_RETENTION_BYTES": str(RETENTION_BYTES),
    }
    with stopped(kafka_broker):
        client: Client = server.start().client()
        pids = server.pids()
        idle, busy = Writer(client, "Idle"), Writer(client, "Car")
        for _ in range(35):
            assert idle.write(PACKET_BYTES) is None
        error = busy.fill(PACKET_BYTES)
        assert "cannot write" in error.details() and "No space left on device" in error.details()
        fill_up(server)
        assert counter(server, "trackside_log_segments_expired_total") == 0
        assert counter(server, "trackside_log_retention_held") == 2
    server.wait_state("SERVING")
    client.write("Car", Packet(id=10_000), metadata=(("trackside-ack", "log"),))
    busy.accepted.append(10_000)
    for writer, source in ((idle, "Idle"), (busy, "Car")):
        topic = f"{domain}.Data.{source}"
        wait_until(
            lambda topic=topic, writer=writer: on_kafka(server, kafka_broker, topic)[-1:] == writer.accepted[-1:], topic
        )
        found = on_kafka(server, kafka_broker, topic)
        assert found == sorted(set(found))
        assert set(writer.accepted) <= set(found) <= {*writer.accepted, *writer.unknown}
    wait_until(lambda: counter(server, "trackside_log_retention_held") == 0, "retention goes on")
    assert server.pids() == pids, "nobody was started again"
    client.close()
