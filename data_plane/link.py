"""The pair of rings between a peer and a log worker, and what may be said in them.

::

    peer (gateway, control plane)          log worker (producer, consumer)
      RingWriter  ---- down: records, requests ---->  RingReader
      RingReader  <--- up: frames, answers, news ---  RingWriter

Each kind of message is one struct, MessagePack on the ring. What counts is absolute ("up to offset p"), never a
difference, so a lost or repeated message is mended by the next. Requests carry the peer's epoch, reader and request
numbers in their upper half: what was said to or by a predecessor is recognised and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from trackside.data_plane.log import Partition
from trackside.data_plane.spec import LinkSpec, WorkerSpec
from trackside.shm.liveness import Doorbell, Liveness
from trackside.shm.ring import RingReader, RingRecord, RingWriter

__all__ = [
    "FRAME",
    "PACKETS",
    "PARKED_STILL",
    "Commit",
    "CommitAnswer",
    "FilterSpec",
    "ForgetFilter",
    "Leave",
    "Limits",
    "Mark",
    "Parks",
    "PeerLink",
    "PeerSet",
    "ProgressAnswer",
    "ProgressRequest",
    "Refused",
    "Slice",
    "SliceEnd",
    "Topics",
    "TopicsAnswer",
    "TopicsRequest",
    "Watch",
    "WatermarksAnswer",
    "WatermarksRequest",
    "decode_message",
    "encode_message",
    "epoch_of",
    "number_of",
]

PACKETS = 1
"""Kind of a record (``record.py``), peer to producer."""

FRAME = 30
"""Kind of a frame (``frame.py``), consumer to peer."""


class Slice(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: send ``reader`` the next slice of a partition from ``offset`` on (END: nothing of the past).

    The reader leaves the live feed of that partition until the slice's end says that it has joined it again.
    """

    reader: int
    topic: str
    number: int
    label: str  # the stream that responses name
    offset: int
    filter: int | None

    @property
    def partition(self) -> Partition:
        return Partition(self.topic, self.number)


