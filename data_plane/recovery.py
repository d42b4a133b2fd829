"""The recovery process: start-up recovers before it cleans.

Owns everything for a moment. It takes what dead instances of this server left, oldest instance first: what was parked,
then what is in the write rings, from ``commit`` to ``publish``, merged by publish time as a producer would, whatever
numbers of gateways and producers there were. It logs it, and only then lets the files go. Killed at any point it is
simply run again: commit moves behind the log, and the log recognises what it has.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from trackside.data_plane import metrics
from trackside.data_plane.link import PACKETS
from trackside.data_plane.log import LogWriter
from trackside.data_plane.log_backend import open_writer
from trackside.data_plane.park_recovery import StaleParks
from trackside.data_plane.poison import NOTHING, one_by_one
from trackside.data_plane.record import decode_record
from trackside.data_plane.worker import Worker
from trackside.shm.liveness import WorkerState
from trackside.shm.ring import RingReader, RingRecord

__all__ = ["recover_instance", "run", "write_rings_of"]

LOOK_SECONDS = 0.02
SAY_SECONDS = 5.0


def write_rings_of(instance: Path, producer: str = "producer-*") -> list[Path]:
    """The down rings that lead to producers, or to one of them: what lies in them was accepted."""
    return sorted((instance / "links").glob(f"*.{producer}.down.ring"))


def recover_instance(worker: Worker, log: LogWriter, instance: Path) -> int:
    """Log everything that ``instance`` had accepted. Blocks until the log has it, or the worker is told to stop.

    Returns how many packets there were. Raises RingCorrupt, ParkDamaged: then the files stay for a human to look at.
    """
    parks = StaleParks(instance, log)
    rings = [RingReader(path) for path in write_rings_of(instance)]
    count = metrics.producer_counters(worker.counters)

    def on_quarantined(index: int, found: RingRecord, _record: object, _reason: str) -> None:
        count.quarantined.add(1)
        log.append(rings[index].ring_id, found.end, NOTHING)

    taking = one_by_one(worker, rings, log.logged, on_quarantined)

    def take() -> int:
        due = taking.take()
        for index, found in due:
            if found.kind != PACKETS:
                raise ValueError(f"ring {rings[index].ring_id}: kind {found.kind} at position {found.position}")
            ring, record = rings[index].ring_id, decode_record(found.body)
            log.append(ring, found.end, record, parks.parked(ring, found.end, record))
        return sum(found.count for _, found in due)

    packets = _wait_logged(worker, log, parks, rings, count, take)
    for reader in rings:
        reader.close()
    parks.close()
    return packets + parks.packets


def _wait_logged(
    worker: Worker,
    log: LogWriter,
    parks: StaleParks,
    rings: list[RingReader],
    count: metrics.ProducerCounters,
    take: Callable[[], int],
) -> int:
    """As long as it takes: the server says NOT_SERVING and why, and keeps the old rings untouched meanwhile.

    Returns how many packets there were; all of them are taken at once, or one record at a time (``poison.py``).
    """
    said_at = time.monotonic()
    packets = 0
    while not worker.stopping:
        packets += (taken := take())
        done = log.do_work() + taken
        worker.beat()
        state = log.state()
        worker.become(WorkerState.RECOVERING, state.reason)
        for refusal in log.refusals():
            count.refused.add(1)
            worker.log("error", "dead letter", topic=refusal.partition.topic, reason=refusal.reason)
        parks.settle()
        for ring in rings:
            ring.commit(max(ring.commit_position, log.logged(ring.ring_id)))
        if parks.empty and all(ring.commit_position == ring.publish_position() for ring in rings):
            break
        if time.monotonic() - said_at > SAY_SECONDS:
            said_at = time.monotonic()
            worker.log("warn", "recovery waits for the log", reason=state.reason or "working")
        if not done:
            time.sleep(LOOK_SECONDS)
    return packets


def run(worker: Worker) -> None:
    """Recover all stale instances, then remove them. Ends early, with the rings kept, when told to stop."""
    worker.become(WorkerState.RECOVERING)
    log = open_writer(worker)
    try:
        for instance in map(Path, worker.spec.stale_instances):
            packets = recover_instance(worker, log, instance)
            if worker.stopping:
                return
            worker.log("info", "recovered", instance=instance.name, packets=packets)
            worker.counters.counter(metrics.RECOVERED_INSTANCES).add(1)
            worker.counters.counter(metrics.RECOVERED_PACKETS).add(packets)
            shutil.rmtree(instance)
    finally:
        log.close(timeout_seconds=1.0)
