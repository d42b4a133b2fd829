"""How every client of Kafka is set up: our defaults, the security section, the operator's overrides.

``Settings.publisher_overrides`` and ``consumer_overrides`` win over our defaults, as operators of the reference server
expect, but for the keys that the code depends on. An override that breaks a promise of ``docs/guarantees.md`` is
taken, with a warning that names the promise.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaException

from trackside.data_plane.kafka_errors import reason_of
from trackside.data_plane.kafka_overrides import KEPT_CONSUMER, KEPT_PUBLISHER, broken_promises, is_false, named
from trackside.data_plane.log import LogConfigurationError
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = [
    "IDENTITY_HEADER",
    "ClientConfig",
    "PublisherConfig",
    "admin_config",
    "catch_up_config",
    "check_address",
    "group_config",
    "live_config",
    "made",
    "publisher_config",
]

ClientConfig = dict[str, Any]
Client = TypeVar("Client")

IDENTITY_HEADER = "trackside-identity"
"""The header that carries a route's identity through Kafka. Nobody else needs headers."""

BATCH_BYTES = 1_000_000
"""librdkafka's default ``batch.size``; the broker takes 1,048,588 bytes unless it is told otherwise."""

MESSAGE_BYTES_MAX = 1_000_000_000
"""librdkafka's own bound is lifted as far as it goes, so that the broker alone decides and its answer is the reason."""

PROPAGATION_MS = 3_600_000
"""How long librdkafka keeps packets of a topic that has vanished. We create it again long before; 30 s by default."""

_CONNECTION: ClientConfig = {
    "client.id": "trackside",
    "socket.nagle.disable": True,
    "socket.keepalive.enable": True,
    "socket.connection.setup.timeout.ms": 5000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1000,  # 10 s by default: too long to be away after the broker is back
    "log.connection.close": False,
    "log_level": 2,  # what an operator needs comes through the state, once each
    "allow.auto.create.topics": False,
}

_PUBLISHER: ClientConfig = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "max.in.flight.requests.per.connection": 1,  # or a new topic's first packets can be lost (docs/decisions/0010)
    "message.timeout.ms": 0,  # for ever: nothing is given up that could be sent again
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "batch.size": BATCH_BYTES,
    "compression.type": "lz4",  # less CPU in all than none or zstd (docs/decisions/0010)
    "linger.ms": 0,  # the one request in flight makes the batches (docs/decisions/0010)
    "queue.buffering.max.messages": 0,  # no limit: the rings bound what is here, and the account a partition
    "queue.buffering.max.kbytes": 2_147_483_647,
    "topic.metadata.propagation.max.ms": PROPAGATION_MS,
}

_CONSUMER: ClientConfig = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",  # never jump by itself: what to do is decided where the watermarks are known
    "fetch.queue.backoff.ms": 5,  # 1 s by default: with a bounded prefetch 15 k/s instead of 300
    "fetch.error.backoff.ms": 100,
}

_LIVE: ClientConfig = {"queued.max.messages.kbytes": 2048, "fetch.wait.max.ms": 100}
_CATCH_UP: ClientConfig = {"queued.max.messages.kbytes": 8192, "fetch.wait.max.ms": 10}

_CONNECTION_PREFIXES = ("broker.", "client.dns", "reconnect.", "sasl.", "security.", "socket.", "ssl.")
"""Overrides that say how to reach the brokers; the admin client takes them, too."""

_ADDRESS = re.compile(
    r"(?:[A-Z_]+://)?"  # librdkafka takes a protocol in front
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?)"
    r"(?::(?P<port>\d{1,5}))?"
)


def check_address(broker: str) -> None:
    """Raise LogConfigurationError unless ``broker`` is HOST:PORT, or several with commas between."""
    for part in broker.split(","):
        match = _ADDRESS.fullmatch(part.strip())
        if match is None:
            raise LogConfigurationError(f"broker = {broker!r}: {part!r} is no HOST:PORT")
        if match["port"] is not None and not 1 <= int(match["port"]) <= 65535:
            raise LogConfigurationError(f"broker = {broker!r}: port {match['port']} is not between 1 and 65535")


