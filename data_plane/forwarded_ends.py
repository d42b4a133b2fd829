"""How far the forwarder is, for producers: what is not forwarded yet must not fall to retention.

The forwarder publishes it in a table of its own in the run directory, of the same kind as those in which producers
publish their ends (``ends_table.py``): here ``end`` is the next offset that Kafka has to get.
"""

from __future__ import annotations

from pathlib import Path

from trackside.data_plane.ends_table import EndsReader, EndsSlot, EndsWriter
from trackside.data_plane.log import Partition

__all__ = ["ForwardedEnds", "ForwardedEndsWriter"]


class ForwardedEnds:
    """A producer's look at the table. Until the forwarder has said something, nothing counts as forwarded."""

    def __init__(self, path: Path) -> None:
        self._reader = EndsReader(path)
        self._slots: dict[Partition, EndsSlot] = {}

    def is_forwarded(self, partition: Partition, offset: int) -> bool:
        """Whether Kafka has everything below ``offset``. Costs a comparison of memory."""
        for moved in self._reader.changed():
            self._slots[moved.partition] = moved
        slot = self._slots.get(partition)
        return slot is not None and slot.end >= offset


class ForwardedEndsWriter:
    """The forwarder's side. A successor goes on with the slots of its predecessor."""

    def __init__(self, path: Path) -> None:
        """Raises NoSpace, OSError."""
        self._table = EndsWriter(path)

    def publish(self, partition: Partition, next_offset: int) -> None:
        """Everything below ``next_offset`` is on Kafka, where the device has it as far as Kafka says so. Raises NoSpace."""
        slot = self._table.slot(partition)
        if slot is None:
            self._table.add(partition, next_offset, 0)
        else:
            slot.end = next_offset

    def close(self) -> None:
        self._table.close()
