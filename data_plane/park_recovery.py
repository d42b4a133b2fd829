"""What dead producers left in their parks, as the recovery logs it: before the rings of the same instance."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from trackside.data_plane.log import LogWriter
from trackside.data_plane.park_file import ParkEntry, ParkFile, live, park_files
from trackside.data_plane.record import Record

__all__ = ["StaleParks"]


class StaleParks:
    """The parks of one dead instance. Which producers it had does not matter: each topic was one producer's.

    A topic that the log has all of is noted in its file at once, so that a recovery which dies and runs again does not
    append it behind what came after it.
    """

    def __init__(self, instance: Path, log: LogWriter) -> None:
        """Appends everything to ``log``. Raises ParkDamaged, OSError."""
        self.packets = 0
        self._log = log
        self._files = [ParkFile(path, bytes_max=0) for path in park_files(instance)]
        self._waiting: dict[int, tuple[ParkFile, str]] = {}
        self._left: Counter[str] = Counter()  # by topic: entries that the log does not have
        self._ends: dict[tuple[str, str], int] = {}  # by topic and ring: the last that is in a park
        self._numbers = itertools.count(1)
        for file in self._files:
            for _, entry, topics in live(file.take_found()):
                self._append(file, entry, topics)

    def _append(self, file: ParkFile, entry: ParkEntry, topics: frozenset[str]) -> None:
        assert entry.record is not None
        numbers = {topic: next(self._numbers) for topic in topics}
        self._waiting.update({number: (file, topic) for topic, number in numbers.items()})
        self._left.update(topics)
        self._ends.update({(topic, entry.ring): entry.end for topic in topics})
        self.packets += sum(map(bool, entry.record.packets))
        self._log.append_parked(entry.ring, entry.end, entry.record, numbers)

    def parked(self, ring: str, end: int, record: Record) -> dict[str, int] | None:
        """``parked`` for the append of a record of this instance's rings: what has been appended from a park."""
        if not self._ends:
            return None
        topics = {name for route in record.routes for name in (route.topic, route.essentials) if name}
        return {name: 0 for name in topics if end <= self._ends.get((name, ring), 0)} or None

    def settle(self) -> None:
        """Take note of what the log has; to be called before any commit."""
        done: dict[ParkFile, list[str]] = {}
        for number in self._log.parked_logged():
            file, topic = self._waiting.pop(number)
            self._left[topic] -= 1
            if not self._left[topic]:
                done.setdefault(file, []).append(topic)
        for file, names in done.items():
            file.append(ParkEntry(sorted(names)))

    @property
    def empty(self) -> bool:
        return not self._waiting

    def close(self) -> None:
        for file in self._files:
            file.close()
