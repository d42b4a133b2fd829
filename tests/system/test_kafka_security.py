"""A server of a Kafka that asks who it is: every way to say so, what a wrong one gets, and where secrets must not be.

Also that the operator's override files reach the clients of Kafka, and what the server sets itself does not give way.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka_broker import KEY_PASSWORD, SASL_PASSWORD, SASL_USER, SCRAM_PASSWORD, SCRAM_USER, KafkaBroker
from server import START_SECONDS, Client, Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

pytestmark = pytest.mark.kafka

SECONDS = 30.0
SECRETS = (SASL_PASSWORD, SCRAM_PASSWORD, KEY_PASSWORD)
EXIT_CONFIGURATION = 78
SMALL_FILE_BYTES = 1 << 20


def plain(broker: KafkaBroker) -> tuple[dict[str, Any], dict[str, str]]:
    """As the reference's documentation writes it."""
    security = {
        "SaslUsername": SASL_USER,
        "SaslPassword": SASL_PASSWORD,
        "Protocol": "SaslPlaintext",
        "Mechanism": "Plain",
    }
    return {"StreamApiConfig": {"BrokerUrl": broker.sasl_address, "Security": security}}, {}


def scram_256(broker: KafkaBroker) -> tuple[dict[str, Any], dict[str, str]]:
    """At the top of the file, in whatever spelling."""
    security = {"sasl_username": SCRAM_USER, "SASLPASSWORD": SCRAM_PASSWORD, "mechanism": "SCRAM-SHA-256"}
    return {"broker_url": broker.sasl_address, "SECURITY": security}, {}


def scram_512(broker: KafkaBroker) -> tuple[dict[str, Any], dict[str, str]]:
    """In the environment, over a file with another password."""
    return {"StreamApiConfig": {"Security": {"SaslPassword": "of the file"}}}, {
        "StreamApiConfig__BrokerUrl": broker.sasl_address,
        "StreamApiConfig__Security__SaslUsername": SCRAM_USER,
        "StreamApiConfig__Security__SaslPassword": SCRAM_PASSWORD,
        "StreamApiConfig__Security__Mechanism": "scramsha512",
    }


def sasl_ssl(broker: KafkaBroker) -> tuple[dict[str, Any], dict[str, str]]:
    security = {
        "Protocol": "SASL_SSL",
        "SaslUsername": SASL_USER,
        "SslCaLocation": str(broker.certificates.authority),
    }
    return {"BrokerUrl": broker.address_of("SASL_SSL"), "Security": security}, {
        "TRACKSIDE_SECURITY_SASL_PASSWORD": SASL_PASSWORD
    }


def mutual_tls(broker: KafkaBroker) -> tuple[dict[str, Any], dict[str, str]]:
    """The broker asks for a certificate; its key is locked."""
    made = broker.certificates
    return {"BrokerUrl": broker.address_of("SSL")}, {
        "TRACKSIDE_SECURITY_SSL_CA_LOCATION": str(made.authority),
        "TRACKSIDE_SECURITY_SSL_CERTIFICATE_LOCATION": str(made.client_certificate),
        "TRACKSIDE_SECURITY_SSL_KEY_LOCATION": str(made.client_key),
        "TRACKSIDE_SECURITY_SSL_KEY_PASSWORD": KEY_PASSWORD,
    }


Way = Callable[[KafkaBroker], tuple[dict[str, Any], dict[str, str]]]
WAYS: tuple[Way, ...] = (plain, scram_256, scram_512, sasl_ssl, mutual_tls)


def configured(make_server: Callable[..., Server], file: dict[str, Any], environment: dict[str, str]) -> Server:
    server = make_server()
    path = server.folder / "AppConfig.json"
    path.write_text(json.dumps(file))
    server.arguments += ["--config", str(path)]
    # Names of its own: sessions of other tests on the same broker are none of its business.
    server.environment.update({"TRACKSIDE_DOMAIN": f"Test{uuid.uuid4().hex[:12]}", **environment})
    return server


