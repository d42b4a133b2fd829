"""What the demo shows: a live table in a terminal, a line a second anywhere else, and the summary."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from trackside.bench.demo_proof import Outcome, failures
from trackside.shm.observe import Flow, Server

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

__all__ = ["Moment", "View", "line", "summary"]

LINE_SECONDS = 1.0
LINE_HIGHLIGHTS = 4
CHANNELS_A_ROW = 3


class Moment(NamedTuple):
    """What is shown: ``session``, ``writer`` and ``reader`` are what these processes told last, perhaps nothing yet."""

    seconds: float
    session: dict[str, Any]
    writer: dict[str, Any]
    reader: dict[str, Any]
    server: Server
    flow: Flow
    note: str = ""


class View:
    """Chooses by where the output goes. Use as a context: a live table is taken down at its end."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._shown_at = 0.0
        self._noted = ""

    def __enter__(self) -> Self:
        if not self._quiet and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment) -> None:
        if self._live is not None:
            self._live.update(_screen(moment), refresh=True)
        elif not self._quiet:
            self._print(moment)

    def _print(self, moment: Moment) -> None:
        if moment.note and moment.note != self._noted:
            self._noted = moment.note
            print(moment.note, flush=True)
        if time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            print(line(moment), flush=True)


def line(moment: Moment) -> str:
    """One moment in one line."""
    return "  ".join(
        [
            f"{moment.seconds:5.1f} s",
            f"written {_written(moment):,} ({_rate(moment, 'gateway')}/s)",
            f"read {moment.reader.get('distinct', 0):,}",
            f"latency {_latency_text(moment.reader.get('recent', {}))}",
            *([f"ring {fill_of(moment.server):.2%}"] if moment.server.rings else []),
            *(f"{name.split(':')[0]} {text}" for name, text in _highlights(moment)[:LINE_HIGHLIGHTS]),
        ]
    )


def fill_of(server: Server) -> float:
    """The fullest of all rings, 0 to 1."""
    return max((ring.fill for ring in server.rings), default=0.0)


def summary(outcome: Outcome) -> str:
    """Everything that was measured, and in the last line whether it proves that nothing was lost."""
    written, read = outcome.written, outcome.read
    lines = [
        "",
        f"{outcome.drive}, {outcome.seconds:.1f} s",
        f"packets   written {written['written']:,}   read {read['distinct']:,} distinct   {_duplicates(outcome)}",
        f"bytes     {written['bytes']:,} of content",
        f"hash      written {written['hash']}   read {read['hash']}",
        f"latency   {_latency_text(read['latency'])}   longest {_ms(read['latency']['max_ms'])}   (due to read)",
        f"calls     broken and taken up again: writer {written['broken_calls']}, reader {read['broken_calls']}",
        *_kill_lines(outcome),
        *_shared_memory_lines(outcome),
    ]
    failed = failures(outcome)
    if failed:
        return "\n".join([*lines, *(f"NOT PROVED: {reason}" for reason in failed)])
    return "\n".join([*lines, "PROVED: every packet that was written was read, and both sides have the same hash"])


def _duplicates(outcome: Outcome) -> str:
    resent = outcome.written["resent_packets"]
    sent_again = f" ({resent:,} were sent again after a broken call)" if resent else ""
    return f"duplicates {outcome.read['duplicates']:,}{sent_again}"


def _kill_lines(outcome: Outcome) -> list[str]:
    return [
        f"killed    {kill.name} (pid {kill.pid}) after {kill.at_seconds:.1f} s, followed by pid {kill.successor_pid}"
        for kill in outcome.kills
    ]


def _shared_memory_lines(outcome: Outcome) -> list[str]:
    """As it was read from shared memory after the last packet."""
    if outcome.server is None or not outcome.server.processes:
        return []
    processes = [
        f"process   {process.name:<14} pid {process.pid:<8} restarts {process.restarts}   {process.state}"
        for process in outcome.server.processes
    ]
    rings = [
        f"ring      {ring.name:<26} publish {ring.publish:<12,} commit {ring.commit:<12,} packets {ring.packets:,}"
        for ring in outcome.server.rings
    ]
    return [*processes, *rings, f"rings     fullest at any look {outcome.fill_max:.2%}"]


