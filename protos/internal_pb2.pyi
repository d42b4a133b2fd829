from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ma.streaming.api.v1 import api_pb2 as _api_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataPacketDetailsView(_message.Message):
    __slots__ = ("message", "data_source", "stream", "session_key")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    data_source: str
    stream: str
    session_key: str
    def __init__(self, message: _Optional[bytes] = ..., data_source: _Optional[str] = ..., stream: _Optional[str] = ..., session_key: _Optional[str] = ...) -> None: ...

class WriteDataPacketRequestView(_message.Message):
    __slots__ = ("detail",)
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    detail: DataPacketDetailsView
    def __init__(self, detail: _Optional[_Union[DataPacketDetailsView, _Mapping]] = ...) -> None: ...

class WriteDataPacketsRequestView(_message.Message):
    __slots__ = ("details",)
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    details: _containers.RepeatedCompositeFieldContainer[DataPacketDetailsView]
    def __init__(self, details: _Optional[_Iterable[_Union[DataPacketDetailsView, _Mapping]]] = ...) -> None: ...

class WriteInfoPacketRequestView(_message.Message):
    __slots__ = ("message", "type")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    type: _api_pb2.InfoType
    def __init__(self, message: _Optional[bytes] = ..., type: _Optional[_Union[_api_pb2.InfoType, str]] = ...) -> None: ...

class PacketResponseView(_message.Message):
    __slots__ = ("packet", "stream", "submit_time")
    PACKET_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    packet: bytes
    stream: str
    submit_time: _timestamp_pb2.Timestamp
    def __init__(self, packet: _Optional[bytes] = ..., stream: _Optional[str] = ..., submit_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReadPacketsResponseView(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: _containers.RepeatedCompositeFieldContainer[PacketResponseView]
    def __init__(self, response: _Optional[_Iterable[_Union[PacketResponseView, _Mapping]]] = ...) -> None: ...

class DataContentView(_message.Message):
    __slots__ = ("data_format",)
    DATA_FORMAT_FIELD_NUMBER: _ClassVar[int]
    data_format: bytes
    def __init__(self, data_format: _Optional[bytes] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("gateway", "epoch", "session_offset")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SESSION_OFFSET_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    epoch: int
    session_offset: int
    def __init__(self, gateway: _Optional[str] = ..., epoch: _Optional[int] = ..., session_offset: _Optional[int] = ...) -> None: ...

class FollowEvent(_message.Message):
    __slots__ = ("session_started", "session_stopped", "connection_closed", "snapshot")
    SESSION_STARTED_FIELD_NUMBER: _ClassVar[int]
    SESSION_STOPPED_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_CLOSED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    session_started: SessionStarted
    session_stopped: SessionStopped
    connection_closed: ConnectionClosed
    snapshot: Snapshot
    def __init__(self, session_started: _Optional[_Union[SessionStarted, _Mapping]] = ..., session_stopped: _Optional[_Union[SessionStopped, _Mapping]] = ..., connection_closed: _Optional[_Union[ConnectionClosed, _Mapping]] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class SessionStarted(_message.Message):
    __slots__ = ("offset", "session_key", "data_source")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    session_key: str
    data_source: str
    def __init__(self, offset: _Optional[int] = ..., session_key: _Optional[str] = ..., data_source: _Optional[str] = ...) -> None: ...

class SessionStopped(_message.Message):
    __slots__ = ("offset", "session_key", "data_source")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    session_key: str
    data_source: str
    def __init__(self, offset: _Optional[int] = ..., session_key: _Optional[str] = ..., data_source: _Optional[str] = ...) -> None: ...

class ConnectionClosed(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("epoch", "session_offset", "open_connections")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SESSION_OFFSET_FIELD_NUMBER: _ClassVar[int]
    OPEN_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    session_offset: int
    open_connections: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., session_offset: _Optional[int] = ..., open_connections: _Optional[_Iterable[int]] = ...) -> None: ...

class LookUpConnectionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class LookUpConnectionResponse(_message.Message):
    __slots__ = ("details", "owner")
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    details: _api_pb2.ConnectionDetails
    owner: str
    def __init__(self, details: _Optional[_Union[_api_pb2.ConnectionDetails, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class SendAgainRequest(_message.Message):
    __slots__ = ("packets",)
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    packets: _containers.RepeatedCompositeFieldContainer[RefusedPacket]
    def __init__(self, packets: _Optional[_Iterable[_Union[RefusedPacket, _Mapping]]] = ...) -> None: ...

class RefusedPacket(_message.Message):
    __slots__ = ("topic", "partition", "key", "packet", "identity", "essentials")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ESSENTIALS_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    key: bytes
    packet: bytes
    identity: bytes
    essentials: str
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., key: _Optional[bytes] = ..., packet: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., essentials: _Optional[str] = ...) -> None: ...

class SendAgainResponse(_message.Message):
    __slots__ = ("logged", "refused")
    LOGGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    logged: bool
    refused: _containers.RepeatedCompositeFieldContainer[RefusedAgain]
    def __init__(self, logged: bool = ..., refused: _Optional[_Iterable[_Union[RefusedAgain, _Mapping]]] = ...) -> None: ...

class RefusedAgain(_message.Message):
    __slots__ = ("packet", "reason")
    PACKET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    packet: int
    reason: str
    def __init__(self, packet: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ReportReadsRequest(_message.Message):
    __slots__ = ("gateway", "connections")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    connections: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, gateway: _Optional[str] = ..., connections: _Optional[_Iterable[int]] = ...) -> None: ...

class ReportReadsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
