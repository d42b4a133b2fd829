"""The order of one partition, from ``append`` until the log has it: what waits, what is in flight.

A record is cut into chunks, one a partition, and these into pieces that fit. Only a chunk's last message is reported
by librdkafka (a report a packet would double the cost); the gapless guarantee makes its success that of all before it.

::

    append --> waiting --> in flight --> logged
                  ^            |
                  +-- the client failed: again from the oldest that is not logged
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from trackside.data_plane.kafka_config import IDENTITY_HEADER
from trackside.data_plane.log import Partition
from trackside.data_plane.record import Record, Route

__all__ = [
    "MESSAGE_OVERHEAD_BYTES",
    "Chunk",
    "Gate",
    "Headers",
    "ParkAccount",
    "PartitionQueue",
    "RecordProgress",
    "RingAccount",
    "cut",
]

MESSAGE_OVERHEAD_BYTES = 80
"""Upper bound of what Kafka's framing adds to key, value and headers."""


Headers = list[tuple[str, bytes]]


class Owner(Protocol):
    """Who is told what became of a chunk."""

    def on_split(self) -> None:
        """One chunk has become two."""

    def on_logged(self, chunk: Chunk) -> None: ...


class Gate:
    """Opens when the chunks that it stands for are logged: essentials before the packets' own partitions."""

    __slots__ = ("left", "waiting")

    def __init__(self) -> None:
        self.left = 1
        self.waiting: set[PartitionQueue] = set()


class Chunk:
    """Packets of one record for one partition, columns in parallel.

    ``indexes`` are the packets' places in the record. ``after`` must open first; ``opens`` is what this one opens.
    ``other`` names the other destination of its essential packets. ``reports`` are still to come.
    """

    __slots__ = ("after", "headers", "indexes", "keys", "opens", "other", "owner", "reports", "size", "values")

    def __init__(
        self,
        owner: Owner,
        values: Sequence[bytes],
        keys: Sequence[bytes],
        headers: Sequence[Headers | None] | None,
        indexes: Sequence[int],
        other: str = "",
    ) -> None:
        self.owner = owner
        self.values = values
        self.keys = keys
        self.headers = headers
        self.indexes = indexes
        self.other = other
        self.after: Gate | None = None
        self.opens: Gate | None = None
        self.reports = 0
        self.size = self._size()

    def _size(self) -> int:
        size = sum(map(len, self.values)) + sum(map(len, self.keys)) + MESSAGE_OVERHEAD_BYTES * len(self.values)
        return size if self.headers is None else size + sum(map(_headers_size, self.headers))

    def cut_to(self, bytes_max: int) -> Chunk | None:
        """Keep as many packets as fit into ``bytes_max``, at least one. Returns the rest, None when all fit."""
        size = 0
        for count, value in enumerate(self.values):
            headers = 0 if self.headers is None else _headers_size(self.headers[count])
            size += len(value) + len(self.keys[count]) + headers + MESSAGE_OVERHEAD_BYTES
            if size > bytes_max and count:
                return self.cut_off(count)
        return None

    def cut_off(self, count: int) -> Chunk:
        """Keep the first ``count`` packets. Returns the rest as a chunk of its own."""
        headers = None if self.headers is None else self.headers[count:]
        rest = Chunk(self.owner, self.values[count:], self.keys[count:], headers, self.indexes[count:], self.other)
        rest.after, rest.opens = self.after, self.opens
        self.values, self.keys, self.indexes = self.values[:count], self.keys[:count], self.indexes[:count]
        self.headers = None if self.headers is None else self.headers[:count]
        self.size = self._size()
        self.owner.on_split()
        if self.opens is not None:
            self.opens.left += 1
        return rest

    def headers_of(self, index: int) -> Headers | None:
        return None if self.headers is None else self.headers[index]

    def logged(self) -> Iterable[PartitionQueue]:
        """Tell the owner; returns the queues that may go on now."""
        self.owner.on_logged(self)
        gate = self.opens
        if gate is None:
            return ()
        gate.left -= 1
        return () if gate.left else gate.waiting


class RingAccount:
    """The records of one ring, in order, until each of their packets is logged."""

    def __init__(self) -> None:
        self.logged = 0
        self._records: deque[RecordProgress] = deque()

    def add(self, record: RecordProgress) -> None:
        self._records.append(record)

    def settle(self) -> None:
        records = self._records
        while records and not records[0].left:
            self.logged = records.popleft().end

    @property
    def empty(self) -> bool:
        return not self._records


class ParkAccount:
    """What was parked of one record, under a number that goes to ``done`` when the log has it all."""

    __slots__ = ("_done", "_number")

    def __init__(self, number: int, done: list[int]) -> None:
        self._number = number
        self._done = done

    def settle(self) -> None:
        self._done.append(self._number)


class RecordProgress:
    """One appended record, or what was parked of it: how many of its chunks are not logged yet."""

    __slots__ = ("account", "appended_at", "end", "left", "ring")

    def __init__(self, ring: str, account: RingAccount | ParkAccount, end: int, appended_at: float = 0.0) -> None:
        self.ring = ring
        self.account = account
        self.end = end
        self.left = 0
        self.appended_at = appended_at

    @property
    def parked(self) -> bool:
        return isinstance(self.account, ParkAccount)

    def on_split(self) -> None:
        self.left += 1

    def on_logged(self, chunk: Chunk) -> None:
        self.left -= 1
        if not self.left:
            self.account.settle()


