"""Parking: one blocked topic must not hold ``commit`` for all.

A topic that has not been logged for ``ParkAfterSeconds`` is *parked*. What the log does not have of it is copied to the
park (``park_file.py``), in order, and counts as safe: the rings' ``commit`` goes on. What comes later for it follows into
the park. The log writer keeps all of it in its queues, as before, and tries on; the park is what a successor needs. So
nothing is ever moved back: when the log answers again, the topic *leaves* as soon as what waits of it is young, later
packets go through the rings alone again, and when the log has its last parked packet the topic is *done*.

What holds at every instruction, and makes a death harmless:

- packets are in the park before ``commit`` passes them;
- a partition's packets stand in the park in the order of ``append``, and everything of it that is not in the park comes
  after it: so a successor appends the park first, then the rings from ``commit``;
- a record in the park keeps its ring and position: a log that knows what it has by them recognises it;
- ``commit`` passes what went through the rings alone, behind something in the park, only when the park says that its
  topic is done: so nothing is appended again behind what came after it.

A parked topic of essentials parks its data source: its other topics are held behind it, so that definitions stay before
the data that they define.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from trackside.data_plane.link import PARKED_STILL, Parks
from trackside.data_plane.log import LogWriter
from trackside.data_plane.park_file import ParkEntry, Placed, live
from trackside.data_plane.record import Record, Route, Source

__all__ = ["TOPICS_MAX", "Backlog", "Park", "Parked", "Parking", "Unlogged"]

TOPICS_MAX = 1000
"""Topics that are parked at a time; what more are blocked hold up their rings."""

ENTRY_BYTES = 512
"""An entry counts as this much at least: a small one takes four times that of the producer's memory."""

BACK_OFF = 20
"""After a look for blocked topics that cost much, the next comes after this many times what it took."""

CHEAP_SECONDS = 0.005

GARBAGE_BYTES = 256 << 10
"""With more than this of entries that the log has, and more than half, the file is written anew."""


class Unlogged(NamedTuple):
    """A record that a producer has appended and not committed; ``number`` is its place in the order of ``append``."""

    end: int
    stamp_ns: int
    record: Record
    number: int


Backlog = Callable[[], Iterable[tuple[str, Unlogged]]]
"""(ring, record) of all that is not committed."""


class Say(Protocol):
    """Where events go: one structured line each."""

    def __call__(self, level: str, event: str, **fields: object) -> None: ...


class Parked:
    """One entry of the park that the log does not have yet. ``numbers``: by which the log knows what each of its topics
    gets of the record; ``left``: topics that have not got it."""

    __slots__ = ("end", "left", "named", "numbers", "placed", "record", "ring", "stamp_ns", "topics")

    def __init__(self, entry: ParkEntry, placed: Placed, numbers: dict[str, int]) -> None:
        assert entry.record is not None
        self.ring = entry.ring
        self.end = entry.end
        self.stamp_ns = entry.stamp_ns
        self.record = entry.record
        self.placed = placed
        self.numbers = numbers
        self.topics = frozenset(numbers)
        self.named = frozenset(entry.topics)
        self.left = set(numbers)

    @property
    def held_bytes(self) -> int:
        return max(self.placed.size, ENTRY_BYTES)


