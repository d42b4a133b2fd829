"""The log on a real Kafka, for tests: writers and readers that are closed together, topics of their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
from kafka_broker import SASL_PASSWORD, SASL_USER, KafkaBroker

from trackside.data_plane.kafka_log import KafkaLogReader, KafkaLogWriter
from trackside.data_plane.spec import Settings

__all__ = ["PARTITIONS", "KafkaUnderTest"]

PARTITIONS = 2
"""Of every topic that a writer makes here."""

_names = itertools.count()
"""One broker serves a whole test session."""


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

    def secured(self, password: str = SASL_PASSWORD) -> Settings:
        """Settings for the listener that asks who we are."""
        security = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": SASL_USER,
            "sasl.password": password,
        }
        return msgspec.structs.replace(self.settings, broker=self.broker.sasl_address, security=security)

    def close(self) -> None:
        for each in self._open:
            if isinstance(each, KafkaLogWriter):
                each.close(0.0)
            else:
                each.close()
