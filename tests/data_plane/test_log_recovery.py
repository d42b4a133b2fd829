"""What a crash, a power cut or a bad disk leaves of a partition, and what readers and the next producer make of it.

The files here are small, so that every byte of the last two batches can be cut and flipped. After each of them the same
records are appended again, as a producer's successor does from its rings' commit: each packet must stand exactly once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_log_support import PARTITION, TOPIC, LocalLog, numbered_records, values_of
from log_contract import OTHER_RING, RING, Feed, collector, numbered, packet, record

from trackside.data_plane.data_dir import read_identity
from trackside.data_plane.log import Watermarks
from trackside.data_plane.log_recovery import OFFSET_GAP
from trackside.data_plane.record import Route
from trackside.data_plane.segments import BATCH_MAGIC, batch_seed, encode_batch
from trackside.data_plane.spec import Settings

ROUTE = Route(TOPIC, 0, b"key")
RECORDS = numbered_records(4)
"""Four records of three packets, each a batch: offsets [0, 3), [3, 6), [6, 9), [9, 12)."""

VALUES = values_of(RECORDS)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    log = LocalLog(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about what a device keeps; a thousand real syncs would only take time."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def batch_bounds(log: LocalLog) -> list[int]:
    """Where the batches of RECORDS begin in the first segment, and the end of the last."""
    bounds = []
    for count in range(len(RECORDS)):
        writer = log.writer()
        end, made = RECORDS[count]
        writer.append(RING, end, made)
        writer.do_work()
        assert writer.close(0)
        bounds.append(log.segments()[0].stat().st_size)
    head = bounds[0] - (bounds[1] - bounds[0])  # all batches are of one size
    return [head, *bounds]


def replayed(log: LocalLog) -> list[bytes]:
    """Values in the log after a successor has appended all records again."""
    log.write(RECORDS)
    reading = log.read_all()
    values = reading.values
    log.close()
    return values


# --- every byte ----------------------------------------------------------------------------------------------------


def test_cut_at_every_byte_of_the_last_two_batches(log: LocalLog, tmp_path: Path) -> None:
    bounds = batch_bounds(log)
    data = log.segments()[0].read_bytes()
    for size in range(bounds[2], len(data)):
        cut = log.copy_to(tmp_path / str(size))
        cut.segments()[0].write_bytes(data[:size])
        whole = 6 if size < bounds[3] else 9
        assert cut.read_all().values == VALUES[:whole], size  # before anybody mended anything
        assert replayed(cut) == VALUES, size


def test_flip_every_byte_of_the_last_batch(log: LocalLog, tmp_path: Path) -> None:
    bounds = batch_bounds(log)
    data = log.segments()[0].read_bytes()
    for at in range(bounds[3], len(data)):
        bad = log.copy_to(tmp_path / str(at))
        bad.segments()[0].write_bytes(flipped(data, at))
        assert bad.read_all().values == VALUES[:9], at
        assert replayed(bad) == VALUES, at


def test_flip_every_byte_of_the_batch_before_the_last(log: LocalLog, tmp_path: Path) -> None:
    """It was in the log and is damaged: a hole, kept aside; what lies around it stays, once."""
    bounds = batch_bounds(log)
    data = log.segments()[0].read_bytes()
    for at in range(bounds[2], bounds[3]):
        bad = log.copy_to(tmp_path / str(at))
        path = bad.segments()[0]
        path.write_bytes(flipped(data, at))
        reading = bad.read_all()
        assert reading.values == VALUES[:6] + VALUES[9:], at
        assert [(run.start, run.next_offset, len(run.values)) for run in reading.runs] == [
            (0, 6, 6),
            (6, 9, 0),
            (9, 12, 3),
        ], at
        assert reading.reader.statistics()["holes"] == reading.reader.statistics()["damaged"] == 1
        assert replayed(bad) == VALUES[:6] + VALUES[9:], at
        kept = path.with_name(path.name + ".damaged-6").read_bytes()
        assert kept == flipped(data, at)[bounds[2] : bounds[3]], at


def test_flip_every_byte_of_the_head_of_a_segment(log: LocalLog, tmp_path: Path) -> None:
    """The batches behind it stay; the positions that only the head had are found in the segment before."""
    log.settings = Settings(segment_bytes=500)
    log.write([(700, record(numbered(0, 2, "other-"), ROUTE))], ring=OTHER_RING)
    log.write(RECORDS)
    second = log.segments()[1]
    for later in log.segments()[2:]:
        later.unlink()
    log.table.unlink()
    before = log.read_all().values
    data = second.read_bytes()
    for at in range(data.index(BATCH_MAGIC)):
        bad = log.copy_to(tmp_path / str(at))
        (bad.folder() / second.name).write_bytes(flipped(data, at))
        assert bad.read_all().values == before, at
        bad.write([(700, record(numbered(0, 2, "other-"), ROUTE))], ring=OTHER_RING)
        assert replayed(bad) == numbered(0, 2, "other-") + VALUES, at


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


# --- what recovery counts and keeps --------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_and_counted(log: LocalLog) -> None:
    log.write(RECORDS[:3])
    path = log.segments()[0]
    whole = path.stat().st_size
    with open(path, "ab") as file:
        file.write(path.read_bytes()[-100:-1])
    writer = log.write(RECORDS[2:3])
    assert writer.statistics()["torn_tails"] == 1
    assert writer.statistics()["repeats"] == 3
    assert path.stat().st_size == whole
    writer = log.write(RECORDS)
    assert writer.statistics()["torn_tails"] == 0


def test_a_torn_tail_leaves_no_gap(log: LocalLog) -> None:
    log.write(RECORDS[:3])
    path = log.segments()[0]
    path.write_bytes(path.read_bytes() + b"TSB\x01 torn")
    log.write(RECORDS)
    assert [entry.offset for entry in log.read_all().entries] == list(range(12))
    assert len(log.segments()) == 1


def test_a_last_batch_that_was_complete_is_kept_aside_and_its_offsets_are_not_used_again(log: LocalLog) -> None:
    log.write(RECORDS)
    path = log.segments()[0]
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data) - 1))
    log.table.unlink()  # another run: nobody remembers what was published
    writer = log.write(RECORDS)
    assert writer.statistics()["damaged"] == 1
    assert path.with_name(path.name + ".damaged-9").read_bytes() == flipped(data, len(data) - 1)[path.stat().st_size :]
    offsets = [entry.offset for entry in log.read_all().entries]
    assert offsets == [*range(9), 2 * OFFSET_GAP, 2 * OFFSET_GAP + 1, 2 * OFFSET_GAP + 2]


def test_recovery_that_is_killed_and_done_again_finds_the_same(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = batch_bounds(log)
    path = log.segments()[0]
    data = flipped(path.read_bytes(), bounds[1] + 60)
    path.write_bytes(data + b"torn")
    killed = OSError("killed")

    def die(*_: object) -> None:
        raise killed

    for name in ("pathlib.Path.rename", "os.truncate"):  # after the copy was drafted, before the tail is cut
        with monkeypatch.context() as patch:
            patch.setattr(name, die)
            writer = log.writer()
            writer.append(RING, 4000, RECORDS[3][1])
            assert writer.do_work() == 0
            assert not writer.state().available
            writer.close(0)
    assert replayed(log) == VALUES[:3] + VALUES[6:]
    assert path.with_name(path.name + ".damaged-3").read_bytes() == data[bounds[1] : bounds[2]]


@pytest.mark.parametrize("size", [0, 1, 79, 90])
def test_a_segment_that_was_only_begun_is_taken_away(log: LocalLog, size: int) -> None:
    log.write(RECORDS[:2])
    first = log.segments()[0]
    begun = first.with_name(f"{6:020d}.segment")
    begun.write_bytes(first.read_bytes()[:size])
    assert replayed(log) == VALUES
    assert [entry.offset for entry in log.read_all().entries] == list(range(12))


def test_a_missing_segment_is_a_hole(log: LocalLog) -> None:
    log.settings = Settings(segment_bytes=600)
    log.write(numbered_records(8))
    paths = log.segments()
    assert len(paths) >= 3
    bases = [int(path.stem) for path in paths]
    paths[1].unlink()
    reading = log.read_all()
    assert [entry.offset for entry in reading.entries] == [*range(bases[1]), *range(bases[2], 24)]
    assert reading.reader.statistics()["holes"] == 1


def test_a_missing_last_segment_is_a_hole_up_to_the_published_end(log: LocalLog) -> None:
    log.settings = Settings(segment_bytes=600)
    log.write(numbered_records(8))
    last = log.segments()[-1]
    last.unlink()
    reading = log.read_all()
    assert reading.cursor.next_offset == 24
    assert [entry.offset for entry in reading.entries] == list(range(int(last.stem)))
    log.write([(9000, record(numbered(100, 1), ROUTE))])
    assert [entry.offset for entry in log.read_all(offset=int(last.stem)).entries] == [24]


def test_a_segment_of_another_log_is_put_aside(log: LocalLog, tmp_path: Path) -> None:
    other = LocalLog(tmp_path / "other")
    other.write(numbered_records(2))
    log.write(RECORDS[:1])
    foreign = log.folder() / f"{3:020d}.segment"
    foreign.write_bytes(other.segments()[0].read_bytes())
    assert replayed(log) == VALUES
    assert foreign.with_name(foreign.name + ".damaged-3").exists()
    other.close()


@pytest.mark.parametrize(
    ("seed_known", "base_offset", "comes_to_life"),
    [(False, 3, False), (True, 0, False), (True, 3, True)],
    ids=["copied from elsewhere", "offsets given out already", "made with the seed, which no client knows"],
)
def test_damage_does_not_bring_payloads_to_life(
    log: LocalLog, seed_known: bool, base_offset: int, comes_to_life: bool
) -> None:
    """A client sends bytes that look like a batch, and the head of the batch that carries them is damaged."""
    feed = Feed(log.writer())
    feed.append_logged(record(numbered(0, 3), ROUTE))
    identity = read_identity(log.data_dir)
    assert identity is not None
    seed = batch_seed(identity if seed_known else bytes(16), *PARTITION)
    forged = b"".join(
        encode_batch(seed, base_offset, time.time_ns(), [b"forged"], [6], [(b"", b"")], [0], {RING: 9_000_000})
    )
    feed.append_logged(record([packet(forged)], ROUTE))
    feed.append_logged(record(numbered(4, 2), ROUTE))
    log.close()
    path = log.segments()[0]
    data = path.read_bytes()
    carrier = data.rindex(BATCH_MAGIC, 0, data.index(forged))
    path.write_bytes(flipped(data, carrier + 20))
    values = log.read_all().values
    assert values == [*numbered(0, 3), *([b"forged"] if comes_to_life else []), *numbered(4, 2)]


# --- no offset twice -----------------------------------------------------------------------------------------------


def other_boot(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("trackside.data_plane.local_log.boot_id", lambda: number.to_bytes(16, "big"))


def test_another_boot_leaves_a_gap(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    other_boot(monkeypatch, 1)
    log.write(RECORDS[:2])
    other_boot(monkeypatch, 2)
    log.table.unlink()
    writer = log.write(RECORDS)
    assert writer.statistics()["gaps"] == 1
    assert writer.statistics()["repeats"] == 6
    assert [entry.offset for entry in log.read_all().entries] == [*range(6), *range(2 * OFFSET_GAP, 2 * OFFSET_GAP + 6)]
    log.table.unlink()
    writer = log.write([(9000, record(numbered(12, 1), ROUTE))])
    assert writer.statistics()["gaps"] == 0  # the same boot
    reading = log.read_all()
    assert reading.entries[-1].offset == 2 * OFFSET_GAP + 6
    assert reading.reader.statistics()["holes"] == 1
    assert reading.values == [*VALUES, *numbered(12, 1)]


def test_the_gap_is_larger_than_what_may_be_unsynced(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in a block of the gap's size the log ended."""
    for number, end in enumerate((1, OFFSET_GAP - 1, OFFSET_GAP, OFFSET_GAP + 1)):
        partition_log = LocalLog(log.data_dir.parent / str(number))
        other_boot(monkeypatch, 1)
        writer = partition_log.writer()
        writer._table.add(PARTITION, end, 0)
        writer.append(RING, 1000, RECORDS[0][1])
        writer.do_work()
        partition_log.close()
        other_boot(monkeypatch, 2)
        partition_log.table.unlink()
        partition_log.write([(2000, RECORDS[1][1])])
        offsets = [entry.offset for entry in partition_log.read_all().entries]
        assert offsets[0] == end
        assert offsets[3] - offsets[2] > OFFSET_GAP
        partition_log.close()


