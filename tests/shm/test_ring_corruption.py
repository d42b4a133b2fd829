"""Damage: whatever lies in a ring's file, who reads it answers in bounded time with true records or a named error."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from ring_journal import JournalMemory

from trackside.shm.layout import PAGE_BYTES, RECORD_CRC_OFFSET, RING_DATA_OFFSET, RingCell
from trackside.shm.ring import RingCorrupt, RingReader, RingRecord, RingView, RingWriter, create_ring
from trackside.shm.segment import LayoutMismatch

CAPACITY = 2048


Records = list[RingRecord]


def filled(body_crc: bool = True) -> tuple[bytes, Records, Records]:
    """A ring in its second lap, with a PAD in the middle of what waits: its image, what waits, all there ever was."""
    memory = JournalMemory(CAPACITY, body_crc=body_crc)
    writer, reader = RingWriter("", segment=memory, clock=lambda: 9), RingReader("", segment=memory)
    for _ in range(5):
        writer.try_publish([(1, 2, b"first lap" * 20)])
    ever = reader.poll()
    reader.commit(ever[-1].end)
    for number in range(5):
        writer.try_publish([(number, 3, bytes([number]) * (50 + 70 * number))])
    records = RingView("", segment=memory).uncommitted()
    assert len(records) == 5 and writer.statistics()["pads"] == 1
    return bytes(memory.image), records, [*ever, *records]


def read_all(image: bytes, ever: Records) -> tuple[Records, list[RingCorrupt]]:
    """Everything that reads, on one image: bounded, no other error, no other record than one that was published."""
    view = RingView("", segment=JournalMemory(CAPACITY, image=image))
    assert all(record in ever for record in view.uncommitted())
    view.statistics(), view.used_bytes, view.suspect_position
    view.oldest_age_ns(1 << 62)
    reader = RingReader("", segment=JournalMemory(CAPACITY, image=image))
    got: Records = []
    errors: list[RingCorrupt] = []
    for _ in range(CAPACITY // 64 + 2):
        try:
            got += reader.poll(bytes_max=1)
        except RingCorrupt as error:
            errors.append(error)
    assert reader.poll() == [] and reader.suspect == bool(errors)
    assert len(errors) <= 1, "raised once, then silent"
    assert all(record in ever for record in got)
    return got, errors


def possible(image: bytes) -> bool:
    """Whether commit and publish can both be true."""
    commit, publish = (int.from_bytes(image[c * 8 : c * 8 + 8], "little") for c in (RingCell.COMMIT, RingCell.PUBLISH))
    return commit <= publish <= commit + CAPACITY and commit % 64 == publish % 64 == 0


def flip(image: bytes, offset: int, bit: int) -> bytes:
    return image[:offset] + bytes([image[offset] ^ (1 << bit)]) + image[offset + 1 :]


def test_undamaged() -> None:
    image, truth, ever = filled()
    assert read_all(image, ever) == (truth, [])


def test_every_bit_of_every_header() -> None:
    image, truth, ever = filled()
    pad = next(earlier.end for earlier, later in pairwise(truth) if later.position != earlier.end)
    for position in [pad, *(record.position for record in truth)]:
        before = [record for record in truth if record.end <= position]
        for offset in range(RECORD_CRC_OFFSET + 4):
            for bit in range(8):
                damaged = flip(image, RING_DATA_OFFSET + position % CAPACITY + offset, bit)
                got, errors = read_all(damaged, ever)
                assert got == before and len(errors) == 1, (position, offset, bit)


@pytest.mark.parametrize("body_crc", [True, False])
def test_every_byte_of_every_body(body_crc: bool) -> None:
    """Found when the ring has body CRCs; without them it comes out as it lies there, at the right place."""
    image, truth, ever = filled(body_crc)
    for index, record in enumerate(truth):
        for offset in range(len(record.body)):
            where = RING_DATA_OFFSET + record.position % CAPACITY + 64 + offset
            damaged = flip(image, where, offset % 8)
            if body_crc:
                got, errors = read_all(damaged, ever)
                assert got == truth[:index] and "body" in errors[0].reason
            else:
                wrong = RingReader("", segment=JournalMemory(CAPACITY, image=damaged)).poll()
                assert [r.end for r in wrong] == [r.end for r in truth] and wrong != truth


def test_every_bit_of_every_cell() -> None:
    """Positions that cannot be true are an error, for the writer, too; those that can be true show a part."""
    image, truth, ever = filled()
    for cell in RingCell:
        for bit in range(64):
            damaged = flip(image, cell * 8 + bit // 8, bit % 8)
            got, errors = read_all(damaged, ever)
            if cell in (RingCell.PUBLISH, RingCell.COMMIT):
                part = truth[: len(got)] if cell == RingCell.PUBLISH else ever[len(ever) - len(got) :]
                assert errors or (got == part and got != truth and possible(damaged)), (cell, bit)
                _writer_never_overwrites(damaged)
            else:
                assert (got, errors) == (truth, []), "nothing is decided from this cell"


def _writer_never_overwrites(image: bytes) -> None:
    memory = JournalMemory(CAPACITY, image=image)
    try:
        writer = RingWriter("", segment=memory)
        for _ in range(CAPACITY // 64 + 1):
            writer.try_publish([(0, 0, b"")])
            assert memory.cells[RingCell.PUBLISH] - memory.cells[RingCell.COMMIT] <= CAPACITY
    except RingCorrupt as error:
        assert "commit" in error.reason


def test_commit_that_jumps_while_the_writer_runs() -> None:
    memory = JournalMemory(CAPACITY)
    writer = RingWriter("", segment=memory)
    while writer.try_publish([(0, 0, b"x")]) is not None:
        pass
    memory.cells[RingCell.COMMIT] = writer.publish_position + 64
    with pytest.raises(RingCorrupt, match="commit"):
        writer.try_publish([(0, 0, b"x")])
    with pytest.raises(RingCorrupt, match="commit"):
        writer.fits([1])


def test_a_record_of_the_lap_before_is_none_of_this() -> None:
    """A publish position that ran ahead of its records: what lies there is whole, but old."""
    memory = JournalMemory(CAPACITY)
    writer, reader = RingWriter("", segment=memory), RingReader("", segment=memory)
    while writer.try_publish([(0, 0, b"")]) is not None:
        pass
    reader.commit(reader.poll()[-1].end)
    memory.cells[RingCell.PUBLISH] = CAPACITY + 64
    with pytest.raises(RingCorrupt, match="position stamp is 0") as caught:
        reader.poll()
    assert (caught.value.ring_id, caught.value.position) == ("journal", CAPACITY)
    view = RingView("", segment=memory)
    assert view.suspect_position == CAPACITY and reader.suspect and reader.poll() == []
    assert RingReader("", segment=memory).suspect is False, "a successor looks for itself"


@pytest.mark.parametrize("seed", range(4))
def test_noise(seed: int) -> None:
    """Cells and data overwritten in many places at once, plausible positions among them."""
    image, _, ever = filled()
    rng = random.Random(seed)
    for _ in range(400):
        damaged = bytearray(image)
        for _ in range(rng.choice([1, 3, 30, 3000])):
            damaged[rng.randrange(PAGE_BYTES, len(damaged))] = rng.randrange(256)
        for cell in rng.sample(list(RingCell), 2):
            value = rng.choice([0, 64, CAPACITY, 1 << 63, (1 << 64) - 64, rng.randrange(0, 8192, 64)])
            damaged[cell * 8 : cell * 8 + 8] = value.to_bytes(8, "little")
        read_all(bytes(damaged), ever)


@pytest.mark.parametrize("seed", range(4))
def test_any_span_can_be_walked(seed: int) -> None:
    image, truth, _ = filled()
    rng = random.Random(seed)
    view = RingView("", segment=JournalMemory(CAPACITY, image=image))
    edges = [truth[0].position, *(record.end for record in truth)]
    for _ in range(2000):
        start, end = rng.choice([*edges, rng.randrange(-64, 9000)]), rng.choice([*edges, rng.randrange(9000)])
        try:
            got = list(view.walk(start, end))
        except (RingCorrupt, ValueError):
            continue
        # what lies below commit is still there, it only need not be
        assert [r for r in got if r.position >= edges[0]] == [r for r in truth if start <= r.position and r.end <= end]


def test_static_page_is_checked(tmp_path: Path) -> None:
    create_ring(tmp_path / "ring", capacity_bytes=CAPACITY, ring_id="guid/gateway-0.producer-0.down")
    image = (tmp_path / "ring").read_bytes()
    for offset in range(44):
        if offset >= 8 or offset < 8:
            (tmp_path / "ring").write_bytes(flip(image, offset, 3))
            for end in (RingWriter, RingReader, RingView):
                with pytest.raises(LayoutMismatch):
                    end(tmp_path / "ring")
    for size in (0, 100, PAGE_BYTES - 1, PAGE_BYTES, len(image) - 1, len(image) + 4096):
        (tmp_path / "ring").write_bytes(image.ljust(size, b"\0")[:size])
        with pytest.raises(LayoutMismatch):
            RingReader(tmp_path / "ring")
