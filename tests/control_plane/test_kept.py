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
from trackside.shm.ring import RingReader, RingView, RingWriter, create_ring
from trackside.shm.segment import SegmentError


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


def test_only_what_is_used_of_a_ring_is_copied(tmp_path: Path) -> None:
    """Also when it goes on at the ring's beginning: a large ring with little in it must not cost a stop its time."""
    links = tmp_path / "000001-test" / "links"
    links.mkdir(parents=True)
    path = links / "gateway-0.producer-0.down.ring"
    create_ring(path, capacity_bytes=1 << 20, ring_id="ring")
    writer, reader = RingWriter(path), RingReader(path)
    for number in range(7):
        assert writer.try_publish([(1, 1, bytes([number + 1]) * (200 << 10))]) is not None
        reader.poll()
        if number < 5:
            reader.commit(writer.publish_position)
    wanted = RingView(path).uncommitted()
    assert len(wanted) == 2 and len(RingView(path).used_parts()) == 3
    keep(links.parent, tmp_path / "data")
    (kept,) = (tmp_path / "data" / "unlogged").glob("*/links/*.ring")
    assert RingReader(kept).poll() == wanted
    assert kept.stat().st_size > 1 << 20 > len(kept.read_bytes().replace(b"\0", b"")) * 2


def test_a_ring_that_is_none_stays_where_it_is(bench: Bench, tmp_path: Path) -> None:
    (bench.kit.instance / "links" / "gateway-7.producer-0.down.ring").write_bytes(b"no ring")
    with pytest.raises(SegmentError):
        keep(bench.kit.instance, tmp_path / "data")
    assert os.listdir(tmp_path / "data" / "unlogged") == [] and bench.kit.instance.exists()
