"""``trackside top``: what a server does now, or did last, from its shared memory alone.

Nothing is asked of any process, so it shows the same while workers hang or after all of them were killed; then there
are no rates, but positions, states and last words are there.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.troubles import troubles_of
from trackside.shm.observe import Flow, NothingToObserve, Process, Ring, Server, flows, observe

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["document", "main", "render"]

ONCE_SECONDS = 0.5
"""Between the two looks of ``--once``: rates need two."""

WORDS_MAX = 60

Usages = dict[str, tuple[float | None, int]]
"""By name of process: share of one core since the last look (None: first look), and resident bytes."""


def main(run_dir: str, once: bool, as_json: bool, interval: float) -> int:
    """Show until Ctrl-C, or once. Raises CommandFailed when there is nothing to show."""
    before = _look(run_dir)
    usage = Usage(before)
    if once:
        time.sleep(ONCE_SECONDS if before.alive else 0.0)
        after = _look(run_dir)
        _show(after, flows(before, after), usage, as_json)
    elif as_json or not sys.stdout.isatty():
        _follow_in_lines(before, usage, as_json, interval)
    else:
        _follow_on_screen(before, usage, interval)
    return ExitCode.OK


def _follow_in_lines(before: Server, usage: Usage, as_json: bool, interval: float) -> None:
    while True:
        time.sleep(interval)
        after = _look(before.run_dir)
        _show(after, flows(before, after), usage, as_json)
        before = after


def _follow_on_screen(before: Server, usage: Usage, interval: float) -> None:
    from rich.live import Live

    with Live(render(before, flows(before, before), usage.measure(before)), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            after = _look(before.run_dir)
            live.update(render(after, flows(before, after), usage.measure(after)), refresh=True)
            before = after


def _look(run_dir: str) -> Server:
    try:
        return observe(run_dir)
    except NothingToObserve as error:
        raise CommandFailed(ExitCode.NOT_REACHABLE, str(error)) from None


def _show(server: Server, flow: Flow, usage: Usage, as_json: bool) -> None:
    if as_json:
        print(json.dumps(document(server, flow, usage.measure(server))), flush=True)
        return
    from rich.console import Console

    # A pipe has no width; lines are cut by nobody then.
    Console(width=None if sys.stdout.isatty() else 200).print(render(server, flow, usage.measure(server)))
    sys.stdout.flush()


class Usage:
    """CPU and memory of the processes, which only the kernel knows. Remembers the times of the last look."""

    def __init__(self, server: Server) -> None:
        self._seen: dict[int, tuple[float, float]] = {}
        self.measure(server)

    def measure(self, server: Server) -> Usages:
        """Of each process that lives."""
        found = {}
        for name, pid in [("supervisor", server.pid if server.alive else 0), *_living(server)]:
            if pid and (measured := self._measure(pid)):
                found[name] = measured
        return found

    def _measure(self, pid: int) -> tuple[float | None, int] | None:
        try:
            process = psutil.Process(pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            return None
        now, used = time.monotonic(), times.user + times.system
        then, before = self._seen.get(pid, (now, used))
        self._seen[pid] = (now, used)
        return ((used - before) / (now - then) if now > then else None), int(memory.rss)


def _living(server: Server) -> list[tuple[str, int]]:
    return [(process.name, process.pid) for process in server.processes if process.alive]


def document(server: Server, flow: Flow, usage: Usages) -> dict[str, Any]:
    """Everything as plain values, for ``--json``. Names are those of the snapshot, units at the end of names."""
    shown = server._asdict()
    shown["processes"] = [_process_document(process, flow, usage) for process in server.processes]
    shown["rings"] = [_ring_document(ring, flow) for ring in server.rings]
    shown["ended"] = [process._asdict() for process in server.ended]
    shown["troubles"] = troubles_of(server, flow).document()
    shown["rates_over_seconds"] = flow.seconds
    return shown


def _process_document(process: Process, flow: Flow, usage: Usages) -> dict[str, Any]:
    cpu, rss_bytes = usage.get(process.name, (None, None))
    counters = [{**row._asdict(), "per_second": _rate(process, row.name, row.labels, flow)} for row in process.counters]
    measured = {"busy": flow.busy.get(process.name), "cpu": cpu, "rss_bytes": rss_bytes}
    return process._asdict() | measured | {"counters": counters}


def _rate(process: Process, name: str, labels: dict[str, str], flow: Flow) -> float | None:
    return None if labels else flow.counters.get((process.name, name))


def _ring_document(ring: Ring, flow: Flow) -> dict[str, Any]:
    return ring._asdict() | {
        "used_bytes": ring.used_bytes,
        "held_back_bytes": ring.held_back_bytes,
        "fill": ring.fill,
        "packets_per_second": flow.packets.get(ring.name),
        "bytes_per_second": flow.bytes.get(ring.name),
    }


def render(server: Server, flow: Flow, usage: Usages) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(_headline(server, usage)),
        Text(_flow_line(server, flow, usage)),
        *(Text(_link_line(process, flow)) for process in server.processes if process.role == "forwarder"),
        *(Text(line, style="yellow") for line in troubles_of(server, flow).lines()),
        _process_table(server, flow, usage),
        _ring_table(server, flow),
    )


def _headline(server: Server, usage: Usages) -> str:
    reason = f" ({server.reason})" if server.reason else ""
    resident = sum(rss for _, rss in usage.values())
    memory = f"  {_size(resident)} resident" if resident else ""
    return f"{server.state}{reason}  pid {server.pid}  port {server.port}  log {server.log}{memory}\n{server.run_dir}"


def _flow_line(server: Server, flow: Flow, usage: Usages) -> str:
    """As a packet goes, left to right: one look shows where it jams."""
    down = [ring for ring in server.rings if ring.direction == "down" and ring.worker.startswith("producer")]
    up = [ring for ring in server.rings if ring.direction == "up" and ring.worker.startswith("consumer")]
    oldest_ms = max((ring.oldest_age_ns for ring in down), default=0) / 1e6

    def busiest(role: str) -> float | None:
        """Of those that do not account for their time, the share of a core."""
        names = [process.name for process in server.processes if process.role == role]
        found = [flow.busy.get(name, usage.get(name, (None, 0))[0]) for name in names]
        return max((share for share in found if share is not None), default=None)

    return " | ".join(
        [
            f"in {_count(_sum(flow.packets, down))}/s",
            f"gateway {_share(busiest('gateway'))}",
            f"ring {_fullest(down):.1%}",
            f"producer {_share(busiest('producer'))}, oldest not logged {oldest_ms:.0f} ms",
            "log",
            f"consumer {_share(busiest('consumer'))}",
            f"ring {_fullest(up):.1%}",
            f"readers {_total(server, 'trackside_gateway_readers')}, out {_count(_sum(flow.packets, up))}/s",
        ]
    )


def _link_line(forwarder: Process, flow: Flow) -> str:
    """What a crew looks at: is the garage there, what has it not got, how long does the disk last."""
    found = {row.name.removeprefix("trackside_forwarder_"): row.value for row in forwarder.counters if not row.labels}
    up = forwarder.alive and found.get("link_up")
    rate = _count(flow.counters.get((forwarder.name, "trackside_forwarder_packets_total")))
    behind = f"{_count(found.get('backlog_packets', 0))} packets, {_size(found.get('backlog_bytes', 0))}"
    oldest = _age(found.get("backlog_seconds", 0)) if found.get("backlog_packets") else "0 s"
    held = f", {found['held']} partitions held" if found.get("held") and up else ""
    hours = found.get("disk_left_seconds", 0) / 3.6e12
    lasts = f"{hours:.1f} h left" if hours < 1000 else "does not fill"
    return " | ".join(
        [
            f"link {'up' if up else 'AWAY'}",
            f"behind {behind}, oldest {oldest}{held}",
            f"sent {rate}/s",
            f"disk: log {_size(found.get('log_bytes', 0))}, {lasts}",
        ]
    )


def _process_table(server: Server, flow: Flow, usage: Usages) -> Table:
    columns = ("PROCESS", "PID", "CORE", "STATE", "BUSY", "CPU", "RSS", "RESTARTS", "HEARTBEAT", "LAST WORDS")
    table = _table(columns, left=(0, 3, 9))
    for process in server.processes:
        cpu, rss = usage.get(process.name, (None, None))
        _add_row(
            table,
            process.name,
            str(process.pid or "-"),
            _cores(process.cores),
            _state(process),
            _share(flow.busy.get(process.name)),
            _share(cpu),
            _size(rss) if rss else "-",
            str(process.restarts),
            _age(process.heartbeat_age_ns),
            _words(process),
            style=_colour(process),
        )
    return table


def _ring_table(server: Server, flow: Flow) -> Table:
    columns = ("RING", "FILL", "USED", "HELD BACK", "OLDEST", "PACKETS/s", "BYTES/s", "FULL", "PUBLISH", "COMMIT")
    table = _table(columns, left=(0,))
    for ring in server.rings:
        _add_row(
            table,
            ring.name,
            f"{ring.fill:.1%}",
            _size(ring.used_bytes),
            _size(ring.held_back_bytes),
            _age(ring.oldest_age_ns) if ring.oldest_age_ns else "-",
            _count(flow.packets.get(ring.name)),
            _size(flow.bytes.get(ring.name)),
            str(ring.full),
            str(ring.publish),
            ring.note or ("damaged" if ring.suspect else str(ring.commit)),
            style="red" if ring.suspect or ring.note else "yellow" if ring.fill > 0.5 else "",
        )
    return table


def _table(columns: tuple[str, ...], left: tuple[int, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index in left else "right", no_wrap=index != len(columns) - 1)
    return table


def _add_row(table: Table, *cells: str, style: str) -> None:
    """Cells are text: brackets in last words are no markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells), style=style)


def _state(process: Process) -> str:
    return f"{process.state}, was {process.reason}" if process.state == "failed" and process.reason else process.state


def _words(process: Process) -> str:
    """Why it does not serve, else what the one before it said last, in one line."""
    text = process.note or process.reason or process.last_words
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:WORDS_MAX] if lines else ""


def _colour(process: Process) -> str:
    if process.state in ("dead", "failed", "gone"):
        return "red"
    return "" if process.state in ("ready", "stopped") else "yellow"


def _fullest(rings: list[Ring]) -> float:
    return max((ring.fill for ring in rings), default=0.0)


def _sum(rates: dict[str, float], rings: list[Ring]) -> float | None:
    found = [rates[ring.name] for ring in rings if ring.name in rates]
    return sum(found) if found else None


def _total(server: Server, counter: str) -> int:
    return sum(row.value for process in server.processes for row in process.counters if row.name == counter)


def _cores(cores: list[int]) -> str:
    return ",".join(map(str, cores)) if len(cores) <= 2 else f"{cores[0]}..{cores[-1]}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _count(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value < 10_000 else f"{value / 1000:.1f} k"


def _size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _age(nanoseconds: int | None) -> str:
    if nanoseconds is None:
        return "-"
    seconds = nanoseconds / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
