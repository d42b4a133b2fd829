"""What Kafka's errors mean to us. A KafkaError comes as a report, inside a KafkaException, or (some versions of
confluent-kafka) raised although it is no exception class: all of them are ``object`` here."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError

from trackside.data_plane.worker import log_line

__all__ = [
    "AFTERMATH",
    "CULPABLE",
    "FENCED",
    "FORBIDDEN",
    "LIBRDKAFKA_LOG",
    "REFUSALS",
    "TOO_LARGE",
    "VANISHED",
    "code_of",
    "reason_of",
]

REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)
"""What sending a packet again cannot change. After anything else it is sent again for ever."""

FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""What an operator can allow, and then nothing is missing: the topic's packets wait."""

CULPABLE = REFUSALS | FORBIDDEN
"""Failures that a packet or its topic has brought about, and no other is to blame for."""

TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

VANISHED = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART})
"""The topic has been deleted, or has fewer partitions than it had."""

FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
"""A client with the same transactional id began after this one, or Kafka gave up a transaction that took too long."""

AFTERMATH = frozenset(
    {KafkaError._FATAL, KafkaError._GAPLESS_GUARANTEE, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
)
"""What is reported once a client has failed. Somebody's refusal may be behind it."""


class _LogLines(logging.Handler):
    """What librdkafka itself has to say (a fatal error; more with an override of ``debug``) as a line like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        log_line(record.levelname.lower(), "librdkafka", record.getMessage())


LIBRDKAFKA_LOG = logging.getLogger("librdkafka")
"""``logger`` of every client that is polled."""

LIBRDKAFKA_LOG.propagate = False
LIBRDKAFKA_LOG.addHandler(_LogLines())


def code_of(error: object) -> int:
    inner = _inner(error)
    return inner.code() if isinstance(inner, KafkaError) else KafkaError._FAIL


def reason_of(error: object) -> str:
    """One line for an operator."""
    inner = _inner(error)
    return " ".join((inner.str() if isinstance(inner, KafkaError) else str(inner)).split())


def _inner(error: object) -> object:
    return error.args[0] if isinstance(error, BaseException) and error.args else error
