"""What a stopping server could not log: in the data directory, whole or not at all, and recovered from there in its order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from agent_bench import Bench, logged, packet
from memory_log import MemoryLog, MemoryWriter

from trackside.control_plane.kept import LAID_OUT, keep, kept_instances, kept_names
from trackside.control_plane.run_directory import holds_packets, unlogged_bytes
from trackside.data_plane.log import Partition
from trackside.data_plane.recovery import Recovery
from trackside.data_plane.spec import Settings


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An instance that ends with packets of Car in its park, and of Boat in its rings."""
    bench = Bench(tmp_path / "run", msgspec.structs.replace(Settings(), park_after_seconds=0.0))
    bench.log.blocked.add("Car")
    for number in (1, 2):
        bench.append(packet(number))
    bench.producer._look_at = 0.0
    bench.settle(2)
    bench.log.available = False
    bench.append(packet(3), topic="Boat")
    bench.append(packet(4))
    bench.settle()
    return bench


def test_rings_and_parks_outlive_the_run_directory(bench: Bench, tmp_path: Path) -> None:
    keep(bench.kit.instance, tmp_path / "data")
    shutil.rmtree(tmp_path / "run" / "parks", ignore_errors=True)
    assert not bench.kit.instance.exists()
    (kept,) = kept_instances(tmp_path / "data")
    assert kept.name == bench.kit.instance.name and holds_packets(kept)
    log = MemoryLog()
    worker = bench.producer.worker
    worker.stopping = False
    Recovery(worker, MemoryWriter(log)).recover(kept)
    assert logged(log) == [1, 2, 4] and logged(log, Partition("Boat", 0)) == [3]
    assert not holds_packets(kept)


def test_what_is_kept_is_whole_or_not_there(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at any step, then a death that leaves the draft."""
    rename = os.rename

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            with pytest.raises(OSError, match="No space"):
                keep(bench.kit.instance, tmp_path / "data")
        assert unlogged_bytes(bench.kit.instance) and kept_names(tmp_path / "data") == []
        assert os.listdir(tmp_path / "data" / "unlogged") == []
    assert os.rename is rename
    (tmp_path / "data" / "unlogged" / "000001-dead.unfinished").mkdir()
    assert kept_instances(tmp_path / "data") == [] and os.listdir(tmp_path / "data" / "unlogged") == []


def test_nothing_is_kept_twice(bench: Bench, tmp_path: Path) -> None:
    keep(bench.kit.instance, tmp_path / "data")
    (kept,) = kept_instances(tmp_path / "data")
    keep(kept, tmp_path / "data")
    assert kept_instances(tmp_path / "data") == [kept]


def test_what_a_recovery_has_parked_counts(bench: Bench, tmp_path: Path) -> None:
    instance = bench.kit.instance
    bench.log.available = True
    bench.settle()
    os.rename(instance / "parks" / "producer-0.park", instance / "parks" / "recovery.park")
    (instance / LAID_OUT).touch()
    assert holds_packets(instance) and not unlogged_bytes(instance, "producer-0")
