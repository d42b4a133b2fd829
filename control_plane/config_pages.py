"""What people read about the configuration: the page docs/configuration.md and the output of ``check-config``.

``python -m trackside.control_plane.config_pages docs/configuration.md`` writes the page anew; a test compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trackside.control_plane.config import Conclusion, Effective
from trackside.control_plane.config_keys import GROUPS, Key

__all__ = ["as_json", "as_table", "markdown_page"]

INTRODUCTION = """\
# Configuration

This page is made from the table in `control_plane/config_keys.py`, the same that checks what you set. Do not edit it:
`python -m trackside.control_plane.config_pages docs/configuration.md` writes it.

## Where values come from

1. The **default** in the tables below.
2. The **file**: `--config FILE`, else the path in `TRACKSIDE_CONFIG` or `CONFIG_PATH` (taken as it is, or else
   below the working directory, as the reference server does), else `Configs/AppConfig.json` in the working
   directory when it exists. It is the `AppConfig.json` of the reference server: its keys at the top, or inside
   `StreamApiConfig`; `Serilog` and sections of other programs beside it are left alone.
3. The **environment**: `StreamApiConfig__` and the key, with `__` for each step into a section
   (`StreamApiConfig__Security__SaslUsername`), or the key's `TRACKSIDE_` name. Array elements work as in .NET:
   `StreamApiConfig__PartitionMappings__0__Stream` and `...__0__Partition`; they replace the file's array. `PORT`, which
   tells the reference's key generator its port, is not read, since platforms set it for other reasons: use
   `TRACKSIDE_KEY_PORT`.
4. **Flags** of `trackside serve`.

Later ones win. Names are understood in any spelling (`PrometheusMetricPort`, `PROMETHEUS_METRIC_PORT`), numbers also as
text, sizes with a unit (`"64 MiB"`), and `null` means "not set". An unknown key is an error, and so are settings that
contradict each other. `trackside check-config` prints what would hold, where each value came from, and every error;
`trackside serve` refuses to start with exit code 78. Passwords are never printed.
"""

BROKER_FILES = """\
## Files with librdkafka properties

`kafka-publisher-broker.json` and `kafka-consumer-broker.json` are flat JSON objects, property to value, for what no key
covers: `{"linger.ms": "20", "compression.type": "zstd"}`. Never taken from them: `bootstrap.servers`, for readers `group.id`
and `auto.offset.reset`, and what else the server sets itself (`data_plane/kafka_overrides.py`). A property that breaks a
promise of [the guarantees](guarantees.md) (`acks`, `enable.idempotence`, `enable.gapless.guarantee`,
`message.timeout.ms`) is used, and the start says which promise.

`kafka-broker-whitelist.json` says which properties may be set: `{"Publish": [{"Pattern": "linger.*", "Allow": true}],
"Consume": []}`. The first rule that matches decides; `*` is any run of characters, `?` one, case does not count. A
section with rules denies what no rule matches, a section without rules allows everything. What was denied is said at
the start. Without a broker none of the three files is read.
"""


def markdown_page() -> str:
    """The whole page docs/configuration.md."""
    parts = [INTRODUCTION]
    for title, keys in GROUPS.items():
        rows = map(_elsewhere_row, keys) if keys[0].instead else map(_row, keys)
        head = ELSEWHERE_HEAD if keys[0].instead else HEAD
        parts.append(f"## {title}\n\n{head}\n" + "\n".join(rows) + "\n")
        if title == "Security of the Kafka connection":
            parts.append(BROKER_FILES)
    return "\n".join(parts)


HEAD = "| key | must be | default | meaning |\n|---|---|---|---|"
ELSEWHERE_HEAD = "| key | instead |\n|---|---|"


def _row(key: Key) -> str:
    names = [f"`{key.name}`", f"`{key.own_variable}`", *(f"`{name}`" for name in key.environment)]
    names += [f"`{key.flag} {key.metavar}`"] if key.flag else []
    shown = key.shown(key.default)
    default = key.default_prose or (f"`{shown}`" if shown else "empty")
    return f"| {'<br>'.join(names)} | {key.kind.allowed} | {default} | {key.prose} |"


def _elsewhere_row(key: Key) -> str:
    names = "<br>".join(f"`{name}`" for name in (key.name, *key.environment))
    return f"| {names} | {key.instead} |"


def as_table(conclusion: Conclusion) -> str:
    """Every key that holds something, with its origin; then notes, warnings and errors, one line each."""
    lines = [f"file  {conclusion.file or 'none'}", ""]
    cells = [_cells(conclusion, effective) for effective in _worth_showing(conclusion)]
    rows = [("KEY", "VALUE", "FROM"), *((key, value or "-", origin) for key, value, origin in cells)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines += [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    lines += ["", *(f"note: {note}" for note in conclusion.notes)] if conclusion.notes else []
    lines += ["", *(f"warning: {warning}" for warning in conclusion.warnings)] if conclusion.warnings else []
    lines += ["", *(f"error: {problem}" for problem in conclusion.problems)] if conclusion.problems else []
    return "\n".join(lines)


def as_json(conclusion: Conclusion) -> str:
    """The same for programs: {ok, file, values: [{key, value, origin}], notes, warnings, errors: [{key, value, reason, origin}]}."""
    cells = [_cells(conclusion, effective) for effective in _worth_showing(conclusion)]
    document = {
        "ok": not conclusion.problems,
        "file": conclusion.file,
        "values": [{"key": name, "value": value, "origin": origin} for name, value, origin in cells],
        "notes": conclusion.notes,
        "warnings": conclusion.warnings,
        "errors": [
            {"key": problem.key, "value": problem.value, "reason": problem.reason, "origin": problem.origin}
            for problem in conclusion.problems
        ],
    }
    return json.dumps(document, indent=2)


def _worth_showing(conclusion: Conclusion) -> list[Effective]:
    """All of our keys, and those of the reference without effect only when somebody set them."""
    return [
        effective
        for name, effective in conclusion.values.items()
        if not effective.key.instead or conclusion.given(name)
    ]


def _cells(conclusion: Conclusion, effective: Effective) -> tuple[str, str, str]:
    key = effective.key
    shown = "(refused)" if key.name in conclusion.broken else key.shown(effective.value)
    return key.name, shown, effective.origin


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown_page(), encoding="utf-8")
