"""What a consumer hands to peers: a run of one partition, ready to be sent.

::

    log       start                                 next_offset
     |         |                                         |
     ...-------[ o   o o     o  o                       )-------...     "this is all there is in [start, next_offset)"
               offsets[i], the byte at which element i ends, its row in the key table, a bit a filter

    elements: |0A len PacketResponse|0A len PacketResponse|...          field 1 of every Read*Response

Concatenated elements of a repeated field are a valid message, so a gateway sends ``elements``, or ranges of it, as they
are: one copy in the common case, no parsing. ``offsets``, ``ends`` and ``key_index`` are numpy columns (uint32,
little-endian; ``offsets`` uint64 and relative to ``start``, since a hole may be of any length).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trackside.data_plane.log import Partition, Run

__all__ = [
    "ELEMENT_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "Frame",
    "FrameTally",
    "decode_frame",
    "encode_elements",
    "encode_frame",
    "frames_of",
]

FRAME_BYTES_MAX = 1 << 20
"""Entries of one frame with all that is said of them, unless one alone is larger: a frame is a time slice of the
consumer, too."""

ELEMENT_BYTES_MAX = (4 << 20) - (32 << 10)
"""One element with its key. A response must stay under gRPC's default of 4 MiB, and a frame of one entry fits into
half of the control plane's ring; an entry beyond that can be sent to nobody."""

COLUMN_BYTES = 20
"""What ``offsets``, ``ends``, ``key_index`` and ``sizes`` take for one entry."""

SHARED_KEYS_BYTES_MAX = 64 << 10
"""A key table up to this size is the same for all frames of a run; of a larger one each gets what it needs."""

Bits = NDArray[np.bool_]


class FrameTally(NamedTuple):
    """What a reader gets of one frame, in numbers: packets that pass its session filter, how many of them its data
    filter, too, and the former by session key: (key, packets, bytes); a key may stand there more than once."""

    read: int
    chosen: int
    by_key: list[tuple[bytes, int, int]]


class Frame(msgspec.Struct, array_like=True, dict=True):
    """See the picture above. ``label`` is the stream that its elements name; ``keys`` holds (key, identity) rows; ``filters`` maps a filter's number to its bits.

    For who counts: ``sizes`` has the bytes of each packet, ``logged_ns`` is when the log got the first (UTC).
    """

    topic: str
    number: int
    label: str
    log: bytes
    start: int
    next_offset: int
    offsets: bytes
    ends: bytes
    key_index: bytes
    keys: list[tuple[bytes, bytes]]
    filters: dict[int, bytes]
    elements: bytes
    sizes: bytes = b""
    logged_ns: int = 0

    @property
    def partition(self) -> Partition:
        return Partition(self.topic, self.number)

    @property
    def count(self) -> int:
        return len(self.ends) // 4

    def cut(self, first_offset: int, key: bytes | None, filter_number: int | None, until: int | None = None) -> bytes:
        """The elements in [first_offset, until) that have ``key`` (None: any) and pass the filter (None: all).

        Readers that want the same share one result: it is computed once a frame.
        """
        if until is not None and until >= self.next_offset:
            until = None
        if first_offset <= self.start and key is None and filter_number is None and until is None:
            return self.elements
        cache: dict[tuple[int, bytes | None, int | None, int | None], bytes] = self.__dict__.setdefault("cuts", {})
        wanted = (max(first_offset, self.start), key, filter_number, until)
        cut = cache.get(wanted)
        if cut is None:
            cut = cache[wanted] = self._take(self._select(*wanted))
        return cut

    def tally(
        self, first_offset: int, key: bytes | None, filter_number: int | None, until: int | None = None
    ) -> FrameTally:
        """The numbers to :meth:`cut`, shared like its result."""
        wanted = (max(self.start, first_offset), key, filter_number, until)
        cache: dict[object, FrameTally] | None = self.__dict__.get("tallies")
        if cache is None:
            cache = self.__dict__["tallies"] = {}
        tally = cache.get(wanted)
        if tally is None:
            tally = cache[wanted] = self._tally(*wanted)
        return tally

    def _tally(self, first_offset: int, key: bytes | None, filter_number: int | None, until: int | None) -> FrameTally:
        if (
            first_offset <= self.start
            and key is None
            and filter_number is None
            and until is None
            and len(self.keys) == 1
        ):
            size = int(np.frombuffer(self.sizes, np.uint32).sum())
            return FrameTally(self.count, self.count, [(self.keys[0][0], self.count, size)])
        passed = self._select(first_offset, key, None, until)
        read = chosen = int(np.count_nonzero(passed))
        if filter_number is not None:
            chosen = int(np.count_nonzero(passed & np.frombuffer(self.filters[filter_number], np.bool_)))
        rows = np.frombuffer(self.key_index, np.uint32)[passed]
        counts = np.bincount(rows, minlength=len(self.keys))
        bytes_ = np.bincount(rows, np.frombuffer(self.sizes, np.uint32)[passed], len(self.keys))
        used = np.flatnonzero(counts).tolist()
        return FrameTally(read, chosen, [(self.keys[row][0], int(counts[row]), int(bytes_[row])) for row in used])

    def _select(self, first_offset: int, key: bytes | None, filter_number: int | None, until: int | None) -> Bits:
        offsets = np.frombuffer(self.offsets, np.uint64)
        chosen: Bits = offsets >= first_offset - self.start
        if until is not None:
            chosen = chosen & (offsets < until - self.start)
        if key is not None:
            rows = np.fromiter((row == key for row, _ in self.keys), np.bool_, len(self.keys))
            chosen = chosen & rows[np.frombuffer(self.key_index, np.uint32)]
        if filter_number is not None:
            chosen = chosen & np.frombuffer(self.filters[filter_number], np.bool_)
        return chosen

    def _take(self, chosen: Bits) -> bytes:
        if chosen.all():
            return self.elements
        ends = np.frombuffer(self.ends, np.uint32)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False]))))
        starts = np.concatenate((np.zeros(1, np.uint32), ends))[edges].tolist()
        return b"".join([self.elements[a:b] for a, b in zip(starts[::2], starts[1::2], strict=True)])

    def entries(self) -> Iterator[tuple[int, tuple[bytes, bytes], bytes]]:
        """(offset, key row, element) of each entry; an element still carries its tag and length."""
        start = 0
        offsets = np.frombuffer(self.offsets, np.uint64).tolist()
        rows = np.frombuffer(self.key_index, np.uint32).tolist()
        for offset, row, end in zip(offsets, rows, np.frombuffer(self.ends, np.uint32).tolist(), strict=True):
            yield self.start + offset, self.keys[row], self.elements[start:end]
            start = end


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
encode_frame = _encoder.encode


