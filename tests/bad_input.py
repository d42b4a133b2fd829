"""What bad input gets: for every field of every request what is valid, and what an invalid value is answered.

``docs/errors.md`` is made from this table (``python tests/bad_input.py docs/errors.md`` writes it anew; a test compares),
``tests/system/test_bad_input.py`` sends every example to a real server, and a test compares the fields with the
descriptors, so a new field of the API needs a row here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.key_generator.v1 import key_generator_pb2 as keys
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.control_plane.connections import DETAILS_BYTES_MAX
from trackside.control_plane.validation import TEXT_CHARACTERS_MAX
from trackside.data_plane.door import KEY_BYTES_MAX
from trackside.data_plane.filtering import PATTERN_CHARACTERS_MAX, PATTERNS_MAX
from trackside.data_plane.gateway import REQUEST_BYTES_MAX
from trackside.data_plane.naming import TOPIC_CHARACTERS_MAX, naming_of
from trackside.data_plane.packet_reader import FILTER_BYTES_MAX
from trackside.data_plane.spec import Settings

__all__ = ["EVERY_REQUEST", "METHODS", "TOLD", "Bad", "Field", "Given", "Method", "fields_of", "page", "told"]

MAX_PACKET_BYTES = Settings(run_dir="", data_dir="").max_packet_bytes
NAME_CHARACTERS_MAX = TOPIC_CHARACTERS_MAX - len(naming_of(Settings(run_dir="", data_dir="")).essentials_topic(""))


class Given(NamedTuple):
    """What a server has when the examples are sent to it: a session and a connection, both of data source ``Car``, and a
    packet in stream ``a.b`` of data source ``Far.1``."""

    session_key: str
    connection: api.Connection


class Bad(NamedTuple):
    """One invalid value and its answer: status and start of the message, or with status OK the reply (None: none)."""

    shown: str
    request: Message | bytes | Callable[[Given], Message]
    message: str = ""
    status: str = "INVALID_ARGUMENT"
    answer: str = ""
    reply: Message | None = None

    def built(self, given: Given) -> bytes:
        """The request's bytes; of a client stream, of the one message that is sent."""
        request = self.request(given) if callable(self.request) else self.request
        return request if isinstance(request, bytes) else request.SerializeToString()


class Field(NamedTuple):
    """``name`` is the path from the request, with ``[]`` behind each repeated message."""

    name: str
    valid: str
    bad: tuple[Bad, ...] = ()


class Method(NamedTuple):
    descriptor: MethodDescriptor
    fields: tuple[Field, ...]

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"


# -- parts that several methods share ---------------------------------------------------------------------------------

DATA_SOURCE = (
    f"1 to {NAME_CHARACTERS_MAX} of `A-Z a-z 0-9 . _ -` (fewer with a domain); not `.` or `..`, not the name of a common "
    "topic, not ending in `_essential` in any case"
)
STREAM = (
    f"empty (the main stream), or as a data source, together at most {TOPIC_CHARACTERS_MAX} characters with data source "
    "and dots; with PartitionBased any text"
)
ANY = "anything"
CHARACTERS = "wanted one or more of A-Z a-z 0-9 . _ -"
LONG = "x" * 300
LONG_SHOWN = f"'{LONG[:60]}'... (300 characters) is not allowed, wanted at most"


def data_source(name: str, request_of: Callable[[str], Message]) -> Field:
    """A data source that names topics, so only what can name a topic will do."""
    return Field(
        name,
        DATA_SOURCE,
        (
            Bad("empty", request_of(""), f"{name}: '' is not allowed, {CHARACTERS}"),
            Bad("`a/b`", request_of("a/b"), f"{name}: 'a/b' is not allowed, {CHARACTERS}"),
            Bad("`..`", request_of(".."), f"{name}: '..' is not allowed, wanted more than dots"),
            Bad(
                "`Car_Essential`", request_of("Car_Essential"), f"{name}: 'Car_Essential' is not allowed, wanted a name"
            ),
            Bad("`SessionInfo`", request_of("SessionInfo"), f"{name}: 'SessionInfo' is not allowed, wanted a name"),
            Bad("300 characters", request_of(LONG), f"{name}: {LONG_SHOWN} {NAME_CHARACTERS_MAX} characters"),
        ),
    )


