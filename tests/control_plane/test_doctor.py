"""``trackside doctor``: each thing that keeps the server from working is found and told, on machines made up and real."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka_broker import SASL_PASSWORD, SASL_USER, KafkaBroker
from local_log_support import TOPIC, LocalLog
from log_contract import record
from server import Server

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.control_plane import cli, doctor_checks, machine
from trackside.control_plane.doctor_checks import CHECKS, Case, Finding
from trackside.control_plane.machine import Machine
from trackside.data_plane.record import Route
from trackside.data_plane.spec import MIB, Settings
from trackside.shm.ring import RingWriter, create_ring


class FineMachine(Machine):
    """Nothing to complain of; a test changes one answer."""

    def open_files_max(self) -> int:
        return 65_536

    def cores(self) -> list[int]:
        return [0, 1]

    def governors(self) -> set[str]:
        return {"performance"}

    def clock_source(self) -> str | None:
        return "tsc"

    def clock_synchronised(self) -> bool | None:
        return True

    def memory_available(self) -> int:
        return 8 << 30

    def commit_available(self) -> int | None:
        return None

    def threads_available(self) -> int | None:
        return 30_000

    def swap(self) -> tuple[int, int]:
        return 0, 60

    def file_system(self, path: Path) -> str:
        return "tmpfs" if "run" in path.parts else "ext4"

    def free_bytes(self, path: Path) -> int:
        return 100 << 30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        run_dir=str(tmp_path / "run" / "trackside"),
        data_dir=str(tmp_path / "data"),
        listen_address="127.0.0.1",
        port=0,
        key_port=0,
        status_port=0,
        cores=[0, 1],
    )


def findings(settings: Settings, **answers: Any) -> list[Finding]:
    """What all checks say on a fine machine that answers some questions otherwise."""
    fine = FineMachine()
    for question, answer in answers.items():
        setattr(fine, question, lambda *_, answer=answer: answer)
    return [finding for check in CHECKS for finding in check(Case(settings, fine))]


def test_a_fine_machine_has_nothing_to_change(settings: Settings) -> None:
    found = findings(settings)
    assert {finding.level for finding in found} == {"ok"}
    assert not any(finding.advice for finding in found)


@pytest.mark.parametrize(
    ("answers", "level", "about", "text"),
    [
        ({"threads_available": 100}, "warn", "threads", "100 more may be started, 5 processes take up to 200"),
        ({"threads_available": None}, "ok", "threads", "no limit"),
        ({"commit_available": 1 << 30}, "warn", "overcommit", "1.0 GiB left to promise"),
        ({"open_files_max": 1024}, "warn", "open files", "1,024 a process: some 424 client connections"),
        ({"open_files_max": 100}, "warn", "open files", "some 0 client connections"),
        ({"governors": {"powersave", "performance"}}, "warn", "cpu governor", "powersave"),
        ({"clock_source": "hpet"}, "warn", "clock source", "hpet"),
        ({"clock_synchronised": False}, "warn", "clock", "nobody synchronises it"),
        ({"clock_synchronised": None}, "ok", "clock", "does not say"),
        ({"memory_available": 200 * MIB}, "warn", "memory", "200 MiB available"),
        ({"swap": (4 << 30, 60)}, "warn", "swap", "vm.swappiness 60"),
        ({"swap": (4 << 30, 1)}, "ok", "memory", ""),
        ({"free_bytes": 50 * MIB}, "fail", "shared memory", "this shape needs 5"),
        ({"free_bytes": 500 * MIB}, "warn", "disk", "500 MiB free"),
        ({"file_system": "ext4"}, "warn", "run directory", "not on a tmpfs"),
        ({"file_system": "nfs4"}, "warn", "disk", "each sync crosses the network"),
    ],
)
def test_what_the_machine_lacks(settings: Settings, answers: dict[str, Any], level: str, about: str, text: str) -> None:
    assert any(
        (finding.level, finding.about) == (level, about) and text in finding.text
        for finding in findings(settings, **answers)
    )


def test_cores_are_counted_against_who_wants_one(settings: Settings) -> None:
    def cores(**changes: Any) -> Finding:
        found = findings(msgspec.structs.replace(settings, **changes))
        return next(finding for finding in found if finding.about == "cores")

    assert cores(gateways=2, producers=2, consumers=2).level == "warn"
    eight = {"cores": list(range(8))}
    found = findings(msgspec.structs.replace(settings, cores=eight["cores"]), **eight)
    (pinned,) = (finding for finding in found if finding.about == "cores")
    assert pinned.level == "ok" and "gateway-0 on 5, producer-0 on 6, consumer-0 on 7" in pinned.text


def test_a_port_that_somebody_has(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (failed,) = (one for one in findings(msgspec.structs.replace(settings, key_port=port)) if one.level == "fail")
    assert failed.about == "port" and f"KeyGeneratorPort {port}" in failed.text


def test_folders_that_others_may_read_and_data_of_a_newer_version(settings: Settings) -> None:
    data = Path(settings.data_dir)
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    (data / "format.json").write_text('{"format": 99, "identity": "-"}')
    found = [finding for finding in findings(settings) if finding.about == "data directory"]
    assert [(finding.level, finding.advice) for finding in found] == [("warn", f"chmod 700 {data}"), ("fail", "")]
    assert "mode 755" in found[0].text and "data format 99" in found[1].text


def test_the_disk_in_hours(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(tmp_path)
    log.write([(100, record([bytes(50_000)] * 200, Route(TOPIC, 0, b"")))])  # 10 MB, in less time than a pace needs
    log.close()
    settings = msgspec.structs.replace(settings, data_dir=str(log.data_dir))
    assert not any(" pace" in finding.text for finding in findings(settings))
    monkeypatch.setattr(doctor_checks, "PACE_SECONDS_MIN", 0.0)
    made = time.time() - 1000.0  # as if these had been written over a thousand seconds
    monkeypatch.setattr(doctor_checks, "_made_at", lambda path: made)
    (disk,) = (finding for finding in findings(settings, free_bytes=360 * 10_000_000) if finding.about == "disk")
    assert "100 hours at the last day's pace" in disk.text and disk.level == "ok"
    (disk,) = (finding for finding in findings(settings, free_bytes=36 * 10_000_000) if finding.about == "disk")
    assert disk.level == "warn"


def test_the_command_prints_lines_or_json_and_its_code_says_whether_it_can_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = f"--run-dir {tmp_path}/run --data-dir {tmp_path}/data --port 0 --key-port 0"
    assert cli.run(shlex.split(f"doctor {places}")) == 0
    out, err = capfd.readouterr()
    assert "ok   port            StreamApiPort any on 0.0.0.0 is free" in out and "checks:" in err
    assert not (tmp_path / "run").exists() and not (tmp_path / "data").exists(), "it only looks"
    assert cli.run(shlex.split(f"doctor --json {places} --broker 127.0.0.1:1")) == 1
    document = json.loads(capfd.readouterr().out)
    (failed,) = (finding for finding in document if finding["level"] == "fail")
    assert failed["about"] == "Kafka" and failed["text"].startswith("127.0.0.1:1: ")
    assert cli.run(shlex.split("doctor --port 99999")) == 1
    assert "StreamApiPort" in capfd.readouterr().out


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server.start()
    server.remove()


def test_beside_a_running_server_and_on_what_it_left(server: Server) -> None:
    described = server.described()
    settings = Settings(
        run_dir=str(server.run_dir), data_dir=str(server.data_dir), listen_address="127.0.0.1", port=described["port"]
    )
    settings = msgspec.structs.replace(settings, key_port=0, status_port=0)
    found = {finding.about: finding for finding in reversed(findings(settings))}
    assert found["server"].text.endswith("SERVING") and found["port"].text.endswith("this server's")
    assert "in use by this server" in found["shared memory"].text and found["shared memory"].level == "ok"
    found = {finding.about: finding for finding in reversed(findings(settings, free_bytes=50 * MIB))}
    assert found["shared memory"].level == "warn" and "50 MiB more are free, a take-over" in found["shared memory"].text
    server.send("producer-0", signal.SIGSTOP)
    server.client().write("Car", Packet(id=1))
    server.kill_group()
    found = {finding.about: finding for finding in findings(settings, free_bytes=5 * MIB)}
    assert "server" not in found and "free at" in found["shared memory"].text
    assert found["shared memory"].level == "ok"  # the next start takes what the dead one has
    assert "packets of 1 dead instances wait" in found["recovery"].text


def test_packets_that_wait_for_the_next_start_are_told_wherever_they_are(settings: Settings) -> None:
    for folder in (Path(settings.run_dir) / "instances", Path(settings.data_dir) / "unlogged"):
        for name, held in (("000001-held", bytes(100)), ("000002-empty", b"")):
            instance = folder / name
            (instance / "links").mkdir(parents=True)
            create_ring(instance / "links" / "g.producer-0.down.ring", capacity_bytes=1 << 16, ring_id=name)
            (instance / "laid-out").touch()
            if held:
                RingWriter(instance / "links" / "g.producer-0.down.ring").try_publish([(1, 1, held)])
    texts = [finding.text for finding in findings(settings) if finding.about == "recovery"]
    assert texts == [
        f"packets of 1 dead instances wait in {settings.run_dir}/instances: the next start logs them",
        f"packets of 1 stopped instances wait in {settings.data_dir}/unlogged: the next start logs them",
    ]


def test_what_a_real_machine_says_of_threads_and_promised_memory() -> None:
    threads, committed = Machine().threads_available(), Machine().commit_available()
    assert threads is None or threads >= 0
    assert committed is None or committed >= 0
    assert machine._threads_of(os.getuid()) >= 1


def test_a_kafka_that_is_only_forwarded_to_may_be_away(settings: Settings) -> None:
    edge = msgspec.structs.replace(settings, forward_to="127.0.0.1:1")
    (found,) = (finding for finding in findings(edge) if finding.about == "Kafka")
    assert found.level == "warn" and found.text.startswith("127.0.0.1:1: ")


@pytest.mark.kafka
def test_a_kafka_is_asked_and_its_answers_judged(
    settings: Settings, kafka_broker: KafkaBroker, capfd: pytest.CaptureFixture[str]
) -> None:
    with_kafka = msgspec.structs.replace(settings, broker=kafka_broker.address, replication_factor=3)
    found = {finding.about: finding for finding in findings(with_kafka)}
    assert found["Kafka"].level == "ok" and "1 brokers" in found["Kafka"].text
    assert found["replication"].level == "fail"
    assert found["packet size"].level == "warn" and "1,048,588" in found["packet size"].text
    security = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": SASL_USER,
        "sasl.password": SASL_PASSWORD[::-1],
    }
    wrong = msgspec.structs.replace(settings, broker=kafka_broker.sasl_address, security=security)
    found = {finding.about: finding for finding in findings(wrong)}
    assert found["Kafka"].level == "fail" and "uthentication" in found["Kafka"].text
    assert SASL_PASSWORD[::-1] not in str(found)