def _screen(moment: Moment) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(f"{moment.session.get('drive', '')}   {moment.seconds:.1f} s   {moment.note}", style="bold"),
        _flow_table(moment),
        *([_ring_table(moment), _process_table(moment)] if moment.server.processes else []),
        _channel_table(moment),
    )


def _flow_table(moment: Moment) -> Table:
    writer, reader = moment.writer, moment.reader
    table = _table("", "packets", "per second", "latency p50", "p99", "repeats", "broken calls")
    table.add_row(
        "written", f"{_written(moment):,}", _rate(moment, "gateway"), "", "", "", _text(writer, "broken_calls")
    )
    recent = reader.get("recent", {})
    table.add_row(
        "read",
        f"{reader.get('distinct', 0):,}",
        "",
        _ms(recent.get("p50_ms")),
        _ms(recent.get("p99_ms")),
        f"{reader.get('duplicates', 0):,}",
        _text(reader, "broken_calls"),
    )
    return table


def _ring_table(moment: Moment) -> Table:
    """The rings that packets go through, where there are any: down to the producers, up from the consumers."""
    table = _table("ring", "fill", "used", "packets/s", "publish", "commit")
    for ring in moment.server.rings:
        if ring.packets and ring.worker.startswith("producer" if ring.direction == "down" else "consumer"):
            packets = moment.flow.packets.get(ring.name)
            rate = "-" if packets is None else f"{packets:.0f}"
            table.add_row(
                ring.name, f"{ring.fill:.2%}", f"{ring.used_bytes:,}", rate, f"{ring.publish:,}", f"{ring.commit:,}"
            )
    return table


def _process_table(moment: Moment) -> Table:
    table = _table("process", "state", "pid", "restarts")
    for process in moment.server.processes:
        style = "" if process.state == "ready" else "yellow"
        table.add_row(process.name, process.state, str(process.pid), str(process.restarts), style=style)
    return table


def _channel_table(moment: Moment) -> Table:
    """Three channels a row, so that it fits a narrow terminal."""
    table = _table(*("channel", "value") * CHANNELS_A_ROW)
    cells = [cell for name, text in _highlights(moment) for cell in (name.split(":")[0], text)]
    for first in range(0, len(cells), 2 * CHANNELS_A_ROW):
        table.add_row(*cells[first : first + 2 * CHANNELS_A_ROW])
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "ring", "process", "state", "channel") else "right")
    return table


def _written(moment: Moment) -> int:
    """What was read was written, also where the writer's last news is older than the reader's."""
    return max(int(moment.writer.get("written", 0)), int(moment.reader.get("distinct", 0)))


def _rate(moment: Moment, peer: str) -> str:
    rings = [ring for ring in moment.server.rings if ring.direction == "down" and ring.worker.startswith("producer")]
    rates = [
        moment.flow.packets[ring.name]
        for ring in rings
        if ring.peer.startswith(peer) and ring.name in moment.flow.packets
    ]
    return f"{sum(rates):.0f}" if rates else "-"


def _highlights(moment: Moment) -> list[tuple[str, str]]:
    """Identifier and text of the channels to show, as far as the reader has read them."""
    values = moment.reader.get("values", {})
    shown = []
    for name, (format_string, units) in moment.session.get("highlights", {}).items():
        if name in values:
            shown.append((name, f"{(format_string % values[name]).strip()} {units}".strip()))
    return shown


def _latency_text(latency: dict[str, Any]) -> str:
    return f"p50 {_ms(latency.get('p50_ms'))} p99 {_ms(latency.get('p99_ms'))}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _text(news: dict[str, Any], key: str) -> str:
    return str(news.get(key, ""))
