"""What the supervisor does about processes that hang, die or must stop, and what it leaves behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input import told
from faults.load import Load
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters
from trackside.shm.liveness import WorkerState

RESTARTS = int(os.environ.get("TRACKSIDE_RESTARTS", "5"))
ROLES = ("gateway", "producer", "consumer", "control-plane")
CLOSING = told("shutting down")


def state_of(pid: int) -> str:
    """The letter that the kernel gives a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


def restarts(server: Server) -> dict[str, int]:
    return {process["name"]: server.liveness(process["name"]).restarts for process in server.described()["processes"]}


# -- hung and paused --------------------------------------------------------------------------------------------------


def test_a_process_that_hangs_is_replaced(make_server: Callable[..., Server], shape: str) -> None:
    """One of each role stops at once. Each has a successor after the bound, and nothing accepted is lost."""
    server = make_server(shape)
    server.environment.update(TRACKSIDE_STALL_SECONDS="3", TRACKSIDE_GATEWAY_STALL_SECONDS="3")
    server.start()
    before = {name: server.liveness(name).pid for name in (server.names(role)[-1] for role in ROLES)}
    with Load(server) as load:
        load.wait_more()
        for name in before:
            server.send(name, signal.SIGSTOP)
        for name, pid in before.items():
            liveness = server.liveness(name)
            wait_until(
                lambda at=liveness, pid=pid: at.pid != pid and at.state == WorkerState.READY, f"{name} is replaced"
            )
        load.wait_more()
    log = server.log_text()
    for name, pid in before.items():
        assert f'killed a worker that hangs worker="{name}" pid={pid} reason="no heartbeat for' in log
        assert f'worker died worker="{name}" how="killed by SIGKILL"' in log
        assert server.liveness(name).read_last_words() == "killed by SIGKILL"


def test_a_process_that_never_gets_ready_is_replaced(make_server: Callable[..., Server]) -> None:
    """A successor that stops while it starts: the log says what to look at."""
    server = make_server()
    server.environment["TRACKSIDE_START_SECONDS"] = "8"  # what a start may take on a busy machine
    server.start()
    liveness = server.liveness("control-plane")
    first = liveness.pid
    server.send("control-plane", signal.SIGKILL)
    wait_until(lambda: liveness.pid != first, "a successor is started")
    second = liveness.pid
    os.kill(second, signal.SIGSTOP)
    wait_until(lambda: liveness.pid not in (first, second) and liveness.state == WorkerState.READY, "one that is ready")
    hung = f'hangs worker="control-plane" pid={second} reason="not ready within 8 s; look at the machine\'s load'
    assert hung in server.log_text()


def test_a_short_pause_costs_nothing(make_server: Callable[..., Server], shape: str) -> None:
    """Shorter than the bound: everything goes on, nobody is killed, what waited in the rings arrives."""
    server = make_server(shape).start()
    with Load(server, breaks_allowed=0) as load:
        load.wait_more()
        for name in server.names("producer"):
            server.send(name, signal.SIGSTOP)
        wait_until(lambda: any(ring.used_bytes for ring in server.rings()), "something waits in a ring")
        others = [name for role in ROLES if role != "producer" for name in server.names(role)]
        for name in others:
            server.send(name, signal.SIGSTOP)
            wait_until(lambda name=name: state_of(server.liveness(name).pid) == "T", f"{name} has stopped")
        for name in (*others, *server.names("producer")):
            server.send(name, signal.SIGCONT)
        load.wait_more()
    assert not load.report.statuses
    assert not any(restarts(server).values())


def test_a_supervisor_that_was_stopped_itself_blames_nobody(make_server: Callable[..., Server]) -> None:
    """As in a container that is paused: all of them stop for longer than the bound, the supervisor awakes first."""
    server = make_server()
    server.environment.update(TRACKSIDE_STALL_SECONDS="2", TRACKSIDE_GATEWAY_STALL_SECONDS="2")
    server.start()
    assert server.process is not None
    pids = server.pids()
    os.killpg(server.process.pid, signal.SIGSTOP)
    time.sleep(2.5)  # longer than the bound: a passage of time is what is tested
    os.kill(server.process.pid, signal.SIGCONT)
    rounds = _switches(server.process.pid)
    wait_until(lambda: _switches(server.process.pid) > rounds + 3, "the supervisor has looked at them")  # type: ignore[union-attr]
    os.killpg(server.process.pid, signal.SIGCONT)
    server.client().write("Car", Packet(id=1), metadata=(("trackside-ack", "log"),))
    assert server.pids() == pids and not any(restarts(server).values())


