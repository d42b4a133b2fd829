"""A recorded iRacing drive (``.ibt``) as a source of telemetry, with the same blocks as the simulated car.

The file, as the simulator's SDK documents it, all little-endian::

    +0     header            10 x i32: version, status, tick rate, session info (update, length, offset),
                             number of variables, offset of their table, number of buffers, bytes a tick
           +48               first buffer: tick count, offset of the first tick
    +112   sub-header        i64 start date, f64 start and end time, i32 laps, i32 ticks
    ...    variables         144 bytes each: type, offset in a tick, count, count as time, name, description, unit
    ...    session info      YAML, not needed here
    ...    ticks             one record after the other, ``bytes a tick`` each

A table of variables *is* a structured numpy dtype, so one view over the mapped file reads any channel without a loop;
that, errors that say what is wrong with a file, and no further dependency are why ``pyirsdk`` is not used here: its
reader unpacks one value at a time, needs PyYAML, and meets a cut file with ``struct.error``.
"""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackside.bench.telemetry import (
    NANOSECONDS,
    Block,
    Group,
    Lap,
    Samples,
    sample_range,
    sample_times,
    to_nanoseconds,
)
from trackside.client.definitions import EventKind, Parameter

__all__ = ["BrokenRecording", "Recording"]

APPLICATION = "iRacing"
HEADER = Struct("<10i")
FIRST_BUFFER = Struct("<2i")
FIRST_BUFFER_OFFSET = 48
SUB_HEADER = Struct("<qddii")
SUB_HEADER_OFFSET = 112
VARIABLE = Struct("<iii?3x32s64s32s")
HIGHLIGHTS = (
    "Speed",
    "RPM",
    "Gear",
    "Throttle",
    "Brake",
    "SteeringWheelAngle",
    "LatAccel",
    "LongAccel",
    "Lap",
    "LapDist",
)
VARIABLES_MAX = 4096
TICK_BYTES_MAX = 1 << 20
RATE_HZ_MAX = 1000

assert HEADER.size <= FIRST_BUFFER_OFFSET < SUB_HEADER_OFFSET
assert VARIABLE.size == 144

_TYPES = {1: ("u1", "%2.0f"), 2: ("<i4", "%6.0f"), 3: ("<u4", "%10.0f"), 4: ("<f4", "%9.3f"), 5: ("<f8", "%12.6f")}
_TEXT = 0  # characters: not a number, left out


class BrokenRecording(ValueError):
    """The file is no whole recording; the message is one line that names the file and what does not hold."""


class _Variable(NamedTuple):
    name: str
    type: int
    offset: int
    length: int
    as_time: bool
    description: str
    unit: str


class _Row(NamedTuple):
    """One row of a group's samples: a variable, or one element of an array of them."""

    variable: str
    element: int | None


