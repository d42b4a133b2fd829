"""How a server starts, and what it says when it cannot: one line for its user, an exit code, no traceback."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server import Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.control_plane.exit_codes import ExitCode
from trackside.data_plane.data_dir import DATA_FORMAT

SERVE = [sys.executable, "-P", "-m", "trackside.control_plane", "serve"]
BOUND_SECONDS = 60.0
MIB = 1 << 20


class Place:
    """Folders for servers that are not expected to get far, and what is needed to clean up behind them."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = Path(f"/dev/shm/trackside-test-{os.getpid()}-{folder.name}")
        self.data_dir = folder / "data"
        self.environment = {
            **os.environ,
            "TRACKSIDE_RUN_DIR": str(self.run_dir),
            "TRACKSIDE_DATA_DIR": str(self.data_dir),
            "TRACKSIDE_PORT": "0",
            "TRACKSIDE_KEY_PORT": "0",
        }

    def begin(self, *arguments: str, prefix: list[str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*(prefix or []), *SERVE, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def refusal(self, *arguments: str, prefix: list[str] | None = None) -> tuple[int, str]:
        """Exit code and the one line of a server that does not start."""
        return refusal_of(self.begin(*arguments, prefix=prefix))


def refusal_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=BOUND_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("trackside: ")
    return process.returncode, err.strip()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    subprocess.run(["rm", "-rf", str(place.run_dir)], check=True)


@functools.cache
def unshare() -> tuple[list[str], str]:
    """A command that gives what follows it a mount namespace of its own, or why there is none."""
    why = ""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        mount = [*command, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
        try:
            tried = subprocess.run(mount, capture_output=True, text=True, check=False)
        except OSError as error:
            return [], str(error)
        if tried.returncode == 0:
            return command, ""
        why = tried.stderr.strip()
    return [], why


def in_tmpfs(folder: Path, options: str) -> list[str]:
    """Prefix of a command: a tmpfs with these mount options is on ``folder``, for it and its children only."""
    command, why = unshare()
    if not command:
        pytest.skip(f"no private mount: {why}")
    folder.mkdir(exist_ok=True)
    return [*command, "sh", "-c", f'mount -t tmpfs -o {options} none {folder} && exec "$@"', "sh"]


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Whatever happens, nothing of it runs afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# -- what cannot be had -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "key"), [("--port", "StreamApiPort"), ("--key-port", "KeyGeneratorPort")])
def test_a_port_in_use(place: Place, option: str, key: str) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        code, line = place.refusal(option, str(port))
    assert code == ExitCode.CANNOT_CREATE
    assert line.startswith(f"trackside: {key} {port} on 0.0.0.0: Address already in use")


def test_a_port_of_another_server_is_not_shared(place: Place, make_server: Callable[..., Server]) -> None:
    """gRPC would join it silently, with SO_REUSEPORT; half of the clients would then be on another server."""
    port = make_server().start().port
    code, line = place.refusal("--port", str(port))
    assert code == ExitCode.CANNOT_CREATE and f"StreamApiPort {port}" in line


@pytest.mark.parametrize("option", ["--run-dir", "--data-dir"])
def test_a_folder_that_cannot_be_made(place: Place, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    code, line = place.refusal(option, str(folder))
    assert code == ExitCode.CANNOT_CREATE
    assert line == f"trackside: {option[2:].replace('-dir', ' directory')} {folder}: Not a directory"


@pytest.mark.parametrize("option", ["--run-dir", "--data-dir"])
def test_a_folder_that_is_not_writable(place: Place, tmp_path: Path, option: str) -> None:
    """A file system mounted read-only, so that it holds for root, too."""
    folder = tmp_path / "read-only"
    code, line = place.refusal(option, str(folder), prefix=in_tmpfs(folder, "ro"))
    assert code == ExitCode.CANNOT_CREATE
    assert line == f"trackside: {option[2:].replace('-dir', ' directory')} {folder}: Read-only file system"


def test_too_little_shared_memory(place: Place, tmp_path: Path) -> None:
    """Says how much is there and how much is needed, and leaves nothing behind."""
    folder = tmp_path / "small"
    code, line = place.refusal("--run-dir", str(folder), prefix=in_tmpfs(folder, "size=40m"))
    assert code == ExitCode.CANNOT_CREATE
    assert line.startswith(f"trackside: run directory {folder}: 39 MiB free, this shape needs 5")
    folder = tmp_path / "container"
    code, line = place.refusal(
        *("--run-dir", str(folder), "--gateways", "2", "--producers", "2"), prefix=in_tmpfs(folder, "size=64m")
    )
    assert code == ExitCode.CANNOT_CREATE and "this shape needs 1" in line


def test_the_smallest_shape_fits_a_container(place: Place, tmp_path: Path) -> None:
    """64 MiB is what containers have as /dev/shm; also for the start after everything was killed."""
    folder = tmp_path / "container"
    prefix = in_tmpfs(folder, "size=64m")
    twice = 'for i in 1 2; do "$@" & wait $!; done'  # one namespace for both, so that the second finds what is there
    process = place.begin("--run-dir", str(folder), prefix=[*prefix, "sh", "-c", twice, "sh"])
    with running(process):

        def described() -> dict[str, Any]:
            try:
                found: dict[str, Any] = json.loads(Path(f"/proc/{process.pid}/root{folder}/server.json").read_text())
            except OSError:
                return {}
            return found

        first = wait_until(lambda: (d := described()).get("state") == "SERVING" and d, "the first is serving")
        os.kill(first["pid"], signal.SIGKILL)
        second = wait_until(
            lambda: (d := described()).get("pid") != first["pid"] and d.get("state") == "SERVING" and d,
            "the second is serving",
        )
        os.kill(second["pid"], signal.SIGTERM)
        assert process.wait(BOUND_SECONDS) == 0


# -- who was here before ----------------------------------------------------------------------------------------------


def test_folders_in_use(place: Place, make_server: Callable[..., Server]) -> None:
    """Both are told after the bound that a dying server is given to let go; both at once, to wait only once."""
    server = make_server().start()
    attempts = {
        "run directory": (place.begin("--run-dir", str(server.run_dir)), server.run_dir),
        "data directory": (place.begin("--data-dir", str(server.data_dir)), server.data_dir),
    }
    assert server.process is not None
    for what, (process, folder) in attempts.items():
        code, line = refusal_of(process)
        assert code == ExitCode.TRY_AGAIN
        assert line.startswith(f"trackside: {what} {folder} is in use by process {server.process.pid} ")
    assert server.described()["state"] == "SERVING"


@pytest.mark.parametrize("log", [(), ("--broker", "127.0.0.1:1")], ids=["local", "kafka"])
def test_data_of_a_newer_version(place: Place, log: tuple[str, ...]) -> None:
    """Whatever the log is: dead letters, checkpoints and keys lie there in any case."""
    place.data_dir.mkdir()
    identity = "7b9c3f0e-3d0c-4a57-9c0a-0d6c5ab9a1f1"
    (place.data_dir / "format.json").write_text(json.dumps({"format": 99, "identity": identity}))
    code, line = place.refusal(*log)
    assert code == ExitCode.CONFIGURATION
    assert line.startswith(f"trackside: {place.data_dir} has data format 99, written by a newer version of Trackside")


def test_starts_at_once_after_a_kill(make_server: Callable[..., Server], shape: str) -> None:
    """Ports, folders and locks of the dead are free again, however often; nothing of the dead stays."""
    server = make_server(shape).start()
    instance = server.described()["instance"]
    for how in (server.kill_group, server.kill_supervisor):
        server.client().write("Car", Packet(id=1), metadata=(("trackside-ack", "log"),))
        how()
        server.start()
        assert server.described()["instance"] != instance
        instance = server.described()["instance"]
        assert [folder.name for folder in (server.run_dir / "instances").iterdir()] == [instance]


def test_a_start_that_was_killed_half_way(make_server: Callable[..., Server]) -> None:
    """What was being laid out had never been used: it is no reason not to start."""
    server = make_server()
    half = server.run_dir / "instances" / "000007-0123"
    (half / "links").mkdir(parents=True)
    (half / "links" / "gateway-0.producer-0.down.ring").write_bytes(bytes(8192))
    (half / "control-plane.liveness").touch()
    server.start()
    assert not half.exists()


# -- what was configured ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--broker", "localhost:nine"], "trackside: BrokerUrl"),
        (["--broker", "localhost:99999"], "trackside: BrokerUrl"),
        (["--port", "70000"], "trackside: StreamApiPort"),
        (["--gateways", "0"], "trackside: Gateways"),
        (["--config", "/no/such/file.json"], "trackside: "),
    ],
)
def test_a_configuration_that_cannot_be_meant(place: Place, arguments: list[str], start: str) -> None:
    code, line = place.refusal(*arguments)
    assert code == ExitCode.CONFIGURATION and line.startswith(start) and arguments[1] in line
    assert not place.run_dir.exists() and not place.data_dir.exists()


def test_keys_that_cannot_be_read_forbid_a_start(place: Place) -> None:
    """The control plane finds out; the server ends before it ever served, and says so in its last line."""
    place.data_dir.mkdir()
    (place.data_dir / "keys").write_text("no number")
    process = place.begin()
    with running(process):
        _, err = process.communicate(timeout=BOUND_SECONDS)
    assert process.returncode == ExitCode.CONFIGURATION
    assert err.splitlines()[-1].startswith(
        f"trackside: control-plane cannot start: {place.data_dir}/keys holds 'no number' instead of a number"
    )
    assert "Traceback" not in err


def test_a_broker_that_does_not_answer(make_server: Callable[..., Server]) -> None:
    """Up and NOT_SERVING; the reason is in the log, in server.json and in what clients are told. What was accepted and
    cannot be logged is kept for the next start."""
    with socket.socket() as nobody:  # bound and not listening: nobody else gets it
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        server = make_server(broker=address)
        server.environment.update(TRACKSIDE_WRITE_WAIT_SECONDS="1", TRACKSIDE_DRAIN_SECONDS="1")
        server.start(wait=False)
        reason = wait_until(lambda: server.wait_state("NOT_SERVING")["reason"], "a reason")
        assert address in reason
        assert json.loads((server.data_dir / "format.json").read_text())["format"] == DATA_FORMAT
        told = [line for line in server.log_text().splitlines() if 'supervisor state state="NOT_SERVING"' in line]
        assert told and address in told[0]
        server.port = server.described()["port"]
        client = server.client()
        health = health_pb2_grpc.HealthStub(client.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            client.write("Car", Packet(id=1), metadata=(("trackside-ack", "log"),))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and address in caught.value.details()
        wait_until(lambda: "NOT SERVING" in server.log_text(), "the banner")
        assert server.stop() == 0
        assert "the next start recovers it" in server.log_text()
        kept = list((server.data_dir / "unlogged").iterdir())
        assert len(kept) == 1 and not list((server.run_dir / "instances").iterdir())
        server.start(wait=False)
        assert address in server.wait_state("NOT_SERVING")["reason"]
        assert server.stop() == 0
        assert list((server.data_dir / "unlogged").iterdir()) == kept
        assert not list((server.run_dir / "instances").iterdir()), "and nothing else"


# -- how it goes well -------------------------------------------------------------------------------------------------


def test_without_arguments(tmp_path: Path) -> None:
    """Default ports and folders, in namespaces of its own so that they are free."""
    command, why = unshare()
    if not command:
        pytest.skip(f"no private mount: {why}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKSIDE_", "XDG_"))}
    environment["HOME"] = str(tmp_path)
    mounted = ["sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh"]
    process = subprocess.Popen(
        [*command, "--net", *mounted, *SERVE],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running(process):
        assert process.stdout is not None
        banner = [process.stdout.readline() for _ in range(5)]  # whatever it says, it ends with its process
        run_dir = f"/dev/shm/trackside-{0 if '--map-root-user' in command else os.getuid()}"
        data_dir = tmp_path / ".local" / "state" / "trackside"
        assert banner[0] == f"trackside  pid {process.pid}  run {run_dir}  log local {data_dir}\n"
        assert banner[1].startswith("  gRPC  0.0.0.0:13579   keys 0.0.0.0:15379   ")
        assert banner[2] == "  metrics  http://127.0.0.1:10010/metrics\n"
        assert banner[3].startswith("ready after ") and banner[3].endswith("A client's address: localhost:13579\n")
        assert banner[4] == f"next:  trackside top --run-dir {run_dir}\n"
        process.terminate()
        assert process.wait(BOUND_SECONDS) == 0


def test_port_0_takes_a_free_one_and_says_which(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    found = server.described()
    assert found["port"] and found["key_port"] and found["port"] != found["key_port"]
    assert f"gRPC  0.0.0.0:{found['port']}   keys 0.0.0.0:{found['key_port']}" in server.log_text()
    server.client().write("Car", Packet(id=1))


@pytest.mark.parametrize("moment", ["the lock is taken", "processes are started", "the first is ready"])
def test_stopped_while_it_starts(make_server: Callable[..., Server], moment: str) -> None:
    """Ends, by itself or by the signal, with nothing left running; the next start finds nothing in its way."""
    server = make_server("2/2/2").start(wait=False)
    assert server.process is not None
    there = {
        "the lock is taken": lambda: (server.run_dir / "lock").exists(),
        "processes are started": lambda: any(p["pid"] for p in server.described().get("processes", ())),
        "the first is ready": lambda: 'state="READY"' in server.log_text(),
    }[moment]
    wait_until(there, moment)
    pids = server.pids() if server.described() else []
    begun = time.monotonic()
    assert server.stop() in (0, -signal.SIGTERM)
    assert time.monotonic() - begun < 15, "it ran into the drain's bound"
    assert "Traceback" not in server.log_text() and " error " not in server.log_text(), server.log_text()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    server.start()
