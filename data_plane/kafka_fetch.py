"""Fetching from Kafka: the live client and the catch-up clients, each with the log thread that blocks in ``poll``.

A log thread turns messages into blocks, puts them into a deque and wakes the agent thread. What it may put before the
agent has taken some is bounded in bytes; librdkafka's own prefetch is bounded by configuration.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition
from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.kafka_config import IDENTITY_HEADER, ClientConfig, made
from trackside.data_plane.kafka_errors import LIBRDKAFKA_LOG, reason_of
from trackside.data_plane.kafka_health import BrokerHealth
from trackside.data_plane.log import Partition, Wake

__all__ = ["Block", "CatchUp", "Fault", "LiveFetch"]

MESSAGES_MAX = 1000
"""Taken from librdkafka at a time, behind the one that ``poll`` returned. (``consume`` alone waits for all of them.)"""

POLL_SECONDS = 0.1
"""Bound of a wait without news, and so of the wait for a partition that is added to the live client."""

LIVE_BYTES_AHEAD = 16 << 20
CATCH_UP_BYTES_AHEAD = 2 << 20
"""What a log thread puts before the agent thread has taken some of it."""


class Block(NamedTuple):
    """All there is in [start, next_offset) of one partition, in the columns of a ``Run``.

    ``token`` is the assignment that it belongs to; ``at_end``: the partition ended at ``next_offset`` just now.
    """

    partition: Partition
    token: int
    start: int
    next_offset: int
    at_end: bool
    offsets: list[int]
    times_ns: list[int]
    key_index: list[int]
    keys: list[tuple[bytes, bytes]]
    values: list[bytes]
    size: int
    undecodable: int


class Fault(NamedTuple):
    """A partition cannot be read on from where it was; its assignment is over."""

    partition: Partition
    token: int
    reason: str


class _Place:
    """Where an assignment stands."""

    __slots__ = ("next_offset", "token")

    def __init__(self, token: int, next_offset: int) -> None:
        self.token = token
        self.next_offset = next_offset


class _Columns:
    """A block being filled."""

    def __init__(self, partition: Partition, place: _Place) -> None:
        self._partition = partition
        self._place = place
        self._start = place.next_offset
        self._at_end = False
        self._offsets: list[int] = []
        self._times_ns: list[int] = []
        self._key_index: list[int] = []
        self._rows: dict[tuple[bytes, bytes], int] = {}
        self._values: list[bytes] = []
        self._undecodable = 0

    def add(self, message: Any) -> None:
        """One message; offsets below the assignment's place have been delivered before."""
        offset = message.offset()
        if offset < self._place.next_offset:
            return
        self._place.next_offset = offset + 1
        self._at_end = False
        value = message.value()
        if value is None or not _decodable(value):
            self._undecodable += 1
            return
        row = message.key() or b"", _identity(message)
        self._offsets.append(offset)
        self._times_ns.append(max(0, message.timestamp()[1]) * 1_000_000)
        self._key_index.append(self._rows.setdefault(row, len(self._rows)))
        self._values.append(value)

    def end(self, offset: int) -> None:
        """The partition ends at ``offset`` for now; what is missing below it is a hole."""
        self._place.next_offset = max(self._place.next_offset, offset)
        self._at_end = True

    def block(self) -> Block:
        return Block(
            self._partition,
            self._place.token,
            self._start,
            self._place.next_offset,
            self._at_end,
            self._offsets,
            self._times_ns,
            self._key_index,
            list(self._rows),
            self._values,
            sum(map(len, self._values)),
            self._undecodable,
        )


_parse = Packet.FromString


def _decodable(value: bytes) -> bool:
    try:
        _parse(value)
    except DecodeError:
        return False
    return True


def _identity(message: Any) -> bytes:
    headers = message.headers()
    if headers:
        for name, value in headers:
            if name == IDENTITY_HEADER and value is not None:
                return bytes(value)
    return b""


