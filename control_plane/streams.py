"""Which streams a data source has: asked so often by readers that the answer is kept for a second."""

from __future__ import annotations

from typing import NamedTuple

from trackside.control_plane.clock import Clock
from trackside.control_plane.log_port import LogAway, LogPort
from trackside.control_plane.shared_calls import SharedCalls
from trackside.data_plane.routing import BadName, Routing

__all__ = ["FRESH_SECONDS", "StreamTable"]

FRESH_SECONDS = 0.5
"""On top of the age of the port's list: clients expect a new stream within about a second of its first packet."""

KEPT_MAX = 4096
"""Data sources whose answer is kept; beyond it the oldest goes."""

ASK_SECONDS = 5.0


class _Answer(NamedTuple):
    streams: list[str]
    asked_at: float


class StreamTable:
    """Named streams by data source, of all existing topics."""

    def __init__(self, port: LogPort, routing: Routing, clock: Clock) -> None:
        self._port = port
        self._routing = routing
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._asking: SharedCalls[str, list[str]] = SharedCalls()

    async def streams_of(self, data_source: str) -> list[str]:
        """Its streams without the main one. The last answer, however old, while the log is away; without one LogAway.

        A data source that cannot have topics (other programs may put any name on the log) has none.
        """
        known = self._answers.get(data_source)
        if known is not None and self._clock.monotonic() - known.asked_at < FRESH_SECONDS:
            return known.streams
        try:
            self._routing.naming.check_data_source(data_source)
            return await self._asking.call(data_source, lambda: self._ask(data_source))
        except BadName:
            return []
        except LogAway:
            if known is None:
                raise
            return known.streams

    async def _ask(self, data_source: str) -> list[str]:
        asked_at = self._clock.monotonic()
        streams = self._routing.streams_of(data_source, await self._port.topics(data_source, ASK_SECONDS))
        self._answers.pop(data_source, None)  # so that the newest answer stands last
        self._answers[data_source] = _Answer(streams, asked_at)
        if len(self._answers) > KEPT_MAX:
            del self._answers[next(iter(self._answers))]
        return streams
