"""Which streams a data source has: asked so often by readers that the answer is kept for a second.

Answers are also kept on disk, ``<data_dir>/checkpoints/streams``: while the log is away the last one is the best.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import msgspec

from trackside.control_plane.checkpoint import Checkpoints
from trackside.control_plane.clock import Clock
from trackside.control_plane.frame_file import FrameFile
from trackside.control_plane.log_port import LogAway, LogPort
from trackside.control_plane.shared_calls import SharedCalls
from trackside.data_plane.routing import BadName, Routing
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["FRESH_SECONDS", "StreamTable"]

log = logging.getLogger(__name__)

FRESH_SECONDS = 0.5
"""On top of the age of the port's list: clients expect a new stream within about a second of its first packet."""

KEPT_MAX = 4096
"""Data sources whose answer is kept; beyond it the oldest goes."""

ASK_SECONDS, PATIENCE_SECONDS = 5.0, 1.0
"""How long the log is waited for; the second where an older answer is at hand."""

SLACK_BYTES = 1 << 16
"""The file is written anew when it has twice the bytes that the answers need, and this."""


class _Kept(msgspec.Struct, array_like=True):
    place: str
    data_source: str
    streams: list[str]


class _Answer(NamedTuple):
    streams: list[str]
    asked_at: float


class StreamTable:
    """Named streams by data source, of all existing topics."""

    def __init__(self, port: LogPort, routing: Routing, clock: Clock, checkpoints: Checkpoints | None = None) -> None:
        self._port = port
        self._routing = routing
        self._clock = clock
        self._asking: SharedCalls[str, list[str]] = SharedCalls()
        self._place = "" if checkpoints is None else f"{checkpoints.broker} {routing.session_info.topic}"
        self._file = None if checkpoints is None else FrameFile(checkpoints.path("streams"))
        self._needed_bytes = 0
        self._answers: dict[str, _Answer] = {}
        self._restore()

    def _restore(self) -> None:
        """Answers of before, each too old to be given while the log answers."""
        try:
            for frame in self._file.read() if self._file else ():
                kept = msgspec.msgpack.decode(frame, type=_Kept)
                if kept.place == self._place:
                    self._keep(kept.data_source, _Answer(kept.streams, -math.inf))
        except UNDECODABLE as damaged:
            log.warning("streams that were kept are not all used: %s", damaged)
        except OSError as away:
            self._go_without(away)
        try:
            self._rewrite()
        except OSError as away:
            self._go_without(away)

    async def streams_of(self, data_source: str) -> list[str]:
        """Its streams without the main one. The last answer, however old, while the log is away; without one LogAway.

        A data source that cannot have topics (other programs may put any name on the log) has none.
        """
        known = self._answers.get(data_source)
        if known is not None and self._clock.monotonic() - known.asked_at < FRESH_SECONDS:
            return known.streams
        try:
            self._routing.naming.check_data_source(data_source)
            bound = ASK_SECONDS if known is None else PATIENCE_SECONDS
            return await self._asking.call(data_source, lambda: self._ask(data_source, bound))
        except BadName:
            return []
        except LogAway:
            if known is None:
                raise
            return known.streams

    async def _ask(self, data_source: str, seconds: float) -> list[str]:
        asked_at = self._clock.monotonic()
        streams = self._routing.streams_of(data_source, await self._port.topics(data_source, seconds))
        known = self._answers.get(data_source)
        self._keep(data_source, _Answer(streams, asked_at))
        if self._file and (known is None or known.streams != streams):
            self._note(data_source, streams)
        return streams

    def _keep(self, data_source: str, answer: _Answer) -> None:
        self._answers.pop(data_source, None)  # so that the newest answer stands last
        self._answers[data_source] = answer
        if len(self._answers) > KEPT_MAX:
            del self._answers[next(iter(self._answers))]

    def _note(self, data_source: str, streams: list[str]) -> None:
        assert self._file is not None
        try:
            self._file.append(msgspec.msgpack.encode(_Kept(self._place, data_source, streams)))
            if self._file.size_bytes > 2 * self._needed_bytes + SLACK_BYTES:
                self._rewrite()
        except OSError as full:
            self._go_without(full)

    def _rewrite(self) -> None:
        if self._file:
            kept = [_Kept(self._place, name, answer.streams) for name, answer in self._answers.items()]
            self._file.replace(map(msgspec.msgpack.encode, kept))
            self._needed_bytes = self._file.size_bytes

    def _go_without(self, reason: Exception) -> None:
        log.warning("streams are not kept for the next start: %s", reason)
        self._file = None
