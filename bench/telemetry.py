"""What a drive looks like to the harness, whether a simulated car or a recording made it.

A *group* is the channels that share one rate. A *block* is a stretch of the drive: for each group the samples whose
moment lies in it, and the laps and events that fell into it. Blocks that touch join without a gap or a repeat: sample k
of a group belongs to the moment ``sample_times``[k] for ever, and a block holds those with start <= moment < end.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trackside.client.definitions import EventKind, Parameter

__all__ = ["NANOSECONDS", "Block", "Drive", "Group", "Lap", "Occurrence", "Samples", "sample_range", "sample_times"]

NANOSECONDS = 1_000_000_000


class Group(NamedTuple):
    """Channels that share a rate, in the order of the rows of their :class:`Samples`."""

    rate_hz: int
    parameters: tuple[Parameter, ...]

    @property
    def identifiers(self) -> tuple[str, ...]:
        return tuple(parameter.identifier for parameter in self.parameters)

    @property
    def interval_ns(self) -> int | None:
        """The time between samples, or None where it is no whole number of nanoseconds (60 Hz)."""
        return NANOSECONDS // self.rate_hz if NANOSECONDS % self.rate_hz == 0 else None


class Samples(NamedTuple):
    """``values[c, k]`` is channel c at ``times_ns[k]``, counted from the start of the drive."""

    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]


class Lap(NamedTuple):
    """The car crosses the line and begins lap ``number``; ``last_lap_seconds`` is NaN for the first."""

    time_ns: int
    number: int
    last_lap_seconds: float


class Occurrence(NamedTuple):
    """An event of the kind ``identifier``, with the numbers that its kind describes."""

    time_ns: int
    identifier: str
    values: tuple[float, ...]


class Block(NamedTuple):
    """The drive in [start_ns, end_ns); ``samples`` runs parallel to the drive's groups."""

    start_ns: int
    end_ns: int
    samples: tuple[Samples, ...]
    laps: tuple[Lap, ...]
    occurrences: tuple[Occurrence, ...]


class Drive(Protocol):
    """Something that was, or could have been, driven."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def event_kinds(self) -> tuple[EventKind, ...]: ...

    @property
    def highlights(self) -> tuple[str, ...]:
        """Identifiers of the few channels to show first."""

    def block(self, start_seconds: float, seconds: float) -> Block:
        """What happened in the ``seconds`` from ``start_seconds`` on. Same arguments, same answer, in any order."""


def sample_range(rate_hz: int, start_ns: int, end_ns: int) -> tuple[int, int]:
    """Numbers [first, stop) of the samples of a group whose moment lies in [start_ns, end_ns)."""
    return _first_at_or_after(rate_hz, start_ns), _first_at_or_after(rate_hz, end_ns)


def sample_times(rate_hz: int, first: int, stop: int) -> NDArray[np.int64]:
    """Moments of samples [first, stop) in nanoseconds; sample k is at k / rate, rounded down."""
    return np.arange(first, stop, dtype=np.int64) * NANOSECONDS // rate_hz


def _first_at_or_after(rate_hz: int, moment_ns: int) -> int:
    number = moment_ns * rate_hz // NANOSECONDS
    while number * NANOSECONDS // rate_hz < moment_ns:
        number += 1
    return number


def to_nanoseconds(seconds: float) -> int:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds is {seconds}: it must be a number, not negative")
    return round(seconds * NANOSECONDS)
