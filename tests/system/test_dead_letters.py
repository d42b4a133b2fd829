"""What Kafka refuses for good while a server runs: the packet is a dead letter, and everything around it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from dead_letter_topic import headers_of, messages_in
from kafka_broker import SASL_PASSWORD, SASL_USER, KafkaBroker
from server import Client, Server, take, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile

pytestmark = pytest.mark.kafka

LOGGED: dict[str, Any] = {"metadata": (("trackside-ack", "log"),)}
SOURCE = "Car"


@pytest.fixture
def domain() -> str:
    return f"Dead{uuid.uuid4().hex[:8]}"


def write_all(client: Client, packets: Sequence[Packet], stream: str) -> None:
    """In one call whose reply waits for the log."""
    details = [
        api_pb2.DataPacketDetails(message=packet, data_source=SOURCE, stream=stream, session_key="key")
        for packet in packets
    ]
    requests = [api_pb2.WriteDataPacketsRequest(details=details[start : start + 7]) for start in range(0, 40, 7)]
    client.writer.WriteDataPackets(iter(requests), timeout=60)


def packets_with(large: int) -> list[Packet]:
    """Forty, of which number 11 has so many bytes more, and is essential."""
    return [
        Packet(id=number, content=os.urandom(large if number == 11 else 300), is_essential=number == 11)
        for number in range(40)
    ]


def check_order(client: Client, stream: str, expected: list[int]) -> None:
    """The stream has these, in order. After a refusal a new client of Kafka goes on at the oldest packet that was not
    confirmed: the log may say a stretch again, from any packet back to where it was, but never swaps any."""
    connection = client.connect(SOURCE, streams=[stream], stream_offsets=[0], exclude_main_stream=True)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60)
    reached, found = 0, []
    while reached < len(expected):
        for response in next(call).response:
            number = response.packet.id
            if number == PROBE:
                continue
            found.append(number)
            if reached < len(expected) and number == expected[reached]:
                reached += 1
                continue
            before = [at for at in range(reached) if expected[at] == number]
            assert before, f"{number} stands where {expected[reached : reached + 1]} should: {found}"
            reached = before[-1] + 1
    call.cancel()
    client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), timeout=30)


def essentials_of(client: Client, count: int) -> list[int]:
    connection = client.connect(SOURCE)
    call = client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), timeout=60)
    return [response.packet.id for response in take(call, count)]


def letters_in_the_file(data_dir: Path) -> list[DeadLetter]:
    return [found.letter for found in DeadLetterFile(data_dir / "dead-letters").letters()]


def lines_of(server: Server, event: str) -> list[str]:
    return [line for line in server.log_text().splitlines() if f" {event} topic=" in line]


PROBE = 1000
ALL_BUT_THE_LARGE_ONE = [number for number in range(40) if number != 11]


def test_a_topic_that_takes_less_than_before_and_one_that_is_gone(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker, domain: str
) -> None:
    """The limit is lowered under a running server, then that of the dead-letter topic, too; then the topic is deleted."""
    server = make_server(broker=kafka_broker.address)
    server.environment["TRACKSIDE_DOMAIN"] = domain
    client = server.start().client()
    topic, letters = f"{domain}.Data.{SOURCE}.s", f"{domain}.Sys.DeadLetter"
    write_all(client, packets_with(large=300), "s")
    kafka_broker.configure_topic(topic, {"max.message.bytes": "3000"})
    packets = packets_with(large=5000)
    write_all(client, packets, "s")
    check_order(client, "s", [*range(40), *ALL_BUT_THE_LARGE_ONE])
    assert essentials_of(client, 2) in ([11, 11], [11, 11, 11])  # see check_order
    (message,) = messages_in(kafka_broker, letters)
    assert (message.key(), Packet.FromString(message.value())) == (b"key", packets[11])
    headers = headers_of(message)
    assert "too large" in headers.pop("trackside-reason")
    assert headers == {
        "trackside-topic": topic,
        "trackside-partition": "0",
        "trackside-other-topic": f"{domain}.Essential.{SOURCE}:0",
    }
    assert len(lines_of(server, "dead letter")) == 1

    kafka_broker.configure_topic(letters, {"max.message.bytes": "3000"})
    write_all(client, packets, "s")
    there = [*range(40), *ALL_BUT_THE_LARGE_ONE, *ALL_BUT_THE_LARGE_ONE]
    check_order(client, "s", there)
    assert len(messages_in(kafka_broker, letters)) == 1
    (letter,) = letters_in_the_file(server.data_dir)
    assert (letter.place, letter.other) == ((topic, 0), f"{domain}.Essential.{SOURCE}:0")
    assert Packet.FromString(letter.value) == packets[11]
    assert len(lines_of(server, "dead letter")) == 2
    send_them_again(server, kafka_broker, topic)
    check_order(client, "s", [*there, 11, 11])

    kafka_broker.delete_topic(topic)
    write_all(client, packets_with(large=300), "s")  # its reply waits for a log that has them: the topic was made again
    check_order(client, "s", list(range(40)))
    assert letters_in_the_file(server.data_dir) == []
    client.close()


def send_them_again(server: Server, broker: KafkaBroker, topic: str) -> None:
    """One in the topic, one in the file. Too early the one that is chosen is refused again, and is a new letter."""
    listed = rows(server)
    assert [row["where"].rpartition(":")[0] for row in listed] == ["", f"{topic.partition('.')[0]}.Sys.DeadLetter:0"]
    assert {(row["topic"], row["partition"], row["key"], row["bytes"] > 5000) for row in listed} == {
        (topic, 0, "key", True)
    }
    early = command(server, "--resend", "--json", "--id", listed[1]["id"])
    assert (early.returncode, json.loads(early.stdout)["sent"]) == (1, 0)
    (refused,) = json.loads(early.stdout)["refused_again"]
    assert refused["id"] == listed[1]["id"] and "too large" in refused["reason"]
    assert [row["where"] for row in rows(server)] == ["file", "file"]
    broker.configure_topic(topic, {"max.message.bytes": "1000000"})
    assert "2 sent again; 0 refused again; 0 not sent" in command(server, "--resend", "--topic", topic).stdout
    assert command(server).stdout == "no dead letters\n"
    assert [row["sent_again"] != "" for row in rows(server, "--sent")] == [True]


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``trackside dead-letters`` with the server's own options."""
    program = [sys.executable, "-P", "-m", "trackside.control_plane", "dead-letters", *server.arguments, *arguments]
    environment = os.environ | server.environment
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done


