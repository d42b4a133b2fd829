"""Keys that no other call gets: GUIDs and numbers.

A number is UTC time in ticks of 100 ns since 0001-01-01, rounded to a thousand, plus the server's node number in the
low three digits: servers with numbers of their own cannot meet (``node_number`` sees to that), and one server's numbers
strictly increase. Against clocks that step back and against restarts a number is only given away below a *reserve* that
``<data_dir>/keys`` promises on disk; a successor starts above it::

    given away so far      reserve (on disk)
    -----------|---------------|------------------> ticks
               next keys       first key of a successor, unless its clock is later
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Protocol

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as services
from trackside.control_plane.clock import SYSTEM_CLOCK, Clock
from trackside.control_plane.shared_calls import SharedCalls
from trackside.control_plane.statuses import BadRequest, Context
from trackside.data_plane.durable import replace_file

__all__ = ["NODES", "KeyFileDamaged", "KeyService", "Keys", "LocalKeys", "Node", "NumberSource", "new_guid"]

NODES = 1000
"""Node numbers are 0..999: the low three digits of a number."""

TICKS_AT_EPOCH = 621_355_968_000_000_000
"""1970-01-01 in ticks of 100 ns since 0001-01-01, as .NET counts them."""

RESERVE_TICKS = 60 * 10_000_000
"""One write to the disk is good for a minute of the clock, or 600,000 keys. A successor's keys may be ahead that far."""


class KeyFileDamaged(Exception):
    """``<data_dir>/keys`` holds no number; guessing one could repeat keys. The process cannot boot."""


def new_guid() -> str:
    """A random version-4 GUID, lower case with hyphens, 36 characters."""
    return str(uuid.uuid4())


def ticks_of(utc_ns: int) -> int:
    return utc_ns // 100 + TICKS_AT_EPOCH


class Keys(Protocol):
    """Where this server's keys come from. Raises NotReady or LogAway when there is none to be had now."""

    async def number(self) -> int:
        """A key of 64 bits, never 0. Larger than every earlier one of this server."""

    async def text(self) -> str:
        """A key as text: a GUID."""

    async def close(self) -> None: ...


class Node(Protocol):
    """The server's node number among all that make numbers for one log."""

    async def number(self) -> int:
        """0..999, held by no other server. It may change while the server runs. Raises LogAway."""


class NumberSource:
    """Numbers of one server. Not thread-safe but for :meth:`reserve`, which only one thread at a time may be in.

    ``last < reserved`` always, and ``reserved`` is on disk before any number above the reserve before it is given
    away. Raises KeyFileDamaged; OSError when the data directory cannot be read or written.
    """

    def __init__(self, data_dir: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = Path(data_dir) / "keys"
        self._clock = clock
        self._reserved = _read_reserve(self._path)
        self._last = self._reserved
        self._reserving: SharedCalls[None, None] = SharedCalls()

    def try_next(self, node: int) -> int | None:
        """The next number; None when the reserve is used up: call :meth:`reserve` first. Never blocks."""
        key = self._candidate(node)
        if key >= self._reserved:
            return None
        self._last = key
        return key

    def reserve(self) -> None:
        """Promise further numbers on disk. Blocks for one fsync; call it from a thread of its own."""
        reserved = self._candidate(0) + RESERVE_TICKS
        replace_file(self._path, b"%d\n" % reserved)
        self._reserved = reserved

    async def wait_reserved(self) -> None:
        """:meth:`reserve` once, for however many callers; needed once a minute at most."""
        await self._reserving.call(None, lambda: asyncio.to_thread(self.reserve))

    def _candidate(self, node: int) -> int:
        """The clock's number, or the first one above the last when the clock has not moved or has stepped back."""
        return max(_number(ticks_of(self._clock.utc_ns()), node), _number_above(self._last, node))


class LocalKeys:
    """Keys made by this server."""

    def __init__(self, numbers: NumberSource, node: Node) -> None:
        self._numbers = numbers
        self._node = node

    async def number(self) -> int:
        while True:
            node = await self._node.number()
            if (key := self._numbers.try_next(node)) is not None:
                return key
            await self._numbers.wait_reserved()

    async def text(self) -> str:
        return new_guid()

    async def close(self) -> None:
        pass


def _number(ticks: int, node: int) -> int:
    return ticks - ticks % NODES + node


def _number_above(last: int, node: int) -> int:
    number = _number(last, node)
    return number if number > last else number + NODES


def _read_reserve(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return 0
    except UnicodeDecodeError:
        text = "<binary>"
    if not text.isdecimal():
        raise KeyFileDamaged(
            f"{path} holds {text[:40]!r} instead of a number; keys could repeat. Restore it or, if "
            f"no other key of this node can be above the clock, remove it"
        )
    return int(text)


class KeyService(services.UniqueKeyGeneratorServiceServicer):
    """``ma.streaming.key_generator.v1.UniqueKeyGeneratorService`` over :class:`Keys`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def GenerateUniqueKey(
        self, request: messages.GenerateUniqueKeyRequest, context: Context
    ) -> messages.GenerateUniqueKeyResponse:
        if request.type == messages.KEY_TYPE_STRING:
            return messages.GenerateUniqueKeyResponse(string_key=await self._keys.text())
        if request.type == messages.KEY_TYPE_ULONG:
            return messages.GenerateUniqueKeyResponse(ulong_key=await self._keys.number())
        raise BadRequest("type", request.type, "KEY_TYPE_ULONG (1) or KEY_TYPE_STRING (2)")
