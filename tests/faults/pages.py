"""Writes docs/reliability.md from the catalogue of faults and what the long form has found.

``python tests/faults/pages.py`` writes it anew; ``tests/faults/test_pages.py`` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # run as a program: what pytest puts on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import edge_report
import msgspec
from faults.catalogue import FAULTS, Fault
from faults.verdict import Report

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
FOUND = Path(__file__).with_name("long_form.json")

_HEAD = """\
# Reliability

What was done to the server, and what became of the packets. Made by `tests/faults/pages.py` from the results of the long
form in `tests/faults/long_form.json`; the [guarantees](guarantees.md) are referred to by their numbers.

A *checker*, a process of its own, writes numbered packets with checksums while a fault happens: to three data sources,
each with a stream that two writers share (client streams of 40 packets; single packets with `trackside-ack: log`), a main
stream, and a stream that four connections hand to each other packet by packet. One packet in fifty is essential, one in
two hundred has 20 KB. Twelve reads are open meanwhile: whole data sources, one stream, one session's packets, essentials. The
checker also asks for sessions, data formats and connections ten times a second, and changes a session's details. At the end
it compares, packet by packet, what was accepted with the log itself (segment files, batch by batch, or Kafka by a plain
consumer), the log with what each open read got, and the log with a read from the beginning.

Repeat it, all or a part:

```sh
./dev run python tests/faults/run.py --kills 100
./dev run python tests/faults/run.py --minutes 2 --fault producer --log kafka --shape 2/2/2 --seed 7
./dev test -q tests/faults                       # the short form: one round of each
```

The same seed chooses the same victims and moments; what a machine makes of a moment differs.

## What the columns say

*Accepted* counts packets. *Lost*: accepted, and not in the log. *Repeated*: more than once in the log. *Reordered*:
accepted later and standing before. *Corrupted*: not as written. *Left over*: there, although the server had refused the
request. *Reads broken*: open reads that ended, of those whose own gateway was taken away. *Longest pause*, in seconds:
between two accepted writes of one writer / two responses of one read / two answers to one who asks, over the whole run; the
machine had two cores for server, checker and Kafka, and other work on them.
"""

_TAIL = """
## Not promised

- What only rings had when the run directory is lost (`power`): the column *lost* counts such packets. Of those written
  with `trackside-ack: log` none may be missing.
- A packet once in Kafka after the death of a producer, or of all, or of Kafka's topic: *repeated* counts them. Never on the
  local log.
- A producer that gets over a record in its *park* which ends it each time ([decision 19](decisions/0019-parking.md)); such a
  record in a ring is quarantined.
- A pause without an end: while Kafka is away for longer than rings hold, writes are refused, with `UNAVAILABLE` or
  `RESOURCE_EXHAUSTED` and the reason.
- A status from a gateway that was killed, or that a call met in the moment in which it closed: gRPC itself ends such calls,
  with `UNAVAILABLE` or `CANCELLED`.
"""

_COLUMNS = (
    *("log", "shape", "what was done", "accepted", "lost", "repeated", "reordered", "corrupted", "left over"),
    *("reads broken", "longest pause", "held"),
)


def page() -> str:
    reports = msgspec.json.decode(FOUND.read_bytes(), type=list[Report])
    return _HEAD + "".join(_sections(reports)) + edge_report.section() + _TAIL


def _sections(reports: list[Report]) -> Iterator[str]:
    yield f"\n## Faults\n\n{_total(reports)}"
    for fault in FAULTS.values():
        found = sorted((r for r in reports if r.fault == fault.name), key=lambda r: (r.log != "local", r.shape))
        if found:
            yield _section(fault, found)


def _total(reports: list[Report]) -> str:
    kills = sum(count for report in reports for what, count in report.actions.items() if what.startswith("SIGKILL"))
    lost = sum(report.lost if FAULTS[report.fault].keeps_rings else report.lost_logged for report in reports)
    return (
        f"{len(reports)} runs, {sum(report.seconds for report in reports) / 3600:.1f} hours, {kills:,} kills, "
        f"{sum(report.accepted for report in reports):,} packets accepted: "
        f"{lost} lost that were promised, {sum(report.reordered for report in reports)} reordered, "
        f"{sum(report.corrupted for report in reports)} corrupted, "
        f"{sum(bool(report.broken) for report in reports)} runs in which a promise was broken. "
        "A run takes two minutes (`mixed` on Kafka half an hour), in shape 1/1/1 ten kills.\n"
    )


def _section(fault: Fault, reports: list[Report]) -> str:
    promises = ", ".join(map(str, fault.promises))
    lines = [
        f"\n### {fault.name}\n",
        f"{fault.title[0].upper()}{fault.title[1:]}. Promise{'s' if len(fault.promises) > 1 else ''} {promises}.\n",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    return "\n".join([*lines, *map(_row, reports), ""])


def _row(report: Report) -> str:
    done = ", ".join(f"{count} x {what}" for what, count in report.actions.items())
    done += f", {report.dead_letters} dead letters" if report.dead_letters else ""
    pauses = (report.writer_pause_seconds, report.reader_pause_seconds, report.answer_pause_seconds)
    cells = (
        report.log,
        report.shape,
        f"{done}, in {report.seconds:.0f} s",
        f"{report.accepted:,}",
        f"{report.lost} ({report.lost_logged} of them `log`)" if report.lost else 0,
        report.repeated,
        report.reordered,
        report.corrupted,
        report.left_over,
        f"{report.breaks} of {report.breaks_allowed}",
        " / ".join(f"{pause:.1f}" for pause in pauses),
        f"no: {'; '.join(report.broken)}" if report.broken else "yes",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    PAGE.write_text(page())
