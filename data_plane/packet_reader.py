"""PacketReaderService, as a gateway serves it: a connection's details become a reader, a reader becomes responses.

How a read ends: a client's cancellation frees everything at once; CloseConnection ends it with OK after what is in
hand; ReadEssentials on a connection without a session ends at the end of the topic as it was at the call; a draining
server ends it with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import grpc
import msgspec

from ma.streaming.api.v1 import api_pb2
from trackside.data_plane.filtering import BadPattern, DataPacketFilter
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import END, Partition
from trackside.data_plane.metrics import LOGGED_TO_SENT, GatewayCounters, latency, read_refusal_counters
from trackside.data_plane.peer import LogUnavailable, Peer
from trackside.data_plane.reader_metrics import ReaderMetrics
from trackside.data_plane.reading import FILTERS_MAX, RESPONSE_BYTES_MAX, Reader, Tally
from trackside.data_plane.routing import BadName, Routing
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


class _TooMuch(Exception):
    """The call asks for more than this gateway can do at a time. Becomes RESOURCE_EXHAUSTED."""


class _Read:
    """One call, from its first look-up on. What it holds is given back when it ends, however it ends."""

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.reader: Reader | None = None
        self.watched: str | None = None  # the data source whose topics are followed for it
        self.closed = False  # its connection was closed


class PacketReader:
    def __init__(
        self, peer: Peer, routing: Routing, settings: Settings, look_up: LookUp, counters: GatewayCounters
    ) -> None:
        self._peer = peer
        self._routing = routing
        self._settings = settings
        self._look_up = look_up
        self._count = counters
        table = peer.worker.counters
        self._refusals = read_refusal_counters(table)
        self._latency = latency(table, LOGGED_TO_SENT)
        self._metrics = ReaderMetrics(table, settings.metrics_per_connection)
        self._by_connection: defaultdict[int, set[_Read]] = defaultdict(set)
        self._growing: defaultdict[str, dict[_Read, api_pb2.ConnectionDetails]] = defaultdict(dict)
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
        call = api_pb2.ReadEssentialsRequest.FromString(request)
        await self._serve(call, "connection", context, self._open_essentials)

    def on_connection_closed(self, connection: int) -> None:
        """End its readers with OK, after what is in hand. Called for every closed connection, known here or not."""
        for read in self._by_connection.get(connection, ()):
            read.closed = True
            if read.reader is not None:
                self._peer.readers.end(read.reader)
        if connection not in self._by_connection:
            self._metrics.forget(connection)

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
    ) -> None:
        if not call.HasField("connection"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: missing; make one with NewConnection")
        read = _Read(call.connection.id)
        # Before the look-up: a connection that is closed after it was found ends this read, too.
        self._by_connection[read.connection].add(read)
        try:
            details = await self._look_up(read.connection)
            if details is not None:
                await open_reader(read, details)
                await self._send(read, context)
        except (_BadRead, BadName) as error:
            await self._refuse(grpc.StatusCode.INVALID_ARGUMENT, error, context)
        except _TooMuch as error:
            await self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, error, context)
        except LogUnavailable as error:
            await self._refuse(grpc.StatusCode.UNAVAILABLE, error, context)
        finally:
            self._close(read)

    async def _refuse(self, status: grpc.StatusCode, error: Exception, context: Context) -> None:
        self._refusals[status.name.lower()].add(1)
        await context.abort(status, str(error))

    async def _send(self, read: _Read, context: Context) -> None:
        """Responses as long as the reader lives: everything that is ready in one, without waiting, unless batching."""
        reader = read.reader
        assert reader is not None
        if read.closed:
            self._peer.readers.end(reader)
        self._count.readers.set(len(self._peer.readers))
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
        packets, logged_ns = reader.count_sent()
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
    ) -> Reader:
        """Raises _TooMuch."""
        if filter_spec is not None and not self._peer.readers.takes(filter_spec):
            raise _TooMuch(f"{FILTERS_MAX} different filters are in use here; share one, or end another read")
        read.reader = self._peer.readers.open(key=_key_of(details), filter_spec=filter_spec, tally_of=tally_of)
        return read.reader

    def _open_counted(self, read: _Read, details: api_pb2.ConnectionDetails, filter_spec: FilterSpec | None) -> Reader:
        """A reader that is counted by stream. Raises _TooMuch."""
        return self._open(
            read, details, partial(self._metrics.stream, read.connection, details.data_source), filter_spec
        )

    # -- what a connection wants --------------------------------------------------------------------------------------

    async def _open_streams(
        self, read: _Read, details: api_pb2.ConnectionDetails, filter_spec: FilterSpec | None
    ) -> None:
        self._routing.naming.check_data_source(details.data_source, "data_source")
        if not details.streams:
            await self._open_all_streams(read, details, filter_spec)
            return
        reader = self._open_counted(read, details, filter_spec)
        if not details.exclude_main_stream:
            self._join(reader, details.data_source, self._routing.route(details.data_source, ""), details.main_offset)
        for index, stream in enumerate(details.streams):
            offset = details.stream_offsets[index] if index < len(details.stream_offsets) else 0
            if self._is_mapped(stream):
                self._join(reader, details.data_source, self._routing.route(details.data_source, stream), offset)

    def _is_mapped(self, stream: str) -> bool:
        """PartitionBased: a stream without a partition of its own has nothing to be read (its packets are main)."""
        return self._settings.strategy == "TopicBased" or stream in self._settings.partition_mappings

    async def _open_all_streams(
        self, read: _Read, details: api_pb2.ConnectionDetails, filter_spec: FilterSpec | None
    ) -> None:
        """All streams of the data source, also those that appear later, from their beginning.

        A negative main_offset holds for every stream that exists at the call.
        """
        data_source = details.data_source
        self._peer.watch_topics(data_source)
        read.watched = data_source
        topics = await self._topics(data_source)
        reader = self._open_counted(read, details, filter_spec)
        if not details.exclude_main_stream:
            self._join(reader, data_source, self._routing.route(data_source, ""), details.main_offset)
        self._grow(reader, details, topics, END if details.main_offset < 0 else 0)
        self._growing[data_source][read] = details

    def _grow(self, reader: Reader, details: api_pb2.ConnectionDetails, topics: dict[str, int], offset: int) -> None:
        main = self._routing.route(details.data_source, "")
        for topic, count in topics.items():
            if self._routing.naming.is_essentials(topic):
                continue
            for partition in (Partition(topic, number) for number in range(count)):
                if partition != main or not details.exclude_main_stream:
                    self._join(reader, details.data_source, partition, offset)

    def _on_topics(self, data_source: str, new: dict[str, int]) -> None:
        for read, details in self._growing.get(data_source, {}).items():
            assert read.reader is not None
            self._grow(read.reader, details, new, 0)

    def _join(self, reader: Reader, data_source: str, partition: Partition, offset: int) -> None:
        if partition not in reader.places:
            label = self._routing.label(*partition, data_source)
            self._peer.readers.join(reader, partition, max(offset, END), label=label)

    async def _topics(self, data_source: str) -> dict[str, int]:
        """The data source's topics once the consumer has told them. Raises LogUnavailable."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while (topics := self._peer.topics_of(data_source)) is None:
            if asyncio.get_running_loop().time() > deadline:
                consumer = self._peer.consumer_of(data_source)
                raise LogUnavailable(consumer.log_state().reason or f"{consumer.name} did not answer")
            await asyncio.sleep(0.005)
        return topics

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
