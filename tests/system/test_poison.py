"""A record that ends its producer each time does not end the server: it is quarantined, and the rest goes on.

Real poison, through a real ring: a gateway is killed while the supervisor is stopped, so that its ring has no writer, and
the record is published in its place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.link import PACKETS
from trackside.data_plane.record import Record, Route, encode_record
from trackside.shm.ring import RingWriter

SOURCES = ["Alpha", "Bravo", "Charlie"]  # with two producers both have some

NO_RECORD = b"\xc1 no record at all"
NO_TOPIC = encode_record(Record([Route("no/topic", 0, b"key")], [0], [Packet(id=666).SerializeToString()]))
"""Passes for a record, and ends whoever makes a folder for it."""


@pytest.fixture(params=["local 1/1/1", "local 2/2/2", pytest.param("kafka 1/1/1", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Iterator[Server]:
    log, shape = request.param.split()
    server = make_server(shape, broker=request.getfixturevalue("kafka_broker").address if log == "kafka" else "")
    if log == "kafka":
        server.environment["TRACKSIDE_DOMAIN"] = f"Poison{os.getpid()}"
    yield server.start()


def write(client: Client, numbers: range) -> None:
    """In every data source; the replies wait for the log."""
    for source in SOURCES:
        details = [api_pb2.DataPacketDetails(message=Packet(id=number), data_source=source) for number in numbers]
        requests = [api_pb2.WriteDataPacketsRequest(details=details[start : start + 5]) for start in range(0, 20, 5)]
        client.writer.WriteDataPackets(iter(requests), timeout=60, wait_for_ready=True)


def check(server: Server, count: int) -> None:
    client = server.client()
    for source in SOURCES:
        numbers = [response.packet.id for response in client.read(client.connect(source), count)]
        assert numbers == list(range(count)), source
    client.close()


def ring_of(server: Server, producer: str) -> Path:
    links = server.described()["links"]
    return Path(next(link["down"] for link in links if (link["peer"], link["worker"]) == ("gateway-0", producer)))


def publish(ring: Path, *bodies: bytes) -> None:
    """Each by a store of its own. The ring must have no writer."""
    writer = RingWriter(ring)
    for body in bodies:
        assert writer.try_publish([(PACKETS, 1, body)]) is not None
    writer.close()


def poison(server: Server, ring: Path, *bodies: bytes) -> None:
    assert server.process is not None
    liveness = server.liveness("gateway-0")
    epoch, pid = liveness.epoch, liveness.pid
    server.process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "the gateway dead")
    publish(ring, *bodies)
    server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: liveness.epoch > epoch, "its successor")


def letters_of(server: Server) -> list[DeadLetter]:
    return [found.letter for found in DeadLetterFile(server.data_dir / "dead-letters").letters()]


def test_the_rest_goes_on(server: Server) -> None:
    client = server.client()
    write(client, range(20))
    bodies = [NO_RECORD] if "--broker" in server.arguments else [NO_RECORD, NO_TOPIC]
    poison(server, ring_of(server, "producer-0"), *bodies)
    wait_until(lambda: len(letters_of(server)) == len(bodies), "the poison is in the file")
    write(client, range(20, 40))
    client.close()
    check(server, 40)
    server.wait_state("SERVING")
    letters = letters_of(server)
    assert [letter.topic for letter in letters] == ["", "no/topic"][: len(bodies)]
    assert letters[0].value == NO_RECORD and letters[0].quarantined
    assert "its record ended producer-0: ValueError: ring" in letters[0].reason
    assert server.log_text().count("record quarantined") == len(bodies)
    assert "worker given up" not in server.log_text()


@pytest.mark.parametrize("shape", ["1/1/1", "2/2/2"])
def test_recovery_gets_past_it(make_server: Callable[..., Server], shape: str) -> None:
    """What a dead server left behind: good records, poison, good records."""
    server = make_server(shape).start()
    client = server.client()
    write(client, range(20))
    client.close()
    ring = ring_of(server, "producer-0")
    for name in server.names("producer"):
        server.send(name, signal.SIGSTOP)
    server.kill_group()

    def good(number: int) -> bytes:
        return encode_record(Record([Route("Later", 0, b"")], [0], [Packet(id=number).SerializeToString()]))

    publish(ring, good(0), NO_RECORD, good(1), NO_TOPIC, good(2))
    server.start()
    check(server, 20)
    client = server.client()
    assert [response.packet.id for response in client.read(client.connect("Later"), 3)] == [0, 1, 2]
    client.close()
    assert [letter.topic for letter in letters_of(server)] == ["", "no/topic"]
    assert not list((server.run_dir / "instances").glob("000001-*"))
    assert server.log_text().count("record quarantined") == 2