def _switches(pid: int) -> int:
    """How often a process has gone to sleep by itself: at least once a round of its loop."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])


# -- dead -------------------------------------------------------------------------------------------------------------


def test_what_a_dead_process_had_to_say(make_server: Callable[..., Server]) -> None:
    """A control plane whose disk fails: its last words are in the log and in its slot, and it goes on when it can."""
    server = make_server().start()
    client = server.client()
    keys = server.data_dir / "keys"
    liveness = server.liveness("control-plane")
    connection = client.connect("Car")
    keys.unlink(missing_ok=True)
    keys.mkdir()  # a folder where a file should be
    server.send("control-plane", signal.SIGKILL)
    wait_until(lambda: "IsADirectoryError" in liveness.read_last_words(), "last words")
    wait_until(lambda: "IsADirectoryError" in server.described()["reason"], "the reason in server.json")
    assert liveness.read_last_words().startswith("Traceback") and str(keys) in liveness.read_last_words()
    died = 'worker died worker="control-plane" how="exit code 70" last_words="IsADirectoryError'
    wait_until(lambda: died in server.log_text(), "the line in the log")
    keys.rmdir()
    server.wait_state("SERVING")
    assert "IsADirectoryError" in liveness.read_last_words(), "they stay for whoever looks later"
    assert client.connections.GetConnection(
        api_pb2.GetConnectionRequest(connection=connection), timeout=30, wait_for_ready=True
    ).HasField("details")


def test_a_process_that_cannot_boot_again_is_given_up_alone(make_server: Callable[..., Server]) -> None:
    """Once the server was up it stays up: the rest serves, and the reason is there for everybody to see."""
    server = make_server().start()
    client = server.client()
    client.write("Car", Packet(id=1))
    reading = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=client.connect("Car")), timeout=60)
    responses = iter(reading)
    assert [r.packet.id for r in next(responses).response] == [1]
    (server.data_dir / "keys").write_text("no number")
    server.send("control-plane", signal.SIGKILL)
    wait_until(lambda: "holds 'no number' instead of a number" in server.described()["reason"], "the reason")
    assert server.described()["state"] == "NOT_SERVING"
    wait_until(lambda: 'worker given up worker="control-plane"' in server.log_text(), "the line in the log")
    client.write("Car", Packet(id=2))
    assert [r.packet.id for r in next(responses).response] == [2]
    reading.cancel()
    request = api_pb2.GetCurrentSessionsRequest(data_source="Car")
    with pytest.raises(grpc.RpcError) as caught:
        client.sessions.GetCurrentSessions(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and "no number" in caught.value.details()
    assert server.stop() == 0


def test_a_process_that_somebody_stopped_is_started_again(make_server: Callable[..., Server], shape: str) -> None:
    """SIGTERM to one process, not to the server: it leaves with 0, and is needed all the same."""
    server = make_server(shape).start()
    names = [server.names(role)[-1] for role in ROLES]
    with Load(server, statuses=("CANCELLED",)) as load:
        load.wait_more()
        for name in names:
            liveness = server.liveness(name)
            pid = liveness.pid
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda at=liveness, pid=pid: at.pid != pid and at.state == WorkerState.READY, f"{name} is back")
            load.wait_more()


# -- drained ----------------------------------------------------------------------------------------------------------


def messages_accepted(server: Server) -> int:
    paths = [process["counters"] for process in server.described()["processes"] if process["role"] == "gateway"]
    rows = [row for path in paths for row in read_counters(path)]
    return sum(value for name, _, value in rows if name == "trackside_gateway_messages_total")


class OpenWrite:
    """A WriteDataPackets call that stays open: the client sends when told to and never says that it is done."""

    def __init__(self, client: Client) -> None:
        self._requests: queue.Queue[api_pb2.WriteDataPacketsRequest | None] = queue.Queue()
        self._call = client.writer.WriteDataPackets.future(self._sent(), timeout=60)

    def _sent(self) -> Iterator[api_pb2.WriteDataPacketsRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def send(self, number: int) -> None:
        detail = api_pb2.DataPacketDetails(message=Packet(id=number), data_source="Drained", stream="s")
        self._requests.put(api_pb2.WriteDataPacketsRequest(details=[detail]))

    def end(self) -> Any:
        """How the server ended it."""
        error = self._call.exception(timeout=60)
        self._requests.put(None)
        return error


def test_drain_under_load(make_server: Callable[..., Server], shape: str) -> None:
    """Open streams end with a status that says why and how far they got; what was accepted is there after the start."""
    server = make_server(shape).start()
    client = server.client()
    writes = [OpenWrite(client) for _ in range(2)]
    for number in range(1, 6):
        writes[0].send(number)
    writes[1].send(6)
    wait_until(lambda: messages_accepted(server) == 6, "six messages are accepted")
    connection = client.connect("Drained", streams=["s"], exclude_main_stream=True)
    essentials = api_pb2.ReadEssentialsRequest(connection=client.connect("Drained", session_key="k"))
    filtered = api_pb2.DataPacketRequest(connection=connection)
    notified = api_pb2.GetSessionStopNotificationRequest(data_source="Drained")
    reads = {
        "ReadPackets": client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=60),
        "ReadEssentials": client.reader.ReadEssentials(essentials, timeout=60),
        "ReadDataPackets": client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=filtered), timeout=60),
        "GetSessionStopNotification": client.sessions.GetSessionStopNotification(notified, timeout=60),
    }
    reads["GetSessionStopNotification"].initial_metadata()
    got = 0
    while got < 6:
        got += len(next(reads["ReadPackets"]).response)
    with Load(server, statuses=("CANCELLED",)) as load:
        load.wait_more()
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 20, "the bound"
        for write, count in zip(writes, ("5", "1"), strict=True):
            error = write.end()
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, CLOSING)
            assert dict(error.trailing_metadata())["trackside-accepted"] == count
        for name, read in reads.items():
            with pytest.raises(grpc.RpcError) as caught:
                next(read)
            assert (name, caught.value.code(), caught.value.details()) == (name, grpc.StatusCode.UNAVAILABLE, CLOSING)
        assert "not everything was logged" not in server.log_text()
        assert "killed a worker" not in server.log_text()
        server.start()
        load.wait_more()
    client = server.client()
    connection = client.connect("Drained", streams=["s"], exclude_main_stream=True)
    assert sorted(found.packet.id for found in client.read(connection, 6)) == [1, 2, 3, 4, 5, 6]


def test_a_drain_is_bounded(make_server: Callable[..., Server]) -> None:
    """A log that does not move: the server leaves within its bound and keeps what it could not log."""
    server = make_server()
    server.environment["TRACKSIDE_DRAIN_SECONDS"] = "1"
    client = server.start().client()
    server.send("producer-0", signal.SIGSTOP)
    client.write("Car", Packet(id=1))
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 15
    assert "not everything was logged; the next start recovers it" in server.log_text()
    client = server.start().client()
    assert [r.packet.id for r in client.read(client.connect("Car"), 1)] == [1]


# -- left behind ------------------------------------------------------------------------------------------------------


def descriptors(server: Server) -> dict[str, int]:
    """Open descriptors of every process, the supervisor's included."""
    found = server.described()
    pids = {"supervisor": found["pid"], **{process["name"]: process["pid"] for process in found["processes"]}}
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items() if pid}


