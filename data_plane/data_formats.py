"""Data formats of one data source as the fold of its essentials topic.

A definition says that an identifier stands for a list of parameters, or for an event. In offset order:

- the first definition of a list gives *the* identifier of the list, the one that is given out from then on, on every
  server of a cluster; later identifiers of the same list are found, too;
- the first definition of an identifier stays: a later one for another list is ignored, since packets with that
  identifier are on their way already;
- applying an entry again changes nothing, so repeats need no account.

Lists are tuples of names: their order matters, and no name can be mistaken for two. Parameters and events are numbered
apart. Both the control plane, which gives identifiers out, and consumers, which filter by names, fold the same topic.
Nothing here waits or asks a clock.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1 import open_data_pb2 as data

__all__ = ["DEFINITION_TYPE", "DataFormat", "DataFormatFold", "Entry", "event_definition", "parameters_definition"]

DEFINITION_TYPE = "DataFormatDefinition"
"""``Packet.type`` of the only packets that count; all others on the topic are passed over."""


class Entry(Protocol):
    """An entry of the essentials topic: its offset, and the bytes of its Packet."""

    @property
    def offset(self) -> int: ...

    @property
    def packet(self) -> bytes: ...


class DataFormat(NamedTuple):
    """One list of parameters, or one event (``names`` is then its one name), with *the* identifier of it."""

    is_event: bool
    names: tuple[str, ...]
    identifier: int


class _Space:
    """Identifiers of one kind. Every value of ``names`` is a key of ``first``, whose value is one of its keys."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, ...], int] = {}
        self.names: dict[int, tuple[str, ...]] = {}

    def add(self, identifier: int, names: tuple[str, ...]) -> bool:
        """Whether the definition holds: the identifier did not stand for anything else."""
        if self.names.setdefault(identifier, names) != names:
            return False
        self.first.setdefault(names, identifier)
        return True


class _State(msgspec.Struct, array_like=True):
    """A fold as bytes; definitions in the order in which they held."""

    next_offset: int
    ignored: int
    parameters: list[tuple[int, tuple[str, ...]]]
    events: list[tuple[int, tuple[str, ...]]]


class DataFormatFold:
    """The formats after all entries below ``next_offset``. Look-ups are dict look-ups; not thread-safe."""

    def __init__(self) -> None:
        self.next_offset = 0
        self._parameters = _Space()
        self._events = _Space()
        self._ignored = 0

    # -- look-ups -----------------------------------------------------------------------------------------------------

    def parameters_identifier(self, names: tuple[str, ...]) -> int | None:
        """The identifier to give out for a list of parameters; None when it has none yet. Never 0."""
        return self._parameters.first.get(names)

    def event_identifier(self, name: str) -> int | None:
        return self._events.first.get((name,))

    def parameters(self, identifier: int) -> tuple[str, ...] | None:
        """The list that an identifier stands for; None when it is not known (a list may be empty)."""
        return self._parameters.names.get(identifier)

    def event(self, identifier: int) -> str | None:
        names = self._events.names.get(identifier)
        return None if names is None else names[0]

    def __len__(self) -> int:
        """How many lists and events there are."""
        return len(self._parameters.first) + len(self._events.first)

    def statistics(self) -> dict[str, int]:
        """formats; identifiers that stand for them; definitions that were unreadable or contradicted earlier ones."""
        identifiers = len(self._parameters.names) + len(self._events.names)
        return {"formats": len(self), "identifiers": identifiers, "ignored": self._ignored}

    # -- as bytes -----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """The whole state, for :meth:`load`."""
        spaces = [list(space.names.items()) for space in (self._parameters, self._events)]
        return msgspec.msgpack.encode(_State(self.next_offset, self._ignored, *spaces))

    @classmethod
    def load(cls, state: bytes) -> DataFormatFold:
        """A fold in the state that :meth:`dump` gave. Raises msgspec.MsgspecError."""
        found, fold = msgspec.msgpack.decode(state, type=_State), cls()
        fold.next_offset, fold._ignored = found.next_offset, found.ignored
        for space, definitions in ((fold._parameters, found.parameters), (fold._events, found.events)):
            for identifier, names in definitions:
                space.add(identifier, names)
        return fold

    # -- folding ------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> DataFormat | None:
        """Take the next entry; see :meth:`apply_packet`."""
        return self.apply_packet(entry.offset, entry.packet)

    def apply_packet(self, offset: int, packet: bytes) -> DataFormat | None:
        """Take the entry at ``offset``: the format that it defines, as it stands after it.

        None for an entry that defines nothing, and for one below ``next_offset``, which was taken before. Never
        raises for what it holds.
        """
        if offset < self.next_offset:
            return None
        self.next_offset = offset + 1
        try:
            envelope = data.Packet.FromString(packet)
            if envelope.type != DEFINITION_TYPE:
                return None
            found = self._define(data.DataFormatDefinitionPacket.FromString(envelope.content))
        except DecodeError:
            found = None
        if found is None:
            self._ignored += 1
        return found

    def move_to(self, offset: int) -> None:
        """Everything below ``offset`` was seen: a run may end in a hole."""
        self.next_offset = max(self.next_offset, offset)

    def _define(self, definition: data.DataFormatDefinitionPacket) -> DataFormat | None:
        is_event = definition.type == data.DATA_FORMAT_TYPE_EVENT
        names = _names_of(definition)
        if names is None or not definition.identifier:
            return None
        space = self._events if is_event else self._parameters
        if not space.add(definition.identifier, names):
            return None
        return DataFormat(is_event, names, space.first[names])


def _names_of(definition: data.DataFormatDefinitionPacket) -> tuple[str, ...] | None:
    """What is defined; None where the type and the member that is set do not go together.

    No member set is an empty list, or the event without a name: some writers leave an empty message out.
    """
    member = definition.WhichOneof("format")
    if definition.type == data.DATA_FORMAT_TYPE_PARAMETER and member in ("parameter_identifiers", None):
        return tuple(definition.parameter_identifiers.parameter_identifiers)
    if definition.type == data.DATA_FORMAT_TYPE_EVENT and member in ("event_identifier", None):
        return (definition.event_identifier,)
    return None


def parameters_definition(identifier: int, names: tuple[str, ...]) -> bytes:
    """The Packet that defines a list of parameters: essential, without a session, as the reference writes it."""
    return _packet(
        data.DataFormatDefinitionPacket(
            identifier=identifier,
            type=data.DATA_FORMAT_TYPE_PARAMETER,
            parameter_identifiers=data.ParameterList(parameter_identifiers=names),
        )
    )


def event_definition(identifier: int, name: str) -> bytes:
    """The Packet that defines an event."""
    return _packet(
        data.DataFormatDefinitionPacket(identifier=identifier, type=data.DATA_FORMAT_TYPE_EVENT, event_identifier=name)
    )


def _packet(definition: data.DataFormatDefinitionPacket) -> bytes:
    packet = data.Packet(type=DEFINITION_TYPE, is_essential=True, content=definition.SerializeToString())
    return packet.SerializeToString()
