"""StreamStarted and StreamStopped packets: a session's first and last word on each stream, for readers of streams.

Written for sessions that begin and end through this server, with ``StreamStartStopPackets`` on. Key: the session's;
not essential. ``docs/decisions/0012-stream-packets-are-off.md`` says why so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.log_port import Append, LogAway, LogPort
from trackside.control_plane.session_fold import Instant, SessionRecord
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import Routing

__all__ = ["StreamPackets"]

log = logging.getLogger(__name__)

APPEND_SECONDS = 5.0


class StreamPackets:
    """Appends them. What finds no room is missing, and the operator is told; no session fails for it."""

    def __init__(self, port: LogPort, routing: Routing) -> None:
        self._port = port
        self._routing = routing

    async def started(self, session: SessionRecord) -> None:
        """One StreamStarted on each stream that had a packet before ``session`` began. Returns when accepted."""
        content = data.StreamStartedPacket(start_time=_timestamp(session.creation_time))
        await self._append(session, content, dict(self._streams(session, session.start_offsets, {})))

    async def stopped(self, session: SessionRecord, ends: Mapping[Partition, int], time: Instant) -> bool:
        """One StreamStopped on each stream that had a packet since ``session`` began. False when there is none.

        ``ends`` says where the partitions end now.
        """
        begun = {self._routing.resolve(session.data_source, p): o for p, o in session.start_offsets.items()}
        streams = dict(self._streams(session, ends, begun))
        await self._append(session, data.StreamStoppedPacket(stop_time=_timestamp(time)), streams)
        return bool(streams)

    def _streams(
        self, session: SessionRecord, ends: Mapping[Partition, int], begun: Mapping[Partition, int]
    ) -> Iterator[tuple[Partition, str]]:
        """Partitions with entries between two offset maps, and the stream of each; essentials are no stream."""
        essentials = self._routing.naming.essentials_topic(session.data_source)
        for partition, end in ends.items():
            if partition.topic != essentials and end > begun.get(partition, 0):
                yield partition, self._routing.label(*partition, session.data_source)

    async def _append(
        self,
        session: SessionRecord,
        content: data.StreamStartedPacket | data.StreamStoppedPacket,
        streams: Mapping[Partition, str],
    ) -> None:
        type = content.DESCRIPTOR.name.removesuffix("Packet")
        content.data_source, content.session_key = session.data_source, session.key
        appends = []
        for partition, stream in streams.items():
            content.stream_name = stream
            packet = data.Packet(type=type, session_key=session.key, content=content.SerializeToString())
            key, value = session.key.encode(), packet.SerializeToString()
            appends.append(Append(partition, key, value, b"", data_source=session.data_source))
        try:
            if appends:
                await self._port.append(session.data_source, appends, APPEND_SECONDS)
        except LogAway as away:
            log.warning("session %s: no %s packets: %s", session.key, type, away)


def _timestamp(time: Instant) -> Timestamp:
    return Timestamp(seconds=time.seconds, nanos=time.nanos)
