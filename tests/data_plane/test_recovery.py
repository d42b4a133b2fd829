"""Recovery, called by hand: it commits nothing that the log does not have, and may die at any point and run again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from memory_log import MemoryLog, MemoryWriter
from worker_kit import Kit

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.log import LogWriter, Partition, Refusal
from trackside.data_plane.log_backend import live_rings
from trackside.data_plane.park_file import ParkEntry, ParkFile, parked_bytes, rings_in_parks
from trackside.data_plane.peer import Parcel
from trackside.data_plane.producer import Producer
from trackside.data_plane.record import Record, Route
from trackside.data_plane.recovery import Recovery, recover, write_rings_of
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import Worker
from trackside.shm.ring import RingView

COUNT = 40


def recover_instance(worker: Worker, log: LogWriter, instance: Path) -> int:
    return Recovery(worker, log).recover(instance)


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


# -- blocked topics ---------------------------------------------------------------------------------------------------


class LateWriter(MemoryWriter):
    """Everything that waits has waited for too long."""

    def overdue(self, seconds: float) -> set[str]:
        return {place.topic for place, piece in self._pieces() if not piece.number}


class Restart:
    """The instance that died, and the one after it."""

    def __init__(self, folder: Path, old: Kit, log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.old, self.log = old, log
        self.writer = MemoryWriter
        self.new = Kit(folder, old.settings, "000002-test")
        self.worker = self.new.worker("recovery")
        self.worker.spec = msgspec.structs.replace(self.worker.spec, stale_instances=[str(old.instance)])
        self.rounds = 0
        self._seconds = itertools.count()
        self._stop_after = 0
        monkeypatch.setattr(Recovery, "_pause", lambda _recovery, _done: self._count_round())

    def _count_round(self) -> None:
        self.rounds += 1
        self.worker.stopping = self.rounds == self._stop_after

    def recover(self, rounds: int = 1000) -> None:
        """Each look at the clock is a second later than the last. Told to stop after ``rounds`` of waiting."""
        self._stop_after = self.rounds + rounds
        self.worker.stopping = False
        recover(self.worker, lambda: self.writer(self.log), lambda: float(next(self._seconds)))

    def start_producers(self) -> Iterator[Producer]:
        for index in range(self.new.settings.producers):
            worker = self.new.worker(f"producer-{index}")
            yield Producer(worker, MemoryWriter(self.log))


@pytest.fixture
def restart(tmp_path: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> Restart:
    return Restart(tmp_path, kit, MemoryLog(), monkeypatch)


def test_blocked_topics_go_to_their_producers_and_keep_nobody_from_serving(restart: Restart) -> None:
    restart.log.blocked |= {"Car0", "Car1", "Car4"}
    restart.recover()
    assert logged(restart.log) == {topic: EVERYTHING[topic] for topic in ("Car2", "Car3")}
    assert not restart.old.instance.exists()
    producers = list(restart.start_producers())
    assert all(producer._parking.topics for producer in producers), "each has some"
    restart.log.blocked.clear()
    for producer in producers:
        producer.do_work()
        assert producer.drained()
    assert logged(restart.log) == EVERYTHING


def test_while_the_log_is_away_nothing_is_parked_nor_right_after_it_has_come_back(restart: Restart) -> None:
    restart.writer = LateWriter
    restart.log.available = False
    before = uncommitted(restart.old)
    restart.recover(rounds=100)
    assert uncommitted(restart.old) == before and parked_bytes(restart.old.instance) == 0
    assert restart.worker.liveness.read_reason() == "the test took it away"
    restart.log.available = True
    restart.recover()
    assert logged(restart.log) == EVERYTHING and parked_bytes(restart.new.instance) == 0


def test_without_room_for_the_copy_the_recovery_waits_and_says_so(
    restart: Restart, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart.log.blocked.add("Car0")
    with monkeypatch.context() as patch:
        limit = ParkFile.bytes_limit
        patch.setattr(ParkFile, "bytes_limit", lambda file: 0 if file.path.parent.name == "parks.new" else limit(file))
        restart.recover(rounds=100)
    reason = "no room for a copy in the run directory; parked: Car0"
    assert restart.worker.liveness.read_reason() == reason and parked_bytes(restart.old.instance) > 0
    restart.recover()
    assert parked_bytes(restart.new.instance) > 0 and not restart.old.instance.exists()


def test_without_room_in_the_park_the_rings_keep_it(restart: Restart, monkeypatch: pytest.MonkeyPatch) -> None:
    restart.log.blocked.add("Car0")
    with monkeypatch.context() as patch:
        patch.setattr(ParkFile, "bytes_limit", lambda _: 0)
        restart.recover(rounds=100)
    assert "no room to park more" in restart.worker.liveness.read_reason() and uncommitted(restart.old) > 0
    restart.log.blocked.clear()
    restart.recover()
    assert {topic: list(dict.fromkeys(numbers)) for topic, numbers in logged(restart.log).items()} == EVERYTHING


def test_a_producer_bears_more_than_its_park_may_hold_and_refusals_of_the_dead(restart: Restart) -> None:
    restart.log.blocked.add("Car0")
    restart.recover()
    settings = msgspec.structs.replace(restart.new.settings, park_bytes=64)
    restart.new.settings = settings
    (producer,) = [producer for producer in restart.start_producers() if producer._parking.topics]
    ring = next(iter(rings_in_parks(restart.new.instance)))
    producer.log.refused.append(Refusal(ring, 1, 0, Partition("Car0", 0), "no"))  # type: ignore[attr-defined]
    producer.do_work()
    assert producer._parking.full
    restart.log.blocked.clear()
    producer.do_work()
    assert producer.drained() and not producer._parking.full
    assert logged(restart.log) == EVERYTHING


def test_the_local_log_keeps_positions_of_rings_that_are_only_in_parks_any_more(restart: Restart) -> None:
    park = ParkFile(restart.old.instance / "parks" / "producer-0.park", 1 << 20)
    park.append(
        ParkEntry(["Car"], "000000-before/gateway-0.producer-0.down", 9, 0, Record([Route("Car", 0, b"")], [], []))
    )
    assert "000000-before/gateway-0.producer-0.down" in live_rings(restart.worker.spec)


def test_a_copy_that_a_dead_server_was_about_to_need_alone_is_recognised(restart: Restart) -> None:
    """It had handed over, and died before the instances went that it had it from."""
    restart.log.blocked.add("Car1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recovery, "_discard", lambda _: None)
        restart.recover()
    assert parked_bytes(restart.old.instance) and parked_bytes(restart.new.instance)
    recovery = Recovery(restart.worker, MemoryWriter(restart.log))
    recovery._after_seconds = 0.0
    assert recovery.recover(restart.old.instance) == len(EVERYTHING["Car1"])
    assert recovery.recover(restart.new.instance) == 0
