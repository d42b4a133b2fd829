"""The load benches, run small: they work from the command line, and nothing was lost. No times are asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def run(bench: str, *options: str) -> Any:
    command = [sys.executable, "-P", "-m", f"trackside.bench.{bench}", "--small", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_readers_of_which_some_never_read() -> None:
    report = run("readers")
    assert report["complete"] and report["bytes_a_reader"] > 0
    assert set(report["policies"]) == {"catch-up", "skip", "end"}
    assert all(found["p99_ratio"] > 0 for found in report["policies"].values())
    assert [phase["silent"] for phase in report["phases"]] == [0, 2] * 3


def test_writers_at_three_times_what_the_log_takes() -> None:
    report = run("writers")
    assert report["writers"]["accepted_per_second"] > 0 < report["share_min"] <= 1 <= report["share_max"]
    assert report["control_calls_failed"] == []
    assert all(calls["overloaded"]["count"] for calls in report["control_calls"].values())
    assert set(report["memory"]) == {"gateway-0", "producer-0"}
