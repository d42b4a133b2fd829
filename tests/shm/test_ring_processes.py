"""The ring between two processes: stress with seeds, and SIGKILL of both ends, again and again.

Both are ``bench/ring_soak.py`` run short; a long one: ``TRACKSIDE_SOAK_KILLS=2000 pytest tests/shm/test_ring_processes.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("TRACKSIDE_SOAK_KILLS", "100"))
PLACE = "/dev/shm" if os.path.isdir("/dev/shm") else None


def soak(tmp_path: Path, *options: str) -> dict[str, int]:
    """In a process of its own, because it forks."""
    command = [sys.executable, "-m", "trackside.bench.ring_soak", "--json", "--directory", PLACE or str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60 + KILLS, check=False)
    assert done.stdout, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    assert result["failures"] == 0, done.stderr
    return result


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("capacity", [4096, 1 << 16])
def test_stress(tmp_path: Path, capacity: int, seed: int) -> None:
    """20 MB through a ring that is full and empty all the time: nothing lost or torn, no wake-up missed."""
    result = soak(
        tmp_path,
        "--kills",
        "0",
        "--bytes",
        "20000000",
        "--capacity",
        str(capacity),
        "--wait",
        "20",
        "--seed",
        str(seed),
    )
    assert result["bytes"] >= 20_000_000
    assert (result["lost"], result["torn"], result["repeated"], result["late_wakes"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_sigkill(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    result = soak(tmp_path, "--kills", str(KILLS // 2), "--seed", str(seed))
    with capsys.disabled():
        print(f"\nring, SIGKILL of writer and reader: {result}")
    assert result["kills_writer"] + result["kills_reader"] == KILLS // 2
    assert (result["lost"], result["torn"]) == (0, 0)
    assert result["records"] >= 10 * (KILLS // 2)
