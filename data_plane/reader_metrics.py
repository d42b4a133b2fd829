"""What is counted by connection: what its reads got of the log, and what of it they sent.

Rows of a connection are given back when it is closed and its last read here has ended, so that connections that come and
go do not fill the table, nor whoever stores what was scraped. Without ``per_connection`` all connections are one, whose
labels ``connection`` and ``session_key`` are empty.
"""

from __future__ import annotations

from collections.abc import Callable

from trackside.data_plane import metrics
from trackside.data_plane.frame import FrameTally
from trackside.data_plane.stream_metrics import LabelledCounters
from trackside.shm.counters import CounterTable

__all__ = ["READER_ROWS_MAX", "SESSIONS_MAX", "EssentialsTally", "ReaderMetrics", "StreamTally"]

READER_ROWS_MAX = 1000
"""Rows of each of these metrics: what comes when they are used up is counted in the row ``other``."""

SESSIONS_MAX = 16
"""Session keys of one stream and read whose counters are remembered; a stream of many sessions asks again."""

KEY_CHARACTERS_MAX = 64
"""A longer session key is cut in its label; a GUID has 36."""


class StreamTally:
    """Counts one stream of one read (``reading.Tally``)."""

    def __init__(self, metrics_of: ReaderMetrics, connection: str, data_source: str, stream: str) -> None:
        self._metrics = metrics_of
        self._labels = connection, data_source, stream
        self._read = metrics_of.read.of(*self._labels)
        self._delivered = metrics_of.delivered.of(*self._labels)
        self._by_key: dict[bytes, tuple[Callable[[int], None], Callable[[int], None]]] = {}

    def on_read(self, tally: FrameTally) -> None:
        self._read.add(tally.read)
        for key, packets, size in tally.by_key:
            add_packets, add_bytes = self._by_key.get(key) or self._find(key)
            add_packets(packets)
            add_bytes(size)

    def on_sent(self, packets: int) -> None:
        self._delivered.add(packets)

    def _find(self, key: bytes) -> tuple[Callable[[int], None], Callable[[int], None]]:
        labels = (*self._labels, self._metrics.session_label(key))
        if len(self._by_key) >= SESSIONS_MAX:
            self._by_key.clear()
        found = self._metrics.received.of(*labels).add, self._metrics.received_bytes.of(*labels).add
        self._by_key[key] = found
        return found


class EssentialsTally:
    """Counts one ReadEssentials (``reading.Tally``)."""

    def __init__(self, metrics_of: ReaderMetrics, connection: str, data_source: str) -> None:
        self._read = metrics_of.essentials_read.of(connection, data_source)
        self._delivered = metrics_of.essentials_delivered.of(connection, data_source)

    def on_read(self, tally: FrameTally) -> None:
        self._read.add(tally.read)

    def on_sent(self, packets: int) -> None:
        self._delivered.add(packets)


class ReaderMetrics:
    """One a gateway. Tallies of a connection must not be used after it was forgotten: their rows become others'."""

    def __init__(self, table: CounterTable, per_connection: bool) -> None:
        self._per_connection = per_connection
        self.received = LabelledCounters(table, metrics.RECEIVED, READER_ROWS_MAX)
        self.received_bytes = LabelledCounters(table, metrics.RECEIVED_BYTES, READER_ROWS_MAX)
        self.read = LabelledCounters(table, metrics.READ, READER_ROWS_MAX)
        self.delivered = LabelledCounters(table, metrics.DELIVERED, READER_ROWS_MAX)
        self.essentials_read = LabelledCounters(table, metrics.ESSENTIALS_READ, READER_ROWS_MAX)
        self.essentials_delivered = LabelledCounters(table, metrics.ESSENTIALS_DELIVERED, READER_ROWS_MAX)

    def stream(self, connection: int, data_source: str, stream: str) -> StreamTally:
        return StreamTally(self, self._label(connection), data_source, stream)

    def essentials(self, connection: int, data_source: str) -> EssentialsTally:
        return EssentialsTally(self, self._label(connection), data_source)

    def forget(self, connection: int) -> None:
        """It was closed and nothing of it is read here any more."""
        if self._per_connection:
            for counters in self._all():
                counters.release(str(connection))

    def connections(self) -> set[int]:
        """Those that have rows, by a predecessor of this process or by itself."""
        labels = set().union(*(counters.firsts() for counters in self._all()))
        return {int(label) for label in labels if label.isdecimal()}

    def session_label(self, key: bytes) -> str:
        return key.decode(errors="replace")[:KEY_CHARACTERS_MAX] if self._per_connection else ""

    def _label(self, connection: int) -> str:
        return str(connection) if self._per_connection else ""

    def _all(self) -> tuple[LabelledCounters, ...]:
        return (
            self.received,
            self.received_bytes,
            self.read,
            self.delivered,
            self.essentials_read,
            self.essentials_delivered,
        )
