"""The local log: the contract of every log, and what is its own: files, retention, full disks, published ends."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from local_log_support import PARTITION, TOPIC, LocalLog, numbered_records, values_of
from log_contract import OTHER_RING, RING, Feed, LogContract, collector, log_all, numbered, packet, record

from trackside.data_plane import device_sync, ends_table, local_log, run_fetch
from trackside.data_plane.data_dir import DATA_FORMAT, DataDirDamaged, DataDirTooNew, claim_data_dir
from trackside.data_plane.ends_table import EndsReader, EndsWriter, create_ends_table
from trackside.data_plane.local_log import LocalLogReader
from trackside.data_plane.log import LogConfigurationError, Partition, Watermarks
from trackside.data_plane.open_files import OpenFiles
from trackside.data_plane.record import Route
from trackside.shm.segment import Segment

ROUTE = Route(TOPIC, 0, b"key")


class TestLocalLog(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[LocalLog]:
        yield from opened(tmp_path)


class TestLocalLogThatSyncsEachInSmallSegments(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[LocalLog]:
        yield from opened(tmp_path, sync="Each", segment_bytes=1800)


def opened(folder: Path, **settings: object) -> Iterator[LocalLog]:
    log = LocalLog(folder, **settings)
    yield log
    log.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    yield from opened(tmp_path)


@pytest.fixture
def small_segments(tmp_path: Path) -> Iterator[LocalLog]:
    yield from opened(tmp_path, segment_bytes=1000)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def now_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(self.now * 1e9)


def watermarks(reader: LocalLogReader, partition: Partition = PARTITION) -> Watermarks:
    answers: list[dict[Partition, Watermarks] | None] = []
    reader.watermarks([partition], answers.append)
    assert answers[0] is not None
    return answers[0][partition]


# --- batches and segments ------------------------------------------------------------------------------------------


def test_what_waits_becomes_one_batch_a_partition(log: LocalLog) -> None:
    feed = Feed(log.writer())
    for number in range(10):
        feed.append(record(numbered(4 * number, 4), ROUTE, Route(TOPIC, 1, b""), indexes=[0, 1, 1, 0]))
    assert feed.writer.do_work() == 40
    assert feed.writer.do_work() == 0
    assert feed.writer.statistics()["batches"] == 2


def test_a_record_never_crosses_a_batch(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.data_plane.batch_draft.BATCH_BYTES", 1000)
    feed = Feed(log.writer())
    for number, packets in enumerate((5, 30, 200, 1, 7)):
        feed.append(record(numbered(1000 * number, packets), ROUTE))
    feed.writer.do_work()
    assert feed.writer.statistics()["batches"] == 3
    reading = collector(log.reader(), TOPIC, bytes_max=1)
    reading.collect(243)
    times = [time_ns for run in reading.runs for time_ns in run.times_ns]
    changes = [at for at in range(1, 243) if times[at] != times[at - 1]]
    assert changes == [35, 235]


def test_a_reader_goes_over_segment_after_segment(small_segments: LocalLog) -> None:
    log = small_segments
    records = numbered_records(60)
    log.write(records)
    assert len(log.segments()) > 10
    rng = random.Random(5)
    for start in [0, 179, *(rng.randrange(180) for _ in range(20))]:
        reading = log.read_all(offset=start)
        assert reading.values == values_of(records)[start:]
        assert [entry.offset for entry in reading.entries] == list(range(start, 180))


def test_a_reader_follows_a_writer_that_rolls(small_segments: LocalLog) -> None:
    log = small_segments
    feed, reading = Feed(log.writer()), collector(log.reader(), TOPIC)
    for number in range(200):
        feed.append_logged(record(numbered(number, 1), ROUTE))
        reading.step()
    assert reading.values == numbered(0, 200)
    assert len(log.segments()) > 10
    fetches = reading.reader.statistics()["fetches"]
    assert fetches <= 200 + len(log.segments())


def test_a_seek_reads_each_head_at_most_once(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening at an offset deep in a segment must not read the file again for every cursor."""
    feed = Feed(log.writer())
    for number in range(400):
        feed.append(record([packet(bytes(4000) + str(number).encode())], ROUTE))
        feed.writer.do_work()
    size = log.segments()[0].stat().st_size
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: read.append(length) or pread(fd, length, at))
    reader = log.reader()
    first = collector(reader, TOPIC, 390, bytes_max=1)
    assert first.step()
    assert sum(read) <= 1.5 * size
    read.clear()
    for offset in (391, 250, 399, 100, 390):
        assert collector(reader, TOPIC, offset, bytes_max=1).step()
    assert sum(read) < size