def _sort_out(messages: Iterable[Any], places: dict[Partition, _Place]) -> list[Block | Fault]:
    """Blocks and faults of the partitions in ``places``, which move on. A partition at fault is taken out."""
    columns: dict[Partition, _Columns] = {}
    faults: list[Fault] = []
    for message in messages:
        partition = Partition(message.topic(), message.partition())
        place = places.get(partition)
        if place is None:
            continue
        filled = columns.get(partition)
        if filled is None:
            filled = columns[partition] = _Columns(partition, place)
        error = message.error()
        if error is None:
            filled.add(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            filled.end(message.offset())
        else:
            del places[partition]
            faults.append(Fault(partition, place.token, reason_of(error)))
    return [*(filled.block() for filled in columns.values()), *faults]


class _Fetch:
    """A consuming client and its log thread. Subclasses say what is read and when to end."""

    def __init__(self, config: ClientConfig, name: str, bytes_ahead: int, health: BrokerHealth, wake: Wake) -> None:
        self._config = config | {"error_cb": health.on_error, "logger": LIBRDKAFKA_LOG}
        self._bytes_ahead = bytes_ahead
        self._wake = wake
        self._found: deque[Block | Fault] = deque()
        self._bytes_put = 0  # written by the log thread only
        self._bytes_taken = 0  # written by the agent thread only
        self._room = threading.Event()
        self._places: dict[Partition, _Place] = {}  # log thread only
        self.stopping = False
        self.failure = ""
        self._thread = threading.Thread(target=self._main, name=f"log-{name}", daemon=True)

    def take(self) -> Block | Fault | None:
        """Agent thread: the next find. A block counts as ahead until :meth:`give_room`."""
        return self._found.popleft() if self._found else None

    def give_room(self, size: int) -> None:
        self._bytes_taken += size
        if not self._room.is_set():
            self._room.set()

    @property
    def bytes_ahead(self) -> int:
        return self._bytes_put - self._bytes_taken

    def stop(self) -> None:
        """The log thread ends by itself; nothing that it still finds is wanted."""
        self.stopping = True
        self._room.set()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    # -- the log thread -----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._run()
        except:  # noqa: E722 - some versions of confluent-kafka raise a KafkaError, which is no exception class
            self.failure = reason_of(sys.exc_info()[1])
            self._put([Fault(partition, place.token, self.failure) for partition, place in self._places.items()])
            self._wake()

    def _run(self) -> None:
        raise NotImplementedError

    def _poll(self, consumer: Any) -> None:
        """Wait for a message, then take what else has come: ``consume`` with a time-out would wait for all of it."""
        first = consumer.poll(POLL_SECONDS)
        if first is not None:
            self._put(_sort_out([first, *consumer.consume(MESSAGES_MAX, 0)], self._places))

    def _put(self, found: list[Block | Fault]) -> None:
        if found and not self.stopping:
            self._bytes_put += sum(one.size for one in found if isinstance(one, Block))
            self._found.extend(found)
            self._wake()

    def _wait_for_room(self) -> None:
        while self.bytes_ahead > self._bytes_ahead and not self.stopping:
            self._room.clear()
            if self.bytes_ahead > self._bytes_ahead and not self.stopping:
                self._room.wait(POLL_SECONDS)


class LiveFetch(_Fetch):
    """The one client that follows every partition that somebody reads at its end.

    The log thread alone calls it: a consumer lets one thread in at a time, and only between two polls can no message
    of an older assignment be taken for one of the new. A topic that the client has not met is met after a second (a
    timer of librdkafka). ``list_topics`` would introduce them sooner, but it holds up all others behind the fetch that
    waits at the broker; a catch-up serves the new one meanwhile.
    """

    def __init__(self, config: ClientConfig, health: BrokerHealth, wake: Wake) -> None:
        super().__init__(config, "live", LIVE_BYTES_AHEAD, health, wake)
        self._consumer: Any = made(Consumer, self._config)
        self._orders: deque[tuple[Partition, _Place | None]] = deque()
        self._assigned: set[Partition] = set()  # those at fault, too, which have lost their place
        self._thread.start()

    def assign(self, partition: Partition, offset: int, token: int) -> None:
        """Agent thread: follow ``partition`` from ``offset`` on."""
        self._orders.append((partition, _Place(token, offset)))

    def unassign(self, partition: Partition) -> None:
        """Agent thread. In the order of calls; a partition that is not assigned is no error."""
        self._orders.append((partition, None))

    def _run(self) -> None:
        consumer = self._consumer
        while not self.stopping:
            self._obey(consumer)
            self._poll(consumer)
            self._wait_for_room()
        consumer.close()

    def _obey(self, consumer: Any) -> None:
        while self._orders:
            partition, place = self._orders.popleft()
            if partition in self._assigned:
                self._places.pop(partition, None)
                self._assigned.remove(partition)
                consumer.incremental_unassign([TopicPartition(*partition)])
            if place is not None:
                self._places[partition] = place
                self._assigned.add(partition)
                consumer.incremental_assign([TopicPartition(*partition, place.next_offset)])


class CatchUp(_Fetch):
    """One partition from somewhere in its past, by a client of its own.

    A new client serves its first message after 6 ms; one that is used again waits for the fetch that it has out. It
    goes on at the end until it is stopped, so that nothing is missed while the live client takes over.
    """

    def __init__(
        self, config: ClientConfig, partition: Partition, offset: int, token: int, health: BrokerHealth, wake: Wake
    ) -> None:
        super().__init__(config, "catch-up", CATCH_UP_BYTES_AHEAD, health, wake)
        self.partition = partition
        self._started = self._stalled_at = time.monotonic()
        self._place = _Place(token, offset)
        self._places[partition] = self._place
        self._thread.start()

    def is_over(self, now: float, bytes_max: int, seconds_max: float, stalled_seconds: float) -> bool:
        """Whether its slice has been used, or nobody takes what it finds."""
        if self.bytes_ahead < self._bytes_ahead:
            self._stalled_at = now
        stalled = now - self._stalled_at > stalled_seconds
        return stalled or self._bytes_put >= bytes_max or now - self._started > seconds_max

    def _run(self) -> None:
        consumer: Any = Consumer(self._config)
        consumer.assign([TopicPartition(*self.partition, self._place.next_offset)])
        while not self.stopping and self._places:
            self._poll(consumer)
            self._wait_for_room()
        consumer.close()
