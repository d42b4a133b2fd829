"""The gateway process: the public gRPC ports.

Serves packet writer and reader on raw bytes, fans out session notifications, answers health, and passes control calls
through to the control plane. Several gateways share the ports by SO_REUSEPORT; a client's connection stays with one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
import uvloop
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from ma.streaming.key_generator.v1 import key_generator_pb2
from trackside.data_plane import metrics
from trackside.data_plane.control_calls import PASSED_METHODS, ControlCalls, Notifications
from trackside.data_plane.door import Door
from trackside.data_plane.grpc_options import PENDING_OPTIONS, connections_max
from trackside.data_plane.guard import Guard
from trackside.data_plane.limits import ControlCallsOpen, LimitReached, Limits, OpenCalls, address_of
from trackside.data_plane.packet_reader import PacketReader
from trackside.data_plane.packet_writer import PacketWriter
from trackside.data_plane.peer import Peer
from trackside.data_plane.reflection import METHODS as REFLECTION_METHODS
from trackside.data_plane.reflection import reflection_handler
from trackside.data_plane.refreshed import Refreshed
from trackside.data_plane.refusals import METHOD, OTHER_METHOD, Refusals
from trackside.data_plane.routing import Routing
from trackside.data_plane.tcp_connections import TcpConnections
from trackside.data_plane.tls import Tls
from trackside.data_plane.worker import Worker
from trackside.protos import internal_pb2
from trackside.shm.liveness import WorkerState

__all__ = ["REQUEST_BYTES_MAX", "Gateway", "run"]

REQUEST_BYTES_MAX = 6 << 20
"""Largest request that gRPC hands over. The reference takes 4 MiB; what is larger is refused by the door, which names
the field, up to here, where half of a 16 MiB ring still holds it."""

HEALTH_SECONDS = 0.25

CLOSING = "the server is shutting down"

_API = "ma.streaming.api.v1"
_WRITER = f"{_API}.PacketWriterService"
_READER = f"{_API}.PacketReaderService"
_SESSIONS = f"{_API}.SessionManagementService"

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Any, Context], Awaitable[Any]]
Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Gateway(grpc.GenericRpcHandler):
    """All RPCs of this process; ``service`` is what grpc asks for a method's handler."""

    def __init__(self, worker: Worker) -> None:
        settings = worker.spec.settings
        self.worker = worker
        self.peer = Peer(worker)
        counters = metrics.gateway_counters(worker.counters)
        routing = Routing(settings)
        refusals = self._refusals = Refusals(worker.counters, worker.log)
        limits = Limits(worker)
        self._control = ControlCalls(worker, refusals)
        self._notifications = Notifications(limits, enabled=settings.integrate_session_management)
        self._calls = OpenCalls(settings, limits)
        self._control_calls = ControlCallsOpen(settings, limits)
        self._open_calls = counters.open_calls
        door = Door(routing, self.peer, settings)
        self._writer = PacketWriter(self.peer, door, settings, counters, refusals, limits)
        self._reader = PacketReader(self.peer, routing, settings, self._control.look_up, counters, refusals, limits)
        self._mirror = metrics.Mirror(worker.counters, metrics.READERS_STATISTICS)
        self._health = health.aio.HealthServicer()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._guard = Guard(worker)
        self._handlers = self._table()
        self._tls = Tls(worker)
        self._operator_files: list[Refreshed[Any]] = []
        connections = connections_max(worker)
        self._tcp_connections = TcpConnections(worker, connections)
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
                # Without this grpc waits a minute for the answer, whatever the time-out of keepalive is.
                ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_allowed_incoming_connections", connections),
                *PENDING_OPTIONS,
            ]
        )

    # -- the table of methods -----------------------------------------------------------------------------------------

    def _table(self) -> dict[str, Method]:
        unary = grpc.unary_unary_rpc_method_handler
        collect = grpc.stream_unary_rpc_method_handler
        stream = grpc.unary_stream_rpc_method_handler
        table: dict[str, tuple[Callable[[Handler], Method], Handler]] = {
            f"/{_WRITER}/WriteDataPacket": (unary, self._writer.write_data_packet),
            f"/{_WRITER}/WriteDataPackets": (collect, self._writer.write_data_packets),
            f"/{_WRITER}/WriteInfoPacket": (unary, self._writer.write_info_packet),
            f"/{_WRITER}/WriteInfoPackets": (collect, self._writer.write_info_packets),
            f"/{_READER}/ReadPackets": (stream, self._reader.read_packets),
            f"/{_READER}/ReadEssentials": (stream, self._reader.read_essentials),
            f"/{_READER}/ReadDataPackets": (stream, self._reader.read_data_packets),
            f"/{_SESSIONS}/GetSessionStartNotification": (stream, self._notifications.starts),
            f"/{_SESSIONS}/GetSessionStopNotification": (stream, self._notifications.stops),
        }
        table |= {method: (unary, self._passed(method)) for method in PASSED_METHODS}
        if self.worker.spec.settings.reflection:
            table |= dict.fromkeys(REFLECTION_METHODS, (grpc.stream_stream_rpc_method_handler, reflection_handler()))
        guarded = self._guard.guarded
        methods = {path: make(self._ended(path, guarded(path, handler))) for path, (make, handler) in table.items()}
        return methods | self._health_methods()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Method | None:
        method = handler_call_details.method
        if method not in self._handlers:  # grpc answers, and knows the peer
            self._refusals.note(OTHER_METHOD, grpc.StatusCode.UNIMPLEMENTED, "", f"no method {method}")
        return self._handlers.get(method)

    def _passed(self, method: str) -> Handler:
        async def call(request: bytes, context: Context) -> bytes:
            await self._writer.wait_turn(request, context)
            with self._control_calls.one_more(address_of(context)):
                return await self._control.pass_through(method, request, context)

        return call

    def _ended(self, path: str, handler: Handler) -> Handler:
        """Say which method it is, for what may be refused. Keep the call's task, so that a drain can end it with a status;
        no message that we cannot read gets far, and no call that is one too many."""
        name = path.rpartition("/")[2]

        async def call(request: Any, context: Context) -> Any:
            METHOD.set(name)
            peer = address_of(context)
            try:
                self._calls.enter(peer)
            except LimitReached as error:
                await self._refusals.refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._tasks.add(task)
            try:
                return await handler(request, context)
            except LimitReached as error:
                await self._refusals.refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            except DecodeError as error:
                await self._refusals.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, _unreadable(error))
            except asyncio.CancelledError:
                if not self._draining:
                    raise
                trailers = context.trailing_metadata() or ()
                await self._refusals.refuse(context, grpc.StatusCode.UNAVAILABLE, CLOSING, trailers)
            finally:
                self._tasks.discard(task)
                self._calls.leave(peer)

        return call

    def _health_methods(self) -> dict[str, Method]:
        """Health as everybody knows it, but for requests that cannot be read: grpc would end them as UNKNOWN.

        A Watch is counted as an open call; a Check is answered however many there are.
        """

        def parsed(path: str, behaviour: Handler) -> Handler:
            async def call(data: bytes, context: Context) -> Any:
                METHOD.set(path.rpartition("/")[2])
                try:
                    request = health_pb2.HealthCheckRequest.FromString(data)
                except DecodeError as error:
                    await self._refusals.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, _unreadable(error))
                return await behaviour(request, context)

            return call

        encode = health_pb2.HealthCheckResponse.SerializeToString
        check, watch = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
        watched = self._ended(watch, parsed(watch, self._health.Watch))
        return {
            check: grpc.unary_unary_rpc_method_handler(parsed(check, self._health.Check), None, encode),
            watch: grpc.unary_stream_rpc_method_handler(watched, None, encode),
        }

    # -- life ---------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve until SIGTERM, then drain: take no more, end what is open with a status, leave."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        if self.worker.stopping:  # the signal came before
            stopping.set()
        self.peer.start()
        self._server.add_generic_rpc_handlers((self,))
        await _first_of(stopping.wait(), self._listen())
        await self._server.start()
        background = [
            *(loop.create_task(files.keep_fresh()) for files in self._operator_files),
            loop.create_task(self._control.follow(self._on_event, lambda: self._notifications.next_offset)),
            loop.create_task(self._control.report_reads(self._reader.connections_read, self._report_seconds())),
            loop.create_task(self._keep_health()),
            loop.create_task(self._tcp_connections.keep_counting()),
        ]
        self.worker.become(WorkerState.READY)
        await _first_of(stopping.wait(), self.peer.failed, *background)
        await self._drain(background)

    async def _listen(self) -> None:
        settings = self.worker.spec.settings
        credentials = None
        if settings.tls_certificate:
            credentials = await self._tls.credentials()
            self._operator_files.append(self._tls.files)
        if settings.tokens_file:
            await self._guard.files.wait_there()
            self._operator_files.append(self._guard.files)
        for address in self.worker.spec.public_addresses:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)

    def _report_seconds(self) -> float:
        """As often as the control plane looks for abandoned connections, and a little before."""
        return min(self.worker.spec.settings.connection_idle_seconds / 10, 25.0)

    async def _drain(self, background: list[asyncio.Task[None]]) -> None:
        self.worker.stopping = True
        self.worker.become(WorkerState.DRAINING)
        await self._health.enter_graceful_shutdown()
        self._draining = True
        stop = asyncio.ensure_future(self._server.stop(grace=self.worker.spec.settings.drain_seconds / 4))
        for task in list(self._tasks):
            task.cancel()
        await stop
        for task in background:
            task.cancel()
        await self._control.close()
        self.peer.stop()

    def _on_event(self, event: internal_pb2.FollowEvent) -> None:
        match event.WhichOneof("event"):
            case "session_started":
                self._notifications.on_started(event.session_started)
            case "session_stopped":
                self._notifications.on_stopped(event.session_stopped)
            case "connection_closed":
                self._reader.on_connection_closed(event.connection_closed.id)
            case "snapshot":
                self._notifications.on_snapshot(event.snapshot)
                for connection in self._reader.open_connections() - set(event.snapshot.open_connections):
                    self._reader.on_connection_closed(connection)

    # -- health -------------------------------------------------------------------------------------------------------

    async def _keep_health(self) -> None:
        """SERVING while every process that a service needs says so; "" is the whole server."""
        services = {
            _WRITER: ("producer",),
            _READER: ("consumer", "control-plane"),
            _SESSIONS: ("producer", "consumer", "control-plane"),
            f"{_API}.ConnectionManagerService": ("control-plane",),
            f"{_API}.DataFormatManagerService": ("producer", "consumer", "control-plane"),
            key_generator_pb2.DESCRIPTOR.services_by_name["UniqueKeyGeneratorService"].full_name: ("control-plane",),
            "": ("producer", "consumer", "control-plane"),
        }
        while True:
            ready = self._ready_roles()
            for service, needed in services.items():
                serving = all(role in ready for role in needed)
                status = (
                    health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
                )
                await self._health.set(service, status)
            self._mirror.show(self.peer.readers.statistics())
            self._open_calls.set(len(self._calls))
            await asyncio.sleep(HEALTH_SECONDS)

    def _ready_roles(self) -> set[str]:
        """Roles of which every process is ready."""
        states: dict[str, bool] = {}
        for slot in self.worker.spec.slots:
            if slot.name != self.worker.spec.name:
                liveness, _ = self.worker.attach(slot.name)
                states[slot.role] = states.get(slot.role, True) and liveness.state == WorkerState.READY
        return {role for role, ready in states.items() if ready}


def _unreadable(error: DecodeError) -> str:
    return f"request: not readable: {error}"


async def _first_of(*awaitables: Awaitable[Any]) -> None:
    """Until one of them ends; what it raised is raised here, so that a dead background task ends the process."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def run(worker: Worker) -> None:
    """Play the role until drained; ``worker.play`` calls it."""

    async def main() -> None:
        await Gateway(worker).serve()

    uvloop.run(main())
