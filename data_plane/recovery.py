"""The recovery process: start-up recovers before it cleans.

Owns everything for a moment. It takes what dead instances of this server left, oldest instance first: what was parked,
then what is in the write rings, from ``commit`` to ``publish``, merged by publish time as a producer would, whatever
numbers of gateways and producers there were. It logs it, and only then lets the files go. Killed at any point it is
simply run again: commit moves behind the log, and the log recognises what it has.

As a producer does, it parks topics that are blocked: what is left then is the parks, which go to the producers of the new
instance (``park_recovery.py``). So one blocked topic does not keep the server from serving. A log that is away does.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from trackside.data_plane import metrics
from trackside.data_plane.link import PACKETS
from trackside.data_plane.log import LogWriter
from trackside.data_plane.log_backend import open_writer
from trackside.data_plane.park_recovery import StaleParks, discard, hand_over, is_handed_over
from trackside.data_plane.parking import Parking, Unlogged
from trackside.data_plane.poison import NOTHING, Taking, one_by_one
from trackside.data_plane.record import decode_record
from trackside.data_plane.routing import Routing
from trackside.data_plane.worker import Worker
from trackside.shm.liveness import WorkerState
from trackside.shm.ring import RingReader, RingRecord

__all__ = ["Recovery", "recover", "run", "write_rings_of"]

PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.1
SAY_SECONDS = 5.0


def write_rings_of(instance: Path, producer: str = "producer-*") -> list[Path]:
    """The down rings that lead to producers, or to one of them: what lies in them was accepted."""
    return sorted((instance / "links").glob(f"*.{producer}.down.ring"))


class _StaleRing:
    """One ring of a dead instance, and what of it was appended and is not committed."""

    def __init__(self, path: Path) -> None:
        self.reader = RingReader(path)
        self.id = self.reader.ring_id
        self.unlogged: deque[Unlogged] = deque()

    @property
    def is_committed(self) -> bool:
        return self.reader.commit_position == self.reader.publish_position()


class Recovery:
    """Logs or parks what stale instances had accepted. All verbs block until that is done, or the worker is told to stop.

    They raise RingCorrupt, ParkDamaged: then the files stay for a human to look at.
    """

    def __init__(self, worker: Worker, log: LogWriter, monotonic: Callable[[], float] = time.monotonic) -> None:
        settings = worker.spec.settings
        self._worker = worker
        self._log = log
        self._monotonic = monotonic
        self._count = metrics.producer_counters(worker.counters)
        self._routing = Routing(settings)
        self._producers = settings.producers
        self._after_seconds = settings.park_after_seconds
        self._parks = StaleParks()
        self._parking = Parking(
            self._parks,
            log,
            self._backlog,
            after_seconds=settings.park_after_seconds,
            essentials_of=self._routing.essentials_topic,
            say=worker.log,
        )
        self._rings: list[_StaleRing] = []
        self._recovered: list[Path] = []  # of which something is parked
        self._numbers = itertools.count()
        self._answers_since: float | None = None
        self._no_room = ""
        self._look_at = self._said_at = monotonic()

    def _backlog(self) -> Iterator[tuple[str, Unlogged]]:
        return ((ring.id, found) for ring in self._rings for found in ring.unlogged)

    # -- one instance after the other ---------------------------------------------------------------------------------

    def recover(self, instance: Path) -> int:
        """Everything that ``instance`` had accepted is logged or parked. Returns how many packets there were."""
        self._parks.open(instance)
        packets = self._parking.take_over()
        self._rings = [_StaleRing(path) for path in write_rings_of(instance)]
        readers = [ring.reader for ring in self._rings]
        taking = one_by_one(self._worker, readers, self._log.logged, self._on_quarantined)
        while not self._worker.stopping:
            packets += (taken := self._take(taking))
            done = self._work() + taken
            if all(ring.is_committed for ring in self._rings):
                break
            self._pause(done)
        for ring in self._rings:
            ring.reader.close()
        self._rings = []
        self._recovered.append(instance)
        if self._parking.empty and not self._worker.stopping:
            self._discard()
        return packets

    def _take(self, taking: Taking) -> int:
        packets, now = 0, time.monotonic_ns()
        for index, found in taking.take():
            ring = self._rings[index]
            if found.kind != PACKETS:
                raise ValueError(f"ring {ring.id}: kind {found.kind} at position {found.position}")
            record = decode_record(found.body)
            if len(record.counts) != len(record.routes):  # of a version before that did not count
                record.count()
            stamp_ns = min(found.stamp_ns, now)  # of another boot of this machine it may lie ahead
            parked = self._parking.claim(ring.id, found.end, stamp_ns, record) if self._parking.topics else None
            self._log.append(ring.id, found.end, record, parked)
            ring.unlogged.append(Unlogged(found.end, stamp_ns, record, next(self._numbers)))
            packets += found.count
        return packets

    def _on_quarantined(self, index: int, found: RingRecord, _record: object, _reason: str) -> None:
        self._count.quarantined.add(1)
        self._log.append(self._rings[index].id, found.end, NOTHING)

    # -- a round ------------------------------------------------------------------------------------------------------

    def _work(self) -> int:
        done = self._log.do_work()
        self._worker.beat()
        self._say_state()
        for refusal in self._log.refusals():
            self._count.refused.add(1)
            self._worker.log("error", "dead letter", topic=refusal.partition.topic, reason=refusal.reason)
        self._parking.settle()
        self._look()
        self._commit()
        return done

    def _look(self) -> None:
        """Park only what is blocked while the log has been taking others for as long as that needs: with the log away
        everything waits, and nothing is parked for that."""
        now = self._monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        if not self._log.answers():
            self._answers_since = None
        elif self._answers_since is None:
            self._answers_since = now
        if self._is_settled():
            self._parking.look()

    def _is_settled(self) -> bool:
        """Whether what the log has not taken by now is blocked."""
        since = self._answers_since
        return since is not None and self._monotonic() - since >= self._after_seconds

    def _commit(self) -> None:
        """Behind the log, or the park, which is as safe as the ring before commit moves."""
        positions = [
            (ring, self._parking.committable(ring.id, self._log.logged(ring.id), ring.unlogged)) for ring in self._rings
        ]
        moved = [(ring, position) for ring, position in positions if position > ring.reader.commit_position]
        if moved:
            self._parks.sync()
        for ring, position in moved:
            while ring.unlogged and ring.unlogged[0].end <= position:
                self._parking.claimed(ring.id, ring.unlogged.popleft().end)
            ring.reader.commit(position)

    def _say_state(self) -> None:
        """The server says NOT_SERVING and this, for as long as it takes."""
        full = f"no room to park more in the run directory; {self._parking.summary()}" if self._parking.full else ""
        reason = self._log.state().reason or self._no_room or full
        self._worker.become(WorkerState.RECOVERING, reason)
        if self._monotonic() - self._said_at > SAY_SECONDS:
            self._said_at = self._monotonic()
            self._worker.log("warn", "recovery waits for the log", reason=reason or "working")

    def _pause(self, done: int) -> None:
        if not done:
            time.sleep(PAUSE_SECONDS)

    # -- what is parked at the end ------------------------------------------------------------------------------------

    def finish(self, instance: Path) -> bool:
        """Log what is parked, or hand it over to the producers of ``instance``, which is new, when its topics are still
        blocked; then the stale instances go. Returns whether something was handed over."""
        while not self._worker.stopping:
            done = self._work()
            handed_over = self._is_settled() and not self._parking.empty and self._hand_over(instance)
            if handed_over or self._parking.empty:
                self._discard()
                return handed_over
            self._pause(done)
        return False

    def _discard(self) -> None:
        self._parks.close()
        discard(self._recovered)
        self._recovered.clear()

    def _hand_over(self, instance: Path) -> bool:
        if not hand_over(self._parking.entries(), instance, lambda topic: self._routing.owner(topic, self._producers)):
            self._no_room = f"no room for a copy in the run directory; {self._parking.summary()}"
            return False
        self._worker.log("info", "parked topics handed over", what=self._parking.summary())
        return True


def run(worker: Worker) -> None:
    """Recover all stale instances, then remove them. Ends early, with what is left kept, when told to stop."""
    worker.become(WorkerState.RECOVERING)
    recover(worker, lambda: open_writer(worker))


def recover(worker: Worker, open_log: Callable[[], LogWriter], monotonic: Callable[[], float] = time.monotonic) -> None:
    """As :func:`run`, with a log and a clock of the caller's."""
    stale = [folder for folder in map(Path, worker.spec.stale_instances) if folder.exists()]
    if is_handed_over(Path(worker.spec.instance)):
        discard(stale)
        return
    log = open_log()
    closing_seconds = 1.0
    try:
        if _recover(Recovery(worker, log, monotonic), worker, stale):
            closing_seconds = 0.0  # what waits in it is the producers' to log
    finally:
        log.close(closing_seconds)


def _recover(recovery: Recovery, worker: Worker, stale: list[Path]) -> bool:
    """Whether something is left to the producers."""
    for instance in stale:
        packets = recovery.recover(instance)
        if worker.stopping:
            return False
        worker.log("info", "recovered", instance=instance.name, packets=packets)
        worker.counters.counter(metrics.RECOVERED_INSTANCES).add(1)
        worker.counters.counter(metrics.RECOVERED_PACKETS).add(packets)
    return recovery.finish(Path(worker.spec.instance))
