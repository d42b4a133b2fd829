"""A snapshot says what the segments say, whoever is alive, and never fails for one file that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_directory_kit import DEAD_PID, FakeRunDirectory

from trackside.shm.liveness import WorkerState
from trackside.shm.observe import CounterValue, NothingToObserve, flows, observe, process_lives


@pytest.fixture
def directory(tmp_path: Path) -> FakeRunDirectory:
    return FakeRunDirectory(tmp_path)


def test_a_server_as_it_is(directory: FakeRunDirectory) -> None:
    directory.run_as_us("gateway-0", work_ns=5, idle_ns=7, restarts=2).write_reason("the log is away")
    directory.count("gateway-0", "trackside_gateway_packets_total", 42)
    server = observe(directory.path)
    assert (server.state, server.alive, server.port, server.instance) == ("SERVING", True, 13579, "000001-feed")
    gateway, producer = server.processes
    assert (gateway.name, gateway.state, gateway.alive, gateway.restarts) == ("gateway-0", "ready", True, 2)
    assert (gateway.work_ns, gateway.idle_ns, gateway.reason, gateway.cores) == (5, 7, "the log is away", [0])
    assert gateway.heartbeat_age_ns is not None and gateway.heartbeat_age_ns < 60e9
    assert CounterValue("trackside_gateway_packets_total", {}, 42) in gateway.counters
    assert (producer.state, producer.alive, producer.heartbeat_age_ns) == ("not started", False, None)
    assert server.process("producer-0") == producer and server.process("nobody") is None
    assert observe(directory.path, counters=False).processes[0].counters == []


def test_positions_of_a_ring(directory: FakeRunDirectory) -> None:
    writer, reader = directory.writer(), directory.reader()
    writer.try_publish([(1, 10, b"a" * 64)])
    taken = writer.try_publish([(1, 5, b"b" * 64)])
    published = writer.try_publish([(1, 1, b"c" * 64)])
    first, second = reader.poll(until=taken)
    reader.commit(first.end)
    down, up = observe(directory.path).rings
    assert (down.name, down.direction, up.name) == ("gateway-0>producer-0", "down", "producer-0>gateway-0")
    assert (down.commit, down.read, down.publish) == (first.end, second.end, published)
    assert (down.used_bytes, down.held_back_bytes, down.packets, down.records) == (256, 128, 16, 3)
    assert down.fill == 256 / down.capacity_bytes and down.oldest_age_ns > 0
    assert (up.used_bytes, up.oldest_age_ns, up.suspect) == (0, 0, False)


def test_everybody_is_dead(directory: FakeRunDirectory) -> None:
    slot = directory.run_as_us("producer-0", pid=DEAD_PID)
    slot.last_exit = -9
    slot.write_last_words("Traceback\nOSError: no space")
    directory.liveness("gateway-0").pid = DEAD_PID
    directory.liveness("gateway-0").state = WorkerState.STOPPED
    directory.describe(pid=DEAD_PID)
    server = observe(directory.path)
    assert (server.state, server.alive) == ("DEAD", False)
    gateway, producer = server.processes
    assert (gateway.state, gateway.alive) == ("stopped", False)  # it left as it should
    assert (producer.state, producer.alive, producer.last_exit) == ("dead", False, -9)
    assert producer.last_words.endswith("no space")


def test_a_server_that_stopped_is_not_dead(directory: FakeRunDirectory) -> None:
    directory.describe(state="STOPPED")
    server = observe(directory.path)
    assert (server.state, server.alive) == ("STOPPED", False)


def test_files_that_are_gone_or_damaged_are_noted(directory: FakeRunDirectory) -> None:
    (directory.path / "gateway-0.liveness").unlink()
    (directory.path / "producer-0.counters").write_bytes(b"x")
    (directory.path / "gateway-0.producer-0.down.ring").unlink()
    (directory.path / "gateway-0.producer-0.up.ring").write_bytes(bytes(8192))
    server = observe(directory.path)
    assert "is not there" in server.processes[0].note and server.processes[0].state == "gone"
    assert server.processes[1].note == "" and server.processes[1].counters == []
    assert "is not there" in server.rings[0].note and "no segment" in server.rings[1].note
    assert server.rings[0].fill == 0.0


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", '{"pid": 1}', '{"pid": "x", "instance": ""}', '{"instance": 1, "pid": 1, "links": [1]}'],
)
def test_no_server_json_or_another_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "server.json").write_text(text)
    with pytest.raises(NothingToObserve, match=r"server\.json") as error:
        observe(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_rates_between_two_looks(directory: FakeRunDirectory) -> None:
    slot = directory.run_as_us("gateway-0", work_ns=100, idle_ns=100)
    directory.count("gateway-0", "packets_total", 10)
    writer = directory.writer()
    before = observe(directory.path)
    writer.try_publish([(1, 200, b"a" * 64)])
    slot.work_ns, slot.idle_ns = 400, 200
    directory.count("gateway-0", "packets_total", 60)
    after = observe(directory.path)._replace(taken_ns=before.taken_ns + 2_000_000_000)
    flow = flows(before, after)
    assert flow.seconds == 2.0 and flow.busy == {"gateway-0": 0.75}
    assert flow.packets["gateway-0>producer-0"] == 100.0 and flow.bytes["gateway-0>producer-0"] == 32.0
    assert flow.counters["gateway-0", "packets_total"] == 25.0


def test_a_successor_and_another_instance_have_no_rates(directory: FakeRunDirectory) -> None:
    slot = directory.run_as_us("gateway-0", work_ns=500, idle_ns=500)
    before = observe(directory.path)
    slot.epoch, slot.work_ns, slot.idle_ns = 2, 600, 600
    assert flows(before, observe(directory.path)).busy == {}
    directory.describe(instance="000002-feed")
    assert flows(before, observe(directory.path)).packets == {}


def test_a_number_that_another_process_has_now_is_not_alive() -> None:
    assert process_lives(os.getpid(), time.monotonic_ns())
    assert not process_lives(DEAD_PID, 0) and not process_lives(0, 0)
    began_long_before_us = time.monotonic_ns() - 10**15
    assert not process_lives(os.getpid(), max(began_long_before_us, 1))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # until it has closed its end
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has taken its status
        assert not process_lives(child.pid, 0)
    finally:
        child.wait()
