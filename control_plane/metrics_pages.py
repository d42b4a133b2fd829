"""The page docs/metrics.md, out of the tables of metrics.

``python -m trackside.control_plane.metrics_pages docs/metrics.md`` writes it anew; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from trackside.control_plane import metrics as seen
from trackside.data_plane import metrics as counted
from trackside.data_plane.reader_metrics import READER_ROWS_MAX
from trackside.data_plane.stream_metrics import SOURCES_MAX, STREAMS_MAX
from trackside.shm.counters import Metric

__all__ = ["markdown_page"]

INTRODUCTION = f"""\
# Metrics

This page is made from the tables in `data_plane/metrics.py` and `control_plane/metrics.py`. Do not edit it:
`python -m trackside.control_plane.metrics_pages docs/metrics.md` writes it.

## The port

| path | answer |
|---|---|
| `/metrics` | everything below, of all processes, in Prometheus' text format |
| `/livez` | 200 while the control plane runs |
| `/readyz` | 200 while every process is ready and the log answers; else 503, and the reason as text |

`http://127.0.0.1:10010` by default: `PrometheusMetricPort` and `StatusAddress` of [the configuration](configuration.md).
A port that somebody else has is an error at the start. Nobody is asked who they are, and nothing can be changed; open
the address to others only where they may know the names of your data sources and sessions. The control plane serves it:
while that process is away (a second, when it was killed) or the server is still recovering what an earlier one left,
nothing answers.

```yaml
scrape_configs:
  - job_name: trackside
    static_configs: [{{targets: ["127.0.0.1:10010"]}}]
```

## How to read them

Counters lie in shared memory, one table a process. A process that is killed leaves them there, and its successor goes
on counting: they go back to 0 when the *server* is started anew, and only then. What was on its way in a killed process
may be counted twice in `routed` (at most what was not committed), and once too little in `published` and `delivered`;
of what the log counts for itself (`trackside_log_...`) the last second may be missing. Processor time is the process's
own and begins at 0 with each.

Names that begin with `stream_api_` are the reference server's, with its labels. They are one for all processes; every
other counter has the label `worker`.

Labels that clients choose are bounded: a process names {STREAMS_MAX} streams, {SOURCES_MAX} data sources where only
these are counted, and {READER_ROWS_MAX} rows of each metric that has a connection. Whatever comes then is counted where
all labels are `other`. Rows of a connection disappear when it is closed and its last read has ended; connections that
nobody closes keep theirs until they expire (`ConnectionIdleSeconds`). `sum(rate(...))` over connections does not care; for totals that never go back take
`trackside_gateway_delivered_total`. With very many readers, `MetricsPerConnection = false` makes one row a stream, with
`connection` and `session_key` empty.

A stream is called what responses call it. With PartitionBased, a stream without a partition of its own is the main
stream, whose name is empty.

## Other than the reference

| metric | the reference | here |
|---|---|---|
| `..._packets_routed_total` | counted when handed to the Kafka client | counted when the log has it |
| `..._delivered_total` | only with batching, before the filter | always; what the transport took |
| `connection`, `session_key` | stay for ever | go with the connection |
| `stream_api_sessions_total` | follows sessions of other servers only | is right whenever it is looked at |
| `stream_api_connections_total` | of one process | of the server, also after restarts of its processes |
"""

TITLES = {
    "reference": "The reference server's counters",
    "refusals": "Refusals",
    "gateway": "Gateways",
    "producer": "Producers",
    "consumer": "Consumers",
    "connections": "Connections that expired",
    "recovery": "The recovery at the start",
    "forwarder": "The forwarder, in edge mode",
    "control plane": "Sessions, formats, connections",
    "server": "The server",
    "processes": "Processes",
    "rings": "Rings and the log",
}

HEAD = "| metric | kind | labels | meaning |\n|---|---|---|---|"


def markdown_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, title in TITLES.items():
        group = counted.GROUPS[name] if name in counted.GROUPS else seen.GROUPS[name]
        own = ("worker",) if name in ("refusals", "recovery", "gateway", "producer", "consumer", "forwarder") else ()
        parts.append(f"## {title}\n\n{HEAD}\n" + "\n".join(_rows(group, own)) + "\n")
    return "\n".join(parts)


def _rows(group: Iterable[Metric], own: tuple[str, ...]) -> Iterable[str]:
    for metric in group:
        own_labels = ("worker",) if metric in seen.TABLES else own
        labels = ", ".join(f"`{label}`" for label in (*own_labels, *metric.labels)) or "-"
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown_page(), encoding="utf-8")
