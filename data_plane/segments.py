"""The format of segment files: what the local log and the parks write, batch by batch, and can read after any crash.

A segment is an append-only file: a head, then batches without anything between them. All numbers are little-endian::

    head of a segment                                     batch
    +0   magic         8s   SEGMENT_MAGIC                 +0   magic         u32  BATCH_MAGIC
    +8   crc           u32  over +12..size                +4   head_crc      u32  over +8..+48, seeded
    +12  size          u32  of this head, bytes           +8   crc           u32  over +12..size, seeded
    +16  version       u32  SEGMENT_VERSION               +12  size          u32  of the whole batch, bytes
    +20  partition     u32                                +16  base_offset   u64  offset of its first entry
    +24  base_offset   u64  of the first batch            +24  time_ns       i64  UTC, when it was written
    +32  time_ns       i64  UTC, when it was made         +32  entries       u32
    +40  identity      16s  GUID of the log               +36  keys_bytes    u32
    +56  boot          16s  boot id of the machine        +40  rings_bytes   u32
    +72  topic_bytes   u32                                +44  index_bytes   u32  4 * entries; 0: one key
    +76  rings_bytes   u32                                +48  lengths       u32 * entries, bytes of values
    +80  topic         utf-8                                   key index     u32 * entries, or absent
         rings         MessagePack [[ring, position]...]       keys          MessagePack [[key, identity]...]
                                                               rings         MessagePack [[ring, position]...]
                                                               values        one behind the other

``rings`` of a batch: for each source ring that has entries in it, the end of its last record there. One record's
entries for one partition never cross a batch, so these positions say exactly what the partition has. ``rings`` of a
head is that table for the partition as it was when the segment began.

Both CRCs of a batch are seeded with the log's identity, the topic and the partition (``batch_seed``): bytes that only
look like a batch, because a client sent a copy of one as its payload, do not pass for one. The head has a CRC
of its own, so that a reader may hop from head to head, and knows how far a batch with a damaged body reaches.
"""

from __future__ import annotations

import os
import sys
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from struct import Struct
from typing import NamedTuple

import msgspec

from trackside.data_plane.log import LogConfigurationError
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = [
    "BATCH_HEAD_BYTES",
    "BATCH_MAGIC",
    "SEGMENT_HEAD_BYTES_MIN",
    "SEGMENT_MAGIC",
    "SEGMENT_VERSION",
    "Batch",
    "BatchHead",
    "KeyRow",
    "SegmentHead",
    "SegmentTooNew",
    "Step",
    "Window",
    "batch_holds",
    "batch_seed",
    "damage_at",
    "decode_batch",
    "decode_rings",
    "encode_batch",
    "encode_segment_head",
    "find_batch",
    "read_batch_head",
    "read_segment_head",
    "walk",
    "whole_batch",
]

SEGMENT_MAGIC = b"TRACKSEG"
SEGMENT_VERSION = 1
BATCH_MAGIC = b"TSB\x01"

_SEGMENT = Struct("<8sIIIIQq16s16sII")
_SEGMENT_COVERED = 12
SEGMENT_HEAD_BYTES_MIN = _SEGMENT.size

_BATCH = Struct("<4sIIIQqIIII")
_HEAD_CRC_COVERED = 8
_CRC_COVERED = 12
BATCH_HEAD_BYTES = _BATCH.size
_CRCS = Struct("<II")
_AFTER_CRC = Struct("<IQqIIII")

assert SEGMENT_HEAD_BYTES_MIN == 80
assert BATCH_HEAD_BYTES == _CRC_COVERED + _AFTER_CRC.size == 48

WINDOW_BYTES = 1 << 20

KeyRow = tuple[bytes, bytes]
"""A row of a key table: (key, identity)."""

_pack = msgspec.msgpack.Encoder().encode
_unpack_rings = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
_unpack_keys = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode


# --- the head of a segment -----------------------------------------------------------------------------------------


class SegmentTooNew(LogConfigurationError):
    """A newer version of Trackside wrote this segment. No retry helps."""


class SegmentHead(NamedTuple):
    """What a segment says about itself. ``rings`` is the partition's table of ring positions when it began."""

    identity: bytes
    boot: bytes
    topic: str
    partition: int
    base_offset: int
    time_ns: int
    rings: dict[str, int]


def encode_segment_head(head: SegmentHead) -> bytes:
    topic, rings = head.topic.encode(), _pack(list(head.rings.items()))
    size = _SEGMENT.size + len(topic) + len(rings)
    fixed = _SEGMENT.pack(
        SEGMENT_MAGIC,
        0,
        size,
        SEGMENT_VERSION,
        head.partition,
        head.base_offset,
        head.time_ns,
        head.identity,
        head.boot,
        len(topic),
        len(rings),
    )
    covered = fixed[_SEGMENT_COVERED:] + topic + rings
    return SEGMENT_MAGIC + zlib.crc32(covered).to_bytes(4, "little") + covered