def do_the_main_job(client: Client) -> None:
    """A session, a format, packets to the log and back: every client of Kafka that the server has is needed for it."""
    created = api_pb2.CreateSessionRequest(data_source="Car")
    key = client.sessions.CreateSession(created, timeout=SECONDS).session_key
    wanted = api_pb2.GetParameterDataFormatIdRequest(data_source="Car", parameters=["vCar:Chassis"])
    assert client.formats.GetParameterDataFormatId(wanted, timeout=SECONDS).data_format_identifier
    for number in range(1, 11):
        packet = Packet(type="RowData", id=number, session_key=key, is_essential=number == 1)
        client.write("Car", packet, stream="s", session_key=key, metadata=(("trackside-ack", "log"),))
    connection = client.connect("Car", streams=["s"], exclude_main_stream=True)
    assert [response.packet.id for response in client.read(connection, 10)] == list(range(1, 11))
    ended = client.sessions.EndSession(api_pb2.EndSessionRequest(session_key=key), timeout=SECONDS)
    assert ended.end_session.topic_partition_offsets["Car.s:0"] == 10


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_every_way_to_be_known(make_server: Callable[..., Server], kafka_broker: KafkaBroker, way: Way) -> None:
    server = configured(make_server, *way(kafka_broker)).start()
    client = server.client()
    do_the_main_job(client)
    client.close()
    for place, text in places_to_look_at(server):
        assert not [secret for secret in SECRETS if secret in text], place


def places_to_look_at(server: Server) -> list[tuple[str, str]]:
    """Everything that others can see of a server."""
    assert server.process is not None
    found = [("log", server.log_text())]
    for pid in (server.process.pid, *server.pids()):
        found.append((f"arguments of {pid}", Path(f"/proc/{pid}/cmdline").read_text(errors="replace")))
    for pid in server.pids():
        found.append((f"environment of {pid}", Path(f"/proc/{pid}/environ").read_text(errors="replace")))
    for folder in (server.run_dir, server.data_dir):
        files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= SMALL_FILE_BYTES)
        found += [(str(path), path.read_bytes().decode(errors="replace")) for path in files]
    assert any(place.endswith("server.json") for place, _ in found)
    return found + [(f"check-config {' '.join(more)}", checked(server, *more)) for more in ((), ("--json",))]


def checked(server: Server, *more: str) -> str:
    command = [sys.executable, "-P", "-m", "trackside.control_plane", "check-config", *server.arguments, *more]
    environment = {**os.environ, **server.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout
    assert "Security.S" in done.stdout
    return done.stdout + done.stderr


# -- wrong from the start ---------------------------------------------------------------------------------------------


def ssl_only(broker: KafkaBroker, **security: str) -> dict[str, Any]:
    return {"BrokerUrl": broker.address_of("SSL"), "Security": {"Protocol": "Ssl", **security}}


def wrong_password(broker: KafkaBroker) -> dict[str, Any]:
    security = {"SaslUsername": SASL_USER, "SaslPassword": SCRAM_PASSWORD}
    return {"BrokerUrl": broker.sasl_address, "Security": security}


def unknown_user(broker: KafkaBroker) -> dict[str, Any]:
    security = {"SaslUsername": "nobody", "SaslPassword": SCRAM_PASSWORD, "Mechanism": "ScramSha512"}
    return {"BrokerUrl": broker.sasl_address, "Security": security}


def no_certificate(broker: KafkaBroker) -> dict[str, Any]:
    return ssl_only(broker, SslCaLocation=str(broker.certificates.authority))


def other_authority(broker: KafkaBroker) -> dict[str, Any]:
    return ssl_only(broker, SslCaLocation=str(broker.certificates.stranger))


def locked_key(broker: KafkaBroker) -> dict[str, Any]:
    made = broker.certificates
    paths = {"SslCertificateLocation": str(made.client_certificate), "SslKeyLocation": str(made.client_key)}
    return ssl_only(broker, SslCaLocation=str(made.authority), SslKeyPassword=SCRAM_PASSWORD, **paths)


WRONG: dict[Callable[[KafkaBroker], dict[str, Any]], str] = {
    wrong_password: "refuses the credentials: ",
    unknown_user: "refuses the credentials: ",
    no_certificate: "refuses the client's certificate: ",
    other_authority: "has a certificate that is not trusted: ",
    locked_key: "Kafka client: ",
}


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.__name__ for wrong in WRONG])
def test_wrong_credentials_end_the_start(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker, wrong: Callable[[KafkaBroker], dict[str, Any]]
) -> None:
    """With one line that says why, and the exit code after which nobody starts it again."""
    server = configured(make_server, wrong(kafka_broker), {})
    process = server.start(wait=False).process
    assert process is not None
    assert process.wait(START_SECONDS) == EXIT_CONFIGURATION
    text = server.log_text()
    last = text.splitlines()[-1]
    assert WRONG[wrong] in last, text
    assert "Traceback" not in text
    assert not [secret for secret in SECRETS if secret in text]


