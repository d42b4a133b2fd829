"""The demo as its user runs it: real server, real processes, proof at the end, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ibt_files import ibt_bytes, write_ibt
from kafka_broker import KafkaBroker
from server import wait_until

from trackside.bench.demo_server import remove_leftovers
from trackside.shm.observe import observe

BOUND = 120.0
COMMAND = [sys.executable, "-P", "-m", "trackside.control_plane", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Temporary files of the demo go where the test can look for them."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def leftovers(tmp_path: Path, pid: int) -> list[Path]:
    return [*tmp_path.glob("trackside-demo-*"), *Path("/dev/shm").glob(f"trackside-demo-{pid}-*")]


def run(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=BOUND)
    finally:
        process.kill()
    assert leftovers(tmp_path, process.pid) == []
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_it_survives_the_death_of_every_kind_of_process(environment: dict[str, str], tmp_path: Path) -> None:
    kills = ["producer", "consumer", "gateway-1", "gateway", "control-plane"]
    shape = ["--gateways", "2", "--producers", "2", "--consumers", "2"]
    done = run([*shape, "--seconds", "6", "--kill", ",".join(kills), "--json"], environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["proved"] and found["failures"] == []
    assert found["packets_read"] == found["packets_written"] > 1200
    assert found["hash_read"] == found["hash_written"]
    names = ["producer-0", "consumer-0", "gateway-1", "gateway-0", "control-plane"]
    assert [kill["name"] for kill in found["killed"]] == names
    assert all(kill["successor_pid"] not in (None, kill["pid"]) for kill in found["killed"])
    restarts = {process["name"]: process["restarts"] for process in found["processes"]}
    assert all(restarts[name] >= 1 for name in names) and restarts["producer-1"] == restarts["consumer-1"] == 0


def test_a_recorded_drive(environment: dict[str, str], tmp_path: Path) -> None:
    recording = write_ibt(tmp_path / "drive.ibt", ibt_bytes(120))
    done = run(["--seconds", "1", "--ibt", str(recording), "--json"], environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["drive"] == "drive.ibt" and found["packets_read"] > 100


@pytest.mark.kafka
def test_on_a_real_kafka(kafka_broker: KafkaBroker, environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--broker", kafka_broker.address, "--seconds", "3", "--kill", "producer", "--json"]
    done = run(arguments, environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["proved"] and found["packets_read"] == found["packets_written"] > 600


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--ibt", "/nowhere.ibt"], 2, "--ibt /nowhere.ibt: No such file"),
        (["--ibt", __file__], 2, "it is no .ibt file"),
        (["--kill", "supervisor"], 2, "no process is named 'supervisor'"),
        (["--kill", "gateway", "--forever"], 2, "use one of them"),
        (["--broker", "no address"], 78, "must be HOST:PORT"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    arguments: list[str], code: int, reason: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(arguments, environment, tmp_path)
    assert done.returncode == code
    assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def forever(environment: dict[str, str]) -> subprocess.Popen[str]:
    """A demo without an end, once telemetry flows."""
    process = subprocess.Popen([*COMMAND, "--forever"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "vCar" in line:
            break
    return process


def test_ctrl_c_ends_it_with_the_proof(forever: subprocess.Popen[str], tmp_path: Path) -> None:
    forever.send_signal(signal.SIGINT)
    out, _ = forever.communicate(timeout=BOUND)
    assert forever.returncode == 0 and out.splitlines()[-1].startswith("PROVED")
    assert "\x1b" not in out and "publish" in out and "restarts 0" in out  # no terminal: plain lines
    assert leftovers(tmp_path, forever.pid) == []


def test_nothing_keeps_running_when_the_demo_is_killed(forever: subprocess.Popen[str]) -> None:
    family = psutil.Process(forever.pid).children(recursive=True)
    assert len(family) >= 7  # supervisor, four workers, writer, reader
    (run_dir,) = Path("/dev/shm").glob(f"trackside-demo-{forever.pid}-*")
    forever.kill()
    forever.communicate(timeout=BOUND)
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in family), "all to be gone")
    # The server was told to drain: what was accepted is in the log.
    assert all(ring.used_bytes == 0 for ring in observe(run_dir).rings if ring.direction == "down" and not ring.note)
    remove_leftovers()  # as the next demo does
    assert not run_dir.exists()
