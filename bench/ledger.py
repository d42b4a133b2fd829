"""The proof of the demo: which numbered packets were seen, how often, and one hash over all of them.

Writer and reader keep a ledger each. The hash runs over the packets in the order of their numbers, so it is the same on
both sides exactly when both saw packets 1 to n with the same contents, in whatever order they came and came again.
"""

from __future__ import annotations

import hashlib
import math

from ma.streaming.open_data.v1 import open_data_pb2 as pb

__all__ = ["Latencies", "Ledger"]

REMEMBERED = 1 << 16
"""How far back the content of a repeated packet can be compared with the first; older repeats are counted only."""


class Ledger:
    """Counts by number. ``changed`` are repeats with another content: packets that somebody damaged."""

    def __init__(self) -> None:
        self.distinct = 0
        self.duplicates = 0
        self.changed = 0
        self.bytes = 0
        self._next = 1
        self._digests: dict[int, bytes] = {}
        self._chain = hashlib.blake2b(digest_size=16)

    def note(self, packet: pb.Packet) -> None:
        """Take a packet with a number above 0."""
        digest = _digest(packet)
        if packet.id >= self._next and packet.id not in self._digests:
            self._digests[packet.id] = digest
            self.distinct += 1
            self.bytes += len(packet.content)
            self._advance()
        else:
            self.duplicates += 1
            self.changed += self._digests.get(packet.id, digest) != digest

    @property
    def first_missing(self) -> int:
        """The first number that was not seen; 1 more than all of them when there is no hole."""
        return self._next

    def hash(self) -> str:
        """Over packets 1 to ``first_missing`` - 1."""
        return self._chain.hexdigest()

    def _advance(self) -> None:
        while (digest := self._digests.get(self._next)) is not None:
            self._chain.update(digest)
            self._digests.pop(self._next - REMEMBERED, None)
            self._next += 1


def _digest(packet: pb.Packet) -> bytes:
    head = f"{packet.id}\0{packet.type}\0{packet.session_key}\0{packet.is_essential}\0"
    return hashlib.blake2b(head.encode() + packet.content, digest_size=16).digest()


class Latencies:
    """A histogram of durations whose buckets grow by 1 per cent from 1 us on: percentiles are that exact."""

    GROWTH = math.log(1.01)

    def __init__(self) -> None:
        self.count = 0
        self.max_ns = 0
        self._buckets: dict[int, int] = {}

    def record(self, duration_ns: int) -> None:
        """Below 1 us, also negative (clocks of two cores), counts as 1 us."""
        bucket = math.ceil(math.log(max(duration_ns, 1_000) / 1_000) / self.GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.max_ns = max(self.max_ns, duration_ns)

    def percentile_ms(self, percent: float) -> float | None:
        """The duration that ``percent`` of all did not exceed, in milliseconds; None when there is none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return math.exp(bucket * self.GROWTH) / 1_000
        return None

    def summary(self) -> dict[str, float | int | None]:
        return {
            "count": self.count,
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "max_ms": self.max_ns / 1e6 if self.count else None,
        }