def test_a_batch_larger_than_a_run_is_read_once(log: LocalLog) -> None:
    feed = Feed(log.writer())
    feed.append_logged(record([packet(bytes(10_000)) for _ in range(100)], ROUTE))
    reading = collector(log.reader(), TOPIC, bytes_max=25_000)
    reading.collect(100)
    assert len(reading.runs) == 50
    # The window of the first look is too small for the batch: two reads, and no more for the other 49 runs.
    assert reading.reader.statistics()["fetches"] == 2


def test_more_partly_read_batches_than_are_kept(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_fetch, "PARTLY_READ_MAX", 1)
    feed = Feed(log.writer())
    for number in range(3):
        feed.append(record(numbered(10 * number, 10), ROUTE))
        feed.writer.do_work()
    reader = log.reader()
    readings = [collector(reader, TOPIC, offset, bytes_max=40) for offset in (0, 12, 25)]
    while sum(reading.step() for reading in readings):
        pass
    assert [reading.values for reading in readings] == [numbered(start, 30 - start) for start in (0, 12, 25)]


def test_keys_of_several_batches_in_one_run(log: LocalLog) -> None:
    writer = log.writer()
    keys = [[b"a"], [b"b", b"a"], [b"c", b"b"], [b"a"]]
    for number, row in enumerate(keys):
        routes = [Route(TOPIC, 0, key) for key in row]
        made = record(numbered(4 * number, 4), *routes, indexes=[at % len(row) for at in range(4)])
        writer.append(RING, number + 1, made)
        writer.do_work()
    reading = log.read_all()
    assert len(reading.runs) == 1
    assert [entry.key for entry in reading.entries] == [row[at % len(row)] for row in keys for at in range(4)]


def test_open_files_are_bounded(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_log, "OPEN_FILES_MAX", 10)
    monkeypatch.setattr(run_fetch, "OPEN_FILES_MAX", 10)
    before = len(os.listdir("/proc/self/fd"))
    feed, reader = Feed(log.writer()), log.reader()
    routes = [Route(f"topic-{number}", 0, b"k") for number in range(100)]
    for start in range(3):
        feed.append_logged(record(numbered(100 * start, 100), *routes, indexes=range(100)))
    readings = [collector(reader, route.topic) for route in routes]
    for number, reading in enumerate(readings):
        reading.collect(3)
        assert reading.values == [*numbered(number, 1), *numbered(100 + number, 1), *numbered(200 + number, 1)]
    assert feed.writer.statistics()["open_files"] == 10
    assert len(os.listdir("/proc/self/fd")) <= before + 20 + 2  # and the tables
    assert feed.writer.close(1)  # syncs files that were closed long ago


def test_files_that_were_used_last_stay_open(tmp_path: Path) -> None:
    files = OpenFiles(2, os.O_RDWR)
    one, two, three = (str(tmp_path / name) for name in ("1", "2", "3"))
    fds = {files.create(one), files.create(two)}
    files.fd(one)
    files.create(three)
    assert files.fd(one) in fds
    assert len(files) == 2
    with pytest.raises(FileExistsError):
        files.create(one)
    with pytest.raises(FileNotFoundError):
        files.fd(str(tmp_path / "4"))
    files.close()
    assert len(files) == 0


# --- repeats -------------------------------------------------------------------------------------------------------


def test_a_record_that_is_there_already_is_counted_and_left_out(log: LocalLog) -> None:
    records = numbered_records(6)
    log.write(records[:4])
    writer = log.write(records[2:])
    assert writer.statistics()["repeats"] == 6
    assert writer.statistics()["appended"] == 6
    assert log.read_all().values == values_of(records)


