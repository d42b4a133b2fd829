"""PacketWriterService, as a gateway serves it: raw bytes in, accepted or refused.

Accepted means published into the rings; with ``Acknowledge = "Log"``, or the call's metadata ``trackside-ack: log``,
it means logged. A client stream's reply waits for the log in both cases: with ``Ring`` at most ``WriteWaitSeconds``,
then it is OK all the same.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from trackside.data_plane.access import Forbidden
from trackside.data_plane.door import BadRequest, Door, Parcels
from trackside.data_plane.limits import LimitReached, Limits, Rates, address_of
from trackside.data_plane.link import Refused
from trackside.data_plane.metrics import GatewayCounters
from trackside.data_plane.peer import Accepted, LogUnavailable, Peer, ProducerProxy, RingFull, Stretch, TooManyWait
from trackside.data_plane.refusals import Refusals, Trailers, end
from trackside.data_plane.spec import Settings

__all__ = ["ACCEPTED_TRAILER", "ACK_METADATA", "PacketWriter"]

ACK_METADATA = "trackside-ack"
ACCEPTED_TRAILER = "trackside-accepted"

DEADLINE_RESERVE_SECONDS = 0.05
"""A wait ends this long before the client's deadline, so that the refusal still reaches it."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Parse = Callable[[bytes], Parcels]
ParseMessage = Callable[[bytes, Context], Awaitable[Parcels]]

ONE_GO_BYTES = 64 << 10
"""A message of this size has at most some thousands of packets, however small they are."""
Ends = dict[ProducerProxy, dict[str, int]]
"""By producer and topic: the end of the last record with packets for it."""


class _NotLogged(Exception):
    """Accepted, but the log does not have it within the bound, or refused it for good."""


REFUSED = (BadRequest, RingFull, LogUnavailable, LimitReached, _NotLogged)
"""How a request ends that is not simply OK."""

NOT_LOGGED_TOLD_SECONDS = 10.0

UNLOGGED_LOOK = 1000
"""Stretches that a call collects before it looks which of them the log has by now."""


