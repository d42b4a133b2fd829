"""Signals that reach more, or less, than the supervisor, a run directory that takes nothing, a recovery that cannot go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
import pytest
from server import Server, wait_until

from ma.streaming.open_data.v1.open_data_pb2 import Packet

LOGGED = (("trackside-ack", "log"),)


def test_a_signal_to_the_whole_group_drains_all_the_same(make_server: Callable[..., Server]) -> None:
    """Producers leave before the gateways do; what was accepted meanwhile is logged by their successors."""
    server = make_server("2/2/2").start()
    client = server.client()
    producers = server.names("producer")
    for name in producers:
        server.send(name, signal.SIGSTOP)
    for number in range(20):
        client.write(f"Source{number}", Packet(id=number + 1))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    for name in producers:
        server.send(name, signal.SIGKILL)  # as gone as after a SIGTERM of their own, at a known moment
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGCONT)
    assert server.process.wait(60) == 0
    assert not list((server.run_dir / "instances").iterdir()), server.log_text()[-2000:]
    assert "not everything was logged" not in server.log_text()


def test_a_run_directory_that_takes_nothing_costs_observers_only(make_server: Callable[..., Server]) -> None:
    server = make_server("1/1/1").start()
    in_the_way = server.run_dir / "server.json.new"
    in_the_way.mkdir()
    server.kill("consumer-0")
    wait_until(lambda: "server.json cannot be written" in server.log_text(), "somebody says so")
    server.client().write("Car", Packet(id=1))
    in_the_way.rmdir()
    wait_until(lambda: server.slot("consumer-0")["pid"] == server.liveness("consumer-0").pid, "observers are told")
    assert server.log_text().count("cannot be written") < 3
    assert server.stop() == 0


def test_a_recovery_that_somebody_stopped_is_started_again(make_server: Callable[..., Server]) -> None:
    """Else what it had not recovered would come after what is written next."""
    server = make_server("1/1/1").start()
    server.send("producer-0", signal.SIGSTOP)
    server.client().write("Car", Packet(id=1))
    server.kill_group()
    server.arguments += ["--broker", "127.0.0.1:1"]
    server.start(wait=False)
    (recovery,) = wait_until(lambda: server.names("recovery"), "recovery runs")
    liveness = server.liveness(recovery)
    wait_until(liveness.read_reason, "it waits for the log")
    epoch = liveness.epoch
    os.kill(liveness.pid, signal.SIGTERM)
    wait_until(lambda: liveness.epoch > epoch, "it is started again")
    wait_until(liveness.read_reason, "it waits for the log again")
    assert not server.slot("producer-0")["pid"]
    assert server.stop() == 0


def test_a_recovery_that_is_given_up_is_the_reason_and_its_packets_stay(make_server: Callable[..., Server]) -> None:
    server = make_server("1/1/1").start()
    server.send("producer-0", signal.SIGSTOP)
    client = server.client()
    client.write("Car", Packet(id=1))
    (ring,) = (server.run_dir / "instances").glob("*/links/gateway-0.producer-0.down.ring")
    server.kill_group()
    server.environment["TRACKSIDE_WRITE_WAIT_SECONDS"] = "1"
    whole = ring.read_bytes()[:8]
    with ring.open("r+b") as file:
        file.write(bytes(8))
    server.start(wait=False)
    wait_until(lambda: "worker given up" in server.log_text(), "the recovery is given up")
    given_up = "is logged first: process recovery died and was given up: "
    wait_until(lambda: given_up in server.described()["reason"], "the reason")
    assert server.described()["state"] == "NOT_SERVING" and server.names("recovery")
    for number in (2, 3):
        with pytest.raises(grpc.RpcError) as caught:
            client.write("Car", Packet(id=number), metadata=LOGGED, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and given_up in str(caught.value.details())
        assert given_up in server.described()["reason"]
    assert server.stop() == 0 and "stay in the run directory" in server.log_text()
    with ring.open("r+b") as file:
        file.write(whole)
    client = server.start().client()
    assert [one.packet.id for one in client.read(client.connect("Car"), 3)] == [1, 2, 3]
