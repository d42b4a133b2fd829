"""Sessions as the fold of the session-info topic: what was written there, in offset order, and nothing else.

Every server of a cluster folds the same entries by the same rules and reaches the same state, its own entries like
everybody's. Nothing here waits, asks a clock or knows of gRPC.

====================  ============================================  =================================================
type of the packet    session not known                             session known
====================  ============================================  =================================================
NewSession            makes it, then applies what was held for it   nothing
SessionInfo           held until its NewSession comes               merged: type, version, identifier where given, the
                                                                    associates as a whole where any is given, details
                                                                    key by key
EndOfSession          held until its NewSession comes               the first ends it, later ones do nothing
====================  ============================================  =================================================

The session is the one that ``Packet.session_key`` names; the entry's key says nothing. An entry whose identity was
seen before is a repeat (a producer died between writing and committing) and does nothing: applied twice, an older
snapshot would take back what came between.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.log_port import LoggedEntry
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import parse_offset_key

__all__ = [
    "HELD_BYTES_MAX",
    "IDENTITIES_MAX",
    "NODE_CLAIM",
    "EventKind",
    "Folded",
    "Instant",
    "SessionEvent",
    "SessionFold",
    "SessionRecord",
    "instant_of_ns",
    "offsets_of",
]

HELD_BYTES_MAX = 8 << 20
"""Entries that wait for their NewSession are kept up to this many bytes, the longest held go first."""

IDENTITIES_MAX = 1 << 16
"""How many identities are remembered. A repeat comes within the window that a producer had in hand when it died."""

NODE_CLAIM = "TracksideNodeClaim"
"""Type of packets on this topic that say nothing about sessions; ``node_number`` folds them."""

ENTRY_BYTES = 256
"""What an entry costs in memory beside its packet, roughly."""


class Instant(NamedTuple):
    """A Timestamp or Duration exactly as it was written, also where it is outside of what protobuf allows."""

    seconds: int
    nanos: int


ZERO = Instant(0, 0)


class EventKind(Enum):
    STARTED = "started"
    STOPPED = "stopped"


class SessionEvent(NamedTuple):
    """A session started or stopped by the entry at ``offset`` of the session-info topic."""

    kind: EventKind
    offset: int
    session_key: str
    data_source: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session. Never changed in place: an entry that changes it makes another, so ``is`` tells whether one did.

    Offsets are by the partitions' names as they stand in the packet on the log.
    """

    key: str
    data_source: str
    started_offset: int
    creation_time: Instant
    utc_offset: Instant = ZERO
    type: str = ""
    version: int = 0
    identifier: str = ""
    associates: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    start_offsets: Mapping[Partition, int] = field(default_factory=dict)
    stopped_offset: int | None = None
    termination_time: Instant | None = None
    end_offsets: Mapping[Partition, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return self.stopped_offset is not None

    def merged(self, info: data.SessionInfoPacket) -> SessionRecord:
        """With what ``info`` says; the same object when that changes nothing. Its data source is not looked at."""
        merged = replace(
            self,
            type=info.type or self.type,
            version=info.version or self.version,
            identifier=info.identifier or self.identifier,
            associates=tuple(info.associate_session_keys) or self.associates,
            details={**self.details, **info.details} if info.details else self.details,
        )
        return self if merged == self else merged

    def events(self) -> list[SessionEvent]:
        """What happened to it, oldest first."""
        events = [SessionEvent(EventKind.STARTED, self.started_offset, self.key, self.data_source)]
        if self.stopped_offset is not None:
            events.append(SessionEvent(EventKind.STOPPED, self.stopped_offset, self.key, self.data_source))
        return events


class Folded(NamedTuple):
    """What one entry did: the session before and after it (the same object: nothing), and what to tell about it."""

    before: SessionRecord | None
    after: SessionRecord | None
    events: tuple[SessionEvent, ...] = ()


NOTHING = Folded(None, None)


class _State(msgspec.Struct, array_like=True):
    """A fold as bytes; all lists in the order in which they came."""

    sessions: list[SessionRecord]
    held: list[LoggedEntry]
    identities: list[bytes]
    repeats: int
    ignored: int
    dropped: int


class _Held(NamedTuple):
    entry: LoggedEntry
    packet: data.Packet


class SessionFold:
    """The state after all entries applied so far. Entries must come in offset order, each once."""

    def __init__(self) -> None:
        self._sessions: dict[str, SessionRecord] = {}  # in the order of their NewSession
        self._of_data_source: dict[str, list[str]] = {}
        self._held: OrderedDict[str, list[_Held]] = OrderedDict()
        self._held_bytes = 0
        self._identities: OrderedDict[bytes, None] = OrderedDict()
        self._live: Counter[str] = Counter()  # by data source
        self._repeats = self._ignored = self._dropped = 0

    def get(self, key: str) -> SessionRecord | None:
        return self._sessions.get(key)

    def keys_of(self, data_source: str) -> list[str]:
        """Keys of all its sessions, live and ended, in the order in which they started."""
        return list(self._of_data_source.get(data_source, ()))

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many sessions each data source has, and how many of them are live."""
        return {source: (len(keys), self._live[source]) for source, keys in self._of_data_source.items()}

    def events_from(self, offset: int) -> list[SessionEvent]:
        """Starts and stops by entries at ``offset`` or after it, in the order of the log. Walks over all sessions."""
        events = [event for record in self._sessions.values() for event in record.events() if event.offset >= offset]
        return sorted(events, key=lambda event: event.offset)  # stable: a start stands before a stop of one entry

    def statistics(self) -> dict[str, int]:
        """sessions, live; entries that were repeats or that nothing could be made of; entries held, and dropped."""
        return {
            "sessions": len(self._sessions),
            "live": self._live.total(),
            "repeats": self._repeats,
            "ignored": self._ignored,
            "held": sum(map(len, self._held.values())),
            "dropped": self._dropped,
        }

    def dump(self) -> bytes:
        """The whole state, for :meth:`load`."""
        held = [one.entry for some in self._held.values() for one in some]
        state = _State(
            list(self._sessions.values()), held, list(self._identities), self._repeats, self._ignored, self._dropped
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def load(cls, state: bytes) -> SessionFold:
        """A fold in the state that :meth:`dump` gave. Raises msgspec.MsgspecError."""
        found, fold = msgspec.msgpack.decode(state, type=_State), cls()
        for record in found.sessions:
            fold._add(record)
        for entry in found.held:
            fold._hold(entry, data.Packet.FromString(entry.packet))
        fold._identities = OrderedDict.fromkeys(found.identities)
        fold._repeats, fold._ignored, fold._dropped = found.repeats, found.ignored, found.dropped
        return fold

    def apply(self, entry: LoggedEntry) -> Folded:
        """Take the next entry. Never raises for what it holds: what cannot be read is counted as ignored."""
        if self._is_repeat(entry.identity):
            self._repeats += 1
            return NOTHING
        try:
            packet = data.Packet.FromString(entry.packet)
            folded = self._apply_packet(entry, packet)
        except (DecodeError, _Unreadable):
            folded = None
        if folded is None:
            self._ignored += 1
            return NOTHING
        return folded

    def _is_repeat(self, identity: bytes) -> bool:
        if not identity:
            return False
        if identity in self._identities:
            return True
        self._identities[identity] = None
        if len(self._identities) > IDENTITIES_MAX:
            self._identities.popitem(last=False)
        return False

    def _apply_packet(self, entry: LoggedEntry, packet: data.Packet) -> Folded | None:
        """None: of a type that does not belong on this topic."""
        record = self._sessions.get(packet.session_key)
        if packet.type == "NewSession":
            return Folded(record, record) if record else self._start(entry, packet)
        if packet.type == NODE_CLAIM:
            return NOTHING
        if packet.type not in ("SessionInfo", "EndOfSession"):
            return None
        if record is None:
            self._hold(entry, packet)
            return NOTHING
        return self._change(record, entry, packet)

    def _start(self, entry: LoggedEntry, packet: data.Packet) -> Folded:
        record = _started(entry, packet)
        self._add(record)
        for held in self._release(record.key):
            try:
                # What happened to the session before it was there happens now, for whoever is told by offset.
                self._change(self._sessions[record.key], held.entry._replace(offset=entry.offset), held.packet)
            except (DecodeError, _Unreadable):
                self._ignored += 1
        record = self._sessions[record.key]
        return Folded(None, record, tuple(record.events()))

    def _add(self, record: SessionRecord) -> None:
        self._sessions[record.key] = record
        self._of_data_source.setdefault(record.data_source, []).append(record.key)
        if not record.is_complete:
            self._live[record.data_source] += 1

    def _change(self, record: SessionRecord, entry: LoggedEntry, packet: data.Packet) -> Folded:
        if packet.type == "SessionInfo":
            changed = record.merged(data.SessionInfoPacket.FromString(packet.content))
        else:
            changed = record if record.is_complete else _stopped(record, entry, packet)
        self._sessions[record.key] = changed
        if changed.is_complete == record.is_complete:
            return Folded(record, changed)
        self._live[record.data_source] -= 1
        return Folded(record, changed, (changed.events()[-1],))

    def _hold(self, entry: LoggedEntry, packet: data.Packet) -> None:
        self._held.setdefault(packet.session_key, []).append(_Held(entry, packet))
        self._held_bytes += _bytes_held(entry)
        while self._held_bytes > HELD_BYTES_MAX:
            self._dropped += len(self._release(next(iter(self._held))))

    def _release(self, key: str) -> list[_Held]:
        held = self._held.pop(key, [])
        self._held_bytes -= sum(_bytes_held(one.entry) for one in held)
        return held


class _Unreadable(Exception):
    """The packet's content is no message of its type, or its offsets name no partitions."""


def _bytes_held(entry: LoggedEntry) -> int:
    return len(entry.packet) + ENTRY_BYTES


def _started(entry: LoggedEntry, packet: data.Packet) -> SessionRecord:
    new = data.NewSessionPacket.FromString(packet.content)
    record = SessionRecord(
        key=packet.session_key,
        data_source=new.data_source,
        started_offset=entry.offset,
        start_offsets=offsets_of(new.topic_partition_offsets.items()),
        utc_offset=Instant(new.utc_offset.seconds, new.utc_offset.nanos),
        creation_time=_time_of(new.creation_time if new.HasField("creation_time") else None, entry),
    )
    # As the reference does it: information that does not name its data source was not meant to be there.
    return record.merged(new.session_info) if new.session_info.data_source else record


def _stopped(record: SessionRecord, entry: LoggedEntry, packet: data.Packet) -> SessionRecord:
    end = data.EndOfSessionPacket.FromString(packet.content)
    return replace(
        record,
        stopped_offset=entry.offset,
        end_offsets=offsets_of(end.topic_partition_offsets.items()),
        termination_time=_time_of(end.termination_time if end.HasField("termination_time") else None, entry),
    )


def _time_of(given: Timestamp | None, entry: LoggedEntry) -> Instant:
    """The time that the packet gives, or else when it reached the log: the same on every server that reads it."""
    return instant_of_ns(entry.time_ns) if given is None else Instant(given.seconds, given.nanos)


def instant_of_ns(utc_ns: int) -> Instant:
    return Instant(*divmod(utc_ns, 1_000_000_000))


def offsets_of(keys: Iterable[tuple[str, int]]) -> dict[Partition, int]:
    """Offsets by partition from an offset map of any of the forms that are around.

    Where two keys name one partition the larger counts, since a map has no order. Raises _Unreadable for a key whose
    partition is no number.
    """
    offsets: dict[Partition, int] = {}
    for key, offset in keys:
        try:
            partition = parse_offset_key(key)
        except ValueError as error:
            raise _Unreadable(key) from error
        offsets[partition] = max(offset, offsets.get(partition, offset))
    return offsets
