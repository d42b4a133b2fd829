"""Reads one topic of a Kafka from beginning to end with somebody else's code; runs in ``environment.py``'s environment.

    decode.py kafka-python ADDRESS TOPIC                    every message: key and value in hex, time, header names
    decode.py quixstreams ADDRESS TOPIC DEFINITIONS_TOPIC   every message: key, rows of samples, or the whole packet

Prints one JSON list. Imports nothing of Trackside.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SECONDS = 30.0


def kafka_python(address: str, topic: str) -> list[Any]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, request_timeout_ms=20_000)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    found: list[Any] = []
    while consumer.position(partition) < end:
        for message in consumer.poll(timeout_ms=1000).get(partition, []):
            found.append(
                {
                    "offset": message.offset,
                    "key": None if message.key is None else message.key.hex(),
                    "value": message.value.hex(),
                    "time_ms": message.timestamp,
                }
            )
    consumer.close()
    return found


def quixstreams(address: str, topic: str, definitions_topic: str) -> list[Any]:
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition
    from quixstreams import Application
    from quixstreams.models.serializers import SerializationContext, StringDeserializer
    from quixstreams.models.serializers.fia_open_data import FIAOpenDataDeserializer

    application = Application(broker_address=address, consumer_group="foreign", loglevel="ERROR")
    columns = ["packet_type", "parameter_identifier", "timestamp", "value", "status", "session_key"]
    with (
        application.get_consumer(auto_commit_enable=False) as definitions,
        application.get_consumer(auto_commit_enable=False) as consumer,
    ):
        decode_samples = FIAOpenDataDeserializer(
            build_table=columns, definitions_topic=definitions_topic, consumer=definitions
        )
        decode_whole = FIAOpenDataDeserializer(build_table=None)
        decode_key = StringDeserializer()
        end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=SECONDS)[1]
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[Any] = []
        while len(found) < end:
            message = consumer.poll(SECONDS)
            if message is None or message.error():
                raise SystemExit(f"{topic}: {len(found)} of {end} messages, then {message and message.error()}")
            context = SerializationContext(topic, "value", message.headers())
            (whole,) = decode_whole(message.value(), context)
            found.append(
                {
                    "key": decode_key(message.key(), context),
                    "rows": decode_samples(message.value(), context),
                    "whole": whole,
                }
            )
    return found


if __name__ == "__main__":
    decoders = {"kafka-python": kafka_python, "quixstreams": quixstreams}
    print(json.dumps(decoders[sys.argv[1]](*sys.argv[2:])))
