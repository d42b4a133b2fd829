"""A real server for tests: started as users start it, stopped, killed in parts or whole, looked at from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.liveness import Liveness, WorkerState
from trackside.shm.ring import RingView

START_SECONDS = 60.0
"""Bound of every wait for the server; generous, since test machines are busy."""

SHAPES = {"1/1/1": (1, 1, 1), "2/2/2": (2, 2, 2)}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
    """Look until ``condition`` holds and return what it gave; fail naming ``what`` when the bound passes."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
    return found


class Server:
    """One server with folders of its own. ``start`` may be called again after ``kill`` or ``stop``: same folders."""

    def __init__(self, folder: Path, shape: str = "1/1/1", arguments: tuple[str, ...] = (), broker: str = "") -> None:
        self.folder = folder
        self.run_dir = Path(f"/dev/shm/trackside-test-{os.getpid()}-{folder.name}")
        self.data_dir = folder / "data"
        self.log_file = folder / "server.log"
        self.shape = shape
        self.broker = broker
        gateways, producers, consumers = SHAPES[shape]
        self.arguments = [
            *("--gateways", str(gateways), "--producers", str(producers), "--consumers", str(consumers)),
            *("--run-dir", str(self.run_dir), "--data-dir", str(self.data_dir)),
            *(("--broker", broker) if broker else ()),
            *arguments,
        ]
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._lifeline = -1
        self._old_lifelines: list[int] = []

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, *more: str, wait: bool = True) -> Server:
        """``more`` are arguments for this time only."""
        command = [sys.executable, "-P", "-m", "trackside.control_plane", "serve", "--port", str(self.port)]
        command += ["--key-port", "0", "--status-port", "0", *self.arguments, *more]
        if self._lifeline >= 0:
            os.close(self._lifeline)
        reading, self._lifeline = os.pipe()  # its end, with this process, ends the server
        log = self.log_file.open("ab")
        self.process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[reading],
            env={**os.environ, "TRACKSIDE_LIFELINE": str(reading), **self.environment},
        )
        log.close()
        os.close(reading)
        if wait:
            self.wait_state("SERVING")
            self.port = self.described()["port"]  # a restart takes the same one, as a server's clients expect
        return self

    def take_over(self, *more: str) -> subprocess.Popen[bytes]:
        """Start a server that takes over from this one, and be that; returns the process that was."""
        before = self.process
        assert before is not None
        lifeline, self._lifeline = self._lifeline, -1  # each holds its own
        self.start("--take-over", *more, wait=False)
        self._old_lifelines.append(lifeline)
        return before

    def wait_state(self, *states: str) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            assert self.process is not None
            code = self.process.poll()
            assert code is None, f"the server ended with {code}:\n{self.log_text()[-3000:]}"
            server = self.described()
            return server if server.get("pid") == self.process.pid and server.get("state") in states else None

        found: dict[str, Any] = wait_until(there, f"server {' or '.join(states)}")
        return found

    def described(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.run_dir / "server.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def log_text(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def stop(self, bound: float = START_SECONDS) -> int:
        """SIGTERM and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(bound)

    def kill_group(self) -> None:
        """SIGKILL of everything at once, as an out-of-memory killer or a power button does to processes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_supervisor(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        """End what is left and take the shared memory away. Called by the fixture."""
        if self.process is not None and self.process.poll() is None:
            self.kill_group()
        for lifeline in self._old_lifelines:
            os.close(lifeline)
        subprocess.run(["rm", "-rf", str(self.run_dir)], check=True)

    # -- its processes ------------------------------------------------------------------------------------------------

    def names(self, role: str) -> list[str]:
        return [process["name"] for process in self.described()["processes"] if process["role"] == role]

    def slot(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(p for p in self.described()["processes"] if p["name"] == name)
        return found

    def liveness(self, name: str) -> Liveness:
        return Liveness(self.slot(name)["liveness"], writable=False)

    def kill(self, name: str) -> None:
        """SIGKILL one process and wait until its successor is ready."""
        liveness = self.liveness(name)
        epoch = liveness.epoch
        self.send(name, signal.SIGKILL)
        wait_until(lambda: liveness.epoch > epoch and liveness.state == WorkerState.READY, f"successor of {name}")

    def send(self, name: str, number: int) -> None:
        os.kill(self.liveness(name).pid, number)

    def pids(self) -> list[int]:
        return [process["pid"] for process in self.described()["processes"] if process["pid"]]

    def rings(self, role: str = "producer") -> Iterator[RingView]:
        """Down rings to log workers of ``role``."""
        for link in self.described()["links"]:
            if link["worker"].startswith(role):
                yield RingView(link["down"])

    # -- its clients --------------------------------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        """A channel of its own: another gateway may get it."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def client(self) -> Client:
        return Client(self.channel())


class Client:
    """Stubs of all services on one channel, and the few calls that nearly every test makes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.writer = api_pb2_grpc.PacketWriterServiceStub(channel)
        self.reader = api_pb2_grpc.PacketReaderServiceStub(channel)
        self.connections = api_pb2_grpc.ConnectionManagerServiceStub(channel)
        self.sessions = api_pb2_grpc.SessionManagementServiceStub(channel)
        self.formats = api_pb2_grpc.DataFormatManagerServiceStub(channel)

    def connect(self, data_source: str, **details: Any) -> api_pb2.Connection:
        wanted = api_pb2.ConnectionDetails(data_source=data_source, **details)
        request = api_pb2.NewConnectionRequest(details=wanted)
        return self.connections.NewConnection(request, timeout=30, wait_for_ready=True).connection

    def write(self, data_source: str, packet: Packet, stream: str = "", session_key: str = "", **call: Any) -> None:
        detail = api_pb2.DataPacketDetails(
            message=packet, data_source=data_source, stream=stream, session_key=session_key
        )
        call = {"timeout": 30, "wait_for_ready": True, **call}
        self.writer.WriteDataPacket(api_pb2.WriteDataPacketRequest(detail=detail), **call)

    def read(self, connection: api_pb2.Connection, count: int, seconds: float = START_SECONDS) -> list[Any]:
        """The next ``count`` packet responses of a ReadPackets call."""
        call = self.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=seconds)
        return take(call, count)

    def close(self) -> None:
        self.channel.close()


def take(call: Any, count: int) -> list[Any]:
    """At least ``count`` packet responses of an open read, which is then cancelled."""
    found: list[Any] = []
    if count:
        for response in call:
            found.extend(response.response)
            if len(found) >= count:
                break
    call.cancel()
    return found
