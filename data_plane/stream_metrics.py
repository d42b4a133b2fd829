"""What is counted by data source and stream: accepted by gateways, logged by producers.

Label values come from clients, so rows are bounded: what comes when they are used up is counted in the row whose labels
are all ``other``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trackside.data_plane import metrics
from trackside.data_plane.routing import Routing
from trackside.shm.counters import Counter, CounterTable, Metric

__all__ = [
    "INFO",
    "OTHER",
    "SOURCES_MAX",
    "STREAMS_MAX",
    "LabelledCounters",
    "StreamCounters",
    "published_counters",
    "routed_counters",
]

STREAMS_MAX = 1000
"""Streams that are counted by name, in each process."""

SOURCES_MAX = 200
"""The same for data sources, where only these are counted."""

PLACES_MAX = 1 << 14
"""Routes whose counters are remembered; when there are more all are found again."""

OTHER = "other"
INFO = "Info"
"""Data source of packets that clients write with WriteInfoPacket, as the reference labels them, and of the server's own
that are about none."""

Values = tuple[str, ...]
Place = tuple[str, int, str]
"""Topic, partition and data source of a route."""


class LabelledCounters:
    """The counters of one metric by its label values, at most ``rows_max``; whatever comes then is ``other``.

    A successor finds those of its predecessor. The first label tells which rows belong together and go together.
    """

    def __init__(self, table: CounterTable, metric: Metric, rows_max: int) -> None:
        self._table = table
        self._metric = metric
        self._rows_max = rows_max
        self._other = table.counter(metric, **dict.fromkeys(metric.labels, OTHER))
        self._found: dict[Values, Counter] = {}
        self._together: defaultdict[str, list[Values]] = defaultdict(list)
        for labels in table.labels_of(metric):
            values = tuple(labels[name] for name in metric.labels)
            if set(values) != {OTHER}:
                self._keep(values, table.counter(metric, **labels))

    def of(self, *values: str) -> Counter:
        """Costs a look-up in a dict, but for the first time. Not to be kept over a :meth:`release` of its row."""
        found = self._found.get(values)
        return found if found is not None else self._make(values)

    def firsts(self) -> set[str]:
        """Values of the first label that have rows."""
        return set(self._together)

    def release(self, first: str) -> None:
        """Give back all rows with this value of the first label."""
        for values in self._together.pop(first, ()):
            del self._found[values]
            self._table.release(self._metric, **self._labels(values))

    def _make(self, values: Values) -> Counter:
        if len(self._found) >= self._rows_max:
            return self._other
        counter = self._table.try_counter(self._metric, **self._labels(values))
        if counter is None:
            return self._other
        self._keep(values, counter)
        return counter

    def _keep(self, values: Values, counter: Counter) -> None:
        self._found[values] = counter
        self._together[values[0]].append(values)

    def _labels(self, values: Values) -> dict[str, str]:
        return dict(zip(self._metric.labels, values, strict=True))


class StreamCounters:
    """Counters of data packets by data source and stream, and of info packets by data source, found by a packet's route.

    A stream is called here what responses call it: one without a partition of its own (PartitionBased) is the main
    stream, "".
    """

    def __init__(self, table: CounterTable, routing: Routing, data: Sequence[Metric], info: Sequence[Metric]) -> None:
        self._routing = routing
        self._data = [LabelledCounters(table, metric, STREAMS_MAX) for metric in data]
        self._info = [LabelledCounters(table, metric, SOURCES_MAX) for metric in info]
        self._found: dict[Place, list[Counter]] = {}

    def of(self, topic: str, partition: int, data_source: str) -> list[Counter]:
        """One counter a metric, for packets of this data source that go there."""
        place = (topic, partition, data_source)
        return self._found.get(place) or self._find(place)

    def _find(self, place: Place) -> list[Counter]:
        topic, number, data_source = place
        if self._routing.naming.is_common(topic):
            found = [counters.of(data_source or INFO) for counters in self._info]
        else:
            data_source = data_source or self._routing.naming.bare(topic).partition(".")[0]
            found = [
                counters.of(data_source, self._routing.label(topic, number, data_source)) for counters in self._data
            ]
        if len(self._found) >= PLACES_MAX:
            self._found.clear()
        self._found[place] = found
        return found


def published_counters(table: CounterTable, routing: Routing) -> StreamCounters:
    """What a gateway accepted: packets."""
    return StreamCounters(table, routing, [metrics.PUBLISHED], [metrics.INFO_PUBLISHED])


def routed_counters(table: CounterTable, routing: Routing) -> StreamCounters:
    """What a producer knows to be in the log: packets, bytes."""
    return StreamCounters(
        table, routing, [metrics.ROUTED, metrics.ROUTED_BYTES], [metrics.INFO_ROUTED, metrics.INFO_ROUTED_BYTES]
    )
