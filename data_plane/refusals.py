"""How a call ends that is not OK: the one place that gives calls their status, so that each refusal is counted and told.

Used by gateways and the control plane, on the loop's thread. What is accepted passes none of this. Calls for which
gRPC itself finds an answer (a message above its bound, say) do not come here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

import grpc

from trackside.data_plane.metrics import REFUSED
from trackside.shm.counters import Counter, CounterTable

__all__ = ["METHOD", "OTHER_METHOD", "Log", "Refusals", "Trailers", "end"]

LOG_SECONDS = 10.0
"""Refusals of one method and status are logged at most once in this time: who is refused often tries again at once."""

REASON_CHARACTERS_MAX = 300
"""Of a reason in the log: parts of it are what the client sent."""

OTHER_METHOD = "other"
"""What a method is called that nobody serves: clients can invent any number of names."""

METHOD: ContextVar[str] = ContextVar("trackside_method", default=OTHER_METHOD)
"""The method that the current task serves, as the descriptors call it, without its service."""

Context = grpc.aio.ServicerContext[Any, Any]
Trailers = Iterable[tuple[str, str | bytes]]


class Log(Protocol):
    """As :meth:`Worker.log`."""

    def __call__(self, level: str, event: str, **fields: object) -> None: ...


async def end(context: Context, status: grpc.StatusCode, reason: str, trailers: Trailers = ()) -> NoReturn:
    """End a call whose story is told elsewhere: who uses this counts and logs it by a name of its own."""
    await context.abort(status, reason, tuple(trailers))


class Refusals:
    """Refusals of one process, by method and status: each one counted, and logged now and then with how many there were."""

    def __init__(self, table: CounterTable, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._log = log
        self._clock = clock
        self._counters: dict[tuple[str, str], Counter] = {}
        self._untold: dict[tuple[str, str], int] = {}
        self._quiet_until: dict[tuple[str, str], float] = {}

    async def refuse(self, context: Context, status: grpc.StatusCode, reason: str, trailers: Trailers = ()) -> NoReturn:
        """End the call that the current task serves. The reason is the status's text."""
        self.note(METHOD.get(), status, str(context.peer()), reason)
        await end(context, status, reason, trailers)

    def note(self, method: str, status: grpc.StatusCode, peer: str, reason: str) -> None:
        """Count and tell one. ``method`` is one that is served, or OTHER_METHOD: the table has room for these."""
        which = (method, status.name.lower())
        if which not in self._counters:
            self._counters[which] = self._table.counter(REFUSED, method=method, status=status.name.lower())
        self._counters[which].add(1)
        self._untold[which] = self._untold.get(which, 0) + 1
        now = self._clock()
        if now >= self._quiet_until.get(which, now):
            self._quiet_until[which] = now + LOG_SECONDS
            self._log(
                "warn",
                "refused",
                method=method,
                status=status.name.lower(),
                peer=peer,
                reason=reason[:REASON_CHARACTERS_MAX],
                times=self._untold.pop(which),
            )
