"""What a gateway does not serve itself: calls passed through to the control plane, and what it tells in return.

Control calls travel as bytes over the control plane's Unix socket: deadline and cancellation down, status and details
back. A call that was sent is never sent again; a new one waits up to 5 s for a successor. The ``Follow`` stream brings
session events, which this gateway fans out to its subscribers, and connections that were closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable

import grpc

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from trackside.data_plane.access import ANYBODY, CALLER, CALLER_METADATA, Forbidden, require, require_own
from trackside.data_plane.limits import Limits
from trackside.data_plane.peer import LogUnavailable
from trackside.data_plane.refusals import Refusals
from trackside.data_plane.worker import Worker
from trackside.protos import internal_pb2, internal_pb2_grpc

__all__ = ["PASSED_METHODS", "ControlCalls", "Notifications"]

SUCCESSOR_SECONDS = 5.0
"""How long a new call waits for a control plane that is being started again."""

SUBSCRIBER_EVENTS_MAX = 1000
"""Events that wait for one slow subscriber before its stream is ended."""

_NOTIFICATIONS = ("GetSessionStartNotification", "GetSessionStopNotification")

PASSED_METHODS = [
    f"/{service.full_name}/{method.name}"
    for service in (
        *(
            api_pb2.DESCRIPTOR.services_by_name[name]
            for name in ("SessionManagementService", "ConnectionManagerService", "DataFormatManagerService")
        ),
        key_generator_pb2.DESCRIPTOR.services_by_name["UniqueKeyGeneratorService"],
    )
    for method in service.methods
    if method.name not in _NOTIFICATIONS
]
"""Unary methods that are passed through, by full name, from the descriptors."""

Context = grpc.aio.ServicerContext[bytes, bytes]


class ControlCalls:
    """The channel to the control plane. Runs on the gateway's loop."""

    def __init__(self, worker: Worker, refusals: Refusals) -> None:
        self._worker = worker
        self._refusals = refusals
        self._channel = grpc.aio.insecure_channel(
            f"unix:{worker.spec.control_socket}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._stub = internal_pb2_grpc.ControlPlaneStub(self._channel)
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            method: self._channel.unary_unary(method) for method in PASSED_METHODS
        }

    async def close(self) -> None:
        await self._channel.close(grace=0)

    async def pass_through(self, method: str, request: bytes, context: Context) -> bytes:
        """One control call, as bytes, with its deadline; the answer's status and details are the control plane's."""
        if not await self._is_there(context.time_remaining()):
            await self._refusals.refuse(context, grpc.StatusCode.UNAVAILABLE, self._why())
        call = self._calls[method](request, timeout=context.time_remaining(), metadata=_metadata())
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise Forbidden(error.details()) from None
            trailers = tuple(error.trailing_metadata() or ())
            await self._refusals.refuse(context, error.code(), error.details() or "", trailers)
        return answer

    async def look_up(self, connection: int) -> api_pb2.ConnectionDetails | None:
        """Details of a connection of the caller's, None when there is none. Raises Forbidden when it is another's,
        LogUnavailable when the control plane is away."""
        request = internal_pb2.LookUpConnectionRequest(id=connection)
        for _ in range(2):  # a read-only question may be asked again, of the successor
            if not await self._is_there(None):
                break
            try:
                answer = await self._stub.LookUpConnection(request, timeout=SUCCESSOR_SECONDS)
            except grpc.aio.AioRpcError:
                continue
            if not answer.HasField("details"):
                return None
            require_own(answer.owner)
            require("read", answer.details.data_source)
            details: api_pb2.ConnectionDetails = answer.details
            return details
        raise LogUnavailable(self._why())

    async def report_reads(self, read: Callable[[], Iterable[int]], seconds: float) -> None:
        """Say for ever, every ``seconds``, which connections are read here. What the control plane misses it hears next
        time; until then no connection expires."""
        while seconds:
            request = internal_pb2.ReportReadsRequest(gateway=self._worker.spec.name, connections=read())
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._stub.ReportReads(request, timeout=SUCCESSOR_SECONDS, wait_for_ready=True)
            await asyncio.sleep(seconds)
        await asyncio.Event().wait()

    async def _is_there(self, remaining: float | None) -> bool:
        """Whether the control plane is connected, waiting for a successor within the bound."""
        bound = SUCCESSOR_SECONDS if remaining is None else min(SUCCESSOR_SECONDS, remaining)
        try:
            async with asyncio.timeout(bound):
                state = self._channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    def _why(self) -> str:
        liveness, _ = self._worker.attach("control-plane")
        return liveness.read_reason() or "the control plane is being started; try again"

    async def follow(
        self, on_event: Callable[[internal_pb2.FollowEvent], None], next_offset: Callable[[], int]
    ) -> None:
        """Bring events for ever, from whichever control plane there is, each from where the last one was."""
        spec = self._worker.spec
        while True:
            try:
                request = internal_pb2.FollowRequest(gateway=spec.name, epoch=spec.epoch, session_offset=next_offset())
                async for event in self._stub.Follow(request, wait_for_ready=True):
                    on_event(event)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)  # bounded only by the control plane's return


