"""A cursor on Kafka: what has been fetched for it and not been read, and from where it gets more."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

from trackside.data_plane.kafka_fetch import Block
from trackside.data_plane.log import END, Partition, Run

if TYPE_CHECKING:
    from trackside.data_plane.kafka_reader import KafkaLogReader, LivePartition

__all__ = ["BUFFER_BYTES", "KafkaCursor"]

BUFFER_BYTES = 2 << 20
"""What a cursor holds unread. One that is slower than its partition leaves the live feed, and catches up later."""


class KafkaCursor:
    """A :class:`~trackside.data_plane.log.Cursor`. Agent thread only.

    Invariant: the buffer is everything there is in [next_offset, fed), without a gap. ``held`` are live blocks beyond
    a gap that a catch-up is filling. ``identity`` is the log that ``fed`` counts in, empty while that is not known.
    """

    def __init__(self, reader: KafkaLogReader, partition: Partition, offset: int) -> None:
        self.partition = partition
        self.next_offset = offset
        self.fed = offset
        self.known_end = END
        self.identity = b""
        self.buffered = 0
        self.live: LivePartition | None = None
        self.closed = False
        self._reader = reader
        self._buffer: deque[tuple[bytes, Block]] = deque()
        self._held: deque[Block] = deque()
        self._held_bytes = 0

    # -- Cursor -------------------------------------------------------------------------------------------------------

    @property
    def at_end(self) -> bool:
        return self.known_end != END and not self._buffer and self.next_offset >= self.known_end

    def read(self, bytes_max: int) -> Run | None:
        if not self._buffer:
            return None
        identity, block = self._buffer.popleft()
        self.buffered -= block.size
        if block.size > bytes_max and len(block.values) > 1:
            block, rest = _divide(block, bytes_max)
            if rest is not None:
                self._buffer.appendleft((identity, rest))
                self.buffered += rest.size
        self.next_offset = block.next_offset
        if self._buffer and self._buffer[0][1].start != self.next_offset:
            self.next_offset = self._buffer[0][1].start  # the next one is another log's
        self._reader.on_read(self)
        return Run(
            self.partition,
            identity,
            block.start,
            block.next_offset,
            block.offsets,
            block.times_ns,
            block.key_index,
            block.keys,
            block.values,
        )

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._reader.on_close(self)

    # -- fed by the reader --------------------------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        return bool(self._buffer)

    @property
    def wants_more(self) -> bool:
        """Room enough that a catch-up is worth its client."""
        return self.buffered <= BUFFER_BYTES // 2

    @property
    def full(self) -> bool:
        return self.buffered >= BUFFER_BYTES

    @property
    def cold(self) -> bool:
        """It has all there is, but the live client has yet to deliver its partition for the first time."""
        return self.live is not None and not self.live.active and self.fed >= self.live.next_offset

    @property
    def placed(self) -> bool:
        """Its log is known. (It may have gone since.)"""
        return bool(self.identity)

    def wait_for_partition(self) -> None:
        """The partition does not exist. It will start at offset 0; where the end is, is known."""
        if self.fed == END:
            self.fed = self.next_offset = 0
        if not self.placed:
            self.known_end = 0

    def start_at(self, identity: bytes, offset: int, end: int) -> None:
        """Everything below ``offset`` that is not fed yet does not exist. Another ``identity``: offsets start anew."""
        self.known_end = end
        if self.identity != identity:
            if self.identity or self.fed == END:
                self._restart(offset)
            self.identity = identity
        if self.fed < offset:
            self.offer(_nothing(self.partition, self.fed, offset))

    def _restart(self, offset: int) -> None:
        self.drop_held()
        self.fed = offset
        if not self._buffer:
            self.next_offset = offset

    def offer(self, block: Block) -> None:
        """Take what is new of ``block``; hold it while something is missing before it."""
        if block.next_offset <= self.fed:
            self.known_end = max(self.known_end, block.next_offset)
            return
        if block.start > self.fed:
            self._held.append(block)
            self._held_bytes += block.size
            return
        new = _from(block, self.fed) if block.start < self.fed else block
        self._buffer.append((self.identity, new))
        self.buffered += new.size
        self.fed = new.next_offset
        self.known_end = max(self.known_end, self.fed)
        self._take_held()

    def _take_held(self) -> None:
        while self._held and self._held[0].start <= self.fed:
            block = self._held.popleft()
            self._held_bytes -= block.size
            self.offer(block)

    @property
    def too_slow(self) -> bool:
        return self.buffered + self._held_bytes > BUFFER_BYTES

    def drop_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    def drop_buffer(self) -> None:
        """Forget what is fetched and not read; it will be fetched again."""
        if self._buffer and self._buffer[0][0] == self.identity:
            self.fed = self._buffer[0][1].start
            self._buffer.clear()
            self.buffered = 0


def _nothing(partition: Partition, start: int, next_offset: int) -> Block:
    return Block(partition, 0, start, next_offset, False, [], [], [], [], [], 0, 0)


def _from(block: Block, offset: int) -> Block:
    """The part of ``block`` from ``offset`` on."""
    return _slice(block, bisect_left(block.offsets, offset), len(block.offsets), offset, block.next_offset)


def _divide(block: Block, bytes_max: int) -> tuple[Block, Block | None]:
    """As many entries as fit, at least one; the second part begins with the offset behind the last of the first."""
    ends = list(accumulate(map(len, block.values)))
    count = max(1, bisect_left(ends, bytes_max + 1))
    if count == len(ends):
        return block, None
    middle = block.offsets[count - 1] + 1
    first = _slice(block, 0, count, block.start, middle)
    return first, _slice(block, count, len(ends), middle, block.next_offset)


def _slice(block: Block, first: int, last: int, start: int, next_offset: int) -> Block:
    values = block.values[first:last]
    return block._replace(
        start=start,
        next_offset=next_offset,
        offsets=block.offsets[first:last],
        times_ns=block.times_ns[first:last],
        key_index=block.key_index[first:last],
        values=values,
        size=sum(map(len, values)),
    )
