"""What gateways are told without asking: sessions that started or stopped, connections that were closed.

One stream a gateway, over ``trackside.internal.v1.ControlPlane``. Session events are told by their offset in the
session-info log, so a gateway that lost its stream asks from the offset that it has not seen and misses nothing;
connections are told as a snapshot of those that are open, then one by one as they are closed::

    Snapshot(connections, -1)      only while the sessions are still being read from the log
    Snapshot(connections, p)       what follows goes on from offset p
    SessionStarted / SessionStopped from the offset asked for (negative: from p), each once, in order
    ConnectionClosed               as it happens

Nobody waits for a gateway: one that does not take its events loses its stream and asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

from ma.streaming.api.v1 import api_pb2 as api
from trackside.control_plane.connection_uses import ConnectionUses
from trackside.control_plane.connections import ConnectionTable
from trackside.control_plane.session_fold import EventKind, SessionEvent
from trackside.control_plane.statuses import Context, NotReady
from trackside.protos import internal_pb2 as messages
from trackside.protos import internal_pb2_grpc as services

__all__ = ["QUEUED_MAX", "RECENT_MAX", "FollowService", "SessionState"]

log = logging.getLogger(__name__)

RECENT_MAX = 10_000
"""Session events kept at hand; an older offset costs a walk over all sessions."""

QUEUED_MAX = 10_000
"""Events that a gateway may leave untaken."""


class SessionState(Protocol):
    """The sessions as this module sees them."""

    @property
    def loaded(self) -> bool: ...

    @property
    def next_offset(self) -> int: ...

    def events_from(self, offset: int) -> list[SessionEvent]: ...


class _Stream:
    """One gateway's stream. ``session_offset`` is where its session events go on; None until the sessions are read."""

    def __init__(self, request: messages.FollowRequest) -> None:
        self.gateway = request.gateway
        self.epoch = request.epoch
        self.asked_offset = request.session_offset
        self.joined = False
        self.queued: asyncio.Queue[list[messages.FollowEvent] | str] = asyncio.Queue()
        self.ended = False

    def put(self, event: messages.FollowEvent) -> None:
        if self.queued.qsize() < QUEUED_MAX:
            self.queued.put_nowait([event])
        else:
            self.end(f"{self.gateway} left {QUEUED_MAX} events untaken; it may follow again from where it is")

    def put_stored(self, events: Iterable[messages.FollowEvent]) -> None:
        """Events of the past: however many there are, they count as one."""
        self.queued.put_nowait(list(events))

    def end(self, reason: str) -> None:
        """The stream ends with ``reason`` after what is queued."""
        if not self.ended:
            self.ended = True
            self.queued.put_nowait(reason)

    async def events(self) -> AsyncIterator[messages.FollowEvent]:
        while not isinstance(taken := await self.queued.get(), str):
            for event in taken:
                yield event
        raise NotReady(taken)