def written(field: Field, name: str, shown: str, request: Message, existing: str) -> Field:
    """The field of a call that makes topics: a name that Kafka would refuse beside another is refused."""
    wanted = f"{name}: {shown!r} is not allowed, wanted a name whose topic differs from the existing {existing!r}"
    return field._replace(
        valid=f"{field.valid}; of names that differ in `.` and `_` alone the one that is known to the gateway first",
        bad=(*field.bad, Bad(f"`{shown}`, while there is `{existing}`", request, wanted)),
    )


def stream(name: str, request_of: Callable[[str], Message]) -> Field:
    return Field(
        name,
        STREAM,
        (
            Bad("`ü`", request_of("ü"), f"{name}: 'ü' is not allowed, {CHARACTERS}"),
            Bad("`x_essential`", request_of("x_essential"), f"{name}: 'x_essential' is not allowed, wanted a name"),
            Bad("300 characters", request_of(LONG), f"{name}: {LONG_SHOWN} {TOPIC_CHARACTERS_MAX - 4} characters"),
        ),
    )


def text(name: str, request_of: Callable[[str], Message | Callable[[Given], Message]], shown: str = "") -> Field:
    """Free text with a bound."""
    wanted = f"{shown or name}: '{'x' * 59}... ({TEXT_CHARACTERS_MAX + 3} characters) is not allowed, wanted at most"
    too_long = request_of("x" * (TEXT_CHARACTERS_MAX + 1))
    return Field(
        name,
        f"at most {TEXT_CHARACTERS_MAX} characters",
        (Bad(f"{TEXT_CHARACTERS_MAX + 1} characters", too_long, f"{wanted} {TEXT_CHARACTERS_MAX} characters"),),
    )


def timestamp(name: str, request_of: Callable[[Timestamp], Message]) -> Field:
    return Field(
        name,
        "missing (now), or a time in the years 1 to 9999 with 0 to 999,999,999 nanoseconds",
        (
            Bad("the year 10,000", request_of(Timestamp(seconds=253_402_300_800)), f"{name}: '253402300800 s 0 ns' is"),
            Bad(
                "-1 nanoseconds", request_of(Timestamp(nanos=-1)), f"{name}: '0 s -1 ns' is not allowed, wanted a time"
            ),
        ),
    )


def session_key(request_of: Callable[[str], Message], reply: Message, answer: str) -> Field:
    """The key of a session that must be there; that it is not is an answer, no error."""
    return Field(
        "session_key",
        "the key of a session",
        (
            Bad("of no session", request_of("nobody"), status="OK", answer=answer, reply=reply),
            Bad("empty", request_of(""), status="OK", answer=answer, reply=reply),
        ),
    )


def connection(name: str, request_of: Callable[[api.Connection | None], Message], missing: str, bad: Bad) -> Field:
    """``bad`` is a connection that nobody made."""
    return Field(name, "what NewConnection answered", (Bad("missing", request_of(None), f"{name}: {missing}"), bad))


def packet(name: str, request_of: Callable[[Packet | None], Message], raw_of: Callable[[bytes], bytes]) -> Field:
    """``raw_of`` makes a request whose packet consists of the given bytes."""
    size = MAX_PACKET_BYTES + 5
    return Field(
        name,
        f"a Packet of at most {MAX_PACKET_BYTES:,} bytes (`MaxPacketBytes`, or less where Kafka takes less); what is in "
        "its fields is not looked at",
        (
            Bad("missing", request_of(None), f"{name}: missing"),
            Bad("bytes that are no Packet", raw_of(b"\xff"), f"{name}: no ma.streaming.open_data.v1.Packet (1 bytes)"),
            Bad(
                f"{size:,} bytes",
                request_of(Packet(content=bytes(MAX_PACKET_BYTES))),
                f"{name}: {size} bytes; a packet may have at most {MAX_PACKET_BYTES}",
            ),
        ),
    )


def _delimited(number: int, data: bytes) -> bytes:
    """A length-delimited field of a message on the wire."""
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


# -- PacketWriterService ----------------------------------------------------------------------------------------------

_WRITER = api.DESCRIPTOR.services_by_name["PacketWriterService"].methods_by_name


