"""Reading the local log: cursors over segment files, up to the ends that the producers publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from trackside.data_plane.data_dir import partition_dir, partitions_on_disk, read_identity
from trackside.data_plane.ends_table import EndsReader, EndsSlot
from trackside.data_plane.log import END, LogState, Partition, Progress, Run, Watermarks
from trackside.data_plane.log_recovery import OnDisk, last_offset_on_disk
from trackside.data_plane.partition_view import PartitionView
from trackside.data_plane.progress_journal import ProgressJournal
from trackside.data_plane.run_fetch import Place, RunFetcher
from trackside.data_plane.worker import log_line

__all__ = ["LocalCursor", "LocalLogReader"]

RETRY_SECONDS = 1.0
"""How long a cursor rests whose files could not be read."""

LET_GO_SECONDS = 1.0
"""How long a segment that retention has deleted may still take room on the disk, because it is open here."""


class LocalCursor:
    """A :class:`~trackside.data_plane.log.Cursor` of the local log."""

    def __init__(self, reader: LocalLogReader, partition: Partition, next_offset: int) -> None:
        self.partition = partition
        self.next_offset = next_offset
        self.at_end = False
        self.place = Place()
        self._reader = reader

    def read(self, bytes_max: int) -> Run | None:
        return self._reader.read(self, bytes_max)

    def close(self) -> None:
        self._reader.forget(self)


class LocalLogReader:
    """A :class:`~trackside.data_plane.log.LogReader` over segment files, in which it changes nothing.

    ``table_paths`` are the tables of published ends of all producers; they, the partitions, and the log itself may
    appear later. ``name`` is the consumer's, whose journal of consumer groups it is. Raises LogConfigurationError (DataDirTooNew, DataDirDamaged). Files that cannot be read are a
    ``state``, and are tried again.
    """

    def __init__(
        self,
        data_dir: Path,
        table_paths: Sequence[Path],
        *,
        name: str = "consumer-0",
        sync_seconds: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._identity = read_identity(data_dir)
        self._tables = [EndsReader(path) for path in table_paths]
        self._fetcher = RunFetcher()
        self._groups = ProgressJournal(data_dir / "groups", name, sync_seconds=sync_seconds, monotonic=monotonic)
        self._monotonic = monotonic
        self._views: dict[Partition, PartitionView] = {}
        self._cursors: dict[Partition, dict[LocalCursor, None]] = {}
        self._ready: dict[LocalCursor, None] = {}
        self._resting: dict[LocalCursor, float] = {}
        self._topics: dict[str, int] = {}
        self._topics_listed = False
        self._entries = 0
        self._uncommitted = 0
        self._reason = ""
        self._let_go_at = 0.0

    # --- cursors

    def open(self, partition: Partition, offset: int) -> LocalCursor:
        self._look()
        cursor = LocalCursor(self, partition, offset)
        self._cursors.setdefault(partition, {})[cursor] = None
        self._start(cursor)
        return cursor

    def read(self, cursor: LocalCursor, bytes_max: int) -> Run | None:
        """What ``Cursor.read`` says."""
        if cursor in self._resting:
            return None
        view = self._views.get(cursor.partition)
        end = 0 if view is None else view.end
        if view is None or cursor.next_offset >= end:
            self._note_place(cursor, end)
            return None
        try:
            run = self._fetcher.fetch(view, cursor.place, cursor.next_offset, end, bytes_max)
        except OSError as error:
            self._rest(cursor, error)
            return None
        self._reason = ""
        self._entries += len(run.values)
        cursor.next_offset = run.next_offset
        self._note_place(cursor, end)
        return run

    def forget(self, cursor: LocalCursor) -> None:
        """What ``Cursor.close`` says."""
        cursors = self._cursors.get(cursor.partition, {})
        cursors.pop(cursor, None)
        if not cursors:
            self._cursors.pop(cursor.partition, None)
        self._ready.pop(cursor, None)
        self._resting.pop(cursor, None)

    def ready(self) -> Iterable[LocalCursor]:
        return tuple(self._ready)

    def _start(self, cursor: LocalCursor) -> None:
        """Finds the end of the cursor's partition, and so what END means."""
        try:
            view = self._view(cursor.partition)
        except OSError as error:
            self._rest(cursor, error)
            return
        end = 0 if view is None else view.end
        if cursor.next_offset == END:
            cursor.next_offset = end
        self._note_place(cursor, end)

    def _note_place(self, cursor: LocalCursor, end: int) -> None:
        cursor.at_end = cursor.next_offset >= end
        if cursor.at_end:
            self._ready.pop(cursor, None)
        else:
            self._ready[cursor] = None

    def _rest(self, cursor: LocalCursor, error: OSError) -> None:
        self._reason = self._why(error)
        self._ready.pop(cursor, None)
        self._resting[cursor] = self._monotonic() + RETRY_SECONDS

    def _why(self, error: OSError) -> str:
        return f"the local log in {self._data_dir} cannot be read: {error}"

    # --- partitions

    def _look(self) -> int:
        """Takes in what the producers published; returns how many partitions moved."""
        moved = 0
        for table in self._tables:
            for slot in table.changed():
                self._on_moved(slot)
                moved += 1
        return moved

    def _on_moved(self, slot: EndsSlot) -> None:
        view = self._views.get(slot.partition) or self._add_view(slot.partition)
        assert view is not None, "a producer makes the log's identity before its table"
        if slot not in view.slots:
            view.slots.append(slot)
        self._note_topic(slot.partition)
        for cursor in self._cursors.get(slot.partition, ()):
            if cursor not in self._resting:
                self._note_place(cursor, view.end)

    def _view(self, partition: Partition) -> PartitionView | None:
        """The view of a partition that exists, None for others. Raises OSError."""
        view = self._views.get(partition)
        if view is not None:
            return view
        if not partition_dir(self._data_dir, partition).is_dir():
            return None
        view = self._add_view(partition)
        if view is not None:
            self._look_at_disk(view)
        return view

    def _add_view(self, partition: Partition) -> PartitionView | None:
        if self._identity is None:
            self._identity = read_identity(self._data_dir)
        if self._identity is None:
            return None
        place = OnDisk(partition_dir(self._data_dir, partition), self._identity, partition)
        view = self._views[partition] = PartitionView(place)
        return view

    def _look_at_disk(self, view: PartitionView) -> None:
        """The end of a partition without a slot. A producer takes its slot before it writes: so if there is still
        none after the scan, nobody wrote meanwhile; and if there is, it counts and not the scan."""
        try:
            view.end_on_disk = last_offset_on_disk(view.place)
        except OSError:
            del self._views[view.place.partition]
            raise
        self._look()

    # --- what exists

    def watermarks(
        self, partitions: Sequence[Partition], done: Callable[[dict[Partition, Watermarks] | None], None]
    ) -> None:
        """Answers at once, before this returns."""
        self._look()
        done(self._watermarks(partitions))

    def _watermarks(self, partitions: Sequence[Partition]) -> dict[Partition, Watermarks] | None:
        try:
            views = {partition: self._view(partition) for partition in partitions}
            return {
                partition: Watermarks(0, 0) if view is None else Watermarks(view.earliest, view.end)
                for partition, view in views.items()
            }
        except OSError as error:
            self._reason = self._why(error)
            return None

    def list_topics(self, done: Callable[[Mapping[str, int] | None], None]) -> None:
        """Answers at once, before this returns."""
        self._look()
        done(self.topics())

    def topics(self) -> Mapping[str, int]:
        if not self._topics_listed:
            self._topics_listed = True
            for partition in partitions_on_disk(self._data_dir):
                self._note_topic(partition)
        return self._topics

    def watch(self, on: bool) -> None:
        """Nothing to do: a new partition is seen in the tables with every ``do_work``."""

    def _note_topic(self, partition: Partition) -> None:
        self._topics[partition.topic] = max(self._topics.get(partition.topic, 0), partition.number + 1)

    # --- consumer groups

    def committed(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        """Answers at once, before this returns."""
        self._look()
        done(self._committed(group, partitions))

    def _committed(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, int] | None:
        found: dict[Partition, int] = {}
        try:
            for partition in partitions:
                kept, view = self._groups.find(group, partition), self._view(partition)
                if kept and view and kept.identity == self._identity and kept.offset <= view.end:
                    found[partition] = kept.offset
        except OSError as error:
            log_line("warn", "local log", "consumer group not found", group=group, reason=str(error))
            return None
        return found

    def commit(self, group: str, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        """Answers at once, before this returns; by then the kernel has it."""
        if self._identity is None:
            self._identity = read_identity(self._data_dir)
        identity = self._identity
        if identity is None:  # no partition exists
            done(True)
            return
        try:
            self._groups.keep(group, {place: Progress(log or identity, at) for place, (log, at) in progress.items()})
        except OSError as error:
            log_line("warn", "local log", "consumer group not committed", group=group, reason=str(error))
            self._uncommitted += 1
            done(False)
            return
        done(True)

    # --- duty cycle and what it says

    def do_work(self) -> int:
        moved = self._look()
        self._groups.do_work()
        now = self._monotonic()
        if now >= self._let_go_at:
            self._let_go_at = now + LET_GO_SECONDS
            self._fetcher.let_go()
        if self._resting:
            for cursor in [cursor for cursor, until in self._resting.items() if until <= now]:
                del self._resting[cursor]
                self._start(cursor)
        return moved

    def state(self) -> LogState:
        return LogState(not self._reason, self._reason)

    def fetches(self) -> Mapping[Partition, int]:
        """Reads of segment files since the start, by partition: the same for one cursor at the end and for a hundred
        that share what it found."""
        return {partition: view.fetches for partition, view in self._views.items()}

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start. ``holes`` and ``expired`` are jumps of cursors over offsets that do not exist
        (damage, gaps) or no longer; ``damaged`` places in files that did not hold. ``uncommitted`` counts commits of
        consumer groups that could not be written, ``sync_failures`` those that did not reach the device."""
        fetcher = self._fetcher
        return {
            "fetches": fetcher.fetches,
            "fetched_bytes": fetcher.fetched_bytes,
            "entries": self._entries,
            "undecodable": 0,  # what is in the local log passed the door
            "holes": fetcher.holes,
            "expired": fetcher.expired,
            "damaged": fetcher.damaged,
            "uncommitted": self._uncommitted,
            "sync_failures": self._groups.sync_failures,
        }

    def close(self) -> None:
        self._fetcher.close()
        self._groups.close()
        for table in self._tables:
            table.close()
