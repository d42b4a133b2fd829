"""What is written while things die: lanes of numbered packets, each with a checksum of its own.

A *lane* is one writer: it writes 1, 2, 3 ... to one stream of one data source and never a number twice, so that whoever
sees a number twice has a repeat. An *entry* is what a packet says of itself, lane and number, as one integer.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.routing import owner

__all__ = [
    "CORRUPTED",
    "FOREIGN",
    "LABELS",
    "LARGE_BYTES",
    "Lane",
    "entry_of",
    "lane_of",
    "lanes",
    "make_packet",
    "number_of",
    "sources",
]

_HEAD = Struct("<4sIQ")  # magic, lane, number
_MAGIC = b"LANE"
_NUMBER_BITS = 40
LARGE_EVERY, LARGE_BYTES = 199, 20_000
ESSENTIAL_EVERY = 50

CORRUPTED, FOREIGN = 0, 1
"""Entries of a packet whose checksum does not hold, and of one that no lane wrote, such as a data format."""

_TYPE = "Numbered"

LABELS = ("", "s", "h")
"""Streams of each data source, as responses label them."""


class Lane(NamedTuple):
    """One writer. ``messages`` a call: 0 for unary calls of one packet; else a client stream of so many messages.

    It writes over ``channels`` in turn, which different gateways may serve: whoever writes next has been told that what
    was written before is accepted.
    """

    index: int
    data_source: str
    stream: str
    session_key: str
    messages: int
    packets: int  # a message
    acknowledge: str
    channels: int
    calls_a_second: float


def lanes(data_sources: list[str], pace: float) -> list[Lane]:
    """Four a data source: two share the stream ``s``, one has the main stream, one hands ``h`` from client to client."""
    made: list[Lane] = []
    for name in data_sources:
        for stream, key, messages, packets, acknowledge, channels, calls in (
            ("s", "red", 4, 10, "ring", 1, 6.0),
            ("s", "blue", 0, 1, "log", 2, 20.0),
            ("", "", 3, 5, "log", 2, 6.0),
            ("h", "red", 0, 1, "ring", 4, 40.0),
        ):
            made.append(Lane(len(made) + 1, name, stream, key, messages, packets, acknowledge, channels, calls * pace))
    return made


def sources(prefix: str, count: int = 3) -> list[str]:
    """Names of data sources, of which both of two producers (and consumers) own some."""

    def named(wanted: int) -> Iterator[str]:
        return (name for number in range(100) if owner(name := f"{prefix}{number}", 2) == wanted)

    odd, even = named(1), named(0)
    return [next(odd if index % 2 else even) for index in range(count)]


def make_packet(lane: Lane, number: int) -> Packet:
    head = _HEAD.pack(_MAGIC, lane.index, number)
    if number % LARGE_EVERY == 0:
        body = head + random.Random(number).randbytes(LARGE_BYTES)  # stays large when it is compressed
    else:
        size = 40 + number * 31 % 200
        body = head + (head * (size // len(head) + 1))[:size]
    return Packet(
        type=_TYPE,
        id=number,
        session_key=lane.session_key,
        is_essential=number % ESSENTIAL_EVERY == 0,
        content=body + zlib.crc32(body).to_bytes(4, "little"),
    )


def entry_of(packet: Packet | bytes) -> int:
    """Entry of a packet; CORRUPTED where it is not as it was written, FOREIGN where it is none of ours."""
    try:
        packet = Packet.FromString(packet) if isinstance(packet, bytes) else packet
    except DecodeError:
        return CORRUPTED
    if packet.type != _TYPE:
        return FOREIGN
    body, checksum = packet.content[:-4], packet.content[-4:]
    if len(body) < _HEAD.size or zlib.crc32(body).to_bytes(4, "little") != checksum:
        return CORRUPTED
    _, lane, number = _HEAD.unpack_from(body)
    return (int(lane) << _NUMBER_BITS) + int(number) if number == packet.id else CORRUPTED


def lane_of(entry: int) -> int:
    return entry >> _NUMBER_BITS


def number_of(entry: int) -> int:
    return entry & ((1 << _NUMBER_BITS) - 1)
