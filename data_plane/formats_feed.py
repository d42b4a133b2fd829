"""Data formats as a consumer needs them: the folds of essentials topics, and filters evaluated against them.

A packet may name a format whose definition is still on its way. Then its run waits until the fold has passed the end
that the essentials topic had *after* the packet was read, and is decided once: what is unknown then is not delivered.
"""

from __future__ import annotations

from typing import NamedTuple

from trackside.data_plane.data_formats import DataFormatFold
from trackside.data_plane.filtering import UNKNOWN_FORMAT, DataPacketFilter
from trackside.data_plane.link import FilterSpec, PeerLink
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
        self.loaded = False  # once it has reached the end

    def do_work(self) -> int:
        run = self._cursor.read(FOLD_BYTES)
        if run is None:
            self.loaded = self.loaded or self._cursor.at_end
            return 0
        if self._identity not in (b"", run.identity):
            self.fold = DataFormatFold()  # another log: what was defined in the one before no longer holds
        self._identity = run.identity
        for offset, packet in zip(run.offsets, run.values, strict=True):
            self.fold.apply_packet(offset, packet)
        self.fold.move_to(run.next_offset)
        return len(run.values) + 1

    def close(self) -> None:
        self._cursor.close()


class _Wait:
    """A run that names an unknown format: where the essentials topic ended after it was read, once that is known."""

    def __init__(self) -> None:
        self.end: int | None = None
        self.asked = False


class _Filter(NamedTuple):
    chosen: DataPacketFilter
    data_source: str
    owners: set[PeerLink]  # who has readers with it


class FormatsFeed:
    """Filters by their number, folds by data source. A data source is folded while a filter names it."""

    def __init__(self, log: LogReader, routing: Routing) -> None:
        self._log = log
        self._routing = routing
        self._filters: dict[int, _Filter] = {}
        self._foldings: dict[str, _Folding] = {}
        self._waits: dict[tuple[int, Partition, int], _Wait] = {}

    def add(self, spec: FilterSpec, owner: PeerLink) -> None:
        """Know a filter from now on; a gateway has seen that its patterns are good."""
        if spec.number not in self._filters:
            self._filters[spec.number] = _Filter(DataPacketFilter.of_spec(spec), spec.data_source, set())
            if spec.data_source not in self._foldings:
                partition = self._routing.essentials(spec.data_source)
                self._foldings[spec.data_source] = _Folding(self._log, partition)
        self._filters[spec.number].owners.add(owner)

    def knows(self, number: int) -> bool:
        return number in self._filters

    def is_loaded(self, number: int) -> bool:
        """Whether the formats that were defined before this filter was asked for are folded."""
        return self._foldings[self._filters[number].data_source].loaded

    def forget(self, number: int, owner: PeerLink) -> None:
        """``owner`` has no reader with this filter any more. What nobody needs is let go."""
        found = self._filters.get(number)
        if found is None:
            return
        found.owners.discard(owner)
        if not found.owners:
            del self._filters[number]
            self._waits = {key: wait for key, wait in self._waits.items() if key[0] != number}
            if all(other.data_source != found.data_source for other in self._filters.values()):
                self._foldings.pop(found.data_source).close()

    def forget_owner(self, owner: PeerLink) -> None:
        for number in list(self._filters):
            self.forget(number, owner)

    def do_work(self) -> int:
        return sum([folding.do_work() for folding in self._foldings.values()])

    def evaluate(self, number: int, run: Run) -> list[bool] | None:
        """An answer for each entry of ``run``, or None while a format that it names may still be defined."""
        chosen, data_source, _ = self._filters[number]
        folding = self._foldings[data_source]
        key = number, run.partition, run.start
        if key in self._waits and not self._has_passed(key, folding):
            return None  # what was unknown is not asked again before that
        answers = [chosen.evaluate(value, folding.fold) for value in run.values]
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
