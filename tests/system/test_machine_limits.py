"""A machine that runs out of something while the server works: descriptors, cores, shared memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from server import Client, Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.control_plane.exit_codes import ExitCode
from trackside.shm.liveness import WorkerState


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Iterator[Server]:
    yield make_server("1/1/1").start()


def epochs(server: Server) -> dict[str, int]:
    return {process["name"]: server.liveness(process["name"]).epoch for process in server.described()["processes"]}


def numbers(server: Server, data_source: str, count: int) -> list[int]:
    client = server.client()
    return [one.packet.id for one in client.read(client.connect(data_source), count)]


def write(client: Client, data_source: str, number: int) -> str:
    """Empty when it was accepted, else the status."""
    try:
        client.write(data_source, Packet(id=number), timeout=10, wait_for_ready=False)
    except grpc.RpcError as error:
        return str(error.code().name)
    return ""


class OpenFiles:
    """Takes descriptors from a process, all but a few, and gives them back."""

    def __init__(self, server: Server, name: str) -> None:
        self._pid = server.liveness(name).pid
        self._before = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)

    def leave(self, few: int) -> None:
        # The limit is on the number that a descriptor may have; those that are open take the lowest ones.
        highest = max(int(name) for name in os.listdir(f"/proc/{self._pid}/fd"))
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (highest + 1 + few, self._before[1]))

    def give_back(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)


def test_a_gateway_without_descriptors_serves_who_is_there_and_later_everybody(server: Server) -> None:
    client = server.client()
    client.write("Car", Packet(id=1))
    before = epochs(server)
    files = OpenFiles(server, "gateway-0")
    files.leave(8)
    crowd = [server.client() for _ in range(30)]
    with ThreadPoolExecutor(len(crowd)) as pool:
        taken = list(pool.map(lambda other: write(other, "Crowd", 1), crowd))
    assert "" in taken and any(taken), f"some found a place, others did not: {taken}"
    client.write("Car", Packet(id=2))  # its connection has been there before
    for other in crowd:
        other.close()
    files.give_back()
    late = server.client()
    wait_until(lambda: write(late, "Car", 3) == "", "there is room again")
    assert numbers(server, "Car", 3) == [1, 2, 3]
    assert epochs(server) == before, "nobody died of it"


@pytest.mark.parametrize("name", ["producer-0", "consumer-0"])
def test_a_log_worker_without_descriptors_goes_on_when_it_has_some(server: Server, name: str) -> None:
    """A topic that is new needs a file: its packets wait. What has its files open goes on."""
    client = server.client()
    client.write("Car", Packet(id=1))
    assert numbers(server, "Car", 1) == [1]
    before = epochs(server)
    files = OpenFiles(server, name)
    files.leave(0)
    client.write("New", Packet(id=1), metadata=(("trackside-ack", "ring"),))
    late = server.client()
    wait_until(lambda: write(late, "Car", 2) == "", "writes are accepted, or said not to be")
    files.give_back()
    assert numbers(server, "New", 1) == [1]
    assert 2 in numbers(server, "Car", 2)
    assert epochs(server) == before, server.log_text()[-3000:]


def test_cores_that_are_taken_away(server: Server) -> None:
    """One core for everything, taken while it works, and given to a server that starts."""
    only = min(os.sched_getaffinity(0))
    client = server.client()
    client.write("Car", Packet(id=1))
    for pid in (server.described()["pid"], *server.pids()):
        os.sched_setaffinity(pid, {only})
    client.write("Car", Packet(id=2))
    for name in ("producer-0", "consumer-0"):
        server.kill(name)  # its successor gets what there is
    client.write("Car", Packet(id=3))
    assert numbers(server, "Car", 3) == [1, 2, 3]


def test_a_server_on_one_core(make_server: Callable[..., Server]) -> None:
    server = make_server("2/2/2")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # inherited
    try:
        server.start()
    finally:
        os.sched_setaffinity(0, allowed)
    server.client().write("Car", Packet(id=1))
    assert numbers(server, "Car", 1) == [1]


@pytest.fixture
def small_memory(make_server: Callable[..., Server], tmp_path: Path) -> Iterator[Server]:
    """A server whose run directory is a tmpfs as containers have it, with little more room than it needs."""
    server = make_server("1/1/1")
    mount = tmp_path / "shm"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("who runs this may not mount a tmpfs")
    try:
        server.arguments[server.arguments.index("--run-dir") + 1] = str(mount / "run")
        server.run_dir = mount / "run"
        yield server.start()
    finally:
        server.remove()
        subprocess.run(["umount", str(mount)], check=True)


def test_shared_memory_that_fills_up_while_the_server_runs(small_memory: Server) -> None:
    """All of it was reserved at the start: packets, successors and sessions need no more. Connections do, and say so."""
    server = small_memory
    client = server.client()
    client.write("Car", Packet(id=1))
    filler = server.run_dir.parent / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with pytest.raises(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0")
    for name in ("producer-0", "consumer-0", "gateway-0"):
        liveness = server.liveness(name)
        epoch = liveness.epoch
        os.kill(liveness.pid, 9)
        wait_until(
            lambda epoch=epoch, its=liveness: its.epoch > epoch and its.state == WorkerState.READY,
            f"successor of {name}",
        )
    client = server.client()
    client.write("Car", Packet(id=2))
    answer = ""
    try:
        client.connect("Car")
    except grpc.RpcError as error:
        answer = f"{error.code().name}: {error.details()}"
    filler.unlink()
    assert answer == "" or answer.startswith(("UNAVAILABLE", "RESOURCE_EXHAUSTED")), answer
    assert numbers(server, "Car", 2) == [1, 2]
    assert server.stop() == 0


def test_what_was_accepted_never_locks_out_a_successor(small_memory: Server) -> None:
    """A server that was killed with packets in its rings left no room for another one beside it."""
    server = small_memory
    client = server.client()
    server.send("producer-0", signal.SIGSTOP)
    client.write("Car", Packet(id=1))
    server.kill_group()
    disk = server.data_dir / "unlogged"
    disk.write_text("in the way")
    server.start(wait=False)
    assert server.process is not None and server.process.wait(60) == ExitCode.CANNOT_CREATE
    assert f"cannot be moved to {server.data_dir}: " in server.log_text().splitlines()[-1]
    disk.unlink()
    server.start()
    assert numbers(server, "Car", 1) == [1]
    assert not list(disk.iterdir()) and len(list((server.run_dir / "instances").iterdir())) == 1
    assert server.stop() == 0
