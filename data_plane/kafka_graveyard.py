"""Where refused packets go: to the dead-letter topic, or to the file when that topic refuses them, too."""

from __future__ import annotations

import time
from collections.abc import Callable

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile, now_text
from trackside.data_plane.kafka_config import IDENTITY_HEADER
from trackside.data_plane.kafka_queue import Chunk, Headers, PartitionQueue, RecordProgress
from trackside.data_plane.worker import log_line

__all__ = ["Graveyard"]

STUCK_SECONDS = 10.0
"""A dead-letter topic that cannot be had for this long while the broker answers: the file takes the letter."""

OnBuried = Callable[[PartitionQueue, DeadLetter], None]


class Graveyard:
    """``queue`` is the dead-letter topic's: the writer sends from it as from any other, one packet at a time.

    ``on_buried`` is called when a letter is safe in the topic or on the device.
    """

    def __init__(self, queue: PartitionQueue, file: DeadLetterFile, on_buried: OnBuried) -> None:
        self.queue = queue
        self.filed = 0
        self._file = file
        self._on_buried = on_buried

    def bury(self, queue: PartitionQueue, reason: str) -> None:
        """Take the packet at the head of ``queue``, which must wait until ``on_buried`` says that it is safe."""
        letter = _letter(queue, reason)
        chunk = Chunk(_Burial(letter, queue, self._on_buried), [letter.value], [letter.key], [_headers(letter)], [0])
        if not self.queue.waiting:
            self.queue.progress_at = time.monotonic()
        self.queue.waiting.append(chunk)

    def file_head(self, why: str) -> None:
        """The letter at the head goes to the file instead; blocks until the device has it."""
        burial = self.queue.waiting[0].owner
        assert isinstance(burial, _Burial)
        log_line("error", "kafka", "dead letter to file", path=str(self._file.path), reason=why)
        self._file.append(burial.letter)
        self.filed += 1

    def stuck(self, now: float) -> bool:
        """Whether the letter at the head has waited long enough for its topic."""
        queue = self.queue
        return bool(queue.waiting) and not queue.sent and now - queue.progress_at > STUCK_SECONDS


class _Burial:
    """Owner of a letter's chunk."""

    def __init__(self, letter: DeadLetter, queue: PartitionQueue, on_buried: OnBuried) -> None:
        self.letter = letter
        self._queue = queue
        self._on_buried = on_buried

    def on_split(self) -> None:
        raise AssertionError("a letter is one packet")

    def on_logged(self, chunk: Chunk) -> None:
        self._on_buried(self._queue, self.letter)


def _letter(queue: PartitionQueue, reason: str) -> DeadLetter:
    chunk, index = queue.waiting[0], queue.index
    progress = chunk.owner
    assert isinstance(progress, RecordProgress)
    return DeadLetter(
        time=now_text(),
        topic=queue.partition.topic,
        partition=queue.partition.number,
        reason=reason,
        key=chunk.keys[index],
        value=chunk.values[index],
        identity=dict(chunk.headers_of(index) or ()).get(IDENTITY_HEADER, b""),
        ring=progress.ring,
        end=progress.end,
        packet=chunk.indexes[index],
        other=chunk.other,
    )


def _headers(letter: DeadLetter) -> Headers:
    """What a reader of the dead-letter topic is told; key and value are the packet's own."""
    headers = [
        ("trackside-reason", letter.reason.encode()),
        ("trackside-topic", letter.topic.encode()),
        ("trackside-partition", str(letter.partition).encode()),
        ("trackside-other-topic", letter.other.encode()),
        (IDENTITY_HEADER, letter.identity),
    ]
    return [(name, value) for name, value in headers if value]
