"""The log in memory keeps the contract, so what is tested over it holds for logs that do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from log_contract import LogContract
from memory_log import MemoryLog, MemoryReader, MemoryWriter


class Memory:
    partitions = 2
    essentials_first = True

    def __init__(self) -> None:
        self._log = MemoryLog()
        self._topics = itertools.count()

    def topic(self, name: str) -> str:
        return f"{name}-{next(self._topics)}"

    def writer(self) -> MemoryWriter:
        return MemoryWriter(self._log)

    def reader(self) -> MemoryReader:
        return MemoryReader(self._log)


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> Iterator[Memory]:
        yield Memory()
