"""Keys that no other call gets: GUIDs and numbers.

A number is UTC time in ticks of 100 ns since 0001-01-01, rounded to a thousand, plus the server's node number in the
low three digits: servers of one cluster cannot meet, and one server's numbers strictly increase. Against clocks that
step back and against restarts a number is only given away below a *reserve* that ``<data_dir>/keys`` promises on
disk; a successor starts above it::

    given away so far      reserve (on disk)
    -----------|---------------|------------------> ticks
               next keys       first key of a successor, unless its clock is later
"""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as services
from trackside.control_plane.clock import SYSTEM_CLOCK, Clock
from trackside.control_plane.shared_calls import SharedCalls
from trackside.control_plane.statuses import BadRequest, Context

__all__ = ["NODES", "KeyFileDamaged", "KeyService", "KeySource", "new_guid"]

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


class KeySource:
    """Numbers of one node. Not thread-safe but for :meth:`reserve`, which only one thread at a time may be in.

    ``last < reserved`` always, and ``reserved`` is on disk before any number above the reserve before it is given
    away. Raises KeyFileDamaged; OSError when the data directory cannot be read or written.
    """

    def __init__(self, data_dir: str, node: int, clock: Clock = SYSTEM_CLOCK) -> None:
        if not 0 <= node < NODES:
            raise ValueError(f"node_number: {node} is not in 0..{NODES - 1}")
        self._path = Path(data_dir) / "keys"
        self._node = node
        self._clock = clock
        self._reserved = _read_reserve(self._path)
        self._last = self._reserved
        self._reserving: SharedCalls[None, None] = SharedCalls()

    def try_next(self) -> int | None:
        """The next number; None when the reserve is used up: call :meth:`reserve` first. Never blocks."""
        key = self._candidate()
        if key >= self._reserved:
            return None
        self._last = key
        return key

    def reserve(self) -> None:
        """Promise further numbers on disk. Blocks for one fsync; call it from a thread of its own."""
        reserved = self._candidate() + RESERVE_TICKS
        _write_reserve(self._path, reserved)
        self._reserved = reserved

    async def next(self) -> int:
        """The next number; waits for the disk once a minute at most."""
        while (key := self.try_next()) is None:
            await self._reserving.call(None, lambda: asyncio.to_thread(self.reserve))
        return key

    def _candidate(self) -> int:
        """The clock's number, or the first one above the last when the clock has not moved or has stepped back."""
        return max(_number(ticks_of(self._clock.utc_ns()), self._node), _number_above(self._last, self._node))


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


def _write_reserve(path: Path, reserved: int) -> None:
    """Replace the file so that after a power cut it holds the old reserve or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    with open(aside, "w", encoding="ascii") as file:
        file.write(f"{reserved}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class KeyService(services.UniqueKeyGeneratorServiceServicer):
    """``ma.streaming.key_generator.v1.UniqueKeyGeneratorService`` over a :class:`KeySource`."""

    def __init__(self, numbers: KeySource) -> None:
        self._numbers = numbers

    async def GenerateUniqueKey(
        self, request: messages.GenerateUniqueKeyRequest, context: Context
    ) -> messages.GenerateUniqueKeyResponse:
        if request.type == messages.KEY_TYPE_STRING:
            return messages.GenerateUniqueKeyResponse(string_key=new_guid())
        if request.type == messages.KEY_TYPE_ULONG:
            return messages.GenerateUniqueKeyResponse(ulong_key=await self._numbers.next())
        raise BadRequest("type", request.type, "KEY_TYPE_ULONG (1) or KEY_TYPE_STRING (2)")
