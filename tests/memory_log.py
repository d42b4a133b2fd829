"""A log in memory: the simplest thing that keeps the contract. Unit tests of producer and consumer run over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from trackside.data_plane.log import END, LogState, Partition, Progress, Refusal, Run, Watermarks
from trackside.data_plane.record import Record, Source

__all__ = ["MemoryCursor", "MemoryLog", "MemoryReader", "MemoryWriter"]

VALUE_BYTES_MAX = 1 << 20


class Stored(NamedTuple):
    key: tuple[bytes, bytes]
    value: bytes


class MemoryLog:
    """What writers and readers share. Tests look into it and break it (``available``, ``blocked`` topics)."""

    def __init__(self) -> None:
        self.identity = b"memory"
        self.partitions: dict[Partition, list[Stored]] = {}
        self.groups: dict[tuple[str, Partition], Progress] = {}
        self.available = True
        self.blocked: set[str] = set()

    @property
    def state(self) -> LogState:
        return LogState(self.available, "" if self.available else "the test took it away")


class Piece(NamedTuple):
    """What one record has for one partition, and whose it is: the ring's, or the park's under a number."""

    ring: str
    end: int
    number: int
    stored: list[Stored]


class MemoryWriter:
    """``do_work`` logs all that waits, partition by partition, but for topics that are blocked or held."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._waiting: dict[Partition, list[Piece]] = {}
        self._logged: dict[str, int] = {}
        self._ends: dict[str, list[int]] = {}  # by ring: of records that are not logged
        self._parked_logged: list[int] = []
        self._held: set[str] = set()
        self._appended = 0
        self.refused: list[Refusal] = []

    def append(self, ring: str, end: int, record: Record, parked: Mapping[str, int] | None = None) -> None:
        self._ends.setdefault(ring, []).append(end)
        self._cut(ring, end, record, parked or {}, only=False)

    def append_parked(self, ring: str, end: int, record: Record, parked: Mapping[str, int]) -> None:
        self._cut(ring, end, record, parked, only=True)

    def _cut(self, ring: str, end: int, record: Record, parked: Mapping[str, int], only: bool) -> None:
        pieces: dict[Partition, list[Stored]] = {}
        for copies in (True, False):
            for index, packet in zip(record.indexes, record.packets, strict=True):
                route = record.routes[index]
                place = Partition(route.essentials, 0) if copies else Partition(route.topic, route.partition)
                if place.topic and not (only and place.topic not in parked) and parked.get(place.topic) != 0:
                    pieces.setdefault(place, []).append(Stored((route.key, route.identity), packet))
        for place, stored in pieces.items():
            piece = Piece(ring, end, parked.get(place.topic, 0), stored)
            self._waiting.setdefault(place, []).append(piece)

    def do_work(self) -> int:
        if not self._log.available:
            return 0
        return sum([self._log_one(place) for place in list(self._waiting)])

    def _log_one(self, place: Partition) -> int:
        if self._is_blocked(place) or place.topic in self._held:
            return 0
        pieces = self._waiting.pop(place)
        before = self._numbers()
        for piece in pieces:
            self._log.partitions.setdefault(place, []).extend(piece.stored)
            self._appended += len(piece.stored)
            if piece.number and piece.number not in before and piece.number not in self._parked_logged:
                self._parked_logged.append(piece.number)
        return sum(len(piece.stored) for piece in pieces)

    def _numbers(self) -> set[int]:
        return {piece.number for pieces in self._waiting.values() for piece in pieces}

    def _pieces(self) -> list[tuple[Partition, Piece]]:
        return [(place, piece) for place, pieces in self._waiting.items() for piece in pieces]

    def overdue(self, seconds: float) -> set[str]:
        """Tests have no time: what is blocked is overdue at once."""
        return {place.topic for place in self._waiting if self._is_blocked(place)}

    def _is_blocked(self, place: Partition) -> bool:
        return not self._log.blocked.isdisjoint({place.topic, f"{place.topic}/{place.number}"})

    def unlogged(self, topics: Collection[str]) -> dict[Source, set[str]]:
        found: dict[Source, set[str]] = {}
        for place, piece in self._pieces():
            if place.topic in topics and not piece.number:
                found.setdefault(Source(piece.ring, piece.end), set()).add(place.topic)
        return found

    def park(self, numbers: Mapping[Source, Mapping[str, int]]) -> None:
        for place, pieces in self._waiting.items():
            for index, piece in enumerate(pieces):
                number = numbers.get(Source(piece.ring, piece.end), {}).get(place.topic, 0)
                if number and not piece.number:
                    pieces[index] = piece._replace(number=number)

    def parked_logged(self) -> list[int]:
        logged, self._parked_logged = self._parked_logged, []
        return logged

    def hold(self, topics: Collection[str]) -> None:
        self._held = set(topics)

    def logged(self, ring: str) -> int:
        missing = {piece.end for _, piece in self._pieces() if piece.ring == ring and not piece.number}
        ends = self._ends.get(ring, [])
        while ends and ends[0] not in missing:
            self._logged[ring] = ends.pop(0)
        return self._logged.get(ring, 0)

    def refusals(self) -> list[Refusal]:
        refused, self.refused = self.refused, []
        return refused

    def state(self) -> LogState:
        return self._log.state

    def answers(self) -> bool:
        return self._log.available

    def value_bytes_max(self) -> int:
        return VALUE_BYTES_MAX

    def statistics(self) -> Mapping[str, int]:
        return {"appended": self._appended}

    def close(self, timeout_seconds: float) -> bool:
        self.do_work()
        return not self._waiting


