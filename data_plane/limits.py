"""What a gateway takes at a time, in all and from one peer address; what comes beyond is refused with the limit's name.

A *peer address* is the host that a call comes from, without its port: all clients behind one address are one. Each
gateway counts for itself. Used on the loop's thread.

::

    open calls    OpenCallsMax, OpenCallsPerPeer                      asked once a call
    control calls ControlCallsMax                                     asked once a control call
    rates         MessagesPerSecondPerPeer, BytesPerSecondPerPeer     asked for each request message, where one is set
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from trackside.data_plane import metrics
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import Worker

__all__ = ["ControlCallsOpen", "LimitReached", "Limits", "OpenCalls", "Rates", "address_of"]

RATES_REMEMBERED = 10_000
"""Addresses whose rate is known; those that have been silent longest are forgotten first."""

BURST_SECONDS = 1.0
"""How much of a rate may come at once."""

Context = grpc.aio.ServicerContext[bytes, bytes]


class LimitReached(Exception):
    """A limit of this gateway. Becomes RESOURCE_EXHAUSTED; the text says which, its value and what was asked."""


def address_of(context: Context) -> str:
    """The caller's address as gRPC writes it, without the port: ``ipv4:10.0.0.7``."""
    return str(context.peer()).rpartition(":")[0]


class Limits:
    """Counts what was refused, by limit. That it was refused is counted and logged by ``refusals.py``, as for any reason."""

    def __init__(self, worker: Worker) -> None:
        self._counters = metrics.limit_counters(worker.counters)

    def reached(self, limit: str, value: int, asked: str) -> LimitReached:
        """The error to raise. ``limit`` is one of ``metrics.LIMITS``."""
        self.count(limit)
        return LimitReached(f"{limit} = {value}: {asked}")

    def count(self, limit: str) -> None:
        """For an error that names the limit already."""
        self._counters[limit].add(1)


class OpenCalls:
    """Calls that are open, by the address that they come from."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._max, self._max_a_peer = settings.open_calls_max, settings.open_calls_per_peer
        self._limits = limits
        self._by_peer: Counter[str] = Counter()
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def enter(self, peer: str) -> None:
        """One more call from ``peer``; wants one :meth:`leave`. Raises LimitReached, and then it is not open."""
        if self._open >= self._max:
            asked = f"so many calls are open on this gateway, and {peer} asked for one more; end some"
            raise self._limits.reached("OpenCallsMax", self._max, asked)
        if self._by_peer[peer] >= self._max_a_peer:
            asked = f"so many calls from {peer} are open on this gateway, and it asked for one more; end some"
            raise self._limits.reached("OpenCallsPerPeer", self._max_a_peer, asked)
        self._by_peer[peer] += 1
        self._open += 1

    def leave(self, peer: str) -> None:
        self._open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


class ControlCallsOpen:
    """Control calls of this gateway that are with the control plane."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._max = settings.control_calls_max
        self._limits = limits
        self._open = 0

    @contextmanager
    def one_more(self, peer: str) -> Iterator[None]:
        """Raises LimitReached, and then it is not open."""
        if self._open >= self._max:
            asked = "so many control calls of this gateway are not answered yet; send fewer at a time"
            raise self._limits.reached("ControlCallsMax", self._max, asked)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class _Rate:
    """One limit of one peer: when the last message would have come if all had come evenly (seconds)."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0.0

    def wait(self, now: float) -> float:
        """How long the next message has to wait."""
        return self.due - BURST_SECONDS - now

    def take(self, now: float, seconds: float) -> None:
        self.due = max(self.due, now) + seconds


class Rates:
    """Request messages and their bytes by peer address. A message that comes too early waits its turn, within a bound."""

    def __init__(self, settings: Settings, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._messages, self._bytes = settings.messages_per_second_per_peer, settings.bytes_per_second_per_peer
        self._limits = limits
        self._clock = clock
        self._peers: dict[str, tuple[_Rate, _Rate]] = {}  # silent longest first

    @property
    def is_on(self) -> bool:
        return bool(self._messages or self._bytes)

    async def wait_turn(self, peer: str, size: int, bound: float) -> None:
        """Take a message of ``size`` bytes from ``peer``: now, or when its rates allow. Raises LimitReached at once
        when that would be later than ``bound`` seconds; then nothing is taken."""
        wait = self._reserve(peer, size, bound)
        if wait > 0:
            await asyncio.sleep(wait)

    def _reserve(self, peer: str, size: int, bound: float) -> float:
        now = self._clock()
        messages, bytes_ = self._peers.pop(peer) if peer in self._peers else (_Rate(), _Rate())
        self._peers[peer] = messages, bytes_
        if len(self._peers) > RATES_REMEMBERED:
            del self._peers[next(iter(self._peers))]
        if self._messages and messages.wait(now) > bound:
            asked = f"{peer} sends more messages; it may send the next in {messages.wait(now):.1f} s"
            raise self._limits.reached("MessagesPerSecondPerPeer", self._messages, asked)
        if self._bytes and bytes_.wait(now) > bound:
            asked = f"{peer} sends more bytes, now {size}; it may send them in {bytes_.wait(now):.1f} s"
            raise self._limits.reached("BytesPerSecondPerPeer", self._bytes, asked)
        wait = max(messages.wait(now) if self._messages else 0.0, bytes_.wait(now) if self._bytes else 0.0)
        if self._messages:
            messages.take(now, 1 / self._messages)
        if self._bytes:
            bytes_.take(now, size / self._bytes)
        return wait
