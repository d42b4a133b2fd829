"""The bench of the Kafka writer, small: it runs, and what it sent is what is there."""

from __future__ import annotations

import pytest
from kafka_broker import KafkaBroker

from trackside.bench.kafka_writer import Load, measure


@pytest.mark.kafka
def test_each_way_stores_everything_in_order(kafka_broker: KafkaBroker) -> None:
    measured = measure(kafka_broker.address, Load(6400, packet_bytes=200))
    assert [one.name for one in measured] == ["log writer", "plain, capped", "plain"]
    assert all(one.intact and one.cpu_us > 0 for one in measured)