def segments(server: Server) -> list[str]:
    """Names of all files in the run directory, whatever the instance is called."""
    instance = server.described()["instance"]
    paths = (path for path in server.run_dir.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(server.run_dir)).replace(instance, "I") for path in paths)


def use(server: Server) -> None:
    """A write, a read and a control call, and nothing left open."""
    client = server.client()
    client.write("Car", Packet(id=1))
    connection = client.connect("Car")
    client.read(connection, 1)
    client.connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=connection), timeout=30)
    client.close()


def test_restarts_leave_nothing_behind(make_server: Callable[..., Server]) -> None:
    """Quick restarts, stopped or killed: no process, no segment, no file of the data directory and no descriptor more
    than at first. The long form is TRACKSIDE_RESTARTS=300."""
    server = make_server().start()
    use(server)
    first = left_behind(server)
    hows = (server.stop, server.kill_supervisor, server.kill_group, server.kill_supervisor, server.stop)
    for number in range(RESTARTS):
        pids = server.pids()
        hows[number % len(hows)]()
        wait_until(lambda pids=pids: all(map(is_gone, pids)), "no process is left")
        server.start()
        use(server)
    assert left_behind(server) == first


def left_behind(server: Server) -> tuple[list[str], list[Path], dict[str, int]]:
    files = sorted(path for path in server.data_dir.rglob("*") if path.is_file())
    return segments(server), files, settled(lambda: descriptors(server))


def test_successors_leave_nothing_behind(make_server: Callable[..., Server]) -> None:
    """Three deaths of one process of each role: no segment and no descriptor more than at first, in any process."""
    server = make_server("2/2/2").start()
    use(server)
    first = segments(server)
    rounds = []
    for _ in range(3):
        for role in ROLES:
            server.kill(server.names(role)[-1])
        use(server)
        rounds.append(settled(lambda: descriptors(server)))
    assert rounds[0] == rounds[1] == rounds[2], json.dumps(rounds)
    assert segments(server) == first


def settled(measure: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What is measured when it is the same for a while: channels are closed in the background."""
    last, since = measure(), time.monotonic()

    def same() -> bool:
        nonlocal last, since
        if (now := measure()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    wait_until(same, "descriptors do not change any more")
    return last
