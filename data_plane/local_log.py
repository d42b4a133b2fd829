"""The local log: segment files on disk, when no broker is configured.

Producers write (:class:`LocalLogWriter`), consumers read (:class:`~trackside.data_plane.local_reader.LocalLogReader`);
between them is nothing but the files and the table of published ends::

    records --append--> queue of a partition --do_work--> one writev a batch --> segment file --pread--> runs
                                                     |                                           ^
                                                     +---> table of published ends ---> how far --+

What is written is in the page cache and survives the death of every process; ``Sync`` says when it is on the device.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trackside.data_plane.batch_draft import Draft, Part, SplitRecord, split_record
from trackside.data_plane.data_dir import boot_id, claim_data_dir, partition_dir
from trackside.data_plane.device_sync import DeviceSync
from trackside.data_plane.ends_table import EndsWriter
from trackside.data_plane.forward_place import ForwardedFile
from trackside.data_plane.local_reader import LocalLogReader
from trackside.data_plane.log import LogState, Partition, Refusal, Wake
from trackside.data_plane.log_recovery import OnDisk
from trackside.data_plane.open_files import OpenFiles
from trackside.data_plane.partition_tail import UNSYNCED_ENTRIES_MAX, PartitionTail, TailPolicy
from trackside.data_plane.record import Record, Source
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line
from trackside.shm.segment import SegmentError

__all__ = ["OPEN_FILES_MAX", "LocalLogReader", "LocalLogWriter"]

OPEN_FILES_MAX = 512
PROBE_BYTES = 64 << 10
"""A disk that has no room for so much is full for all partitions, and not for one."""

RETRY_SECONDS = 0.25
"""How long a partition that could not be written rests: a full disk must not become a busy loop."""


@dataclass(eq=False)
class _Queue:
    """What waits for one partition. ``behind``: queues of essentials that must be empty before this one is written.
    ``all_parked``: all that waits is in the park. ``failing_since``: since when nothing of it could be written, 0.0 while
    the disk takes it."""

    partition: Partition
    waiting: list[Part] = field(default_factory=list)
    behind: dict[_Queue, None] = field(default_factory=dict)
    tail: PartitionTail | None = None
    retry_at: float = 0.0
    reason: str = ""
    failing_since: float = 0.0
    all_parked: bool = False

    def held(self) -> bool:
        """Whether essentials that belong before these entries are not in the log yet."""
        if not any(queue.waiting for queue in self.behind):
            self.behind.clear()
        return bool(self.behind)


class LocalLogWriter:
    """A :class:`~trackside.data_plane.log.LogWriter` over segment files. Each packet stands exactly once.

    ``table_path`` is this producer's table of published ends. ``live_rings``: prefixes of ring ids (instance GUIDs)
    from which records may still come; positions of other rings are forgotten when a partition begins a new segment.
    ``is_forwarded`` says whether Kafka has everything below an offset, too, where a forwarder copies this log there.
    ``on_published`` is called after new ends are visible, to ring the doorbells of who reads. ``wake`` is called,
    from a thread, when something was put on the device.

    Raises LogConfigurationError (DataDirTooNew, DataDirDamaged), OSError when the data directory cannot be used, and
    SegmentError when the table cannot be made. Afterwards a disk that fails or is full is a ``state`` and no
    exception; what was appended stays and is tried again.
    """

    def __init__(
        self,
        data_dir: Path,
        table_path: Path,
        *,
        settings: Settings,
        live_rings: Collection[str] | Callable[[], Collection[str]] | None = None,
        wake: Wake | None = None,
        on_published: Callable[[], None] = lambda: None,
        is_forwarded: Callable[[Partition, int], bool] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._identity = claim_data_dir(data_dir)
        self._table = EndsWriter(table_path)
        self._files = OpenFiles(OPEN_FILES_MAX, os.O_RDWR)
        self._settings = settings
        self._live_rings = live_rings
        self._on_published = on_published
        self._is_forwarded = is_forwarded
        self._held: set[PartitionTail] = set()  # that keep more than retention allows
        self._expire_held_at = 0.0
        self._now_ns = now_ns
        self._monotonic = monotonic
        self._policy = self._make_policy()
        self._queues: dict[Partition, _Queue] = {}
        self._essentials: dict[_Queue, None] = {}  # with something waiting that others are behind
        self._others: dict[_Queue, None] = {}  # all others with something waiting
        self._appended: dict[str, int] = {}
        self._parked: dict[int, int] = {}  # by number in the park: parts that wait
        self._parked_logged: list[int] = []
        self._rings_of_parks: set[str] = set()
        self._held_topics: frozenset[str] = frozenset()
        self._logged: dict[str, int] = {}
        self._unsynced: dict[PartitionTail, None] = {}
        self._device: DeviceSync[PartitionTail] = DeviceSync(wake)
        self._sync_at = monotonic() + settings.sync_interval_seconds
        self._sync_reason = ""
        self._counts = dict.fromkeys(_COUNTS, 0)

    # --- taking over

    def append(self, ring: str, end: int, record: Record, parked: Mapping[str, int] | None = None) -> None:
        before = self._appended.get(ring, 0)
        self._appended[ring] = end
        split = split_record(ring, before, end, record)
        self._take(split.parked_as(parked) if parked else split)

    def append_parked(self, ring: str, end: int, record: Record, parked: Mapping[str, int]) -> None:
        self._rings_of_parks.add(ring)
        self._take(split_record(ring, 0, end, record).parked_as(parked, only=True))

    def _take(self, split: SplitRecord) -> None:
        first = [self._queue(partition) for partition in split.essentials]
        for queue, part in zip(first, split.essentials.values(), strict=True):
            self._wait(queue, part)
            self._others.pop(queue, None)
            self._essentials[queue] = None
        for partition, part in split.own.items():
            queue = self._queue(partition)
            self._wait(queue, part)
            queue.behind.update(dict.fromkeys(first))
            if queue not in self._essentials:
                self._others[queue] = None

    def _wait(self, queue: _Queue, part: Part) -> None:
        queue.waiting.append(part)
        if part.parked:
            self._parked[part.parked] = self._parked.get(part.parked, 0) + 1
        else:
            queue.all_parked = False

    def _queue(self, partition: Partition) -> _Queue:
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = _Queue(partition)
        return queue

    # --- writing

    def do_work(self) -> int:
        entries = 0
        if self._essentials or self._others:
            now = self._monotonic()
            # Essentials first, in the log and to the eye: who sees a packet finds its essentials copy there already.
            entries = sum(self._write(queue, now, self._essentials) for queue in list(self._essentials))
            ready = [
                queue for queue in self._others if not queue.held() and queue.partition.topic not in self._held_topics
            ]
            entries += sum(self._write(queue, now, self._others) for queue in ready)
        self._account()
        if entries:
            self._on_published()
        if self._unsynced or self._device.started:
            self._sync_when_due()
        if self._held:
            self._expire_held()
        return entries

    def _write(self, queue: _Queue, now: float, group: dict[_Queue, None]) -> int:
        """Writes and publishes what waits in ``queue``, which leaves ``group`` when nothing waits any more."""
        if queue.retry_at > now:
            return 0
        entries = 0
        try:
            tail = queue.tail or self._open(queue)
            while queue.waiting:
                entries += self._write_batch(queue, tail)
            queue.reason, queue.failing_since = "", 0.0
            del group[queue]
        except (OSError, SegmentError) as error:
            self._counts["write_failures"] += 1
            queue.reason = self._reason(queue.partition, error)
            queue.retry_at = now + RETRY_SECONDS
            queue.failing_since = now if entries else queue.failing_since or now
        if queue.tail is not None and (entries or queue.reason):  # also when it failed: it may be what fills the disk
            if entries:
                queue.tail.publish()
            self._expire(queue.tail)
        return entries

    def _open(self, queue: _Queue) -> PartitionTail:
        place = OnDisk(partition_dir(self._data_dir, queue.partition), self._identity, queue.partition)
        queue.tail = tail = PartitionTail(place, self._policy, self._files, self._table)
        self._counts["torn_tails"] += tail.recovered.torn_tails
        self._counts["damaged"] += tail.recovered.damaged
        self._counts["gaps"] += tail.recovered.gaps
        return tail

    def _write_batch(self, queue: _Queue, tail: PartitionTail) -> int:
        """One batch of what waits; returns its entries, 0 when the log has all that waits already. Raises OSError."""
        draft = Draft()
        taken, repeats = draft.fill(queue.waiting, tail.rings)
        if draft.values:
            self._counts["bytes"] += tail.append(draft, self._now_ns())
            self._counts["batches"] += 1
            self._counts["appended"] += len(draft.values)
            if not self._policy.sync_each:
                self._unsynced[tail] = None
                if tail.unsynced_entries > UNSYNCED_ENTRIES_MAX:
                    self._sync_at = 0.0  # out of turn
        self._counts["repeats"] += repeats
        if self._parked:
            self._note_logged(queue.waiting[:taken])
        del queue.waiting[:taken]
        return len(draft.values)

    def _expire(self, tail: PartitionTail) -> None:
        try:
            self._counts["segments_expired"] += tail.expire()
        except OSError:
            self._counts["expire_failures"] += 1  # the segment stays; the next batch tries again
        if tail.retention_held != (tail in self._held):
            self._on_held(tail)

    def _expire_held(self) -> None:
        """Also of partitions that nobody writes to, or can write to: on a full disk this is what makes room."""
        now = self._monotonic()
        if now < self._expire_held_at:
            return
        self._expire_held_at = now + RETRY_SECONDS
        for tail in list(self._held):
            self._expire(tail)

    def _on_held(self, tail: PartitionTail) -> None:
        (self._held.add if tail.retention_held else self._held.discard)(tail)
        event = "retention waits for the forwarder" if tail.retention_held else "retention goes on"
        log_line(
            "warn" if tail.retention_held else "info", "local log", event, topic=tail.topic, earliest=tail.earliest
        )

    def _account(self) -> None:
        """Moves ``logged`` of each ring to the end of its last record before the first that still waits."""
        held: dict[str, int] = {}
        for queue in (*self._essentials, *self._others):
            for part in () if queue.all_parked else queue.waiting:
                if not part.parked:
                    held[part.ring] = min(part.before, held.get(part.ring, part.before))
        self._logged.update(self._appended if not held else self._appended | held)

    def _reason(self, partition: Partition, error: Exception) -> str:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"the local log in {self._data_dir} cannot write {partition.topic}/{partition.number}: {what}"

    # --- parking

    def overdue(self, seconds: float) -> set[str]:
        before = self._monotonic() - seconds
        failing = {q for q in (*self._essentials, *self._others) if q.waiting and 0.0 < q.failing_since < before}
        held = {q for q in self._others if not failing.isdisjoint(q.behind)} if failing else set()
        return {queue.partition.topic for queue in failing | held}

    def unlogged(self, topics: Collection[str]) -> dict[Source, set[str]]:
        found: dict[Source, set[str]] = {}
        for queue in self._waiting_for(topics):
            for part in queue.waiting:
                if not part.parked:
                    found.setdefault(Source(part.ring, part.end), set()).add(queue.partition.topic)
        return found

    def _waiting_for(self, topics: Collection[str]) -> list[_Queue]:
        return [queue for queue in (*self._essentials, *self._others) if queue.partition.topic in topics]

    def park(self, numbers: Mapping[Source, Mapping[str, int]]) -> None:
        for queue in self._waiting_for({topic for parked in numbers.values() for topic in parked}):
            topic = queue.partition.topic
            waiting, queue.waiting, queue.all_parked = queue.waiting, [], True
            for part in waiting:
                number = 0 if part.parked else numbers.get(Source(part.ring, part.end), {}).get(topic, 0)
                if number:
                    self._wait(queue, part._replace(parked=number))
                else:
                    queue.waiting.append(part)
                    queue.all_parked = queue.all_parked and part.parked != 0
        self._account()

    def _note_logged(self, parts: list[Part]) -> None:
        for part in parts:
            if not part.parked:
                continue
            self._parked[part.parked] -= 1
            if not self._parked[part.parked]:
                del self._parked[part.parked]
                self._parked_logged.append(part.parked)

    def parked_logged(self) -> list[int]:
        logged, self._parked_logged = self._parked_logged, []
        return logged

    def hold(self, topics: Collection[str]) -> None:
        self._held_topics = frozenset(topics)

    # --- syncing

    def _sync_when_due(self) -> None:
        """Never waits for the device, unless more is unsynced than a reboot may lose."""
        if self._device.running:
            if self._sync_at > 0.0:
                return
            self._device.wait()
        if self._device.started:
            self._after_round()
        now = self._monotonic()
        if self._unsynced and now >= self._sync_at:
            work = {tail: tail.take_unsynced() for tail in self._unsynced}
            self._unsynced.clear()
            self._sync_at = now + self._settings.sync_interval_seconds
            self._device.start(work)
            if not self._device.running:
                self._after_round()

    def _after_round(self) -> None:
        """A failure is a reason, and tried again."""
        self._sync_reason = ""
        for tail, (unsynced, error) in self._device.take_result().items():
            tail.put_back(unsynced)
            self._unsynced[tail] = None
            self._counts["sync_failures"] += 1
            self._sync_reason = f"the local log in {self._data_dir} cannot be put on its device: {error.strerror}"
        self._counts["syncs"] += 1

    def _sync_all(self) -> None:
        """Puts on the device what is not there yet; blocks on it."""
        for _ in range(2):  # the round that is under way, and one with what came since
            self._device.wait()
            if self._device.started:
                self._after_round()
            if self._unsynced:
                self._sync_at = 0.0
                self._sync_when_due()
        self._device.wait()
        if self._device.started:
            self._after_round()

    # --- what it says

    def logged(self, ring: str) -> int:
        return self._logged.get(ring, 0)

    def refusals(self) -> list[Refusal]:
        """Never any: what passed the door fits into a segment."""
        return []

    def state(self) -> LogState:
        for queue in (*self._essentials, *self._others):
            if queue.reason:
                return LogState(False, queue.reason)
        return LogState(not self._sync_reason, self._sync_reason)

    def answers(self) -> bool:
        """Where a partition fails, a file of another name tells whether it is alone with that."""
        if not any(queue.reason for queue in (*self._essentials, *self._others)):
            return True
        folder = self._data_dir / "log"
        try:
            with tempfile.TemporaryFile(dir=folder if folder.exists() else self._data_dir, buffering=0) as probe:
                return os.pwritev(probe.fileno(), (bytes(PROBE_BYTES),), 0) == PROBE_BYTES
        except OSError:
            return False

    def value_bytes_max(self) -> int:
        return self._settings.max_packet_bytes

    def statistics(self) -> Mapping[str, int]:
        """Counts since the start; ``partitions``, ``open_files`` and ``retention_held`` are as of now."""
        return self._counts | {
            "partitions": len(self._queues),
            "open_files": len(self._files),
            "retention_held": len(self._held),
        }

    def close(self, timeout_seconds: float) -> bool:
        deadline = self._monotonic() + timeout_seconds
        self.do_work()
        while (self._essentials or self._others) and self._monotonic() < deadline:
            time.sleep(0.01)
            self.do_work()
        self._sync_all()
        self._files.close()
        self._table.close()
        return not (self._essentials or self._others or self._unsynced)

    # --- policy

    def _make_policy(self) -> TailPolicy:
        return TailPolicy(
            boot=boot_id(),
            segment_bytes=self._settings.segment_bytes,
            retention_bytes=self._settings.retention_bytes,
            retention_ns=int(self._settings.retention_seconds * 1e9),
            sync_each=self._settings.sync == "Each",
            keep_ring=self._is_live,
            is_forwarded=self._is_forwarded,
            forwarded=ForwardedFile(self._data_dir, self._identity).partitions.keys(),
        )

    def _is_live(self, ring: str) -> bool:
        live = self._live_rings() if callable(self._live_rings) else self._live_rings
        known = ring in self._appended or ring in self._rings_of_parks
        return live is None or known or ring.startswith(tuple(live))


_COUNTS = (
    "appended",
    "bytes",
    "batches",
    "repeats",
    "refused",
    "torn_tails",
    "damaged",
    "gaps",
    "segments_expired",
    "expire_failures",
    "syncs",
    "sync_failures",
    "write_failures",
)
