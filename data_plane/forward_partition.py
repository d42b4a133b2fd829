"""One partition on its way to Kafka, as the forwarder knows it."""

from __future__ import annotations

from collections.abc import Sequence

from trackside.data_plane.dead_letters import DeadLetter, now_text
from trackside.data_plane.forward_link import Parcel
from trackside.data_plane.forward_place import PLACE_HEADER, Forwarded, encode_place
from trackside.data_plane.kafka_config import IDENTITY_HEADER
from trackside.data_plane.log import Cursor, LogReader, Partition, Run
from trackside.data_plane.offset_map import OffsetMap

__all__ = ["Load", "PartitionWay"]


HOLD_SECONDS, HOLD_SECONDS_MAX = 10.0, 300.0


class PartitionWay:
    """``next_offset`` is the next that Kafka has to get; the cursor is further while a transaction is under way.

    ``placed`` while it is known what Kafka has; ``reason`` says why nothing goes although the link is there.
    ``packets_max`` narrows what is sent at a time, while Kafka refuses something.
    """

    def __init__(self, partition: Partition, next_offset: int) -> None:
        self.partition = partition
        self.next_offset = next_offset
        self.placed = False
        self.topic_id = b""
        self.kafka_earliest = 0
        self.map = OffsetMap(next_offset, 0)
        self.packets_max = 0
        self.retry_at = 0.0  # CLOCK_MONOTONIC; 0: it is not held
        self.reason = ""
        self.sent_to = 0  # behind the last that Kafka may have of it from this process and those before
        self._hold_seconds = HOLD_SECONDS
        self._cursor: Cursor | None = None

    def place(self, topic_id: bytes, kafka_earliest: int, next_offset: int, kafka_next: int) -> None:
        """What is known now: everything below ``next_offset`` stands on Kafka below ``kafka_next``."""
        self.placed, self.topic_id, self.kafka_earliest = True, topic_id, kafka_earliest
        self.next_offset = next_offset
        self.sent_to = max(self.sent_to, next_offset)
        self.map = OffsetMap(next_offset, kafka_next)
        self.rewind()

    def hold(self, reason: str, now: float) -> None:
        """Nothing of it is sent for a while, each time a longer one."""
        self.reason, self.retry_at = reason, now + self._hold_seconds
        self._hold_seconds = min(2 * self._hold_seconds, HOLD_SECONDS_MAX)

    def release(self) -> None:
        self.reason, self.retry_at, self._hold_seconds = "", 0.0, HOLD_SECONDS

    def rewind(self) -> None:
        """Nothing of what was read since the last ``advance`` was sent."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def advance(self, load: Load, kafka_offsets: Sequence[int]) -> None:
        """Kafka has ``load``."""
        self.map.add(load.offsets, kafka_offsets)
        self.next_offset = self.sent_to = load.next_offset

    def forwarded(self) -> Forwarded:
        return Forwarded(self.topic_id, self.next_offset, self.map.on_kafka(self.next_offset) or 0)

    def read(self, log: LogReader, bytes_max: int) -> Run | None:
        """What comes next, if anything is there. An empty run is a hole, over which the cursor has gone."""
        if self._cursor is not None and self._cursor.next_offset != self.next_offset:
            self.rewind()  # what it has read was not sent, or not all
        if self._cursor is None:
            self._cursor = log.open(self.partition, self.next_offset)
        return self._cursor.read(bytes_max)


class Load:
    """Packets of one way that go in one transaction: rows [start, stop) of a run. ``next_offset`` is behind them."""

    def __init__(self, way: PartitionWay, run: Run, start: int, stop: int) -> None:
        self.way = way
        self.offsets = run.offsets[start:stop]
        self.values: Sequence[bytes] = run.values[start:stop]
        self.next_offset = run.next_offset if stop == len(run.offsets) else run.offsets[stop]
        self._run = run
        self._start = start

    def first(self, count: int, values: Sequence[bytes]) -> Load:
        """The first ``count`` of them, with ``values`` in place of the packets' own bytes."""
        load = Load(self.way, self._run, self._start, self._start + count)
        load.values = values
        return load

    @property
    def _keys(self) -> list[tuple[bytes, bytes]]:
        run = self._run
        return [run.keys[row] for row in run.key_index[self._start : self._start + len(self)]]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size(self) -> int:
        return sum(map(len, self.values))

    def parcel(self, now_ms: int) -> Parcel:
        """As it goes to Kafka. No packet's time is ahead of ``now_ms``: a broker would refuse it."""
        run, keys = self._run, self._keys
        places = [(PLACE_HEADER, encode_place(run.identity, offset)) for offset in self.offsets]
        headers = [
            [place, (IDENTITY_HEADER, identity)] if identity else [place]
            for place, (_, identity) in zip(places, keys, strict=True)
        ]
        times_ns = run.times_ns[self._start : self._start + len(self)]
        times_ms = [min(time_ns // 1_000_000, now_ms) for time_ns in times_ns]
        return Parcel(self.way.partition, [key for key, _ in keys], self.values, times_ms, headers)

    def letter(self, row: int, reason: str) -> DeadLetter:
        """One of them as a dead letter; where it stands in the local log takes the place of a ring."""
        key, identity = self._keys[row]
        return DeadLetter(
            time=now_text(),
            topic=self.way.partition.topic,
            partition=self.way.partition.number,
            reason=reason,
            key=key,
            value=self.values[row],
            identity=identity,
            ring="local log",
            end=self.offsets[row],
        )
