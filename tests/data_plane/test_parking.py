"""Parking, seen from a gateway: one topic is blocked, and only its writers notice."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from agent_bench import Bench, logged, packet, record

from trackside.control_plane.log_port import Append
from trackside.control_plane.process import LinkedLog
from trackside.data_plane import park_file
from trackside.data_plane.link import PARKED_STILL, Parks
from trackside.data_plane.log import Partition, Refusal
from trackside.data_plane.packet_writer import _Unlogged
from trackside.data_plane.park_file import MAGIC, ParkDamaged, ParkEntry, ParkFile, parked_bytes
from trackside.data_plane.peer import LogUnavailable, Parcel
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

BOAT = Partition("Boat", 0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, msgspec.structs.replace(Settings(), park_after_seconds=0.0))


def look(bench: Bench) -> None:
    bench.producer._look_at = 0.0
    bench.settle(2)


def test_a_blocked_topic_holds_up_no_other(bench: Bench) -> None:
    down = bench.peer.producers[0].down
    bench.log.blocked.add("Car")
    bench.append(packet(1))
    bench.append(packet(2), topic="Boat")
    look(bench)
    assert down.commit_position == down.publish_position and logged(bench.log, BOAT) == [2]
    assert parked_bytes(bench.kit.instance) > 0
    assert bench.producer.worker.liveness.read_reason() == "parked: Car"
    bench.append(packet(3))
    bench.settle()
    assert down.commit_position == down.publish_position and logged(bench.log) == []
    bench.log.blocked.clear()
    look(bench)
    assert logged(bench.log) == [1, 3]
    assert parked_bytes(bench.kit.instance) == 0 and bench.producer.worker.liveness.read_reason() == ""


def test_who_waits_for_the_log_waits_for_what_is_parked_of_its_own_topics_only(bench: Bench) -> None:
    producer = bench.peer.producers[0]

    async def wait() -> None:
        bench.log.blocked.add("Car")
        bench.append(packet(1))
        car = {producer: {"Car": producer.down.publish_position}}
        bench.append(packet(2), topic="Boat")
        boat = {producer: {"Boat": producer.down.publish_position}}
        look(bench)
        assert await bench.peer.wait_committed({producer: producer.down.publish_position}, 0.01)
        assert await bench.peer.wait_logged(boat, 0.01)
        assert not await bench.peer.wait_logged(car, 0.05)
        waiting = asyncio.ensure_future(bench.peer.wait_logged(car, 30))
        await asyncio.sleep(0)
        bench.log.blocked.clear()
        look(bench)
        look(bench)
        assert await waiting

    asyncio.run(wait())


def test_who_waits_hears_that_a_parked_packet_became_a_dead_letter(bench: Bench) -> None:
    producer = bench.peer.producers[0]

    async def wait() -> None:
        bench.log.blocked.add("Car")
        accepted = bench.peer.try_append({producer: Parcel([record(packet(1))])})
        assert accepted is not None
        unlogged = _Unlogged(bench.peer)
        unlogged.add(accepted)
        look(bench)
        end = producer.down.publish_position
        waiting = asyncio.ensure_future(bench.peer.wait_logged({producer: {"Car": end}}, 30))
        await asyncio.sleep(0)
        ring = bench.peer.producers[0].down.ring_id
        bench.writer.refused.append(Refusal(ring, end, 0, Partition("Car", 0), "too large"))
        bench.log.blocked.clear()
        look(bench)
        look(bench)
        assert await waiting
        unlogged.look()
        assert unlogged.refused is not None and unlogged.refused.reason == "too large"

    asyncio.run(wait())


def test_what_is_sent_again_and_parked_is_not_reported_as_logged(bench: Bench) -> None:
    port = LinkedLog(bench.peer.worker, bench.peer)

    async def send() -> None:
        bench.log.blocked.add("Car")
        bench.append(packet(1))
        look(bench)
        sending = asyncio.ensure_future(
            port.append_again("Car", [Append(Partition("Car", 0), b"", packet(2), b"")], 0.2)
        )
        await asyncio.sleep(0)
        look(bench)
        down = bench.peer.producers[0].down
        assert down.commit_position == down.publish_position
        assert await sending is None

    asyncio.run(send())


def test_news_of_parks_wakes_only_those_that_it_is_about(bench: Bench) -> None:
    producer = bench.peer.producers[0]

    async def wait() -> None:
        producer.on_parks(Parks([("Car", 0, PARKED_STILL), ("Boat", 0, PARKED_STILL)]))
        car, later, boat = (producer.when_unparked(topic, end) for topic, end in (("Car", 8), ("Car", 16), ("Boat", 8)))
        producer.on_parks(Parks([("Car", 8, PARKED_STILL), ("Boat", 0, PARKED_STILL)]))
        assert car.done() and not later.done() and not boat.done()
        producer.on_parks(Parks([("Car", 8, 8), ("Boat", 0, 8)]))  # what ends above 8 is not in the park
        assert later.done() and not boat.done()
        boat.cancel()
        another = producer.when_unparked("Boat", 8)
        assert len(producer._park_waits["Boat"]) == 1  # the one that gave up is forgotten
        producer.on_parks(Parks([]))
        assert another.done() and not producer._park_waits

    asyncio.run(wait())


def test_a_full_park_refuses_writers_of_its_topics_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, msgspec.structs.replace(Settings(), park_after_seconds=0.0, park_bytes=20_000))

    async def fill() -> None:
        producer = bench.peer.producers[0]
        bench.log.blocked.add("Car")
        for number in range(10):
            bench.append(packet(number, 1000))
            look(bench)
        with pytest.raises(LogUnavailable, match=r"does not take topic Car, and the park of producer-0 .* is full"):
            await bench.peer.append({producer: Parcel([record(packet(99))])}, 0.05)
        bench.append(packet(1), topic="Boat")
        bench.log.blocked.clear()
        for _ in range(3):
            look(bench)
        bench.append(packet(10))
        bench.settle()

    asyncio.run(fill())
    assert logged(bench.log) == list(range(11)) and logged(bench.log, BOAT) == [1]


def test_what_finds_no_room_in_the_park_waits_in_the_ring_and_keeps_its_place(tmp_path: Path) -> None:
    bench = Bench(tmp_path, msgspec.structs.replace(Settings(), park_after_seconds=0.0, park_bytes=3000))
    down = bench.peer.producers[0].down
    bench.log.blocked.add("Car")
    for number in range(4):
        bench.append(packet(number, 1000))
    look(bench)
    assert 0 < down.commit_position < down.publish_position
    bench.start_producer()  # and its predecessor died
    look(bench)
    bench.log.blocked.clear()
    bench.settle()
    assert logged(bench.log) == [0, 1, 2, 3] and down.commit_position == down.publish_position


def test_with_its_essentials_a_data_source_is_parked_and_definitions_stay_before_data(bench: Bench) -> None:
    producer = bench.peer.producers[0]

    def write(number: int, topic: str, essentials: str = "") -> None:
        made = Record([Route(topic, 0, b"", essentials, b"", "Car")], [0], [packet(number)])
        assert bench.peer.try_append({producer: Parcel([made])})

    bench.log.blocked.add("Car_essential")
    write(1, "Car_essential")
    look(bench)
    write(2, "Car.Lap")
    write(3, "Car", "Car_essential")
    look(bench)
    assert logged(bench.log, Partition("Car.Lap", 0)) == [] and set(bench.producer._parking.topics) >= {
        "Car.Lap",
        "Car",
    }
    bench.append(packet(4), topic="Boat")
    bench.settle()
    assert logged(bench.log, BOAT) == [4]
    bench.log.blocked.clear()
    look(bench)
    look(bench)
    assert logged(bench.log, Partition("Car_essential", 0)) == [1, 3]
    assert logged(bench.log, Partition("Car.Lap", 0)) == [2] and logged(bench.log) == [3]


def entry(number: int) -> ParkEntry:
    return ParkEntry(["Car"], "ring", number, 0, record(packet(number)))


def test_a_torn_end_is_cut_and_damage_is_not_overlooked(tmp_path: Path) -> None:
    path = tmp_path / "parks" / "producer-0.park"
    park = ParkFile(path, 1 << 20)
    ends = [placed.position + placed.size for number in range(3) if (placed := park.append(entry(number)))]
    park.close()
    whole = path.read_bytes()
    for cut in range(ends[0], ends[2] + 1):
        path.write_bytes(whole[:cut])
        opened = ParkFile(path, 1 << 20)
        assert [found.end for _, found in opened.take_found()] == list(range(sum(end <= cut for end in ends)))
        opened.close()
        assert path.stat().st_size == max(end for end in ends if end <= cut)
    damaged = bytearray(whole)
    damaged[ends[0] + 20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ParkDamaged, match=f"the entry at {ends[0]} does not hold"):
        ParkFile(path, 1 << 20)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xc1", "no entry at 8: "),
        (msgspec.msgpack.encode(entry(1)).replace(b"ring", b"r\xffng"), "no entry at 8: "),
        (msgspec.msgpack.encode(["Car"]), "no entry at 8: "),
        (msgspec.msgpack.encode([["Car"], "ring", "1", 0, None]), r"no entry at 8: .*\$\[2\]"),
        (
            msgspec.msgpack.encode(ParkEntry(["Car"], "ring", 1, 0, Record([], [0], [b"x"]))),
            "the record of the entry at 8 contradicts itself",
        ),
        (
            msgspec.msgpack.encode(ParkEntry(["Car"], "ring", 1, 0, Record([Route("Car", 0, b"")], [0], [], [1], [1]))),
            "the record of the entry at 8 contradicts itself",
        ),
    ],
)
def test_an_entry_whose_checksum_holds_and_that_is_none_is_damage(tmp_path: Path, body: bytes, says: str) -> None:
    path = tmp_path / "producer-0.park"
    path.write_bytes(MAGIC + struct.pack("<II", len(body), crc32(body)) + body)
    with pytest.raises(ParkDamaged, match=f"{path}: {says}"):
        ParkFile(path, 1 << 20)
    assert parked_bytes(tmp_path.parent) == 0 and path.stat().st_size == 16 + len(body), "it stays as it is"


def test_a_park_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "producer-0.park"
    path.write_bytes(b"TSPARK\x00\x02")
    with pytest.raises(ParkDamaged, match="no park of this version"):
        ParkFile(path, 1 << 20)


class _FullDisk:
    """``os.pwrite`` of a file system that is full for some writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._pwrite = os.pwrite
        monkeypatch.setattr(park_file.os, "pwrite", self)

    def __call__(self, fd: int, data: Any, position: int) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(fd, data, position)


def test_a_park_that_could_not_be_begun_is_begun_by_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _FullDisk(monkeypatch)
    path = tmp_path / "parks" / "producer-0.park"
    park = ParkFile(path, 1 << 20)
    disk.full = True
    assert park.append(entry(1)) is None and not path.exists()
    disk.full = False
    assert park.append(entry(2)) is not None
    park.close()
    opened = ParkFile(path, 1 << 20)
    assert [found.end for _, found in opened.take_found()] == [2]
    opened.close()
    path.write_bytes(b"TSP")  # a death while it was begun
    opened = ParkFile(path, 1 << 20)
    assert not path.exists() and opened.append(entry(3)) is not None
    opened.close()