def test_a_repeat_moves_logged(log: LocalLog) -> None:
    records = numbered_records(2)
    log.write(records)
    writer = log.writer()
    writer.append(RING, *records[0])
    assert writer.do_work() == 0
    assert writer.logged(RING) == records[0][0]


# --- essentials ----------------------------------------------------------------------------------------------------


def test_an_essentials_topic_that_is_a_destination_itself(log: LocalLog) -> None:
    essentials = TOPIC + "_essential"
    routes = [Route(TOPIC, 0, b"k", essentials), Route(essentials, 0, b"e")]
    feed = Feed(log.writer())
    packets = numbered(0, 4)
    feed.append_logged(record(packets, *routes, indexes=[0, 1, 0, 1]))
    assert log.read_all().values == [packets[0], packets[2]]
    reading = log.read_all(essentials)
    assert reading.values == [packets[0], packets[2], packets[1], packets[3]]
    assert [entry.key for entry in reading.entries] == [b"k", b"k", b"e", b"e"]


def test_essentials_that_cannot_be_written_hold_back_their_data_only(log: LocalLog) -> None:
    clock = Clock()
    writer = log.writer(monotonic=clock.monotonic)
    essentials = TOPIC + "_essential"
    blockade = log.folder(Partition(essentials, 0))
    blockade.parent.mkdir(parents=True)
    blockade.write_text("a file where a folder belongs")
    writer.append(RING, 100, record(numbered(0, 2), Route("free", 0, b"k")))
    writer.append(RING, 200, record(numbered(2, 2), ROUTE, Route(TOPIC, 0, b"k", essentials), indexes=[0, 1]))
    writer.append(RING, 300, record(numbered(4, 2), ROUTE))
    writer.append(RING, 400, record(numbered(6, 2), Route("free", 0, b"k")))
    writer.append(OTHER_RING, 50, record(numbered(8, 2), Route("free", 0, b"k")))
    assert writer.do_work() == 6
    assert (writer.logged(RING), writer.logged(OTHER_RING)) == (100, 50)
    assert not writer.state().available
    assert f"cannot write {essentials}/0: " in writer.state().reason
    assert log.read_all().values == []
    assert log.read_all("free").values == [*numbered(0, 2), *numbered(6, 4)]
    blockade.unlink()
    assert writer.do_work() == 0, "it rests a while"
    clock.now += 1
    assert writer.do_work() == 5
    assert writer.state() == (True, "")
    assert writer.logged(RING) == 400
    assert log.read_all().values == numbered(2, 4)
    assert log.read_all(essentials).values == numbered(3, 1)


# --- a disk that is full -------------------------------------------------------------------------------------------


class SmallDisk(NamedTuple):
    folder: Path
    free_up: Callable[[], None]


