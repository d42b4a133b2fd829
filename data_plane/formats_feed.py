"""Data formats as a consumer needs them: the folds of essentials topics, and filters evaluated against them.

A packet may name a format whose definition is still on its way. Then its run waits until the fold has passed the end
that the essentials topic had *after* the packet was read, and is decided once: what is unknown then is not delivered.
"""

from __future__ import annotations

from trackside.data_plane.data_formats import DataFormatFold
from trackside.data_plane.filtering import UNKNOWN_FORMAT, DataPacketFilter
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import LogReader, Partition, Run, Watermarks
from trackside.data_plane.routing import Routing

__all__ = ["FormatsFeed"]

FOLD_BYTES = 1 << 20
"""Read of an essentials topic at a time."""


class _Folding:
    """The essentials topic of one data source, read from its beginning and followed."""

    def __init__(self, log: LogReader, partition: Partition) -> None:
        self._log = log
        self.partition = partition
        self.fold = DataFormatFold()
        self._cursor = log.open(partition, 0)
        self._identity = b""

    def do_work(self) -> int:
        run = self._cursor.read(FOLD_BYTES)
        if run is None:
            return 0
        if self._identity not in (b"", run.identity):
            self.fold = DataFormatFold()  # another log: what was defined in the one before no longer holds
        self._identity = run.identity
        for offset, packet in zip(run.offsets, run.values, strict=True):
            self.fold.apply_packet(offset, packet)
        self.fold.move_to(run.next_offset)
        return len(run.values) + 1


class _Wait:
    """A run that names an unknown format: where the essentials topic ended after it was read, once that is known."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.asked = False


class FormatsFeed:
    """Filters by their number, folds by data source. A data source is folded from the first filter that names it on."""

    def __init__(self, log: LogReader, routing: Routing) -> None:
        self._log = log
        self._routing = routing
        self._filters: dict[int, tuple[DataPacketFilter, str]] = {}
        self._foldings: dict[str, _Folding] = {}
        self._waits: dict[tuple[int, Partition, int], _Wait] = {}

    def add(self, spec: FilterSpec) -> None:
        """Know a filter from now on; a gateway has seen that its patterns are good."""
        if spec.number not in self._filters:
            self._filters[spec.number] = DataPacketFilter.of_spec(spec), spec.data_source
            if spec.data_source not in self._foldings:
                partition = self._routing.essentials(spec.data_source)
                self._foldings[spec.data_source] = _Folding(self._log, partition)

    def do_work(self) -> int:
        return sum([folding.do_work() for folding in self._foldings.values()])

    def evaluate(self, number: int, run: Run) -> list[bool] | None:
        """An answer for each entry of ``run``, or None while a format that it names may still be defined."""
        chosen, data_source = self._filters[number]
        folding = self._foldings[data_source]
        answers = [chosen.evaluate(value, folding.fold) for value in run.values]
        key = number, run.partition, run.start
        if UNKNOWN_FORMAT in answers and not self._has_passed(key, folding):
            return None
        self._waits.pop(key, None)
        return [answer is True for answer in answers]

    def _has_passed(self, key: tuple[int, Partition, int], folding: _Folding) -> bool:
        wait = self._waits.setdefault(key, _Wait())
        if wait.end is not None:
            return folding.fold.next_offset >= wait.end
        if not wait.asked:
            wait.asked = True
            self._ask(wait, folding.partition)
        return False

    def _ask(self, wait: _Wait, partition: Partition) -> None:
        def answer(marks: dict[Partition, Watermarks] | None) -> None:
            wait.asked = False  # nobody answered: ask again at the next look
            if marks is not None:
                wait.end = marks[partition].end

        self._log.watermarks([partition], answer)
