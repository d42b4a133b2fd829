"""Topic names: what each preset calls the topics, and which names of data sources and streams can be part of one.

======================  =====================  ==================================
topic                   ``legacy``             ``domain`` (``{Domain}.`` only where a domain is set)
======================  =====================  ==================================
main stream             ``{ds}``               ``{Domain}.Data.{ds}``
named stream            ``{ds}.{stream}``      ``{Domain}.Data.{ds}.{stream}``
essentials              ``{ds}_essential``     ``{Domain}.Essential.{ds}``
session info            ``SessionInfo``        ``{Domain}.Sys.SessionInfo``
system status           ``SystemStatus``       ``{Domain}.Sys.Status``
dead letters            ``dead-Letter``        ``{Domain}.Sys.DeadLetter``
======================  =====================  ==================================

``legacy`` is what the reference server of 2025 and everything built for it reads, ``domain`` what its 2.x successors
document. Neither escapes anything, so names are ambiguous where they contain dots: the main topic of data source
``A.B`` is the topic of stream ``B`` of data source ``A``. Both may be used; whoever lists the streams of ``A`` finds
``B`` among them, as with the reference.

The rule for names is the same on both logs. It is Kafka's, which the local log has no reason to widen: a log must be
able to move to a cluster.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from trackside.data_plane.spec import Settings

__all__ = ["ESSENTIAL", "TOPIC_CHARACTERS_MAX", "BadName", "Naming", "naming_of", "unified"]

TOPIC_CHARACTERS_MAX = 249
"""Kafka's limit (``Topic.MAX_NAME_LENGTH``): a folder ``{topic}-{partition}`` must fit into 255 bytes."""

ESSENTIAL = "_essential"
"""Ends the name of an essentials topic; no data source or stream may end so, under any preset, in any case: the
reference finds essentials topics by this ending and does not mind the case."""

VALUE_CHARACTERS_SHOWN = 60

_ALLOWED = re.compile(r"[A-Za-z0-9._-]+")


class BadName(ValueError):
    """A name that cannot be part of a topic name: INVALID_ARGUMENT for a client.

    ``field`` is the field of the request, ``value`` what it holds, ``limit`` says in words what would do.
    """

    def __init__(self, field: str, value: str, limit: str) -> None:
        super().__init__(f"{field}: {_shown(value)} is not allowed, wanted {limit}")
        self.field = field
        self.value = value
        self.limit = limit


def _shown(value: str) -> str:
    if len(value) <= VALUE_CHARACTERS_SHOWN:
        return repr(value)
    return f"{value[:VALUE_CHARACTERS_SHOWN]!r}... ({len(value)} characters)"


def unified(topic: str) -> str:
    """What Kafka compares before it creates a topic: two names that are the same here cannot both exist.

    Its metric names turn ``.`` into ``_`` (``Topic.hasCollision``).
    """
    return topic.replace(".", "_")


class Naming(NamedTuple):
    """What one preset calls the topics.

    ``data`` stands in front of the data source in the names of main and stream topics, ``essentials`` around it in
    those of essentials topics; they are so chosen that no topic can be both.
    """

    data: str
    essentials: tuple[str, str]
    session_info: str
    system_status: str
    dead_letter: str

    def main_topic(self, data_source: str) -> str:
        return self.data + data_source

    def stream_topic(self, data_source: str, stream: str) -> str:
        return f"{self.data}{data_source}.{stream}"

    def essentials_topic(self, data_source: str) -> str:
        before, after = self.essentials
        return before + data_source + after

    def is_common(self, topic: str) -> bool:
        """Whether the topic belongs to no data source."""
        return topic in (self.session_info, self.system_status, self.dead_letter)

    def is_essentials(self, topic: str) -> bool:
        before, after = self.essentials
        return topic.startswith(before) and topic.endswith(after)

    def bare(self, name: str) -> str:
        """A topic's name without the preset's prefix: it begins with the data source. A data source stays as it is."""
        for prefix in (self.data, self.essentials[0]):
            if prefix and name.startswith(prefix):
                return name[len(prefix) :]
        return name

    def check_data_source(self, name: str, field: str = "data_source") -> None:
        """Raise BadName unless every topic of such a data source can exist beside all others."""
        _check_characters(name, field)
        _check_ending(name, field)
        if self.is_common(name) or self.is_common(self.main_topic(name)):
            raise BadName(field, name, "a name that no common topic has")
        if self.bare(name) != name:
            prefixes = " or ".join(repr(prefix) for prefix in (self.data, self.essentials[0]))
            raise BadName(field, name, f"a name that does not begin with {prefixes}, as names of topics do")
        overhead = max(len(self.main_topic("")), len(self.essentials_topic("")))
        if len(name) > TOPIC_CHARACTERS_MAX - overhead:
            raise BadName(field, name, f"at most {TOPIC_CHARACTERS_MAX - overhead} characters")

    def check_stream(self, data_source: str, stream: str, field: str = "stream") -> None:
        """Raise BadName unless the topic of such a stream can exist beside all others; the data source is good."""
        _check_characters(stream, field)
        _check_ending(stream, field)
        topic = self.stream_topic(data_source, stream)
        if len(topic) > TOPIC_CHARACTERS_MAX:
            rest = TOPIC_CHARACTERS_MAX - len(topic) + len(stream)
            raise BadName(field, stream, f"at most {rest} characters with data source {_shown(data_source)}")
        if unified(topic) == unified(self.essentials_topic(data_source)):
            raise BadName(field, stream, "a name whose topic differs from the essentials' in more than '.' and '_'")


def _check_characters(name: str, field: str) -> None:
    if not _ALLOWED.fullmatch(name):
        raise BadName(field, name, "one or more of A-Z a-z 0-9 . _ -")
    if name in (".", ".."):
        raise BadName(field, name, "more than dots")


def _check_ending(name: str, field: str) -> None:
    if name.lower().endswith(ESSENTIAL):
        raise BadName(field, name, f"a name that does not end with {ESSENTIAL!r}")


def naming_of(settings: Settings) -> Naming:
    """The preset that the settings choose. ``legacy`` has no place for a domain and leaves it out.

    Raises BadName for a domain that cannot be part of a topic name.
    """
    if settings.naming == "legacy":
        return Naming("", ("", ESSENTIAL), "SessionInfo", "SystemStatus", "dead-Letter")
    if settings.domain:
        _check_characters(settings.domain, "Domain")
    before = f"{settings.domain}." if settings.domain else ""
    return Naming(
        data=f"{before}Data.",
        essentials=(f"{before}Essential.", ""),
        session_info=f"{before}Sys.SessionInfo",
        system_status=f"{before}Sys.Status",
        dead_letter=f"{before}Sys.DeadLetter",
    )
