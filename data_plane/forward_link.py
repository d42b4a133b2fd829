"""The forwarder's connection to Kafka: one transactional client, from its start to its first failure.

A transaction's packets appear together or not at all, and the start of a client with the same transactional id ends
whatever a predecessor had under way: nothing of it can appear any more once :meth:`ForwardLink.open` has returned. So
what a look finds on Kafka then is what there is, and goes on from there.

A client that fails is thrown away, with all that is not committed; a refusal of packets ends the transaction only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from trackside.data_plane.forward_search import Fenced, LinkLost
from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import AFTERMATH, CULPABLE, FENCED, LIBRDKAFKA_LOG, code_of, reason_of
from trackside.data_plane.kafka_health import BrokerHealth, without_times
from trackside.data_plane.kafka_queue import Headers
from trackside.data_plane.log import Partition

__all__ = ["ForwardLink", "Parcel", "Refused", "link_config"]

TRANSACTION_SECONDS = 60.0
"""Kafka's own default. It ends a transaction whose client has gone: until then readers of its partitions wait."""

OPEN_SECONDS = 30.0
WAIT_SECONDS = 0.2
"""Of one wait inside librdkafka: between two the process says that it lives, and hears that it should stop."""


class Refused(Exception):
    """Kafka does not take some packets, and said so for good; the transaction is undone.

    ``partitions`` are those that were named, or all that were in the transaction; ``code`` is Kafka's. ``ended``: the
    client could not be brought back to a state in which it would do.
    """

    def __init__(self, partitions: Sequence[Partition], code: int, reason: str, ended: bool) -> None:
        super().__init__(reason)
        self.partitions = partitions
        self.code = code
        self.reason = reason
        self.ended = ended


class Parcel(NamedTuple):
    """Packets of one partition for one transaction; columns in parallel."""

    partition: Partition
    keys: Sequence[bytes]
    values: Sequence[bytes]
    times_ms: Sequence[int]
    headers: Sequence[Headers]


def link_config(publisher: ClientConfig, transactional_id: str) -> ClientConfig:
    """What the forwarder's client needs on top of what every client that writes has; its promises depend on it."""
    config = {key: value for key, value in publisher.items() if key != "enable.gapless.guarantee"}
    milliseconds = int(TRANSACTION_SECONDS * 1000)
    return config | {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": milliseconds,
        "message.timeout.ms": milliseconds,
        "enable.idempotence": True,
        "acks": "all",
    }


class ForwardLink:
    """Used by the forwarder's one thread. ``beat`` is called between waits, and may raise."""

    def __init__(self, config: ClientConfig, health: BrokerHealth, beat: Callable[[], None]) -> None:
        """Raises LogConfigurationError. Connects to nobody yet."""
        self._producer: Any = made(Producer, config | {"error_cb": health.on_error, "logger": LIBRDKAFKA_LOG})
        self._health = health
        self._beat = beat
        self._errors: dict[Partition, KafkaError] = {}
        self.in_doubt = False  # whether Kafka was told to commit, and has not answered

    def open(self) -> None:
        """Take over from whoever had this transactional id. Blocks up to OPEN_SECONDS; raises LinkLost."""
        self._insist(self._producer.init_transactions, OPEN_SECONDS)
        self._health.on_answer()

    def close(self) -> None:
        """Throw away what is left: nothing of it was promised to anybody."""
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        with contextlib.suppress(KafkaException):  # a client that has failed says so once more
            self._producer.poll(0)
        del self._producer

    def send(self, parcels: Sequence[Parcel]) -> list[list[int]]:
        """One transaction. Returns the offsets on Kafka of each parcel's packets. Raises LinkLost, Refused."""
        self._errors.clear()
        self.in_doubt = False
        try:
            self._producer.begin_transaction()
            offsets = [self._hand_over(parcel) for parcel in parcels]
            self._flush()
            self._check(parcels, offsets)
            self.in_doubt = True
            self._insist(self._producer.commit_transaction, TRANSACTION_SECONDS)
        except KafkaException as error:
            self._judge(parcels, error)
        self._health.on_answer()
        return offsets

    def _hand_over(self, parcel: Parcel) -> list[int]:
        """Give librdkafka the packets of a parcel; their offsets come into what is returned, as they are reported."""
        produce, (topic, number), errors = self._producer.produce, parcel.partition, self._errors
        offsets: list[int] = []
        put = offsets.append

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                put(message.offset())
            elif parcel.partition not in errors or _is_aftermath(errors[parcel.partition]):
                errors[parcel.partition] = error

        rows = zip(parcel.values, parcel.keys, parcel.times_ms, parcel.headers, strict=True)
        for value, key, time_ms, headers in rows:
            produce(topic, value, key, number, delivered, timestamp=time_ms, headers=headers)
        return offsets

    def _flush(self) -> None:
        """Until everything is reported."""
        deadline = time.monotonic() + TRANSACTION_SECONDS
        while self._producer.flush(WAIT_SECONDS):
            self._beat()
            if time.monotonic() > deadline:
                raise LinkLost(f"packets were not taken within {TRANSACTION_SECONDS:g} s")

    def _check(self, parcels: Sequence[Parcel], offsets: Sequence[Sequence[int]]) -> None:
        """Nothing is committed that was not taken whole and in order, whatever the client says of it."""
        if self._errors:
            errors = [KafkaException(error) for error in self._errors.values() if not _is_aftermath(error)]
            raise errors[0] if errors else self._why()
        for parcel, found in zip(parcels, offsets, strict=True):
            if (
                len(found) != len(parcel.values)
                or found[0] < 0
                or any(one >= next_one for one, next_one in pairwise(found))
            ):
                raise LinkLost(f"{parcel.partition}: offsets of what was sent do not stand in its order")

    def _why(self) -> KafkaException:
        """Why the transaction cannot go on, where its packets' reports do not say it: librdkafka tells who asks for
        another one."""
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            return error
        raise AssertionError("a transaction within a transaction")

    def _judge(self, parcels: Sequence[Parcel], error: KafkaException) -> None:
        """A refusal undoes the transaction; everything else ends the client."""
        refused = {place: error for place, error in self._errors.items() if code_of(error) in CULPABLE}
        if not refused and code_of(error) not in CULPABLE:
            raise _lost(error) from None
        inner: object = next(iter(refused.values()), error)
        named = list(refused) or [parcel.partition for parcel in parcels]
        raise Refused(named, code_of(inner), without_times(reason_of(inner)), ended=not self._undo()) from None

    def _undo(self) -> bool:
        """Whether the client will do for another transaction. It does not when Kafka had refused to begin this one."""
        try:
            self._insist(self._producer.abort_transaction, TRANSACTION_SECONDS)
        except (KafkaException, LinkLost):
            return False
        return True

    def _insist(self, verb: Callable[[float], None], seconds: float) -> None:
        """Call a verb of transactions until it has succeeded. Raises LinkLost; KafkaException for what is no matter
        of time."""
        deadline = time.monotonic() + seconds
        while True:
            self._beat()
            try:
                verb(WAIT_SECONDS)
                return
            except KafkaException as error:
                inner = error.args[0]
                if not inner.retriable() or inner.fatal():
                    if inner.fatal():
                        raise _lost(error) from None
                    raise
                if time.monotonic() > deadline:
                    raise LinkLost(f"{reason_of(error)}, for {seconds:g} s") from None


def _lost(error: KafkaException) -> LinkLost:
    return (Fenced if code_of(error) in FENCED else LinkLost)(reason_of(error))


def _is_aftermath(error: object) -> bool:
    return code_of(error) in AFTERMATH
