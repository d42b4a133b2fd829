"""The format of segment files: what is written comes back, and nothing else ever does."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackside.data_plane.segments import (
    BATCH_HEAD_BYTES,
    BATCH_MAGIC,
    SEGMENT_VERSION,
    Batch,
    SegmentHead,
    SegmentTooNew,
    Step,
    Window,
    batch_holds,
    batch_seed,
    decode_batch,
    decode_rings,
    encode_batch,
    encode_segment_head,
    read_batch_head,
    read_segment_head,
    walk,
)

IDENTITY = bytes(range(16))
SEED = batch_seed(IDENTITY, "topic", 3)
HEAD = SegmentHead(IDENTITY, bytes(16), "topic", 3, 40, 1_700_000_000_000_000_000, {"ring-a": 64, "ring-b": 1 << 60})


def batch(
    base_offset: int,
    values: list[bytes],
    *,
    keys: list[tuple[bytes, bytes]] | None = None,
    index: list[int] | None = None,
    rings: dict[str, int] | None = None,
    seed: int = SEED,
) -> bytes:
    keys = keys or [(b"key", b"")]
    index = index or [0] * len(values)
    rings = {"ring": 64} if rings is None else rings
    return b"".join(encode_batch(seed, base_offset, 5, values, list(map(len, values)), keys, index, rings))


def decoded(data: bytes, at: int = 0) -> Batch:
    head = read_batch_head(data, at, SEED)
    assert head is not None
    assert batch_holds(memoryview(data), at, head, SEED)
    return decode_batch(data, at, head)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def steps(path: Path, position: int = 0, offset_min: int = 0) -> list[Step]:
    with opened(path) as fd:
        return list(walk(Window(fd, path.stat().st_size), SEED, position, offset_min))


def bases(found: list[Step]) -> list[int | None]:
    """Base offsets of the batches of a walk; None for damage."""
    return [step.head.base_offset if step.head else None for step in found]


# --- batches -------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=20),
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=20)), min_size=1, max_size=4, unique=True),
    st.dictionaries(st.text(max_size=60), st.integers(0, 2**63), max_size=3),
    st.integers(0, 2**60),
    st.data(),
)
def test_a_batch_comes_back(
    values: list[bytes], keys: list[tuple[bytes, bytes]], rings: dict[str, int], base: int, data: st.DataObject
) -> None:
    index = [data.draw(st.integers(0, len(keys) - 1)) for _ in values]
    encoded = batch(base, values, keys=keys, index=index, rings=rings)
    got = decoded(encoded)
    assert (got.base_offset, got.next_offset, got.time_ns, got.size) == (base, base + len(values), 5, len(encoded))
    assert got.values == values
    assert got.value_bytes == sum(map(len, values))
    assert [got.keys[row] for row in got.key_index] == [keys[row] for row in index]
    head = read_batch_head(encoded, 0, SEED)
    assert head is not None
    assert dict(decode_rings(encoded, 0, head)) == rings


def test_a_batch_lies_anywhere_in_what_was_read() -> None:
    first, second = batch(0, [b"a", b"bb"]), batch(2, [b"", b"ccc"], keys=[(b"x", b""), (b"y", b"i")], index=[0, 1])
    data = b"before" + first + second + b"behind"
    assert decoded(data, 6).values == [b"a", b"bb"]
    assert decoded(data, 6 + len(first)).values == [b"", b"ccc"]


def test_one_key_needs_no_index() -> None:
    one = batch(0, [b"v"] * 100)
    two = batch(0, [b"v"] * 100, keys=[(b"key", b""), (b"k", b"")])
    assert len(two) - len(one) >= 400


def test_every_flipped_bit_of_a_batch_is_noticed() -> None:
    encoded = batch(7, [b"value-1", b"value-22"], keys=[(b"k", b"i"), (b"l", b"")], index=[1, 0])
    for position in range(len(encoded)):
        for bit in range(8):
            broken = bytearray(encoded)
            broken[position] ^= 1 << bit
            head = read_batch_head(bytes(broken), 0, SEED)
            assert head is None or not batch_holds(memoryview(broken), 0, head, SEED), (position, bit)
            assert (head is None) == (position < BATCH_HEAD_BYTES)


def test_a_cut_batch_does_not_hold() -> None:
    encoded = batch(7, [b"value-1", b"value-22"])
    for size in range(len(encoded)):
        head = read_batch_head(encoded[:size], 0, SEED)
        assert head is None or not batch_holds(memoryview(encoded[:size]), 0, head, SEED)


@pytest.mark.parametrize(
    "seed",
    [batch_seed(bytes(16), "topic", 3), batch_seed(IDENTITY, "topic", 2), batch_seed(IDENTITY, "topi", 3)],
    ids=["identity", "partition", "topic"],
)
def test_a_batch_of_another_log_or_partition_does_not_hold(seed: int) -> None:
    assert read_batch_head(batch(0, [b"v"], seed=seed), 0, SEED) is None


# --- segment heads -------------------------------------------------------------------------------------------------


def test_a_segment_head_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    encoded = encode_segment_head(HEAD)
    path.write_bytes(encoded + b"batches")
    with opened(path) as fd:
        assert read_segment_head(fd) == (HEAD, len(encoded))


def test_a_large_table_of_rings_fits_into_a_head(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    head = HEAD._replace(rings={f"ring-{number}": number for number in range(1000)})
    path.write_bytes(encode_segment_head(head))
    with opened(path) as fd:
        found = read_segment_head(fd)
    assert found is not None
    assert found[0] == head


def test_a_damaged_or_cut_segment_head_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    encoded = encode_segment_head(HEAD)
    broken = [encoded[:size] for size in range(len(encoded))]
    broken += [encoded[:at] + bytes([encoded[at] ^ 1 << at % 8]) + encoded[at + 1 :] for at in range(len(encoded))]
    for data in broken:
        path.write_bytes(data)
        with opened(path) as fd:
            assert read_segment_head(fd) is None


def test_a_segment_head_whose_checksum_holds_for_nothing_does_not_hold(tmp_path: Path) -> None:
    """Zeros are what a file system leaves, and their checksum is 0; the rest only a defect could have written."""
    path = tmp_path / "segment"
    encoded = encode_segment_head(HEAD)
    huge = (1 << 32) - 1
    for covered in (
        bytes(300),
        (79).to_bytes(4, "little") + bytes(200),
        huge.to_bytes(4, "little") + encoded[16:],
        encoded[12:].replace(HEAD.topic.encode(), b"\xff" * len(HEAD.topic)),
        encoded[12 : 80 + len(HEAD.topic)] + b"\xc1" + encoded[81 + len(HEAD.topic) :],
    ):
        size = int.from_bytes(covered[:4], "little")
        crc = zlib.crc32(covered[: max(size - 12, 0)])
        path.write_bytes(encoded[:8] + crc.to_bytes(4, "little") + covered)
        with opened(path) as fd:
            assert read_segment_head(fd) is None


def test_a_segment_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "segment"
    monkeypatch.setattr("trackside.data_plane.segments.SEGMENT_VERSION", SEGMENT_VERSION + 1)
    path.write_bytes(encode_segment_head(HEAD))
    monkeypatch.undo()
    with opened(path) as fd, pytest.raises(SegmentTooNew, match=f"version {SEGMENT_VERSION + 1}"):
        read_segment_head(fd)


# --- walking -------------------------------------------------------------------------------------------------------


def test_a_walk_finds_every_batch(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    rng = random.Random(3)
    batches = [batch(number, [rng.randbytes(rng.randrange(300_000))]) for number in range(20)]
    path.write_bytes(b"".join(batches))
    found = steps(path)
    assert bases(found) == list(range(20))
    assert [step.position for step in found] == [sum(map(len, batches[:number])) for number in range(20)]
    assert found[-1].next_position == path.stat().st_size
    assert found[4].rings == [("ring", 64)]


def test_a_walk_goes_on_behind_damage_anywhere_in_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    parts = [batch(0, [b"a"]), batch(1, [b"b", b"c"]), batch(3, [b"d"])]
    start, size = len(parts[0]), len(parts[1])
    for at in range(start, start + size):
        data = bytearray(b"".join(parts))
        data[at] ^= 0x10
        path.write_bytes(data)
        found = steps(path)
        assert bases(found) == [0, None, 3]
        assert (found[1].position, found[1].next_position) == (start, start + size)
        assert found[1].offset_after == (3 if at >= start + BATCH_HEAD_BYTES else 0)


def test_a_walk_ends_at_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    whole, torn = batch(0, [b"a"]), batch(1, [b"b" * 50])
    for size in range(1, len(torn)):
        path.write_bytes(whole + torn[:size])
        found = steps(path)
        assert bases(found) == [0, None]
        assert (found[1].position, found[1].next_position) == (len(whole), len(whole) + size)
        assert found[1].offset_after == 0


def test_zeros_of_a_file_system_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(batch(0, [b"a"]) + bytes(5000) + batch(9, [b"b"]) + bytes(70))
    assert bases(steps(path)) == [0, None, 9, None]


def test_a_batch_below_what_was_found_already_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(batch(10, [b"a", b"b"]) + batch(11, [b"stale"]) + batch(12, [b"c"]))
    assert bases(steps(path)) == [10, None, 12]
    assert bases(steps(path, offset_min=12)) == [None, 12]


def test_a_payload_that_looks_like_a_batch_is_none(tmp_path: Path) -> None:
    """A client sends copies of batches, and millions of magics: damage must not bring them to life."""
    path = tmp_path / "segment"
    forged = batch(1, [b"forged"], seed=batch_seed(bytes(16), "topic", 3))
    carrier = bytearray(batch(0, [forged, BATCH_MAGIC * 10_000]))
    carrier[len(carrier) // 2] ^= 1
    carrier[4] ^= 1
    path.write_bytes(bytes(carrier) + batch(5, [b"real"]))
    assert bases(steps(path)) == [None, 5]


def test_any_bytes_are_walked_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    rng = random.Random(11)
    good = batch(0, [b"a"]) + batch(1, [b"b"])
    for _ in range(200):
        data = bytearray(rng.randbytes(rng.randrange(300)) + good + rng.randbytes(rng.randrange(300)))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found = steps(path)
        assert found[-1].next_position == len(data)
        assert all(one.next_position == two.position for one, two in pairwise(found))
        assert set(bases(found)) <= {None, 0, 1}
