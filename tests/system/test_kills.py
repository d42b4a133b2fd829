"""Nothing that was accepted is lost, whatever dies: the processes one by one, several, all of them with their parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from checker import Load, Tail, read_everything
from server import Server, wait_until

SOURCES = ["Alpha", "Bravo", "Charlie"]  # with two producers both have some
KILLS = int(os.environ.get("TRACKSIDE_KILLS", "2"))


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest, make_server: Callable[..., Server], shape: str) -> Iterator[Server]:
    broker = request.getfixturevalue("kafka_broker").address if request.param == "kafka" else ""
    server = make_server(shape, broker=broker)
    if broker:  # one broker serves many tests: each has topics of its own
        server.environment["TRACKSIDE_DOMAIN"] = request.node.name.translate(NO_MARKS)[:80]
    yield server.start()


NO_MARKS = str.maketrans({mark: "-" for mark in " []/_."})


def check(server: Server, load: Load) -> None:
    """Every accepted packet is there, in order; on the local log each exactly once."""
    client = server.client()
    for data_source, accepted in load.accepted.items():
        numbers = read_everything(client, data_source, accepted)
        if "--broker" not in server.arguments:
            assert len(numbers) == len(set(numbers)), f"{data_source}: repeats"
            assert numbers == sorted(numbers), f"{data_source}: not in order"
    print(f"survived: {load.count} packets accepted, 0 lost, {load.failures} calls failed, shape {server.shape}")


@pytest.mark.fact("R13")
@pytest.mark.parametrize("victims", ["producer", "consumer", "gateway", "control-plane", "producer consumer gateway"])
def test_a_killed_worker_loses_nothing(server: Server, victims: str) -> None:
    tail = Tail(server, SOURCES[0])
    with Load(server, SOURCES) as load:
        load.wait_more()
        for round_ in range(KILLS):
            for role in victims.split():
                names = server.names(role)
                server.kill(names[round_ % len(names)])
            load.wait_more()
    check(server, load)
    if "gateway" not in victims:
        wait_until(lambda: load.accepted[SOURCES[0]] <= set(tail.numbers), "the open reader has everything")
        assert not tail.broken
        if "--broker" not in server.arguments:
            assert tail.numbers == sorted(set(tail.numbers)), "an open read delivers each log entry once, in order"
    tail.close()


@pytest.mark.parametrize("how", ["group", "supervisor"])
def test_the_next_start_recovers_what_all_of_them_had(server: Server, how: str) -> None:
    with Load(server, SOURCES) as load:
        for _ in range(KILLS):
            load.wait_more()
            pids = server.pids()
            server.kill_group() if how == "group" else server.kill_supervisor()
            wait_until(lambda pids=pids: not any(map(is_alive, pids)), "no process outlives its supervisor")
            server.start()
        load.wait_more()
    check(server, load)


def test_killed_in_the_middle_of_recovery(server: Server) -> None:
    """The log is stopped while packets are accepted, so that recovery has work; recovery itself is killed."""
    with Load(server, SOURCES) as load:
        load.wait_more()
        for name in server.names("producer"):
            server.send(name, signal.SIGSTOP)
        wait_until(lambda: any(ring.used_bytes > 1_000 for ring in server.rings()), "packets wait in rings")
        server.kill_group()
    for _ in range(KILLS + 1):
        server.start(wait=False)
        server.wait_state("RECOVERING", "SERVING", "NOT_SERVING")
        server.kill_group()
    server.start()
    check(server, load)


@pytest.mark.fact("W16")
def test_drain_loses_nothing_and_leaves_nothing(server: Server) -> None:
    with Load(server, SOURCES) as load:
        load.wait_more()
        assert server.stop() == 0
        assert not list((server.run_dir / "instances").iterdir()), server.log_text()[-2000:]
        server.start()
        load.wait_more()
    check(server, load)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
