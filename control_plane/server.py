"""The control plane's services on their Unix socket: sessions, connections, data formats, keys, and what gateways follow.

::

    gateway --passed-through calls--> [ StatusInterceptor ] --> SessionService ------> SessionChanges --> LogFold
            --LookUpConnection------>                       --> DataFormatService ---> DataFormats -----> LogFold ...
            --Follow---------------->                       --> ConnectionService ---> ConnectionTable (run directory)
                                                            --> KeyService ----------> LocalKeys (data directory)
                                                            --> FollowService

All run on one event loop. The log is reached through a :class:`LogPort`; the process around (links, liveness, signals)
is wired up elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import grpc

from ma.streaming.api.v1 import api_pb2_grpc as api
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as key_generator
from trackside.control_plane.access import AccessInterceptor
from trackside.control_plane.background import Background
from trackside.control_plane.checkpoint import Checkpoints
from trackside.control_plane.clock import SYSTEM_CLOCK, Clock
from trackside.control_plane.connection_uses import ConnectionUses, sweep_seconds
from trackside.control_plane.connections import ConnectionService, ConnectionTable
from trackside.control_plane.data_formats import DataFormats, DataFormatService
from trackside.control_plane.follow import FollowService
from trackside.control_plane.keys import Keys, KeyService, LocalKeys, Node, NumberSource
from trackside.control_plane.letter_service import LetterService
from trackside.control_plane.log_port import LogAway, LogPort
from trackside.control_plane.metrics import Population
from trackside.control_plane.node_number import ClaimedNode, FixedNode
from trackside.control_plane.remote_keys import RemoteKeys
from trackside.control_plane.session_changes import SessionChanges
from trackside.control_plane.session_fold import SessionEvent
from trackside.control_plane.sessions import SessionService
from trackside.control_plane.statuses import StatusInterceptor
from trackside.control_plane.streams import StreamTable
from trackside.data_plane.grpc_options import PENDING_OPTIONS
from trackside.data_plane.metrics import EXPIRED
from trackside.data_plane.refusals import Log
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings
from trackside.protos import internal_pb2_grpc as internal
from trackside.shm.counters import CounterTable

__all__ = ["ControlPlane"]

log = logging.getLogger(__name__)

LOAD_SECONDS = 5.0
RETRY_SECONDS = 0.2


def _ignore_state(_: str) -> None:
    pass


class ControlPlane:
    """All services of one control-plane process. Make it inside the running event loop.

    ``on_state`` gets one line for an operator saying why sessions cannot be answered yet, and "" when they can.
    ``counters`` and ``log`` are the process's own, as a worker has them.
    ``instance`` tells runs of the server on one data directory apart. ``ready`` is set once the sessions are read from the log; connections and keys are served from :meth:`start` on.
    ``failed`` gets the exception of a background task that should not have failed: the process must end.
    Raises BadName (settings), KeyFileDamaged, OSError (run or data directory).
    """

    def __init__(
        self,
        port: LogPort,
        settings: Settings,
        socket_path: str,
        epoch: int,
        *,
        instance: str = "",
        clock: Clock = SYSTEM_CLOCK,
        on_state: Callable[[str], None] = _ignore_state,
        counters: CounterTable,
        log: Log,
    ) -> None:
        routing = Routing(settings)
        self.ready = asyncio.Event()
        self._socket_path = socket_path
        self._on_state = on_state
        self._background = Background()
        self._connections = ConnectionTable(Path(settings.run_dir) / "connections")
        self._keys = _keys_of(port, routing, settings, clock, self._background, instance)
        # The local log is on the same disk and has it all; a checkpoint is for a log that can be away.
        checkpoints = Checkpoints(settings.data_dir, settings.broker) if settings.broker else None
        self._formats = DataFormats(port, routing, settings, self._keys, self._background, checkpoints)
        self._sessions: SessionChanges | None = None
        uses = ConnectionUses(
            Path(settings.run_dir) / "connections.used", settings.connection_idle_seconds, settings.gateways, clock
        )
        self._follow = FollowService(epoch, self._connections, uses, self)
        if settings.integrate_session_management:
            self._sessions = SessionChanges(
                port,
                routing,
                settings,
                clock,
                self._keys,
                self._background,
                on_event=self._follow.on_session_event,
                on_restart=self._on_sessions_restarted,
                checkpoints=checkpoints,
            )
            self._follow.on_sessions_restored()
        streams = StreamTable(port, routing, clock, checkpoints)
        session_service = SessionService(self._sessions, streams, routing, settings, clock)
        interceptors: list[grpc.aio.ServerInterceptor] = [StatusInterceptor(counters, log)]
        if settings.tokens_file:
            interceptors.append(AccessInterceptor(self._connections, session_service.data_source_of))
        self._server = grpc.aio.server(
            interceptors=interceptors,
            # Gateways have the limits: of a request's size, and of calls under way (ControlCallsMax, OpenCallsMax).
            options=[("grpc.max_receive_message_length", -1), *PENDING_OPTIONS],
        )
        self._sweep_seconds = sweep_seconds(settings.connection_idle_seconds)
        self._expired = counters.counter(EXPIRED)
        self._connection_service = ConnectionService(
            self._connections, uses, routing, settings, self._follow.on_connection_closed
        )
        self._add_services(
            session_service,
            self._connection_service,
            KeyService(self._keys),
            LetterService(port, routing),
        )

    def _add_services(
        self, sessions: SessionService, connections: ConnectionService, keys: KeyService, letters: LetterService
    ) -> None:
        api.add_SessionManagementServiceServicer_to_server(sessions, self._server)
        api.add_ConnectionManagerServiceServicer_to_server(connections, self._server)
        api.add_DataFormatManagerServiceServicer_to_server(DataFormatService(self._formats), self._server)
        key_generator.add_UniqueKeyGeneratorServiceServicer_to_server(keys, self._server)
        internal.add_ControlPlaneServicer_to_server(self._follow, self._server)
        internal.add_DeadLettersServicer_to_server(letters, self._server)

    @property
    def failed(self) -> asyncio.Future[None]:
        return self._background.failed

    async def start(self) -> None:
        """Serve from now on, and read the sessions; does not wait for them. Raises OSError for the socket."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)  # of a predecessor that was killed
        try:
            self._server.add_insecure_port(f"unix:{self._socket_path}")
        except RuntimeError as error:
            raise OSError(f"{self._socket_path}: cannot listen there: {error}") from None
        await self._server.start()
        self._background.spawn(self._load_sessions(), "loading of sessions")
        if self._sweep_seconds:
            self._background.spawn(self._expire_connections(), "expiry of connections")

    async def _expire_connections(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            if expired := self._connection_service.expire_idle():
                self._expired.add(expired)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those under way finish within ``grace`` seconds, then let go of everything."""
        self._follow.end_all()
        await self._server.stop(grace)
        await self._background.stop()
        await self._keys.close()
        self._connections.shut()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counts by part, for the status pages."""
        return {
            "sessions": self._sessions.statistics() if self._sessions else {},
            "connections": self._connections.statistics(),
            "data_formats": self._formats.statistics(),
            "follow": self._follow.statistics(),
        }

    def population(self) -> Population:
        """What is counted by data source, for a scrape. Walks over data sources, not over sessions."""
        return Population(
            sessions=self._sessions.fold.counts() if self._sessions else {},
            formats=self._formats.counts(),
            connections=self._connections.counts(),
            parts=self.statistics(),
        )

    # -- the sessions as FollowService sees them ----------------------------------------------------------------------

    @property
    def loaded(self) -> bool:
        return self._sessions is None or self._sessions.loaded

    @property
    def next_offset(self) -> int:
        return 0 if self._sessions is None else self._sessions.next_offset

    def events_from(self, offset: int) -> list[SessionEvent]:
        return [] if self._sessions is None else self._sessions.events_from(offset)

    def _on_sessions_restarted(self) -> None:
        self._follow.on_sessions_restarted()
        if self.ready.is_set():
            self._background.spawn(self._load_sessions(), "loading of sessions")

    async def _load_sessions(self) -> None:
        """Try for ever: while the log is away the server is up and says so."""
        while self._sessions is not None:
            try:
                await self._sessions.ensure_loaded(LOAD_SECONDS)
                break
            except LogAway as away:
                self._on_state(f"sessions cannot be read from the log: {away}")
                await asyncio.sleep(RETRY_SECONDS)
        self._on_state("")
        self._follow.on_sessions_loaded()
        self.ready.set()


def _keys_of(
    port: LogPort, routing: Routing, settings: Settings, clock: Clock, background: Background, instance: str
) -> Keys:
    """Keys as configured. A log on this machine's disk is one server's, so its number needs no claim."""
    if settings.use_remote_keys:
        return RemoteKeys(settings)
    node: Node = FixedNode(settings.node_number or 0)
    if settings.broker:
        node = ClaimedNode(
            port,
            routing.session_info,
            background,
            data_dir=settings.data_dir,
            place=f"{settings.broker} {routing.session_info.topic}",
            wanted=settings.node_number,
            instance=instance,
        )
    return LocalKeys(NumberSource(settings.data_dir, clock), node)
