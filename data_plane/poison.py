"""A record that ends the process that takes it must not end its successors for ever.

The supervisor counts deaths of a producer, or of the recovery, at an unmoved ``commit``. From the second on the successor
is *careful*: it takes one record at a time, and notes which before it does; the note outlives it::

    <instance>/<process>.trial      {"ring":"...","end":4096,"taking_apart":false}, one line of fixed length

A process that finds a note of its predecessor there (the supervisor takes away those of processes that somebody killed)
does not take that record again: its packets go to the dead-letter file, *quarantined*, and the ring goes on behind it. If
even taking the record apart had ended the process, it goes there as it is.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile, DeadLettersFull, now_text
from trackside.data_plane.link import PACKETS
from trackside.data_plane.merge import Merge
from trackside.data_plane.record import Record, decode_record
from trackside.data_plane.undecodable import UNDECODABLE
from trackside.data_plane.worker import Worker
from trackside.shm.ring import RingReader, RingRecord

__all__ = ["NOTHING", "OneByOne", "Suspect", "Taking", "Trial", "one_by_one", "trial_of"]

TRIAL_SECONDS = 0.2
"""A record that has been in hand for so long without harm is let go, though the log does not have it: the log is away."""

CAREFUL_SECONDS = 60.0
"""Then all is taken as always: a log that is away must not make everything slow for as long as it is."""

RETRY_SECONDS = 1.0

NOTHING = Record([], [], [])
"""Stands in the way of a quarantined record, so that ``commit`` passes it when all before it is logged."""

NOTE_BYTES = 512


class Suspect(msgspec.Struct, frozen=True):
    """The record that ends at ``end`` of ``ring``; ``taking_apart``: for the quarantine, not for the log."""

    ring: str
    end: int
    taking_apart: bool = False


class Trial:
    """The note of one process slot. Written by the worker, read by its successor and by the supervisor."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Suspect | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Suspect)
        except (FileNotFoundError, *UNDECODABLE):
            return None

    def write(self, suspect: Suspect) -> None:
        """By one write: who dies in the middle was not ended by the record."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, msgspec.json.encode(suspect).ljust(NOTE_BYTES - 1) + b"\n", 0)
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


def trial_of(instance: Path, name: str) -> Trial:
    """Of the process ``name`` of an instance."""
    return Trial(instance / f"{name}.trial")


class Taking(Protocol):
    """What takes records from rings in their order: a :class:`Merge`, or one that is careful."""

    def take(self) -> list[tuple[int, RingRecord]]: ...

    @property
    def waiting(self) -> int: ...


OnQuarantined = Callable[[int, RingRecord, Record | None, str], None]
"""Index of the ring, the record as it lies there, taken apart (None where it could not be), and why. It must be passed."""


def one_by_one(
    worker: Worker, rings: Sequence[RingReader], logged: Callable[[str], int], on_quarantined: OnQuarantined
) -> Taking:
    """The merge of ``rings``, careful when the supervisor says that it must be."""
    merge = Merge(rings)
    return OneByOne(worker, merge, rings, logged, on_quarantined) if worker.spec.careful else merge


class OneByOne:
    """Takes the next record when the log has the one before, until what lay in the rings at the start is through."""

    def __init__(
        self,
        worker: Worker,
        merge: Merge,
        rings: Sequence[RingReader],
        logged: Callable[[str], int],
        on_quarantined: OnQuarantined,
    ) -> None:
        self._worker = worker
        self._merge = merge
        self._rings = rings
        self._logged = logged
        self._on_quarantined = on_quarantined
        self._trial = trial_of(Path(worker.spec.instance), worker.spec.name)
        self._convicted = self._still_there(self._trial.read())
        self._file = DeadLetterFile(Path(worker.spec.settings.data_dir) / "dead-letters")
        self._queue: deque[tuple[int, RingRecord]] = deque()
        self._backlog = [ring.publish_position() for ring in rings]
        self._backlog_queued = 0
        self._until = time.monotonic() + CAREFUL_SECONDS
        self._tried: Suspect | None = None
        self._let_go_at = 0.0
        self._retry_at = 0.0
        worker.log("warn", "one record at a time", suspect=str(self._convicted or ""))

    @property
    def waiting(self) -> int:
        return self._merge.waiting + len(self._queue)

    def take(self) -> list[tuple[int, RingRecord]]:
        """As :meth:`Merge.take`, of the same order."""
        if self._tried is not None and not self._is_through(self._tried):
            return []
        self._extend_queue()
        if self._is_over():
            rest, self._queue = list(self._queue), deque()
            return rest
        if not self._queue or time.monotonic() < self._retry_at:
            return []
        index, found = self._queue[0]
        suspect = Suspect(self._rings[index].ring_id, found.end)
        if self._is_convicted(suspect):
            self._quarantine(index, found, suspect)
            return []
        self._pop()
        self._trial.write(suspect)
        self._tried, self._let_go_at = suspect, time.monotonic() + TRIAL_SECONDS
        return [(index, found)]

    def _is_through(self, tried: Suspect) -> bool:
        return self._logged(tried.ring) >= tried.end or time.monotonic() > self._let_go_at

    def _still_there(self, noted: Suspect | None) -> Suspect | None:
        """None also for a record that ``commit`` has passed, or that lies in other rings."""
        commits = {ring.ring_id: ring.commit_position for ring in self._rings}
        return noted if noted is not None and commits.get(noted.ring, noted.end) < noted.end else None

    def _extend_queue(self) -> None:
        taken = self._merge.take()
        self._backlog_queued += sum(found.end <= self._backlog[index] for index, found in taken)
        self._queue.extend(taken)

    def _pop(self) -> None:
        index, found = self._queue.popleft()
        self._backlog_queued -= found.end <= self._backlog[index]

    def _is_over(self) -> bool:
        """Whether nothing is left that had lain there at the start; then there are no more trials."""
        read = all(ring.read_position >= end for ring, end in zip(self._rings, self._backlog, strict=True))
        if self._until and ((read and not self._backlog_queued) or time.monotonic() > self._until):
            self._until = 0.0
            self._tried = None
            self._trial.clear()
        return not self._until

    def _is_convicted(self, suspect: Suspect) -> bool:
        return self._convicted is not None and (self._convicted.ring, self._convicted.end) == (
            suspect.ring,
            suspect.end,
        )

    def _quarantine(self, index: int, found: RingRecord, suspect: Suspect) -> None:
        """Into the file, on the device, before the ring may go on. A disk that does not take it is asked again."""
        convicted = self._convicted
        assert convicted is not None
        reason = f"its record ended {self._worker.spec.name}: {_last_line(self._worker)}"
        self._trial.write(msgspec.structs.replace(suspect, taking_apart=True))
        record = None if convicted.taking_apart else _taken_apart(found)
        try:
            self._file.append(_letters(suspect, found, record, reason))
        except DeadLettersFull as full:
            self._worker.log("error", "dead letter given up", ring=suspect.ring, position=suspect.end, reason=str(full))
        except OSError as error:
            self._worker.log("error", "dead letter waits for its file", path=str(self._file.path), reason=str(error))
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._worker.log(
            "error", "record quarantined", ring=suspect.ring, position=suspect.end, packets=found.count, reason=reason
        )
        self._pop()
        self._trial.clear()
        self._convicted = None
        self._on_quarantined(index, found, record, reason)
        # Not before ``commit`` has passed it is the next one tried: else it would be met again after its death.
        self._tried, self._let_go_at = suspect, self._until


def _last_line(worker: Worker) -> str:
    lines = worker.liveness.read_last_words().strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _taken_apart(found: RingRecord) -> Record | None:
    if found.kind != PACKETS:
        return None
    try:
        return decode_record(found.body)
    except UNDECODABLE:
        return None


def _letters(suspect: Suspect, found: RingRecord, record: Record | None, reason: str) -> list[DeadLetter]:
    """A letter a packet, or one with the whole record where it could not be taken apart."""
    whole = DeadLetter(
        time=now_text(),
        topic="",
        partition=0,
        reason=reason,
        key=b"",
        value=bytes(found.body),
        ring=suspect.ring,
        end=suspect.end,
        quarantined=True,
    )
    if record is None:
        return [whole]
    return [
        msgspec.structs.replace(
            whole,
            topic=route.topic,
            partition=route.partition,
            key=route.key,
            value=value,
            identity=route.identity,
            packet=packet,
            other=f"{route.essentials}:0" if route.essentials else "",
            essentials=route.essentials,
        )
        for packet, (route, value) in enumerate(
            zip([record.routes[row] for row in record.indexes], record.packets, strict=True)
        )
    ]
