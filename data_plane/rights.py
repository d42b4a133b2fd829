"""Which right each call needs, and whose: one row a method, compared with the descriptors by a test.

===========  ======================================================================================================
right        what it allows
===========  ======================================================================================================
``read``     packets, sessions and data formats of a data source can be read
``write``    packets can be written to it and data formats defined for it
``manage``   its sessions can be begun, changed and ended
===========  ======================================================================================================

Without a row a gateway does not start: nobody can add a method and forget who may call it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["CONNECTION", "EVERY", "NEEDS", "RIGHTS", "SESSION", "Need", "Right", "table_row"]

Right = Literal["read", "write", "manage"]
RIGHTS: tuple[Right, ...] = ("read", "write", "manage")

EVERY = "*"
"""The right is wanted for all data sources: what is written there concerns all of them."""

SESSION = "session"
"""The data source is that of the session which the request's ``session_key`` names; none is needed where it names none."""

CONNECTION = "connection"
"""The data source is that of the connection which the request names, and it must be the caller's own."""


class Need(NamedTuple):
    """``right`` is None where any known token will do. ``source`` is the request's field that holds the data source, or
    one of the constants above."""

    right: Right | None
    source: str = ""


ANY_TOKEN = Need(None)

_API = "/ma.streaming.api.v1."
_WRITER = f"{_API}PacketWriterService"
_READER = f"{_API}PacketReaderService"
_CONNECTIONS = f"{_API}ConnectionManagerService"
_SESSIONS = f"{_API}SessionManagementService"
_FORMATS = f"{_API}DataFormatManagerService"

NEEDS: dict[str, Need] = {
    f"{_WRITER}/WriteDataPacket": Need("write", "detail.data_source"),
    f"{_WRITER}/WriteDataPackets": Need("write", "details.data_source"),
    f"{_WRITER}/WriteInfoPacket": Need("write", EVERY),
    f"{_WRITER}/WriteInfoPackets": Need("write", EVERY),
    f"{_READER}/ReadPackets": Need("read", CONNECTION),
    f"{_READER}/ReadEssentials": Need("read", CONNECTION),
    f"{_READER}/ReadDataPackets": Need("read", CONNECTION),
    f"{_CONNECTIONS}/NewConnection": Need("read", "details.data_source"),
    f"{_CONNECTIONS}/GetConnection": Need("read", CONNECTION),
    f"{_CONNECTIONS}/CloseConnection": Need("read", CONNECTION),
    f"{_SESSIONS}/CreateSession": Need("manage", "data_source"),
    f"{_SESSIONS}/EndSession": Need("manage", SESSION),
    f"{_SESSIONS}/UpdateSessionIdentifier": Need("manage", SESSION),
    f"{_SESSIONS}/UpdateSessionDetails": Need("manage", SESSION),
    f"{_SESSIONS}/AddAssociateSession": Need("manage", SESSION),
    f"{_SESSIONS}/GetCurrentSessions": Need("read", "data_source"),
    f"{_SESSIONS}/GetSessionInfo": Need("read", SESSION),
    f"{_SESSIONS}/GetSessionStartNotification": Need("read", "data_source"),
    f"{_SESSIONS}/GetSessionStopNotification": Need("read", "data_source"),
    f"{_FORMATS}/GetParameterDataFormatId": Need("write", "data_source"),
    f"{_FORMATS}/GetEventDataFormatId": Need("write", "data_source"),
    f"{_FORMATS}/GetParametersList": Need("read", "data_source"),
    f"{_FORMATS}/GetEvent": Need("read", "data_source"),
    "/ma.streaming.key_generator.v1.UniqueKeyGeneratorService/GenerateUniqueKey": ANY_TOKEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ANY_TOKEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY_TOKEN,
}
"""Health is not here: it is open, so that load balancers and probes need no secret."""


WHOSE = {EVERY: "all", SESSION: "the session's", CONNECTION: "the connection's; only its maker"}


def table_row(method: str, need: Need) -> str:
    """The row of docs/security.md."""
    service, _, name = method.rpartition(".")[2].partition("/")
    where = WHOSE.get(need.source, "of the request") if need.right else ""
    return f"| `{service}/{name}` | {need.right or 'any token'} | {where} |"
