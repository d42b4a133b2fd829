"""From records to batches: a record is split by partition, parts of one partition are gathered into a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from trackside.data_plane.log import Partition
from trackside.data_plane.record import Record
from trackside.data_plane.segments import KeyRow

__all__ = ["BATCH_BYTES", "Draft", "Part", "SplitRecord", "split_record"]

BATCH_BYTES = 1 << 20
"""Values in a batch, at most, unless one record alone has more: what a reader must take in to check one CRC."""


class Part(NamedTuple):
    """One record's entries for one partition; they never cross a batch.

    The record ends at ``end`` of ``ring``, the one before it there at ``before``. ``key_index[i]`` is the row of
    ``keys`` for ``values[i]``; None means row 0 for all. ``parked``: its number in the park, 0 when it is not there.
    """

    ring: str
    before: int
    end: int
    values: list[bytes]
    keys: list[KeyRow]
    key_index: list[int] | None
    parked: int = 0


class SplitRecord(NamedTuple):
    """``essentials``: copies for topics of essentials, which must be in the log before ``own``."""

    essentials: dict[Partition, Part]
    own: dict[Partition, Part]

    def parked_as(self, numbers: Mapping[str, int], *, only: bool = False) -> SplitRecord:
        """With what goes to these topics under its number in the park, left out where that is 0; or that alone."""
        return SplitRecord(*(_parked_as(parts, numbers, only) for parts in self))


_Columns = tuple[list[bytes], list[int]]
"""Values, and the row of the record's routes that each takes."""


def _parked_as(parts: dict[Partition, Part], numbers: Mapping[str, int], only: bool) -> dict[Partition, Part]:
    kept = {}
    for partition, part in parts.items():
        number = numbers.get(partition.topic)
        if number:
            kept[partition] = part._replace(parked=number)
        elif number is None and not only:
            kept[partition] = part
    return kept


def split_record(ring: str, before: int, end: int, record: Record) -> SplitRecord:
    """One part for each partition that ``record`` touches, entries in the order of the record.

    Where a topic of essentials is itself a destination, its part has the copies first.
    """
    routes = record.routes
    if len(routes) == 1 and not routes[0].essentials:  # by far the most common: no step a packet
        route = routes[0]
        part = Part(ring, before, end, record.packets, [(route.key, route.identity)], None)
        return SplitRecord({}, {Partition(route.topic, route.partition): part} if record.packets else {})
    copies, own = _columns(record)
    keys = [(route.key, route.identity) for route in routes]
    parts = {
        partition: Part(ring, before, end, values, *_rows_used(keys, rows))
        for partition, (values, rows) in {**copies, **own}.items()
        if values
    }
    return SplitRecord(
        {partition: part for partition, part in parts.items() if partition in copies},
        {partition: part for partition, part in parts.items() if partition not in copies},
    )


def _columns(record: Record) -> tuple[dict[Partition, _Columns], dict[Partition, _Columns]]:
    """The columns of the essentials partitions, and those of all packets' own partitions."""
    copies: dict[Partition, _Columns] = {}
    copied = [copies.setdefault(Partition(r.essentials, 0), ([], [])) if r.essentials else None for r in record.routes]
    if copies:
        _distribute(record, copied)
    own: dict[Partition, _Columns] = {}
    for route in record.routes:
        partition = Partition(route.topic, route.partition)
        own[partition] = copies[partition] if partition in copies else own.get(partition, ([], []))
    _distribute(record, [own[Partition(r.topic, r.partition)] for r in record.routes])
    return copies, own


def _distribute(record: Record, columns_of_row: list[_Columns | None] | list[_Columns]) -> None:
    for row, packet in zip(record.indexes, record.packets, strict=True):
        columns = columns_of_row[row]
        if columns is not None:
            columns[0].append(packet)
            columns[1].append(row)


def _rows_used(keys: list[KeyRow], rows: list[int]) -> tuple[list[KeyRow], list[int] | None]:
    """The key table and index of one part, from the routes that its entries take."""
    used = list(dict.fromkeys(rows))
    if len(used) == 1:
        return [keys[used[0]]], None
    place = {row: number for number, row in enumerate(used)}
    return [keys[row] for row in used], [place[row] for row in rows]


@dataclass
class Draft:
    """Entries that become one batch: the parts of whole records, columns in order of append."""

    values: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    keys: dict[KeyRow, int] = field(default_factory=dict)
    key_index: list[int] = field(default_factory=list)
    rings: dict[str, int] = field(default_factory=dict)
    value_bytes: int = 0

    def fill(self, waiting: Iterable[Part], logged: Mapping[str, int]) -> tuple[int, int]:
        """Takes parts until the batch is large enough. Returns how many parts, and how many entries were repeats.

        ``logged`` says how far each ring is in the partition: a part at or below that is there already, because a
        producer died between its write and its commit.
        """
        taken = repeats = 0
        for part in waiting:
            if part.end <= self.rings.get(part.ring, logged.get(part.ring, 0)):
                repeats += len(part.values)
            elif not self._take(part):
                break
            taken += 1
        return taken, repeats

    def _take(self, part: Part) -> bool:
        lengths = list(map(len, part.values))
        size = sum(lengths)
        if self.values and self.value_bytes + size > BATCH_BYTES:
            return False
        rows = [self.keys.setdefault(key, len(self.keys)) for key in part.keys]
        self.key_index += [rows[0]] * len(lengths) if part.key_index is None else [rows[row] for row in part.key_index]
        self.values += part.values
        self.lengths += lengths
        self.value_bytes += size
        self.rings[part.ring] = part.end
        return True
