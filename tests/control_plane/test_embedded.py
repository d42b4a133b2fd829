"""The server inside a program: from a script without a main guard, from a thread, and gone with its host."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from server import wait_until
from tls_files import TlsFiles

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
from trackside.client.access import Access
from trackside.client.channel import open_channel
from trackside.control_plane.embedded import EmbeddedServer, EmbeddedServerFailed, launch_embedded
from trackside.data_plane.tokens_file import hash_of


def connect_to(server: EmbeddedServer) -> int:
    with grpc.insecure_channel(server.address) as channel:
        request = api_pb2.NewConnectionRequest(details=api_pb2.ConnectionDetails(data_source="Car"))
        return api_pb2_grpc.ConnectionManagerServiceStub(channel).NewConnection(request, timeout=30).connection.id


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.fact("K6")
@pytest.mark.reference_test(
    "ClientShould: the flag says initialised only between Initialise and Shutdown",
    "ClientShould: every service has a client after Initialise",
)
def test_serves_on_a_free_port_and_leaves_nothing() -> None:
    with launch_embedded() as server:
        assert connect_to(server) > 0
        pids = [process["pid"] for process in server.described["processes"]]
        run_dir = server.run_dir
    assert not any(map(is_alive, pids)) and not run_dir.exists()


def test_keeps_a_named_data_directory(tmp_path: Path) -> None:
    config = tmp_path / "AppConfig.json"
    config.write_text(json.dumps({"StreamApiConfig": {"DataDir": str(tmp_path / "data")}}))
    with launch_embedded(config) as server:
        connect_to(server)
    assert (tmp_path / "data").is_dir()


def test_the_environment_of_its_program_does_not_configure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKSIDE_RUN_DIR", "/nowhere")
    monkeypatch.setenv("StreamApiConfig__StreamApiPort", "nonsense")
    with launch_embedded() as server:
        assert connect_to(server) > 0


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    config = tmp_path / "AppConfig.json"
    config.write_text("{")
    with pytest.raises(EmbeddedServerFailed, match=r"AppConfig\.json"):
        launch_embedded(config)


def test_with_tls_and_tokens(tmp_path: Path) -> None:
    """Mutual TLS. The program makes the files, hands on their paths, and is a client with the same."""
    files = TlsFiles(tmp_path / "tls")
    own = Access(*(str(files.folder / name) for name in ("authority.pem", "own.pem", "own.key", "token")))
    for path, data in zip((own.certificate, own.key), files.pair("client"), strict=True):
        Path(path).write_bytes(data)
    Path(own.token_file).write_text("s3cret")
    rights = {"name": "car", "sha256": [hash_of("s3cret")], "read": ["Car"]}
    (files.folder / "tokens.json").write_text(json.dumps({"tokens": [rights]}))
    tls = {"CertificateFile": files.certificate, "KeyFile": files.key, "ClientAuthorityFile": files.authority}
    config = {
        "Tls": {name: str(path) for name, path in tls.items()},
        "TokensFile": str(files.folder / "tokens.json"),
    }
    with launch_embedded(config) as server:
        with open_channel(server.address, own) as channel:
            connections = api_pb2_grpc.ConnectionManagerServiceStub(channel)
            details = api_pb2.ConnectionDetails(data_source="Car")
            assert connections.NewConnection(api_pb2.NewConnectionRequest(details=details), timeout=30).connection.id
            details.data_source = "Boat"
            with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
                connections.NewConnection(api_pb2.NewConnectionRequest(details=details), timeout=30)
        with open_channel(server.address, own._replace(token_file="")) as channel:
            connections = api_pb2_grpc.ConnectionManagerServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                connections.NewConnection(api_pb2.NewConnectionRequest(details=details), timeout=30)
        said = (server.run_dir / "server.json").read_text()
    assert "s3cret" not in said and "PRIVATE" not in said


@pytest.mark.fact("K6")
def test_a_wrong_key_is_told() -> None:
    with pytest.raises(EmbeddedServerFailed, match="Gateways"):
        launch_embedded({"Gateways": -3})


def test_a_program_with_more_descriptors_than_select_takes(many_descriptors: None) -> None:
    with launch_embedded() as server:
        assert connect_to(server) > 0


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """All below 1,024 are in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(4096, before[0]), before[1]))
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < 1024:
        held.append(os.dup(held[0]))
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_thread_that_launched_it_may_end() -> None:
    launched: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: launched.append(launch_embedded()))
    thread.start()
    thread.join()
    with launched[0] as server:
        assert connect_to(server) > 0


SCRIPT = """
from trackside.client.access import Access
from trackside.client.channel import open_channel
from trackside.control_plane.embedded import launch_embedded
server = launch_embedded()
print(server.pid, server.run_dir, flush=True)
input()
"""


def test_the_hosts_death_takes_it_along() -> None:
    host = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pid, run_dir = host.stdout.readline().split()
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    wait_until(lambda: not is_alive(int(pid)) or _is_zombie(int(pid)), "the server is gone")
    assert not list((Path(run_dir) / "instances").iterdir())
    subprocess.run(["rm", "-rf", run_dir], check=True)


def _is_zombie(pid: int) -> bool:
    return f"{pid} (" in (text := Path(f"/proc/{pid}/stat").read_text()) and ") Z" in text
