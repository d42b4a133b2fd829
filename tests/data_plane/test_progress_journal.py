"""The journal of consumer groups: killed, cut, full, rewritten, and read by another number of consumers."""

from __future__ import annotations

import os
import random
import re
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trackside.data_plane import progress_journal
from trackside.data_plane.log import Partition, Progress
from trackside.data_plane.progress_journal import JournalDamaged, ProgressJournal

LOG = b"the log of these tests"
CAR, BIKE = Partition("Car", 0), Partition("Bike", 3)


def journal(folder: Path, name: str = "consumer-0") -> ProgressJournal:
    return ProgressJournal(folder, name)


def keep(made: ProgressJournal, group: str, offset: int, partition: Partition = CAR) -> None:
    made.keep(group, {partition: Progress(LOG, offset)})


def offset_of(made: ProgressJournal, group: str, partition: Partition = CAR) -> int | None:
    found = made.find(group, partition)
    return None if found is None else found.offset


def test_a_successor_finds_the_newest(tmp_path: Path) -> None:
    made = journal(tmp_path)
    assert made.find("g", CAR) is None and not any(tmp_path.iterdir())  # looking writes nothing
    made.keep("g", {CAR: Progress(LOG, 5), BIKE: Progress(b"another log", 7)})
    keep(made, "g", 3)
    keep(made, "h", 9)
    for found in (made, journal(tmp_path)):
        assert found.find("g", CAR) == Progress(LOG, 3)
        assert found.find("g", BIKE) == Progress(b"another log", 7)
        assert found.find("h", CAR) == Progress(LOG, 9)
        assert found.find("h", BIKE) is None


def test_cut_anywhere_it_holds_what_was_kept_before(tmp_path: Path) -> None:
    made = journal(tmp_path)
    chooser = random.Random(1)
    states: list[tuple[int, dict[str, int]]] = [(0, {})]
    for offset in range(1, 30):
        group = f"group-{chooser.randrange(4)}"
        keep(made, group, offset)
        states.append((made.path.stat().st_size, {**states[-1][1], group: offset}))
    whole = made.path.read_bytes()
    for size in chooser.sample(range(len(whole)), 60):
        made.path.write_bytes(whole[:size] + chooser.randbytes(chooser.randrange(3)))
        expected = [state for end, state in states if end <= size][-1]
        again = journal(tmp_path)
        assert {name: found for n in range(4) if (found := offset_of(again, name := f"group-{n}"))} == expected
        keep(again, "late", 77)  # what is kept from now on is not hidden behind the torn tail
        again.close()
        assert offset_of(journal(tmp_path), "late") == 77


def test_another_number_of_consumers_finds_it_and_goes_on(tmp_path: Path) -> None:
    first, second = journal(tmp_path, "consumer-0"), journal(tmp_path, "consumer-1")
    keep(first, "g", 10, CAR)
    for offset in range(50):
        keep(second, "g", offset, BIKE)
    alone = journal(tmp_path, "consumer-0")
    assert (offset_of(alone, "g", CAR), offset_of(alone, "g", BIKE)) == (10, 49)
    keep(alone, "g", 12, BIKE)  # less than before, and newer: what the other journal says no longer holds
    both = [journal(tmp_path, name) for name in ("consumer-0", "consumer-1", "consumer-2")]
    assert [offset_of(one, "g", BIKE) for one in both] == [12, 12, 12]
    keep(both[2], "g", 11, BIKE)
    assert offset_of(journal(tmp_path, "consumer-0"), "g", BIKE) == 11


def test_a_journal_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_journal, "REWRITE_BYTES", 4096)
    other = journal(tmp_path, "consumer-1")
    keep(other, "of the other", 1, BIKE)
    made = ProgressJournal(tmp_path, "consumer-0")
    made._rewrite_at = 4096
    for offset in range(1000):
        keep(made, f"group-{offset % 10}", offset)
        assert made.path.stat().st_size < 4 * 4096
    again = journal(tmp_path)
    assert [offset_of(again, f"group-{n}") for n in range(10)] == list(range(990, 1000))
    assert offset_of(again, "of the other", BIKE) == 1
    assert b"of the other" not in made.path.read_bytes()  # that is in its own journal


