"""What ``kafka_check`` found: apart from it, so that who reads it need not load a Kafka client."""

from __future__ import annotations

import msgspec

__all__ = ["KafkaReport"]


class KafkaReport(msgspec.Struct):
    """``problem`` is empty when the cluster answered; ``packet_bytes_max`` None when it did not say."""

    problem: str = ""
    brokers: int = 0
    topics: int = 0
    packet_bytes_max: int | None = None