class _Topic:
    """A parked topic. Its entries may be of rings that are not this process's: of dead instances. ``follows``: new packets go
    into the park; else it leaves. ``overflows``: some found no room, and wait in the rings. ``source``: the data source that
    it was parked with, if it was. ``noted``: the file does not hold anything of it, or says that the log has it; until then
    ``alone`` is, by ring, the end of the first record behind that which is not in the file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = ""
        self.since = time.monotonic()
        self.follows = True
        self.overflows = False
        self.noted = True
        self.alone: dict[str, int] = {}
        self.held_bytes = 0
        self.ends: dict[str, int] = {}  # by ring: the last that is in the park
        self.waiting: dict[str, deque[Parked]] = {}  # by ring: what the log does not have

    def add(self, entry: Parked) -> None:
        self.ends[entry.ring] = entry.end
        self.waiting.setdefault(entry.ring, deque()).append(entry)
        self.held_bytes += entry.held_bytes
        self.noted = False

    def settle(self) -> bool:
        """Forget what the log has; True when that is all."""
        for ring, entries in list(self.waiting.items()):
            while entries and self.name not in entries[0].left:
                self.held_bytes -= entries.popleft().held_bytes
            if not entries:
                del self.waiting[ring]
        return not self.waiting

    def oldest_ns(self) -> int:
        return min((entries[0].stamp_ns for entries in self.waiting.values()), default=0)


class Park(Protocol):
    """Where the entries are: a :class:`ParkFile`, or a recovery's many (``park_recovery.py``)."""

    @property
    def size(self) -> int: ...

    def take_found(self) -> list[tuple[Placed, ParkEntry]]: ...

    def append(self, entry: ParkEntry) -> Placed | None: ...

    def keep_only(self, entries: Iterable[Placed]) -> list[Placed] | None: ...

    def bytes_limit(self) -> int: ...

    def close(self) -> None: ...


