"""Where refused packets go: to the dead-letter topic, or to the file when that topic refuses them, too."""

from __future__ import annotations

import time
from collections.abc import Callable

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile, DeadLettersFull, now_text
from trackside.data_plane.kafka_config import IDENTITY_HEADER
from trackside.data_plane.kafka_queue import Chunk, Headers, PartitionQueue, RecordProgress
from trackside.data_plane.worker import log_line

__all__ = ["Graveyard"]

STUCK_SECONDS = 10.0
"""A dead-letter topic that cannot be had for this long while the broker answers: the file takes the letter."""

RETRY_SECONDS = 1.0
"""After a failure of the file: the letter waits, and with it its topic, and nobody else."""

OnBuried = Callable[[PartitionQueue, DeadLetter], None]


class Graveyard:
    """``queue`` is the dead-letter topic's: the writer sends from it as from any other, one packet at a time.

    ``on_buried`` is called when a letter is safe in the topic or on the device.
    """

    def __init__(self, queue: PartitionQueue, file: DeadLetterFile, on_buried: OnBuried) -> None:
        self.queue = queue
        self.filed = 0
        self.given_up = 0
        self.file_failures = 0
        self._said = ""
        self._file = file
        self._on_buried = on_buried

    def bury(self, queue: PartitionQueue, reason: str) -> None:
        """Take the packet at the head of ``queue``, which must wait until ``on_buried`` says that it is safe."""
        letter = _letter(queue, reason)
        chunk = Chunk(_Burial(letter, queue, self._on_buried), [letter.value], [letter.key], [_headers(letter)], [0])
        if not self.queue.waiting:
            self.queue.progress_at = time.monotonic()
        self.queue.waiting.append(chunk)

    def file_head(self, why: str) -> bool:
        """The letter at the head goes to the file instead; blocks until the device has it. False: the disk does not
        take it now, and it has to be tried again. A letter that a full file does not take is given up."""
        burial = self.queue.waiting[0].owner
        assert isinstance(burial, _Burial)
        try:
            self._file.append([burial.letter])
        except DeadLettersFull as full:
            self.given_up += 1
            self._say("dead letter given up", topic=burial.letter.topic, reason=str(full))
        except OSError as error:
            self.file_failures += 1
            self.queue.retry_at = time.monotonic() + RETRY_SECONDS
            self._say("dead letter waits for its file", path=str(self._file.path), reason=str(error))
            return False
        else:
            self.filed += 1
            self._said = ""
            log_line("error", "kafka", "dead letter to file", path=str(self._file.path), reason=why)
        return True

    def _say(self, event: str, **fields: str) -> None:
        """Once, until something else happens: the count says how often."""
        if self._said != event:
            self._said = event
            log_line("error", "kafka", event, **fields)

    def statistics(self) -> dict[str, int]:
        return {
            "dead_letter_file": self.filed,
            "dead_letters_given_up": self.given_up,
            "dead_letter_file_failures": self.file_failures,
        }

    def stuck(self, now: float) -> bool:
        """Whether the letter at the head has waited long enough for its topic."""
        queue = self.queue
        waits = bool(queue.waiting) and not queue.sent and now >= queue.retry_at
        return waits and now - queue.progress_at > STUCK_SECONDS


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
