"""The log on a real Apache Kafka: the contract of every log, then what only Kafka can do to us."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import KafkaBroker
from log_contract import LogContract

from trackside.data_plane.kafka_log import KafkaLogReader, KafkaLogWriter
from trackside.data_plane.spec import Settings

pytestmark = pytest.mark.kafka

PARTITIONS = 2
_names = itertools.count()


class KafkaUnderTest:
    """Writers and readers of one test, closed by :meth:`close`."""

    partitions = PARTITIONS
    essentials_first = False

    def __init__(self, broker: KafkaBroker, data_dir: Path) -> None:
        self.broker = broker
        self.settings = Settings(broker=broker.address, data_dir=str(data_dir))
        self.dead_letters = self.topic("dead")
        self._open: list[KafkaLogWriter | KafkaLogReader] = []

    def topic(self, name: str) -> str:
        return f"{name}-{next(_names)}"

    def writer(self, settings: Settings | None = None) -> KafkaLogWriter:
        made = KafkaLogWriter(
            settings or self.settings,
            wake=lambda: None,
            partitions_of=lambda topic: PARTITIONS,
            dead_letter_topic=self.dead_letters,
        )
        self._open.append(made)
        return made

    def reader(self, settings: Settings | None = None) -> KafkaLogReader:
        made = KafkaLogReader(settings or self.settings, wake=lambda: None)
        self._open.append(made)
        return made

    def close(self) -> None:
        for each in self._open:
            if isinstance(each, KafkaLogWriter):
                each.close(0.0)
            else:
                each.close()


@pytest.fixture
def log(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[KafkaUnderTest]:
    made = KafkaUnderTest(kafka_broker, tmp_path)
    yield made
    made.close()


class TestKafkaLog(LogContract):
    """The contract."""
