"""Segments and the instance lock: reserved whole, checked on attach, errors that say what to do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.shm.layout import MAGIC, PAGE_BYTES, STATIC_FIELDS, SegmentKind, StaticPage, dtype_of
from trackside.shm.segment import (
    InstanceLock,
    LayoutMismatch,
    Locked,
    NoSpace,
    Segment,
    SegmentExists,
    SegmentMissing,
    free_bytes,
)

PAGE = StaticPage(SegmentKind.RING, 2 * PAGE_BYTES, 77, 0, "näme")


def test_made_once_reserved_and_private(tmp_path: Path) -> None:
    Segment.make(tmp_path / "s", PAGE)
    status = os.stat(tmp_path / "s")
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == 2 * PAGE_BYTES == status.st_blocks * 512, "reserved, not only promised"
    with pytest.raises(SegmentExists, match=str(tmp_path / "s")):
        Segment.make(tmp_path / "s", PAGE)
    assert Segment.attach(tmp_path / "s").check(SegmentKind.RING) == PAGE


def test_missing_and_foreign(tmp_path: Path) -> None:
    with pytest.raises(SegmentMissing, match="is not there"):
        Segment.attach(tmp_path / "s")
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(LayoutMismatch, match="0 bytes"):
        Segment.attach(tmp_path / "s")
    (tmp_path / "s").write_bytes(b"#!/bin/sh\n".ljust(PAGE_BYTES))
    with pytest.raises(LayoutMismatch, match="no segment"):
        Segment.attach(tmp_path / "s").check(SegmentKind.RING)


def test_unfinished_or_of_another_kind_or_version(tmp_path: Path) -> None:
    Segment.create(tmp_path / "unfinished", PAGE_BYTES).close()
    with pytest.raises(LayoutMismatch, match="never finished"):
        Segment.attach(tmp_path / "unfinished").check(SegmentKind.RING)
    Segment.make(tmp_path / "s", PAGE)
    with pytest.raises(LayoutMismatch, match="kind 1, COUNTERS is 3"):
        Segment.attach(tmp_path / "s").check(SegmentKind.COUNTERS)
    with (tmp_path / "s").open("r+b") as file:
        file.seek(8)
        file.write(b"\x09")
    with pytest.raises(LayoutMismatch, match="version 9"):
        Segment.attach(tmp_path / "s").check(SegmentKind.RING)


def test_nothing_is_left_of_what_could_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most"):
        Segment.make(tmp_path / "s", PAGE._replace(name="x" * PAGE_BYTES))
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm")
def test_no_space_says_how_much_is_needed() -> None:
    path = Path(f"/dev/shm/trackside-test-{os.getpid()}")
    needed = free_bytes("/dev/shm") * 4 + PAGE_BYTES
    try:
        with pytest.raises(NoSpace) as caught:
            Segment.create(path, needed)
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)
    assert (caught.value.path, caught.value.bytes_needed) == (path, needed)
    assert str(needed) in str(caught.value) and str(path) in str(caught.value)
    assert 0 < caught.value.bytes_available < needed


def test_closed_means_an_error_not_a_crash(tmp_path: Path) -> None:
    Segment.make(tmp_path / "s", PAGE)
    segment = Segment.attach(tmp_path / "s")
    cells = segment.cells
    segment.close()
    segment.close()
    with pytest.raises(ValueError, match="released"):
        cells[0]


def test_read_only_cannot_store(tmp_path: Path) -> None:
    Segment.make(tmp_path / "s", PAGE)
    segment = Segment.attach(tmp_path / "s", writable=False)
    with pytest.raises(TypeError):
        segment.cells[0] = 1


def test_numpy_sees_the_same_page(tmp_path: Path) -> None:
    import numpy as np

    Segment.make(tmp_path / "s", PAGE)
    page = np.fromfile(tmp_path / "s", dtype_of(STATIC_FIELDS, PAGE_BYTES), count=1)[0]
    assert (page["magic"], page["kind"], page["extent"], page["name_bytes"]) == (MAGIC, 1, 77, 5)


# --- the lock --------------------------------------------------------------------------------------------------------

HOLD = "import sys; sys.stdin.read()"


def test_lock_names_its_holder(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path, "0a1b")
    assert lock.fd == -1
    lock.acquire()
    with pytest.raises(Locked, match=rf"{tmp_path}.*process {os.getpid()}.*0a1b") as caught:
        InstanceLock(tmp_path).acquire()
    assert (caught.value.pid, caught.value.instance) == (os.getpid(), "0a1b")
    lock.release()
    InstanceLock(tmp_path).acquire()


def test_who_inherited_the_lock_keeps_it(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path, "0a1b")
    lock.acquire()
    worker = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    try:
        lock.release()
        with pytest.raises(Locked):
            InstanceLock(tmp_path).acquire(wait_seconds=0.05)
    finally:
        worker.kill()
        worker.wait()
    InstanceLock(tmp_path).acquire()


def test_waiting_for_the_last_holder(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path)
    lock.acquire()
    worker = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    lock.release()
    assert worker.stdin
    worker.stdin.close()  # it leaves now, or soon
    InstanceLock(tmp_path).acquire(wait_seconds=30)
    worker.wait()


def test_a_torn_holder_is_no_holder(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path)
    lock.acquire()
    (tmp_path / "lock").write_bytes(b"pid=12x\n\xff\xfe=\n")
    with pytest.raises(Locked, match="another process"):
        InstanceLock(tmp_path).acquire()
