"""``ma.streaming.api.v1.SessionManagementService``: messages in and out; what they do is ``session_changes``.

The two notification streams are not here: gateways serve them from what ``follow`` tells them.
"""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.api.v1 import api_pb2_grpc as services
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.clock import Clock
from trackside.control_plane.session_changes import Change, SessionChanges
from trackside.control_plane.session_fold import Instant, SessionRecord, instant_of_ns
from trackside.control_plane.statuses import BadRequest, Context
from trackside.control_plane.streams import StreamTable
from trackside.control_plane.validation import check_duration, check_text, check_timestamp
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

__all__ = ["SessionService"]

DEFAULT_TYPE = "Session"
DEFAULT_VERSION = 1


class SessionService(services.SessionManagementServiceServicer):
    """The seven unary calls. With ``integrate_session_management`` off each answers ``success = false``."""

    def __init__(
        self, sessions: SessionChanges | None, streams: StreamTable, routing: Routing, settings: Settings, clock: Clock
    ) -> None:
        """``sessions`` is None when session management is off."""
        self._sessions = sessions
        self._streams = streams
        self._routing = routing
        self._settings = settings
        self._clock = clock

    async def CreateSession(
        self, request: messages.CreateSessionRequest, context: Context
    ) -> messages.CreateSessionResponse:
        if self._sessions is None:
            return messages.CreateSessionResponse()
        self._check_create(request)
        await self._sessions.ensure_loaded()
        new = _new_session(request, instant_of_ns(self._clock.utc_ns()))
        self._check_size(new)
        record = await self._sessions.create(new)
        new.topic_partition_offsets.clear()
        new.topic_partition_offsets.update(self._routing.api_offsets(record.data_source, record.start_offsets))
        return messages.CreateSessionResponse(session_key=record.key, new_session=new, success=True)

    async def EndSession(self, request: messages.EndSessionRequest, context: Context) -> messages.EndSessionResponse:
        if self._sessions is None:
            return messages.EndSessionResponse()
        if request.HasField("termination_time"):
            check_timestamp("termination_time", request.termination_time)
        record = await self._find(self._sessions, request.session_key)
        if record is None or request.data_source not in ("", record.data_source):
            return messages.EndSessionResponse()
        ended = await self._sessions.end(record.key, _termination_time(request))
        return messages.EndSessionResponse(end_session=self._end_packet(ended), success=True)

    async def GetCurrentSessions(
        self, request: messages.GetCurrentSessionsRequest, context: Context
    ) -> messages.GetCurrentSessionsResponse:
        if self._sessions is None:
            return messages.GetCurrentSessionsResponse()
        await self._sessions.ensure_known()
        keys = self._sessions.fold.keys_of(request.data_source)
        return messages.GetCurrentSessionsResponse(session_keys=keys, success=True)

    async def GetSessionInfo(
        self, request: messages.GetSessionInfoRequest, context: Context
    ) -> messages.GetSessionInfoResponse:
        if self._sessions is None:
            return messages.GetSessionInfoResponse()
        record = await self._find(self._sessions, request.session_key)
        if record is None:
            return messages.GetSessionInfoResponse()
        streams = await self._streams.streams_of(record.data_source)
        record = self._sessions.fold.get(request.session_key) or record  # not older than the streams
        return self._info(record, streams)

    async def UpdateSessionIdentifier(
        self, request: messages.UpdateSessionIdentifierRequest, context: Context
    ) -> messages.UpdateSessionIdentifierResponse:
        success = await self._change(request.session_key, "identifier", _with_identifier(request.identifier))
        return messages.UpdateSessionIdentifierResponse(success=success)

    async def AddAssociateSession(
        self, request: messages.AddAssociateSessionRequest, context: Context
    ) -> messages.AddAssociateSessionResponse:
        check_text("associate_session_key", request.associate_session_key)
        success = await self._change(
            request.session_key, "associate_session_key", _with_associate(request.associate_session_key)
        )
        return messages.AddAssociateSessionResponse(success=success)

    async def UpdateSessionDetails(
        self, request: messages.UpdateSessionDetailsRequest, context: Context
    ) -> messages.UpdateSessionDetailsResponse:
        success = await self._change(request.session_key, "details", _with_details(dict(request.details)))
        return messages.UpdateSessionDetailsResponse(success=success)

    async def data_source_of(self, session_key: str) -> str | None:
        """For who must know whose session it is before the call is made; None when there is no such session."""
        if self._sessions is None:
            return None
        record = await self._find(self._sessions, session_key)
        return None if record is None else record.data_source

    async def _change(self, key: str, field: str, change: Change) -> bool:
        if self._sessions is None or await self._find(self._sessions, key) is None:
            return False
        await self._sessions.change(key, field, change)
        return True

    async def _find(self, sessions: SessionChanges, key: str) -> SessionRecord | None:
        """None only when the log has no such session: what is not known yet is waited for, or UNAVAILABLE."""
        if not sessions.loaded:
            await sessions.ensure_known()
        if (record := sessions.fold.get(key)) is None and not sessions.loaded:
            await sessions.ensure_loaded()
            record = sessions.fold.get(key)
        return record

    def _check_create(self, request: messages.CreateSessionRequest) -> None:
        self._routing.naming.check_data_source(request.data_source, "data_source")
        check_text("type", request.type)
        for number, key in enumerate(request.associate_session_key):
            check_text(f"associate_session_key[{number}]", key)
        if request.HasField("utc_offset"):
            check_duration("utc_offset", request.utc_offset)
        if request.HasField("creation_time"):
            check_timestamp("creation_time", request.creation_time)

    def _check_size(self, new: data.NewSessionPacket) -> None:
        """As for later changes, half of a packet: the rest is for the offsets."""
        limit = self._settings.max_packet_bytes // 2
        if (size := new.ByteSize()) > limit:
            field = "identifier" if len(new.session_info.identifier.encode()) > size // 2 else "details"
            raise BadRequest(field, f"{size} bytes with the other fields", f"at most {limit} bytes in all fields")

    def _end_packet(self, record: SessionRecord) -> data.EndOfSessionPacket:
        return data.EndOfSessionPacket(
            data_source=record.data_source,
            topic_partition_offsets=self._routing.api_offsets(record.data_source, record.end_offsets),
            termination_time=_timestamp(record.termination_time),
        )

    def _info(self, record: SessionRecord, streams: list[str]) -> messages.GetSessionInfoResponse:
        source = record.data_source
        offsets = {self._routing.resolve(source, partition): o for partition, o in record.start_offsets.items()}
        naming = self._routing.naming
        return messages.GetSessionInfoResponse(
            data_source=source,
            identifier=record.identifier,
            type=record.type,
            version=record.version,
            associate_session_keys=record.associates,
            is_complete=record.is_complete,
            streams=streams,
            topic_partition_offsets=self._routing.api_offsets(source, record.start_offsets),
            main_offset=offsets.get(Partition(naming.main_topic(source), 0), 0),
            essentials_offset=offsets.get(Partition(naming.essentials_topic(source), 0), 0),
            details=record.details,
            utc_offset=Duration(seconds=record.utc_offset.seconds, nanos=record.utc_offset.nanos),
            creation_time=_timestamp(record.creation_time),
            termination_time=_timestamp(record.termination_time),
            success=True,
        )


