"""Producers and recoveries that are killed between any two of their steps, while topics are blocked and taken again.

A *step* is whatever a death can come between: a write to the park, a commit, an entry in the log, a message to a peer.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_log import MemoryLog, MemoryWriter
from worker_kit import Kit, move

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.control_plane.run_directory import unlogged_bytes
from trackside.data_plane import park_file, recovery
from trackside.data_plane.link import PeerLink
from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.log import LogWriter, Partition
from trackside.data_plane.log_backend import live_rings
from trackside.data_plane.park_file import ParkFile
from trackside.data_plane.partition_tail import PartitionTail
from trackside.data_plane.peer import Parcel, Peer, ProducerProxy
from trackside.data_plane.producer import Producer
from trackside.data_plane.record import Record, Route
from trackside.data_plane.recovery import recover
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import Worker
from trackside.shm.ring import RingReader

__all__ = ["Killed", "KilledAt", "LocalStore", "MemoryStore", "ParkBench", "Store"]

ROUTES = (
    Route("Car", 0, b"", "Car_essential", b"", "Car"),
    Route("Car", 0, b"", "", b"", "Car"),
    Route("Car", 1, b"", "", b"", "Car"),
    Route("Car.Lap", 0, b"", "", b"", "Car"),
    Route("Boat", 0, b"", "Boat_essential", b"", "Boat"),
    Route("Boat", 0, b"", "", b"", "Boat"),
)
RING_BYTES = 1 << 17
BLOCKABLE = ("Car", "Car/1", "Car_essential", "Car.Lap", "Boat")
PARTED = "Car/"
"""The one with several partitions."""


class Killed(BaseException):
    """What SIGKILL is to a process, as far as a test in one can have it."""


class KilledAt:
    """Counts steps and kills before one of them; a write to the park may be cut short there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.kill_at = -1
        self.armed = False  # while a mortal works
        self.killed = False  # the last of them was
        self.torn = 0.0
        self.parks: list[ParkFile] = []  # of the dead, too, who did not close theirs
        self._pwrite = os.pwrite
        monkeypatch.setattr(park_file.os, "pwrite", self._write)
        for place, name in (
            (park_file.os, "rename"),
            (park_file.os, "ftruncate"),
            (Path, "unlink"),
            (shutil, "rmtree"),
            (RingReader, "commit"),
            (PeerLink, "try_send"),
            (MemoryWriter, "_log_one"),
            (PartitionTail, "append"),
        ):
            monkeypatch.setattr(place, name, self._stepping(getattr(place, name)))
        monkeypatch.setattr(recovery, "PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(ParkFile, "_open_existing", self._remembering(ParkFile._open_existing))

    def _remembering(self, call: Callable[[ParkFile], None]) -> Callable[[ParkFile], None]:
        def remembered(file: ParkFile) -> None:
            self.parks.append(file)
            call(file)

        return remembered

    def _stepping(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            if self._step():
                raise Killed
            return call(*arguments, **named)

        return stepped

    def _write(self, fd: int, data: Any, position: int) -> int:
        if self._step():
            self._pwrite(fd, bytes(data)[: int(len(data) * self.torn)], position)
            raise Killed
        return self._pwrite(fd, data, position)

    def _step(self) -> bool:
        self.steps += self.armed
        self.killed = self.killed or (self.armed and self.steps == self.kill_at)
        return self.armed and self.steps == self.kill_at


class Store(abc.ABC):
    """A log that can be blocked topic by topic, and asked what it has."""

    exactly_once = False
    blocked: set[str]

    @abc.abstractmethod
    def writer(self, worker: Worker) -> LogWriter: ...

    @abc.abstractmethod
    def has(self, topic: str) -> list[int]: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Nobody writes any more."""


class MemoryStore(Store):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = MemoryLog()
        self.blocked = self.log.blocked

    def writer(self, worker: Worker) -> LogWriter:
        return MemoryWriter(self.log)

    def has(self, topic: str) -> list[int]:
        return [Packet.FromString(entry.value).id for entry in self.log.partitions.get(_partition(topic), [])]

    def close(self) -> None:
        """It has no files."""


class LocalStore(Store):
    exactly_once = True

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocked = set()
        self._data_dir = folder / "data"
        self._tables: list[Path] = []
        self._clock = itertools.count()  # each look at it is a second later
        self._writers: dict[str, LocalLogWriter] = {}
        append = PartitionTail.append

        def refusing(tail: PartitionTail, *arguments: Any) -> int:
            topic, number = tail._place.partition
            if not self.blocked.isdisjoint({topic, f"{topic}/{number}"}):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return append(tail, *arguments)

        monkeypatch.setattr(PartitionTail, "append", refusing)
        monkeypatch.setattr(os, "fsync", lambda fd: None)  # processes die here, not the machine

    def writer(self, worker: Worker) -> LogWriter:
        name, instance = worker.spec.name, Path(worker.spec.instance)
        if name in self._writers:
            self._writers[name]._files.close()
        self._tables = [instance / f"{name}.log-table" for name in ("recovery", "producer-0", "producer-1")]
        made = self._writers[name] = LocalLogWriter(
            self._data_dir,
            instance / f"{name}.log-table",
            settings=Settings(segment_bytes=3000),
            live_rings=live_rings(worker.spec),
            monotonic=lambda: float(next(self._clock)),
        )
        return made

    def has(self, topic: str) -> list[int]:
        reader = LocalLogReader(self._data_dir, self._tables)
        cursor = reader.open(_partition(topic), 0)
        found: list[int] = []
        while (run := cursor.read(1 << 20)) is not None:
            found += [Packet.FromString(value).id for value in run.values]
        reader.close()
        return found

    def close(self) -> None:
        for dead in self._writers.values():
            dead._files.close()


def _partition(place: str) -> Partition:
    topic, _, number = place.partition("/")
    return Partition(topic, int(number))


class ParkBench:
    """Two gateways, one or two producers, and a log; ``accepted`` is what each topic has to get, in order."""

    def __init__(self, folder: Path, store: Store, steps: KilledAt, **settings: Any) -> None:
        folder.mkdir()
        self._folder = folder
        self._settings = msgspec.structs.replace(Settings(gateways=2), **settings)
        self._kits: list[Kit] = []
        self.store = store
        self.steps = steps
        self.accepted: dict[str, list[int]] = {}
        self._through: dict[int, Peer] = {}
        self._number = itertools.count()
        self._seconds = itertools.count()
        self.deaths = 0
        self.recoveries_died = 0
        self.producers: dict[str, Producer] = {}
        self.start_server()

    def start_server(self, producers: int = 1) -> None:
        """A new instance, with gateways that accept already."""
        self.producers.clear()
        settings = msgspec.structs.replace(self._settings, producers=producers)
        self.kit = Kit(self._folder, settings, f"{len(self._kits) + 1:06d}-test", RING_BYTES)
        self._kits.append(self.kit)
        self.peers: list[Peer] = [self.kit.peer("gateway-0"), self.kit.peer("gateway-1")]

    def append(self, chooser: random.Random) -> None:
        """One request of a gateway, with packets for several topics; what finds no room was not accepted."""
        routes = chooser.sample(ROUTES, chooser.randint(1, 3))
        rows = [chooser.randrange(len(routes)) for _ in range(chooser.randint(1, 4))]
        numbers = [next(self._number) for _ in rows]
        size = chooser.choice((0, 0, 300))
        peer = chooser.choice(self.peers)
        parts: dict[ProducerProxy, Record] = {}
        for row, number in zip(rows, numbers, strict=True):
            producer = peer.producer_of(routes[row].data_source)
            record = parts.setdefault(producer, Record(routes, [], []))
            record.indexes.append(row)
            record.packets.append(Packet(id=number, content=bytes(size)).SerializeToString())
        if not peer.try_append({producer: Parcel([record]) for producer, record in parts.items()}):
            return
        for row, number in zip(rows, numbers, strict=True):
            route = routes[row]
            for place in (f"{route.topic}/{route.partition}", route.essentials and f"{route.essentials}/0"):
                if place:
                    self.accepted.setdefault(place, []).append(number)
                    self._through[number] = peer

    def work(self, rounds: int = 1) -> None:
        """The producers' duty cycle, or that of the successor of one that dies."""
        for _ in range(rounds):
            for index in range(self.kit.settings.producers):
                self._work_as(f"producer-{index}")
            for peer in self.peers:
                move(peer)

    def _work_as(self, name: str) -> None:
        deaths = self.deaths
        with self._mortal():
            if name not in self.producers:
                worker = self.kit.worker(name)
                self.producers[name] = Producer(worker, self.store.writer(worker))
            self.producers[name]._look_at = 0.0
            self.producers[name]._answers_since = float("-inf")
            self.producers[name].do_work()
        if self.deaths > deaths:
            self.producers.pop(name, None)

    def recover(self, chooser: random.Random, *, all_die: bool) -> None:
        """The server has gone, and its successor's recovery logs or parks what it left; again when it dies itself, or
        with ``all_die`` that of the next successor. Topics may be blocked or taken when it dies."""
        self.start_server(chooser.randint(1, 2))
        self.append(chooser)
        while not self._recovers():
            if all_die:
                self.start_server(chooser.randint(1, 2))
            self.append(chooser)
            if chooser.random() < 0.5:
                self.steps.kill_at = self.steps.steps + chooser.randint(1, 60)
            if chooser.random() < 0.3:
                self.store.blocked ^= {chooser.choice(BLOCKABLE)}
        assert self.stale() == []

    def stale(self) -> list[Path]:
        """As a start of the server finds them: what holds nothing goes at once."""
        found = [folder for folder in sorted(self._folder.glob("*-test")) if folder != self.kit.instance]
        return [folder for folder in found if unlogged_bytes(folder) or shutil.rmtree(folder)]

    def _recovers(self) -> bool:
        stale = [str(path) for path in self.stale()]
        with self._mortal():
            worker = self.kit.worker("recovery")
            worker.spec = msgspec.structs.replace(worker.spec, stale_instances=stale)
            recover(worker, lambda: self._dying_with_us(self.store.writer(worker)), lambda: float(next(self._seconds)))
            return True
        self.recoveries_died += 1
        return False

    def _dying_with_us(self, writer: LogWriter) -> LogWriter:
        """Who is killed does not close its log."""
        close = writer.close
        writer.close = lambda seconds: not self.steps.killed and close(seconds)  # type: ignore[method-assign]
        return writer

    @contextlib.contextmanager
    def _mortal(self) -> Iterator[None]:
        self.steps.armed, self.steps.killed = True, False
        try:
            yield
        except Killed:
            self.deaths += 1
        finally:
            self.steps.armed = False

    def finish(self) -> None:
        self.store.blocked.clear()
        for _ in range(60):
            self.work()
            producers = self.producers.values()
            if len(producers) == self.kit.settings.producers and all(producer.drained() for producer in producers):
                return
        raise AssertionError("not drained")

    def check(self) -> None:
        """Nothing lost, nothing swapped. Where the log may have a packet twice, it has all behind it of the same ring
        twice, too: but for copies that a recovery leaves which dies between hand-over and clean-up, and for a topic of
        which one partition is blocked and another is not (decision 19)."""
        for topic, accepted in self.accepted.items():
            found = self.store.has(topic)
            if self.store.exactly_once:
                assert found == accepted, topic
                continue
            assert list(dict.fromkeys(found)) == accepted, topic
            if self.recoveries_died or topic.startswith(PARTED):
                continue
            for peer in set(self._through.values()):
                self._check_repeats(topic, *([n for n in of if self._through[n] is peer] for of in (accepted, found)))

    @staticmethod
    def _check_repeats(topic: str, accepted: list[int], found: list[int]) -> None:
        places = [accepted.index(number) for number in found]
        jumps = [(a, b) for a, b in itertools.pairwise([-1, *places]) if b > a + 1]
        assert not jumps and places[-1:] in ([], [len(accepted) - 1]), f"{topic}: {found}"

    def close(self) -> None:
        """Give back the descriptors of everybody who has lived here."""
        self.store.close()
        for park in self.steps.parks:
            park.close()
        self.steps.parks.clear()
        for kit in self._kits:
            kit.close()