def decode_frame(body: bytes) -> Frame:
    """Raises msgspec.DecodeError or msgspec.ValidationError when ``body`` is no frame."""
    return _decoder.decode(body)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_LENGTHS = [_varint(n) for n in range(1 << 14)]
"""Lengths up to two bytes of varint, by far the most, looked up instead of built."""


def _length(value: int) -> bytes:
    return _LENGTHS[value] if value < 1 << 14 else _varint(value)


def _submit_time(time_ns: int) -> bytes:
    """Field 3 of PacketResponse: google.protobuf.Timestamp{seconds = 1, nanos = 2}; zero fields are left out."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    body = (b"\x08" + _varint(seconds) if seconds else b"") + (b"\x10" + _varint(nanos) if nanos else b"")
    return b"\x1a" + _length(len(body)) + body


def encode_elements(values: list[bytes], times_ns: list[int], label: str) -> list[bytes]:
    """One encoded ``PacketResponse`` element a value: packet = 1, stream = 2 (left out when empty), submit_time = 3."""
    name = label.encode()
    stream = b"\x12" + _length(len(name)) + name if name else b""
    elements = []
    last_time, tail = -1, b""
    for value, time_ns in zip(values, times_ns, strict=True):
        if time_ns != last_time:
            last_time, tail = time_ns, stream + _submit_time(time_ns)
        size = _length(len(value))
        elements.append(
            b"".join((b"\x0a", _length(1 + len(size) + len(value) + len(tail)), b"\x0a", size, value, tail))
        )
    return elements


def frames_of(run: Run, label: str, filters: Mapping[int, list[bool]]) -> tuple[list[Frame], int]:
    """The frames that carry ``run``, each of about FRAME_BYTES_MAX, and how many entries no response could carry.

    ``filters`` gives each evaluated filter's answer an entry. Together the frames cover exactly
    [run.start, run.next_offset).
    """
    elements = encode_elements(run.values, run.times_ns, label)
    sizes = np.fromiter(map(len, elements), np.int64, len(elements))
    rows = np.asarray(run.key_index, np.uint32)
    key_sizes = np.fromiter((len(key) + len(identity) for key, identity in run.keys), np.int64, len(run.keys))
    shared_keys = int(key_sizes.sum()) <= SHARED_KEYS_BYTES_MAX
    weights = sizes if shared_keys else sizes + key_sizes[rows]
    keep = np.flatnonzero(weights <= ELEMENT_BYTES_MAX)
    oversize = len(elements) - len(keep)
    if oversize:
        elements = [elements[i] for i in keep.tolist()]
    sizes, rows, weights = sizes[keep], rows[keep], weights[keep] + COLUMN_BYTES + len(filters)
    value_sizes = np.fromiter(map(len, run.values), np.uint32, len(run.values))[keep]
    times_ns = run.times_ns if not oversize else [run.times_ns[i] for i in keep.tolist()]
    offsets = np.asarray(run.offsets, np.int64)[keep]
    bits = {number: np.asarray(answer, np.bool_)[keep] for number, answer in filters.items()}
    frames = []
    start, first = run.start, 0
    while True:
        last = _fill(weights, first)
        next_offset = run.next_offset if last == len(elements) else int(offsets[last])
        keys, key_index = (run.keys, rows[first:last]) if shared_keys else _needed(run.keys, rows[first:last])
        frames.append(
            Frame(
                run.partition.topic,
                run.partition.number,
                label,
                run.identity,
                start,
                next_offset,
                (offsets[first:last] - start).astype(np.uint64).tobytes(),
                np.cumsum(sizes[first:last]).astype(np.uint32).tobytes(),
                key_index.tobytes(),
                keys,
                {number: answer[first:last].tobytes() for number, answer in bits.items()},
                b"".join(elements[first:last]),
                value_sizes[first:last].tobytes(),
                times_ns[first] if last > first else 0,
            )
        )
        if last == len(elements):
            return frames, oversize
        start, first = next_offset, last


def _needed(
    keys: list[tuple[bytes, bytes]], rows: NDArray[np.uint32]
) -> tuple[list[tuple[bytes, bytes]], NDArray[np.uint32]]:
    """The keys that ``rows`` name, and the rows of those."""
    used, own_rows = np.unique(rows, return_inverse=True)
    return [keys[row] for row in used.tolist()], own_rows.astype(np.uint32)


def _fill(weights: NDArray[np.int64], first: int) -> int:
    """Index behind the last entry that fits into a frame that begins with entry ``first``."""
    total = np.cumsum(weights[first:])
    fitting = int(np.searchsorted(total, FRAME_BYTES_MAX, side="right"))
    return first + max(fitting, min(1, len(total)))