def _timestamp(time: Instant | None) -> Timestamp | None:
    return None if time is None else Timestamp(seconds=time.seconds, nanos=time.nanos)


def _new_session(request: messages.CreateSessionRequest, now: Instant) -> data.NewSessionPacket:
    """The packet that starts the session, but for its offsets."""
    created = request.creation_time if request.HasField("creation_time") else _timestamp(now)
    utc_offset = request.utc_offset if request.HasField("utc_offset") else None
    info = data.SessionInfoPacket(
        data_source=request.data_source,
        identifier=request.identifier,
        type=request.type or DEFAULT_TYPE,
        version=request.version or DEFAULT_VERSION,
        associate_session_keys=request.associate_session_key,
        details=request.details,
        utc_offset=utc_offset,
        creation_time=created,
    )
    return data.NewSessionPacket(
        data_source=request.data_source, utc_offset=utc_offset, session_info=info, creation_time=created
    )


def _termination_time(request: messages.EndSessionRequest) -> Instant | None:
    if not request.HasField("termination_time"):
        return None
    return Instant(request.termination_time.seconds, request.termination_time.nanos)


def _with_identifier(identifier: str) -> Change:
    """An empty identifier changes nothing: no server can tell such a packet from one that does not speak of it."""
    return lambda record: replace(record, identifier=identifier) if identifier else record


def _with_associate(key: str) -> Change:
    """A key that is there already, or an empty one, changes nothing."""
    return lambda r: replace(r, associates=(*r.associates, key)) if key and key not in r.associates else r


def _with_details(details: dict[str, str]) -> Change:
    return lambda record: replace(record, details={**record.details, **details})