def _details(request_of: Callable[[api.DataPacketDetails], Message], prefix: str) -> tuple[Field, ...]:
    """The fields of DataPacketDetails. ``prefix`` is as in messages; the field's name has no index."""

    def of(**fields: Any) -> Message:
        return request_of(api.DataPacketDetails(**{"message": Packet(), "data_source": "Car", **fields}))

    def raw(data: bytes) -> bytes:
        return _delimited(1, _delimited(1, data) + _delimited(2, b"Car"))

    key = "k" * (KEY_BYTES_MAX + 1)
    too_long = f"{prefix}session_key: {KEY_BYTES_MAX + 1} bytes; a session key may have at most {KEY_BYTES_MAX}"
    fields = (
        packet(f"{prefix}message", lambda message: of(message=message), raw),
        written(
            data_source(f"{prefix}data_source", lambda name: of(data_source=name)),
            f"{prefix}data_source",
            "Far_1",
            of(data_source="Far_1"),
            "Far.1_essential",
        ),
        written(
            stream(f"{prefix}stream", lambda name: of(stream=name)),
            f"{prefix}stream",
            "a_b",
            of(data_source="Far.1", stream="a_b"),
            "Far.1.a.b",
        ),
        Field(
            f"{prefix}session_key",
            f"at most {KEY_BYTES_MAX} bytes; empty: of no session",
            (Bad(f"{KEY_BYTES_MAX + 1} bytes", of(session_key=key), too_long),),
        ),
    )
    return tuple(field._replace(name=field.name.replace("[0]", "[]")) for field in fields)


def _info(kind: type[Message]) -> tuple[Field, ...]:
    key = Packet(session_key="k" * (KEY_BYTES_MAX + 1))
    message = packet("message", lambda message: kind(message=message), lambda data: _delimited(1, data))
    too_long = f"message.session_key: {KEY_BYTES_MAX + 1} bytes; a session key may have at most {KEY_BYTES_MAX}"
    return (
        message._replace(
            valid=message.valid + f"; its `session_key` has at most {KEY_BYTES_MAX} bytes",
            bad=(*message.bad, Bad(f"`session_key` of {KEY_BYTES_MAX + 1} bytes", kind(message=key), too_long)),
        ),
        Field(
            "type",
            "`INFO_TYPE_SESSION_INFO`, `INFO_TYPE_SYSTEM_STATUS`, or unspecified, which is the first",
            (
                Bad(
                    "7",
                    kind(message=Packet(), type=7),
                    "type: 7 is not allowed, wanted one of INFO_TYPE_UNSPECIFIED (0)",
                ),
            ),
        ),
    )


WRITER = (
    Method(
        _WRITER["WriteDataPacket"],
        (
            Field("detail", "present", (Bad("missing", api.WriteDataPacketRequest(), "detail: missing"),)),
            *_details(lambda detail: api.WriteDataPacketRequest(detail=detail), "detail."),
        ),
    ),
    Method(
        _WRITER["WriteDataPackets"],
        (
            Field("details", f"any number, also none; all together at most {REQUEST_BYTES_MAX:,} bytes"),
            *_details(lambda detail: api.WriteDataPacketsRequest(details=[detail]), "details[0]."),
        ),
    ),
    Method(_WRITER["WriteInfoPacket"], _info(api.WriteInfoPacketRequest)),
    Method(_WRITER["WriteInfoPackets"], _info(api.WriteInfoPacketsRequest)),
)

# -- PacketReaderService ----------------------------------------------------------------------------------------------

_READER = api.DESCRIPTOR.services_by_name["PacketReaderService"].methods_by_name
UNKNOWN = api.Connection(id=12345)
ENDS = "the stream ends at once"


def _read(kind: type[Message]) -> tuple[Field, ...]:
    unknown = Bad("of no connection", kind(connection=UNKNOWN), status="OK", answer=ENDS)
    return (
        connection("connection", lambda c: kind(connection=c), "missing; make one with NewConnection", unknown),
        Field(
            "connection.id",
            "as NewConnection answered it",
            (Bad("0", kind(connection=api.Connection()), *unknown[2:]),),
        ),
    )


