"""The log on Apache Kafka: what a producer writes with and a consumer reads with."""

from __future__ import annotations

from trackside.data_plane.kafka_reader import KafkaLogReader
from trackside.data_plane.kafka_writer import KafkaLogWriter

__all__ = ["KafkaLogReader", "KafkaLogWriter"]
