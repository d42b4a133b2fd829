"""The ring in one process: what is published comes out, in order, once; full is an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from trackside.shm.ring import RingReader, RingView, RingWriter, create_ring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ring(tmp_path / "x.ring", capacity_bytes=1024, ring_id="guid/gateway-0.producer-0.down")
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
    assert writer.statistics()["pads"] > 10


def test_full_is_an_answer_and_commit_makes_room(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = []
    while (end := writer.try_publish([(0, 1, b"x" * 100)])) is not None:
        ends.append(end)
    assert len(ends) == 1024 // 192 and not writer.fits([100])
    reader.poll()
    assert writer.try_publish([(0, 1, b"x" * 100)]) is None, "read is not commit"
    assert writer.commit_needed([100]) == 192, "960 are used, a PAD of 64 and 192 are needed"
    assert not writer.fits([100]) and writer.fits([]), "64 bytes are free, but not in front of the PAD"
    reader.commit(ends[0])
    assert writer.fits([100]) and writer.try_publish([(0, 1, b"x" * 100)]) is not None


def test_successor_of_reader_starts_at_commit(path: Path) -> None:
    writer, reader = RingWriter(path), RingReader(path)
    ends = [writer.try_publish([(1, 1, bytes([n]))]) for n in range(4)]
    reader.poll()
    reader.commit(ends[1] or 0)
    view = RingView(path)
    assert (view.commit_position, view.read_position, view.publish_position) == (ends[1], ends[3], ends[3])
    assert [r.body for r in RingReader(path).poll()] == [b"\2", b"\3"]
    assert [r.body for r in view.uncommitted()] == [b"\2", b"\3"]
