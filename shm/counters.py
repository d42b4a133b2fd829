"""Counters of one process in shared memory: they survive it, and anybody can read them while it lives or is dead.

The process that owns the table allocates rows; nobody else writes. A *metric* (name, kind, labels, a sentence of help) has
one entry in the metric directory, each set of label values one row: an entry in the row directory and a cell. A row whose
labels will not come again is released, and another takes its place.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trackside.shm.fence import publish_fence
from trackside.shm.layout import (
    ENTRY_TEXT_OFFSET,
    LABELS_BYTES_MAX,
    METRIC_ENTRY_BYTES,
    METRIC_ROWS,
    METRIC_TEXT_BYTES_MAX,
    METRICS_OFFSET,
    ROW_ENTRY_BYTES,
    ROW_GENERATION,
    ROW_METRIC_MASK,
    ROW_RELEASED,
    ROWS_OFFSET,
    CountersLayout,
    SegmentKind,
    StaticPage,
)
from trackside.shm.segment import LayoutMismatch, Segment, round_to_pages

__all__ = [
    "BUCKET",
    "OTHER",
    "REFUSED",
    "SUM",
    "Counter",
    "CounterTable",
    "Histogram",
    "Metric",
    "create_counters",
    "read_counters",
    "read_metrics",
]

_U64 = 0xFFFFFFFFFFFFFFFF


class Metric(NamedTuple):
    """One line of a metrics table: what is counted, whether it only grows, by which labels, and why one would look."""

    name: str
    kind: str  # "counter", "gauge" or "histogram"
    labels: tuple[str, ...]
    help: str


BUCKET, SUM = "le", "sum"
"""A histogram's rows have this label beside those of the metric: the largest value that the bucket takes, "+Inf", or
"sum" for the row with the sum of all values. A bucket's cell counts what fell into it alone, not into smaller ones."""

OTHER = Metric(
    "counters_other", "counter", (), "Sum of what was counted for label sets that found no row of their own."
)
REFUSED = Metric("counters_refused", "counter", (), "How often a counter was asked for and the table was full.")


class Counter:
    """One cell. Of one thread: two that add at the same time would lose one."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: memoryview, index: int) -> None:
        self._cells = cells
        self._index = index

    def add(self, n: int = 1) -> None:
        self._cells[self._index] += n

    def set(self, n: int) -> None:
        """Stores ``n``; a negative one becomes 0."""
        self._cells[self._index] = max(0, n)

    @property
    def value(self) -> int:
        return int(self._cells[self._index])


class Histogram:
    """How often values fell into which bucket, and their sum. Of one thread, as :class:`Counter`."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, bounds: Sequence[int], buckets: Sequence[Counter], sum: Counter) -> None:
        self._bounds = bounds
        self._buckets = buckets
        self._sum = sum

    def observe(self, value: int) -> None:
        """A negative value counts as 0."""
        value = max(0, value)
        self._buckets[bisect_left(self._bounds, value)].add()
        self._sum.add(value)


def _nowhere() -> Counter:
    """A cell that nobody can see."""
    return Counter(memoryview(bytearray(8)).cast("Q"), 0)


def create_counters(path: str | os.PathLike[str], name: str = "", *, rows: int = 512) -> None:
    """Makes an empty table for the process ``name``; the supervisor calls it. Raises SegmentExists, NoSpace."""
    size = round_to_pages(CountersLayout(rows).segment_bytes)
    Segment.make(path, StaticPage(SegmentKind.COUNTERS, size, extent=rows, options=0, name=name))


