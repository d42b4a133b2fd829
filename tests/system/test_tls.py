"""TLS on the public ports: who gets in, who does not, and certificates that change while clients are there."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from server import Client, Server, take, wait_until
from service_calls import make_key
from tls_files import TlsFiles

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2, key_generator_pb2_grpc
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.liveness import WorkerState

Make = Callable[..., Server]


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=30)


def leaf_of(files: TlsFiles) -> str:
    return files.certificate.read_text().partition("-----END")[0]


def is_kept_out(channel: grpc.Channel) -> bool:
    """Whether no call gets through. The connection is tried again until the bound, so the bound is short."""
    request = api_pb2.GetCurrentSessionsRequest(data_source="Car")
    try:
        Client(channel).sessions.GetCurrentSessions(request, timeout=5)
    except grpc.RpcError as error:
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    finally:
        channel.close()
    return False


def test_both_ports_speak_tls_and_nothing_else(make_server: Make, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls")
    server = make_server()
    server.environment.update(files.settings())
    server.start()
    client = Client(files.channel(server.port))
    client.write("Car", Packet(type="RowData", id=1))
    assert [found.packet.id for found in client.read(client.connect("Car"), 1)] == [1]
    keys = key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub(files.channel(server.described()["key_port"]))
    assert make_key(keys, key_generator_pb2.KEY_TYPE_STRING).string_key
    assert is_kept_out(server.channel())
    assert is_kept_out(files.channel(server.port, trusts=TlsFiles(tmp_path / "other").ca.cert_pem.bytes()))
    client.close()
    assert not any(line.startswith(("E1", "I1", "W1")) for line in server.log_text().splitlines())


def test_certificates_change_and_nobody_notices(make_server: Make, tmp_path: Path) -> None:
    """With certificates of clients demanded. A stream that is open goes on, who comes later sees the new one; files
    that do not fit change nothing; a gateway that must start with such files says so and waits for better ones."""
    files = TlsFiles(tmp_path / "tls")
    own = files.pair("client")
    server = make_server("2/2/2")
    server.environment.update(files.settings(mutual=True))
    server.start()
    assert is_kept_out(files.channel(server.port))
    assert is_kept_out(files.channel(server.port, own=TlsFiles(tmp_path / "other").pair("client")))

    client = Client(files.channel(server.port, own=own))
    connection = client.connect("Car")
    reading = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
    assert served_certificate(server.port).startswith(leaf_of(files))
    files.issue()
    renewed = leaf_of(files)
    wait_until(lambda: server.log_text().count("certificates reloaded") == 2, "both gateways have the new pair")
    for _ in range(4):
        assert served_certificate(server.port).startswith(renewed)
    client.write("Car", Packet(type="RowData", id=1))
    assert [found.packet.id for found in take(reading, 1)] == [1]

    files.key.write_bytes(b"")
    wait_until(lambda: server.log_text().count("certificates not usable") == 2, "both have seen the bad key")
    assert served_certificate(server.port).startswith(renewed)
    liveness = server.liveness("gateway-0")
    epoch = liveness.epoch
    server.send("gateway-0", signal.SIGKILL)
    wait_until(lambda: liveness.epoch > epoch and liveness.state == WorkerState.DEGRADED, "it says that it waits")
    assert "holds no private key" in liveness.read_reason()
    assert served_certificate(server.port).startswith(renewed)  # of the other one
    files.issue()
    wait_until(lambda: liveness.state == WorkerState.READY, "it serves with good ones")
    wait_until(lambda: server.described()["state"] == "SERVING", "all serve")
    late = Client(files.channel(server.port, own=own))
    late.write("Car", Packet(type="RowData", id=2))
    late.close()
    client.close()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("certificate", "Tls.CertificateFile = {certificate}: {certificate}: cannot be read: No such file"),
        ("key", "Tls.KeyFile = {key}: {key}: is not the key of {certificate}"),
    ],
)
def test_files_that_cannot_be_used_end_the_start(make_server: Make, tmp_path: Path, fault: str, says: str) -> None:
    files = TlsFiles(tmp_path / "tls")
    if fault == "certificate":
        files.certificate.unlink()
    else:
        files.key.write_bytes(files.pair("localhost")[1])
    server = make_server()
    server.environment.update(files.settings())
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(60) == 78
    assert says.format(certificate=files.certificate, key=files.key) in server.log_text()
    assert "Traceback" not in server.log_text()