class MemoryCursor:
    def __init__(self, reader: MemoryReader, partition: Partition, offset: int) -> None:
        self._reader = reader
        self.partition = partition
        end = len(reader.log.partitions.get(partition, ()))
        self.next_offset = end if offset == END else offset
        self.at_end = self.next_offset >= end

    def read(self, bytes_max: int) -> Run | None:
        entries = self._reader.log.partitions.get(self.partition, [])
        start = stop = self.next_offset
        size = 0
        while stop < len(entries) and (stop == start or size + len(entries[stop].value) <= bytes_max):
            size += len(entries[stop].value)
            stop += 1
        self.at_end = stop >= len(entries)
        if stop == start:
            return None
        self._reader.fetches += 1
        self.next_offset = stop
        some = entries[start:stop]
        rows = {key: row for row, key in enumerate(dict.fromkeys(entry.key for entry in some))}
        return Run(
            self.partition,
            self._reader.log.identity,
            start,
            stop,
            list(range(start, stop)),
            [1_600_000_000_000_000_000] * len(some),
            [rows[entry.key] for entry in some],
            list(rows),
            [entry.value for entry in some],
        )

    def close(self) -> None:
        self._reader.cursors.discard(self)


class MemoryReader:
    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.cursors: set[MemoryCursor] = set()
        self.fetches = 0

    def open(self, partition: Partition, offset: int) -> MemoryCursor:
        cursor = MemoryCursor(self, partition, offset)
        self.cursors.add(cursor)
        return cursor

    def watermarks(
        self, partitions: Sequence[Partition], done: Callable[[dict[Partition, Watermarks] | None], None]
    ) -> None:
        if not self.log.available:
            done(None)
            return
        done({partition: Watermarks(0, len(self.log.partitions.get(partition, ()))) for partition in partitions})

    def committed(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        if not self.log.available:
            done(None)
            return
        found = {place: self.log.groups[group, place] for place in partitions if (group, place) in self.log.groups}
        done({place: offset for place, (log, offset) in found.items() if self._is_there(place, log, offset)})

    def _is_there(self, place: Partition, log: bytes, offset: int) -> bool:
        return log == self.log.identity and offset <= len(self.log.partitions.get(place, ()))

    def commit(self, group: str, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        if self.log.available:
            kept = {place: Progress(log or self.log.identity, offset) for place, (log, offset) in progress.items()}
            self.log.groups.update({(group, place): reached for place, reached in kept.items()})
        done(self.log.available)

    def list_topics(self, done: Callable[[Mapping[str, int] | None], None]) -> None:
        done(self.topics() if self.log.available else None)

    def topics(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for topic, number in self.log.partitions:
            counts[topic] = max(counts.get(topic, 0), number + 1)
        return counts

    def watch(self, on: bool) -> None: ...

    def do_work(self) -> int:
        return 0

    def ready(self) -> Iterable[MemoryCursor]:
        return list(self.cursors)

    def state(self) -> LogState:
        return self.log.state

    def statistics(self) -> Mapping[str, int]:
        return {"fetches": self.fetches, "undecodable": 0}

    def close(self) -> None: ...
