"""One order out of several rings: a producer's (or the recovery's) merge by publish time.

Promise 3 says that a packet sent after another was accepted stands after it, whichever gateways were used. Each record
is stamped (CLOCK_MONOTONIC, one clock for the machine) after the wait for room and right before the cursor store. So:

1. read all publish positions, then read them again;
2. take everything below the second reading, in order of its stamp, that is stamped no later than the newest record
   below the *first* reading.

A record A that was accepted before B was sent was published before B was stamped. When B lies below the first
reading, A lies below the second one; when B does not, B is taken only if its stamp is not later than that of a record
which does, and A, stamped earlier than B, was published before that record was seen, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import merge as merge_sorted
from itertools import takewhile
from typing import Protocol

from trackside.shm.ring import RingRecord

__all__ = ["Merge", "Mergeable"]


class Mergeable(Protocol):
    """A ring as the merge reads it (``shm.ring.RingReader``)."""

    def publish_position(self) -> int: ...

    def poll(self, until: int | None = None) -> list[RingRecord]: ...


class Merge:
    """Takes records from several rings in the order of their stamps. What is taken but not due waits in ``_ahead``."""

    def __init__(self, rings: Sequence[Mergeable]) -> None:
        self._rings = rings
        self._ahead: list[deque[RingRecord]] = [deque() for _ in rings]

    def take(self) -> list[tuple[int, RingRecord]]:
        """(index of the ring, record) of everything that is due, in order; [] when there is nothing."""
        first = [ring.publish_position() for ring in self._rings]
        second = [ring.publish_position() for ring in self._rings]
        for ring, ahead, position in zip(self._rings, self._ahead, second, strict=True):
            ahead.extend(ring.poll(position))
        newest = max(
            (
                record.stamp_ns
                for ahead, position in zip(self._ahead, first, strict=True)
                for record in ahead
                if record.end <= position
            ),
            default=None,
        )
        if newest is None:
            return []
        return self._take_until(newest)

    def _take_until(self, newest: int) -> list[tuple[int, RingRecord]]:
        due: list[list[tuple[int, RingRecord]]] = []
        for index, ahead in enumerate(self._ahead):
            run = [(index, record) for record in takewhile(lambda record: record.stamp_ns <= newest, ahead)]
            for _ in run:
                ahead.popleft()
            due.append(run)
        return list(merge_sorted(*due, key=lambda pair: pair[1].stamp_ns))

    @property
    def waiting(self) -> int:
        """Records that were taken out of a ring and are not due yet."""
        return sum(map(len, self._ahead))