def test_nothing_is_written_below_what_was_published(log: LocalLog) -> None:
    log.write(RECORDS)
    for path in log.segments():
        path.unlink()
    log.write([(9000, record(numbered(50, 2), ROUTE))])
    reading = log.read_all()
    assert [entry.offset for entry in reading.entries] == [12, 13]
    assert reading.runs[0].start == 0
    assert reading.runs[0].next_offset == 12


def test_what_another_run_wrote_can_be_read_before_a_producer_opens_it(log: LocalLog) -> None:
    log.write(RECORDS)
    log.table.unlink()
    reader = log.reader()
    answers = []
    reader.watermarks([PARTITION], answers.append)
    assert answers == [{PARTITION: Watermarks(0, 12)}]
    assert dict(reader.topics()) == {TOPIC: 1}
    reading = collector(reader, TOPIC)
    reading.collect(12)
    log.write([(9000, record(numbered(12, 3), ROUTE))])
    reading.collect(15)
    assert reading.values == [*VALUES, *numbered(12, 3)]


# --- positions -----------------------------------------------------------------------------------------------------


def test_positions_are_carried_over_from_segment_to_segment(log: LocalLog) -> None:
    log.settings = Settings(segment_bytes=1500)
    feed = Feed(log.writer(), OTHER_RING)
    feed.append_logged(record(numbered(0, 2, "other-"), ROUTE))
    assert feed.writer.close(0)
    records = numbered_records(40)
    log.write(records)
    assert len(log.segments()) > 5
    writer = log.writer()
    writer.append(OTHER_RING, feed.position, record(numbered(0, 2, "other-"), ROUTE))
    for end, made in records:
        writer.append(RING, end, made)
    writer.do_work()
    assert writer.statistics()["repeats"] == 122
    assert writer.logged(OTHER_RING) == feed.position
    assert writer.logged(RING) == records[-1][0]
    assert log.read_all().values == numbered(0, 2, "other-") + values_of(records)