class FollowService(services.ControlPlaneServicer):
    """``trackside.internal.v1.ControlPlane``. ``epoch`` is the incarnation of this control plane."""

    def __init__(self, epoch: int, connections: ConnectionTable, uses: ConnectionUses, sessions: SessionState) -> None:
        self._epoch = epoch
        self._connections = connections
        self._uses = uses
        self._sessions = sessions
        self._streams: dict[str, _Stream] = {}  # by gateway
        self._recent: deque[SessionEvent] = deque()
        self._recent_from = 0  # every event at this offset or after it is in ``_recent``

    def on_session_event(self, event: SessionEvent) -> None:
        """The fold has taken an entry that started or stopped a session."""
        self._recent.append(event)
        if len(self._recent) > RECENT_MAX:
            self._recent_from = self._recent.popleft().offset + 1
        message = _session_message(event)
        for stream in self._live_streams():
            if stream.joined and event.offset >= stream.asked_offset:
                stream.put(message)

    def on_sessions_restored(self) -> None:
        """The sessions are those of a checkpoint: what happened before is asked of them."""
        self._recent_from = self._sessions.next_offset

    def on_sessions_loaded(self) -> None:
        """The sessions are read from the log up to where it ended: streams opened before that go on now."""
        for stream in self._live_streams():
            if not stream.joined:
                self._join(stream)

    def on_sessions_restarted(self) -> None:
        """The session-info log is another one: offsets start anew, so every gateway has to ask again."""
        self._recent.clear()
        self._recent_from = 0
        for stream in self._live_streams():
            stream.end("the session-info log is another one; follow again")

    def on_connection_closed(self, id: int) -> None:
        message = messages.FollowEvent(connection_closed=messages.ConnectionClosed(id=id))
        for stream in self._live_streams():
            stream.put(message)

    def end_all(self) -> None:
        """The control plane stops."""
        for stream in self._live_streams():
            stream.end("the control plane stops; follow its successor")

    def statistics(self) -> dict[str, int]:
        return {
            "gateways": len(self._live_streams()),
            "events_recent": len(self._recent),
            "events_untaken_max": max((stream.queued.qsize() for stream in self._streams.values()), default=0),
        }

    async def Follow(self, request: messages.FollowRequest, context: Context) -> AsyncIterator[messages.FollowEvent]:
        stream = _Stream(request)
        self._replace(stream)
        if self._sessions.loaded:
            self._join(stream)
        else:
            stream.put(self._snapshot(-1))
        try:
            async for event in stream.events():
                yield event
        finally:
            stream.ended = True
            if self._streams.get(stream.gateway) is stream:
                del self._streams[stream.gateway]

    async def LookUpConnection(
        self, request: messages.LookUpConnectionRequest, context: Context
    ) -> messages.LookUpConnectionResponse:
        opened = self._connections.find(request.id)
        if opened is None:
            return messages.LookUpConnectionResponse()
        self._uses.use(request.id)
        details = api.ConnectionDetails.FromString(opened.details)
        return messages.LookUpConnectionResponse(details=details, owner=opened.owner)

    async def ReportReads(self, request: messages.ReportReadsRequest, context: Context) -> messages.ReportReadsResponse:
        self._uses.on_report(request.gateway, request.connections)
        return messages.ReportReadsResponse()

    def _live_streams(self) -> list[_Stream]:
        return [stream for stream in self._streams.values() if not stream.ended]

    def _replace(self, stream: _Stream) -> None:
        """A gateway has one stream: that of its newest incarnation, and of that the last one asked for."""
        before = self._streams.get(stream.gateway)
        if before is not None and before.epoch > stream.epoch:
            raise NotReady(f"{stream.gateway}: epoch {stream.epoch} is over, {before.epoch} follows already")
        if before is not None:
            before.end(f"{stream.gateway} follows again with epoch {stream.epoch}")
        self._streams[stream.gateway] = stream

    def _join(self, stream: _Stream) -> None:
        """Let session events go on from the offset asked for: stored ones now, new ones as they come."""
        position = self._sessions.next_offset
        if not 0 <= stream.asked_offset <= position:  # only what comes, or of a log that is no more
            stream.asked_offset = position
        stream.put(self._snapshot(position))
        stream.put_stored(map(_session_message, self._stored_from(stream.asked_offset)))
        stream.joined = True

    def _stored_from(self, offset: int) -> list[SessionEvent]:
        if offset < self._recent_from:
            return self._sessions.events_from(offset)
        return [event for event in self._recent if event.offset >= offset]

    def _snapshot(self, session_offset: int) -> messages.FollowEvent:
        return messages.FollowEvent(
            snapshot=messages.Snapshot(
                epoch=self._epoch, session_offset=session_offset, open_connections=self._connections.ids()
            )
        )


def _session_message(event: SessionEvent) -> messages.FollowEvent:
    told: dict[str, Any] = {"offset": event.offset, "session_key": event.session_key, "data_source": event.data_source}
    if event.kind is EventKind.STARTED:
        return messages.FollowEvent(session_started=messages.SessionStarted(**told))
    return messages.FollowEvent(session_stopped=messages.SessionStopped(**told))
