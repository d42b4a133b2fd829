"""Fixtures that several folders of tests share."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest
from kafka_broker import KafkaBroker, KafkaUnavailable, ensure_libs, running_broker


@functools.cache
def _why_no_kafka() -> str:
    """Empty when a broker can be run here; fetches it on the first call."""
    try:
        ensure_libs()
    except KafkaUnavailable as missing:
        return f"no real Kafka: {missing}"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``kafka`` are skipped where no broker can be run, and fail with TRACKSIDE_REQUIRE_KAFKA=1."""
    if item.get_closest_marker("kafka") is None or not (reason := _why_no_kafka()):
        return
    if os.environ.get("TRACKSIDE_REQUIRE_KAFKA") == "1":
        pytest.fail(f"TRACKSIDE_REQUIRE_KAFKA=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """A running Apache Kafka, started by the first test that asks. Who stops it starts it again."""
    with running_broker(tls=True) as broker:
        yield broker
