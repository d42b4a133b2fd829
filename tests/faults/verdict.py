"""What became of everything that was written: counted lane by lane in the log, and compared with what readers got."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from faults.lanes import CORRUPTED, Lane, lane_of, number_of
from faults.log_contents import Column
from faults.writing import Fate

__all__ = ["Report", "Tally", "difference", "judge_lane"]


class Report(msgspec.Struct, kw_only=True):
    """One run of one fault. Counts are packets unless their names say otherwise; seconds are the longest of any client.

    ``lost_logged`` counts those of the lost that were accepted with ``trackside-ack: log``. ``left_over``: there,
    although the server had refused them.
    """

    fault: str = ""
    log: str = ""
    shape: str = ""
    seed: int = 0
    actions: dict[str, int] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    accepted: int = 0
    lost: int = 0
    lost_logged: int = 0
    repeated: int = 0
    reordered: int = 0
    corrupted: int = 0
    left_over: int = 0
    dead_letters: int = 0
    misread: list[str] = msgspec.field(default_factory=list)
    breaks: int = 0
    breaks_allowed: int = 0
    wrong_answers: list[str] = msgspec.field(default_factory=list)
    answers: int = 0
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    reasons: dict[str, str] = msgspec.field(default_factory=dict)
    question_statuses: dict[str, int] = msgspec.field(default_factory=dict)
    writer_pause_seconds: float = 0.0
    reader_pause_seconds: float = 0.0
    answer_pause_seconds: float = 0.0
    broken: list[str] = msgspec.field(default_factory=list)
    """Promises that did not hold, a sentence each."""


class Tally(NamedTuple):
    """One lane in the log."""

    lost: int
    repeated: int
    reordered: int
    left_over: int
    dead_letters: int


def judge_lane(lane: Lane, fate: Fate, column: Iterable[int], buried: Iterable[int] = ()) -> Tally:
    """Look for the lane's numbers in its partition, and among the dead letters.

    The order is that of each accepted number's first place. What was not accepted has no place that it must stand in.
    """
    accepted, refused = _Ranges(fate.accepted), _Ranges(fate.refused)
    seen: set[int] = set()
    newest = repeated = reordered = left_over = 0
    for entry in column:
        if lane_of(entry) != lane.index:
            continue
        number = number_of(entry)
        if number in seen:
            repeated += 1
            continue
        seen.add(number)
        if number in accepted:
            reordered += number < newest
            newest = max(newest, number)
        elif number in refused:
            left_over += 1
    dead = {number_of(entry) for entry in buried if lane_of(entry) == lane.index}
    lost = sum(
        1
        for first, end in fate.accepted
        for number in range(max(first, fate.forgiven_below), end)
        if number not in seen and number not in dead
    )
    return Tally(lost, repeated, reordered, left_over, len(dead))


class _Ranges:
    """Membership in ranges that stand in their order."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._firsts = array("Q", (first for first, _ in ranges))
        self._ends = array("Q", (end for _, end in ranges))

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number < self._ends[place]


def difference(wanted: array[int], got: array[int], what: str) -> str:
    """In words, how what a reader got differs from what the log has; empty when it does not."""
    if got == wanted:
        return ""
    place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    missing = sum((Counter(wanted) - Counter(got)).values())
    surplus = sum((Counter(got) - Counter(wanted)).values())
    return f"{what}: {len(got)} of {len(wanted)}, {missing} missing, {surplus} too many, first difference at {place}"


def corrupted(columns: Mapping[Any, Column]) -> int:
    return sum(column.damaged + column.entries.count(CORRUPTED) for column in columns.values())
