"""A server whose wall clock a test can step, all its processes at once; the machine's own is left alone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from server import Server

__all__ = ["HOUR_SECONDS", "give_stepped_clock", "step_clock"]

HOUR_SECONDS = 3600

_FIRST = Path(__file__).with_name("stepped_clock")


def give_stepped_clock(server: Server) -> None:
    """Before it is started."""
    step_clock(server, 0)
    found = filter(None, (str(_FIRST), os.environ.get("PYTHONPATH")))
    server.environment.update(PYTHONPATH=os.pathsep.join(found), TRACKSIDE_TEST_CLOCK=str(_file(server)))


def step_clock(server: Server, ahead_seconds: int) -> None:
    """From now on its clock is so far ahead of the machine's; negative: behind."""
    with open(os.open(_file(server), os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.write(struct.pack("<q", ahead_seconds * 1_000_000_000))


def _file(server: Server) -> Path:
    return server.folder / "clock"