def rows(server: Server, *arguments: str) -> list[dict[str, Any]]:
    done = command(server, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_topic_whose_right_to_write_was_taken_away(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker, domain: str
) -> None:
    """Its packets are parked as long as the right is missing, and none is a dead letter; other topics go on."""
    server = make_server(broker=kafka_broker.sasl_address)
    server.environment |= {
        "TRACKSIDE_DOMAIN": domain,
        "TRACKSIDE_SECURITY_SASL_USERNAME": SASL_USER,
        "TRACKSIDE_SECURITY_SASL_PASSWORD": SASL_PASSWORD,
        "TRACKSIDE_SECURITY_MECHANISM": "PLAIN",
        "TRACKSIDE_PARK_AFTER_SECONDS": "0.5",
        "TRACKSIDE_WRITE_WAIT_SECONDS": "2",
    }
    client = server.start().client()
    topic = f"{domain}.Data.{SOURCE}.s"
    write_all(client, packets_with(large=300), "s")
    kafka_broker.forbid_writing(topic)
    wait_until(lambda: is_parked(client), "the broker refuses")
    for packet in packets_with(large=300):
        client.write(SOURCE, packet, stream="s", session_key="key")
    write_all(client, packets_with(large=300), "t")
    check_order(client, "t", list(range(40)))
    assert lines_of(server, "topic parked") and lines_of(server, "topic not allowed")
    kafka_broker.allow_writing(topic)
    wait_until(lambda: not is_parked(client), "the broker takes again")
    check_order(client, "s", [*range(40), *range(40)])
    assert f"{domain}.Sys.DeadLetter" not in kafka_broker.topics()
    assert letters_in_the_file(server.data_dir) == []
    client.close()


def is_parked(client: Client) -> bool:
    """Whether a packet of the stream is not logged in time: a rule takes effect a moment after it was made."""
    try:
        client.write(SOURCE, Packet(id=PROBE), stream="s", session_key="key", **LOGGED)
    except grpc.RpcError as error:
        assert "is parked" in error.details()
        return True
    return False
