"""PacketReaderService, as a gateway serves it: a connection's details become a reader, a reader becomes responses.

How a read ends: a client's cancellation frees everything at once; CloseConnection ends it with OK after what is in
hand; ReadEssentials on a connection without a session ends at the end of the topic as it was at the call; a draining
server ends it with UNAVAILABLE; one that is too slow and wanted to be ended then, with RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import grpc
import msgspec

from ma.streaming.api.v1 import api_pb2
from trackside.data_plane.filtering import BadPattern, DataPacketFilter
from trackside.data_plane.limits import Limits
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import END, Partition
from trackside.data_plane.metrics import LOGGED_TO_SENT, GatewayCounters, latency
from trackside.data_plane.peer import LogUnavailable, Peer
from trackside.data_plane.read_plan import NothingToRead, ReadPlan, Start
from trackside.data_plane.reader_metrics import ReaderMetrics
from trackside.data_plane.reading import FILTERS_MAX, RESPONSE_BYTES_MAX, Reader, Tally, WhenSlow
from trackside.data_plane.refusals import Refusals
from trackside.data_plane.routing import BadName, Routing
from trackside.data_plane.slow_reads import BadChoice, end_slow, tell_skipped, watch, when_slow_of
from trackside.data_plane.spec import Settings

__all__ = ["LookUp", "PacketReader"]

ANSWER_SECONDS = 5.0
"""Bound of the questions that opening a read asks: which topics exist, where they end."""

Context = grpc.aio.ServicerContext[bytes, bytes]
LookUp = Callable[[int], Awaitable[api_pb2.ConnectionDetails | None]]
"""Details of a connection, or None when there is no such connection. Raises LogUnavailable when nobody can say."""


FILTER_BYTES_MAX = 256 << 10
"""All patterns of one call: they travel to the consumer as one message, a quarter of the ring that carries it."""


class _BadRead(Exception):
    """The call names something that cannot be read. Becomes INVALID_ARGUMENT."""


class _Read:
    """One call, from its first look-up on. What it holds is given back when it ends, however it ends."""

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.when_slow = WhenSlow.CATCH_UP
        self.reader: Reader | None = None
        self.watched: str | None = None  # the data source whose topics are followed for it
        self.closed = False  # its connection was closed


class PacketReader:
    def __init__(
        self,
        peer: Peer,
        routing: Routing,
        settings: Settings,
        look_up: LookUp,
        counters: GatewayCounters,
        refusals: Refusals,
        limits: Limits,
    ) -> None:
        self._peer = peer
        self._routing = routing
        self._settings = settings
        self._look_up = look_up
        self._worker = peer.worker
        self._count = counters
        counters.readers.set(0)  # those of a predecessor went with it
        table = peer.worker.counters
        self._refusals = refusals
        self._limits = limits
        self._latency = latency(table, LOGGED_TO_SENT)
        self._metrics = ReaderMetrics(table, settings.metrics_per_connection)
        self._by_connection: defaultdict[int, set[_Read]] = defaultdict(set)
        self._growing: defaultdict[str, dict[_Read, ReadPlan]] = defaultdict(dict)
        peer.on_topics.append(self._on_topics)

    # -- the three calls ----------------------------------------------------------------------------------------------

    async def read_packets(self, request: bytes, context: Context) -> None:
        call = api_pb2.ReadPacketsRequest.FromString(request)
        await self._serve(call, "connection", context, lambda read, details: self._open_streams(read, details, None))

    async def read_data_packets(self, request: bytes, context: Context) -> None:
        call = api_pb2.ReadDataPacketsRequest.FromString(request).request

        async def open_reader(read: _Read, details: api_pb2.ConnectionDetails) -> None:
            try:
                wanted = _filter_of(call, details.data_source)
            except BadPattern as error:
                raise _BadRead(f"request.{error}") from None
            await self._open_streams(read, details, wanted)

        await self._serve(call, "request.connection", context, open_reader)

    async def read_essentials(self, request: bytes, context: Context) -> None:
        """Definitions are not skipped unless the call itself wants that."""
        call = api_pb2.ReadEssentialsRequest.FromString(request)
        await self._serve(call, "connection", context, self._open_essentials, WhenSlow.CATCH_UP)

    def on_connection_closed(self, connection: int) -> None:
        """End its readers with OK, after what is in hand. Called for every closed connection, known here or not."""
        for read in self._by_connection.get(connection, ()):
            read.closed = True
            if read.reader is not None:
                self._peer.readers.end(read.reader)
        if connection not in self._by_connection:
            self._metrics.forget(connection)

    def connections_read(self) -> list[int]:
        """Connections with open reads here."""
        return list(self._by_connection)

    def open_connections(self) -> set[int]:
        """Connections that are read here, or were and have counters that end with them."""
        return set(self._by_connection) | self._metrics.connections()

    # -- one call -----------------------------------------------------------------------------------------------------

    async def _serve(
        self,
        call: api_pb2.ReadPacketsRequest | api_pb2.ReadEssentialsRequest | api_pb2.DataPacketRequest,
        field: str,
        context: Context,
        open_reader: Callable[[_Read, api_pb2.ConnectionDetails], Awaitable[None]],
        when_slow: WhenSlow | None = None,
    ) -> None:
        if not call.HasField("connection"):
            missing = f"{field}: missing; make one with NewConnection"
            await self._refusals.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, missing)
        read = _Read(call.connection.id)
        # Before the look-up: a connection that is closed after it was found ends this read, too.
        self._by_connection[read.connection].add(read)
        try:
            read.when_slow = when_slow_of(context, when_slow or WhenSlow(self._settings.when_slow))
            details = await self._look_up(read.connection)
            if details is not None:
                await open_reader(read, details)
                await self._send(read, context)
        except asyncio.CancelledError:
            if read.reader is None or not read.reader.is_overrun:
                self._count.reads_left.add(1)
                raise
            await end_slow(read.reader, self._worker, read.connection, context)
        except grpc.aio.InternalError:  # the connection broke while a response was on its way
            self._count.reads_left.add(1)
            raise asyncio.CancelledError from None
        except (_BadRead, BadChoice, BadName, NothingToRead) as error:
            await self._refusals.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except LogUnavailable as error:
            await self._refusals.refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            self._close(read)

    async def _send(self, read: _Read, context: Context) -> None:
        """Responses as long as the reader lives: everything that is ready in one, without waiting, unless batching."""
        reader = read.reader
        assert reader is not None
        if read.closed:
            self._peer.readers.end(reader)
        self._count.readers.set(len(self._peer.readers))
        try:
            await self._respond(reader, context)
        finally:
            tell_skipped(reader, self._worker, read.connection, context)

    async def _respond(self, reader: Reader, context: Context) -> None:
        batching = self._settings.batching_responses
        while True:
            if not reader.pending:
                if reader.closed or reader.finished:
                    return
                reader.wake.clear()
                await reader.wake.wait()
                continue
            if batching:
                await self._gather(reader)
            response = reader.take()
            await context.write(response)
            self._count_sent(reader, len(response))
            self._peer.readers.sent(reader)

    def _count_sent(self, reader: Reader, size: int) -> None:
        packets, logged_ns = reader.on_sent()
        self._count.responses.add(1)
        self._count.response_bytes.add(size)
        self._count.delivered.add(packets)
        if logged_ns:
            self._latency.observe(time.time_ns() - logged_ns)

    async def _gather(self, reader: Reader) -> None:
        """Wait up to BatchingTimeMs for BatchingSizesKb, from the first packet that is pending."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.batching_seconds
        wanted = min(self._settings.batching_bytes, RESPONSE_BYTES_MAX)
        while reader.pending_bytes < wanted and not reader.closed and not reader.finished:
            reader.wake.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await reader.wake.wait()
            except TimeoutError:
                return

    def _close(self, read: _Read) -> None:
        self._by_connection[read.connection].discard(read)
        if not self._by_connection[read.connection]:
            del self._by_connection[read.connection]
        if read.reader is not None:
            self._peer.readers.close(read.reader)
        if read.closed and read.connection not in self._by_connection:
            self._metrics.forget(read.connection)  # nobody counts for it any more
        if read.watched is not None:
            self._peer.unwatch_topics(read.watched)
            self._growing[read.watched].pop(read, None)
            if not self._growing[read.watched]:
                del self._growing[read.watched]
        self._count.readers.set(len(self._peer.readers))

    def _open(
        self,
        read: _Read,
        details: api_pb2.ConnectionDetails,
        tally_of: Callable[[str], Tally],
        filter_spec: FilterSpec | None = None,
        group: str = "",
    ) -> Reader:
        """Raises LimitReached."""
        if filter_spec is not None and not self._peer.readers.takes(filter_spec):
            asked = "so many different filters are in use on this gateway; share one, or end another read"
            raise self._limits.reached("FiltersMax", FILTERS_MAX, asked)
        read.reader = self._peer.readers.open(
            key=_key_of(details), filter_spec=filter_spec, tally_of=tally_of, group=group, when_slow=read.when_slow
        )
        watch(read.reader, self._worker, read.connection)
        return read.reader

    # -- what a connection wants --------------------------------------------------------------------------------------

    async def _open_streams(
        self, read: _Read, details: api_pb2.ConnectionDetails, filter_spec: FilterSpec | None
    ) -> None:
        plan = ReadPlan(details, self._routing, self._settings)
        starts = await self._starts(read, plan, details.consumer_group)
        tally_of = partial(self._metrics.stream, read.connection, details.data_source)
        reader = self._open(read, details, tally_of, filter_spec, details.consumer_group)
        self._join(reader, starts)
        if plan.grows:
            self._growing[plan.data_source][read] = plan
            self._join(reader, plan.later(self._peer.topics_of(plan.data_source) or {}))

    async def _starts(self, read: _Read, plan: ReadPlan, group: str) -> dict[Partition, Start]:
        """Where to begin: n > 0 as it is; 0 and the end give way to where the consumer group is, if there is one."""
        if plan.grows:
            self._peer.watch_topics(plan.data_source)
            read.watched = plan.data_source
        topics = {}
        if plan.needs_topics or (plan.grows and group):
            topics = await self._peer.topics_now(plan.data_source, ANSWER_SECONDS)
            self._routing.learn(topics)
        starts = plan.starts(topics)
        if not group:
            return starts
        asked = [partition for partition, start in starts.items() if start.offset <= 0]
        committed = await self._peer.committed(group, asked, ANSWER_SECONDS)
        return starts | {place: starts[place]._replace(offset=offset) for place, offset in committed.items()}

    def _on_topics(self, data_source: str, new: dict[str, int]) -> None:
        self._routing.learn(new)
        for read, plan in self._growing.get(data_source, {}).items():
            assert read.reader is not None
            self._join(read.reader, plan.later(new))

    def _join(self, reader: Reader, starts: Mapping[Partition, Start]) -> None:
        for partition, (label, offset) in starts.items():
            if partition not in reader.places:
                self._peer.readers.join(reader, partition, offset, label=label)

    async def _open_essentials(self, read: _Read, details: api_pb2.ConnectionDetails) -> None:
        """Live when the connection names a session; else to the end as it is now, at once when nothing is there."""
        partition = self._routing.essentials(details.data_source)
        until = None
        offset = max(details.essentials_offset, END)
        if not details.session_key:
            until = (await self._peer.watermarks([partition], ANSWER_SECONDS))[partition].end
            offset = until if offset == END else offset
        tally = self._metrics.essentials(read.connection, details.data_source)
        self._peer.readers.join(self._open(read, details, lambda _: tally), partition, offset, until=until)


def _key_of(details: api_pb2.ConnectionDetails) -> bytes | None:
    return details.session_key.encode() or None


def _filter_of(call: api_pb2.DataPacketRequest, data_source: str) -> FilterSpec:
    """The filter under a number that is the same for all who ask the same. Raises BadPattern, _BadRead."""
    spec = FilterSpec(
        0,
        0,
        data_source,
        list(call.include_parameters),
        list(call.exclude_parameters),
        list(call.include_events),
        list(call.exclude_events),
        call.include_markers,
    )
    encoded = msgspec.msgpack.encode(spec)
    if len(encoded) > FILTER_BYTES_MAX:
        raise _BadRead(f"request: its patterns take {len(encoded)} bytes; at most {FILTER_BYTES_MAX} are taken")
    DataPacketFilter.of_spec(spec)
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    return msgspec.structs.replace(spec, number=int.from_bytes(digest, "big"))
