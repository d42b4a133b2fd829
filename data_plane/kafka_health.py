"""Whether Kafka answers, as one client process knows it from errors, answers and a probe."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from trackside.data_plane.kafka_errors import reason_of
from trackside.data_plane.log import LogConfigurationError, LogState

if TYPE_CHECKING:
    from trackside.data_plane.kafka_admin import KafkaAdmin

__all__ = ["BrokerHealth", "without_times"]

PROBE_SECONDS = 5.0
"""How often a cluster that is silent for no reason is asked; a broker that hangs raises no error."""

PROBE_SECONDS_AWAY = 1.0

REFUSED_SECONDS = 2.0
"""Credentials count as refused after this long: a broker that starts refuses everybody until it knows its users."""

_AWAY = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL})
_DETAIL = frozenset({KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL, KafkaError._AUTHENTICATION})


_NOT_TRUSTED = "certificate verify failed"
_ALERTS = ("certificate", "unknown ca")
"""What TLS calls it: we do not trust the broker's certificate, or the broker's alert says that ours will not do. Other
failures of a handshake may come from a connection that was cut: they are a state, not a verdict."""

_PASSING = re.compile(r" \(after \d+ms in state .*$| \(after \d+ ms\)$")
"""What is another text each time: a state that stays the same must read the same."""


class BrokerHealth:
    """Fed from any thread by what clients see; read and driven by the agent thread.

    Away at first, until something has answered. ``on_error`` is every client's ``error_cb``.
    """

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._state = LogState(False, f"no broker of {broker} has answered yet")
        self._ever_answered = False
        self._detail = ""
        self._refused = ""
        self._refused_since = 0.0
        self._probing = False
        self._probe_at = 0.0

    def state(self) -> LogState:
        return self._state

    @property
    def answers(self) -> bool:
        return self._state.available

    def on_error(self, error: KafkaError) -> None:
        """Any thread. An error of a single broker is kept as the detail; only "all of them" changes the state."""
        code = error.code()
        if code in _DETAIL:
            self._detail = without_times(reason_of(error))
        if not self._refused and (story := _refusal(error)):
            self._refused, self._refused_since = f"{story}: {reason_of(error)}", time.monotonic()
        if code in _AWAY:
            self._away()

    def on_answer(self) -> None:
        """Any thread: a broker has done what it was asked."""
        self._ever_answered = True
        self._refused = ""
        if not self._state.available:
            self._state = LogState(True)

    def check_credentials(self) -> None:
        """Raise LogConfigurationError when the brokers have refused us, or we them, from the start on.

        Later it is a state like any other: credentials that are changed under a running server come back.
        """
        if self._refused and not self._ever_answered and time.monotonic() - self._refused_since > REFUSED_SECONDS:
            raise LogConfigurationError(f"broker = {self._broker!r} {self._refused}")

    def do_work(self, now: float, admin: KafkaAdmin) -> None:
        """Ask the cluster whether it is there, now and then."""
        self.check_credentials()
        if now >= self._probe_at and not self._probing:
            self._probing = True
            self._probe_at = now + (PROBE_SECONDS if self.answers else PROBE_SECONDS_AWAY)
            admin.probe(self._on_probe)

    def _on_probe(self, error: str | None) -> None:
        self._probing = False
        if error is None:
            self.on_answer()
        else:
            self._detail = self._detail or error
            self._away()

    def _away(self) -> None:
        """Believed at once; a false alarm (idle connections that a broker closes) is over with the next probe."""
        self._state = LogState(False, f"no broker of {self._broker} answers: {self._detail}")
        self._probe_at = min(self._probe_at, time.monotonic() + PROBE_SECONDS_AWAY / 10)


def without_times(reason: str) -> str:
    """A reason that reads the same whenever it is the same."""
    return _PASSING.sub("", reason)


def _refusal(error: KafkaError) -> str:
    """The story of an error that the same configuration will meet again; empty for every other."""
    text = error.str()
    if error.code() == KafkaError._AUTHENTICATION:
        return "refuses the credentials"
    if _NOT_TRUSTED in text:
        return "has a certificate that is not trusted"
    if "SSL alert" in text and any(word in text for word in _ALERTS):
        return "refuses the client's certificate"
    return ""
