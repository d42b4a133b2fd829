"""Where a forwarded packet stands in the local log, as its message on Kafka says it, and as a file on disk remembers it.

::

    header ``trackside-place`` of every forwarded message        <data_dir>/forwarded.json
    +0   identity   16s   GUID of the local log                  {"log": "<GUID>", "partitions": [
    +16  offset     u64   big-endian, in its partition there         [topic, partition, topic id, next, next on Kafka]]}

What counts is on Kafka: the last message of a log in a partition says how far it is forwarded. The file says where to
begin to look for that message, and how much is left while nobody can be asked; it may lag behind, and may be lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from trackside.data_plane.durable import replace_file
from trackside.data_plane.log import Partition
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["PLACE_HEADER", "Forwarded", "ForwardedFile", "encode_place", "offset_of"]

PLACE_HEADER = "trackside-place"

IDENTITY_BYTES = 16
PLACE_BYTES = IDENTITY_BYTES + 8


def encode_place(identity: bytes, offset: int) -> bytes:
    return identity + offset.to_bytes(8, "big")


def offset_of(headers: Iterable[tuple[str, bytes | None]] | None, identity: bytes) -> int | None:
    """Offset in the log ``identity`` of the packet that carries ``headers``; None when it comes from somewhere else."""
    for name, value in headers or ():
        if name == PLACE_HEADER and value is not None and len(value) == PLACE_BYTES and value.startswith(identity):
            return int.from_bytes(value[IDENTITY_BYTES:], "big")
    return None


class Forwarded(NamedTuple):
    """How far one partition is forwarded: everything below ``next_offset`` stands on Kafka below ``kafka_next``, in the
    topic that Kafka calls ``topic_id``, and nothing else of this log does."""

    topic_id: bytes
    next_offset: int
    kafka_next: int


class _Document(msgspec.Struct):
    log: str
    partitions: list[tuple[str, int, str, int, int]]


class ForwardedFile:
    """``forwarded.json``. ``known`` says whether it was there: then a partition that it does not name was never sent."""

    def __init__(self, data_dir: Path, identity: bytes) -> None:
        """Raises OSError. A file that cannot be understood, or is another log's, counts as lost."""
        self.path = data_dir / "forwarded.json"
        self._log = str(uuid.UUID(bytes=identity))
        self._changed = False
        kept = self._load()
        self.known = kept is not None
        self.partitions: dict[Partition, Forwarded] = kept or {}
        self._on_disk = dict(self.partitions)

    def _load(self) -> dict[Partition, Forwarded] | None:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except (FileNotFoundError, *UNDECODABLE):
            return None
        if found.log != self._log:
            return None
        return {
            Partition(topic, number): Forwarded(topic_id.encode(), next_offset, kafka_next)
            for topic, number, topic_id, next_offset, kafka_next in found.partitions
        }

    def note(self, partition: Partition, forwarded: Forwarded) -> None:
        """In memory until ``save``."""
        if self.partitions.get(partition) != forwarded:
            self.partitions[partition] = forwarded
            self._changed = True

    def save(self) -> None:
        """Whole or not at all, and on the device when this returns. Nothing to do costs nothing. Raises OSError."""
        if not self._changed and self.known:
            return
        rows = [
            (topic, number, kept.topic_id.decode(), kept.next_offset, kept.kafka_next)
            for (topic, number), kept in sorted(self.partitions.items())
        ]
        replace_file(self.path, msgspec.json.encode(_Document(self._log, rows)))
        self._changed, self.known = False, True
        self._on_disk = dict(self.partitions)

    def names(self, partitions: Iterable[Partition]) -> bool:
        """Whether the file as it was saved last says of all these in which topic they are."""
        return self.known and all(
            partition in self._on_disk and self._on_disk[partition].topic_id == self.partitions[partition].topic_id
            for partition in partitions
        )

    def forget(self) -> None:
        """Take the file away, which needs no room on the disk: a lost file is made good by a look at Kafka, one that
        does not name what was sent is not. Raises OSError."""
        self.path.unlink(missing_ok=True)
        self.known, self._on_disk = False, {}
