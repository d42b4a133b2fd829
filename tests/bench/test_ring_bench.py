"""The ring's bench, run small: it works from the command line, and everything it sent arrived. No times are asserted."""

from __future__ import annotations

import json
import subprocess
import sys

SMALL = [sys.executable, "-m", "trackside.bench.ring", "--small"]


def run(*options: str) -> str:
    return subprocess.run([*SMALL, *options], capture_output=True, text=True, check=True, timeout=120).stdout


def test_json() -> None:
    report = json.loads(run("--json"))
    assert [result["transport"] for result in report["results"]] == ["ring", "pipe"]
    assert len({result["hash"] for result in report["results"]}) == 1 and report["hash_ok"]
    assert all(result["packets_per_s"] > 0 and result["rtt_us_p99"] > 0 for result in report["results"])
    assert report["throughput_ratio"] > 0 and report["round_trip_ratio"] > 0


def test_table() -> None:
    printed = run()
    assert "ring " in printed and "pipe " in printed and "hashes equal" in printed
