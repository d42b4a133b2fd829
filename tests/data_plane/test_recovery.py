"""Recovery, called by hand: it commits nothing that the log does not have, and may die at any point and run again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from memory_log import MemoryLog, MemoryWriter
from worker_kit import Kit

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.peer import Parcel
from trackside.data_plane.record import Record, Route
from trackside.data_plane.recovery import recover_instance, write_rings_of
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import Worker
from trackside.shm.ring import RingView

COUNT = 40


class Killed(BaseException):
    """What SIGKILL is to a process, as far as a test in one can have it."""


class DyingWriter(MemoryWriter):
    """Logs ``steps`` records, then the process is gone."""

    def __init__(self, log: MemoryLog, steps: int) -> None:
        super().__init__(log)
        self._steps = steps

    def do_work(self) -> int:
        whole, left = self._waiting, self._steps
        rest = {}
        self._waiting = {}
        for place, pieces in whole.items():
            self._waiting[place], rest[place] = pieces[:left], pieces[left:]
            left -= len(self._waiting[place])
        super().do_work()
        self._waiting = {place: pieces for place, pieces in rest.items() if pieces}
        if self._steps == 0:
            raise Killed
        self._steps = 0
        return 1


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """An instance that died with packets in the rings of two gateways and the control plane, to two producers."""
    kit = Kit(tmp_path, msgspec.structs.replace(Settings(), gateways=2, producers=2))
    peers = [kit.peer(name) for name in ("gateway-0", "gateway-1", "control-plane")]
    for number in range(COUNT):
        data_source = f"Car{number % 5}"
        packet = Packet(id=number).SerializeToString()
        peer = peers[number % 3]
        record = Record([Route(data_source, 0, b"")], [0], [packet])
        assert peer.try_append({peer.producer_of(data_source): Parcel([record])})
    return kit


def logged(log: MemoryLog) -> dict[str, list[int]]:
    return {
        partition.topic: [Packet.FromString(entry.value).id for entry in entries]
        for partition, entries in log.partitions.items()
    }


EVERYTHING = {f"Car{i}": list(range(i, COUNT, 5)) for i in range(5)}


def uncommitted(kit: Kit) -> int:
    return sum(RingView(path).used_bytes for path in write_rings_of(kit.instance))


def worker_of(kit: Kit) -> Worker:
    return kit.worker("recovery")


def test_everything_reaches_the_log_in_order_of_publishing(kit: Kit) -> None:
    log = MemoryLog()
    assert recover_instance(worker_of(kit), MemoryWriter(log), kit.instance) == COUNT
    assert logged(log) == EVERYTHING and uncommitted(kit) == 0


def test_nothing_is_committed_while_the_log_is_away(kit: Kit) -> None:
    log = MemoryLog()
    log.available = False
    worker = worker_of(kit)
    before = uncommitted(kit)

    class Stopping(MemoryWriter):
        looks = 0

        def do_work(self) -> int:
            self.looks += 1
            worker.stopping = self.looks > 3
            return super().do_work()

    recover_instance(worker, Stopping(log), kit.instance)
    assert uncommitted(kit) == before and log.partitions == {}
    assert worker.liveness.read_reason() == "the test took it away"


@pytest.mark.parametrize("steps", [1, 7, COUNT - 1])
def test_killed_in_the_middle_and_run_again(kit: Kit, steps: int) -> None:
    """What the log had and the rings did not know may stand twice here (the real logs recognise it), never swapped."""
    log = MemoryLog()
    with pytest.raises(Killed):
        recover_instance(worker_of(kit), DyingWriter(log, steps), kit.instance)
    assert uncommitted(kit) > 0
    recover_instance(worker_of(kit), MemoryWriter(log), kit.instance)
    for topic, numbers in logged(log).items():
        first_stand = list(dict.fromkeys(numbers))
        assert set(numbers) == set(EVERYTHING[topic])
        assert first_stand == EVERYTHING[topic]
    assert uncommitted(kit) == 0


def test_the_rings_of_all_peers_to_all_producers_are_found(kit: Kit) -> None:
    names = {path.name for path in write_rings_of(kit.instance)}
    assert {
        f"{peer}.producer-{i}.down.ring" for peer in ("gateway-0", "gateway-1", "control-plane") for i in (0, 1)
    } == names