def test_a_full_disk_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    keep(made, "g", 5)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    with pytest.raises(OSError, match="no room"):
        keep(made, "g", 6)
    monkeypatch.undo()
    assert offset_of(made, "g") == offset_of(journal(tmp_path), "g") == 5
    keep(made, "g", 7)
    assert offset_of(journal(tmp_path), "g") == 7


def test_a_journal_that_cannot_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    keep(journal(tmp_path), "g", 5)
    made = journal(tmp_path)
    hidden = made.path.rename(tmp_path / "hidden")
    made.path.mkdir()
    with pytest.raises(OSError):
        made.find("g", CAR)
    made.path.rmdir()
    hidden.rename(made.path)
    assert offset_of(made, "g") == 5


GOOD: list[Any] = ["g", LOG, [["Car", 0, 5, 1]]]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"\xc1", ""),
        (msgspec.msgpack.encode(GOOD[:2]), ""),
        (msgspec.msgpack.encode([7, *GOOD[1:]]), "$[0]"),
        (msgspec.msgpack.encode(GOOD).replace(b"\xa1g", b"\xa1\xff"), ""),
        (msgspec.msgpack.encode(["g", "text", GOOD[2]]), "$[1]"),
        (msgspec.msgpack.encode(["g", LOG, {}]), "$[2]"),
        (msgspec.msgpack.encode(["g", LOG, [["Car", 0, 5]]]), "$[2][0]"),
        (msgspec.msgpack.encode(["g", LOG, [["", 0, 5, 1]]]), "$[2][0][0]"),
        (msgspec.msgpack.encode(["g", LOG, [["Car", -1, 5, 1]]]), "$[2][0][1]"),
        (msgspec.msgpack.encode(["g", LOG, [["Car", 0, -5, 1]]]), "$[2][0][2]"),
        (msgspec.msgpack.encode(["g", LOG, [["Car", 0, 5, (1 << 64) - 1]]]), "$[2][0][3]"),
    ],
)
def test_a_frame_whose_checksum_holds_and_that_is_none_is_told_and_stays(
    tmp_path: Path, body: bytes, place: str
) -> None:
    """Groups would begin anew without a word, were it taken for a torn tail and cut."""
    made = journal(tmp_path)
    keep(made, "g", 5)
    before = made.path.read_bytes()
    made.path.write_bytes(before + struct.pack("<II", len(body), zlib.crc32(body)) + body)
    damaged = made.path.read_bytes()
    again = journal(tmp_path)
    for _ in range(2):
        with pytest.raises(
            JournalDamaged, match=f"the frame at {len(before)} .*{re.escape(place)}.*move the file away"
        ):
            again.find("g", CAR)
        with pytest.raises(JournalDamaged, match=re.escape(str(made.path))):
            keep(again, "g", 6)
    assert made.path.read_bytes() == damaged
    made.path.rename(tmp_path / "aside")
    assert offset_of(again, "g") is None


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_journal, "PAIRS_MAX", 20)
    made = journal(tmp_path)
    for number in range(30):
        keep(made, f"group-{number}", 1)
        keep(made, "busy", number)
    for found in (made, journal(tmp_path)):
        assert offset_of(found, "busy") == 29 and offset_of(found, "group-29") == 1
        assert offset_of(found, "group-0") is None and len(found) == 20


def test_the_device_gets_it_once_an_interval_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    synced, go_on = threading.Semaphore(0), threading.Event()

    def sync(file: int) -> None:
        assert go_on.wait(30)
        synced.release()

    monkeypatch.setattr(os, "fdatasync", sync)
    made = ProgressJournal(tmp_path, "consumer-0", sync_seconds=2.0, monotonic=lambda: clock[0])
    made.do_work()
    keep(made, "g", 1)
    made.do_work()  # returns although the device does not
    keep(made, "g", 2)
    clock[0] += 3.0
    made.do_work()  # one at a time
    go_on.set()
    assert synced.acquire(timeout=30)
    made._syncing.join() if made._syncing else None
    made.do_work()
    assert synced.acquire(timeout=30)
    keep(made, "g", 3)
    made.do_work()  # the interval has not passed
    assert made._syncing is not None
    made._syncing.join()
    assert not synced.acquire(blocking=False)
    clock[0] += 2.0
    made.do_work()
    assert synced.acquire(timeout=30)
    made.do_work()
    made._syncing.join()
    assert not synced.acquire(blocking=False)  # nothing new: nothing to do
