"""Connections: what NewConnection was told, under a number that nobody can guess, until CloseConnection.

The table outlives the process in a journal in the run directory, above the instances, so it is there as long as the
machine is up. Frames, one after another::

    u32 length of the body | u32 CRC-32 of the body | body
    body: u8 kind | i64 id | ConnectionDetails as serialised by the client (kind OPENED only)      all little-endian
          u8 kind | i64 id | u8 n | n bytes: name of the owner's token | ConnectionDetails         (kind OWNED only)

Each frame is one ``write``. A frame that a dying process left half written is the torn tail: it is cut at the next
start, and its call had no answer.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.api.v1 import api_pb2_grpc as services
from trackside.control_plane.connection_uses import ConnectionUses
from trackside.control_plane.statuses import BadRequest, Context, TooMuch
from trackside.control_plane.validation import check_stream, check_text
from trackside.data_plane.access import CALLER
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = ["DETAILS_BYTES_MAX", "TABLE_BYTES_MAX", "ConnectionService", "ConnectionTable"]

log = logging.getLogger(__name__)

TABLE_BYTES_MAX = 8 << 20
"""All open connections as frames: some fifty thousand of the usual size. Twice that is needed while rewriting."""

DETAILS_BYTES_MAX = 256 << 10
"""One connection's details; ten thousand streams fit."""

SOURCES_REMEMBERED = 1000
"""Data sources without an open connection whose count is 0 and not missing."""

_HEADER = struct.Struct("<II")
_BODY = struct.Struct("<Bq")
_OPENED, _CLOSED, _OWNED = 1, 2, 3


class Opened(NamedTuple):
    """A connection. ``owner`` is the name of the token that it was made with, empty where none was asked for."""

    details: bytes
    owner: str = ""


class _Change(NamedTuple):
    kind: int
    id: int
    opened: Opened


class ConnectionTable:
    """Open connections by id, each as the bytes of its ConnectionDetails, unknown fields included.

    One process at a time, one thread. Calls block for a write to a file in memory (the run directory is a tmpfs).
    Raises OSError when the journal cannot be read or written; then nothing has changed.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._open = _read_journal(self._path)
        self._live_bytes = sum(map(_frame_bytes, self._open.values()))
        self._sources = Counter(_data_source_of(opened.details) for opened in self._open.values())
        self._file = -1
        self._rewrite()

    def __len__(self) -> int:
        return len(self._open)

    def ids(self) -> list[int]:
        return list(self._open)

    def find(self, id: int) -> Opened | None:
        return self._open.get(id)

    def get(self, id: int) -> bytes | None:
        """The details alone."""
        opened = self._open.get(id)
        return None if opened is None else opened.details

    def open(self, details: bytes, owner: str = "") -> int:
        """Keep ``details`` under a new random number. Raises TooMuch when the table is full."""
        opened = Opened(details, owner)
        if self._live_bytes + _frame_bytes(opened) > TABLE_BYTES_MAX:
            asked = (
                f"{len(self._open)} connections take so many bytes, and one more was asked for; close those that nobody "
                "reads with CloseConnection"
            )
            raise TooMuch("ConnectionsBytes", TABLE_BYTES_MAX, asked)
        id = self._new_id()
        self._append(_opening(id, opened))
        self._open[id] = opened
        self._live_bytes += _frame_bytes(opened)
        self._sources[_data_source_of(details)] += 1
        return id

    def close(self, id: int) -> bool:
        """Forget a connection; False when there is none."""
        if (opened := self._open.get(id)) is None:
            return False
        self._append(_Change(_CLOSED, id, Opened(b"")))
        del self._open[id]
        self._live_bytes -= _frame_bytes(opened)
        self._count_closed(_data_source_of(opened.details))
        if self._bytes > 2 * self._live_bytes + TABLE_BYTES_MAX // 8:
            try:
                self._rewrite()
            except OSError as error:  # the journal goes on as it is
                log.warning("%s: cannot be rewritten: %s", self._path, error)
        return True

    def counts(self) -> dict[str, int]:
        """How many are open, by data source; 0 where there were some, for as many data sources as are remembered."""
        return dict(self._sources)

    def _count_closed(self, data_source: str) -> None:
        self._sources[data_source] -= 1
        if not self._sources[data_source] and len(self._sources) > SOURCES_REMEMBERED:
            del self._sources[data_source]

    def statistics(self) -> dict[str, int]:
        return {"open": len(self._open), "bytes": self._live_bytes, "journal_bytes": self._bytes}

    def shut(self) -> None:
        """Let go of the journal; the connections stay in it."""
        os.close(self._file)

    def _new_id(self) -> int:
        while True:
            id = secrets.randbits(63)
            if id and id not in self._open:
                return id

    def _append(self, change: _Change) -> None:
        frame = _frame(change)
        try:
            written = os.write(self._file, frame)
            if written < len(frame):
                raise OSError(errno.ENOSPC, f"no room for another {len(frame)} bytes", str(self._path))
        except OSError:
            os.ftruncate(self._file, self._bytes)  # half a frame must not hide those that will follow
            raise
        self._bytes += len(frame)

    def _rewrite(self) -> None:
        """Replace the journal by one frame for each open connection."""
        frames = b"".join(_frame(_opening(id, opened)) for id, opened in self._open.items())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(self._path.name + ".new")
        aside.write_bytes(frames)
        aside.chmod(0o600)
        os.replace(aside, self._path)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._bytes = len(frames)


def _data_source_of(details: bytes) -> str:
    """For who counts: a journal of another version must not keep a server from starting."""
    try:
        return str(messages.ConnectionDetails.FromString(details).data_source)
    except DecodeError:
        return ""


def _frame_bytes(opened: Opened) -> int:
    owner_bytes = 1 + len(opened.owner.encode()) if opened.owner else 0
    return _HEADER.size + _BODY.size + owner_bytes + len(opened.details)


def _opening(id: int, opened: Opened) -> _Change:
    return _Change(_OWNED if opened.owner else _OPENED, id, opened)


def _frame(change: _Change) -> bytes:
    body = _BODY.pack(change.kind, change.id)
    if change.kind == _OWNED:
        owner = change.opened.owner.encode()
        body += bytes([len(owner)]) + owner
    body += change.opened.details
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def _read_journal(path: Path) -> dict[int, Opened]:
    """The connections that were open at its end, in the order in which they were opened."""
    try:
        journal = path.read_bytes()
    except FileNotFoundError:
        return {}
    open_: dict[int, Opened] = {}
    valid_bytes = 0
    for change, end in _changes(journal):
        valid_bytes = end
        if change.kind in (_OPENED, _OWNED):
            open_[change.id] = change.opened
        else:
            open_.pop(change.id, None)
    if valid_bytes < len(journal):
        log.warning("%s: %d bytes of a torn tail cut", path, len(journal) - valid_bytes)
    return open_


def _changes(journal: bytes) -> Iterator[tuple[_Change, int]]:
    """Each valid frame from the beginning and where it ends; nothing behind the first that is not."""
    start = 0
    while start + _HEADER.size <= len(journal):
        length, checksum = _HEADER.unpack_from(journal, start)
        end = start + _HEADER.size + length
        body = journal[start + _HEADER.size : end]
        if length < _BODY.size or len(body) < length or zlib.crc32(body) != checksum:
            return
        kind, id = _BODY.unpack_from(body)
        yield _Change(kind, id, _opened(kind, body[_BODY.size :])), end
        start = end


def _opened(kind: int, rest: bytes) -> Opened:
    if kind != _OWNED:
        return Opened(rest)
    size = 1 + rest[0] if rest else 0
    return Opened(rest[size:], _owner(rest[1:size]))


def _owner(name: bytes) -> str:
    """Of one that cannot be read nobody is the owner, and no token may use the connection."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return ""