class Leave(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: ``reader`` wants no more of this partition."""

    reader: int
    topic: str
    number: int

    @property
    def partition(self) -> Partition:
        return Partition(self.topic, self.number)


class FilterSpec(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: what filter ``number`` means. Said before its first use, and again to a successor.

    ``epoch`` is the peer's.
    """

    number: int
    epoch: int
    data_source: str
    include_parameters: list[str]
    exclude_parameters: list[str]
    include_events: list[str]
    exclude_events: list[str]
    include_markers: bool


class ForgetFilter(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: the last reader with filter ``number`` has gone, and has taken back all that it asked for."""

    number: int
    epoch: int


class WatermarksRequest(msgspec.Struct, array_like=True, frozen=True):
    request: int
    partitions: list[tuple[str, int]]


class TopicsRequest(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: which topics of this data source exist from now on? What was told to who watches may be older."""

    request: int
    data_source: str


class Watch(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: tell me the topics of this data source now and whenever they change (``on``), or no more."""

    data_source: str
    on: bool
    epoch: int


class ProgressRequest(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: how far has a consumer group come in these partitions?"""

    request: int
    group: str
    partitions: list[tuple[str, int]]


class Commit(msgspec.Struct, array_like=True, frozen=True):
    """Peer to consumer: keep that a consumer group has come so far: (topic, partition, identity of the log, offset).

    True whoever said it: of a predecessor it is taken, too, though nobody waits for the answer.
    """

    request: int
    group: str
    progress: list[tuple[str, int, bytes, int]]


class SliceEnd(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: the slice went up to ``next_offset``; ``live`` says that the reader has joined the live feed."""

    reader: int
    topic: str
    number: int
    next_offset: int
    live: bool

    @property
    def partition(self) -> Partition:
        return Partition(self.topic, self.number)


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: live frames up to ``end`` found no room; whoever needs them asks for a slice."""

    topic: str
    number: int
    label: str
    end: int

    @property
    def partition(self) -> Partition:
        return Partition(self.topic, self.number)


class WatermarksAnswer(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: (earliest, end) for each partition asked; None: the log did not answer."""

    request: int
    values: list[tuple[int, int]] | None


class ProgressAnswer(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: the group's next offset in each partition asked, None where it has not been; all None: the log
    did not answer."""

    request: int
    offsets: list[int | None] | None


class CommitAnswer(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: whether the log has kept it."""

    request: int
    kept: bool


class Topics(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: all existing topics of a data source with their partition counts.

    Of many they are a part; those of the parts since the last ``last`` are all.
    """

    data_source: str
    topics: dict[str, int]
    last: bool


class TopicsAnswer(msgspec.Struct, array_like=True, frozen=True):
    """Consumer to peer: topics and partition counts, in parts of a size that every ring takes; None: the log did not
    answer. The request is answered with the last part."""

    request: int
    topics: dict[str, int] | None
    last: bool = True


class Refused(msgspec.Struct, array_like=True, frozen=True):
    """Producer to peer: one packet of the record that ended at ``end`` is a dead letter."""

    end: int
    packet: int
    topic: str
    number: int
    reason: str


class Limits(msgspec.Struct, array_like=True, frozen=True):
    """Producer to peer: the largest packet that the log takes now."""

    value_bytes_max: int


PARKED_STILL = (1 << 63) - 1
"""Of a topic whose packets go on being parked."""


class Parks(msgspec.Struct, array_like=True, frozen=True):
    """Producer to peer: all topics that are parked now, as (topic, logged, parked).

    In the records of this ring that end at or below ``logged`` the log has all packets of the topic; those that end
    above that and at or below ``parked`` are safe in the park when ``commit`` has passed them, and not in the log.
    ``closed``: those that have used up their share of a park that is full; their writers must wait.
    """

    topics: list[tuple[str, int, int]]
    closed: list[str] = []


Message = (
    Slice
    | Leave
    | FilterSpec
    | ForgetFilter
    | WatermarksRequest
    | TopicsRequest
    | Watch
    | ProgressRequest
    | Commit
    | SliceEnd
    | Mark
    | WatermarksAnswer
    | Topics
    | TopicsAnswer
    | ProgressAnswer
    | CommitAnswer
    | Refused
    | Limits
    | Parks
)

_KINDS: dict[type, int] = {
    Slice: 10,
    Leave: 11,
    FilterSpec: 12,
    WatermarksRequest: 13,
    Watch: 14,
    ForgetFilter: 15,
    TopicsRequest: 16,
    ProgressRequest: 17,
    Commit: 18,
    Refused: 20,
    Limits: 21,
    Parks: 22,
    Mark: 31,
    SliceEnd: 32,
    WatermarksAnswer: 33,
    Topics: 34,
    TopicsAnswer: 35,
    ProgressAnswer: 36,
    CommitAnswer: 37,
}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Message]] = {
    kind: msgspec.msgpack.Decoder(message) for message, kind in _KINDS.items()
}
_encoder = msgspec.msgpack.Encoder()


def encode_message(message: Message) -> tuple[int, int, bytes]:
    """(kind, count, body) as a ring takes it."""
    return _KINDS[type(message)], 1, _encoder.encode(message)


def decode_message(kind: int, body: bytes) -> Message:
    """Raises msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError or KeyError (a kind of a newer version)."""
    message: Message = _DECODERS[kind].decode(body)
    return message


def number_of(epoch: int, count: int) -> int:
    """A reader's or request's number: the peer's epoch in the upper half."""
    return epoch << 32 | count & 0xFFFFFFFF


def epoch_of(number: int) -> int:
    return number >> 32


class PeerLink:
    """A log worker's end of one link: takes what the peer published, answers without ever waiting for it."""

    def __init__(self, link: LinkSpec, liveness: Liveness, doorbell: Doorbell) -> None:
        self.peer = link.peer
        self.liveness = liveness
        self.doorbell = doorbell
        self.down = RingReader(link.down)
        self.up = RingWriter(link.up)
        self._wants_room = False

    @property
    def epoch(self) -> int:
        return self.liveness.epoch

    def try_send(self, messages: list[tuple[int, int, bytes]]) -> bool:
        """Publish all or nothing into the up ring; False when there is no room: the peer rings when there is more."""
        if self.up.try_publish(messages) is None:
            self.up.wait_for_commit(self.up.commit_position + 1)
            self._wants_room = True
            return False
        if self._wants_room:
            self.up.wait_for_commit(0)
            self._wants_room = False
        self.doorbell.ring_if_asleep()
        return True

    def commit(self, position: int) -> None:
        """Let the peer overwrite what lies below ``position``, and wake it when it waits for that."""
        if self.down.commit(position):
            self.doorbell.ring()

    def take(self, until: int | None = None) -> list[RingRecord]:
        return self.down.poll(until)


class PeerSet:
    """All links of one log worker, by the peer's name."""

    def __init__(self, spec: WorkerSpec, attach: Callable[[str], tuple[Liveness, Doorbell]]) -> None:
        self.links = [PeerLink(link, *attach(link.peer)) for link in spec.links]

    def __iter__(self) -> Iterator[PeerLink]:
        return iter(self.links)
