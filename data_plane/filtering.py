"""Which data packets a reader of ReadDataPackets asked for.

========================================  ===========================================================================
``Packet.type``                           delivered when
========================================  ===========================================================================
PeriodicData, RowData, SynchroData        at least one of its parameters passes; whole, no column is taken out
Event                                     its event passes
Marker                                    markers are included
anything else                             never
========================================  ===========================================================================

An identifier passes when an include pattern and no exclude pattern is found somewhere in it, case-sensitively. No
include patterns: every identifier; no exclude patterns: none but the empty identifier.

Patterns are regular expressions as RE2 understands them. The reference has .NET's, which can take exponential time; it
gives up after a second a match. RE2 takes time in proportion to the identifier whatever the pattern, so a reader can
hold up nobody; what it leaves out (look-around, back-references) is refused when the call begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, Literal, Protocol

import re2  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.data_formats import DataFormatFold
from trackside.protos.internal_pb2 import DataContentView

__all__ = ["UNKNOWN_FORMAT", "Answer", "BadPattern", "DataPacketFilter", "FilterLists", "IdentifierFilter"]

FILTERED_TYPES = frozenset({"PeriodicData", "RowData", "SynchroData", "Event"})
"""Types whose packets name what they hold in field 1 of their content."""

PATTERNS_MAX = 1000
"""In one list; so many are checked in 20 ms."""

PATTERN_CHARACTERS_MAX = 64 << 10
"""In one list."""

PROGRAM_STEPS_MAX = 50_000
"""In one list, compiled: a name with a few wildcards has ten to fifty, ``\\pL`` (any letter) a thousand."""

REMEMBERED_BYTES_MAX = 4 << 20
"""Data formats whose answer a filter remembers, as they stand in packets: most are of eleven bytes."""

REMEMBERED_OVERHEAD_BYTES = 150
"""What one of them costs in memory beside its own bytes."""

VALUE_CHARACTERS_SHOWN = 60


class Unknown(Enum):
    FORMAT = "the packet's data format has not been defined yet"


UNKNOWN_FORMAT: Final = Unknown.FORMAT
"""The answer for a packet that cannot be judged before the fold has gone on. Neither true nor false."""

Answer = bool | Literal[Unknown.FORMAT]


class BadPattern(ValueError):
    """A pattern that cannot be used: INVALID_ARGUMENT for a client. ``field`` is the field of the request."""

    def __init__(self, field: str, value: str, reason: str) -> None:
        shown = repr(value[:VALUE_CHARACTERS_SHOWN])
        if len(value) > VALUE_CHARACTERS_SHOWN:
            shown += f"... ({len(value)} characters)"
        super().__init__(f"{field}: {shown} is not a pattern (RE2 regular expression) that can be used: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class FilterLists(Protocol):
    """What a filter is made from; both DataPacketRequest and ``link.FilterSpec`` are such."""

    @property
    def include_parameters(self) -> Sequence[str]: ...
    @property
    def exclude_parameters(self) -> Sequence[str]: ...
    @property
    def include_events(self) -> Sequence[str]: ...
    @property
    def exclude_events(self) -> Sequence[str]: ...
    @property
    def include_markers(self) -> bool: ...


class IdentifierFilter:
    """Include and exclude patterns for one kind of identifiers. Exclude wins."""

    def __init__(self, kind: str, include: Sequence[str], exclude: Sequence[str]) -> None:
        """``kind`` ends the names of the request's fields, for errors. Raises BadPattern."""
        self._included = _search_of(f"include_{kind}", include)
        self._excluded = _search_of(f"exclude_{kind}", exclude)

    def passes(self, identifier: str) -> bool:
        text = identifier.encode()
        excluded = self._excluded(text) if self._excluded else not text
        return not excluded and (self._included is None or bool(self._included(text)))