class Parking:
    """A park and what is in it. Runs on the agent's thread; ``look`` is called now and then, ``settle`` after each
    ``log.do_work`` and before any commit."""

    def __init__(
        self,
        park: Park,
        log: LogWriter,
        backlog: Backlog,
        *,
        after_seconds: float,
        essentials_of: Callable[[str], str],
        say: Say,
        entries_max: int = 1 << 62,
    ) -> None:
        """Appends what a predecessor had parked."""
        self.topics: dict[str, _Topic] = {}
        self.version = 0
        """Goes up when a topic begins to be parked: peers have to hear of it before their next commit."""
        self.counts = dict.fromkeys(("parked", "unparked", "parked_packets", "park_full", "park_overflows"), 0)
        self.full = False
        self._closed: frozenset[str] = frozenset()  # topics whose writers wait
        self._entries_max = entries_max
        self._log = log
        self._backlog = backlog
        self._after_seconds = after_seconds
        self._essentials_of = essentials_of
        self._say = say
        self._sources: dict[str, str] = {}  # data source -> its topic of essentials, which is parked
        self._held: set[str] = set()
        self._entries: dict[Parked, None] = {}  # oldest first
        self._by_number: dict[int, tuple[str, Parked]] = {}
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._claimed: dict[Source, set[str]] = {}
        self._notes: list[tuple[Placed, list[str]]] = []
        self._notes_fail = False
        self._alone: dict[_Topic, None] = {}  # topics that hold back a commit
        self._behind: dict[str, str] = {}  # topics that wait for their essentials and are not parked; their sources
        self._park_at = 0.0
        self._file = park
        self.take_over()

    def take_over(self) -> int:
        """Append what stands in the park and came from somebody else, behind all that was appended before. What is
        there already, by its ring and position, is a copy, and left out. Returns how many packets."""
        now = time.monotonic_ns()
        taken: list[Parked] = []
        in_file = self._file.take_found()
        self._notes += [(placed, entry.topics) for placed, entry in in_file if entry.record is None]
        for placed, entry, topics in live(in_file):
            if missing := [name for name in topics if not self._has(name, entry)]:
                # Of another boot of this machine, and its clock, the stamp may lie ahead.
                dated = msgspec.structs.replace(entry, stamp_ns=min(entry.stamp_ns, now))
                taken.append(self._add(dated, placed, missing))
        for parked in taken:
            self._note_sources(parked.record.routes)
        self._hold()
        for parked in taken:
            self._log.append_parked(parked.ring, parked.end, parked.record, parked.numbers)
        if taken:
            self._say("info", "park taken over", topics=len(self.topics), entries=len(taken), bytes=self._bytes)
        return sum(sum(map(bool, parked.record.packets)) for parked in taken)

    def _has(self, name: str, entry: ParkEntry) -> bool:
        topic = self.topics.get(name)
        return topic is not None and entry.end <= topic.ends.get(entry.ring, 0)

    # -- the way in ---------------------------------------------------------------------------------------------------

    def claim(self, ring: str, end: int, stamp_ns: int, record: Record) -> Mapping[str, int] | None:
        """Park what of a record that is about to be appended belongs there: ``parked`` for ``LogWriter.append``.

        Called only while a topic is parked.
        """
        if self._sources:
            self._park_with_their_source(record.routes)
        followed = {topic for topic in _destinations(record) if topic in self.topics}
        if not followed:
            return None
        numbers = {name: 0 for name in followed if end <= self.topics[name].ends.get(ring, 0)}
        wanted = {name for name in followed - set(numbers) if self._takes(self.topics[name])}
        if wanted:
            entry = ParkEntry(sorted(wanted), ring, end, stamp_ns, record.restricted(wanted))
            if parked := self._write(entry):
                numbers |= parked.numbers
        for name in followed - set(numbers):
            self._go_alone(self.topics[name], ring, end)
        if numbers:
            self._claimed.setdefault(Source(ring, end), set()).update(numbers)
        return numbers or None

    def _takes(self, topic: _Topic) -> bool:
        """What found no room keeps later packets out of the park, too, and essentials keep their data out: else these
        would come before it."""
        first = self.topics.get(self._sources.get(topic.source, ""))
        return topic.follows and not topic.overflows and not (first is not None and first.overflows)

    def _go_alone(self, topic: _Topic, ring: str, end: int) -> None:
        """A record goes through its ring, and not into the park."""
        if topic.follows and not topic.overflows:
            topic.overflows = True
            self.counts["park_overflows"] += 1
        if not topic.noted:
            topic.alone.setdefault(ring, end)
            self._alone[topic] = None

    def committable(self, ring: str, logged: int, unlogged: Iterable[Unlogged]) -> int:
        """How far ``ring`` may be committed whose log is at ``logged``. ``unlogged``: what is not committed of it."""
        limit = min((topic.alone[ring] for topic in self._alone if ring in topic.alone), default=logged + 1)
        if logged < limit:
            return logged
        return max((found.end for found in itertools.takewhile(lambda found: found.end < limit, unlogged)), default=0)

    def claimed(self, ring: str, end: int) -> set[str]:
        """Topics for which this record, which is committed now, was parked. Once; they are counted with their entry."""
        return self._claimed.pop(Source(ring, end), set()) if self._claimed else set()

    # -- now and then -------------------------------------------------------------------------------------------------

    def look(self, *, settled: bool = True) -> None:
        """Park what is blocked, let go of what is not, make room. ``settled``: the log has answered for long enough that
        what it has not taken by now is blocked; else no topic is to blame, and nothing is parked or closed for it."""
        if settled:
            blocked = self._log.overdue(self._after_seconds)
            self._park_blocked(blocked)
            self._let_leave(blocked)
        if self.topics:
            self._note_done([topic for topic in self.topics.values() if not topic.waiting])
            self._compact()
            self._measure()
        self._close(settled)

    def _park_blocked(self, blocked: set[str]) -> None:
        """Also what found no room before, and what was let go too early. With much in the rings that costs: so not
        without a pause."""
        if time.monotonic() < self._park_at:
            return
        again = {topic.name for topic in self.topics.values() if topic.overflows or not topic.follows}
        wanted = {name for name in blocked if name not in self.topics} | (again & (blocked | self._held))
        if not wanted:
            return
        begun = time.thread_time()
        sources = self._find_sources(wanted)
        self._park(wanted | {name for name in sources if name not in self.topics}, sources)
        spent = time.thread_time() - begun
        if spent > CHEAP_SECONDS:
            self._park_at = time.monotonic() + BACK_OFF * spent

    def _park(self, names: set[str], sources: Mapping[str, str] | None = None) -> None:
        """What the log does not have of these topics goes into the park, in order; later packets follow.

        ``sources``: those of them that are parked with their data source, with its name.
        """
        known = {name for name in names if name in self.topics}
        # Essentials first: data is not parked without them, it would come before them.
        in_turn = sorted(names - known, key=lambda name: (bool(sources) and name not in self._sources.values(), name))
        room = max(0, TOPICS_MAX - len(self.topics))
        self._behind |= {name: sources[name] for name in in_turn[room:] if sources and name in sources}
        names = known | set(in_turn[:room])
        if not names:
            self._hold()
            return
        missing = self._log.unlogged(names)
        for name in names:
            topic = self._topic(name)
            if name not in known or not topic.follows:
                self.version += 1
            topic.follows, topic.overflows = True, False
            topic.source = (sources or {}).get(name, topic.source)
            self._behind.pop(name, None)
        self._log.park(self._copy(missing, names))
        for name in names:
            if not self.topics[name].overflows:  # all is in the file
                self._forget_alone(self.topics[name])
        self._hold()
        for name in sorted(names - known):
            self.counts["parked"] += 1
            held = sum(name in topics for topics in missing.values())
            self._say("warn", "topic parked", topic=name, records=held, after_seconds=self._after_seconds)

    def _copy(self, missing: Mapping[Source, set[str]], names: set[str]) -> dict[Source, dict[str, int]]:
        """In the order of ``append``. A topic that finds no room gets no more from there on.

        Also what the log has and is not committed: else ``commit`` could not pass it before the topic is done.
        """
        numbers: dict[Source, dict[str, int]] = {}
        for ring, found in sorted(self._backlog(), key=lambda pair: pair[1].number):
            source = Source(ring, found.end)
            missed = missing.get(source, frozenset[str]())
            due = {
                name
                for name in _destinations(found.record)
                if name in names and (name in missed or found.end > self.topics[name].ends.get(ring, 0))
            }
            wanted = {name for name in due if self._takes(self.topics[name])}
            if wanted:
                entry = ParkEntry(sorted(wanted), ring, found.end, found.stamp_ns, found.record.restricted(wanted))
                if parked := self._write(entry, wanted & missed):
                    due -= wanted
                    if parked.numbers:
                        numbers[source] = parked.numbers
                        self._claimed.setdefault(source, set()).update(parked.numbers)
            for name in due:
                self._go_alone(self.topics[name], ring, found.end)
        return numbers

    def _write(self, entry: ParkEntry, missing: Iterable[str] | None = None) -> Parked | None:
        """None when there is no room. The log does not have the entry for the topics ``missing``: for all, if not said."""
        if len(self._entries) >= self._entries_max or (placed := self._file.append(entry)) is None:
            return None
        self.counts["parked_packets"] += sum(map(bool, entry.record.packets)) if entry.record else 0
        return self._add(entry, placed, entry.topics if missing is None else missing)

    def _add(self, entry: ParkEntry, placed: Placed, topics: Iterable[str]) -> Parked:
        parked = Parked(entry, placed, {name: next(self._numbers) for name in topics})
        for name in entry.topics:
            if name in self.topics:
                self.topics[name].ends[entry.ring] = entry.end
                self.topics[name].noted = False
        for name, number in parked.numbers.items():
            self._by_number[number] = name, parked
            self._topic(name).add(parked)
        if parked.numbers:
            self._entries[parked] = None
            self._bytes += placed.size
        return parked

    def _topic(self, name: str) -> _Topic:
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = _Topic(name)
        return topic

    # -- data sources whose essentials are parked ---------------------------------------------------------------------

    def _find_sources(self, names: set[str]) -> dict[str, str]:
        """With a topic of essentials, all topics of its data source that have something to log; and that source."""
        routes = {route.topic: route for _, unlogged in self._backlog() for route in unlogged.record.routes}
        for route in routes.values():
            if route.data_source and self._essentials_of(route.data_source) in names:
                self._sources[route.data_source] = self._essentials_of(route.data_source)
        return {name: route.data_source for name, route in routes.items() if route.data_source in self._sources}

    def _park_with_their_source(self, routes: Iterable[Route]) -> None:
        new = {
            route.topic: route.data_source
            for route in routes
            if route.data_source in self._sources
            and route.topic not in self._behind
            and ((topic := self.topics.get(route.topic)) is None or not topic.follows)
        }
        if new:
            self._park(set(new), new)

    def _note_sources(self, routes: Iterable[Route]) -> None:
        for route in routes:
            essentials = self._essentials_of(route.data_source) if route.data_source else ""
            if essentials in self.topics:
                self._sources[route.data_source] = essentials
                if route.topic in self.topics:
                    self.topics[route.topic].source = route.data_source

    def _hold(self) -> None:
        """Tell the log which topics wait for their essentials, and which do so no more."""
        self._sources = {name: topic for name, topic in self._sources.items() if topic in self.topics}
        first = set(self._sources.values())
        self._behind = {name: source for name, source in self._behind.items() if source in self._sources}
        held = {topic.name for topic in self.topics.values() if topic.source in self._sources} - first | set(
            self._behind
        )
        if held != self._held:
            self._held = held
            self._log.hold(held)

    # -- the way out --------------------------------------------------------------------------------------------------

    def settle(self) -> list[Parked]:
        """Entries that the log has now. Topics of which it has all are done, and the file says so."""
        numbers = self._log.parked_logged()
        if not numbers:
            return []
        logged: list[Parked] = []
        touched: set[str] = set()
        for number in numbers:
            name, parked = self._by_number.pop(number)
            touched.add(name)
            parked.left.discard(name)
            if not parked.left:
                del self._entries[parked]
                self._bytes -= parked.placed.size
                logged.append(parked)
        self._note_done([self.topics[name] for name in sorted(touched) if self.topics[name].settle()])
        return logged

    def _note_done(self, topics: list[_Topic]) -> None:
        """The log has all that is parked of these topics. When the file says so, they are done, but for those that wait
        for room. When that cannot be written, they stay, and so does ``commit`` in front of what is behind them."""
        if not all(topic.noted for topic in topics) and not self._note(topics):
            return
        for topic in topics:
            topic.noted = True
            self._forget_alone(topic)
        if done := [topic for topic in topics if not topic.overflows]:
            self._finish(done)

    def _note(self, topics: list[_Topic]) -> bool:
        if not self._entries and self._file.keep_only([]) is not None:
            self._notes.clear()
            return True
        names = [topic.name for topic in topics if not topic.noted]
        placed = self._file.append(ParkEntry(names))
        if placed is not None:
            self._notes.append((placed, names))
        elif not self._notes_fail:
            self._say("error", "no room to note in the park what is logged: commits wait", topics=len(names))
        self._notes_fail = placed is None
        return placed is not None

    def _finish(self, topics: list[_Topic]) -> None:
        for topic in topics:
            del self.topics[topic.name]
            self.counts["unparked"] += 1
            self._say("info", "topic unparked", topic=topic.name, seconds=round(time.monotonic() - topic.since, 1))
        self.full = self.full and bool(self.topics)
        self._hold()

    def _forget_alone(self, topic: _Topic) -> None:
        topic.alone.clear()
        self._alone.pop(topic, None)

    def _let_leave(self, blocked: set[str]) -> None:
        """Packets of a topic that the log takes again go through the rings alone, once what waits is young. Of one that is
        only slow already when the park is full: that does not help it."""
        young_ns = time.monotonic_ns() - int(self._after_seconds / 2 * 1e9)
        for topic in self.topics.values():
            if topic.name in self._held:
                continue
            helpless = (topic.overflows or self.full) and topic.name not in blocked
            if helpless or (not topic.overflows and topic.oldest_ns() > young_ns):
                topic.follows = topic.overflows = False

    def _compact(self) -> None:
        """What is logged goes, and so do notes with nothing left before them that they are about."""
        garbage = self._file.size - self._bytes
        if garbage <= GARBAGE_BYTES or garbage <= self._bytes:
            return
        entries = sorted(self._entries, key=lambda parked: parked.placed.position)
        kept: list[Placed] = []
        notes: list[list[str]] = []
        before: set[str] = set()
        waiting = deque(entries)
        for place, names in [*self._notes, (Placed(self._file.size, 0), [])]:
            while waiting and waiting[0].placed.position < place.position:
                before |= waiting[0].named
                kept.append(waiting.popleft().placed)
            if not before.isdisjoint(names):
                kept.append(place)
                notes.append(names)
        placed = self._file.keep_only(kept)
        if placed is None:
            return
        at = dict(zip(kept, placed, strict=True))
        self._notes = [(at[place], names) for place, names in self._notes if place in at]
        for parked in entries:
            parked.placed = at[parked.placed]

    def _measure(self) -> None:
        limit = self._limit()
        overflows = any(topic.overflows for topic in self.topics.values())
        used = max(self._bytes, len(self._entries) * ENTRY_BYTES)
        full = overflows or used > (limit * 3 // 8 if self.full else limit // 2)
        if full != self.full:
            self.full = full
            self.counts["park_full"] += full
            self._say(
                "warn" if full else "info",
                "park full: writers of its topics wait" if full else "park has room again",
                topics=len(self.topics),
                bytes=self._bytes,
                bytes_max=limit,
            )

    def _limit(self) -> int:
        return min(self._file.bytes_limit(), self._entries_max * ENTRY_BYTES)

    def _close(self, settled: bool) -> None:
        """Who has used its share of a full park has to wait, not who comes later with little. While the log is away as a
        whole nobody has: then the rings hold what they can hold, too."""
        self._closed = frozenset()
        if self.full and settled:
            share = self._limit() // 2 // len(self.topics)
            over = (topic for topic in self.topics.values() if topic.follows)
            self._closed = frozenset(topic.name for topic in over if topic.overflows or topic.held_bytes >= share)

    # -- what it says -------------------------------------------------------------------------------------------------

    def news(self, ring: str, commit: int) -> Parks:
        """What the peer behind ``ring`` has to know; ``commit``: how far that ring is committed."""
        closed = sorted(self._closed & self.topics.keys())
        return Parks([self._news_of(topic, ring, commit) for topic in self.topics.values()], closed)

    @staticmethod
    def _news_of(topic: _Topic, ring: str, commit: int) -> tuple[str, int, int]:
        waiting = topic.waiting.get(ring)
        logged = waiting[0].end - 1 if waiting else commit
        return topic.name, logged, PARKED_STILL if topic.follows else topic.ends.get(ring, 0)

    def statistics(self) -> dict[str, int]:
        oldest = min((parked.stamp_ns for parked in self._entries), default=0)
        age_ns = time.monotonic_ns() - oldest if oldest else 0
        return self.counts | {"parked_topics": len(self.topics), "parked_bytes": self._bytes, "parked_age": age_ns}

    def summary(self) -> str:
        """One line for an operator, empty while nothing is parked."""
        if not self.topics:
            return ""
        names = sorted(
            self.topics, key=lambda name: (name in self._held, name)
        )  # those to blame, then those behind them
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"parked: {', '.join(names[:3])}{more}{' (park full)' if self.full else ''}"

    def entries(self) -> Iterator[ParkEntry]:
        """What the log does not have, in order."""
        for parked in self._entries:
            yield ParkEntry(sorted(parked.left), parked.ring, parked.end, parked.stamp_ns, parked.record)

    @property
    def empty(self) -> bool:
        return not self._entries

    def close(self) -> None:
        self._file.close()


def _destinations(record: Record) -> Iterator[str]:
    for route, packets in zip(record.routes, record.counts, strict=True):
        if packets:
            yield route.topic
            if route.essentials:
                yield route.essentials
