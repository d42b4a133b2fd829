"""Offsets inside session packets: of the local log as they were written, of Kafka as they are forwarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import Routing, parse_offset_key

__all__ = ["SessionOffsets", "session_offsets"]

_Content = data.NewSessionPacket | data.EndOfSessionPacket
_CONTENTS: dict[str, type[_Content]] = {
    "NewSession": data.NewSessionPacket,
    "EndOfSession": data.EndOfSessionPacket,
}
"""By type of the packet; no other has offsets."""


class SessionOffsets(NamedTuple):
    """One session packet and where its offsets are; ``places`` is the partition that each key of its map names."""

    packet: data.Packet
    content: _Content
    places: Mapping[str, Partition]

    @property
    def wanted(self) -> dict[Partition, int]:
        """The offset up to which each partition is covered; the highest where two keys name one."""
        offsets: dict[Partition, int] = {}
        for key, partition in self.places.items():
            offset = self.content.topic_partition_offsets[key]
            offsets[partition] = max(offset, offsets.get(partition, offset))
        return offsets

    def translated(self, on_kafka: Callable[[Partition, int], int]) -> bytes:
        """The packet with its offsets as ``on_kafka`` gives them; keys stay as they are."""
        offsets = self.content.topic_partition_offsets
        for key, partition in self.places.items():
            offsets[key] = on_kafka(partition, offsets[key])
        self.packet.content = self.content.SerializeToString()
        return self.packet.SerializeToString()


def session_offsets(value: bytes, routing: Routing) -> SessionOffsets | None:
    """The offsets in a packet of the session-info topic; None when it has none, or cannot be understood."""
    try:
        packet = data.Packet.FromString(value)
        kind = _CONTENTS.get(packet.type)
        content = kind.FromString(packet.content) if kind is not None else None
    except DecodeError:
        return None
    if content is None:
        return None
    places: dict[str, Partition] = {}
    for key, offset in content.topic_partition_offsets.items():
        try:
            named = parse_offset_key(key)
        except ValueError:
            continue  # names no partition: nobody reads by it
        if offset >= 0:
            places[key] = routing.resolve(content.data_source, named)
    return SessionOffsets(packet, content, places) if places else None
