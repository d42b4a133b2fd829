"""The dead-letter topic as a plain client of Kafka sees it."""

from __future__ import annotations

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from kafka_broker import KafkaBroker

__all__ = ["headers_of", "messages_in"]


def messages_in(broker: KafkaBroker, topic: str, seconds: float = 30.0) -> list[Message]:
    """Everything that is in partition 0 now."""
    config = {"bootstrap.servers": broker.address, "group.id": "plain", "enable.auto.commit": False}
    consumer = Consumer(config | {"enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = []
    while (message := consumer.poll(seconds)) is not None and message.error() is None:
        found.append(message)
    consumer.close()
    assert message is not None, f"no end of {topic} within {seconds} s"
    return found


def headers_of(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or ()}