class ConnectionService(services.ConnectionManagerServiceServicer):
    """``ma.streaming.api.v1.ConnectionManagerService``. ``on_closed`` gets the id of each connection closed."""

    def __init__(
        self,
        table: ConnectionTable,
        uses: ConnectionUses,
        routing: Routing,
        settings: Settings,
        on_closed: Callable[[int], None],
    ) -> None:
        self._table = table
        self._uses = uses
        self._routing = routing
        self._settings = settings
        self._on_closed = on_closed

    async def NewConnection(
        self, request: messages.NewConnectionRequest, context: Context
    ) -> messages.NewConnectionResponse:
        if not request.HasField("details"):
            raise BadRequest("details", None, "the connection's details")
        self._check(request.details)
        if len(self._table) >= (limit := self._settings.connections_max):
            asked = (
                "so many connections are open, and one more was asked for; close those that nobody reads with "
                "CloseConnection"
            )
            raise TooMuch("ConnectionsMax", limit, asked)
        id = self._table.open(request.details.SerializeToString(), CALLER.get().name)
        self._uses.use(id)
        return messages.NewConnectionResponse(connection=messages.Connection(id=id))

    async def GetConnection(
        self, request: messages.GetConnectionRequest, context: Context
    ) -> messages.GetConnectionResponse:
        details = self._table.get(_id_of(request))
        if details is None:
            return messages.GetConnectionResponse()
        self._uses.use(request.connection.id)
        return messages.GetConnectionResponse(details=messages.ConnectionDetails.FromString(details))

    async def CloseConnection(
        self, request: messages.CloseConnectionRequest, context: Context
    ) -> messages.CloseConnectionResponse:
        id = _id_of(request)
        return messages.CloseConnectionResponse(success=self._close(id))

    def expire_idle(self) -> int:
        """Close what nobody has used for ConnectionIdleSeconds, as CloseConnection would; returns how many."""
        expired = 0
        for id, seconds in self._uses.idle(self._table.ids()):
            data_source = _data_source_of(self._table.get(id) or b"")
            if self._close(id):
                expired += 1
                log_line(
                    "info", "control-plane", "abandoned connection closed", connection=id, data_source=data_source,
                    idle_seconds=round(seconds),
                )  # fmt: skip
        self._uses.keep(self._table.ids())
        return expired

    def _close(self, id: int) -> bool:
        closed = self._table.close(id)
        if closed:
            self._uses.forget(id)
            self._on_closed(id)
        return closed

    def _check(self, details: messages.ConnectionDetails) -> None:
        if (size := details.ByteSize()) > DETAILS_BYTES_MAX:
            raise BadRequest("details", f"{size} bytes", f"at most {DETAILS_BYTES_MAX} bytes")
        if len(details.stream_offsets) > len(details.streams):
            raise BadRequest(
                "details.stream_offsets",
                f"{len(details.stream_offsets)} offsets",
                f"at most one for each of the {len(details.streams)} streams",
            )
        self._routing.naming.check_data_source(details.data_source, "details.data_source")
        for number, stream in enumerate(details.streams):
            check_stream(f"details.streams[{number}]", details.data_source, stream, self._routing, self._settings)
        check_text("details.session_key", details.session_key)
        check_text("details.consumer_group", details.consumer_group)


def _id_of(request: messages.GetConnectionRequest | messages.CloseConnectionRequest) -> int:
    if not request.HasField("connection"):
        raise BadRequest("connection", None, "the connection that NewConnection answered")
    return int(request.connection.id)