def test_positions_of_dead_rings_are_forgotten(log: LocalLog) -> None:
    log.settings = Settings(segment_bytes=1500)
    dead = "99999999-dead/gateway-0.producer-0.down"
    log.write(RECORDS[:1], ring=dead)
    live = {RING.split("/")[0]}
    writer = log.writer(live_rings=lambda: live)
    for end, made in numbered_records(20):
        writer.append(RING, end, made)
        writer.do_work()
    assert writer.close(0)
    writer = log.writer()
    writer.append(dead, RECORDS[0][0], RECORDS[0][1])
    writer.append(RING, 20_000, numbered_records(20)[-1][1])
    writer.do_work()
    assert writer.statistics()["repeats"] == 3  # of the live ring


def test_records_for_several_partitions_are_told_apart_by_partition(log: LocalLog) -> None:
    """A producer that died between two of its batches: one partition has the record, the other gets it."""
    routes = [ROUTE, Route(TOPIC, 1, b"key")]
    made = record(numbered(0, 4), *routes, indexes=[0, 1, 0, 1])
    log.write([(1000, made)])
    second = log.folder(PARTITION._replace(number=1)) / f"{0:020d}.segment"
    second.unlink()
    log.table.unlink()
    writer = log.write([(1000, made)])
    assert writer.statistics()["repeats"] == 2
    assert log.read_all().values == [made.packets[0], made.packets[2]]
    other = collector(log.reader(), TOPIC, partition=1)
    other.collect(2)
    assert other.values == [made.packets[1], made.packets[3]]