# -- override files ---------------------------------------------------------------------------------------------------

LINGER_SECONDS = 0.3
ZSTD = 4


def override_files(folder: Path, publish: dict[str, str], consume: dict[str, str], whitelist: Any) -> dict[str, str]:
    """Writes the three files and says which keys name them."""
    for name, content in (("publish", publish), ("consume", consume), ("whitelist", whitelist)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {
        "KafkaBrokerPublishingConfigFilePath": str(folder / "publish.json"),
        "KafkaBrokerConsumingConfigFilePath": str(folder / "consume"),  # gets its extension
        "KafkaBrokerConfigWhitelistFilePath": str(folder / "whitelist.json"),
    }


def codecs_of(broker: KafkaBroker, topic: str) -> set[int]:
    """Compression of the batches that a broker has: the low three bits of their attributes."""
    codecs: set[int] = set()
    for path in (broker.folder / "data" / f"{topic}-0").glob("*.log"):
        data, start = path.read_bytes(), 0
        while start + 61 <= len(data) and (length := struct.unpack_from(">i", data, start + 8)[0]) > 0:
            codecs.add(struct.unpack_from(">h", data, start + 21)[0] & 7)
            start += 12 + length
    return codecs


def test_overrides_reach_the_clients(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    """What is allowed holds, what is denied does not, and what the server sets itself is not given away."""
    publish = {"compression.type": "zstd", "linger.ms": f"{LINGER_SECONDS * 1000:g}", "client.id": "\0denied"}
    publish |= {"bootstrap.servers": "127.0.0.1:1", "acks": "not a number of replicas"}
    consume = {"bootstrap.servers": "127.0.0.1:1", "group.id": "", "auto.offset.reset": "nonsense"}
    consume |= {"session.timeout.ms": "45000", "fetch.wait.max.ms": "nonsense"}
    allowed = [{"Pattern": pattern, "Allow": True} for pattern in ("COMPRESSION.*", "linger.??", "bootstrap.*")]
    readers = [{"Pattern": "fetch.*", "Allow": False}, {"Pattern": "*", "Allow": True}]
    files = override_files(tmp_path, publish, consume, {"Publish": allowed, "Consume": readers})
    server = configured(make_server, {"BrokerUrl": kafka_broker.address, **files}, {}).start()
    client = server.client()
    packet = Packet(type="RowData", content=bytes(10_000))  # worth compressing
    client.write("Car", packet, metadata=(("trackside-ack", "log"),))  # the first of a topic goes by itself, at once
    begun = time.monotonic()
    client.write("Car", packet, metadata=(("trackside-ack", "log"),))
    assert time.monotonic() - begun >= LINGER_SECONDS  # nothing is sent before the linger has passed
    assert codecs_of(kafka_broker, f"{server.environment['TRACKSIDE_DOMAIN']}.Data.Car") == {ZSTD}
    assert len(client.read(client.connect("Car"), 2)) == 2
    client.close()
    said = server.log_text()
    for name in ("bootstrap.servers", "group.id", "auto.offset.reset"):
        assert f"note: {name} is never taken from an override file" in said
    for name in ("client.id", "acks", "fetch.wait.max.ms"):
        assert f"note: {name} is denied by {tmp_path / 'whitelist.json'}" in said


@pytest.mark.parametrize("side", ["publish", "consume"])
def test_an_override_that_kafka_does_not_take_ends_the_start(
    make_server: Callable[..., Server], kafka_broker: KafkaBroker, tmp_path: Path, side: str
) -> None:
    """Of either file, so both reach their clients."""
    name, first_name = {
        "publish": ("compression.type", "compression.codec"),  # which librdkafka calls it
        "consume": ("isolation.level", "isolation.level"),
    }[side]
    overrides = {"publish": {}, "consume": {}, side: {name: "nonsense"}}
    files = override_files(tmp_path, overrides["publish"], overrides["consume"], {})
    server = configured(make_server, {"BrokerUrl": kafka_broker.address, **files}, {})
    process = server.start(wait=False).process
    assert process is not None
    assert process.wait(START_SECONDS) == EXIT_CONFIGURATION
    last = server.log_text().splitlines()[-1]
    assert first_name in last and "nonsense" in last
    assert "Traceback" not in server.log_text()
