"""The log as producers and consumers see it: a few verbs, two implementations.

``local_log`` keeps segment files on disk; ``kafka_log`` speaks to Apache Kafka. One contract suite
(``tests/log_contract.py``) runs over both. Only a producer process holds a :class:`LogWriter`, only a consumer process
a :class:`LogReader`. No verb blocks longer than one write to the disk; both are driven by ``do_work`` from the
agent thread of their process. What an implementation does in threads of its own stays inside it; such a thread calls
``wake`` (given at construction, safe from any thread) when ``do_work`` has something to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from trackside.data_plane.record import Record, Source

__all__ = [
    "END",
    "Cursor",
    "LogConfigurationError",
    "LogReader",
    "LogState",
    "LogWriter",
    "Partition",
    "Progress",
    "Refusal",
    "Run",
    "Wake",
    "Watermarks",
]

END = -1
"""Start position of a cursor: only what is appended after it was opened."""

Wake = Callable[[], None]


class LogConfigurationError(Exception):
    """The log can never work as configured: malformed address, refused credentials, a newer data directory.

    Raised by the constructors and by ``do_work``; the process ends with the exit code that forbids a restart.
    """


class Partition(NamedTuple):
    topic: str
    number: int


class Watermarks(NamedTuple):
    """``earliest`` is the first offset that still exists, ``end`` the offset that the next entry will get.

    Both are 0 for a partition that does not exist.
    """

    earliest: int
    end: int


class Progress(NamedTuple):
    """How far a consumer group is in one partition: its next entry is ``offset``, in the log that ``identity`` names.

    An empty ``identity`` is the log that is there when the progress is kept.
    """

    identity: bytes
    offset: int


class LogState(NamedTuple):
    """Whether the log answers; ``reason`` says in one sentence for an operator why not, and is empty when it does."""

    available: bool
    reason: str = ""


class Refusal(NamedTuple):
    """One packet that the log refuses for good (too large, not authorised): what, from where, why.

    ``packet`` is its index in the record that ended at ``end`` in ring ``ring``. It counts as logged, so that
    it holds up nothing behind it; the writer has put it into the dead-letter file before it says so.
    """

    ring: str
    end: int
    packet: int
    partition: Partition
    reason: str


class Run(NamedTuple):
    """What a cursor found: *all there is* in [start, next_offset) of one partition, perhaps nothing.

    Columns run parallel: entry i has ``offsets[i]``, ``times_ns[i]`` (UTC, nanoseconds since the epoch),
    ``values[i]`` and the row ``key_index[i]`` of ``keys``, whose rows are (key, identity) pairs: the Kafka key (b""
    where it was empty or null) and the identity that the server gave to its own records (b"" for all others).
    Values are decodable ``Packet`` messages: an implementation leaves out and counts what is not.
    ``identity`` names the log that these offsets belong to; another identity means that offsets start anew.
    """

    partition: Partition
    identity: bytes
    start: int
    next_offset: int
    offsets: list[int]
    times_ns: list[int]
    key_index: list[int]
    keys: list[tuple[bytes, bytes]]
    values: list[bytes]


class LogWriter(Protocol):
    """Appends records of a producer's rings. One instance a producer process; not thread-safe."""

    def append(self, ring: str, end: int, record: Record, parked: Mapping[str, int] | None = None) -> None:
        """Take over one record that ends at position ``end`` of ring ``ring``. Never blocks, never refuses.

        Order of calls is order in each partition. A packet with ``essentials`` goes to that topic's partition 0
        first. Memory is bounded by the rings: what is not logged is not committed. A record that this log already
        has (a producer died between its write and its commit) is recognised where the implementation promises it.

        ``parked``: topics for which the record is in the park, with the number it has there (see ``park``); with 0 it
        has been appended from there, and is left out.
        """

    def append_parked(self, ring: str, end: int, record: Record, parked: Mapping[str, int]) -> None:
        """What a predecessor had parked: of the record, what is bound for the topics in ``parked``, by numbers that are
        not 0. It has no part in ``logged(ring)``. Before the first ``append``, in the order of the park."""

    def overdue(self, seconds: float) -> set[str]:
        """Topics with a partition that has something to log, parked or not, and of which the log took nothing for longer
        than this. One that is only slow is none. Cheap: asked ten times a second."""

    def unlogged(self, topics: Collection[str]) -> dict[Source, set[str]]:
        """Records with something for ``topics`` that the log does not have and that is not parked: for which of them."""

    def park(self, numbers: Mapping[Source, Mapping[str, int]]) -> None:
        """These records are in the park, for these topics, under these numbers: ``logged`` of their rings need not wait
        for it any more. It is still to be logged, in its place, and ``parked_logged`` says when."""

    def parked_logged(self) -> list[int]:
        """Numbers since the last call of whose records the log has (or has refused for good) all that was parked."""

    def hold(self, topics: Collection[str]) -> None:
        """Nothing more is handed to the log for these topics until the next call, which names all again."""

    def do_work(self) -> int:
        """Move what was appended towards the log and take reports. Returns how many entries moved (0: idle).

        Raises OSError when the log on disk cannot be written at all; the worker ends and is started again.
        """

    def logged(self, ring: str) -> int:
        """Position up to which everything appended from ``ring`` is in the log (or refused for good); 0 at first.

        It only grows. "In the log" is acks=all on Kafka; locally it is the page cache, or the device with Sync=Each.
        """

    def refusals(self) -> list[Refusal]:
        """Refusals since the last call; each is reported before ``logged`` passes it."""

    def state(self) -> LogState: ...

    def answers(self) -> bool:
        """Whether the log as a whole takes entries: that single topics are blocked does not count. Asked when something
        is; may write a little to find out."""

    def value_bytes_max(self) -> int:
        """Largest packet that the log takes now, in bytes; for the door of the gateways."""

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start: appended, bytes, batches, repeats, refused and whatever else it can say."""

    def close(self, timeout_seconds: float) -> bool:
        """Log what was appended within the bound, then let go. True when everything appended was logged."""


class Cursor(Protocol):
    """A position in one partition that moves on as it is read. Made by :meth:`LogReader.open`."""

    @property
    def partition(self) -> Partition: ...

    @property
    def next_offset(self) -> int:
        """Offset of the next entry to come; END while it is not known yet."""
        ...

    @property
    def at_end(self) -> bool:
        """Whether the last read reached the end of the partition as it was known then."""
        ...

    def read(self, bytes_max: int) -> Run | None:
        """The next run of at most about ``bytes_max`` bytes of values (always at least one entry), or None when
        there is nothing yet. Never blocks. A run may be empty of entries but move ``next_offset`` (holes)."""

    def close(self) -> None: ...


class LogReader(Protocol):
    """Reads partitions. One instance a consumer process; not thread-safe."""

    def open(self, partition: Partition, offset: int) -> Cursor:
        """A cursor at ``offset``: exactly that entry or the earliest after it that exists; END for the end.

        A partition that does not exist yet is no error: the cursor waits for it and starts at its beginning.
        Reading never creates a topic.
        """

    def watermarks(
        self, partitions: Sequence[Partition], done: Callable[[dict[Partition, Watermarks] | None], None]
    ) -> None:
        """Ask for the watermarks now; ``done`` is called from this or a later ``do_work``, with None when the log
        did not answer within 5 seconds."""

    def committed(
        self, group: str, partitions: Sequence[Partition], done: Callable[[dict[Partition, int] | None], None]
    ) -> None:
        """Ask how far a consumer group has come: the offset of the next entry that it wants, for each partition where
        it has been. ``done`` is called from this or a later ``do_work``, with None when the log did not answer within
        5 seconds.

        Progress in another log, or beyond the end of this one, is none: such offsets are other entries', or nobody's.
        """

    def commit(self, group: str, progress: Mapping[Partition, Progress], done: Callable[[bool], None]) -> None:
        """Keep the progress of a consumer group, in place of what was kept before, be that less or more.

        ``done`` is called as for ``committed``: with True when every ``committed`` from now on finds it, whatever
        process dies; with False when the log did not take it within 5 seconds. Progress in a partition that does not
        exist may be forgotten.
        """

    def list_topics(self, done: Callable[[Mapping[str, int] | None], None]) -> None:
        """Ask for ``topics`` as they are from now on: every topic that exists at the call is among them. ``done`` is
        called as for ``committed``."""

    def topics(self) -> Mapping[str, int]:
        """Existing topics and their partition counts as last seen. A new topic is seen within a second while
        ``watch`` is on."""

    def watch(self, on: bool) -> None:
        """Whether somebody needs ``topics`` to be fresh."""

    def do_work(self) -> int:
        """Serve the implementation: returns how much was done (0: idle). Readable cursors are in ``ready``."""

    def ready(self) -> Iterable[Cursor]:
        """Cursors that may have something to read now (a hint: may name too many, never leaves one out for
        longer than one ``do_work``)."""

    def state(self) -> LogState: ...

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start: fetches (reads of the log, per partition see ``fetches``), undecodable, holes."""

    def close(self) -> None: ...
