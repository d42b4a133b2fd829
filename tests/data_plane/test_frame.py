"""Frames: what a consumer encodes is what a client's own protobuf library reads, and a cut is what was asked for."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane import frame as frame_module
from trackside.data_plane.frame import ELEMENT_BYTES_MAX, FRAME_BYTES_MAX, decode_frame, encode_frame, frames_of
from trackside.data_plane.log import Partition, Run

KEYS = [(b"", b""), (b"one", b""), (b"two", b"own-record")]


def run_of(values: list[bytes], offsets: list[int], start: int, next_offset: int, seed: int = 1) -> Run:
    chooser = random.Random(seed)
    times = [1_700_000_000_123_456_789 + 1000 * i for i in range(len(values))]
    rows = [chooser.randrange(len(KEYS)) for _ in values]
    return Run(Partition("Car.s", 0), b"log", start, next_offset, offsets, times, rows, KEYS, values)


def responses(elements: bytes) -> list[api_pb2.PacketResponse]:
    return list(api_pb2.ReadPacketsResponse.FromString(elements).response)


sizes = st.lists(st.integers(0, 70_000), max_size=60)


@given(sizes=sizes, label=st.sampled_from(["", "Stream1", "ü"]), seed=st.integers(0, 99))
def test_frames_carry_every_packet_once_with_label_and_time(sizes: list[int], label: str, seed: int) -> None:
    chooser = random.Random(seed)
    packets = [Packet(type="RowData", content=chooser.randbytes(size), id=i) for i, size in enumerate(sizes)]
    offsets = sorted(chooser.sample(range(10, 10 + 3 * len(sizes) + 1), len(sizes)))
    run = run_of([packet.SerializeToString() for packet in packets], offsets, 5, 10 + 3 * len(sizes) + 5, seed)
    frames, oversize = frames_of(run, label, {})
    frames = [decode_frame(encode_frame(frame)) for frame in frames]
    assert oversize == 0
    assert frames[0].start == 5 and frames[-1].next_offset == run.next_offset
    assert all(a.next_offset == b.start for a, b in itertools.pairwise(frames))
    read = [response for frame in frames for response in responses(frame.elements)]
    assert [response.packet for response in read] == packets
    assert [response.submit_time.ToNanoseconds() for response in read] == run.times_ns
    assert {response.stream for response in read} <= {label}
    entries = [entry for frame in frames for entry in frame.entries()]
    assert [offset for offset, _, _ in entries] == offsets
    assert [row for _, row, _ in entries] == [KEYS[i] for i in run.key_index]


@given(
    count=st.integers(0, 40),
    first=st.integers(0, 60),
    until=st.none() | st.integers(0, 60),
    key=st.sampled_from([None, b"", b"one", b"two", b"nobody"]),
    filtered=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_cut_is_what_a_loop_would_choose(
    count: int, first: int, until: int | None, key: bytes | None, filtered: bool, seed: int
) -> None:
    chooser = random.Random(seed)
    values = [Packet(id=i + 1).SerializeToString() for i in range(count)]
    offsets = sorted(chooser.sample(range(8, 8 + 40), count))
    run = run_of(values, offsets, 8, 50, seed)
    bits = [chooser.random() < 0.5 for _ in values]
    (frame,), _ = frames_of(run, "s", {7: bits})
    cut = frame.cut(first, key, 7 if filtered else None, until)
    expected = [
        i + 1
        for i, offset in enumerate(offsets)
        if offset >= first
        and (until is None or offset < until)
        and (key is None or KEYS[run.key_index[i]][0] == key)
        and (bits[i] or not filtered)
    ]
    assert [response.packet.id for response in responses(cut)] == expected
    assert frame.cut(first, key, 7 if filtered else None, until) == cut


def test_an_entry_that_no_response_can_carry_is_skipped_and_counted() -> None:
    values = [b"", Packet(content=bytes(ELEMENT_BYTES_MAX)).SerializeToString(), Packet(id=3).SerializeToString()]
    frames, oversize = frames_of(run_of(values, [0, 1, 2], 0, 3), "", {})
    assert oversize == 1
    assert [response.packet.id for frame in frames for response in responses(frame.elements)] == [0, 3]
    assert frames[-1].next_offset == 3


def test_a_run_without_entries_still_moves_readers_on() -> None:
    (frame,), _ = frames_of(run_of([], [], 4, 9), "", {})
    assert (frame.start, frame.next_offset, frame.count, frame.elements) == (4, 9, 0, b"")


@pytest.mark.parametrize(
    ("key_bytes", "filters"), [(1024, 0), (20, 0), (4, 200)], ids=["long keys", "many keys", "many filters"]
)
def test_frames_stay_small_whatever_is_said_of_tiny_packets(key_bytes: int, filters: int) -> None:
    """A frame larger than half of an up ring could never be sent: its consumer would die of it, again and again."""
    count = 10_000
    keys = [(number.to_bytes(4, "big").ljust(key_bytes, b"k"), b"") for number in range(count)]
    run = Run(
        Partition("Car", 0), b"log", 0, count, list(range(count)), [1] * count, list(range(count)), keys, [b""] * count
    )
    answers = dict.fromkeys(range(filters), [True, False] * (count // 2))
    frames, oversize = frames_of(run, "", answers)
    frames = [decode_frame(encode_frame(frame)) for frame in frames]
    assert max(len(encode_frame(frame)) for frame in frames) < 2 * FRAME_BYTES_MAX and not oversize
    assert [(offset, key) for frame in frames for offset, key, _ in frame.entries()] == list(enumerate(keys))
    for number in range(filters):
        assert sum(len(responses(frame.cut(0, None, number))) for frame in frames) == count // 2


def test_the_largest_entry_fits_into_the_control_planes_ring() -> None:
    key = b"k" * 300_000
    for size in (ELEMENT_BYTES_MAX - 100, ELEMENT_BYTES_MAX - 300_100):
        run = Run(Partition("Car", 0), b"log", 0, 1, [0], [1], [0], [(key, b"")], [bytes(size)])
        (frame,), _ = frames_of(run, "s" * 249, {})
        assert len(encode_frame(frame)) < (4 << 20) - 64


@pytest.mark.parametrize("value", [0, 1, 127, 128, (1 << 14) - 1, 1 << 14, 1 << 20, 1 << 33])
def test_lengths_are_varints(value: int) -> None:
    encoded = frame_module._length(value)
    decoded = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(encoded))
    assert decoded == value and encoded[-1] < 0x80 and all(byte >= 0x80 for byte in encoded[:-1])
