"""A local log in a folder of its own, for tests that look at its files, too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from log_contract import RING, Collector, Feed, collector, log_all, numbered, record

from trackside.data_plane.data_dir import partition_dir, segment_bases, segment_path
from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

TOPIC = "data"
PARTITION = Partition(TOPIC, 0)


class LocalLog:
    """A LogUnderTest over a data directory and the table of one producer."""

    partitions = 2
    essentials_first = True

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.data_dir = folder / "data"
        self.table = folder / "producer-0.ends"
        self.settings = Settings(**settings)
        self._opened: list[LocalLogWriter | LocalLogReader] = []

    def topic(self, name: str) -> str:
        return name

    def writer(self, **options: Any) -> LocalLogWriter:
        writer = LocalLogWriter(self.data_dir, self.table, settings=self.settings, **options)
        self._opened.append(writer)
        return writer

    def reader(self) -> LocalLogReader:
        reader = LocalLogReader(self.data_dir, [self.table])
        self._opened.append(reader)
        return reader

    def close(self) -> None:
        for opened in self._opened:
            if isinstance(opened, LocalLogWriter):
                opened.close(0)
            else:
                opened.close()
        self._opened.clear()

    def folder(self, partition: Partition = PARTITION) -> Path:
        return partition_dir(self.data_dir, partition)

    def segments(self, partition: Partition = PARTITION) -> list[Path]:
        return [segment_path(self.folder(partition), base) for base in segment_bases(self.folder(partition))]

    def copy_to(self, folder: Path, **settings: Any) -> LocalLog:
        """The same log in another place, as another run of the server finds it: without a table of ends."""
        other = LocalLog(folder, **settings)
        shutil.copytree(self.data_dir, other.data_dir)
        return other

    def write(self, records: Sequence[tuple[int, Record]], ring: str = RING) -> LocalLogWriter:
        """A new writer that appends (end, record) pairs, one batch each, and is closed again."""
        writer = self.writer()
        for end, made in records:
            writer.append(ring, end, made)
            writer.do_work()
        log_all(writer, ring, records[-1][0])
        assert writer.close(0)
        return writer

    def read_all(self, topic: str = TOPIC, offset: int = 0) -> Collector:
        """Everything that a new reader finds, up to the end as it is now."""
        reading = collector(self.reader(), topic, offset)
        while reading.step():
            pass
        return reading


def numbered_records(count: int, packets: int = 3, route: Route | None = None) -> list[tuple[int, Record]]:
    """(end, record) pairs of one ring: records of numbered packets, all different."""
    route = route or Route(TOPIC, 0, b"key")
    return [(1000 * (number + 1), record(numbered(packets * number, packets), route)) for number in range(count)]


def values_of(records: Sequence[tuple[int, Record]]) -> list[bytes]:
    return [packet for _, made in records for packet in made.packets]


__all__ = [
    "PARTITION",
    "TOPIC",
    "Collector",
    "Feed",
    "LocalLog",
    "numbered_records",
    "values_of",
]
