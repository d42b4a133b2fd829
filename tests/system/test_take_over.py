"""``serve --take-over``: another server takes the place of one that runs, under load, and nobody loses anything."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from faults.lanes import sources
from faults.load import PREFIX, Load
from server import Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2 as keys_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as keys_grpc
from ma.streaming.open_data.v1.open_data_pb2 import Packet

SOURCE = sources(PREFIX)[0]


@pytest.fixture(params=["1/1/1 local", "2/2/2 local", pytest.param("2/2/2 kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Iterator[Server]:
    shape, log = request.param.split()
    broker = request.getfixturevalue("kafka_broker").address if log == "kafka" else ""
    server = make_server(shape, broker=broker)
    if broker:
        server.environment["TRACKSIDE_DOMAIN"] = f"take-over-{os.getpid()}"
    yield server.start()


@pytest.fixture
def local(make_server: Callable[..., Server]) -> Iterator[Server]:
    yield make_server("1/1/1").start()


def took_over(server: Server, before: subprocess.Popen[bytes]) -> None:
    server.wait_state("SERVING")
    assert before.wait(60) == 0, server.log_text()[-2000:]


def new_key(server: Server) -> int:
    stub = keys_grpc.UniqueKeyGeneratorServiceStub(server.channel())
    request = keys_pb2.GenerateUniqueKeyRequest(type=keys_pb2.KeyType.KEY_TYPE_ULONG)
    return int(stub.GenerateUniqueKey(request, timeout=30, wait_for_ready=True).ulong_key)


def new_session(server: Server) -> str:
    request = api_pb2.CreateSessionRequest(data_source=SOURCE, identifier="the session")
    return str(server.client().sessions.CreateSession(request, timeout=30, wait_for_ready=True).session_key)


def test_under_load_everything_accepted_is_there_and_state_goes_on(server: Server) -> None:
    session = new_session(server)
    connection = server.client().connect(SOURCE, streams=["s"], stream_offsets=[0], exclude_main_stream=True)
    found_keys = [new_key(server)]
    with Load(server, statuses=("CANCELLED",)) as load:
        for _ in range(2):
            load.wait_more()
            took_over(server, server.take_over())
            found_keys.append(new_key(server))
            load.wait_more()
    client = server.client()
    assert client.read(connection, 100), "connections are the same"
    request = api_pb2.GetSessionInfoRequest(session_key=session)
    assert client.sessions.GetSessionInfo(request, timeout=30).identifier == "the session"
    assert found_keys == sorted(set(found_keys)), "keys go on"
    assert len(list((server.run_dir / "instances").iterdir())) == 1
    assert len(list(server.run_dir.glob("*.sock"))) == 1


def test_a_reader_ends_with_a_status_and_goes_on_at_the_successor(local: Server) -> None:
    client = local.client()
    client.write("Car", Packet(id=1))
    connection = client.connect("Car")
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
    assert [one.packet.id for one in next(call).response] == [1]
    took_over(local, local.take_over())
    with pytest.raises(grpc.RpcError) as ended:
        next(call)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    client.write("Car", Packet(id=2))
    assert [one.packet.id for one in client.read(connection, 2)] == [1, 2]


def test_writes_wait_until_what_was_accepted_before_is_logged(local: Server) -> None:
    """The producer of the old server is stopped: what it holds comes first, however long that takes."""
    client = local.client()
    client.write("Car", Packet(id=1))
    local.send("producer-0", signal.SIGSTOP)
    client.write("Car", Packet(id=2))
    pid = local.liveness("producer-0").pid
    before = local.take_over()
    wait_until(lambda: "taking over" in local.log_text(), "the old server is asked to drain")
    wait_until(lambda: not writes(local, 3, 0.5), "the old gateway has left: nobody takes a write")
    assert before.poll() is None, "the old server waits for its producer"
    os.kill(pid, signal.SIGCONT)
    took_over(local, before)
    local.client().write("Car", Packet(id=4))
    numbers = [one.packet.id for one in local.client().read(local.client().connect("Car"), 3)]
    without_three = [number for number in numbers if number != 3]
    assert without_three == [1, 2, 4]


def writes(server: Server, number: int, seconds: float) -> bool:
    client = server.client()
    try:
        client.write("Car", Packet(id=number), timeout=seconds)
    except grpc.RpcError:
        return False
    finally:
        client.close()
    return True


def test_without_a_running_server_it_is_a_start_like_any_other(make_server: Callable[..., Server]) -> None:
    server = make_server("1/1/1")
    server.start("--take-over")
    assert server.stop() == 0


def test_another_log_is_not_taken_over(local: Server, tmp_path: Path) -> None:
    before = local.take_over("--data-dir", str(tmp_path / "elsewhere"))
    assert local.process is not None and local.process.wait(60) == 78
    assert f"this configuration local {tmp_path}/elsewhere" in local.log_text()
    local.process = before
    local.client().write("Car", Packet(id=1))


@pytest.mark.parametrize("why", ["no such address", "gateways that cannot start"])
def test_a_successor_that_cannot_serve_leaves_the_old_one_alone(local: Server, why: str) -> None:
    if why == "no such address":
        before = local.take_over("--listen", "203.0.113.1")  # an address kept for documentation: nobody has it
    else:
        local.environment["PYTHONPATH"] = ":".join([str(broken_gateway(local)), os.environ.get("PYTHONPATH", "")])
        before = local.take_over()
    assert local.process is not None and local.process.wait(60) in (73, 75), local.log_text()[-2000:]
    local.process = before
    assert local.wait_state("SERVING")["pid"] == before.pid
    local.client().write("Car", Packet(id=1))
    assert len(list((local.run_dir / "instances").iterdir())) == 1


def broken_gateway(server: Server) -> Path:
    """A folder for the module path in which gRPC's health service is broken: gateways need it, the supervisor does not."""
    package = server.folder / "broken" / "grpc_health"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('broken for a test')")
    return package.parent


def test_one_at_a_time_and_a_successor_that_is_killed_harms_nobody(local: Server) -> None:
    """Stopped in the middle: a second one is refused. Killed there: the next one takes over as if it had never been."""
    client = local.client()
    client.write("Car", Packet(id=1))
    local.send("producer-0", signal.SIGSTOP)
    client.write("Car", Packet(id=2))
    stopped = local.liveness("producer-0").pid
    first = local.process
    before = local.take_over()
    assert before is first
    wait_until(lambda: "taking over" in local.log_text(), "the old server is asked to drain")
    successor = local.process
    local.take_over()
    assert local.process is not None and local.process.wait(60) == 75
    assert "another server is starting" in local.log_text()
    assert successor is not None
    os.killpg(successor.pid, signal.SIGKILL)
    successor.wait()
    os.kill(stopped, signal.SIGCONT)
    assert before.wait(60) == 0
    local.start()
    assert [one.packet.id for one in local.client().read(local.client().connect("Car"), 2)] == [1, 2]
