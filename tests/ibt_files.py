"""Makes small .ibt files, whole and broken, from a description of their variables."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

__all__ = ["TICK_HZ", "ibt_bytes", "write_ibt"]

TICK_HZ = 60
INT, FLOAT, DOUBLE, BOOL, CHAR = 2, 4, 5, 1, 0
_FORMATS = {CHAR: "S1", BOOL: "?", INT: "<i4", FLOAT: "<f4", DOUBLE: "<f8"}
VARIABLES = (
    ("SessionTime", DOUBLE, 1, False, "Seconds since session start", "s"),
    ("Speed", FLOAT, 1, False, "GPS vehicle speed", "m/s"),
    ("Gear", INT, 1, False, "-1=reverse  0=neutral  1..n=current gear", ""),
    ("Lap", INT, 1, False, "Laps started count", ""),
    ("OnPitRoad", BOOL, 1, False, "Is the player car on pit road", ""),
    ("TrackSurface", INT, 1, False, "Surface", "irsdk_TrkLoc"),
    ("Torque_ST", FLOAT, 6, True, "Steering torque at 360 Hz", "N*m"),
    ("Corners", FLOAT, 4, False, "One number a wheel", "m"),
    ("Driver", CHAR, 8, False, "Text, no number", ""),
)


def tick_dtype() -> np.dtype:
    return np.dtype([(name, _FORMATS[kind], (count,)) for name, kind, count, *_ in VARIABLES])


def ticks_of(count: int) -> np.ndarray:
    """A drive in which everything is a function of the tick's number."""
    ticks = np.zeros(count, tick_dtype())
    number = np.arange(count)
    ticks["SessionTime"][:, 0] = number / TICK_HZ
    ticks["Speed"][:, 0] = number * 0.5
    ticks["Gear"][:, 0] = number % 7 - 1
    ticks["Lap"][:, 0] = 1 + number // 50
    ticks["OnPitRoad"][:, 0] = number < 10
    ticks["Torque_ST"] = number[:, None] * 6 + np.arange(6)
    ticks["Corners"] = number[:, None] + np.arange(4) / 10
    return ticks


def ibt_bytes(ticks: int = 120, **changes: int) -> bytes:
    """A recording. ``changes`` overwrite header fields: version, tick_hz, variables, table, tick_bytes, start, promised."""
    dtype = tick_dtype()
    table = 144
    start = table + len(VARIABLES) * 144
    fields = {
        "version": 2,
        "tick_hz": TICK_HZ,
        "variables": len(VARIABLES),
        "table": table,
        "tick_bytes": dtype.itemsize,
        "start": start,
        "promised": ticks,
    } | changes
    header = struct.pack(
        "<12i", fields["version"], 1, fields["tick_hz"], 0, 0, start, fields["variables"], fields["table"], 1,
        fields["tick_bytes"], 0, 0,
    )  # fmt: skip
    buffers = struct.pack("<16i", 7, fields["start"], *[0] * 14)
    sub_header = struct.pack("<qddii", 1_681_113_045, 0.0, ticks / TICK_HZ, 1, fields["promised"])
    return header + buffers + sub_header + _table(dtype) + ticks_of(ticks).tobytes()


def _table(dtype: np.dtype) -> bytes:
    return b"".join(
        struct.pack(
            "<iii?3x32s64s32s", kind, dtype.fields[name][1], count, as_time, name.encode(), text.encode(), unit.encode()
        )
        for name, kind, count, as_time, text, unit in VARIABLES
    )


def write_ibt(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
