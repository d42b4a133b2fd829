"""The ring in one process: what is published comes out, in order, once; full is an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackside.shm.layout import (
    PAD_KIND,
    RECORD_FIELDS,
    RECORD_HEADER_BYTES,
    RING_DATA_OFFSET,
    RingCell,
    SegmentKind,
    dtype_of,
)
from trackside.shm.ring import RingReader, RingView, RingWriter, create_ring, ring_bytes
from trackside.shm.segment import LayoutMismatch, SegmentExists, SegmentMissing

RING_ID = "6f9619ff/gateway-0.producer-0.down"
CAPACITY = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "x.ring", capacity_bytes=CAPACITY, ring_id=RING_ID)
    return tmp_path / "x.ring"


def test_what_is_published_comes_out_in_order_over_many_laps(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    expected, got = [], []
    for number in range(500):
        body = bytes([number % 251]) * (number * 37 % 300)
        end = writer.try_publish([(number % 7, number, body)])
        assert end is not None
        expected.append((number % 7, number, body))
        records = reader.poll()
        got += [(r.kind, r.count, r.body) for r in records]
        assert records[-1].end == end == reader.read_position
        reader.commit(end)
    assert got == expected
    assert writer.statistics()["records"] == 500
    assert writer.statistics()["packets"] == sum(range(500))
    assert writer.statistics()["bytes"] == sum(len(body) for _, _, body in expected)
    assert writer.statistics()["pads"] > 10
    assert RingWriter(path).statistics() == RingView(path).statistics() == writer.statistics()


def test_full_is_an_answer_and_commit_makes_room(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = []
    while (end := writer.try_publish([(0, 1, b"x" * 100)])) is not None:
        ends.append(end)
    assert len(ends) == 1024 // 192 and not writer.fits([100])
    reader.poll()
    assert writer.try_publish([(0, 1, b"x" * 100)]) is None, "read is not commit"
    assert writer.statistics()["full"] == 2
    assert writer.commit_needed([100]) == 192, "960 are used, a PAD of 64 and 192 are needed"
    assert not writer.fits([100]) and writer.fits([]), "64 bytes are free, but not in front of the PAD"
    assert writer.free_bytes() == 64
    reader.commit(ends[0])
    assert writer.fits([100]) and writer.try_publish([(0, 1, b"x" * 100)]) is not None


def test_several_records_appear_at_once(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    stores: list[int] = []

    class Cells:
        def __getitem__(self, index: int) -> int:
            return int(writer._segment.cells[index])

        def __setitem__(self, index: int, value: int) -> None:
            if index == RingCell.PUBLISH:
                stores.append(value)
                assert reader.poll() == []
            writer._segment.cells[index] = value

    writer._cells = Cells()
    assert writer.try_publish([(n, 1, bytes(100 * n)) for n in range(3)]) == 64 + 192 + 320
    assert stores == [64 + 192 + 320]
    assert [r.kind for r in reader.poll()] == [0, 1, 2]


def test_until_and_bytes_max(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = [writer.try_publish([(0, 1, bytes([n]))]) or 0 for n in range(5)]
    assert reader.poll(until=ends[1] - 1)[-1].end == ends[0]
    assert reader.poll(until=ends[0]) == [] == reader.poll(until=0)
    assert [r.end for r in reader.poll(bytes_max=1)] == [ends[1]], "at least one"
    assert [r.end for r in reader.poll(until=ends[3], bytes_max=1000)] == ends[2:4]
    assert [r.end for r in reader.poll(until=1 << 40)] == ends[4:]


def test_stamp_is_taken_only_when_there_is_room(path: Path) -> None:
    asked: list[int] = []

    def clock() -> int:
        asked.append(len(asked) + 1)
        return asked[-1]

    writer = RingWriter(path, clock=clock)
    assert writer.stamp_of_last == 0
    writer.try_publish([(0, 1, b"x" * 256), (0, 1, b"y" * 100)])
    assert [record.stamp_ns for record in RingReader(path).poll()] == [1, 1]
    assert writer.try_publish([(0, 1, b"x" * 256), (0, 1, b"y" * 192)]) is None
    assert asked == [1] and writer.stamp_of_last == 1


def test_successor_of_reader_starts_at_commit(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = [writer.try_publish([(1, 1, bytes([n]))]) for n in range(4)]
    reader.poll()
    reader.commit(ends[1] or 0)
    view = RingView(path)
    assert (view.commit_position, view.read_position, view.publish_position) == (ends[1], ends[3], ends[3])
    assert [r.body for r in RingReader(path).poll()] == [b"\2", b"\3"]
    assert [r.body for r in view.uncommitted()] == [b"\2", b"\3"]


def test_successor_of_writer_starts_at_publish_and_forgets_the_wish(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    writer.try_publish([(1, 1, b"one")])
    writer.wait_for_commit(64)
    end = RingWriter(path).try_publish([(1, 1, b"two")])
    assert [r.body for r in reader.poll()] == [b"one", b"two"]
    assert reader.commit(end or 0) is False


def test_commit_says_when_somebody_waits_for_it(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = [writer.try_publish([(0, 1, b"")]) or 0 for _ in range(4)]
    reader.poll()
    writer.wait_for_commit(ends[1])
    assert [reader.commit(end) for end in ends[:3]] == [False, True, False]
    writer.wait_for_commit(ends[2] + 1)
    assert reader.commit(ends[0]) is False and reader.commit_position == ends[2], "commit never goes back"
    assert reader.commit(ends[3]) is True
    with pytest.raises(ValueError, match="commit to 320, read is 256"):
        reader.commit(320)
    with pytest.raises(ValueError, match="commit to 65"):
        reader.commit(65)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_largest_record_fits_at_every_position(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    assert writer.record_bytes_max == CAPACITY // 2 - RECORD_HEADER_BYTES
    for lines in range(40):
        for body in (bytes(64 * (lines % 7)), b"x" * writer.record_bytes_max):
            assert writer.try_publish([(0, 0, body)]) is not None
            taken = reader.poll()
            assert taken[-1].body == body
            reader.commit(taken[-1].end)


def test_what_can_never_fit_is_an_error_not_full(path: Path) -> None:
    writer = RingWriter(path)
    with pytest.raises(ValueError, match="record of 449 bytes, at most 448"):
        writer.try_publish([(0, 1, b"x" * 449)])
    with pytest.raises(ValueError, match="3 records at once take 960 bytes of 1024; up to half always fits"):
        writer.try_publish([(0, 1, b"x" * 256)] * 3)
    assert writer.publish_position == 0 == writer.statistics()["full"]
    assert writer.try_publish([(0, 1, b"x" * 192)] * 2) == 512
    assert writer.try_publish([]) == 512


def test_kind_and_count_have_limits(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    with pytest.raises(ValueError, match="ring's own"):
        writer.try_publish([(1, 1, b"first"), (PAD_KIND, 1, b"")])
    with pytest.raises(Exception, match=r"format|range|number"):
        writer.try_publish([(1, 1, b"first"), (1, 1 << 32, b"")])
    assert reader.poll() == [] and writer.publish_position == 0, "nothing of what was refused is there"
    assert writer.try_publish([(PAD_KIND - 1, (1 << 32) - 1, b"")]) == 64
    assert [(r.kind, r.count) for r in reader.poll()] == [(PAD_KIND - 1, (1 << 32) - 1)]
    assert writer.statistics()["packets"] == (1 << 32) - 1


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 64, 1000, 3 * 1024, -256])
def test_capacity_is_a_power_of_two(tmp_path: Path, capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity {capacity}"):
        create_ring(tmp_path / "r", capacity_bytes=capacity, ring_id="r")
    assert not (tmp_path / "r").exists()


def test_files(path: Path, tmp_path: Path) -> None:
    assert path.stat().st_size == ring_bytes(CAPACITY) == 3 * 4096
    with pytest.raises(SegmentExists):
        create_ring(path, capacity_bytes=CAPACITY, ring_id="again")
    with pytest.raises(SegmentMissing):
        RingWriter(tmp_path / "nowhere")
    with pytest.raises(LayoutMismatch):
        (tmp_path / "text").write_text("x" * 10_000)
        RingView(tmp_path / "text")
    for end in (RingWriter(path), RingReader(path), RingView(path)):
        assert (end.ring_id, end.capacity_bytes) == (RING_ID, CAPACITY)


def test_view_of_a_ring_whose_processes_are_dead(path: Path) -> None:
    """Read-only, and the clock of another boot does no harm."""
    writer = RingWriter(path, clock=lambda: 5_000)
    view = RingView(path)
    assert view.oldest_age_ns() == 0 == view.used_bytes and view.uncommitted() == []
    writer.try_publish([(1, 7, b"body")])
    writer.close()
    path.chmod(0o400)
    view = RingView(path)
    assert view.oldest_age_ns(now_ns=7_000) == 2_000
    assert view.oldest_age_ns(now_ns=100) == 0
    assert view.used_bytes == 128 and view.suspect_position is None
    assert [(r.kind, r.count, r.body) for r in view.uncommitted()] == [(1, 7, b"body")]
    assert [r.body for r in view.walk(0, 128)] == [b"body"]
    with pytest.raises(ValueError, match="no records from 0 to 192, publish is 128"):
        view.walk(0, 192)


def test_closed_ring_raises(path: Path) -> None:
    writer = RingWriter(path)
    writer.close()
    with pytest.raises(ValueError, match=r"released|closed"):
        writer.try_publish([(0, 1, b"x")])


def test_numpy_sees_the_picture(path: Path) -> None:
    RingWriter(path, clock=lambda: 99).try_publish([(3, 4, b"hello")])
    headers = dtype_of(RECORD_FIELDS, RECORD_HEADER_BYTES)
    header = np.fromfile(path, headers, count=1, offset=RING_DATA_OFFSET)[0]
    assert [int(header[name]) for name in ("position", "length", "count", "kind", "stamp_ns")] == [0, 5, 4, 3, 99]
    cells = np.fromfile(path, "=u8", count=2 * 512)
    assert cells[RingCell.PUBLISH] == 128 and cells[1] >> 32 == SegmentKind.RING