@pytest.fixture(params=["a small tmpfs", "a writev that fails"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """A folder whose file system takes about a megabyte until ``free_up`` is called."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "a writev that fails":
        yield _limited_writev(folder, monkeypatch)
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (folder / "ballast").write_bytes(bytes(1 << 20))
        yield SmallDisk(folder, (folder / "ballast").unlink)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _limited_writev(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    left = [1 << 20]
    pwritev, pwrite = os.pwritev, os.pwrite

    def limited(fd: int, buffers: tuple[bytes, ...], position: int) -> int:
        data = b"".join(buffers)[: left[0]]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= len(data)
        return pwrite(fd, data, position)

    monkeypatch.setattr(os, "pwritev", limited)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: limited(fd, (data,), position))

    def free_up() -> None:
        monkeypatch.setattr(os, "pwritev", pwritev)
        monkeypatch.setattr(os, "pwrite", pwrite)

    return SmallDisk(folder, free_up)


def test_a_full_disk_is_a_state_and_nothing_is_lost(small_disk: SmallDisk, tmp_path: Path) -> None:
    log, clock = LocalLog(small_disk.folder), Clock()
    log.table = tmp_path / "ends"  # the run directory is another file system
    feed = Feed(log.writer(monotonic=clock.monotonic))
    values = [packet(random.Random(number).randbytes(9000)) for number in range(150)]
    route = Route(TOPIC, 0, b"key", TOPIC + "_essential")
    records = [record(values[at : at + 2], ROUTE, route, indexes=[0, 1]) for at in range(0, 150, 2)]
    for made in records:
        feed.append(made)
        feed.writer.do_work()
        clock.now += 1
    state = feed.writer.state()
    assert not state.available
    assert os.strerror(errno.ENOSPC) in state.reason
    assert str(log.data_dir) in state.reason
    logged = feed.writer.logged(RING)
    assert 0 < logged < feed.position
    seen, copies = log.read_all().values, log.read_all(TOPIC + "_essential").values
    assert 0 < len(seen) < 150
    assert seen == values[: len(seen)]
    assert len(copies) in (len(seen) // 2, len(seen) // 2 + 1)
    assert logged == feed.position * len(seen) // 150, "logged is what readers see"
    before = sum(path.stat().st_size for path in log.segments())
    clock.now += 1
    assert feed.writer.do_work() == 0
    assert sum(path.stat().st_size for path in log.segments()) == before, "nothing half-written stays"
    small_disk.free_up()
    clock.now += 1
    log_all(feed.writer, RING, feed.position)
    assert feed.writer.state() == (True, "")
    assert log.read_all().values == values
    assert log.read_all(TOPIC + "_essential").values == values[1::2]
    log.close()


def test_a_writer_that_dies_on_a_full_disk_leaves_whole_batches(small_disk: SmallDisk, tmp_path: Path) -> None:
    log = LocalLog(small_disk.folder)
    log.table = tmp_path / "ends"
    feed = Feed(log.writer())
    values = [packet(random.Random(number).randbytes(9000)) for number in range(150)]
    for value in values:
        feed.append(record([value], ROUTE))
        feed.writer.do_work()
    assert feed.writer.close(0) is False
    whole = log.read_all().values
    small_disk.free_up()
    feed = Feed(log.writer())
    for value in values:
        feed.append(record([value], ROUTE))
    log_all(feed.writer, RING, feed.position)
    assert feed.writer.statistics()["repeats"] == len(whole)
    assert log.read_all().values == values
    log.close()


class Died(BaseException):
    """Stands for SIGKILL: nothing of the writer's own clean-up runs."""


def fail_write(monkeypatch: pytest.MonkeyPatch, number: int, portion: float, error: BaseException) -> list[int]:
    """Makes write ``number`` of all that follow stop after a ``portion`` of its bytes with ``error``."""
    count = [0]
    pwrite = os.pwrite

    def failing(fd: int, buffers: tuple[bytes, ...], position: int) -> int:
        count[0] += 1
        data = b"".join(buffers)
        if count[0] - 1 != number:
            return pwrite(fd, data, position)
        pwrite(fd, data[: int(portion * len(data))], position)
        raise error

    monkeypatch.setattr(os, "pwritev", failing)
    return count


@pytest.mark.parametrize("portion", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Died()], ids=["disk full", "killed"]
)
def test_every_single_write_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: float, error: BaseException
) -> None:
    """Heads of segments and batches, in segments so small that each batch begins one."""
    routes = [ROUTE, Route(TOPIC, 0, b"key", TOPIC + "_essential")]
    records = [record(numbered(3 * number, 3), *routes, indexes=[0, 1, 0]) for number in range(3)]
    number, writes = 0, 1
    while number < writes:
        log, clock = LocalLog(tmp_path / str(number), segment_bytes=100), Clock()
        feed = Feed(log.writer(monotonic=clock.monotonic))
        with monkeypatch.context() as patch:
            count = fail_write(patch, number, portion, error)
            try:
                for made in records:
                    feed.append(made)
                    feed.writer.do_work()
                    clock.now += 1
                    assert log.read_all().values == numbered(0, len(log.read_all().values))
                log_all(feed.writer, RING, feed.position)
            except Died:
                feed = Feed(log.writer())
                for made in records:
                    feed.append(made)
                log_all(feed.writer, RING, feed.position)
        assert log.read_all().values == numbered(0, 9), number
        assert log.read_all(TOPIC + "_essential").values == [numbered(at, 1)[0] for at in (1, 4, 7)], number
        writes, number = max(writes, count[0]), number + 1
        log.close()
    assert writes >= 12


