from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from log_contract import LogContract

from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.spec import Settings


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


class TestLocalLog(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[LocalLog]:
        log = LocalLog(tmp_path)
        yield log
        log.close()


class TestLocalLogThatSyncsEach(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[LocalLog]:
        log = LocalLog(tmp_path, sync="Each", segment_bytes=64 << 10)
        yield log
        log.close()
