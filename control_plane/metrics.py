"""One scrape for all processes: counters out of shared memory, and what can be seen of a server from outside.

::

    counters of every process --+
    liveness, rings, run dir ---+--> families --> prometheus_text --> GET /metrics
    sessions, formats, connections of this process --+

Processes may be dead: what they counted is there, and goes on when their successors do. Counters hold whole numbers;
those of a metric whose name says ``seconds`` are nanoseconds, and divided here.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import psutil

from trackside.control_plane.prometheus_text import Family, Sample
from trackside.data_plane.metrics import METRICS
from trackside.data_plane.stream_metrics import OTHER as OTHER_LABEL
from trackside.shm.counters import BUCKET, OTHER, REFUSED, SUM, Metric
from trackside.shm.liveness import WorkerState
from trackside.shm.observe import CounterValue, Process, Ring, Server

__all__ = ["CONTROL", "GROUPS", "LABELLED_MAX", "Population", "families"]

LABELLED_MAX = 1000
"""Data sources that are named in a scrape; the others are summed up as ``other``."""

REFERENCE_PREFIX = "stream_api_"

STATES = [state.name.lower() for state in WorkerState] + ["dead"]
"""What a process can be; ``dead`` is said by us."""

Labels = tuple[tuple[str, str], ...]


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, help)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "counter", labels, help)


class Population(NamedTuple):
    """What the control plane holds, by data source; ``parts`` is what its parts count for themselves."""

    sessions: Mapping[str, tuple[int, int]]  # all, live
    formats: Mapping[str, int]
    connections: Mapping[str, int]
    parts: Mapping[str, Mapping[str, int]]


# --- the control plane ---------------------------------------------------------------------------------------------

SESSIONS = _gauge(
    "stream_api_sessions_total", "Sessions in the log, live and ended, this server's and others'.", "data_source"
)
FORMATS = _gauge(
    "stream_api_data_formats_total", "Data formats of the data sources that were asked for here.", "data_source"
)
CONNECTIONS = _gauge("stream_api_connections_total", "Open connections.", "data_source")
LIVE_SESSIONS = _gauge("trackside_sessions_live", "Sessions that have not ended.", "data_source")
PARTS: dict[tuple[str, str], Metric] = {
    ("sessions", "held"): _gauge(
        "trackside_sessions_held", "Entries of the session-info topic that wait for the start of their session."
    ),
    ("sessions", "changes_pending"): _gauge("trackside_sessions_changes_pending", "Changes that wait for their turn."),
    ("connections", "bytes"): _gauge(
        "trackside_connections_bytes", "What open connections take of the table's 8 MiB; close those nobody reads."
    ),
    ("data_formats", "data_sources"): _gauge(
        "trackside_data_formats_sources", "Data sources whose essentials the control plane follows."
    ),
    ("follow", "gateways"): _gauge("trackside_following_gateways", "Gateways that follow session events."),
    ("follow", "events_untaken_max"): _gauge(
        "trackside_following_untaken_max", "Events that the slowest of them has not taken."
    ),
}
CONTROL = (SESSIONS, FORMATS, CONNECTIONS, LIVE_SESSIONS, *PARTS.values())


def _control(population: Population) -> Iterable[Family]:
    sessions = {source: total for source, (total, _) in population.sessions.items()}
    live = {source: count for source, (_, count) in population.sessions.items()}
    yield _by_source(SESSIONS, sessions)
    yield _by_source(FORMATS, population.formats)
    yield _by_source(CONNECTIONS, population.connections)
    yield _by_source(LIVE_SESSIONS, live)
    for (part, name), metric in PARTS.items():
        if (value := population.parts.get(part, {}).get(name)) is not None:
            yield _family(metric, [Sample({}, value)])


def _by_source(metric: Metric, counts: Mapping[str, int]) -> Family:
    named = list(counts.items())[:LABELLED_MAX]
    samples = [Sample({"data_source": source}, count) for source, count in named]
    if len(counts) > LABELLED_MAX:
        samples.append(Sample({"data_source": OTHER_LABEL}, sum(counts.values()) - sum(count for _, count in named)))
    return _family(metric, samples)


# --- the server ----------------------------------------------------------------------------------------------------

INFO = _gauge("trackside_info", "Always 1: what runs here.", "version", "log", "instance")
SERVING = _gauge("trackside_serving", "1 while every process is ready and the log answers; /readyz says why not.")
DISK_FREE = _gauge("trackside_data_dir_free_bytes", "What is free on the file system of DataDir.")
DISK_SIZE = _gauge("trackside_data_dir_size_bytes", "Size of that file system.")
RUN_FREE = _gauge("trackside_run_dir_free_bytes", "What is free on the tmpfs of RunDir.")
SERVER = (INFO, SERVING, DISK_FREE, DISK_SIZE, RUN_FREE)


def _server(server: Server, data_dir: str) -> Iterable[Family]:
    labels = {"version": _version(), "log": server.log.partition(" ")[0], "instance": server.instance}
    yield _family(INFO, [Sample(labels, 1)])
    yield _family(SERVING, [Sample({}, int(server.state == "SERVING"))])
    yield _family(DISK_FREE, _of_disk(data_dir, lambda disk: disk.f_bavail))
    yield _family(DISK_SIZE, _of_disk(data_dir, lambda disk: disk.f_blocks))
    yield _family(RUN_FREE, _of_disk(server.run_dir, lambda disk: disk.f_bavail))


def _version() -> str:
    try:
        return version("trackside")
    except PackageNotFoundError:
        return ""


def _of_disk(path: str, blocks: Callable[[os.statvfs_result], int]) -> list[Sample]:
    try:
        disk = os.statvfs(path)
    except OSError:
        return []
    return [Sample({}, blocks(disk) * disk.f_frsize)]


# --- processes -----------------------------------------------------------------------------------------------------

STATE = _gauge("trackside_worker_state", "1 for the state that the process is in, 0 for all others.", "worker", "state")
CPU = _counter(
    "trackside_worker_cpu_seconds_total", "Processor time of the process; a successor begins at 0.", "worker"
)
RESIDENT = _gauge("trackside_worker_resident_bytes", "Its memory, shared memory included.", "worker")
PROCESSES: dict[Metric, Callable[[Process], float | None]] = {
    _gauge("trackside_worker_up", "1 while the process lives.", "worker"): lambda process: int(process.alive),
    _counter(
        "trackside_worker_restarts_total",
        "Times that it died and was started again; `trackside top` has last words.",
        "worker",
    ): lambda process: process.restarts,
    _gauge(
        "trackside_worker_heartbeat_age_seconds", "Since its last heartbeat; it is killed at StallSeconds.", "worker"
    ): lambda process: None if process.heartbeat_age_ns is None else process.heartbeat_age_ns / 1e9,
    _counter(
        "trackside_worker_work_seconds_total", "Time in which a producer or consumer did something.", "worker"
    ): lambda process: process.work_ns / 1e9 if process.work_ns else None,
    _counter(
        "trackside_worker_idle_seconds_total",
        "Time in which it waited; work / (work + idle) is how busy it is.",
        "worker",
    ): lambda process: process.idle_ns / 1e9 if process.idle_ns else None,
}


def _processes(processes: list[Process]) -> Iterable[Family]:
    for metric, read in PROCESSES.items():
        values = {process.name: read(process) for process in processes}
        yield _family(metric, [Sample({"worker": name}, value) for name, value in values.items() if value is not None])
    yield _family(
        STATE,
        [
            Sample({"worker": process.name, "state": state}, int(process.state == state))
            for process in processes
            for state in STATES
        ],
    )
    usage = {process.name: _usage(process.pid) for process in processes if process.alive}
    found = {name: measured for name, measured in usage.items() if measured is not None}
    yield _family(CPU, [Sample({"worker": name}, seconds) for name, (seconds, _) in found.items()])
    yield _family(RESIDENT, [Sample({"worker": name}, size) for name, (_, size) in found.items()])


def _usage(pid: int) -> tuple[float, int] | None:
    """Processor seconds and resident bytes."""
    try:
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    return times.user + times.system, memory.rss


# --- rings and the log ---------------------------------------------------------------------------------------------

RINGS: dict[Metric, Callable[[Ring], float]] = {
    _gauge("trackside_ring_capacity_bytes", "Size of the ring.", "ring"): lambda ring: ring.capacity_bytes,
    _gauge(
        "trackside_ring_used_bytes", "What it must keep; on the way to a producer: accepted and not in the log.", "ring"
    ): lambda ring: ring.used_bytes,
    _gauge("trackside_ring_used_ratio", "The same as a share, 0 to 1.", "ring"): lambda ring: ring.fill,
    _gauge(
        "trackside_ring_held_back_bytes", "What was taken out of it and must be kept all the same.", "ring"
    ): lambda ring: ring.held_back_bytes,
    _gauge(
        "trackside_ring_oldest_seconds", "Age of the oldest record that it must keep; 0 when there is none.", "ring"
    ): lambda ring: ring.oldest_age_ns / 1e9,
    _counter("trackside_ring_records_total", "Records published into it.", "ring"): lambda ring: ring.records,
    _counter("trackside_ring_packets_total", "Packets, or messages, in them.", "ring"): lambda ring: ring.packets,
    _counter("trackside_ring_bytes_total", "Their bytes.", "ring"): lambda ring: ring.bytes,
    _counter("trackside_ring_full_total", "Times that something found no room in it.", "ring"): lambda ring: ring.full,
    _gauge("trackside_ring_damaged", "1 when its reader found something that does not hold.", "ring"): lambda ring: int(
        ring.suspect
    ),
}
UNLOGGED_BYTES = _gauge("trackside_log_unlogged_bytes", "Accepted, and not in the log yet.", "worker")
UNLOGGED_SECONDS = _gauge(
    "trackside_log_oldest_unacknowledged_seconds", "Age of the oldest request of that; 0 when all is logged.", "worker"
)
LOG = (UNLOGGED_BYTES, UNLOGGED_SECONDS)


def _rings(rings: list[Ring]) -> Iterable[Family]:
    for metric, read in RINGS.items():
        yield _family(metric, [Sample({"ring": ring.name}, read(ring)) for ring in rings if not ring.note])


def _log(server: Server) -> Iterable[Family]:
    """By producer: the log lags behind by what its down rings hold."""
    producers = [process.name for process in server.processes if process.role == "producer"]
    down = {name: [r for r in server.rings if r.worker == name and r.direction == "down"] for name in producers}
    used = {name: sum(ring.used_bytes for ring in rings) for name, rings in down.items()}
    oldest = {name: max((ring.oldest_age_ns for ring in rings), default=0) / 1e9 for name, rings in down.items()}
    yield _family(UNLOGGED_BYTES, [Sample({"worker": name}, value) for name, value in used.items()])
    yield _family(UNLOGGED_SECONDS, [Sample({"worker": name}, value) for name, value in oldest.items()])


# --- counters ------------------------------------------------------------------------------------------------------

TABLES = tuple(metric._replace(name=f"trackside_{metric.name}_total") for metric in (OTHER, REFUSED))
"""What every table of counters counts of itself, under a name like the others'."""

