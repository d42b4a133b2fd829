"""``trackside top`` on run directories made by hand, and on a server whose processes were all killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_directory_kit import DEAD_PID, FakeRunDirectory
from server import Server, wait_until

from trackside.control_plane import top
from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.troubles import COUNTED, PARKED_AGE, PARKED_BYTES, PARKED_TOPICS, troubles_of
from trackside.data_plane.metrics import METRICS, PARK_STATISTICS
from trackside.shm.observe import flows, observe


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRunDirectory:
    monkeypatch.setattr(top, "ONCE_SECONDS", 0.01)
    return FakeRunDirectory(tmp_path)


def shown(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert top.main(str(directory), True, False, 1.0) == ExitCode.OK
    return capsys.readouterr().out


def document(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert top.main(str(directory), True, True, 1.0) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def test_a_table_for_people(directory: FakeRunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.run_as_us("gateway-0", restarts=3).write_last_words("Traceback\n  somewhere\nOSError: [Errno 28] full\n")
    directory.writer().try_publish([(1, 10, bytes(16_000))])
    text = shown(directory.path, capsys)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["SERVING"][1:3] == ["pid", str(os.getpid())]
    assert lines["gateway-0"][1:4] == [str(os.getpid()), "0", "ready"] and "3" in lines["gateway-0"]
    assert "OSError: [Errno 28] full" in text and "Traceback" not in text
    assert lines["producer-0"][3:5] == ["not", "started"]
    assert lines["gateway-0>producer-0"][1] == "24.5%"
    assert "ring 24.5%" in text  # in the line that shows where it jams


def test_a_document_for_programs(directory: FakeRunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.run_as_us("gateway-0")
    directory.count("gateway-0", "refused_total", 4, reason="FULL")
    directory.writer().try_publish([(1, 10, bytes(100))])
    found = document(directory.path, capsys)
    gateway, down = found["processes"][0], found["rings"][0]
    assert (found["state"], found["port"], found["alive"]) == ("SERVING", 13579, True)
    assert gateway["rss_bytes"] > 1_000_000 and gateway["cpu"] is not None
    assert {"name": "refused_total", "labels": {"reason": "FULL"}, "value": 4, "per_second": None} in gateway[
        "counters"
    ]
    assert (down["name"], down["used_bytes"], down["packets"]) == ("gateway-0>producer-0", 192, 10)
    assert down["packets_per_second"] == 0.0 and down["oldest_age_ns"] > 0


def test_what_went_wrong_is_shown_where_anything_did(
    directory: FakeRunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Totals of all processes, of those that have ended, too; nothing of what is 0."""
    assert "refused" not in shown(directory.path, capsys)
    directory.count("gateway-0", "trackside_refused_total", 4, method="ReadPackets", status="unavailable")
    directory.count("gateway-0", "trackside_refused_total", 3, method="WriteDataPacket", status="invalid_argument")
    directory.count("gateway-0", "trackside_limited_total", 2, limit="OpenCallsMax")
    directory.count("gateway-0", "trackside_gateway_denied_total", 5, reason="unauthenticated")
    directory.count("gateway-0", "trackside_gateway_skipped_total", 1000)
    directory.count("producer-0", "trackside_producer_refused_total", 6)
    directory.count("producer-0", "trackside_log_dead_letters_given_up_total", 1)
    directory.count("producer-0", "trackside_producer_quarantined_total", 7)
    directory.count("producer-0", "trackside_producer_parked_topics", 2)
    directory.count("producer-0", "trackside_producer_parked_bytes", 3 << 20)
    directory.count("producer-0", "trackside_producer_parked_age_seconds", 12_400_000_000)
    directory.count("producer-0", "trackside_recovered_packets_total", 90)
    text = shown(directory.path, capsys)
    lines = [line for line in text.splitlines() if "refused 7" in line or "recovered" in line]
    assert len(lines) == 2 and max(map(len, lines)) <= 100
    assert " | ".join(line.strip() for line in lines) == (
        "parked now 2 topics, 3.0 MiB, oldest 12 s | refused 7 | limited 2 | denied 5 | dead letters 6 | "
        "dead letters given up 1 | quarantined 7 | skipped 1000 | recovered packets 90"
    )
    troubles = document(directory.path, capsys)["troubles"]
    assert troubles["totals"]["refused"] == {"total": 7, "per_second": 0.0}
    assert troubles["totals"]["ended_slow"]["total"] == 0
    assert troubles["parked_now"] == {"topics": 2, "bytes": 3 << 20, "age_ns": 12_400_000_000}


def test_troubles_have_rates_and_the_ended_count(directory: FakeRunDirectory) -> None:
    directory.describe(processes=directory.described["processes"][:1], ended=directory.described["processes"][1:])
    directory.count("gateway-0", "trackside_refused_total", 4, method="ReadPackets", status="unavailable")
    before = observe(directory.path)
    directory.count("gateway-0", "trackside_refused_total", 14, method="ReadPackets", status="unavailable")
    directory.count("gateway-0", "trackside_refused_total", 10, method="WriteDataPacket", status="unavailable")
    directory.count("producer-0", "trackside_recovered_packets_total", 90)
    after = observe(directory.path)._replace(taken_ns=before.taken_ns + 2_000_000_000)
    found = troubles_of(after, flows(before, after))
    assert found.totals["refused"] == (24, 10.0) and found.totals["recovered_packets"].total == 90
    assert found.lines() == ["refused 24 (10/s) | recovered packets 90 (45/s)"]
    assert troubles_of(after, flows(after, after)).totals["refused"] == (24, None)
    assert [process.name for process in after.processes] == ["gateway-0"]


def test_the_names_are_those_of_metrics() -> None:
    known = METRICS.keys() | {metric.name for metric in PARK_STATISTICS.values()}
    assert {metric for metrics in COUNTED.values() for metric in metrics} <= known
    assert {PARKED_TOPICS, PARKED_BYTES, PARKED_AGE} <= known


def test_brackets_in_last_words_are_text(directory: FakeRunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.run_as_us("gateway-0").write_last_words("ValueError: [red] is no [/closing]")
    assert "[red] is no [/closing]" in shown(directory.path, capsys)


def test_dead_processes_are_shown_as_dead(directory: FakeRunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    directory.run_as_us("producer-0", pid=DEAD_PID)
    directory.describe(pid=DEAD_PID)
    text = shown(directory.path, capsys)
    assert text.startswith("DEAD") and " dead " in text


def test_nothing_to_show_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"no server has run here") as failed:
        top.main(str(tmp_path), True, False, 1.0)
    assert failed.value.code == ExitCode.NOT_REACHABLE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.remove()


def test_it_answers_after_every_process_was_killed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.start()
    alive = document(server.run_dir, capsys)
    assert {process["state"] for process in alive["processes"]} == {"ready"}
    server.kill_group()
    wait_until(lambda: not any(process.alive for process in observe(server.run_dir).processes), "all to be gone")
    dead = document(server.run_dir, capsys)
    assert dead["state"] == "DEAD"
    assert {process["state"] for process in dead["processes"]} == {"dead"}
    assert [ring["publish"] for ring in dead["rings"]] >= [ring["publish"] for ring in alive["rings"]]
    text = shown(server.run_dir, capsys)
    assert "gateway-0>producer-0" in text and text.count("dead") == len(dead["processes"])