class DataPacketFilter:
    """What one reader asked for, with the answers it gave so far. Not thread-safe.

    A consumer has one for each distinct request and asks it once for each packet; the door makes one to see whether
    the patterns are good.
    """

    def __init__(self, parameters: IdentifierFilter, events: IdentifierFilter, include_markers: bool) -> None:
        self._parameters = parameters
        self._events = events
        self._include_markers = include_markers
        self._formats: DataFormatFold | None = None
        self._remembered: dict[tuple[bool, bytes], bool] = {}
        self._remembered_bytes = 0

    @classmethod
    def of_spec(cls, lists: FilterLists) -> DataPacketFilter:
        """The filter that a request or its ``link.FilterSpec`` describes. Raises BadPattern."""
        parameters = IdentifierFilter("parameters", lists.include_parameters, lists.exclude_parameters)
        events = IdentifierFilter("events", lists.include_events, lists.exclude_events)
        return cls(parameters, events, lists.include_markers)

    def evaluate(self, packet: bytes, formats: DataFormatFold) -> Answer:
        """Whether to deliver a packet of the data source whose formats ``formats`` folds.

        UNKNOWN_FORMAT when its data format is a number that the fold does not know: ask again when it has gone on.
        False for what cannot be decoded. Samples are not looked at.
        """
        try:
            envelope = data.Packet.FromString(packet)
            kind = envelope.type
            if kind == "Marker":
                return self._include_markers
            if kind not in FILTERED_TYPES:
                return False
            data_format = DataContentView.FromString(envelope.content).data_format  # empty where there is none
            return self._recall(kind == "Event", data_format, formats)
        except DecodeError:
            return False

    def _recall(self, is_event: bool, data_format: bytes, formats: DataFormatFold) -> Answer:
        """The answer given before for the same bytes, or a new one; what one fold said does not hold for another."""
        if formats is not self._formats:
            self._forget()
            self._formats = formats
        known = self._remembered.get((is_event, data_format))
        if known is not None:
            return known
        answer = self._judge_event(data_format, formats) if is_event else self._judge_samples(data_format, formats)
        if answer is not UNKNOWN_FORMAT:
            self._remember(is_event, data_format, answer)
        return answer

    def _remember(self, is_event: bool, data_format: bytes, answer: bool) -> None:
        size = len(data_format) + REMEMBERED_OVERHEAD_BYTES
        if size > REMEMBERED_BYTES_MAX // 16:
            return
        if self._remembered_bytes + size > REMEMBERED_BYTES_MAX:
            self._forget()
        self._remembered[is_event, data_format] = answer
        self._remembered_bytes += size

    def _forget(self) -> None:
        self._remembered.clear()
        self._remembered_bytes = 0

    def _judge_samples(self, data_format: bytes, formats: DataFormatFold) -> Answer:
        parsed = data.SampleDataFormat.FromString(data_format)
        names: Sequence[str] | None = parsed.parameter_identifiers.parameter_identifiers
        if parsed.WhichOneof("format") == "data_format_identifier":
            if not parsed.data_format_identifier:
                return False  # no number of a format, now or ever
            names = formats.parameters(parsed.data_format_identifier)
        return UNKNOWN_FORMAT if names is None else any(map(self._parameters.passes, names))

    def _judge_event(self, data_format: bytes, formats: DataFormatFold) -> Answer:
        parsed = data.EventDataFormat.FromString(data_format)
        member = parsed.WhichOneof("format")
        name: str | None = parsed.event_identifier
        if member == "data_format_identifier" and parsed.data_format_identifier:
            name = formats.event(parsed.data_format_identifier)
        elif member != "event_identifier":
            return False
        return UNKNOWN_FORMAT if name is None else self._events.passes(name)


def _search_of(field: str, patterns: Sequence[str]) -> Any:
    """A function that finds any of the patterns in UTF-8 text, or None for no patterns. Raises BadPattern.

    One program searches for all of them at once; that takes hardly longer than for one.
    """
    if not patterns:
        return None
    _check_size(field, patterns)
    try:
        steps = 0
        for index, pattern in enumerate(patterns):
            steps += _check_pattern(f"{field}[{index}]", pattern)
            if steps > PROGRAM_STEPS_MAX:
                raise BadPattern(f"{field}[{index}]", pattern, "too large, by itself or with those before it")
        together = "|".join(f"(?:{pattern})" for pattern in patterns)
        return _compile(field, together).search
    finally:
        re2.purge()  # it keeps what it compiled, beyond the life of any filter


def _check_size(field: str, patterns: Sequence[str]) -> None:
    if len(patterns) > PATTERNS_MAX:
        raise BadPattern(
            field,
            patterns[PATTERNS_MAX],
            f"it is pattern {PATTERNS_MAX + 1} of {len(patterns)}, and at "
            f"most {PATTERNS_MAX} are searched for; join some with |",
        )
    characters = sum(map(len, patterns))
    if characters > PATTERN_CHARACTERS_MAX:
        longest = max(patterns, key=len)
        raise BadPattern(
            field, longest, f"all patterns have {characters} characters, wanted at most {PATTERN_CHARACTERS_MAX}"
        )


def _check_pattern(field: str, pattern: str) -> int:
    """How many steps the program of a pattern has."""
    steps: int = _compile(field, pattern).programsize
    if r"\Q" in pattern:
        _compile(field, f"(?:{pattern})", shown=pattern)  # what is not closed by \E would quote its neighbours
    return steps


def _compile(field: str, pattern: str, shown: str | None = None) -> Any:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise BadPattern(field, pattern if shown is None else shown, reason) from None
