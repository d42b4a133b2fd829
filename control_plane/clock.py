"""The one clock of the control plane; tests inject their own."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock"]


class Clock(Protocol):
    def utc_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z. May step in either direction when somebody sets the clock."""

    def monotonic(self) -> float:
        """Seconds that never step, for bounds of waits and ages of caches."""


class _SystemClock:
    def utc_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK: Clock = _SystemClock()
