"""Which librdkafka properties an operator may override, under which names, and what an override can break.

Knows no Kafka client: ``check-config`` says with it what the producers and consumers will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["KEPT_CONSUMER", "KEPT_PUBLISHER", "broken_promises", "is_false", "named"]

KEPT_PUBLISHER = frozenset({"bootstrap.servers", "allow.auto.create.topics", "delivery.report.only.error"})
KEPT_CONSUMER = frozenset(
    {
        "bootstrap.servers",
        "group.id",
        "auto.offset.reset",
        "allow.auto.create.topics",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
    }
)
"""What the server sets itself, because its code depends on it."""

_ALIASES = {
    "request.required.acks": "acks",
    "queue.buffering.max.ms": "linger.ms",
    "compression.codec": "compression.type",
    "delivery.timeout.ms": "message.timeout.ms",
    "message.send.max.retries": "retries",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "metadata.broker.list": "bootstrap.servers",
}
"""librdkafka's second names: one name a property, else both would be set and the order decide."""


class _Promise(NamedTuple):
    broken: Callable[[str], bool]
    sentence: str


def is_false(value: str) -> bool:
    return value.strip().lower() in ("false", "0", "f", "no", "off")


_PROMISES: dict[str, _Promise] = {
    "acks": _Promise(
        lambda value: value not in ("all", "-1"),
        "promise 2: what is acknowledged as logged may be lost with one broker",
    ),
    "enable.idempotence": _Promise(is_false, "promise 4: a packet may stand twice whenever a request is sent again"),
    "enable.gapless.guarantee": _Promise(is_false, "promise 3: packets behind a refused one may pass its neighbours"),
    "max.in.flight.requests.per.connection": _Promise(
        lambda value: value != "1", "promises 2 and 3: where a topic is new, packets may be lost or change places"
    ),
    "message.timeout.ms": _Promise(
        lambda value: value != "0", "promise 4: packets that were timed out are sent again and may stand twice"
    ),
}
"""The promises of docs/guarantees.md that stand on a property of the client that writes."""


def named(given: Mapping[str, str]) -> dict[str, str]:
    """The same properties under their first names."""
    return {_ALIASES.get(key, key): value for key, value in given.items()}


def broken_promises(publisher: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(property, value, what breaks) for each override of the client that writes which breaks a promise."""
    for key, value in named(publisher).items():
        promise = _PROMISES.get(key)
        if promise is not None and promise.broken(value):
            yield key, value, promise.sentence
