"""Which offset on Kafka an offset of the local log has become, as far as it is remembered."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["PIECES_MAX", "OffsetMap"]

PIECES_MAX = 4096
"""Pieces that are remembered; on Kafka each transaction begins another one. What is older is looked up there."""


class OffsetMap:
    """Of one partition, in pieces within which both offsets grow by one.

    Everything below ``base`` in the local log stands on Kafka below ``kafka_base``, everything else at or above it.
    """

    def __init__(self, base: int, kafka_base: int) -> None:
        self.base = base
        self.kafka_base = kafka_base
        self._firsts: list[int] = []  # the first local offset of each piece
        self._pieces: list[tuple[int, int]] = []  # its first offset on Kafka, how many there are

    def add(self, offsets: Sequence[int], kafka_offsets: Sequence[int]) -> None:
        """Packets that Kafka has taken, in order and behind all before."""
        assert len(offsets) == len(kafka_offsets)
        breaks = [
            index
            for index, ((one, next_one), (there, next_there)) in enumerate(
                zip(pairwise(offsets), pairwise(kafka_offsets), strict=True), start=1
            )
            if next_one != one + 1 or next_there != there + 1
        ]
        for start, stop in pairwise([0, *breaks, len(offsets)]):
            self._firsts.append(offsets[start])
            self._pieces.append((kafka_offsets[start], stop - start))
        if len(self._firsts) > PIECES_MAX:
            self._forget(len(self._firsts) - PIECES_MAX)

    def _forget(self, count: int) -> None:
        kafka_first, length = self._pieces[count - 1]
        self.base, self.kafka_base = self._firsts[count - 1] + length, kafka_first + length
        del self._firsts[:count], self._pieces[:count]

    def on_kafka(self, offset: int) -> int | None:
        """Where to read on Kafka to get what the local log has from ``offset`` on: behind the last packet before it.

        None when that is older than what is remembered.
        """
        if offset < self.base:
            return None
        piece = bisect_left(self._firsts, offset) - 1
        if piece < 0:
            return self.kafka_base
        kafka_first, length = self._pieces[piece]
        return kafka_first + min(offset - self._firsts[piece], length)
