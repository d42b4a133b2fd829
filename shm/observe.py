"""A server seen from outside: its run directory as one snapshot, whoever lives or is dead.

The supervisor writes ``server.json`` (processes, links, ports, state) and replaces it when something changes;
everything else is read from the segments that it names. Nothing is stored, nobody is asked, nothing waits. A
snapshot is not taken at one instant: its numbers are microseconds apart, and each is true at some moment.

``server.json`` stays when the server is gone, and says then what the supervisor said last; :attr:`Server.alive` and
:attr:`Process.alive` are about now.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trackside.shm.counters import BUCKET, read_counters
from trackside.shm.liveness import Liveness
from trackside.shm.ring import RingView
from trackside.shm.segment import SegmentError

__all__ = ["CounterValue", "Flow", "NothingToObserve", "Process", "Ring", "Server", "flows", "observe", "process_lives"]


class NothingToObserve(Exception):
    """The directory is not the run directory of a server that ever started; one line for an operator."""


class CounterValue(NamedTuple):
    name: str
    labels: dict[str, str]
    value: int


class Process(NamedTuple):
    """One process slot. Times are nanoseconds; ``work_ns`` and ``idle_ns`` only grow within one incarnation.

    ``state`` is what the process said of itself, in lower case, or "dead" when it is gone without having stopped.
    ``heartbeat_age_ns`` is None before the first one, ``last_exit`` when none was before this incarnation.
    ``note`` says why a segment could not be read; then the numbers are 0.
    """

    name: str
    role: str
    pid: int
    alive: bool
    cores: list[int]
    state: str
    epoch: int
    restarts: int
    last_exit: int | None
    heartbeat_age_ns: int | None
    work_ns: int
    idle_ns: int
    reason: str
    last_words: str
    counters: list[CounterValue]
    note: str = ""


class Ring(NamedTuple):
    """One direction of a link. commit <= read <= publish <= commit + capacity; positions and sizes in bytes.

    ``held_back_bytes`` were taken by the reader but must still be kept; ``oldest_age_ns`` is the age of the oldest
    record that is not committed, 0 when there is none. ``records``, ``packets`` and ``bytes`` only grow.
    """

    name: str
    peer: str
    worker: str
    direction: str
    capacity_bytes: int
    publish: int
    read: int
    commit: int
    oldest_age_ns: int
    records: int
    packets: int
    bytes: int
    full: int
    suspect: bool
    note: str = ""

    @property
    def used_bytes(self) -> int:
        return max(self.publish - self.commit, 0)

    @property
    def held_back_bytes(self) -> int:
        return max(self.read - self.commit, 0)

    @property
    def fill(self) -> float:
        """0 to 1."""
        return self.used_bytes / self.capacity_bytes if self.capacity_bytes else 0.0


class Server(NamedTuple):
    """All of one server. ``state`` is what the supervisor said last, or "DEAD" when it is gone without having stopped.

    ``ended`` are processes that had one thing to do and have done it: nobody misses them, but what they counted counts.
    """

    taken_ns: int
    run_dir: str
    instance: str
    pid: int
    alive: bool
    state: str
    reason: str
    port: int
    key_port: int
    log: str
    processes: list[Process]
    rings: list[Ring]
    status_port: int = 0
    ended: tuple[Process, ...] = ()

    def process(self, name: str) -> Process | None:
        return next((process for process in self.processes if process.name == name), None)


class Flow(NamedTuple):
    """What happened between two snapshots, by name of process or ring. Rates are per second.

    ``busy`` is the share of time that a process worked, for those that account for it. ``counters`` are by metric, over
    all its labels.
    """

    seconds: float
    busy: dict[str, float]
    packets: dict[str, float]
    bytes: dict[str, float]
    counters: dict[tuple[str, str], float]


def observe(run_dir: str | os.PathLike[str], *, counters: bool = True) -> Server:
    """One snapshot. Counters cost milliseconds, the rest a fraction of one. Raises NothingToObserve."""
    described = _described(Path(run_dir))
    try:
        return _server(str(run_dir), described, counters)
    except (KeyError, TypeError, ValueError) as error:
        raise NothingToObserve(f"{run_dir}/server.json is not understood: {error!r}") from None


def flows(before: Server, after: Server) -> Flow:
    """Rates between two snapshots of the same instance; of another one, or a process that began anew, nothing."""
    seconds = (after.taken_ns - before.taken_ns) / 1e9
    flow = Flow(seconds, {}, {}, {}, {})
    if seconds <= 0 or before.instance != after.instance:
        return flow
    old_processes = {process.name: process for process in (*before.processes, *before.ended)}
    for process in (*after.processes, *after.ended):
        old = old_processes.get(process.name)
        if old is not None:
            _add_process(flow, old, process)
    old_rings = {ring.name: ring for ring in before.rings}
    for ring in after.rings:
        if ring.name in old_rings:
            flow.packets[ring.name] = max(ring.packets - old_rings[ring.name].packets, 0) / seconds
            flow.bytes[ring.name] = max(ring.bytes - old_rings[ring.name].bytes, 0) / seconds
    return flow


def process_lives(pid: int, started_ns: int) -> bool:
    """Whether the process that was started at ``started_ns`` (CLOCK_MONOTONIC) still runs, and not another under its
    number: the kernel knows when a process began, counted from boot, so with the time asleep that the other clock lacks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return False
    if not pid or fields[0] in "ZX":
        return False
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    began_ns = int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return not started_ns or began_ns <= started_ns + asleep_ns + 2_000_000_000