# --- SIGKILL -------------------------------------------------------------------------------------------------------

VICTIM = """
import mmap, os, sys, time
from pathlib import Path
from local_log_support import LocalLog, PARTITION, TOPIC
from log_contract import RING, numbered, record
from trackside.data_plane.record import Route

log = LocalLog(Path(sys.argv[1]), segment_bytes=1 << 20)
total, route = int(sys.argv[2]), Route(TOPIC, 0, b"key")
with open(sys.argv[3], "r+b") as file:
    committed = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
writer = log.writer()
number = committed[0] // 64  # what was logged is committed: a successor starts there
while number < total or writer.logged(RING) < 64 * total:
    for _ in range(min(1 + number % 7, total - number)):
        writer.append(RING, 64 * (number + 1), record(numbered(10 * number, 10, "x" * (number % 500)), route))
        number += 1
    writer.do_work()
    if number % 3 == 0:
        committed[0] = writer.logged(RING)
committed[0] = writer.logged(RING)
"""


def test_sigkill_of_the_writer_again_and_again(tmp_path: Path) -> None:
    """0 lost, 0 twice: every successor appends again from what its predecessor had committed."""
    total, kills = 3000, 8
    cell = tmp_path / "committed"
    cell.write_bytes(bytes(8))
    log = LocalLog(tmp_path / "log")
    ends = []
    for kill in range(kills + 1):
        victim = start_victim(log, total, cell)
        try:
            if kill < kills:
                wait_until_committed(cell, 64 * total * (kill + 1) // (kills + 2), victim)
                ends.append(victim.poll())
                victim.send_signal(signal.SIGKILL)
            assert victim.wait(60) == (-signal.SIGKILL if kill < kills else 0)
        finally:
            victim.kill()
            victim.wait()
    assert ends == [None] * kills, "every kill must have met a living writer"
    assert int.from_bytes(cell.read_bytes(), "little") == 64 * total
    values = log.read_all().values
    expected = [value for number in range(total) for value in numbered(10 * number, 10, "x" * (number % 500))]
    assert len(values) == len(expected)
    assert values == expected
    log.close()


def start_victim(log: LocalLog, total: int, cell: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", VICTIM, str(log.data_dir.parent), str(total), str(cell)]
    return subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})


def wait_until_committed(cell: Path, position: int, victim: subprocess.Popen[bytes]) -> None:
    while victim.poll() is None and int.from_bytes(cell.read_bytes(), "little") < position:
        time.sleep(0.0005)
