"""What did not go as it should, as ``trackside top`` shows it: counted by all processes, those that have ended included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from trackside.shm.observe import Flow, Process, Server

__all__ = ["LINE_CHARACTERS_MAX", "Total", "Troubles", "troubles_of"]

LINE_CHARACTERS_MAX = 100

COUNTED: Mapping[str, tuple[str, ...]] = {
    "refused": ("trackside_refused_total",),
    "limited": ("trackside_limited_total",),
    "denied": ("trackside_gateway_denied_total",),
    "not_logged": ("trackside_gateway_not_logged_total",),
    "dead_letters": ("trackside_producer_refused_total", "trackside_forwarder_dead_letters_total"),
    "dead_letters_given_up": ("trackside_log_dead_letters_given_up_total",),
    "quarantined": ("trackside_producer_quarantined_total",),
    "parked_packets": ("trackside_producer_parked_packets_total",),
    "skipped": ("trackside_gateway_skipped_total",),
    "ended_slow": ("trackside_gateway_overruns_total",),
    "recovered_packets": ("trackside_recovered_packets_total",),
}
"""In the order in which they are shown. ``docs/metrics.md`` says what each metric counts."""

PARKED_TOPICS = "trackside_producer_parked_topics"
PARKED_BYTES = "trackside_producer_parked_bytes"
PARKED_AGE = "trackside_producer_parked_age_seconds"


class Total(NamedTuple):
    """Since the server was started. ``per_second``: between the two looks, None where there was but one."""

    total: int
    per_second: float | None


class Troubles(NamedTuple):
    """``parked_age_ns`` is how long the oldest packet that is parked now has been waiting."""

    totals: dict[str, Total]
    parked_topics: int
    parked_bytes: int
    parked_age_ns: int

    def document(self) -> dict[str, Any]:
        """Plain values, the zeros among them."""
        totals = {name: total._asdict() for name, total in self.totals.items()}
        parked = {"topics": self.parked_topics, "bytes": self.parked_bytes, "age_ns": self.parked_age_ns}
        return {"totals": totals, "parked_now": parked}

    def lines(self) -> list[str]:
        """For people: what is not 0, in lines of at most LINE_CHARACTERS_MAX characters; none when all is well."""
        return list(_packed(self._parts()))

    def _parts(self) -> Iterator[str]:
        if self.parked_topics:
            size, seconds = self.parked_bytes / (1 << 20), self.parked_age_ns / 1e9
            yield f"parked now {self.parked_topics} topics, {size:.1f} MiB, oldest {seconds:.0f} s"
        for name, (total, per_second) in self.totals.items():
            rate = f" ({per_second:.3g}/s)" if per_second else ""
            if total:
                yield f"{name.replace('_', ' ')} {total}{rate}"


def troubles_of(server: Server, flow: Flow) -> Troubles:
    processes = [*server.processes, *server.ended]
    return Troubles(
        {name: _total(processes, flow, metrics) for name, metrics in COUNTED.items()},
        sum(_values(processes, PARKED_TOPICS)),
        sum(_values(processes, PARKED_BYTES)),
        max(_values(processes, PARKED_AGE), default=0),
    )


def _total(processes: list[Process], flow: Flow, metrics: Iterable[str]) -> Total:
    total = sum(value for metric in metrics for value in _values(processes, metric))
    rates = [flow.counters.get((process.name, metric), 0.0) for process in processes for metric in metrics]
    return Total(total, sum(rates) if flow.seconds > 0 else None)


def _values(processes: list[Process], metric: str) -> list[int]:
    return [row.value for process in processes for row in process.counters if row.name == metric]


def _packed(parts: Iterable[str]) -> Iterator[str]:
    line = ""
    for part in parts:
        if line and len(line) + len(part) + 3 > LINE_CHARACTERS_MAX:
            yield line
            line = ""
        line = f"{line} | {part}" if line else part
    if line:
        yield line
