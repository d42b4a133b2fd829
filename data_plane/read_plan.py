"""What a connection reads: its details as partitions and offsets.

==================  ================================================  ================================================
the connection      TopicBased                                        PartitionBased
==================  ================================================  ================================================
no streams          all topics of the data source but essentials',    all partitions of its one topic
                    all partitions of each
streams             partition 0 of the main topic; all partitions of  partition 0; the partition of each stream that
                    each stream's topic                               the configuration maps
exclude_main_stream nothing that responses would call the main stream, "", unless ``streams`` names it
==================  ================================================  ================================================

A partition is read once, from the offset of who named it first: the main stream, then ``streams`` in their order. A
stream without an offset has 0. Without streams, ``main_offset`` is the main stream's; named streams are read from their
beginning, or from their end if it is negative. What appears later is read from its beginning in every case.

Offsets: n is the entry n or the earliest after it, and where that is still to come it is waited for; 0 is the earliest
that exists; negative is the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ma.streaming.api.v1 import api_pb2
from trackside.data_plane.log import END, Partition
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

__all__ = ["NothingToRead", "ReadPlan", "Start"]


class NothingToRead(ValueError):
    """Whatever is written, no packet would ever reach this read. Becomes INVALID_ARGUMENT."""


class Start(NamedTuple):
    """``label`` is the stream that responses name; ``offset`` as in ``LogReader.open``."""

    label: str
    offset: int


class ReadPlan:
    """Raises BadName, NothingToRead.

    ``grows``: partitions may appear that belong to it. ``needs_topics``: it makes a difference which exist at the call.
    """

    def __init__(self, details: api_pb2.ConnectionDetails, routing: Routing, settings: Settings) -> None:
        self.data_source = details.data_source
        self._routing = routing
        self._all = not details.streams
        self._main = None if details.exclude_main_stream else Start("", max(details.main_offset, END))
        self._named_offset = END if details.main_offset < 0 else 0
        self._fixed: dict[Partition, Start] = {}  # read whether they exist or not
        self._wide: dict[str, Start] = {}  # topics of which every partition is read
        topic_based = settings.strategy == "TopicBased"
        routing.naming.check_data_source(details.data_source, "data_source")
        if self._main is not None:
            self._fixed[routing.route(details.data_source, "")] = self._main
        for index, stream in enumerate(details.streams):
            offset = details.stream_offsets[index] if index < len(details.stream_offsets) else 0
            if topic_based or stream in settings.partition_mappings or not stream:
                self._add(stream, max(offset, END), wide=topic_based and bool(stream))
        if not self._all and not self._fixed:
            raise NothingToRead("exclude_main_stream: true, and none of the streams has a partition: nothing to read")
        self.grows = self._all or bool(self._wide)
        starts = (*self._fixed.values(), *self._wide.values())
        self.needs_topics = self.grows and (bool(self._named_offset) or any(start.offset for start in starts))

    def _add(self, stream: str, offset: int, *, wide: bool) -> None:
        partition = self._routing.route(self.data_source, stream)
        start = Start(self._routing.label(*partition, self.data_source), offset)
        self._fixed.setdefault(partition, start)
        if wide:
            self._wide.setdefault(partition.topic, start)

    def starts(self, topics: Mapping[str, int]) -> dict[Partition, Start]:
        """What is read when ``topics`` (with their partition counts) exist at the call."""
        found = dict(self._fixed)
        for topic, count in topics.items():
            for partition in (Partition(topic, number) for number in range(count)):
                start = self._start(partition)
                if start is not None:
                    found.setdefault(partition, start)
        return found

    def later(self, topics: Mapping[str, int]) -> dict[Partition, Start]:
        """What is read of topics that appeared after it."""
        return {partition: start._replace(offset=0) for partition, start in self.starts(topics).items()}

    def _start(self, partition: Partition) -> Start | None:
        if not self._all:
            return self._wide.get(partition.topic)
        if self._routing.naming.is_essentials(partition.topic):
            return None
        label = self._routing.label(*partition, self.data_source)
        return Start(label, self._named_offset) if label else self._main