class PartitionQueue:
    """What one partition still has to get. Invariant: in flight, then waiting, is the order of ``append``.

    Normally chunks go to the bulk client. While ``suspects`` chunks at the head are not through, or the last packet was
    refused (``refusing``), packets go one at a time to a client whose refusals are no failures: ``index`` is the next
    one of the head chunk, ``sent`` says that it is on its way, ``burying`` that it is on its way to the dead letters.
    """

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.waiting: deque[Chunk] = deque()
        self.in_flight: deque[Chunk] = deque()
        self.bytes_in_flight = 0
        self.broken = False  # something in flight failed: what is reported behind it is sent again all the same
        self.suspected = False
        self.suspects = 0
        self.refusing = False
        self.index = 0
        self.sent = False
        self.burying = False
        self.retry_at = 0.0
        self.progress_at = 0.0
        self.passed_at = 0.0  # when the log took something last, or refused it for good

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.in_flight

    def is_blocked(self, before: float) -> bool:
        """Whether something has been here since ``before``, and nothing has passed since then."""
        oldest = self.in_flight or self.waiting
        if not oldest or self.passed_at >= before:
            return False
        owner = oldest[0].owner
        return isinstance(owner, RecordProgress) and owner.appended_at < before

    @property
    def careful(self) -> bool:
        return bool(self.suspects or self.refusing or self.index)

    def put_in_flight(self, chunk: Chunk) -> None:
        """Moves the head of ``waiting``; the caller has just taken it off."""
        if not self.in_flight:
            self.progress_at = time.monotonic()
        self.in_flight.append(chunk)
        self.bytes_in_flight += chunk.size

    def pop_in_flight(self) -> Chunk:
        chunk = self.in_flight.popleft()
        self.bytes_in_flight -= chunk.size
        return chunk

    def restore(self, *, suspect: bool) -> int:
        """Everything in flight waits again, in its order. Returns how many packets that are.

        With ``suspect`` these go one at a time, or the chunk behind them that could not be handed over at all.
        """
        count = sum(len(chunk.values) for chunk in self.in_flight)
        if suspect:
            self.suspects = max(1, len(self.in_flight))
        self.waiting.extendleft(reversed(self.in_flight))
        self.in_flight.clear()
        self.bytes_in_flight = 0
        self.broken = self.suspected = False
        return count

    def pass_one(self, *, refused: bool) -> Chunk | None:
        """The packet at the head is through. Returns its chunk when that was the last of it."""
        self.refusing = refused
        self.passed_at = self.progress_at = time.monotonic()
        self.index += 1
        if self.index < len(self.waiting[0].values):
            return None
        self.index = 0
        self.suspects = max(0, self.suspects - 1)
        return self.waiting.popleft()


Owners = Mapping[str, RecordProgress | None]
"""Whose the packets for some topics are, in place of the record's; None: nobody's, they are left out."""

_RECORDS_OWN: Owners = {}


def cut(
    record: Record,
    progress: RecordProgress | None,
    queue_of: Callable[[Partition], PartitionQueue],
    owners: Owners = _RECORDS_OWN,
) -> list[PartitionQueue]:
    """Cut ``record`` into chunks and queue them. Returns the queues that got one."""
    routes = record.routes
    if len(routes) == 1 and not routes[0].essentials:
        owner = owners.get(routes[0].topic, progress) if owners else progress
        return [_queue_whole(record, routes[0], owner, queue_of)] if record.packets and owner else []
    by_partition: dict[Partition, list[int]] = {}
    by_essentials: dict[Partition, list[int]] = {}
    places = [Partition(route.topic, route.partition) for route in routes]
    copies = [Partition(route.essentials, 0) if route.essentials else None for route in routes]
    for packet, row in enumerate(record.indexes):
        copy = copies[row]
        if copy is not None:
            by_essentials.setdefault(copy, []).append(packet)
        by_partition.setdefault(places[row], []).append(packet)
    gates = {}
    touched = []
    for copy, packets in by_essentials.items():
        if (owner := owners.get(copy.topic, progress)) is None:
            continue
        chunk = _chunk(record, packets, owner, other=_name(places[record.indexes[packets[0]]]))
        chunk.opens = gates[copy] = Gate()
        touched.append(_put(queue_of(copy), chunk, owner))
    for place, packets in by_partition.items():
        if (owner := owners.get(place.topic, progress)) is None:
            continue
        copy = next((copies[record.indexes[packet]] for packet in packets if copies[record.indexes[packet]]), None)
        chunk = _chunk(record, packets, owner, other=_name(copy) if copy else "")
        chunk.after = gates.get(copy) if copy else None
        touched.append(_put(queue_of(place), chunk, owner))
    return touched


def _queue_whole(
    record: Record, route: Route, progress: RecordProgress, queue_of: Callable[[Partition], PartitionQueue]
) -> PartitionQueue:
    count = len(record.packets)
    headers = [_identity_headers(route)] * count if route.identity else None
    chunk = Chunk(progress, record.packets, [route.key] * count, headers, range(count))
    return _put(queue_of(Partition(route.topic, route.partition)), chunk, progress)


def _chunk(record: Record, packets: list[int], progress: RecordProgress, other: str) -> Chunk:
    routes = [record.routes[record.indexes[packet]] for packet in packets]
    headers = [_identity_headers(route) for route in routes] if any(route.identity for route in routes) else None
    values = [record.packets[packet] for packet in packets]
    return Chunk(progress, values, [route.key for route in routes], headers, packets, other)


def _identity_headers(route: Route) -> Headers | None:
    return [(IDENTITY_HEADER, route.identity)] if route.identity else None


def _headers_size(headers: Headers | None) -> int:
    return sum(len(name) + len(value) + 10 for name, value in headers or ())


def _put(queue: PartitionQueue, chunk: Chunk, progress: RecordProgress) -> PartitionQueue:
    queue.waiting.append(chunk)
    progress.left += 1
    return queue


def _name(partition: Partition) -> str:
    return f"{partition.topic}:{partition.number}"
