"""The bench of the local log, run small: it must measure what it says it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.bench.segments import Load, measure


@pytest.mark.parametrize("sync", ["Interval", "Each"])
def test_small(tmp_path: Path, sync: str) -> None:
    result = measure(Load(entries=640, value_bytes=100, record_entries=32, records_per_work=4, sync=sync), tmp_path)
    assert result.intact
    assert result.append.entries == result.read.entries == 640
    assert result.append.per_second > 0
    assert result.read.cpu_us > 0
    assert result.digest == measure(Load(640, 100, 32, 8, read_bytes=1000), tmp_path / "again").digest
