"""A run directory made by hand: what observers see of a server, without a server."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from trackside.shm.counters import CounterTable, Metric, create_counters
from trackside.shm.liveness import Liveness, WorkerState, create_liveness
from trackside.shm.ring import RingReader, RingWriter, create_ring

__all__ = ["DEAD_PID", "FakeRunDirectory"]

DEAD_PID = 2**22 + 1
"""Larger than any process number that Linux gives out."""


class FakeRunDirectory:
    """Processes ``gateway-0`` and ``producer-0`` with one link; every number is set by the test."""

    def __init__(self, path: Path, capacity_bytes: int = 65_536) -> None:
        self.path = path
        self.described: dict[str, Any] = {
            "instance": "000001-feed",
            "pid": os.getpid(),
            "state": "SERVING",
            "reason": "",
            "port": 13579,
            "key_port": 15379,
            "log": "local /nowhere",
            "processes": [],
            "links": [],
        }
        for name, role in (("gateway-0", "gateway"), ("producer-0", "producer")):
            self._add_process(name, role)
        self._add_link("gateway-0", "producer-0", capacity_bytes)
        self.describe()

    def describe(self, **changes: object) -> None:
        self.described |= changes
        (self.path / "server.json").write_text(json.dumps(self.described))

    def liveness(self, name: str) -> Liveness:
        return Liveness(self.path / f"{name}.liveness")

    def run_as_us(self, name: str, **cells: int) -> Liveness:
        """The slot as if this very process filled it, ready."""
        slot = self.liveness(name)
        slot.pid, slot.epoch, slot.state = os.getpid(), 1, WorkerState.READY
        slot.started_ns = slot.heartbeat_ns = time.monotonic_ns()
        for cell, value in cells.items():
            setattr(slot, cell, value)
        return slot

    def count(self, name: str, metric: str, value: int, **labels: str) -> None:
        table = CounterTable(self.path / f"{name}.counters")
        table.counter(Metric(metric, "counter", tuple(labels), "For a test."), **labels).set(value)
        table.close()

    def writer(self) -> RingWriter:
        return RingWriter(self.path / "gateway-0.producer-0.down.ring")

    def reader(self) -> RingReader:
        return RingReader(self.path / "gateway-0.producer-0.down.ring")

    def _add_process(self, name: str, role: str) -> None:
        liveness, counters = self.path / f"{name}.liveness", self.path / f"{name}.counters"
        create_liveness(liveness, name)
        create_counters(counters, name)
        entry = {
            "name": name,
            "role": role,
            "pid": 0,
            "cores": [0],
            "liveness": str(liveness),
            "counters": str(counters),
        }
        self.described["processes"].append(entry)

    def _add_link(self, peer: str, worker: str, capacity_bytes: int) -> None:
        link = {"peer": peer, "worker": worker}
        for direction in ("down", "up"):
            path = self.path / f"{peer}.{worker}.{direction}.ring"
            create_ring(path, capacity_bytes=capacity_bytes, ring_id=f"000001-feed/{peer}.{worker}.{direction}")
            link[direction] = str(path)
        self.described["links"].append(link)