def _patterns(name: str) -> Field:
    field = f"request.{name}"

    def of(*patterns: str) -> Callable[[Given], Message]:
        def build(given: Given) -> Message:
            wanted = api.DataPacketRequest(connection=given.connection, **{name: patterns})
            return api.ReadDataPacketsRequest(request=wanted)

        return build

    long = "x" * (PATTERN_CHARACTERS_MAX + 1)
    return Field(
        field,
        f"RE2 regular expressions, at most {PATTERNS_MAX:,} with {PATTERN_CHARACTERS_MAX:,} characters together; none: "
        + ("every identifier" if name.startswith("include") else "none but the empty identifier"),
        (
            Bad(
                "`(`", of("(", "fine"), f"{field}[0]: '(' is not a pattern (RE2 regular expression) that can be used: "
            ),
            Bad("`(?=x)` (look-ahead)", of("fine", "(?=x)"), f"{field}[1]: '(?=x)' is not a pattern"),
            Bad(
                "`((a{100}){100}){100}`",
                of("((a{100}){100}){100}"),
                f"{field}[0]: '((a{{100}}){{100}}){{100}}' is not a",
            ),
            Bad(f"{PATTERNS_MAX + 1} patterns", of(*["x"] * (PATTERNS_MAX + 1)), f"{field}: 'x' is not a pattern"),
            Bad(f"{PATTERN_CHARACTERS_MAX + 1} characters", of(long), f"{field}: '{'x' * 60}'... ("),
        ),
    )