class Recording:
    """A drive from a file. It is as long as :attr:`seconds` and begins again after that.

    Scalars and arrays become channels at the tick rate; an array whose elements are moments within the tick (steering
    torque at 360 Hz) becomes a channel of that faster rate. Names are ``Speed:iRacing``. The file knows no ranges:
    they are those of the recorded values. Blocks are copies; the file stays mapped until the object goes.
    """

    event_kinds: tuple[EventKind, ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises BrokenRecording, or OSError when the file cannot be opened."""
        self.name = Path(path).name
        memory = _mapped(Path(path))
        layout = _Layout(str(path), memory)
        self._ticks = layout.ticks()
        self._tick_hz = layout.tick_hz
        groups = _grouped(layout.variables, self._ticks)
        self._rows = tuple(rows for _, _, rows in groups)
        self.groups = tuple(Group(self._tick_hz * per_tick, parameters) for per_tick, parameters, _ in groups)
        self._laps = self._find_laps()

    @property
    def highlights(self) -> tuple[str, ...]:
        known = {identifier for group in self.groups for identifier in group.identifiers}
        return tuple(name for name in (f"{short}:{APPLICATION}" for short in HIGHLIGHTS) if name in known)

    @property
    def seconds(self) -> float:
        return float(len(self._ticks) / self._tick_hz)

    def block(self, start_seconds: float, seconds: float) -> Block:
        """All samples and laps with start <= moment < end, tick k at k / rate whatever its own stamp says."""
        start = to_nanoseconds(start_seconds)
        end = start + to_nanoseconds(seconds)
        samples = tuple(
            self._samples(group.rate_hz, rows, start, end) for group, rows in zip(self.groups, self._rows, strict=True)
        )
        return Block(start, end, samples, self._laps_between(start, end), ())

    def _samples(self, rate_hz: int, rows: tuple[_Row, ...], start: int, end: int) -> Samples:
        first, stop = sample_range(rate_hz, start, end)
        per_tick = rate_hz // self._tick_hz
        numbers = np.arange(first, stop)
        ticks = self._ticks[numbers // per_tick % len(self._ticks)]
        within = numbers % per_tick
        values = np.empty((len(rows), len(numbers)))
        for index, row in enumerate(rows):
            values[index] = _values(ticks, row, within)
        return Samples(sample_times(rate_hz, first, stop), values)

    def _find_laps(self) -> list[tuple[int, int]]:
        """(tick, number) where a lap begins."""
        if "Lap" not in (self._ticks.dtype.names or ()):
            return []
        number = self._ticks["Lap"].astype(np.int64).ravel()
        begins = np.flatnonzero(np.diff(number) > 0) + 1
        return [(0, int(number[0])), *((int(tick), int(number[tick])) for tick in begins)]

    def _laps_between(self, start: int, end: int) -> tuple[Lap, ...]:
        length = len(self._ticks)
        rounds = range(start * self._tick_hz // NANOSECONDS // length, end * self._tick_hz // NANOSECONDS // length + 1)
        found = []
        for round_number in rounds:
            before = math.nan
            for tick, number in self._laps:
                moment = (round_number * length + tick) * NANOSECONDS // self._tick_hz
                if start <= moment < end:
                    found.append(Lap(moment, number, (tick - before) / self._tick_hz))
                before = tick
        return tuple(found)


def _values(ticks: NDArray[np.void], row: _Row, within: NDArray[np.int64]) -> NDArray[np.float64]:
    column = ticks[row.variable]
    if row.element is not None:
        column = column[:, row.element]
    elif column.ndim == 2:  # moments within the tick
        column = column[np.arange(len(column)), within]
    return column.astype(np.float64)


class _Layout:
    """The headers of a file, checked one by one against its size."""

    def __init__(self, path: str, memory: mmap.mmap) -> None:
        self._path = path
        self._memory = memory
        self._size = len(memory)
        if self._size < SUB_HEADER_OFFSET + SUB_HEADER.size:
            raise self._broken(f"it has {self._size} bytes, its headers alone need more")
        head = HEADER.unpack_from(memory)
        version, self.tick_hz, self._tick_bytes = head[0], head[2], head[9]
        if version not in (1, 2):
            raise self._broken(f"its version is {version}: it is no .ibt file, or of a newer simulator")
        self._require("tick rate", self.tick_hz, 1, RATE_HZ_MAX)
        self._require("bytes a tick", self._tick_bytes, 1, TICK_BYTES_MAX)
        self._require("number of variables", head[6], 1, VARIABLES_MAX)
        self._require("offset of the variables", head[7], SUB_HEADER_OFFSET, self._size - head[6] * VARIABLE.size)
        self.variables = [self._variable(head[7] + index * VARIABLE.size) for index in range(head[6])]
        names = [variable.name for variable in self.variables]
        if len(set(names)) < len(names):
            raise self._broken("two of its variables have the same name")
        if all(variable.type == _TEXT for variable in self.variables):
            raise self._broken("none of its variables is a number")

    def ticks(self) -> NDArray[np.void]:
        """All ticks as a structured array over the file; no copy."""
        offset = FIRST_BUFFER.unpack_from(self._memory, FIRST_BUFFER_OFFSET)[1]
        promised = SUB_HEADER.unpack_from(self._memory, SUB_HEADER_OFFSET)[4]
        self._require("offset of the ticks", offset, SUB_HEADER_OFFSET, self._size)
        whole = (self._size - offset) // self._tick_bytes
        if whole < promised or whole == 0:
            raise self._broken(f"it is cut: {promised} ticks are promised, {whole} are there")
        # A simulator that crashed never wrote the number: then what is there counts.
        return np.frombuffer(self._memory, self._dtype(), promised or whole, offset)

    def _dtype(self) -> np.dtype[np.void]:
        numbers = [variable for variable in self.variables if variable.type != _TEXT]
        return np.dtype(
            {
                "names": [variable.name for variable in numbers],
                "formats": [(_TYPES[v.type][0], (v.length,)) if v.length > 1 else _TYPES[v.type][0] for v in numbers],
                "offsets": [variable.offset for variable in numbers],
                "itemsize": self._tick_bytes,
            }
        )

    def _variable(self, at: int) -> _Variable:
        type_, offset, count, as_time, name, description, unit = VARIABLE.unpack_from(self._memory, at)
        variable = _Variable(_text(name), type_, offset, count, as_time, _text(description), _text(unit))
        if not variable.name or (type_ not in _TYPES and type_ != _TEXT):
            raise self._broken(f"variable {variable.name!r} has type {type_}, known are 0 to 5")
        width = 1 if type_ == _TEXT else np.dtype(_TYPES[type_][0]).itemsize
        self._require(f"count of variable {variable.name}", count, 1, self._tick_bytes // width)
        self._require(f"offset of variable {variable.name}", offset, 0, self._tick_bytes - count * width)
        return variable

    def _require(self, what: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise self._broken(f"{what} is {value}, possible is {low} to {high}")

    def _broken(self, reason: str) -> BrokenRecording:
        return BrokenRecording(f"{self._path}: {reason}")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BrokenRecording(f"{path}: it is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode("latin-1")
    return "".join(character if character.isprintable() else "?" for character in text).strip()


def _grouped(
    variables: list[_Variable], ticks: NDArray[np.void]
) -> list[tuple[int, tuple[Parameter, ...], tuple[_Row, ...]]]:
    """(samples a tick, parameters, rows) for each rate, slowest first."""
    rows: dict[int, list[tuple[Parameter, _Row]]] = {}
    for variable in variables:
        if variable.type == _TEXT:
            continue
        per_tick = variable.length if variable.as_time else 1
        elements = range(variable.length) if variable.length > 1 and not variable.as_time else [None]
        for element in elements:
            row = _Row(variable.name, element)
            rows.setdefault(per_tick, []).append((_parameter(variable, row, ticks), row))
    return [
        (per_tick, tuple(parameter for parameter, _ in both), tuple(row for _, row in both))
        for per_tick, both in sorted(rows.items())
    ]


def _parameter(variable: _Variable, row: _Row, ticks: NDArray[np.void]) -> Parameter:
    name = variable.name if row.element is None else f"{variable.name}[{row.element}]"
    column = ticks[variable.name] if row.element is None else ticks[variable.name][:, row.element]
    finite = column[np.isfinite(column)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    enumeration = variable.unit.startswith("irsdk_")  # the unit of a code is the name of its table
    description = f"{variable.description} ({variable.unit})" if enumeration else variable.description
    return Parameter(
        f"{name}:{APPLICATION}",
        description,
        "" if enumeration else variable.unit,
        low,
        high if high > low else low + 1.0,
        _TYPES[variable.type][1],
    )