def test_what_is_not_published_is_not_seen(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may be whole in the file before its end is published: with Sync=Each it may yet be taken back."""
    feed = Feed(log.writer())
    feed.append_logged(record(numbered(0, 3), ROUTE))
    with monkeypatch.context() as patch:
        patch.setattr("trackside.data_plane.partition_tail.PartitionTail.publish", lambda tail: None)
        feed.append_logged(record(numbered(3, 3), ROUTE))
    reading = collector(log.reader(), TOPIC)
    reading.collect(3)
    feed.append_logged(record(numbered(6, 3), ROUTE))
    reading.collect(9)


# --- Sync ----------------------------------------------------------------------------------------------------------


class Device:
    """Counts what is put on the device, and fails when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(device_sync, "run_in_thread", lambda round_: round_())

    def fdatasync(self, fd: int) -> None:
        if self.error is not None:
            raise self.error
        self.synced.append(os.readlink(f"/proc/self/fd/{fd}"))


def test_each_is_on_the_device_before_logged_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, clock = Device(monkeypatch), Clock()
    log = LocalLog(tmp_path, sync="Each", segment_bytes=1800)
    feed = Feed(log.writer(monotonic=clock.monotonic))
    for number in range(10):
        feed.append(record(numbered(3 * number, 3), ROUTE))
        feed.writer.do_work()
        assert feed.writer.logged(RING) == feed.position
        assert device.synced[-1] == str(log.segments()[-1])
    assert len(device.synced) >= 10
    device.error = OSError(errno.EIO, os.strerror(errno.EIO))
    before, size = feed.position, log.segments()[-1].stat().st_size
    feed.append(record(numbered(30, 3), ROUTE))
    assert feed.writer.do_work() == 0
    assert feed.writer.logged(RING) == before
    assert os.strerror(errno.EIO) in feed.writer.state().reason
    assert len(log.read_all().values) == 30, "nobody sees what is not on the device"
    assert log.segments()[-1].stat().st_size == size, "nor does a crash now leave it"
    device.error = None
    clock.now += 1
    feed.writer.do_work()
    assert feed.writer.logged(RING) == feed.position
    assert log.read_all().values == numbered(0, 33)
    log.close()


def test_interval_syncs_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, clock = Device(monkeypatch), Clock()
    log = LocalLog(tmp_path, sync_interval_seconds=5.0)
    feed = Feed(log.writer(monotonic=clock.monotonic))
    for _ in range(20):
        feed.append(record(numbered(0, 3), ROUTE, Route("other", 0, b"k"), indexes=[0, 1, 1]))
        feed.writer.do_work()
        assert feed.writer.logged(RING) == feed.position
        clock.now += 1
    assert len(device.synced) == 2 * 3  # two files, after 5, 10 and 15 seconds
    device.error = OSError(errno.EIO, os.strerror(errno.EIO))
    clock.now += 5
    feed.writer.do_work()
    assert feed.writer.state() == (
        False,
        f"the local log in {log.data_dir} cannot be put on its device: {os.strerror(errno.EIO)}",
    )
    device.error = None
    clock.now += 5
    feed.writer.do_work()
    assert feed.writer.state() == (True, "")
    count = len(device.synced)
    clock.now += 50
    feed.writer.do_work()
    assert len(device.synced) == count, "nothing new, nothing to sync"
    log.close()


def test_a_slow_device_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a round is under way packets are written and seen; the next round has them. Only too much waits."""
    let_go, woken, rounds = threading.Event(), threading.Event(), []

    def slow(fd: int) -> None:
        rounds.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert let_go.wait(60)

    monkeypatch.setattr(os, "fdatasync", slow)
    clock = Clock()
    log = LocalLog(tmp_path, sync_interval_seconds=1.0)
    feed = Feed(log.writer(monotonic=clock.monotonic, wake=woken.set))
    for number in range(10):
        clock.now += 2
        feed.append(record(numbered(3 * number, 3), ROUTE))
        feed.writer.do_work()
        assert feed.writer.logged(RING) == feed.position
    assert log.read_all().values == numbered(0, 30)
    assert feed.writer.statistics()["syncs"] == 0
    let_go.set()
    assert woken.wait(60)
    feed.writer._device.wait()
    feed.writer.do_work()
    assert feed.writer.statistics()["syncs"] >= 1
    assert feed.writer.close(0)
    assert len(rounds) == 2
    log.close()


def test_more_unsynced_than_a_reboot_may_lose_is_synced_out_of_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, clock = Device(monkeypatch), Clock()
    monkeypatch.setattr(local_log, "UNSYNCED_ENTRIES_MAX", 10)
    log = LocalLog(tmp_path, sync_interval_seconds=1e9)
    feed = Feed(log.writer(monotonic=clock.monotonic))
    for number in range(10):
        feed.append_logged(record(numbered(3 * number, 3), ROUTE))
    assert len(device.synced) == 2  # after 12 and 24 entries
    log.close()


# --- retention -----------------------------------------------------------------------------------------------------


def test_retention_by_size(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, segment_bytes=1000, retention_bytes=5000)
    slow = collector(log.reader(), TOPIC, bytes_max=1)
    records = numbered_records(100)
    writer = log.writer()
    for end, made in records:
        writer.append(RING, end, made)
        writer.do_work()
        slow.step()
    paths = log.segments()
    assert 3000 < sum(path.stat().st_size for path in paths) <= 5000
    assert writer.statistics()["segments_expired"] > 10
    earliest = int(paths[0].stem)
    assert watermarks(log.reader()) == Watermarks(earliest, 300)
    reading = log.read_all()
    assert reading.values == values_of(records)[earliest:]
    assert reading.reader.statistics()["expired"] == 1
    while slow.step():
        pass
    assert slow.entries[-1].offset == 299, "a cursor that retention passed by jumps to what there is"
    assert slow.reader.statistics()["expired"] >= 1
    log.close()


def test_the_earliest_offset_moves_before_a_segment_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(tmp_path, segment_bytes=1000, retention_bytes=3000)
    log.write(numbered_records(1))
    reader, unlink = log.reader(), Path.unlink
    gone: list[int] = []

    def watched(path: Path, missing_ok: bool = False) -> None:
        gone.append(int(path.stem))
        assert watermarks(reader).earliest > gone[-1]
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    log.write(numbered_records(40))
    monkeypatch.undo()
    assert len(gone) > 3, "each was looked at"
    log.close()


def test_retention_by_age_against_the_newest_record(tmp_path: Path) -> None:
    log, clock = LocalLog(tmp_path, segment_bytes=1000, retention_seconds=100.0), Clock()
    options = {"now_ns": clock.now_ns, "monotonic": clock.monotonic}
    feed = Feed(log.writer(**options))
    for number in range(20):
        feed.append_logged(record(numbered(3 * number, 3), ROUTE))
        clock.now += 1
    kept = len(log.segments())
    clock.now += 1000
    feed.writer.do_work()
    assert len(log.segments()) == kept, "a log that nobody writes to stays"
    assert feed.writer.close(0)
    feed = Feed(log.writer(**options), position=feed.position)
    for number in range(20, 30):
        feed.append_logged(record(numbered(3 * number, 3), ROUTE))
    assert len(log.segments()) < kept
    reading = log.read_all()
    assert reading.values[-30:] == numbered(60, 30)
    assert int(log.segments()[0].stem) == watermarks(log.reader()).earliest > 0
    log.close()


def test_damaged_bytes_go_with_their_segment(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, segment_bytes=1000, retention_bytes=3000)
    log.write(numbered_records(3))
    kept = log.segments()[0].with_name(log.segments()[0].name + ".damaged-4")
    kept.write_bytes(b"once damaged")
    log.write([(end + 10_000, made) for end, made in numbered_records(40)])
    assert not kept.exists()
    log.close()


# --- the data directory --------------------------------------------------------------------------------------------


def test_a_newer_data_directory_is_refused(log: LocalLog) -> None:
    log.write(numbered_records(1))
    path = log.data_dir / "format.json"
    path.write_text(path.read_text().replace(f'"format": {DATA_FORMAT}', f'"format": {DATA_FORMAT + 1}'))
    for open_it in (log.writer, log.reader):
        with pytest.raises(
            DataDirTooNew, match=f"{log.data_dir} has data format {DATA_FORMAT + 1}.* up to {DATA_FORMAT}"
        ):
            open_it()
    assert issubclass(DataDirTooNew, LogConfigurationError)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "[" * 100_000,
        '{"format": 1, "identity": "no"}',
        '{"format": "x", "identity": ""}',
        '{"format": 1e999, "identity": ""}',
    ],
)
def test_a_format_file_that_says_nothing_is_refused(log: LocalLog, text: str) -> None:
    log.data_dir.mkdir()
    (log.data_dir / "format.json").write_text(text)
    with pytest.raises(DataDirDamaged, match=r"format\.json"):
        log.writer()


def test_a_log_keeps_its_identity_and_a_new_one_has_another(log: LocalLog, tmp_path: Path) -> None:
    log.write(numbered_records(1))
    first = log.read_all().runs[0].identity
    log.write(numbered_records(2))
    assert {run.identity for run in log.read_all().runs} == {first}
    assert len(first) == 16
    other = LocalLog(tmp_path / "other")
    other.write(numbered_records(1))
    assert other.read_all().runs[0].identity != first
    other.close()


def test_processes_that_make_the_log_at_once_agree_on_its_identity(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(5):
            claims = [pool.submit(claim_data_dir, tmp_path / str(attempt)) for _ in range(8)]
            assert len({claim.result() for claim in claims}) == 1
            assert [path.name for path in (tmp_path / str(attempt)).iterdir()] == ["format.json"]


def test_a_reader_may_come_before_the_log(log: LocalLog) -> None:
    reader = log.reader()
    assert dict(reader.topics()) == {}
    assert watermarks(reader) == Watermarks(0, 0)
    reading = collector(reader, TOPIC)
    assert not reading.step()
    assert not log.data_dir.exists()
    log.write(numbered_records(2))
    reading.collect(6)
    assert dict(reader.topics()) == {TOPIC: 1}


def test_files_that_cannot_be_read_are_a_state(log: LocalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write(numbered_records(2))
    clock = Clock()
    reader = LocalLogReader(log.data_dir, [log.table], monotonic=clock.monotonic)
    reading = collector(reader, TOPIC)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        assert not reading.step()
        assert os.strerror(errno.EIO) in reader.state().reason
        assert list(reader.ready()) == [], "it rests a while"
    assert not reading.step()
    clock.now += 2
    reading.collect(6)
    assert reader.state() == (True, "")
    reader.close()


# --- the table of published ends -----------------------------------------------------------------------------------


def test_the_supervisor_may_make_the_table(log: LocalLog) -> None:
    log.table.parent.mkdir(exist_ok=True)
    create_ends_table(log.table)
    reading = collector(log.reader(), TOPIC)
    log.write(numbered_records(2))
    reading.collect(6)


def test_a_table_grows_with_the_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ends"
    count = 2 * ends_table.SLOTS + 10
    writer, reader = EndsWriter(path), EndsReader(path)
    partitions = [Partition(f"topic-{number}", number % 7) for number in range(count)]
    seen = {}
    for number, partition in enumerate(partitions):
        writer.add(partition, number, number // 2)
        if number % 300 == 0:
            seen |= {slot.partition: slot for slot in reader.changed()}
    seen |= {slot.partition: slot for slot in reader.changed()}
    assert list(seen) == partitions
    assert [(slot.end, slot.earliest) for slot in seen.values()] == [(number, number // 2) for number in range(count)]
    assert reader.changed() == []
    successor = EndsWriter(path)
    assert len(successor) == count
    found = successor.slot(partitions[1500])
    assert found is not None
    found.end = 9_999_999
    assert [(slot.partition, slot.end) for slot in reader.changed()] == [(partitions[1500], 9_999_999)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ends", "ends.1", "ends.2"]
    for table in (writer, successor, reader):
        table.close()


def test_the_longest_topic_has_room_in_the_table(tmp_path: Path) -> None:
    writer = EndsWriter(tmp_path / "ends")
    partition = Partition("t" * ends_table.TOPIC_BYTES_MAX, 4_000_000_000)
    writer.add(partition, 1, 0)
    reader = EndsReader(tmp_path / "ends")
    assert [slot.partition for slot in reader.changed()] == [partition]
    writer.close()
    reader.close()


def test_a_table_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "ends"
    Segment.create(path, ends_table.TABLE_BYTES).close()
    reader = EndsReader(path)
    assert reader.changed() == []
    writer = EndsWriter(path)
    writer.add(PARTITION, 5, 0)
    assert [slot.end for slot in reader.changed()] == [5]
    writer.close()
    reader.close()


def test_a_partition_that_moved_to_another_producer(log: LocalLog, tmp_path: Path) -> None:
    """The recovery wrote it under its own table, then the producer that owns it goes on under another."""
    log.write(numbered_records(2))
    first, log.table = log.table, tmp_path / "producer-1.ends"
    reader = LocalLogReader(log.data_dir, [first, log.table])
    reading = collector(reader, TOPIC)
    reading.collect(6)
    log.write(numbered_records(4))
    reading.collect(12)
    assert watermarks(reader) == Watermarks(0, 12)
    reader.close()


def test_consumers_are_told_of_published_ends_and_of_nothing_else(log: LocalLog) -> None:
    rings: list[int] = []
    reader = log.reader()
    writer = log.writer(on_published=lambda: rings.append(watermarks(reader).end))
    writer.do_work()
    writer.append(RING, 100, record(numbered(0, 3), ROUTE))
    assert rings == []
    writer.do_work()
    assert rings == [3]
    writer.append(RING, 100, record(numbered(0, 3), ROUTE))
    writer.do_work()
    assert rings == [3]


# --- two processes -------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from local_log_support import LocalLog
from log_contract import RING, numbered, record
from trackside.data_plane.record import Route

log = LocalLog(Path(sys.argv[1]), segment_bytes=1 << 18)
routes = [Route("even", 0, b"k"), Route("odd", 0, b"k", "odd_essential")]
writer = log.writer()
for number in range(int(sys.argv[2])):
    writer.append(RING, number + 1, record(numbered(20 * number, 20), *routes, indexes=[0, 1] * 10))
    if number % 5 == 0:
        writer.do_work()
assert writer.close(60)
"""


def test_a_reader_beside_a_writer_in_another_process(log: LocalLog) -> None:
    count = 2000
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(log.data_dir.parent), str(count)], env=environment)
    reader = log.reader()
    readings = [collector(reader, topic, bytes_max=50_000) for topic in ("odd", "odd_essential", "even")]
    try:
        while process.poll() is None or list(reader.ready()):
            seen = [len(reading.entries) for reading in readings if reading.step() or True]
            assert seen[1] <= 10 * count
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    expected = numbered(0, 20 * count)
    for reading in readings:
        while reading.step():
            pass
    assert [reading.values for reading in readings] == [expected[1::2], expected[1::2], expected[0::2]]
    assert reader.statistics()["holes"] == reader.statistics()["damaged"] == 0


def test_a_segment_that_retention_has_deleted_takes_no_room_any_more(small_segments: LocalLog) -> None:
    """Whoever reads has it open; its bytes are only free when nobody has."""
    small_segments.write(numbered_records(40))
    segments = small_segments.segments()
    assert len(segments) > 3
    times = itertools.count()
    reader = LocalLogReader(small_segments.data_dir, [small_segments.table], monotonic=lambda: float(next(times)))
    reading = collector(reader, TOPIC, 0)
    while reading.step():
        pass
    segments[0].unlink()
    assert str(segments[0]) in open_paths(deleted=True)
    reader.do_work()
    reader.do_work()
    assert str(segments[0]) not in open_paths(deleted=True)
    assert str(segments[-1]) in open_paths()
    again = collector(reader, TOPIC, 0)
    while again.step():
        pass
    assert again.values == reading.values[-len(again.values) :] and len(again.values) > 60
    reader.close()


def open_paths(*, deleted: bool = False) -> set[str]:
    """Files that this process has open; ``deleted``: that have no name any more."""
    paths = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.endswith(" (deleted)") == deleted:
                paths.add(path.removesuffix(" (deleted)"))
    return paths