class _Unlogged:
    """What a call had accepted and the log does not have yet, and the first of its packets that the log refused."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stretches: dict[ProducerProxy, list[Stretch]] = {}
        self._count = 0
        self._look_at = UNLOGGED_LOOK
        self.refused: Refused | None = None

    def add(self, accepted: Accepted) -> None:
        for stretch in accepted:
            self._stretches.setdefault(stretch.producer, []).append(stretch)
        self._count += len(accepted)
        if self._count >= self._look_at:
            self.look()
            self._look_at = 2 * self._count + UNLOGGED_LOOK

    def look(self) -> None:
        """Forget what the log has. What it refused was told before the commit that covers it."""
        committed = {producer: producer.down.commit_position for producer in self._stretches}
        self._peer.take_news()
        for producer, stretches in self._stretches.items():
            self.refused = self.refused or _refused_of(producer, stretches)
            done = bisect_right(stretches, committed[producer], key=_end_of)
            parked = [stretch for stretch in stretches[:done] if _is_parked(stretch)] if producer.has_parks() else []
            stretches[:done] = parked
            self._count -= done - len(parked)


def _end_of(stretch: Stretch) -> int:
    return stretch.end


def _is_parked(stretch: Stretch) -> bool:
    return any(stretch.producer.is_parked(topic, stretch.end) for topic in stretch.topics)


def _refused_of(producer: ProducerProxy, stretches: list[Stretch]) -> Refused | None:
    """The first refusal that lies in one of these stretches, which stand in their order."""
    for refusal in producer.refusals:
        place = bisect_left(stretches, refusal.end, key=_end_of)
        if place < len(stretches) and stretches[place].begin < refusal.end:
            return refusal
    return None


class PacketWriter:
    def __init__(
        self,
        peer: Peer,
        door: Door,
        settings: Settings,
        counters: GatewayCounters,
        refusals: Refusals,
        limits: Limits,
    ) -> None:
        self._peer = peer
        self._door = door
        self._settings = settings
        self._count = counters
        self._refusals = refusals
        self._limits = limits
        self._rates = Rates(settings, limits)
        self._not_logged_told = counters.not_logged.value  # a predecessor's are told
        self._not_logged_told_at = float("-inf")

    async def write_data_packet(self, request: bytes, context: Context) -> bytes:
        return await self._unary(self._door.data_packet, request, context)

    async def write_info_packet(self, request: bytes, context: Context) -> bytes:
        return await self._unary(self._door.info_packet, request, context)

    async def write_data_packets(self, _: object, context: Context) -> bytes:
        return await self._stream(self._data_packets, context)

    async def write_info_packets(self, _: object, context: Context) -> bytes:
        return await self._stream(self._info_packet, context)

    async def _data_packets(self, request: bytes, context: Context) -> Parcels:
        """A message of very many packets is looked at in turns with others' requests. Raises BadRequest, LimitReached."""
        if len(request) <= ONE_GO_BYTES:
            return self._door.data_packets(request)
        details, limit = self._door.details_of(request), self._settings.packets_per_message
        if len(details) > limit:
            asked = f"the message has {len(details)} packets; send it in parts"
            raise self._limits.reached("PacketsPerMessage", limit, asked)
        return await self._door.data_packets_in_turns(details)

    async def _info_packet(self, request: bytes, _: Context) -> Parcels:
        return self._door.info_packet(request)

    async def _unary(self, parse: Parse, request: bytes, context: Context) -> bytes:
        try:
            await self.wait_turn(request, context)
            accepted = await self._accept(parse(request), context)
            if self._wants_log(context):
                unlogged = _Unlogged(self._peer)
                unlogged.add(accepted)
                await self._logged(_ends(accepted, {}), context, unlogged)
        except REFUSED as error:
            await self._end(error, context)
        return b""

    async def _stream(self, parse: ParseMessage, context: Context) -> bytes:
        messages = 0
        last: Ends = {}
        unlogged = _Unlogged(self._peer)
        wants_log = self._wants_log(context)
        peer = address_of(context) if self._rates.is_on else ""
        try:
            while isinstance(request := await context.read(), bytes):  # else grpc.aio.EOF
                if self._rates.is_on:
                    await self._rates.wait_turn(peer, len(request), self._bound(context))
                accepted = await self._accept(await parse(request, context), context)
                messages += 1
                _ends(accepted, last)
                if wants_log:
                    unlogged.add(accepted)
            if wants_log:
                await self._logged(last, context, unlogged)
            else:
                await self._peer.wait_logged(last, self._bound(context))
        except REFUSED as error:
            await self._end(error, context, ((ACCEPTED_TRAILER, str(messages)),))
        except (asyncio.CancelledError, Forbidden):
            # Forbidden, or the client has gone, or this gateway drains: then it is told how far it got.
            context.set_trailing_metadata(((ACCEPTED_TRAILER, str(messages)),))
            raise
        return b""

    async def _accept(self, parcels: Parcels, context: Context) -> Accepted:
        accepted = self._peer.try_append(parcels)
        if accepted is None:
            accepted = await self._wait_for_room(parcels, context)
        self._count.messages.add(1)
        for parcel in parcels.values():
            self._count.packets.add(parcel.packets)
            self._count.bytes.add(parcel.bytes)
            for published, packets in parcel.published:
                published.add(packets)
        return accepted

    async def _wait_for_room(self, parcels: Parcels, context: Context) -> Accepted:
        begun = time.monotonic_ns()
        try:
            return await self._peer.append(parcels, self._bound(context))
        except TooManyWait as error:
            raise self._limits.reached(error.limit, error.value, error.asked) from None
        except RingFull:
            self._limits.count("WriteWaitSeconds")
            raise
        finally:
            self._count.held_back.add(1)
            self._count.held_back_seconds.add(time.monotonic_ns() - begun)

    async def _logged(self, last: Ends, context: Context, unlogged: _Unlogged) -> None:
        """Until the log has everything up to ``last``. Raises _NotLogged."""
        bound = self._bound(context)
        if not await self._peer.wait_logged(last, bound):
            reasons = [producer.log_state().reason for producer in last] + _parked_topics(last)
            why = next(filter(None, reasons), "the log is slow")
            raise _NotLogged(f"accepted, but not logged within {bound:g} s: {why}; it will be when the log answers")
        unlogged.look()
        if (refused := unlogged.refused) is not None:
            raise _NotLogged(f"packet {refused.packet} for {refused.topic} is a dead letter: {refused.reason}")

    def _wants_log(self, context: Context) -> bool:
        asked = next((value for key, value in context.invocation_metadata() or () if key == ACK_METADATA), "")
        return str(asked or self._settings.acknowledge).lower() == "log"

    async def wait_turn(self, request: bytes, context: Context) -> None:
        """What the rates of the caller's address allow: also control calls are counted. Raises LimitReached."""
        if self._rates.is_on:
            await self._rates.wait_turn(address_of(context), len(request), self._bound(context))

    def _bound(self, context: Context) -> float:
        """How long a write may wait: ``WriteWaitSeconds``, or less when the client's deadline is nearer."""
        remaining: Any = context.time_remaining()
        bound = self._settings.write_wait_seconds
        return bound if remaining is None else max(0.0, min(bound, remaining - DEADLINE_RESERVE_SECONDS))

    async def _end(self, error: Exception, context: Context, trailers: Trailers = ()) -> NoReturn:
        """A refusal, unless the request was accepted all the same."""
        if isinstance(error, _NotLogged):
            self._count.not_logged.add(1)
            self._tell_not_logged(str(error), context)
            await end(context, grpc.StatusCode.UNAVAILABLE, str(error), trailers)
        await self._refusals.refuse(context, _status_of(error), str(error), trailers)

    def _tell_not_logged(self, reason: str, context: Context) -> None:
        """Now and then: while the log is away every write ends so."""
        now = time.monotonic()
        if now >= self._not_logged_told_at + NOT_LOGGED_TOLD_SECONDS:
            self._not_logged_told_at = now
            self._peer.worker.log(
                "warn", "accepted, not logged in time", peer=context.peer(), reason=reason,
                times=self._count.not_logged.value - self._not_logged_told,
            )  # fmt: skip
            self._not_logged_told = self._count.not_logged.value


def _status_of(error: Exception) -> grpc.StatusCode:
    if isinstance(error, BadRequest):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, RingFull | LimitReached):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.StatusCode.UNAVAILABLE


def _ends(accepted: Accepted, ends: Ends) -> Ends:
    """Note in ``ends`` where each topic's last packet of an accepted request is."""
    for stretch in accepted:
        of_producer = ends.setdefault(stretch.producer, {})
        for topic in stretch.topics:
            of_producer[topic] = stretch.end
    return ends


def _parked_topics(ends: Ends) -> list[str]:
    return [
        f"topic {topic} is parked"
        for producer, of_producer in ends.items()
        for topic, end in of_producer.items()
        if producer.is_parked(topic, end)
    ]