def _described(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / "server.json").read_bytes())
    except FileNotFoundError:
        raise NothingToObserve(f"{run_dir}: no server has run here (there is no server.json)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise NothingToObserve(f"{run_dir}/server.json cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise NothingToObserve(f"{run_dir}/server.json is not understood")
    return found


def _server(run_dir: str, described: dict[str, Any], counters: bool) -> Server:
    processes = [_process(entry, counters) for entry in described.get("processes", ())]
    rings = [_ring(link, direction) for link in described.get("links", ()) for direction in ("down", "up")]
    pid, state = int(described["pid"]), str(described.get("state", ""))
    alive = state != "STOPPED" and process_lives(pid, 0)
    return Server(
        taken_ns=time.monotonic_ns(),
        run_dir=run_dir,
        instance=str(described["instance"]),
        pid=pid,
        alive=alive,
        state=state if alive or state == "STOPPED" else "DEAD",
        reason=str(described.get("reason", "")),
        port=int(described.get("port", 0)),
        key_port=int(described.get("key_port", 0)),
        log=str(described.get("log", "")),
        processes=processes,
        rings=rings,
        status_port=int(described.get("status_port", 0)),
        ended=tuple(_process(entry, counters) for entry in described.get("ended", ())),
    )


def _process(entry: dict[str, Any], counters: bool) -> Process:
    identity = (str(entry["name"]), str(entry["role"]))
    cores = [int(core) for core in entry.get("cores") or ()]
    try:
        liveness = Liveness(entry["liveness"], writable=False)
    except (SegmentError, OSError) as error:
        pid = int(entry.get("pid") or 0)
        return Process(*identity, pid, False, cores, "gone", 0, 0, None, None, 0, 0, "", "", [], str(error))
    try:
        return _read_liveness(identity, cores, liveness, _counters(entry) if counters else [])
    finally:
        liveness.close()


def _read_liveness(
    identity: tuple[str, str], cores: list[int], slot: Liveness, counters: list[CounterValue]
) -> Process:
    alive = process_lives(slot.pid, slot.started_ns)
    state = slot.state.name.lower()
    return Process(
        *identity,
        pid=slot.pid,
        alive=alive,
        cores=cores,
        state=state if alive or state in ("stopped", "failed") else "dead" if slot.pid else "not started",
        epoch=slot.epoch,
        restarts=slot.restarts,
        last_exit=slot.last_exit,
        heartbeat_age_ns=max(time.monotonic_ns() - slot.heartbeat_ns, 0) if slot.heartbeat_ns else None,
        work_ns=slot.work_ns,
        idle_ns=slot.idle_ns,
        reason=slot.read_reason(),
        last_words=slot.read_last_words(),
        counters=counters,
    )


def _counters(entry: dict[str, Any]) -> list[CounterValue]:
    try:
        return [CounterValue(*row) for row in read_counters(entry["counters"])]
    except (KeyError, SegmentError, OSError):
        return []


def _ring(link: dict[str, Any], direction: str) -> Ring:
    peer, worker = str(link["peer"]), str(link["worker"])
    ends = (peer, worker) if direction == "down" else (worker, peer)
    identity = (f"{ends[0]}>{ends[1]}", peer, worker, direction)
    try:
        view = RingView(link[direction])
    except (SegmentError, OSError) as error:
        return Ring(*identity, 0, 0, 0, 0, 0, 0, 0, 0, 0, False, str(error))
    try:
        return _read_ring(identity, view)
    finally:
        view.close()


def _read_ring(identity: tuple[str, str, str, str], view: RingView) -> Ring:
    # commit first: what moves meanwhile makes a ring look fuller, never emptier than empty.
    commit, read, publish = view.commit_position, view.read_position, view.publish_position
    counts = view.statistics()
    return Ring(
        *identity,
        capacity_bytes=view.capacity_bytes,
        publish=publish,
        read=read,
        commit=commit,
        oldest_age_ns=view.oldest_age_ns() if publish > commit else 0,
        records=counts["records"],
        packets=counts["packets"],
        bytes=counts["bytes"],
        full=counts["full"],
        suspect=view.suspect_position is not None,
    )


def _add_process(flow: Flow, old: Process, new: Process) -> None:
    worked, rested = new.work_ns - old.work_ns, new.idle_ns - old.idle_ns
    if old.epoch == new.epoch and new.alive and worked >= 0 and rested >= 0 and worked + rested > 0:
        flow.busy[new.name] = worked / (worked + rested)
    totals = _totals(old)
    for name, total in _totals(new).items():
        flow.counters[new.name, name] = (total - totals.get(name, 0)) / flow.seconds


def _totals(process: Process) -> Mapping[str, int]:
    """By metric, over its labels; a histogram has no such total."""
    totals: Counter[str] = Counter()
    for row in process.counters:
        if BUCKET not in row.labels:
            totals[row.name] += row.value
    return totals