COUNTERS = {metric.name: metric for metric in (*METRICS.values(), *TABLES)}

_OWN_NAMES = {OTHER.name: TABLES[0].name, REFUSED.name: TABLES[1].name}

Rows = dict[Labels, int]


def _counters(processes: list[Process]) -> Iterable[Family]:
    rows: defaultdict[str, Rows] = defaultdict(dict)
    for process in processes:
        for row in process.counters:
            if row.value or not _is_other(row):
                name = _OWN_NAMES.get(row.name, row.name)
                labels = _labels_of(row, process.name)
                rows[name][labels] = rows[name].get(labels, 0) + row.value
    for name, metric in COUNTERS.items():
        found = rows.get(name, {})
        yield _family(metric, _buckets(found) if metric.kind == "histogram" else _plain(name, found))


def _is_other(row: CounterValue) -> bool:
    """The row for what found none: of interest when it counts something."""
    return bool(row.labels) and set(row.labels.values()) == {OTHER_LABEL}


def _labels_of(row: CounterValue, worker: str) -> Labels:
    """Those of the reference are one for all processes."""
    own = () if row.name.startswith(REFERENCE_PREFIX) else (("worker", worker),)
    return (*own, *row.labels.items())


def _plain(name: str, rows: Rows) -> list[Sample]:
    if "_seconds" in name:
        return [Sample(dict(labels), value / 1e9) for labels, value in rows.items()]
    return [Sample(dict(labels), value) for labels, value in rows.items()]


