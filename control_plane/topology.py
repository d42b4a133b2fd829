"""The table of processes: name, role, cores, links, and how much shared memory all of it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trackside.data_plane.spec import MIB, LinkSpec, Role, Settings, SlotSpec
from trackside.shm.layout import LIVENESS_BYTES, CountersLayout
from trackside.shm.ring import ring_bytes

__all__ = ["CONTROL_PLANE", "RECOVERY", "RingPlan", "Topology"]

CONTROL_PLANE = "control-plane"
FORWARDER = "forwarder"
RECOVERY = "recovery"

GATEWAY_DATA_BYTES = 16 * MIB
"""A gateway's rings that carry packets; half of one holds the largest request, a quarter is one topic's share."""

CONTROL_DATA_BYTES = 8 * MIB
"""The control plane's rings that carry packets: twice the largest record."""

COUNTER_ROWS: dict[Role, int] = {"gateway": 8192, "producer": 3072}
"""Rows of a process's counters: what is counted by stream and connection is bounded in the data plane, and fits."""

OTHER_COUNTER_ROWS = 512

OTHER_BYTES = MIB
"""Rings that carry requests and news only."""


class RingPlan(NamedTuple):
    path: str
    ring_id: str
    capacity_bytes: int


class Topology:
    """Everything that is laid out in one instance's folder. Pure planning: makes nothing, starts nothing."""

    def __init__(self, settings: Settings, instance: Path) -> None:
        self.settings = settings
        self.instance = instance
        self.names = list(_names(settings))
        self._cores = _assign_cores(self.names, settings)

    def slots(self, doorbells: dict[str, int]) -> list[SlotSpec]:
        return [
            SlotSpec(
                name=name,
                role=role,
                index=index,
                liveness=str(self.instance / f"{name}.liveness"),
                counters=str(self.instance / f"{name}.counters"),
                doorbell=doorbells[name],
                cores=self._cores.get(name, []),
            )
            for name, role, index in self.names
        ]

    def links(self) -> list[LinkSpec]:
        """Every peer with every log worker."""
        folder = self.instance / "links"
        return [
            LinkSpec(
                peer=peer,
                worker=worker,
                down=str(folder / f"{peer}.{worker}.down.ring"),
                up=str(folder / f"{peer}.{worker}.up.ring"),
            )
            for peer in self._named("gateway", "control-plane")
            for worker in self._named("producer", "consumer")
        ]

    def rings(self) -> Iterator[RingPlan]:
        for link in self.links():
            data = CONTROL_DATA_BYTES if link.peer == CONTROL_PLANE else GATEWAY_DATA_BYTES
            to_producer = link.worker.startswith("producer")
            yield RingPlan(link.down, self._ring_id(link, "down"), data if to_producer else OTHER_BYTES)
            yield RingPlan(link.up, self._ring_id(link, "up"), OTHER_BYTES if to_producer else data)

    @staticmethod
    def counter_rows(role: Role) -> int:
        return COUNTER_ROWS.get(role, OTHER_COUNTER_ROWS)

    def log_tables(self) -> list[str]:
        return [str(self.instance / f"{name}.log-table") for name in self._named("producer")]

    def shared_bytes(self) -> int:
        """What the run directory's tmpfs must have free for this shape."""
        slots = sum(LIVENESS_BYTES + CountersLayout(self.counter_rows(role)).segment_bytes for _, role, _ in self.names)
        return (
            slots
            + sum(ring_bytes(ring.capacity_bytes) for ring in self.rings())
            + (len(self.log_tables()) + bool(self.settings.forward_to)) * MIB
        )

    def _ring_id(self, link: LinkSpec, direction: str) -> str:
        return f"{self.instance.name}/{link.peer}.{link.worker}.{direction}"

    def _named(self, *roles: Role) -> list[str]:
        return [name for name, role, _ in self.names if role in roles]


def _names(settings: Settings) -> Iterator[tuple[str, Role, int]]:
    """In the order in which they are shown and started."""
    for index in range(settings.gateways):
        yield f"gateway-{index}", "gateway", index
    for index in range(settings.producers):
        yield f"producer-{index}", "producer", index
    for index in range(settings.consumers):
        yield f"consumer-{index}", "consumer", index
    yield CONTROL_PLANE, "control-plane", 0
    if settings.forward_to:
        yield FORWARDER, "forwarder", 0
    yield RECOVERY, "recovery", 0


def _assign_cores(names: list[tuple[str, Role, int]], settings: Settings) -> dict[str, list[int]]:
    """Gateways, producers and consumers on cores of their own, everything else on the rest.

    Where that leaves no core for the rest (up to three cores, or more workers than cores) nobody is pinned to a
    single core: all share the cores that were given.
    """
    cores = sorted(settings.cores if settings.cores is not None else os.sched_getaffinity(0))
    pinned = [name for name, role, _ in names if role in ("gateway", "producer", "consumer")]
    if len(cores) <= len(pinned) or len(cores) <= 3:
        return {name: cores for name, _, _ in names}
    rest, own = cores[: -len(pinned)], cores[-len(pinned) :]
    assigned = {name: [core] for name, core in zip(pinned, own, strict=True)}
    return {name: assigned.get(name, rest) for name, _, _ in names}
