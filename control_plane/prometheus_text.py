"""Prometheus' text format, version 0.0.4: families of samples in, bytes out.

https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "Sample", "encode"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Sample(NamedTuple):
    """One line. ``suffix`` follows the family's name: histograms have ``_bucket``, ``_sum`` and ``_count``."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """All samples of one metric; ``kind`` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def encode(families: Iterable[Family]) -> bytes:
    """A family without a sample is announced all the same: so one sees what there will be."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines.extend(_line(family.name, sample) for sample in family.samples)
    return "\n".join([*lines, ""]).encode()


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{value.translate(_LABEL_ESCAPES)}"' for label, value in sample.labels.items())
    return f"{name}{sample.suffix}{'{' + labels + '}' if labels else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    """Whole numbers in full: a counter must not lose its last digits."""
    return str(value) if isinstance(value, int) else repr(float(value))
