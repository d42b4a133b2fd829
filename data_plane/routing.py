"""Where packets go: data source and stream to topic and partition, and back.

::

                    TopicBased                     PartitionBased
    main stream     topic of the data source, 0    topic of the data source, 0
    named stream    a topic of its own, 0          topic of the data source, the partition that the configuration maps
                                                   the stream to; a stream that it does not name is the main stream
    essentials      a topic of its own, 0          a topic of its own, 0

Everything here follows from the settings and the names alone, so every process of every server comes to the same
answer without asking. What the topics are called is ``naming.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

from trackside.data_plane.log import Partition
from trackside.data_plane.naming import ESSENTIAL, BadName, Naming, naming_of, unified
from trackside.data_plane.spec import Settings

__all__ = ["BadName", "Routing", "owner", "parse_offset_key"]

CACHED_MAX = 1 << 14
"""Names are answered from a dict; when it holds this many it is emptied, so that invented names cost no memory."""

PARTITION_DIGITS_MAX = 10
"""Partitions are 32-bit numbers."""


def owner(data_source: str, count: int) -> int:
    """Which of ``count`` producers (or consumers) has this data source, all its topics and its data formats.

    The hash is over the name up to its first dot and without ``_essential``: two data sources whose names can make
    the same topic (``A.B`` and stream ``B`` of ``A``) have the same owner. "" (session info, status) is number 0.
    For topics use :meth:`Routing.owner`, which knows what stands in front of the data source.
    """
    head = data_source.partition(".")[0].replace(ESSENTIAL, "")
    return zlib.crc32(head.encode()) % count


def parse_offset_key(key: str) -> Partition:
    """The partition that a key of an offset map names: ``topic:partition``, or ``topic`` alone for partition 0.

    Raises ValueError when what follows the colon is no partition number.
    """
    topic, colon, number = key.rpartition(":")
    if not colon:
        return Partition(key, 0)
    if not (number.isascii() and number.isdecimal() and len(number) <= PARTITION_DIGITS_MAX):
        raise ValueError(f"{key!r} names no partition")
    return Partition(topic, int(number))


class Routing:
    """The settings' answers about names. One instance a process; not thread-safe.

    ``session_info``, ``system_status`` and ``dead_letter`` are the partitions that belong to no data source.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises BadName for a domain that cannot be part of topic names."""
        self.naming: Naming = naming_of(settings)
        self.session_info = Partition(self.naming.session_info, 0)
        self.system_status = Partition(self.naming.system_status, 0)
        self.dead_letter = Partition(self.naming.dead_letter, 0)
        self._mapped = settings.partition_mappings if settings.strategy == "PartitionBased" else None
        self._labels = _labels_of(settings.partition_mappings)
        self._routes: dict[tuple[str, str], Partition] = {}
        self._essentials: dict[str, str] = {}
        self._existing: dict[str, str] = {}

    # -- from names to topics -----------------------------------------------------------------------------------------

    def route(self, data_source: str, stream: str) -> Partition:
        """Where packets of a stream go ("": the main stream), and where they are read.

        Raises BadName for names that cannot be part of a topic name. A dict look-up for names that were asked before.
        """
        found = self._routes.get((data_source, stream))
        return found if found is not None else self._find(data_source, stream)

    def _find(self, data_source: str, stream: str) -> Partition:
        self.naming.check_data_source(data_source)
        main = self.naming.main_topic(data_source)
        if self._mapped is not None:
            number = self._mapped.get(stream, 0)
            partition = Partition(main, number)
            stream = stream if number else ""  # names that are not mapped are nobody's: not worth a place
        elif stream:
            self.naming.check_stream(data_source, stream)
            partition = Partition(self.naming.stream_topic(data_source, stream), 0)
        else:
            partition = Partition(main, 0)
        if len(self._routes) >= CACHED_MAX:
            self._routes.clear()
        self._routes[data_source, stream] = partition
        return partition

    def essentials_topic(self, data_source: str) -> str:
        """The topic whose partition 0 has the essential packets. Raises BadName as :meth:`route` does."""
        found = self._essentials.get(data_source)
        if found is None:
            self.naming.check_data_source(data_source)
            if len(self._essentials) >= CACHED_MAX:
                self._essentials.clear()
            found = self._essentials[data_source] = self.naming.essentials_topic(data_source)
        return found

    def essentials(self, data_source: str) -> Partition:
        return Partition(self.essentials_topic(data_source), 0)

    def owner(self, name: str, count: int) -> int:
        """Which of ``count`` producers (or consumers) has this data source or topic; common topics are number 0's.

        The same for a data source and each of its topics: the names for which it would not hold are refused.
        """
        return 0 if self.naming.is_common(name) else owner(self.naming.bare(name), count)

    def partition_count(self, topic: str) -> int:
        """How many partitions to create a topic with: one, unless streams are partitions of it."""
        if self._mapped is None or self.naming.is_common(topic) or self.naming.is_essentials(topic):
            return 1
        return 1 + max(self._mapped.values(), default=0)

    # -- existing topics ----------------------------------------------------------------------------------------------

    def learn(self, topics: Iterable[str]) -> None:
        """Remember topics that exist, so that a name which Kafka would refuse beside them is refused at the door."""
        if len(self._existing) >= CACHED_MAX:
            self._existing.clear()
        for topic in topics:
            self._existing.setdefault(unified(topic), topic)

    def check_writable(self, data_source: str, stream: str) -> None:
        """Raise BadName where a topic of the stream differs from one that was learnt in '.' and '_' alone.

        For who writes: reading makes no topic, and of two that exist both can be read.
        """
        topic = self.route(data_source, stream).topic
        named = stream and self._mapped is None
        self._check_beside(topic, *(("stream", stream) if named else ("data_source", data_source)))
        self._check_beside(self.essentials_topic(data_source), "data_source", data_source)

    def _check_beside(self, topic: str, field: str, value: str) -> None:
        existing = self._existing.get(unified(topic), topic)
        if existing != topic:
            limit = f"a name whose topic differs from the existing {existing!r} in more than '.' and '_'"
            raise BadName(field, value, limit)

    # -- from topics to names -----------------------------------------------------------------------------------------

    def label(self, topic: str, number: int, data_source: str = "") -> str:
        """The stream of what is read from a partition; "" for main streams, essentials and common topics.

        Without ``data_source`` it is taken to be the name up to the first dot, which is wrong for data sources with
        dots in their names; who knows it says it.
        """
        if self.naming.is_common(topic) or self.naming.is_essentials(topic):
            return ""
        if self._mapped is not None:
            return self._labels.get(number, "")
        name = self.naming.bare(topic)
        head = data_source or name.partition(".")[0]
        return name[len(head) + 1 :] if name.startswith(f"{head}.") else ""

    def streams_of(self, data_source: str, topics: Iterable[str]) -> list[str]:
        """Named streams of a data source, in order of their names, out of all existing topics.

        As with the reference a stream whose name has a dot is not listed: its topic is a stream of the data source
        ``{ds}.{first part}`` just as well, whose packets must not turn up here. It can be written, and read by name.
        PartitionBased: the streams of the configuration, in its order, whether they were used or not.
        """
        if self._mapped is not None:
            return [stream for stream, number in self._mapped.items() if number]
        before = self.naming.stream_topic(data_source, "")
        return sorted(
            topic[len(before) :]
            for topic in topics
            if topic.startswith(before)
            and "." not in topic[len(before) :]
            and topic != before
            and not self.naming.is_essentials(topic)
        )

    def topics_of(self, data_source: str, topics: Mapping[str, int]) -> dict[str, int]:
        """Those of the existing topics (with their partition counts) that belong to a data source: main, essentials
        and the streams that :meth:`streams_of` lists."""
        own = [self.naming.main_topic(data_source), self.naming.essentials_topic(data_source)]
        if self._mapped is None:
            own += [self.naming.stream_topic(data_source, stream) for stream in self.streams_of(data_source, topics)]
        return {topic: topics[topic] for topic in own if topic in topics}

    # -- offset maps --------------------------------------------------------------------------------------------------

    def api_offsets(self, data_source: str, offsets: Mapping[Partition, int]) -> dict[str, int]:
        """An offset map as API replies have it: ``{ds}:0``, ``{ds}.{stream}:0``, ``{ds}_essential:0``.

        Clients look their streams up in this form whatever the topics are really called. Partitions may be named in
        either form; partitions of other data sources stay as they are.
        """
        result: dict[str, int] = {}
        for partition, offset in offsets.items():
            topic, number = self._in_api_form(data_source, self.resolve(data_source, partition))
            key = f"{topic}:{number}"
            result[key] = max(offset, result.get(key, offset))
        return result

    def log_offsets(self, offsets: Mapping[Partition, int]) -> dict[str, int]:
        """An offset map as packets on the log have it: real topic names, ``topic:partition``."""
        return {f"{topic}:{number}": offset for (topic, number), offset in offsets.items()}

    def resolve(self, data_source: str, partition: Partition) -> Partition:
        """The partition by its real name, given by that or in the form of API replies.

        Offset maps that other programs wrote have either; a real name goes first where both could be meant.
        """
        topic, number = partition
        if self.naming.bare(topic) != topic:
            return partition
        if topic == data_source:
            return Partition(self.naming.main_topic(data_source), number)
        if topic == data_source + ESSENTIAL:
            return Partition(self.naming.essentials_topic(data_source), number)
        if topic.startswith(f"{data_source}."):
            return Partition(self.naming.data + topic, number)
        return partition

    def _in_api_form(self, data_source: str, partition: Partition) -> Partition:
        topic, number = partition
        if topic == self.naming.essentials_topic(data_source):
            return Partition(data_source + ESSENTIAL, number)
        if topic == self.naming.main_topic(data_source) or topic.startswith(self.naming.stream_topic(data_source, "")):
            return Partition(self.naming.bare(topic), number)
        return partition


def _labels_of(mappings: Mapping[str, int]) -> dict[int, str]:
    """Stream by partition; the first of several that share one, and none for the main stream's."""
    labels: dict[int, str] = {}
    for stream, number in mappings.items():
        if number:
            labels.setdefault(number, stream)
    return labels
