"""The parks of dead instances in a recovery's hands, and how what is left of them goes to the new instance's producers.

::

    <stale instance>/parks/producer-N.park   what its producers had parked
                           recovery.park     what the recovery has parked out of its rings
    <new instance>/parks.new/producer-N.park is being written by the recovery
                   parks/producer-N.park     all of it, whole: it was ``parks.new`` until a moment before

Until the last rename each stale instance holds what was its own, so a recovery that dies starts with them again. From
there on the new instance has a copy of all, and the stale ones go: the newest first, in each the files that are read last
first. So whoever finds some of them beside the copy finds the beginning of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from trackside.data_plane.park_file import RECOVERY_PARK, ParkEntry, ParkFile, Placed, park_files

__all__ = ["StaleParks", "discard", "hand_over", "is_handed_over"]

UNBOUNDED = 1 << 62
"""What dead instances left is finite; the room of the file system bounds its copy."""


class StaleParks:
    """The parks of stale instances as one :class:`~trackside.data_plane.parking.Park`. Which producers they had does not
    matter: each topic was one producer's."""

    def __init__(self) -> None:
        self._files: list[ParkFile] = []  # the last: where entries go
        self._found: list[tuple[Placed, ParkEntry]] = []

    def open(self, instance: Path) -> None:
        """The next instance's, for ``take_found``; entries go there from now on. Raises ParkDamaged, OSError."""
        paths = park_files(instance)
        own = instance / "parks" / RECOVERY_PARK
        opened = [ParkFile(path, UNBOUNDED) for path in (*paths, *((own,) if own not in paths else ()))]
        self._files += opened
        self._found = [found for file in opened for found in file.take_found()]

    @property
    def size(self) -> int:
        return sum(file.size for file in self._files)

    def take_found(self) -> list[tuple[Placed, ParkEntry]]:
        found, self._found = self._found, []
        return found

    def append(self, entry: ParkEntry) -> Placed | None:
        """What ends entries' lives goes into all files: theirs may be in any."""
        if entry.record is not None:
            return self._files[-1].append(entry)
        placed = [file.append(entry) for file in self._files if file.size]
        return placed[-1] if placed else None

    def keep_only(self, entries: Iterable[Placed]) -> list[Placed] | None:
        """Only of none: else the files stay as they are, until their instance goes."""
        if any(True for _ in entries):
            return None
        for file in self._files:
            file.keep_only([])
        return []

    def bytes_limit(self) -> int:
        return self._files[-1].bytes_limit() if self._files else 0

    def sync(self) -> None:
        """Before a commit: instances that were kept lie on a device, and so do their rings. Raises OSError."""
        self._files[-1].sync()

    def close(self) -> None:
        """Entries that are still there are somebody else's now, or in the log."""
        for file in self._files:
            file.close()
        self._files.clear()


def hand_over(entries: Iterable[ParkEntry], instance: Path, owner: Callable[[str], int]) -> bool:
    """Put what the log does not have into the parks of ``instance``, each topic into that of the producer with the number
    that ``owner`` says: all in one step. False: there is no room, nothing was changed."""
    draft = _draft(instance)
    shutil.rmtree(draft, ignore_errors=True)
    files: dict[int, ParkFile] = {}
    try:
        done = all(_hand_over(entry, draft, owner, files) for entry in entries)
        if done:
            os.rename(draft, instance / "parks")
    except OSError:
        done = False
    for file in files.values():
        file.close()
    return done


def _hand_over(entry: ParkEntry, draft: Path, owner: Callable[[str], int], files: dict[int, ParkFile]) -> bool:
    assert entry.record is not None
    by_owner: dict[int, list[str]] = {}
    for topic in entry.topics:
        by_owner.setdefault(owner(topic), []).append(topic)
    for number, topics in by_owner.items():
        if number not in files:
            files[number] = ParkFile(draft / f"producer-{number}.park", UNBOUNDED)
        part = ParkEntry(topics, entry.ring, entry.end, entry.stamp_ns, entry.record.restricted(topics))
        if files[number].append(part) is None:
            return False
    return True


def is_handed_over(instance: Path) -> bool:
    """Whether a predecessor of this recovery came as far as that: ``instance`` has no producers yet."""
    return (instance / "parks").exists()


def _draft(instance: Path) -> Path:
    return instance / "parks.new"


def discard(instances: Sequence[Path]) -> None:
    """Take instances away, given oldest first, whose rings are empty and of whose parks there is a copy, or no need."""
    for instance in reversed(instances):
        for park in reversed(park_files(instance)):
            park.unlink()
        shutil.rmtree(instance)
