"""The broker that other tests stand on: it starts, keeps its data through a kill, and says why when it cannot run."""

from __future__ import annotations

import pytest
from kafka_broker import AUTO_CREATED_PARTITIONS, KafkaBroker, KafkaUnavailable, ensure_libs


@pytest.mark.kafka
def test_topics_survive_a_kill(kafka_broker: KafkaBroker) -> None:
    kafka_broker.create_topic("survives", partitions=2)
    kafka_broker.kill()
    assert not kafka_broker.running
    kafka_broker.start()
    assert kafka_broker.topics()["survives"] == 2
    assert AUTO_CREATED_PARTITIONS != 1, "a topic made by accident must look different"
    kafka_broker.delete_topic("survives")
    assert "survives" not in kafka_broker.topics()


def test_without_java_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KafkaUnavailable, match="Java 17"):
        ensure_libs()
