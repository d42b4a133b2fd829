"""Reads the dead-letter topic for a program that must not speak to Kafka itself.

Started as ``python -P -m trackside.data_plane.dead_letter_topic`` with :class:`Settings` as JSON on standard input (there
are secrets in them), it writes each letter that is there now as a line of JSON (:class:`Found`) on standard output,
oldest first within a partition, and leaves. Exit code 78: it can never work as configured; 69: Kafka does not answer; why
stands on the last line of standard error. Part of no server: it reads, as a consumer does, and never writes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from trackside.data_plane.dead_letters import DeadLetter, Found, letter_id
from trackside.data_plane.kafka_config import IDENTITY_HEADER, catch_up_config, check_address, made
from trackside.data_plane.kafka_errors import reason_of
from trackside.data_plane.log import LogConfigurationError
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

__all__ = ["letters_of", "main"]

ANSWER_SECONDS = 10.0
"""Bound of each wait for Kafka."""

LAST_SECOND = 253_402_300_799
"""Of the year 9999: a time stamp is whatever a producer wrote."""

EXIT_NOT_REACHABLE = 69
EXIT_CONFIGURATION = 78


class NoAnswer(Exception):
    """Kafka did not answer within the bound."""


def letters_of(settings: Settings) -> Iterator[Found]:
    """What the topic has now. Raises LogConfigurationError, NoAnswer, KafkaException."""
    check_address(settings.broker)
    topic = Routing(settings).dead_letter.topic
    consumer: Any = made(Consumer, catch_up_config(settings))
    try:
        for partition in _partitions(consumer, topic):
            first, end = consumer.get_watermark_offsets(partition, timeout=ANSWER_SECONDS)
            if first < end:
                consumer.assign([TopicPartition(topic, partition.partition, first)])
                yield from _until(consumer, end)
    finally:
        consumer.close()


def _partitions(consumer: Any, topic: str) -> list[TopicPartition]:
    """Only the first is ours; on a topic that others made there may be more."""
    found = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return []
    if found.error is not None:
        raise KafkaException(found.error)
    return [TopicPartition(topic, number) for number in sorted(found.partitions)]


def _until(consumer: Any, end: int) -> Iterator[Found]:
    while True:
        message = consumer.poll(ANSWER_SECONDS)
        if message is None:
            raise NoAnswer(f"no answer within {ANSWER_SECONDS:g} s")
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                return
            raise KafkaException(message.error())
        yield _found(message)
        if message.offset() >= end - 1:
            return


def _found(message: Any) -> Found:
    place = f"{message.topic()}:{message.partition()}:{message.offset()}"
    _, milliseconds = message.timestamp()
    headers = dict(message.headers() or ())

    def text(name: str) -> str:
        return (headers.get(f"trackside-{name}") or b"").decode(errors="backslashreplace")

    letter = DeadLetter(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(0, milliseconds // 1000), LAST_SECOND))),
        topic=text("topic"),
        partition=int(number) if (number := text("partition")[:9]).isascii() and number.isdigit() else 0,
        reason=text("reason") or "not written by Trackside",
        key=message.key() or b"",
        value=message.value() or b"",
        identity=headers.get(IDENTITY_HEADER) or b"",
        other=text("other-topic"),
    )
    return Found(letter_id(f"{place}:{milliseconds}".encode()), place, letter)


def main() -> int:
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    out = sys.stdout.buffer
    try:
        for found in letters_of(settings):
            out.write(msgspec.json.encode(found) + b"\n")
        out.flush()
    except LogConfigurationError as error:
        return _tell(str(error), EXIT_CONFIGURATION)
    except (KafkaException, NoAnswer) as error:
        return _tell(f"Kafka at {settings.broker}: {reason_of(error)}", EXIT_NOT_REACHABLE)
    except BrokenPipeError:  # who asked has seen enough
        with contextlib.suppress(OSError):
            sys.stdout.close()
    return 0


def _tell(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