class PublisherConfig(NamedTuple):
    """``bulk`` is for the client that carries everything, ``single`` for the one that finds out who is refused.

    ``gapless``: the success of a packet implies that of all before it in its partition. ``batch_bytes`` and
    ``message_bytes_max`` are ``batch.size`` and ``message.max.bytes`` as they came out.
    """

    bulk: ClientConfig
    single: ClientConfig
    gapless: bool
    batch_bytes: int
    message_bytes_max: int


def publisher_config(settings: Settings) -> PublisherConfig:
    overrides = _overrides(settings.publisher_overrides, KEPT_PUBLISHER, "publisher")
    for key, value, breaks in broken_promises(overrides):
        log_line("warn", "kafka", "override breaks a promise", key=key, value=value, breaks=breaks)
    config = _consistent(_connection(settings) | _PUBLISHER, overrides)
    gapless = bool(config["enable.gapless.guarantee"])
    single = config | {"enable.gapless.guarantee": False, "linger.ms": 0}
    batch_bytes = _number(config, "batch.size") or BATCH_BYTES
    message_bytes_max = _number(config, "message.max.bytes") or MESSAGE_BYTES_MAX
    return PublisherConfig(config, single, gapless, batch_bytes, message_bytes_max)


def _consistent(defaults: ClientConfig, overrides: dict[str, str]) -> ClientConfig:
    """Idempotence needs acks=all and few requests in flight, the gapless guarantee needs idempotence: where an override
    takes one of them away, the others go, too. Order is kept all the same while one request is in flight."""
    config = defaults | overrides
    in_flight = _number(config, "max.in.flight.requests.per.connection") or 1
    if (str(config["acks"]) not in ("all", "-1") or in_flight > 5) and "enable.idempotence" not in overrides:
        config["enable.idempotence"] = False
    if is_false(str(config["enable.idempotence"])) or is_false(str(config["enable.gapless.guarantee"])):
        config["enable.gapless.guarantee"] = False
    return config


def _number(values: Mapping[str, Any], key: str) -> int | None:
    try:
        return int(values[key]) if key in values else None
    except ValueError:
        raise LogConfigurationError(f"Kafka client: {key} = {values[key]!r} is no whole number") from None


def live_config(settings: Settings) -> ClientConfig:
    """For the one client that follows every partition that somebody reads at its end."""
    return _consumer(settings, _LIVE)


def catch_up_config(settings: Settings) -> ClientConfig:
    """For a client that reads one partition from somewhere in its past to its end."""
    return _consumer(settings, _CATCH_UP)


def _consumer(settings: Settings, kind: ClientConfig) -> ClientConfig:
    overrides = _overrides(settings.consumer_overrides, KEPT_CONSUMER, "consumer")
    group = {"group.id": f"trackside-{uuid.uuid4()}"}  # asked for by librdkafka; nothing is ever committed under it
    return _connection(settings) | _CONSUMER | kind | group | overrides


def group_config(settings: Settings, group: str) -> ClientConfig:
    """For a client that reads and writes the offsets of a consumer group, of which it is no member."""
    bounds = {"session.timeout.ms": 4000, "heartbeat.interval.ms": 1000, "socket.timeout.ms": 10_000}
    return admin_config(settings) | {"group.id": group, "enable.auto.commit": False} | bounds


def admin_config(settings: Settings) -> ClientConfig:
    """For topics, watermarks and the question whether anybody is there."""
    connection = _connection(settings)
    given = settings.publisher_overrides | settings.consumer_overrides
    return connection | {key: value for key, value in given.items() if key.startswith(_CONNECTION_PREFIXES)}


def _connection(settings: Settings) -> ClientConfig:
    return {**_CONNECTION, **settings.security, "bootstrap.servers": settings.broker}


def _overrides(given: Mapping[str, str], kept: frozenset[str], whose: str) -> dict[str, str]:
    by_name = named(given)
    for key in sorted(kept & by_name.keys()):
        log_line("warn", "kafka", "override ignored", file=whose, key=key, reason="the server sets it itself")
    return {key: value for key, value in by_name.items() if key not in kept}


def made(client: Callable[[ClientConfig], Client], config: ClientConfig) -> Client:
    """A client of ``config``; LogConfigurationError names what librdkafka does not take."""
    try:
        return client(config)
    except (KafkaException, ValueError, TypeError) as error:
        raise LogConfigurationError(f"Kafka client: {reason_of(error)}") from error
