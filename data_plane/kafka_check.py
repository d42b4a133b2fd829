"""Whether a Kafka can be reached and used, asked once for ``trackside doctor``, in a process that ends afterwards.

Started as ``python -P -m trackside.data_plane.kafka_check`` with :class:`Settings` as JSON on standard input, since
they hold secrets. Prints a :class:`KafkaReport` as JSON and ends with 0, also when nothing answers.
"""

from __future__ import annotations

import sys
from typing import Any

import confluent_kafka.admin
import msgspec
from confluent_kafka import KafkaException

from trackside.data_plane.kafka_config import admin_config, check_address, made
from trackside.data_plane.kafka_errors import reason_of
from trackside.data_plane.kafka_report import KafkaReport
from trackside.data_plane.log import LogConfigurationError
from trackside.data_plane.spec import Settings

__all__ = ["ANSWER_SECONDS", "check"]

_api: Any = confluent_kafka.admin  # untyped in part

ANSWER_SECONDS = 5.0
"""For each question; a broker that needs longer is of no use for live telemetry."""


def check(settings: Settings) -> KafkaReport:
    """Connects, authenticates, and asks for what the server needs to know. Blocks up to three ``ANSWER_SECONDS``."""
    heard: list[str] = []
    try:
        check_address(settings.broker)
        config = admin_config(settings) | {"error_cb": lambda error: heard.append(reason_of(error)), "log_level": 0}
        client: Any = made(_api.AdminClient, config)
    except LogConfigurationError as error:
        return KafkaReport(problem=str(error))
    try:
        found = client.list_topics(timeout=ANSWER_SECONDS)
    except KafkaException as error:
        client.poll(0)  # hands out what was heard meanwhile, which says more than that nobody answered
        return KafkaReport(problem=heard[0] if heard else reason_of(error))
    return KafkaReport(
        brokers=len(found.brokers), topics=len(found.topics), packet_bytes_max=_message_bytes_max(client, found.brokers)
    )


def _message_bytes_max(client: Any, brokers: Any) -> int | None:
    """The least that any broker takes by default; a topic may say otherwise."""
    resources = [_api.ConfigResource(_api.ResourceType.BROKER, str(broker)) for broker in brokers]
    try:
        answers = client.describe_configs(resources, request_timeout=ANSWER_SECONDS).values()
        return min(int(answer.result(ANSWER_SECONDS)["message.max.bytes"].value) for answer in answers)
    except (KafkaException, KeyError, ValueError, TimeoutError):
        return None


if __name__ == "__main__":
    report = check(msgspec.json.decode(sys.stdin.buffer.read(), type=Settings))
    print(msgspec.json.encode(report).decode())