def _buckets(rows: Rows) -> list[Sample]:
    """Cells count what fell into each bucket; Prometheus wants what is not above its edge."""
    histograms: defaultdict[Labels, dict[str, int]] = defaultdict(dict)
    for labels, value in rows.items():
        histograms[tuple(pair for pair in labels if pair[0] != BUCKET)][dict(labels)[BUCKET]] = value
    samples = []
    for labels, cells in histograms.items():
        total = 0
        for edge, count in sorted(((float(edge), count) for edge, count in cells.items() if edge != SUM)):
            total += count
            shown = "+Inf" if edge == float("inf") else repr(edge / 1e9)
            samples.append(Sample({**dict(labels), BUCKET: shown}, total, "_bucket"))
        samples.append(Sample(dict(labels), cells.get(SUM, 0) / 1e9, "_sum"))
        samples.append(Sample(dict(labels), total, "_count"))
    return samples


# --- all of it -----------------------------------------------------------------------------------------------------

GROUPS: dict[str, tuple[Metric, ...]] = {
    "control plane": CONTROL,
    "server": SERVER,
    "processes": (*PROCESSES, STATE, CPU, RESIDENT, *TABLES),
    "rings": (*RINGS, *LOG),
}
"""Every metric that is not in a process's own table."""


def families(server: Server, population: Population, data_dir: str) -> list[Family]:
    """Everything as of ``server``, a snapshot with counters. Blocks for some milliseconds: file systems, /proc."""
    return [
        *_control(population),
        *_counters([*server.processes, *server.ended]),
        *_server(server, data_dir),
        *_processes(server.processes),
        *_rings(server.rings),
        *_log(server),
    ]


def _family(metric: Metric, samples: list[Sample]) -> Family:
    return Family(metric.name, metric.kind, metric.help, samples)
