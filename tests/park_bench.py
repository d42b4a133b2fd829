"""Producers and recoveries that are killed between any two of their steps, while topics are blocked and taken again.

A *step* is whatever a death can come between: a write to the park, a commit, an entry in the log, a message to a peer.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_log import MemoryLog, MemoryWriter
from worker_kit import Kit, move

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane import park_file
from trackside.data_plane.link import PeerLink
from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.log import LogWriter, Partition
from trackside.data_plane.park_file import ParkFile
from trackside.data_plane.partition_tail import PartitionTail
from trackside.data_plane.peer import Parcel, Peer
from trackside.data_plane.producer import Producer
from trackside.data_plane.record import Record, Route
from trackside.data_plane.recovery import recover_instance
from trackside.data_plane.spec import Settings
from trackside.shm.ring import RingReader

__all__ = ["Killed", "KilledAt", "LocalStore", "MemoryStore", "ParkBench", "Store"]

ROUTES = (
    Route("Car", 0, b"", "Car_essential", b"", "Car"),
    Route("Car", 0, b"", "", b"", "Car"),
    Route("Car.Lap", 0, b"", "", b"", "Car"),
    Route("Boat", 0, b"", "Boat_essential", b"", "Boat"),
    Route("Boat", 0, b"", "", b"", "Boat"),
)
BLOCKABLE = ("Car", "Car_essential", "Car.Lap", "Boat")


class Killed(BaseException):
    """What SIGKILL is to a process, as far as a test in one can have it."""


class KilledAt:
    """Counts steps and kills before one of them; a write to the park may be cut short there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.kill_at = -1
        self.armed = False  # while a mortal works
        self.torn = 0.0
        self.parks: list[ParkFile] = []  # of the dead, too, who did not close theirs
        self._pwrite = os.pwrite
        monkeypatch.setattr(park_file.os, "pwrite", self._write)
        for place, name in (
            (park_file.os, "rename"),
            (park_file.os, "ftruncate"),
            (RingReader, "commit"),
            (PeerLink, "try_send"),
            (MemoryWriter, "_log_one"),
            (PartitionTail, "append"),
        ):
            monkeypatch.setattr(place, name, self._stepping(getattr(place, name)))
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
        return self.armed and self.steps == self.kill_at


class Store:
    """A log that can be blocked topic by topic, and asked what it has."""

    exactly_once = False
    blocked: set[str]

    def writer(self) -> LogWriter:
        raise NotImplementedError

    def has(self, topic: str) -> list[int]:
        raise NotImplementedError

    def close(self) -> None:
        """Nobody writes any more."""


class MemoryStore(Store):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = MemoryLog()
        self.blocked = self.log.blocked

    def writer(self) -> LogWriter:
        return MemoryWriter(self.log)

    def has(self, topic: str) -> list[int]:
        return [Packet.FromString(entry.value).id for entry in self.log.partitions.get(Partition(topic, 0), [])]


class LocalStore(Store):
    exactly_once = True

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocked = set()
        self._data_dir, self._table = folder / "data", folder / "ends"
        self._clock = itertools.count()  # each look at it is a second later
        self._writers: list[LocalLogWriter] = []
        append = PartitionTail.append

        def refusing(tail: PartitionTail, *arguments: Any) -> int:
            if tail._place.partition.topic in self.blocked:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return append(tail, *arguments)

        monkeypatch.setattr(PartitionTail, "append", refusing)
        monkeypatch.setattr(os, "fsync", lambda fd: None)  # processes die here, not the machine

    def writer(self) -> LogWriter:
        self.close()
        made = LocalLogWriter(
            self._data_dir,
            self._table,
            settings=Settings(segment_bytes=3000),
            live_rings=["000001-test"],
            monotonic=lambda: float(next(self._clock)),
        )
        self._writers = [made]
        return made

    def has(self, topic: str) -> list[int]:
        reader = LocalLogReader(self._data_dir, [self._table])
        cursor = reader.open(Partition(topic, 0), 0)
        found: list[int] = []
        while (run := cursor.read(1 << 20)) is not None:
            found += [Packet.FromString(value).id for value in run.values]
        reader.close()
        return found

    def close(self) -> None:
        for dead in self._writers:
            dead._files.close()


class ParkBench:
    """Two gateways, one producer at a time, and a log; ``accepted`` is what each topic has to get, in order."""

    def __init__(self, folder: Path, store: Store, steps: KilledAt, **settings: Any) -> None:
        folder.mkdir()
        self.kit = Kit(folder, msgspec.structs.replace(Settings(gateways=2), **settings))
        self.store = store
        self.steps = steps
        self.peers: list[Peer] = [self.kit.peer("gateway-0"), self.kit.peer("gateway-1")]
        self.accepted: dict[str, list[int]] = {}
        self._number = itertools.count()
        self.deaths = 0
        self.producer: Producer | None = None

    def append(self, chooser: random.Random) -> None:
        """One request of a gateway, with packets for several topics; what finds no room was not accepted."""
        routes = chooser.sample(ROUTES, chooser.randint(1, 3))
        rows = [chooser.randrange(len(routes)) for _ in range(chooser.randint(1, 4))]
        numbers = [next(self._number) for _ in rows]
        size = chooser.choice((0, 0, 300))
        packets = [Packet(id=number, content=bytes(size)).SerializeToString() for number in numbers]
        peer = chooser.choice(self.peers)
        producer = peer.producers[0]
        if not peer.try_append({producer: Parcel([Record(routes, rows, packets)])}):
            return
        for row, number in zip(rows, numbers, strict=True):
            for topic in filter(None, (routes[row].topic, routes[row].essentials)):
                self.accepted.setdefault(topic, []).append(number)

    def work(self, rounds: int = 1) -> None:
        """The producer's duty cycle, or that of its successor when it dies."""
        for _ in range(rounds):
            with self._mortal():
                if self.producer is None:
                    self.producer = Producer(self.kit.worker("producer-0"), self.store.writer())
                self.producer._look_at = 0.0
                self.producer.do_work()
            for peer in self.peers:
                move(peer)

    def recover(self) -> None:
        """The server has gone, and its successor's recovery logs what it left; again, when it dies itself."""
        self.producer = None
        blocked, self.store.blocked = set(self.store.blocked), self.store.blocked
        self.store.blocked.clear()
        done = False
        while not done:
            with self._mortal():
                recover_instance(self.kit.worker("recovery"), self.store.writer(), self.kit.instance)
                done = True
        self.store.blocked.update(blocked)

    @contextlib.contextmanager
    def _mortal(self) -> Iterator[None]:
        self.steps.armed = True
        try:
            yield
        except Killed:
            self.deaths += 1
            self.producer = None
        finally:
            self.steps.armed = False

    def finish(self) -> None:
        self.store.blocked.clear()
        for _ in range(60):
            self.work()
            if self.producer is not None and self.producer.drained():
                return
        raise AssertionError("not drained")

    def check(self) -> None:
        """Nothing lost, nothing swapped: where the log may have a packet twice, it has it in order the first time."""
        for topic, accepted in self.accepted.items():
            found = self.store.has(topic)
            if self.store.exactly_once:
                assert found == accepted, topic
                continue
            assert list(dict.fromkeys(found)) == accepted, topic

    def close(self) -> None:
        """Give back the descriptors of everybody who has lived here."""
        self.store.close()
        for park in self.steps.parks:
            park.close()
        self.steps.parks.clear()
        self.kit.close()
