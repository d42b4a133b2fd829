"""What a peer publishes into a down ring: the packets of one request for one producer.

A record lies in one ring record (kind ``PACKETS``) as one MessagePack array::

    [ routes, indexes, packets, counts, sizes ]
      |       |        |        |
      |       |        |        +-- for each route, how many packets take it; and how many bytes these have
      |       |        +----------- bytes of each ma.streaming.open_data.v1.Packet, exactly as the client sent them
      |       +-------------------- for each packet, which row of ``routes`` it takes
      +---------------------------- the distinct [topic, partition, key, essentials, identity, data_source] of this record

One MessagePack array a batch is the fastest framing that was measured in Python: the codec makes and takes apart
the whole list in C, while a length table costs a Python step a packet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec

__all__ = ["RECORD_BYTES_MAX", "Record", "Route", "Source", "decode_record", "encode_record", "record_overhead_bytes"]

RECORD_BYTES_MAX = 1 << 20
"""A record is at most this large, unless one packet alone is larger."""


class Route(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where packets go: one row of a record's table.

    ``essentials`` names the topic (partition 0) that gets a copy *before* the packet's own partition, or is empty.
    ``identity`` is set on records that the server writes for itself, so that a fold can tell a repeat; it travels
    with the entry through the log. ``data_source`` is for who counts: a topic's name does not always tell it.
    """

    topic: str
    partition: int
    key: bytes
    essentials: str = ""
    identity: bytes = b""
    data_source: str = ""

    @property
    def destinations(self) -> int:
        return 2 if self.essentials else 1


class Record(msgspec.Struct, array_like=True, gc=False):
    """The packets of one request for one producer; ``indexes[i]`` is the row of ``routes`` that ``packets[i]`` takes.

    ``counts`` and ``sizes`` are packets and bytes a route, counted once, by who publishes the record; the producer goes
    by them when it counts what it has logged.
    """

    routes: list[Route]
    indexes: list[int]
    packets: list[bytes]
    counts: list[int] = []
    sizes: list[int] = []

    def count(self) -> None:
        if len(self.routes) == 1:  # by far the most common: no step a packet
            self.counts, self.sizes = [len(self.packets)], [sum(map(len, self.packets))]
            return
        counts, sizes = self.counts, self.sizes = [0] * len(self.routes), [0] * len(self.routes)
        for row, packet in zip(self.indexes, self.packets, strict=True):
            counts[row] += 1
            sizes[row] += len(packet)

    def amounts(self, without: Sequence[int] = ()) -> Iterator[tuple[Route, int, int]]:
        """(route, packets, their bytes), but for those ``without``: indexes of packets."""
        counts, sizes = self.counts, self.sizes
        if without:
            counts, sizes = counts.copy(), sizes.copy()
            for index in without:
                counts[self.indexes[index]] -= 1
                sizes[self.indexes[index]] -= len(self.packets[index])
        return zip(self.routes, counts, sizes, strict=True)

    def restricted(self, topics: Collection[str]) -> Record:
        """With only those packets that go to one of ``topics``; the places of the others stay, empty."""
        wanted = [route.topic in topics or route.essentials in topics for route in self.routes]
        if all(wanted):
            return self
        packets = [packet if wanted[row] else b"" for row, packet in zip(self.indexes, self.packets, strict=True)]
        return Record(self.routes, self.indexes, packets, self.counts, self.sizes)


class Source(NamedTuple):
    """A record's identity for ever: the ring it came through and where it ended in it.

    ``ring`` is ``<instance GUID>/<peer>.<producer>``; positions only grow within one ring.
    """

    ring: str
    end: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    return _encoder.encode(record)


def decode_record(body: bytes | memoryview) -> Record:
    """Raises msgspec.DecodeError, msgspec.ValidationError or UnicodeDecodeError when ``body`` is no record."""
    return _decoder.decode(body)


def record_overhead_bytes(routes: int, packets: int) -> int:
    """An upper bound of what framing adds to the bytes of packets, topics and keys."""
    return 64 + 32 * routes + 10 * packets
