"""What a run of tests/edge_run.py has found, as a table row, and as its section of docs/reliability.md."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["FOUND", "EdgeReport", "add", "section", "table"]

FOUND = Path(__file__).with_name("edge_form.json")

_INTRODUCTION = """
## Edge mode: the link away, and any process killed meanwhile

A drive is written at its full rate to a server that [forwards](edge.md) to a Kafka. That Kafka is killed, stays away, and
comes back; processes are killed all the time, also while the backlog goes over. At the end each packet of the drive, each
place of the local log and each offset in a session packet is looked for on Kafka. Promises 2, 3, 4 and 6.

```sh
./dev run python tests/edge_run.py --away 60 --kill-every 5 --kill any --seed 5 --ibt drive.ibt
```

*Lost*: in the local log, or written, and not on Kafka. *Repeated*: more than once there. *Reordered*: written later and
standing before. *Written again*: what the drive's writer had no answer for when its gateway died, and wrote once more; the
local log has it twice, and so has Kafka. *Caught up*: from Kafka's first answer until the oldest packet of the backlog was
younger than 2 s, with the drive and the kills going on.
"""

_COLUMNS = (
    *("drive", "shape", "away", "killed", "packets", "backlog at most", "caught up", "lost", "repeated", "reordered"),
    *("written again", "held"),
)


class EdgeReport(msgspec.Struct, kw_only=True):
    """One run. ``packets`` are those of all partitions of the local log; ``broken`` says what did not hold."""

    drive: str = ""
    shape: str = ""
    seed: int = 0
    away_seconds: float = 0.0
    kills: dict[str, int] = msgspec.field(default_factory=dict)
    kills_catching_up: int = 0
    packets: int = 0
    bytes: int = 0
    backlog_packets: int = 0
    backlog_bytes: int = 0
    backlog_seconds: float = 0.0
    packets_to_send: int = 0
    caught_up_seconds: float = 0.0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    written_again: int = 0
    broken: list[str] = msgspec.field(default_factory=list)

    @property
    def _key(self) -> tuple[str, str, float]:
        return self.drive, self.shape, self.away_seconds

    def cells(self) -> list[str]:
        """In the order of the table's columns."""
        killed = ", ".join(f"{count} x {role}" for role, count in sorted(self.kills.items()))
        return [
            self.drive,
            self.shape,
            f"{self.away_seconds:.0f} s",
            f"{killed}; {self.kills_catching_up} of these after Kafka was back" if killed else "nobody",
            f"{self.packets:,}",
            f"{self.backlog_packets:,} packets, {self.backlog_bytes / (1 << 20):.1f} MiB, {self.backlog_seconds:.0f} s",
            f"{self.packets_to_send:,} packets in {self.caught_up_seconds:.1f} s",
            *map(str, (self.lost, self.repeated, self.reordered, self.written_again)),
            f"no: {'; '.join(self.broken)}" if self.broken else "yes",
        ]


def add(path: Path, report: EdgeReport) -> None:
    """To the reports in ``path``, instead of an older one of the same kind."""
    kept = [found for found in _read(path) if found._key != report._key]
    path.write_bytes(msgspec.json.format(msgspec.json.encode([*kept, report]), indent=1) + b"\n")


def table(report: EdgeReport) -> str:
    """For a terminal: a line a column."""
    return "\n".join(f"{name:16}  {cell}" for name, cell in zip(_COLUMNS, report.cells(), strict=True))


def section() -> str:
    """Of docs/reliability.md."""
    rows = [f"| {' | '.join(report.cells())} |" for report in _read(FOUND)]
    head = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    return "\n".join([_INTRODUCTION, *head, *rows, ""])


def _read(path: Path) -> list[EdgeReport]:
    return msgspec.json.decode(path.read_bytes(), type=list[EdgeReport]) if path.exists() else []