class CounterTable:
    """The owner's end. A successor that opens the same path goes on with the same cells."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises SegmentMissing, LayoutMismatch."""
        self._directory = _Directory(Segment.attach(path))
        self._metrics = {metric.name: index for index, metric in self._directory.metrics()}
        self._rows = {(name, labels): row for row, _, name, labels in self._directory.rows()}
        self._rows_used = self._directory.rows_used()
        self._released = self._directory.released()
        self._metrics_used = self._directory.metrics_used()
        self._refused = self._other = _nowhere()  # for the next two lines, in a table that is full
        self._refused = self.counter(REFUSED)
        self._other = self.counter(OTHER)

    def counter(self, metric: Metric, /, **labels: str | int) -> Counter:
        """The counter of these label values, found or made. Keep it: this call costs microseconds.

        When there is no room for another row: a counter adds to ``counters_other``, a gauge goes nowhere, and
        ``counters_refused`` counts. Raises ValueError when the labels are not those of the metric.
        """
        found = self.try_counter(metric, **labels)
        return self._overflow(metric) if found is None else found

    def try_counter(self, metric: Metric, /, **labels: str | int) -> Counter | None:
        """As :meth:`counter`, but None where there is no room for another row; ``counters_refused`` counts that."""
        text = _labels_text(metric, labels)
        row = self._rows.get((metric.name, text))
        if row is None:
            row = self._allocate(metric, text)
        if row is None:
            self._refused.add()
            return None
        return Counter(self._directory.cells, self._directory.cell_index(row))

    def histogram(self, metric: Metric, bounds: Sequence[int], /, **labels: str | int) -> Histogram:
        """The histogram of these label values, found or made: one row a bound (ascending), "+Inf" and the sum."""
        metric = metric._replace(labels=(*metric.labels, BUCKET))
        edges: tuple[str | int, ...] = (*bounds, "+Inf", SUM)
        *buckets, sum = [self.counter(metric, **labels, le=edge) for edge in edges]
        return Histogram(bounds, buckets, sum)

    def release(self, metric: Metric, /, **labels: str | int) -> None:
        """Give a row back. Its Counter must not be used any more: the cell may become another's. None: no such row."""
        row = self._rows.pop((metric.name, _labels_text(metric, labels)), None)
        if row is not None:
            self._directory.release_row(row)
            self._released.append(row)

    def labels_of(self, metric: Metric) -> list[dict[str, str]]:
        """The label values of its rows, those of predecessors among them."""
        found = [_parse_labels(labels) for name, labels in self._rows if name == metric.name]
        return [labels for labels in found if labels is not None]

    def close(self) -> None:
        self._directory.close()

    def _allocate(self, metric: Metric, labels: str) -> int | None:
        index = self._metric_index(metric)
        full = not self._released and self._rows_used >= self._directory.layout.rows
        if index is None or full or len(labels.encode()) > LABELS_BYTES_MAX:
            return None
        if self._released:
            row = self._released.pop()
        else:
            row, self._rows_used = self._rows_used, self._rows_used + 1
        self._directory.write_row(row, index, labels)
        self._rows[metric.name, labels] = row
        return row

    def _metric_index(self, metric: Metric) -> int | None:
        index = self._metrics.get(metric.name)
        if index is None and self._metrics_used < METRIC_ROWS and _metric_text(metric) is not None:
            index = self._metrics[metric.name] = self._metrics_used
            self._directory.write_metric(index, metric)
            self._metrics_used += 1
        return index

    def _overflow(self, metric: Metric) -> Counter:
        return self._other if metric.kind == "counter" else _nowhere()


def read_counters(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, str], int]]:
    """(metric name, labels, value) of every row, from outside, owner dead or alive. Raises SegmentMissing, LayoutMismatch.

    Entries that make no sense are left out, and rows that became another's while they were read.
    """
    directory = _Directory(Segment.attach(path, writable=False))
    try:
        found = []
        for row, state, name, text in directory.rows():
            labels = _parse_labels(text)
            value = int(directory.cells[directory.cell_index(row)])
            if labels is not None and directory.row_state(row) == state:
                found.append((name, labels, value))
        return found
    finally:
        directory.close()


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Metric]:
    """The metrics of a table by name, for who shows kind and help. Raises SegmentMissing, LayoutMismatch."""
    directory = _Directory(Segment.attach(path, writable=False))
    try:
        return {metric.name: metric for _, metric in directory.metrics()}
    finally:
        directory.close()