def _metadata() -> tuple[tuple[str, str | bytes], ...]:
    """Who calls. Nothing of the client's own: nobody behind this socket asks for it, and it could pretend to be this."""
    caller = CALLER.get()
    return () if caller is ANYBODY else ((CALLER_METADATA, caller.encoded),)


class _Subscriber:
    def __init__(self) -> None:
        self.events: asyncio.Queue[bytes] = asyncio.Queue(SUBSCRIBER_EVENTS_MAX)
        self.overrun = asyncio.Event()


class Notifications:
    """Session start and stop notifications: each subscriber has a queue of its own, so a slow one harms nobody.

    ``enabled`` is false without session management: then every stream ends at once, with OK.
    """

    def __init__(self, limits: Limits, *, enabled: bool = True) -> None:
        self._limits = limits
        self._enabled = enabled
        self._joined = asyncio.Event()  # what starts or stops from now on is told here
        self._started: defaultdict[str, set[_Subscriber]] = defaultdict(set)
        self._stopped: defaultdict[str, set[_Subscriber]] = defaultdict(set)
        self.next_offset = -1
        """Next offset of the session-info log that has not been told here; negative before the first event."""

    def on_snapshot(self, snapshot: internal_pb2.Snapshot) -> None:
        if self.next_offset < 0:
            self.next_offset = snapshot.session_offset
        if self.next_offset >= 0:
            self._joined.set()

    def on_started(self, event: internal_pb2.SessionStarted) -> None:
        reply = api_pb2.GetSessionStartNotificationResponse(
            session_key=event.session_key, data_source=event.data_source
        )
        self._tell(self._started, event.data_source, reply.SerializeToString())
        self.next_offset = event.offset + 1

    def on_stopped(self, event: internal_pb2.SessionStopped) -> None:
        reply = api_pb2.GetSessionStopNotificationResponse(session_key=event.session_key, data_source=event.data_source)
        self._tell(self._stopped, event.data_source, reply.SerializeToString())
        self.next_offset = event.offset + 1

    @staticmethod
    def _tell(subscribers: defaultdict[str, set[_Subscriber]], data_source: str, reply: bytes) -> None:
        for subscriber in subscribers.get(data_source, ()):
            try:
                subscriber.events.put_nowait(reply)
            except asyncio.QueueFull:
                subscriber.overrun.set()

    async def starts(self, request: bytes, context: Context) -> None:
        call = api_pb2.GetSessionStartNotificationRequest.FromString(request)
        require("read", call.data_source)
        await self._serve(self._started, call.data_source, context)

    async def stops(self, request: bytes, context: Context) -> None:
        call = api_pb2.GetSessionStopNotificationRequest.FromString(request)
        require("read", call.data_source)
        await self._serve(self._stopped, call.data_source, context)

    async def _serve(self, subscribers: defaultdict[str, set[_Subscriber]], data_source: str, context: Context) -> None:
        if not self._enabled:
            return
        await self._joined.wait()
        subscriber = _Subscriber()
        subscribers[data_source].add(subscriber)
        try:
            # Headers now: a client that has them knows that it misses no session from here on.
            await context.send_initial_metadata(())
            while not subscriber.overrun.is_set():
                await context.write(await subscriber.events.get())
            asked = "more notifications were not read; subscribe again and ask GetCurrentSessions"
            raise self._limits.reached("UnreadNotificationsMax", SUBSCRIBER_EVENTS_MAX, asked)
        finally:
            subscribers[data_source].discard(subscriber)
            if not subscribers[data_source]:
                del subscribers[data_source]
