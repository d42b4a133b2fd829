"""When connections were used last: those that nobody has used for ConnectionIdleSeconds are abandoned, and expire.

A use is a call that names the connection, or an open read on it; gateways report which connections are read. Nothing
expires while a gateway has not reported of late: it may be reading what the others are not.

Times are those of the monotonic clock, which goes on as long as the machine does, and so does the run directory. They are
kept there, so that a successor of the control plane goes on where it was. The file, little-endian::

    i64 id | f64 seconds of the monotonic clock      for each connection
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from trackside.control_plane.clock import Clock

__all__ = ["ConnectionUses", "sweep_seconds"]

log = logging.getLogger(__name__)

_ROW = struct.Struct("<qd")

SWEEPS = 8
"""Reports and looks in one idle time; so late a connection may expire."""

SWEEP_SECONDS_MAX = 30.0


def sweep_seconds(idle_seconds: float) -> float:
    """How often gateways report and the control plane looks."""
    return min(idle_seconds / SWEEPS, SWEEP_SECONDS_MAX)


class ConnectionUses:
    """The last use of each open connection. One thread. Calls but :meth:`keep` and making one do not block."""

    def __init__(self, path: str | Path, idle_seconds: float, gateways: int, clock: Clock) -> None:
        self._path = Path(path)
        self._idle_seconds = idle_seconds
        self._gateways = gateways
        self._clock = clock
        self._used_at = _read(self._path, clock.monotonic())
        self._reported_at: dict[str, float] = {}

    def use(self, id: int) -> None:
        self._used_at[id] = self._clock.monotonic()

    def forget(self, id: int) -> None:
        self._used_at.pop(id, None)

    def on_report(self, gateway: str, read: Iterable[int]) -> None:
        """``gateway`` reads these connections, and no others."""
        now = self._clock.monotonic()
        self._reported_at[gateway] = now
        self._used_at.update(dict.fromkeys(read, now))

    def idle(self, open_ids: Iterable[int]) -> list[tuple[int, float]]:
        """Open connections that are abandoned, and for how long (seconds). One that was never seen is new."""
        now = self._clock.monotonic()
        if not self._idle_seconds or not self._all_reported(now):
            return []
        found = [(id, now - self._used_at.setdefault(id, now)) for id in open_ids]
        return [(id, seconds) for id, seconds in found if seconds > self._idle_seconds]

    def _all_reported(self, now: float) -> bool:
        recent = now - 2 * sweep_seconds(self._idle_seconds)
        return sum(at >= recent for at in self._reported_at.values()) >= self._gateways

    def keep(self, open_ids: Iterable[int]) -> None:
        """Write the times of these for a successor; those of others are let go. A file in memory; a full one costs the
        successor the news: it counts anew."""
        open_ids = set(open_ids)
        self._used_at = {id: at for id, at in self._used_at.items() if id in open_ids}
        aside = self._path.with_name(self._path.name + ".new")
        try:
            aside.write_bytes(b"".join(_ROW.pack(id, at) for id, at in self._used_at.items()))
            aside.chmod(0o600)
            os.replace(aside, self._path)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._path, error)


def _read(path: Path, now: float) -> dict[int, float]:
    """What a predecessor kept; a time that is still to come is of another boot, and means now."""
    try:
        rows = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("%s: cannot be read: %s", path, error)
        return {}
    whole = len(rows) // _ROW.size * _ROW.size
    return {id: min(at, now) for id, at in _ROW.iter_unpack(rows[:whole])}
