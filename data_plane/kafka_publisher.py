"""One producing client of librdkafka and the log thread that takes its reports.

The agent thread produces; the log thread blocks in ``poll`` (an interval under 1 ms would spin), puts reports aside and
wakes the agent. A client that has failed is never repaired: it *retires*, that is, it sends nothing more, lets what is
under way be answered within a bound, and is thrown away; then a new one takes its place. Everything it was given and
has not reported then counts as unknown.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Producer

from trackside.data_plane.kafka_config import ClientConfig, made
from trackside.data_plane.kafka_errors import LIBRDKAFKA_LOG, reason_of
from trackside.data_plane.kafka_health import BrokerHealth
from trackside.data_plane.kafka_queue import Chunk
from trackside.data_plane.log import Partition, Wake

__all__ = ["KafkaPublisher", "Report"]

Report = Callable[[KafkaError | None], None]
"""Called in the agent thread with what became of a message: None is "all replicas have it"."""

POLL_SECONDS = 0.2
"""Bound of a wait without news; only stopping waits for it."""

RETIRE_SECONDS = 2.0
"""How long a failed client may wait for answers to what it has sent."""

_PARTITION = re.compile(r"\bfor (\S+) \[(\d+)\]")


class KafkaPublisher:
    """Made, fed and dropped by the agent thread."""

    def __init__(self, config: ClientConfig, name: str, health: BrokerHealth, wake: Wake) -> None:
        self._health = health
        self._wake = wake
        self._reports: deque[tuple[Report, KafkaError | None]] = deque()
        self._stopping = False
        self._producer: Any = made(Producer, config | {"error_cb": health.on_error, "logger": LIBRDKAFKA_LOG})
        self.produce: Callable[..., None] = self._producer.produce
        self.failure = ""
        self.soft = False
        self.retired = False
        self.born = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)
        self._thread.start()

    def send(self, partition: Partition, chunk: Chunk, report: Report, *, each: bool) -> tuple[int, object]:
        """Hand over ``chunk``. Returns how many of its messages were taken, and why no more.

        Its last message is reported, or with ``each`` all of them; ``chunk.reports`` says how many reports will come.
        """
        produce, (topic, number) = self.produce, partition
        delivered, count = self._reporting(report), len(chunk.values)
        callbacks = itertools.chain(itertools.repeat(delivered if each else None, count - 1), (delivered,))
        messages = zip(chunk.values, chunk.keys, callbacks, strict=False)
        try:
            if chunk.headers is None:
                for value, key, callback in messages:
                    produce(topic, value, key, number, callback)
            else:
                for (value, key, callback), headers in zip(messages, chunk.headers, strict=False):
                    produce(topic, value, key, number, callback, headers=headers)
        except:  # noqa: E722 - some versions of confluent-kafka raise a KafkaError, which is no exception class
            taken = count - 1 - sum(1 for _ in messages)
            chunk.reports = taken if each else 0
            return taken, sys.exc_info()[1]
        chunk.reports = count if each else 1
        return count, None

    def send_one(self, partition: Partition, chunk: Chunk, index: int, report: Report) -> object:
        """Hand over one message of ``chunk``. Returns why it was not taken, None when it was."""
        topic, number = partition
        delivered, headers = self._reporting(report), chunk.headers_of(index)
        try:
            self.produce(topic, chunk.values[index], chunk.keys[index], number, delivered, headers=headers)
        except:  # noqa: E722 - as in send
            return sys.exc_info()[1]
        return None

    def take_reports(self) -> int:
        """Agent thread: call what has been reported."""
        done = 0
        reports = self._reports
        while reports:
            report, error = reports.popleft()
            report(error)
            done += 1
        return done

    def fail(self, reason: str, *, soft: bool) -> None:
        """Agent thread: no more of this client. ``retired`` is set when it has fallen silent.

        ``soft``: no packet is to blame, the same ones may be sent again as they are.
        """
        if not self.failure:
            self.failure, self.soft = reason, soft
            producer = self._producer
            if producer is not None:
                _purge(producer, in_flight=False)  # at once: nothing may pass what has failed

    @property
    def suspect(self) -> Partition | None:
        """The partition that the failure names: a hint, nothing more."""
        match = _PARTITION.search(self.failure)
        return Partition(match[1], int(match[2])) if match else None

    def close(self, timeout_seconds: float) -> None:
        """Throw away what is left. The log thread ends by itself when that takes longer than the bound."""
        self._stopping = True
        self._thread.join(timeout_seconds)

    def _reporting(self, report: Report) -> Callable[[KafkaError | None, object], None]:
        """A delivery callback that brings ``report`` to the agent thread."""
        put = self._reports.append

        def delivered(error: KafkaError | None, _message: object) -> None:
            put((report, error))

        return delivered

    # -- the log thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping and not self.failure:
            self._poll(POLL_SECONDS)
        deadline = time.monotonic() + (0.0 if self._stopping else RETIRE_SECONDS)
        _purge(self._producer, in_flight=False)
        while len(self._producer) and time.monotonic() < deadline:
            self._poll(0.01)
        _purge(self._producer, in_flight=True)
        self._poll(0.0)
        self.produce = _gone
        self._producer = None  # the last reference: librdkafka lets go of its threads and connections here
        self.retired = True
        self._wake()

    def _poll(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except:  # noqa: E722 - some versions of confluent-kafka raise a fatal KafkaError, which is no exception class
            self.soft = False
            self.failure = reason_of(sys.exc_info()[1])  # it names the partition: better than any reason before
        if self._reports:
            self._wake()


def _purge(producer: Any, *, in_flight: bool) -> None:
    producer.purge(in_queue=True, in_flight=in_flight, blocking=False)


def _gone(*_: object) -> None:
    raise BufferError("this client has retired")
