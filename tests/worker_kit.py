"""Workers without processes: real rings and liveness in a folder, the agents driven by hand over a log in memory."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from trackside.control_plane.topology import Topology
from trackside.data_plane.peer import Peer
from trackside.data_plane.spec import Settings, WorkerSpec
from trackside.data_plane.worker import Worker
from trackside.shm.counters import create_counters
from trackside.shm.liveness import WorkerState, create_doorbell, create_liveness
from trackside.shm.ring import create_ring

__all__ = ["Kit", "move"]


class Kit:
    """One instance's shared memory; ``worker(name)`` is a process's view of it (each call another incarnation)."""

    def __init__(
        self, folder: Path, settings: Settings | None = None, name: str = "000001-test", ring_bytes: int = 1 << 20
    ) -> None:
        self.settings = settings or Settings()
        self.settings = msgspec.structs.replace(self.settings, run_dir=str(folder), data_dir=str(folder / "data"))
        self.instance = folder / name
        (self.instance / "links").mkdir(parents=True)
        topology = Topology(self.settings, self.instance)
        self._doorbells = {name: create_doorbell() for name, _, _ in topology.names}
        self.slots = topology.slots(self._doorbells)
        self.links = topology.links()
        for ring in topology.rings():
            create_ring(ring.path, capacity_bytes=min(ring.capacity_bytes, ring_bytes), ring_id=ring.ring_id)
        for slot in self.slots:
            create_liveness(slot.liveness, slot.name)
            create_counters(slot.counters, slot.name)

    def worker(self, name: str) -> Worker:
        slot = next(slot for slot in self.slots if slot.name == name)
        spec = WorkerSpec(
            name=name,
            role=slot.role,
            index=slot.index,
            epoch=0,
            parent_pid=os.getppid(),
            instance=str(self.instance),
            settings=self.settings,
            slots=self.slots,
            links=[link for link in self.links if name in (link.peer, link.worker)],
            all_links=self.links,
            control_socket=str(self.instance / "control.sock"),
            log_tables=[],
        )
        worker = Worker(spec)
        worker.liveness.epoch += 1
        worker.spec = msgspec.structs.replace(spec, epoch=worker.liveness.epoch)
        worker.liveness.state = WorkerState.READY
        return worker

    def peer(self, name: str = "gateway-0") -> Peer:
        """A peer that is not started: a test moves it with ``move``. Wants a running loop for its futures."""
        return Peer(self.worker(name))

    def close(self) -> None:
        """Give back the doorbells; nobody may be woken any more."""
        for doorbell in self._doorbells.values():
            os.close(doorbell)


def move(peer: Peer) -> None:
    """What the doorbell would make a peer do."""
    peer.take_news()
    peer._settle()
