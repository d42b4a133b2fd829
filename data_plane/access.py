"""Who calls, and what they may do: tokens, the rights that belong to them, and the two ways to say no.

A right is given for patterns of data sources: ``*`` is any run of characters, ``?`` one. A right for a data source holds
for all whose names begin with it and a dot: their topics *are* streams of it (``naming.py``), so that no narrower promise
could be kept.

A gateway finds the caller from the token. The control plane is told by the gateway, as :data:`CALLER_METADATA`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import msgspec
import re2  # type: ignore[import-untyped]

from trackside.data_plane.naming import TOPIC_CHARACTERS_MAX
from trackside.data_plane.rights import EVERY, RIGHTS, Right

__all__ = [
    "ANYBODY",
    "CALLER",
    "CALLER_METADATA",
    "Caller",
    "Forbidden",
    "Grant",
    "Unauthenticated",
    "may",
    "require",
    "require_own",
    "shown",
]

CALLER_METADATA = "trackside-caller-bin"
"""What a gateway adds to each call that it passes on: the :class:`Grant` of the caller, as msgpack."""

VALUE_CHARACTERS_SHOWN = 60


class Unauthenticated(Exception):
    """Nobody knows who calls. Becomes UNAUTHENTICATED; its text never holds a token."""


class Forbidden(Exception):
    """The caller has not this right. Becomes PERMISSION_DENIED that names the right and the data source."""


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one token allows, as data."""

    name: str
    read: list[str] = []
    write: list[str] = []
    manage: list[str] = []


class Caller:
    """Who calls. Told apart by identity: a token whose rights change is another caller."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.name = grant.name

    @cached_property
    def encoded(self) -> bytes:
        """For :data:`CALLER_METADATA`."""
        return msgspec.msgpack.encode(self.grant)

    def may(self, right: Right, data_source: str) -> bool:
        """Costs one match in linear time; who asks for each packet remembers the answer."""
        if len(data_source) > TOPIC_CHARACTERS_MAX:
            return False  # no data source has such a name
        if data_source == EVERY:
            return EVERY in getattr(self.grant, right)
        return self._expressions[right].fullmatch(data_source) is not None

    @cached_property
    def _expressions(self) -> Mapping[Right, Any]:
        return {right: _expression(getattr(self.grant, right)) for right in RIGHTS}


def _expression(patterns: Iterable[str]) -> Any:
    """Matches each data source that a pattern means, and whatever stands below one."""
    wild = {"*": "(?s:.)*", "?": "(?s:.)"}
    parts = ["".join(wild.get(character, re.escape(character)) for character in pattern) for pattern in patterns]
    try:
        return re2.compile(rf"(?:{'|'.join(parts)})(?:\.(?s:.)*)?" if parts else r"[^\s\S]")
    finally:
        re2.purge()  # it keeps what it compiled, beyond the life of any caller


class _Anybody(Caller):
    """The caller where no token is asked for."""

    def may(self, right: Right, data_source: str) -> bool:
        return True


ANYBODY: Caller = _Anybody(Grant(""))

CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)
"""Of the call that the running task serves."""


def may(right: Right, data_source: str) -> bool:
    return CALLER.get().may(right, data_source)


def require(right: Right, data_source: str) -> None:
    """Raises Forbidden."""
    caller = CALLER.get()
    if not caller.may(right, data_source):
        what = "all data sources" if data_source == EVERY else f"data source {shown(data_source)}"
        raise Forbidden(f"token {caller.name} has no right to {right} {what}")


def require_own(owner: str) -> None:
    """``owner`` is the name that a connection was made under. Raises Forbidden."""
    caller = CALLER.get()
    if caller is not ANYBODY and caller.name != owner:
        raise Forbidden(f"connection: it was not made by token {caller.name}, and belongs to who made it")


def shown(value: str) -> str:
    text = repr(value)
    return (
        text if len(text) <= VALUE_CHARACTERS_SHOWN else f"{text[:VALUE_CHARACTERS_SHOWN]}... ({len(value)} characters)"
    )
