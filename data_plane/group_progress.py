"""How far consumer groups are: what was handed to the transport, on its way into the log.

::

    response written --> noted --once a second, and when a read ends--> commit under way --> the log has it
                           ^                                                |
                           +----------- the log did not take it ------------+

For each group and partition the newest counts: what is noted replaces what was noted before, whoever read it. A read in
a group is a :class:`Member` of it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from trackside.data_plane.link import Commit, CommitAnswer, Message, number_of
from trackside.data_plane.log import Partition, Progress

__all__ = ["COMMIT_SECONDS", "GroupProgress", "Member"]

COMMIT_SECONDS = 1.0
"""After the death of a gateway its groups come again from so far back."""

ROWS_MAX = 1000
"""Partitions in one commit, so that it fits into a ring whatever the names are."""


class Requests(Protocol):
    """The consumer as it is seen here."""

    def send(self, message: Message) -> None: ...


class _Underway(NamedTuple):
    consumer: Requests
    group: str
    progress: dict[Partition, Progress]

    def message(self, number: int) -> Commit:
        return Commit(number, self.group, [(*place, log, offset) for place, (log, offset) in self.progress.items()])


class Member:
    """One read in a consumer group."""

    def __init__(self, groups: GroupProgress, group: str) -> None:
        self._groups = groups
        self.group = group

    def note(self, partition: Partition, log: bytes, next_offset: int) -> None:
        """Everything below ``next_offset`` was handed over, or is not wanted."""
        self._groups.note(self.group, partition, Progress(log, next_offset))

    def leave(self) -> None:
        """The read has ended: what it noted is committed now."""
        self._groups.on_leave(self.group)


class GroupProgress:
    """All consumer groups of one peer. Runs on the loop's thread."""

    def __init__(self, epoch: int, consumer_of: Callable[[str], Requests]) -> None:
        self._epoch = epoch
        self._consumer_of = consumer_of
        self._numbers = itertools.count(1)
        self._members: Counter[str] = Counter()
        self._noted: defaultdict[str, dict[Partition, Progress]] = defaultdict(dict)
        self._underway: dict[int, _Underway] = {}  # oldest first
        self._commit_at = 0.0
        self.uncommitted = 0

    def join(self, group: str) -> Member:
        self._members[group] += 1
        return Member(self, group)

    def note(self, group: str, partition: Partition, progress: Progress) -> None:
        self._noted[group][partition] = progress

    def on_leave(self, group: str) -> None:
        self._members[group] -= 1
        if not self._members[group]:
            del self._members[group]
        self._commit(group)

    def commit_when_due(self, now: float) -> None:
        """Called often; ``now`` is any clock that does not go back. A group that waits for an answer has its turn later:
        a log that is away is not talked to all the more."""
        if self._noted and now >= self._commit_at:
            self._commit_at = now + COMMIT_SECONDS
            waiting = {sent.group for sent in self._underway.values()}
            for group in self._noted.keys() - waiting:
                self._commit(group)

    def on_answer(self, answer: CommitAnswer) -> None:
        sent = self._underway.pop(answer.request, None)
        if sent is None or answer.kept:
            return
        newer = [later.progress for later in self._underway.values() if later.group == sent.group]
        missing = {place: at for place, at in sent.progress.items() if not any(place in one for one in newer)}
        if sent.group in self._members:
            self._noted[sent.group] = missing | self._noted[sent.group]
        else:
            self.uncommitted += len(missing)

    def on_successor(self, consumer: Requests) -> None:
        """The consumer is another process: what its predecessor may not have kept is said again."""
        for number, sent in self._underway.items():
            if sent.consumer is consumer:
                consumer.send(sent.message(number))

    def _commit(self, group: str) -> None:
        by_consumer: defaultdict[Requests, dict[Partition, Progress]] = defaultdict(dict)
        for partition, progress in self._noted.pop(group, {}).items():
            by_consumer[self._consumer_of(partition.topic)][partition] = progress
        for consumer, noted in by_consumer.items():
            rows = iter(noted.items())
            while some := dict(itertools.islice(rows, ROWS_MAX)):
                self._send(_Underway(consumer, group, some))

    def _send(self, commit: _Underway) -> None:
        number = number_of(self._epoch, next(self._numbers))
        self._underway[number] = commit
        commit.consumer.send(commit.message(number))