def read_segment_head(fd: int) -> tuple[SegmentHead, int] | None:
    """The head of an open segment file and its size, which is where the batches begin; None when it does not hold.

    Raises OSError when the file cannot be read, SegmentTooNew.
    """
    data = os.pread(fd, 4096, 0)
    if len(data) < _SEGMENT.size or not data.startswith(SEGMENT_MAGIC):
        return None
    size = int.from_bytes(data[12:16], "little")
    if not _SEGMENT.size <= size <= os.fstat(fd).st_size:
        return None
    if size > len(data):
        data = os.pread(fd, size, 0)
    if len(data) < size or zlib.crc32(data[_SEGMENT_COVERED:size]) != int.from_bytes(data[8:12], "little"):
        return None
    if (version := int.from_bytes(data[16:20], "little")) > SEGMENT_VERSION:
        raise SegmentTooNew(f"a segment has version {version}; this Trackside reads up to {SEGMENT_VERSION}")
    head = _decode_segment_head(data[:size])
    return None if head is None else (head, size)


def _decode_segment_head(data: bytes) -> SegmentHead | None:
    """None for one whose CRC holds, and nobody could have meant it."""
    _, _, size, _, partition, base_offset, time_ns, identity, boot, topic_bytes, _ = _SEGMENT.unpack_from(data)
    rings_at = _SEGMENT.size + topic_bytes
    try:
        topic = data[_SEGMENT.size : rings_at].decode()
        rings = dict(_unpack_rings(data[rings_at:size]))
    except UNDECODABLE:
        return None
    return SegmentHead(identity, boot, topic, partition, base_offset, time_ns, rings)


# --- batches -------------------------------------------------------------------------------------------------------


class BatchHead(NamedTuple):
    """The fixed part of a batch. Its offsets are [base_offset, next_offset)."""

    crc: int
    size: int
    base_offset: int
    time_ns: int
    entries: int
    keys_bytes: int
    rings_bytes: int
    index_bytes: int

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.entries

    @property
    def value_bytes(self) -> int:
        return self.size - BATCH_HEAD_BYTES - 4 * self.entries - self.index_bytes - self.keys_bytes - self.rings_bytes


class Batch(NamedTuple):
    """A batch taken apart; ``key_index[i]`` is the row of ``keys`` that ``values[i]`` takes.

    ``size`` is that of the batch in the file, ``value_bytes`` that of its values alone.
    """

    base_offset: int
    time_ns: int
    size: int
    value_bytes: int
    keys: list[KeyRow]
    key_index: list[int]
    values: list[bytes]

    @property
    def next_offset(self) -> int:
        return self.base_offset + len(self.values)


def batch_seed(identity: bytes, topic: str, partition: int) -> int:
    """What the CRCs of the batches of one partition of one log start from."""
    return zlib.crc32(f"{topic}/{partition}".encode(), zlib.crc32(identity))


def encode_batch(
    seed: int,
    base_offset: int,
    time_ns: int,
    values: Sequence[bytes],
    lengths: Sequence[int],
    keys: Sequence[KeyRow],
    key_index: Sequence[int],
    rings: Mapping[str, int],
) -> tuple[bytes, bytes]:
    """The two buffers of one batch, for one ``writev``: head and tables, values.

    ``lengths`` are those of ``values``; ``key_index`` is not looked at when ``keys`` has only one row.
    """
    key_table, ring_table = _pack(keys), _pack(list(rings.items()))
    index = _u32_bytes(key_index) if len(keys) > 1 else b""
    length_table = _u32_bytes(lengths)
    body = b"".join(values)
    tables = length_table + index + key_table + ring_table
    size = BATCH_HEAD_BYTES + len(tables) + len(body)
    covered = _AFTER_CRC.pack(size, base_offset, time_ns, len(values), len(key_table), len(ring_table), len(index))
    crc = zlib.crc32(body, zlib.crc32(tables, zlib.crc32(covered, seed)))
    head_crc = zlib.crc32(covered, zlib.crc32(crc.to_bytes(4, "little"), seed))
    return BATCH_MAGIC + _CRCS.pack(head_crc, crc) + covered + tables, body


def read_batch_head(data: bytes | memoryview, at: int, seed: int) -> BatchHead | None:
    """The head of the batch at ``at``, or None when there is none that holds; says nothing about the body."""
    fixed = data[at : at + BATCH_HEAD_BYTES]
    if len(fixed) < BATCH_HEAD_BYTES:
        return None
    magic, head_crc, *fields = _BATCH.unpack(fixed)
    if magic != BATCH_MAGIC or head_crc != zlib.crc32(fixed[_HEAD_CRC_COVERED:], seed):
        return None
    return BatchHead(*fields)


def batch_holds(data: memoryview, at: int, head: BatchHead, seed: int) -> bool:
    """Whether the batch at ``at``, whose head is ``head``, is whole and undamaged."""
    end = at + head.size
    return end <= len(data) and zlib.crc32(data[at + _CRC_COVERED : end], seed) == head.crc


def decode_rings(data: bytes | memoryview, at: int, head: BatchHead) -> list[tuple[str, int]]:
    """The ring positions of a batch that holds."""
    start = at + BATCH_HEAD_BYTES + 4 * head.entries + head.index_bytes + head.keys_bytes
    return _unpack_rings(data[start : start + head.rings_bytes])


