"""The control plane's log port over lists in memory, with the faults that a test wants to see.

One :class:`FakeLog` is the cluster; every :class:`FakeLogPort` on it is one server's way to it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from trackside.control_plane.log_port import Append, LogAway, LoggedEntry, LoggedRun
from trackside.data_plane.log import LogState, Partition, Watermarks

FIRST_TIME_NS = 1_700_000_000_000_000_000
"""Log time of the first entry; each further one is a second later."""


class FakeLog:
    def __init__(self) -> None:
        self.partitions: defaultdict[Partition, list[LoggedEntry]] = defaultdict(list)
        self.earliest: dict[Partition, int] = {}
        self.generation = 0
        self._time_ns = FIRST_TIME_NS
        self._changed: set[asyncio.Event] = set()

    def append(self, partition: Partition, packet: bytes, key: bytes = b"", identity: bytes = b"") -> int:
        """What anybody may do, other servers and programs among them. Returns the offset."""
        entries = self.partitions[partition]
        entries.append(LoggedEntry(len(entries), self._time_ns, key, identity, packet))
        self._time_ns += 1_000_000_000
        self.wake()
        return len(entries) - 1

    def watermarks(self, partition: Partition) -> Watermarks:
        if partition not in self.partitions:
            return Watermarks(0, 0)
        return Watermarks(self.earliest.get(partition, 0), len(self.partitions[partition]))

    def restart(self) -> None:
        """Another log takes this one's place; it is empty."""
        self.partitions.clear()
        self.generation += 1
        self.wake()

    def wake(self) -> None:
        for event in self._changed:
            event.set()

    async def wait_changed(self) -> None:
        event = asyncio.Event()
        self._changed.add(event)
        try:
            await event.wait()
        finally:
            self._changed.discard(event)


class FakeLogPort:
    """One server's port. Faults are plain attributes, changed while it is in use (then call ``log.wake()``).

    ``away``: why the log is away; "" when it is not. ``mute``: the log answers nothing, though nobody knows yet.
    ``holding``: what is appended is accepted, but reaches the log at :meth:`release`. ``blind``: followers see nothing
    new. ``parked``: topics of which some packets do not reach the log within any bound. ``stale_topics``: the topics that
    were seen last, in place of those that there are. ``echoes``: how often each own entry stands in the log.
    ``before_own``: called right before an own entry reaches the log, as another server's append that came first;
    ``after_own`` right after it.
    """

    def __init__(self, log: FakeLog | None = None) -> None:
        self.log = log or FakeLog()
        self.away = ""
        self.mute = False
        self.holding = False
        self.blind = False
        self.parked: list[str] = []
        self.stale_topics: dict[str, int] | None = None
        self.echoes = 1
        self.before_own: Callable[[Append], None] = lambda _: None
        self.after_own: Callable[[Append], None] = lambda _: None
        self.appended: list[tuple[str, Append]] = []
        self.asked: list[str] = []
        self.following = 0
        self._accepted: list[Append] = []

    def state(self) -> LogState:
        return LogState(not self.away, self.away)

    async def append(self, data_source: str, appends: Sequence[Append], timeout: float) -> None:
        self._check()
        self.appended += [(data_source, append) for append in appends]
        self._accepted += appends
        if not self.holding:
            self.release()

    def release(self) -> None:
        """What was accepted reaches the log, in order."""
        accepted, self._accepted = self._accepted, []
        for append in accepted:
            self.before_own(append)
            for _ in range(self.echoes):
                if append.essentials:
                    self.log.append(Partition(append.essentials, 0), append.packet, append.key, append.identity)
                self.log.append(append.partition, append.packet, append.key, append.identity)
            self.after_own(append)

    async def watermarks(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Watermarks]:
        await self._answer("watermarks", timeout)
        return {partition: self.log.watermarks(partition) for partition in partitions}

    async def topics(self, data_source: str, timeout: float) -> Mapping[str, int]:
        await self._answer("topics", timeout)
        if self.stale_topics is not None:
            return self.stale_topics
        return {topic: number + 1 for topic, number in sorted(self.log.partitions)}

    async def topics_now(self, data_source: str, timeout: float) -> Mapping[str, int]:
        await self._answer("topics now", timeout)
        return {topic: number + 1 for topic, number in sorted(self.log.partitions)}

    async def wait_logged_so_far(
        self, data_source: str, own_topics: Callable[[list[str]], list[str]], timeout: float
    ) -> list[str]:
        self.asked.append(f"logged {data_source}")
        parked = own_topics(self.parked)
        while self._accepted and not parked:
            await self.log.wait_changed()
        return parked

    async def follow(self, partition: Partition, offset: int) -> AsyncGenerator[LoggedRun, None]:
        generation = self.log.generation
        self.following += 1
        try:
            while True:
                restarted = generation != self.log.generation
                if restarted:
                    generation, offset = self.log.generation, 0
                offset = max(offset, self.log.earliest.get(partition, 0))
                entries = self.log.partitions[partition][offset:] if partition in self.log.partitions else []
                if restarted or (entries and not self.blind):
                    offset += len(entries)
                    yield LoggedRun(offset, entries, restarted, b"log %d" % generation)
                else:
                    await self.log.wait_changed()
        finally:
            self.following -= 1

    async def _answer(self, question: str, timeout: float) -> None:
        self.asked.append(question)
        await asyncio.sleep(0)  # as the real one: never at once
        self._check()
        if self.mute:
            await asyncio.sleep(timeout)
            raise LogAway(f"no answer to {question} within {timeout:g} s")

    def _check(self) -> None:
        if self.away:
            raise LogAway(self.away)