def _too_many_patterns(given: Given) -> Message:
    pattern = ["é" * (PATTERN_CHARACTERS_MAX // 2)] * 2
    lists = {f"{what}_{kind}": pattern for what in ("include", "exclude") for kind in ("parameters", "events")}
    return api.ReadDataPacketsRequest(request=api.DataPacketRequest(connection=given.connection, **lists))


def _read_data(wanted: api.Connection | None) -> Message:
    return api.ReadDataPacketsRequest(request=api.DataPacketRequest(connection=wanted))


READER = (
    Method(_READER["ReadPackets"], _read(api.ReadPacketsRequest)),
    Method(_READER["ReadEssentials"], _read(api.ReadEssentialsRequest)),
    Method(
        _READER["ReadDataPackets"],
        (
            Field(
                "request",
                f"present; its patterns take at most {FILTER_BYTES_MAX:,} bytes",
                (
                    Bad("missing", api.ReadDataPacketsRequest(), "request.connection: missing; make one with"),
                    Bad("patterns of 512 KiB", _too_many_patterns, "request: its patterns take 52"),
                ),
            ),
            connection(
                "request.connection",
                _read_data,
                "missing; make one with NewConnection",
                Bad("of no connection", _read_data(UNKNOWN), status="OK", answer=ENDS),
            ),
            Field(
                "request.connection.id",
                "as NewConnection answered it",
                (Bad("0", _read_data(api.Connection()), status="OK", answer=ENDS),),
            ),
            _patterns("include_parameters"),
            _patterns("exclude_parameters"),
            _patterns("include_events"),
            _patterns("exclude_events"),
            Field("request.include_markers", ANY),
        ),
    ),
)

# -- ConnectionManagerService -----------------------------------------------------------------------------------------

_CONNECTIONS = api.DESCRIPTOR.services_by_name["ConnectionManagerService"].methods_by_name
NEEDS_CONNECTION = "missing, wanted the connection that NewConnection answered"


def _new(**fields: Any) -> Message:
    return api.NewConnectionRequest(details=api.ConnectionDetails(**{"data_source": "Car", **fields}))


def _by_connection(kind: type[Message], reply: Message, answer: str) -> tuple[Field, ...]:
    unknown = Bad("of no connection", kind(connection=UNKNOWN), status="OK", answer=answer, reply=reply)
    return (
        connection("connection", lambda c: kind(connection=c), NEEDS_CONNECTION, unknown),
        Field(
            "connection.id",
            "as NewConnection answered it",
            (Bad("0", kind(connection=api.Connection()), *unknown[2:]),),
        ),
    )


def _streams() -> Field:
    name, field = "details.streams", stream("details.streams[0]", lambda stream: _new(streams=[stream]))
    return field._replace(name=name, valid="each: " + field.valid)


CONNECTIONS = (
    Method(
        _CONNECTIONS["NewConnection"],
        (
            Field(
                "details",
                f"present, at most {DETAILS_BYTES_MAX:,} bytes",
                (
                    Bad("missing", api.NewConnectionRequest(), "details: missing, wanted the connection's details"),
                    Bad(
                        "300,011 bytes",
                        _new(streams=["s"] * 100_000),
                        "details: '300005 bytes' is not allowed, wanted at",
                    ),
                ),
            ),
            data_source("details.data_source", lambda name: _new(data_source=name)),
            text("details.session_key", lambda key: _new(session_key=key)),
            _streams(),
            Field(
                "details.stream_offsets",
                "at most one for each of `streams`: 0 the earliest, negative the end, n exactly n; missing: 0",
                (
                    Bad(
                        "2 offsets for 1 stream",
                        _new(streams=["s"], stream_offsets=[1, 2]),
                        "details.stream_offsets: '2 offsets' is not allowed, wanted at most one for each of the 1 streams",
                    ),
                ),
            ),
            Field("details.main_offset", "anything, as in `stream_offsets`; beyond the end: the end"),
            Field("details.essentials_offset", "anything, as in `stream_offsets`; beyond the end: the end"),
            Field("details.exclude_main_stream", ANY),
            text("details.consumer_group", lambda group: _new(consumer_group=group)),
        ),
    ),
    Method(
        _CONNECTIONS["GetConnection"],
        _by_connection(api.GetConnectionRequest, api.GetConnectionResponse(), "no `details`"),
    ),
    Method(
        _CONNECTIONS["CloseConnection"],
        _by_connection(api.CloseConnectionRequest, api.CloseConnectionResponse(), "`success` is false"),
    ),
)

# -- SessionManagementService -----------------------------------------------------------------------------------------

_SESSIONS = api.DESCRIPTOR.services_by_name["SessionManagementService"].methods_by_name
NO_SUCCESS = "`success` is false"
HALF = MAX_PACKET_BYTES // 2
MUCH = "x" * (HALF + 1)


def _create(**fields: Any) -> Message:
    return api.CreateSessionRequest(**{"data_source": "Car", **fields})


def _of_a_session(kind: type[Message], **fields: Any) -> Callable[[Given], Message]:
    return lambda given: kind(session_key=given.session_key, **fields)


def _end_other_source(given: Given) -> Message:
    return api.EndSessionRequest(session_key=given.session_key, data_source="Other")


SESSIONS = (
    Method(
        _SESSIONS["CreateSession"],
        (
            data_source("data_source", lambda name: _create(data_source=name)),
            text("type", lambda name: _create(type=name)),
            Field("version", "anything; 0 means 1"),
            Field(
                "utc_offset",
                "missing, or at most 10,000 years, seconds and nanoseconds of one sign",
                (
                    Bad(
                        "1 s and -1 ns", _create(utc_offset=Duration(seconds=1, nanos=-1)), "utc_offset: '1 s -1 ns' is"
                    ),
                    Bad(
                        "10¹⁵ s",
                        _create(utc_offset=Duration(seconds=10**15)),
                        "utc_offset: '1000000000000000 s 0 ns' is",
                    ),
                ),
            ),
            Field(
                "identifier",
                f"any text; all fields together at most {HALF:,} bytes",
                (Bad(f"{HALF + 1:,} bytes", _create(identifier=MUCH), "identifier: '20"),),
            ),
            text("associate_session_key", lambda key: _create(associate_session_key=[key]), "associate_session_key[0]"),
            Field(
                "details",
                f"any texts; all fields together at most {HALF:,} bytes",
                (Bad(f"{HALF + 1:,} bytes", _create(details={"a": MUCH}), "details: '20"),),
            ),
            timestamp("creation_time", lambda time: _create(creation_time=time)),
        ),
    ),
    Method(
        _SESSIONS["EndSession"],
        (
            Field(
                "data_source",
                "empty, or the session's",
                (Bad("another", _end_other_source, status="OK", answer=NO_SUCCESS, reply=api.EndSessionResponse()),),
            ),
            session_key(lambda key: api.EndSessionRequest(session_key=key), api.EndSessionResponse(), NO_SUCCESS),
            timestamp("termination_time", lambda time: api.EndSessionRequest(termination_time=time)),
        ),
    ),
    Method(
        _SESSIONS["GetCurrentSessions"],
        (
            Field(
                "data_source",
                "a data source",
                (
                    Bad(
                        "of no session",
                        api.GetCurrentSessionsRequest(data_source="a/b"),
                        status="OK",
                        answer="no keys, `success` is true",
                        reply=api.GetCurrentSessionsResponse(success=True),
                    ),
                ),
            ),
        ),
    ),
    Method(
        _SESSIONS["GetSessionInfo"],
        (
            session_key(
                lambda key: api.GetSessionInfoRequest(session_key=key), api.GetSessionInfoResponse(), NO_SUCCESS
            ),
        ),
    ),
    Method(
        _SESSIONS["GetSessionStartNotification"],
        (Field("data_source", "anything; of a data source without sessions nothing is told"),),
    ),
    Method(
        _SESSIONS["GetSessionStopNotification"],
        (Field("data_source", "anything; of a data source without sessions nothing is told"),),
    ),
    Method(
        _SESSIONS["UpdateSessionIdentifier"],
        (
            session_key(
                lambda key: api.UpdateSessionIdentifierRequest(session_key=key),
                api.UpdateSessionIdentifierResponse(),
                NO_SUCCESS,
            ),
            Field(
                "identifier",
                f"any text, the session's fields together at most {HALF:,} bytes; empty changes nothing",
                (
                    Bad(
                        f"{HALF + 1:,} bytes",
                        _of_a_session(api.UpdateSessionIdentifierRequest, identifier=MUCH),
                        "identifier: '20",
                    ),
                ),
            ),
        ),
    ),
    Method(
        _SESSIONS["AddAssociateSession"],
        (
            session_key(
                lambda key: api.AddAssociateSessionRequest(session_key=key),
                api.AddAssociateSessionResponse(),
                NO_SUCCESS,
            ),
            text(
                "associate_session_key",
                lambda key: _of_a_session(api.AddAssociateSessionRequest, associate_session_key=key),
            ),
        ),
    ),
    Method(
        _SESSIONS["UpdateSessionDetails"],
        (
            session_key(
                lambda key: api.UpdateSessionDetailsRequest(session_key=key),
                api.UpdateSessionDetailsResponse(),
                NO_SUCCESS,
            ),
            Field(
                "details",
                f"any texts, the session's fields together at most {HALF:,} bytes",
                (
                    Bad(
                        f"{HALF + 1:,} bytes",
                        _of_a_session(api.UpdateSessionDetailsRequest, details={"a": MUCH}),
                        "details: '20",
                    ),
                ),
            ),
        ),
    ),
)

# -- DataFormatManagerService -----------------------------------------------------------------------------------------

_FORMATS = api.DESCRIPTOR.services_by_name["DataFormatManagerService"].methods_by_name


def _identifier(kind: type[Message], reply: Message, answer: str) -> Field:
    bad = Bad("1", kind(data_source="Car", data_format_identifier=1), status="OK", answer=answer, reply=reply)
    return Field("data_format_identifier", "one that was given out", (bad,))


FORMATS = (
    Method(
        _FORMATS["GetParameterDataFormatId"],
        (
            data_source("data_source", lambda name: api.GetParameterDataFormatIdRequest(data_source=name)),
            Field(
                "parameters",
                f"any names, also none; as a definition at most {MAX_PACKET_BYTES:,} bytes",
                (
                    Bad(
                        f"{MAX_PACKET_BYTES:,} bytes",
                        api.GetParameterDataFormatIdRequest(data_source="Car", parameters=["x" * MAX_PACKET_BYTES]),
                        "parameters: '41",
                    ),
                ),
            ),
        ),
    ),
    Method(
        _FORMATS["GetEventDataFormatId"],
        (
            data_source("data_source", lambda name: api.GetEventDataFormatIdRequest(data_source=name)),
            Field(
                "event",
                f"any name; as a definition at most {MAX_PACKET_BYTES:,} bytes",
                (
                    Bad(
                        f"{MAX_PACKET_BYTES:,} bytes",
                        api.GetEventDataFormatIdRequest(data_source="Car", event="x" * MAX_PACKET_BYTES),
                        "event: '41",
                    ),
                ),
            ),
        ),
    ),
    Method(
        _FORMATS["GetParametersList"],
        (
            data_source("data_source", lambda name: api.GetParametersListRequest(data_source=name)),
            _identifier(api.GetParametersListRequest, api.GetParametersListResponse(), "no parameters"),
        ),
    ),
    Method(
        _FORMATS["GetEvent"],
        (
            data_source("data_source", lambda name: api.GetEventRequest(data_source=name)),
            _identifier(api.GetEventRequest, api.GetEventResponse(), "no event"),
        ),
    ),
)

# -- keys and health --------------------------------------------------------------------------------------------------

_KEYS = keys.DESCRIPTOR.services_by_name["UniqueKeyGeneratorService"].methods_by_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name
WANTED_TYPE = "is not allowed, wanted KEY_TYPE_ULONG (1) or KEY_TYPE_STRING (2)"

KEYS = (
    Method(
        _KEYS["GenerateUniqueKey"],
        (
            Field(
                "type",
                "`KEY_TYPE_ULONG` or `KEY_TYPE_STRING`",
                (
                    Bad("unspecified", keys.GenerateUniqueKeyRequest(), f"type: 0 {WANTED_TYPE}"),
                    Bad("7", keys.GenerateUniqueKeyRequest(type=7), f"type: 7 {WANTED_TYPE}"),  # type: ignore[arg-type]
                ),
            ),
        ),
    ),
)

HEALTH = (
    Method(
        _HEALTH["Watch"],
        (Field("service", "as for Check; anything else is told to be `SERVICE_UNKNOWN`, and may become known"),),
    ),
    Method(
        _HEALTH["Check"],
        (
            Field(
                "service",
                "empty (the whole server), or the full name of a service",
                (Bad("`nobody`", health_pb2.HealthCheckRequest(service="nobody"), status="NOT_FOUND"),),
            ),
        ),
    ),
)

METHODS = (*WRITER, *READER, *CONNECTIONS, *SESSIONS, *FORMATS, *KEYS, *HEALTH)

NO_MESSAGE = "bytes that are no message of the method"
EVERY_REQUEST = (
    Bad(NO_MESSAGE, b"\xff\xff\xff", "request: not readable: "),
    Bad(
        f"more than {REQUEST_BYTES_MAX:,} bytes",
        bytes(REQUEST_BYTES_MAX + 1),
        "SERVER: Received message larger than max",
        "RESOURCE_EXHAUSTED",
    ),
)
"""What every method answers in the same way."""


# -- limits, rights, and parts that are away -------------------------------------------------------------------------


class Told(NamedTuple):
    """A refusal that depends on more than the request. ``message`` is how it begins, ``{value}`` the limit's value; the
    tests that bring it about compare with :func:`told`."""

    name: str
    asked: str
    status: str
    message: str


LIMITS = "RESOURCE_EXHAUSTED"
TOLD = (
    Told("OpenCallsMax", "one more call", LIMITS, "OpenCallsMax = {value}: so many calls are open on this gateway"),
    Told(
        "OpenCallsPerPeer", "one more call of the same host", LIMITS, "OpenCallsPerPeer = {value}: so many calls from"
    ),
    Told("ControlCallsMax", "one more control call", LIMITS, "ControlCallsMax = {value}: so many control calls of"),
    Told(
        "ConnectionsMax", "one more `NewConnection`", LIMITS, "ConnectionsMax = {value}: so many connections are open"
    ),
    Told(
        "ConnectionsBytes",
        "one more `NewConnection`, where they name very many streams",
        LIMITS,
        "ConnectionsBytes = {value}: ",
    ),
    Told(
        "MaxPacketBytes",
        "a session call, where the data source has very many streams",
        LIMITS,
        "MaxPacketBytes = {value}: the ",
    ),
    Told("MessagesPerSecondPerPeer", "messages, too fast", LIMITS, "MessagesPerSecondPerPeer = {value}: "),
    Told("BytesPerSecondPerPeer", "bytes, too fast", LIMITS, "BytesPerSecondPerPeer = {value}: "),
    Told("PacketsPerMessage", "a message of more packets", LIMITS, "PacketsPerMessage = {value}: the message has "),
    Told("WaitingWritesMax", "a write while so many wait", LIMITS, "WaitingWritesMax = {value}: not accepted at once"),
    Told(
        "WaitingWritesBytes",
        "a write while so much waits",
        LIMITS,
        "WaitingWritesBytes = {value}: not accepted at once",
    ),
    Told("WriteWaitSeconds", "a write that finds no room", LIMITS, "WriteWaitSeconds = {value}: not accepted within"),
    Told("ReaderBufferBytes", "to read, and does not", LIMITS, "ReaderBufferBytes = {value}: more bytes were not read"),
    Told("FiltersMax", "one more `ReadDataPackets`", LIMITS, "FiltersMax = {value}: so many different filters"),
    Told(
        "UnreadNotificationsMax",
        "session notifications, and does not read them",
        LIMITS,
        "UnreadNotificationsMax = {value}: more notifications were not read",
    ),
    Told("no token", "anything, where tokens are asked for", "UNAUTHENTICATED", "authorization: missing, wanted one"),
    Told("two tokens", "anything", "UNAUTHENTICATED", "authorization: 2 of them, wanted one"),
    Told("no bearer", "anything", "UNAUTHENTICATED", "authorization: not understood, wanted `Bearer` and a token"),
    Told("unknown token", "anything", "UNAUTHENTICATED", "authorization: unknown token"),
    Told("token withdrawn", "a call that is open", "UNAUTHENTICATED", "the token was withdrawn, or its rights have"),
    Told("no right", "a data source of others", "PERMISSION_DENIED", "token {value} has no right to "),
    Told(
        "not the owner", "a connection of others", "PERMISSION_DENIED", "connection: it was not made by token {value}"
    ),
    Told("shutting down", "a call that is open", "UNAVAILABLE", "the server is shutting down"),
    Told("log away", "a write that finds no room", "UNAVAILABLE", "not accepted within {value} s: "),
)

TOLD_PAGE = """
## Limits, rights, and parts that are away

What depends on more than the request. `N` is the value of the key, or what is fixed; [overload](overload.md) says what
each of them is for.

| limit or reason | who asked for | status | message |
|---|---|---|---|"""

BESIDE = """\
| `TcpConnectionsMax` | one more TCP connection | `UNAVAILABLE` | in gRPC's own words |
| `ConnectionIdleSeconds` | a connection that nobody has used | `OK` | as of no connection |"""


def told(name: str, value: object = "") -> str:
    """How the message of this row begins."""
    return next(row for row in TOLD if row.name == name).message.replace("{value}", str(value))


# -- the fields that there are ----------------------------------------------------------------------------------------

LEAVES = frozenset({Packet.DESCRIPTOR.full_name, Duration.DESCRIPTOR.full_name, Timestamp.DESCRIPTOR.full_name})
"""Messages that count as one field: what the server does not look into, and what stands for one value."""


def fields_of(request: Descriptor, prefix: str = "") -> Iterator[str]:
    """Paths of all fields of a request, in the order of their declaration."""
    declared = DescriptorProto()
    request.CopyToProto(declared)
    for field, said in zip(request.fields, declared.field, strict=True):
        yield prefix + field.name
        kind = field.message_type
        if kind is not None and kind.full_name not in LEAVES and not kind.GetOptions().map_entry:
            repeated = said.label == FieldDescriptorProto.LABEL_REPEATED
            yield from fields_of(kind, f"{prefix}{field.name}{'[].' if repeated else '.'}")


# -- the page ---------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
# What bad input gets

This page is made from the table in `tests/bad_input.py`, every row of which is sent to a real server by
`tests/system/test_bad_input.py`. Do not edit it: `python tests/bad_input.py docs/errors.md` writes it.

A message names the field by its path from the request, what it holds and what would do; shown here is how it begins.
A request that is refused has left nothing behind. "There is no such session, connection or format" is an answer with
status OK. Text must be UTF-8, as in every protobuf message.

Beside what is below, any call may get `UNAVAILABLE` (the log or a part of the server is away: try again; the message
says what is away and why), and `UNIMPLEMENTED` for a method that does not exist. What limits and rights refuse is at the
end.
"""

HEAD = "| field | valid | invalid | status | message or answer |\n|---|---|---|---|---|"


def page() -> str:
    """The whole page docs/errors.md."""
    parts = [INTRODUCTION, "## Every request\n\n| invalid | status | message |\n|---|---|---|"]
    parts.extend(f"| {bad.shown} | `{bad.status}` | {_answer(bad)} |" for bad in EVERY_REQUEST)
    service = ""
    for method in METHODS:
        if (its := method.descriptor.containing_service.name) != service:
            service = its
            parts.append(f"\n## {service}")
        parts.append(f"\n### {method.descriptor.name}\n\n{HEAD}")
        for field in method.fields:
            parts.extend(_rows(field))
    parts.append(TOLD_PAGE)
    parts.extend(_told_row(row) for row in TOLD)
    parts.append(BESIDE)
    return "\n".join(parts) + "\n"


def _told_row(row: Told) -> str:
    name = f"`{row.name}`" if row.name[0].isupper() else row.name
    message = row.message.replace("{value}", "N").rstrip().replace("`", "'")
    return f"| {name} | {row.asked} | `{row.status}` | `{message}` |"


def _rows(field: Field) -> Iterator[str]:
    first = f"| `{field.name}` | {field.valid} |"
    for bad in field.bad:
        yield f"{first} {bad.shown} | `{bad.status}` | {_answer(bad)} |"
        first = "| | |"
    if not field.bad:
        yield f"{first} - | | |"


def _answer(bad: Bad) -> str:
    shown = re.sub("x{20,}", "xxx…", bad.message).replace("|", "\\|")
    return bad.answer or (f"`{shown.rstrip()}`" if shown else "")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