def decode_batch(data: bytes, at: int, head: BatchHead) -> Batch:
    """Takes a batch that holds apart. Values are copies: ``data`` is not kept."""
    lengths_at = at + BATCH_HEAD_BYTES
    index_at = lengths_at + 4 * head.entries
    keys_at = index_at + head.index_bytes
    values_at = keys_at + head.keys_bytes + head.rings_bytes
    edges = list(accumulate(_u32_list(data[lengths_at:index_at]), initial=values_at))
    assert edges[-1] == at + head.size, "a batch that passed its CRC contradicts itself"
    values = [data[start:end] for start, end in pairwise(edges)]
    key_index = _u32_list(data[index_at:keys_at]) if head.index_bytes else [0] * head.entries
    keys = _unpack_keys(data[keys_at : keys_at + head.keys_bytes])
    return Batch(head.base_offset, head.time_ns, head.size, at + head.size - values_at, keys, key_index, values)


def _u32_bytes(numbers: Sequence[int]) -> bytes:
    """A column of u32; ``array`` takes a list of integers apart three times faster than numpy does."""
    column = array("I", numbers)
    if sys.byteorder != "little":
        column.byteswap()
    return column.tobytes()


def _u32_list(column: bytes) -> list[int]:
    numbers = array("I", column)
    if sys.byteorder != "little":
        numbers.byteswap()
    return numbers.tolist()


assert array("I").itemsize == 4


# --- walking a file ------------------------------------------------------------------------------------------------


class Window:
    """Reads a file piece by piece: the bytes at a position, taken from memory when they were just read."""

    def __init__(self, fd: int, size: int, piece_bytes: int = WINDOW_BYTES) -> None:
        self.fd = fd
        self.size = size
        self._piece_bytes = piece_bytes
        self._start = 0
        self._data = memoryview(b"")

    def at(self, position: int, length: int) -> memoryview:
        """At least ``length`` bytes from ``position`` on, fewer at the end of the file."""
        offset = position - self._start
        if offset < 0 or offset + min(length, self.size - position) > len(self._data):
            self._start, offset = position, 0
            wanted = min(max(length, self._piece_bytes), self.size - position)
            self._data = memoryview(os.pread(self.fd, max(wanted, 0), position))
        return self._data[offset:]


class Step(NamedTuple):
    """What lies in [position, next_position) of a segment: a batch that holds, or damage (``head`` is None).

    Damage that reaches the end of the file is a torn tail or a damaged last batch. ``offset_after`` is, for damage,
    the offset behind it as far as an intact head in it still says; else 0.
    """

    position: int
    next_position: int
    head: BatchHead | None
    rings: list[tuple[str, int]]
    offset_after: int = 0


def walk(window: Window, seed: int, position: int, offset_min: int) -> Iterator[Step]:
    """Goes through the batches of a segment from ``position`` on to the end of the file, every CRC checked.

    A batch with a base offset below ``offset_min``, or below the end of the batch before it, does not count as valid.
    """
    while position < window.size:
        head = whole_batch(window, seed, position, offset_min)
        if head is None:
            step = damage_at(window, seed, position, offset_min)
        else:
            rings = decode_rings(window.at(position, head.size), 0, head)
            step = Step(position, position + head.size, head, rings)
            offset_min = head.next_offset
        yield step
        offset_min = max(offset_min, step.offset_after)
        position = step.next_position


def whole_batch(window: Window, seed: int, position: int, offset_min: int) -> BatchHead | None:
    """The head of the batch at ``position`` if that batch is whole, undamaged and not below ``offset_min``."""
    head = read_batch_head(window.at(position, BATCH_HEAD_BYTES), 0, seed)
    if head is None or head.base_offset < offset_min or position + head.size > window.size:
        return None
    return head if batch_holds(window.at(position, head.size), 0, head, seed) else None


def damage_at(window: Window, seed: int, position: int, offset_min: int) -> Step:
    """The step over what does not hold at ``position``: to the next batch that does, or to the end."""
    head = read_batch_head(window.at(position, BATCH_HEAD_BYTES), 0, seed)
    offset_after, search_from = 0, position + 1
    if head is not None and head.base_offset >= offset_min and position + head.size <= window.size:
        offset_after, search_from = head.next_offset, position + head.size  # its head says where it ends
    found = find_batch(window, seed, search_from, max(offset_min, offset_after))
    return Step(position, window.size if found is None else found, None, [], offset_after)


def find_batch(window: Window, seed: int, position: int, offset_min: int) -> int | None:
    """Position of the first whole batch at or after ``position``, or None. Bounded by the size of the segment."""
    while position < window.size:
        piece = bytes(window.at(position, WINDOW_BYTES))
        at = piece.find(BATCH_MAGIC)
        while at >= 0:
            if whole_batch(window, seed, position + at, offset_min) is not None:
                return position + at
            at = piece.find(BATCH_MAGIC, at + 1)
        position += max(len(piece) - len(BATCH_MAGIC) + 1, 1)
    return None