class _Directory:
    """The two directories of a table. An entry: u64 state, u64 length of the text, text.

    A state of 0 is free, and so is everything behind it. In the metric directory every other is 1; in the row
    directory it is 1 + the index of the metric, or ROW_RELEASED, and above that how often the row was given anew: who
    finds the same state before and after it read the rest has read one row.
    """

    def __init__(self, segment: Segment) -> None:
        rows = segment.check(SegmentKind.COUNTERS).extent
        self.layout = CountersLayout(rows)
        if segment.size < self.layout.segment_bytes:
            raise LayoutMismatch(f"{segment.path}: {rows} rows do not fit into {segment.size} bytes")
        self.cells = segment.cells
        self.close = segment.close
        self._memory = segment.memory

    def cell_index(self, row: int) -> int:
        return (self.layout.cells_offset >> 3) + row

    def metrics_used(self) -> int:
        return self._used(METRICS_OFFSET, METRIC_ENTRY_BYTES, METRIC_ROWS)

    def rows_used(self) -> int:
        return self._used(ROWS_OFFSET, ROW_ENTRY_BYTES, self.layout.rows)

    def metrics(self) -> Iterator[tuple[int, Metric]]:
        for index in range(self.metrics_used()):
            _, text = self._read(METRICS_OFFSET + index * METRIC_ENTRY_BYTES, METRIC_TEXT_BYTES_MAX)
            metric = _parse_metric(text)
            if metric is not None:
                yield index, metric

    def rows(self) -> Iterator[tuple[int, int, str, str]]:
        """(row, state, metric name, labels text) of every row that is in use."""
        names = {index: metric.name for index, metric in self.metrics()}
        for row in range(self.rows_used()):
            state, text = self._read(ROWS_OFFSET + row * ROW_ENTRY_BYTES, LABELS_BYTES_MAX)
            name = names.get((state & ROW_METRIC_MASK) - 1)
            if name is not None:
                yield row, state, name, text

    def row_state(self, row: int) -> int:
        return self.cells[(ROWS_OFFSET + row * ROW_ENTRY_BYTES) >> 3]

    def released(self) -> list[int]:
        return [row for row in range(self.rows_used()) if self.row_state(row) & ROW_METRIC_MASK == ROW_RELEASED]

    def write_metric(self, index: int, metric: Metric) -> None:
        self._write(METRICS_OFFSET + index * METRIC_ENTRY_BYTES, 1, _metric_text(metric) or b"")

    def write_row(self, row: int, metric_index: int, labels: str) -> None:
        """The row must be free or released: nobody looks into it until its state says so."""
        generation = self.row_state(row) & ~ROW_METRIC_MASK
        self.cells[self.cell_index(row)] = 0
        self._write(ROWS_OFFSET + row * ROW_ENTRY_BYTES, generation | 1 + metric_index, labels.encode())

    def release_row(self, row: int) -> None:
        generation = (self.row_state(row) & ~ROW_METRIC_MASK) + ROW_GENERATION & _U64
        self.cells[(ROWS_OFFSET + row * ROW_ENTRY_BYTES) >> 3] = generation | ROW_RELEASED
        if publish_fence is not None:
            publish_fence()  # who reads the next owner's text must not find the state of this one

    def _used(self, offset: int, entry_bytes: int, entries: int) -> int:
        """Entries are taken from the front; one that was given back is not free, but released."""
        states = (self.cells[(offset + index * entry_bytes) >> 3] for index in range(entries))
        return next((index for index, state in enumerate(states) if not state), entries)

    def _read(self, offset: int, bytes_max: int) -> tuple[int, str]:
        state = self.cells[offset >> 3]
        length = min(self.cells[(offset >> 3) + 1], bytes_max)
        start = offset + ENTRY_TEXT_OFFSET
        return state, self._memory[start : start + length].decode(errors="replace")

    def _write(self, offset: int, state: int, text: bytes) -> None:
        start = offset + ENTRY_TEXT_OFFSET
        self._memory[start : start + len(text)] = text
        self.cells[(offset >> 3) + 1] = len(text)
        if publish_fence is not None:
            publish_fence()
        # Publishes the entry: a free one is not looked into, and everything of it was stored before.
        self.cells[offset >> 3] = state


def _metric_text(metric: Metric) -> bytes | None:
    """None when it is too long for an entry even without its help."""
    for help in (metric.help, ""):
        text = json.dumps([metric.name, metric.kind, metric.labels, help], ensure_ascii=False).encode()
        if len(text) <= METRIC_TEXT_BYTES_MAX:
            return text
    return None


def _parse_metric(text: str) -> Metric | None:
    try:
        name, kind, labels, help = json.loads(text)
        return Metric(str(name), str(kind), tuple(map(str, labels)), str(help))
    except (ValueError, TypeError):
        return None


def _labels_text(metric: Metric, labels: dict[str, str | int]) -> str:
    """Raises ValueError when the labels are not those of the metric."""
    if labels.keys() != set(metric.labels):
        raise ValueError(f"metric {metric.name}: labels {sorted(labels)}, expected {sorted(metric.labels)}")
    return json.dumps(labels, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _parse_labels(text: str) -> dict[str, str] | None:
    try:
        labels = json.loads(text)
    except ValueError:
        return None
    return {key: str(value) for key, value in labels.items()} if isinstance(labels, dict) else None
