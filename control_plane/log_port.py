"""The log as the control plane uses it: through links of its own, never through a Kafka client.

The services are written against this port. In the control-plane process it is backed by rings to the producers and
consumers; the unit tests back it by a list in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from trackside.data_plane.log import LogState, Partition, Watermarks

__all__ = ["Append", "LogAway", "LogPort", "LoggedEntry", "LoggedRun"]


class LogAway(Exception):
    """The log did not answer within the bound; the text says which wait and why. Becomes UNAVAILABLE at a client."""


class Append(NamedTuple):
    """One packet to append. With ``essentials`` a copy goes to that topic's partition 0 first.

    ``data_source`` is whom the packet is about, for who counts.
    """

    partition: Partition
    key: bytes
    packet: bytes
    identity: bytes
    essentials: str = ""
    data_source: str = ""


class LoggedEntry(NamedTuple):
    """One entry of the log as a fold sees it; ``packet`` is the bytes of a decodable Packet."""

    offset: int
    time_ns: int
    key: bytes
    identity: bytes
    packet: bytes


class LoggedRun(NamedTuple):
    """All there is below ``next_offset`` and from where the run before it ended; perhaps no entry at all.

    ``restarted`` says that the log is another one (or was cut): what was folded before no longer holds. ``log`` is the
    identity of the log, b"" where it is not known.
    """

    next_offset: int
    entries: Sequence[LoggedEntry]
    restarted: bool = False
    log: bytes = b""


class LogPort(Protocol):
    async def append(self, data_source: str, appends: Sequence[Append], timeout: float) -> None:
        """Hand ``appends`` to the producer that owns ``data_source`` ("" for session info and status), in order.

        Returns when they are accepted: from then on they reach the log whatever dies. Raises LogAway when the log
        is known to be away or no room was found within ``timeout`` seconds; then nothing was appended.
        """

    async def append_again(self, topic: str, appends: Sequence[Append], timeout: float) -> dict[int, str] | None:
        """Hand packets that were refused to the producer that owns ``topic``, in order, and wait for the log.

        Returns the reasons of those that it refused again, by their places in ``appends``; None when all were accepted
        and the log has yet to take some. Raises LogAway as :meth:`append`, ValueError for more than a ring takes.
        """

    async def watermarks(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Watermarks]:
        """Watermarks now; (0, 0) for a partition that does not exist. Raises LogAway."""

    async def topics(self, data_source: str, timeout: float) -> Mapping[str, int]:
        """Existing topics that belong to ``data_source`` with their partition counts; at most a second old."""

    async def topics_now(self, data_source: str, timeout: float) -> Mapping[str, int]:
        """The same with every topic that exists at the call. It costs the log a question. Raises LogAway."""

    async def wait_logged_so_far(
        self, data_source: str, own_topics: Callable[[list[str]], list[str]], timeout: float
    ) -> list[str]:
        """Wait until everything that any peer had published for the producer of ``data_source`` when this was called is
        logged; of what is parked, ``own_topics`` says which concern the caller. Returns what the log lacks when the bound
        passed first: the topics that are parked still, or what the rings lead to."""

    def follow(self, partition: Partition, offset: int) -> AsyncGenerator[LoggedRun, None]:
        """Everything in ``partition`` from ``offset`` on, for ever, in offset order, each entry once, whatever dies
        but this process. A partition that does not exist yet is waited for. Ends when its iterator is closed."""

    def state(self) -> LogState: ...
