"""Consumer groups on Kafka: real group offsets, which every Kafka tool shows under the group's name.

Nobody joins the group, so nothing is rebalanced; a group that has members elsewhere refuses our commits, and the reason is
logged. Beside each offset stands the id of the topic that it counts in: a topic that was deleted and made again has
another one, and what was committed before is then no progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from trackside.data_plane.kafka_admin import AdminError, KafkaAdmin
from trackside.data_plane.kafka_group_clients import GroupClients
from trackside.data_plane.kafka_lookup import Answers, Found, look_up
from trackside.data_plane.log import Partition, Progress
from trackside.data_plane.worker import log_line

__all__ = ["KafkaGroups"]

ANSWER_SECONDS = 5.0
RETRY_SECONDS = 0.2
"""The first question about groups that a new cluster gets makes it create the topic that holds them."""

MARK = "trackside "
"""What the text beside an offset begins with; the topic's id follows. Offsets of other programs have other texts."""


class _Question:
    """Where somebody's group is; asked again until an answer comes or the time is over."""

    def __init__(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        self.group = group
        self.partitions = tuple(partitions)
        self.done = done
        self.deadline = time.monotonic() + ANSWER_SECONDS
        self.ask_at = 0.0
        self.asked = False
        self.reason = "no answer"


class _Commits:
    """What is to be committed for one group: one request at a time, so that what was said last is what is kept."""

    def __init__(self) -> None:
        self.progress: dict[Partition, Progress] = {}
        self.done: list[Callable[[bool], None]] = []
        self.deadline = 0.0
        self.ask_at = 0.0
        self.asked = False

    def add(self, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        if not self.done:
            self.deadline = time.monotonic() + ANSWER_SECONDS
        self.progress.update(progress)
        self.done.append(done)

    def finish(self, kept: bool) -> None:
        for done in self.done:
            done(kept)


class KafkaGroups:
    """The group verbs of a :class:`~trackside.data_plane.log.LogReader`. Agent thread only."""

    def __init__(self, admin: KafkaAdmin, clients: GroupClients) -> None:
        self._admin = admin
        self._clients = clients
        self._questions: list[_Question] = []
        self._underway: dict[str, _Commits] = {}
        self._next: dict[str, _Commits] = {}  # for groups that have a request under way
        self.uncommitted = 0

    def committed(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        self._questions.append(_Question(group, partitions, done))

    def commit(self, group: str, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        commits = self._next if group in self._underway else self._underway
        commits.setdefault(group, _Commits()).add(progress, done)

    def do_work(self) -> int:
        """Ask what is due, give up what has waited too long. Returns how much was done."""
        done = self._clients.do_work()
        if not self._questions and not self._underway:
            return done
        now = time.monotonic()
        return (
            done
            + sum([self._ask(question, now) for question in list(self._questions)])
            + sum([self._send(group, commits, now) for group, commits in list(self._underway.items())])
        )

    def close(self) -> None:
        self._clients.close()

    # -- where a group is ---------------------------------------------------------------------------------------------

    def _ask(self, question: _Question, now: float) -> int:
        if not question.partitions or now >= question.deadline:
            self._questions.remove(question)
            if question.partitions:
                log_line("warn", "kafka", "consumer group not found", group=question.group, reason=question.reason)
            question.done(None if question.partitions else {})
            return 1
        if question.asked or now < question.ask_at:
            return 0
        question.asked = True
        look_up(self._admin, question.partitions, lambda answers: self._on_looked_up(question, answers))
        return 1

    def _on_looked_up(self, question: _Question, answers: Answers) -> None:
        found: dict[Partition, Found] = {}
        for partition, answer in answers.items():
            if isinstance(answer, AdminError):
                self._ask_again(question, answer)
                return
            found[partition] = answer
        self._clients.group_offsets(
            question.group, question.partitions, lambda offsets: self._on_offsets(question, found, offsets)
        )

    def _on_offsets(
        self,
        question: _Question,
        found: Mapping[Partition, Found],
        offsets: Mapping[Partition, tuple[int, str]] | AdminError,
    ) -> None:
        if isinstance(offsets, AdminError):
            self._ask_again(question, offsets)
        elif question in self._questions:  # else it is too late
            self._questions.remove(question)
            question.done(
                {
                    partition: offset
                    for partition, (offset, text) in offsets.items()
                    if offset <= found[partition].end and _is_of(text, found[partition].identity)
                }
            )

    def _ask_again(self, question: _Question, error: AdminError) -> None:
        question.reason = error.reason
        question.asked = False
        question.ask_at = time.monotonic() + RETRY_SECONDS

    # -- commits ------------------------------------------------------------------------------------------------------

    def _send(self, group: str, commits: _Commits, now: float) -> int:
        if commits.asked or now < commits.ask_at:
            return 0
        commits.asked = True
        offsets = {place: (offset, _text_of(log)) for place, (log, offset) in commits.progress.items()}
        self._clients.commit_group_offsets(group, offsets, lambda error: self._on_committed(group, commits, error))
        return 1

    def _on_committed(self, group: str, commits: _Commits, error: AdminError | None) -> None:
        now = time.monotonic()
        if error is not None and now < commits.deadline:
            commits.asked = False
            commits.ask_at = now + RETRY_SECONDS
            return
        if error is not None:
            self.uncommitted += 1
            log_line("warn", "kafka", "consumer group not committed", group=group, reason=error.reason)
        del self._underway[group]
        if group in self._next:
            self._underway[group] = self._next.pop(group)
        commits.finish(error is None)


def _text_of(identity: bytes) -> str:
    return f"{MARK}{identity.decode()}" if identity else ""


def _is_of(text: str, identity: bytes) -> bool:
    """Whether an offset with this text counts in this topic; of one that does not say so it is taken for granted."""
    return not text.startswith(MARK) or text == _text_of(identity)
