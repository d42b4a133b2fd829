"""What parking may not cost: a full park, a slow log, a log that is away as a whole, and many topics at once."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_bench import CAR, Bench, logged, packet, record

from trackside.data_plane import park_file, parking
from trackside.data_plane.kafka_queue import PartitionQueue, RecordProgress, RingAccount, cut
from trackside.data_plane.local_log import LocalLogWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.park_file import ParkFile, park_files
from trackside.data_plane.peer import Parcel
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

BOAT = Partition("Boat", 0)
ESSENTIALS = Partition("Car_essential", 0)
LAP = Partition("Car.Lap", 0)


def make(folder: Path, **settings: Any) -> Bench:
    return Bench(folder, msgspec.structs.replace(Settings(), **{"park_after_seconds": 0.0} | settings))


def look(bench: Bench) -> None:
    bench.producer._look_at = bench.producer._parking._park_at = 0.0
    bench.settle(2)


def write(bench: Bench, number: int, topic: str, size: int = 0) -> None:
    """Of the data source Car."""
    made = Record([Route(topic, 0, b"", "", b"", "Car")], [0], [packet(number, size)])
    assert bench.peer.try_append({bench.peer.producers[0]: Parcel([made])})


def parked_topics(bench: Bench) -> list[list[str]]:
    (path,) = park_files(bench.kit.instance)
    park = ParkFile(path, 1 << 30)
    found = [entry.topics for _, entry in park.take_found()]
    park.close()
    return found


def test_commit_waits_for_the_note_that_a_topic_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(tmp_path)
    down = bench.peer.producers[0].down
    bench.log.blocked |= {"Car", "Boat"}
    bench.append(packet(1))
    bench.append(packet(2), topic="Boat")
    look(bench)
    with monkeypatch.context() as patch:
        patch.setattr(park_file.os, "pwrite", _no_room)
        bench.log.blocked.discard("Car")
        bench.append(packet(3))
        look(bench)
        assert logged(bench.log) == [1, 3] and down.commit_position < down.publish_position
        bench.start_producer()  # and its predecessor died
        bench.settle()
        assert logged(bench.log) == [1, 3, 1, 3] and down.commit_position < down.publish_position
    look(bench)
    look(bench)
    assert down.commit_position == down.publish_position
    bench.start_producer()
    bench.settle()
    assert logged(bench.log) == [1, 3, 1, 3]


def _no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def accepted_while_away(bench: Bench) -> int:
    """Bytes of packets until no topic takes one."""
    bench.log.available = False
    size = 10_000
    taken = 0
    for _ in range(400):
        for topic in ("Car", "Boat", "Bike", "Bus", "Train"):
            parts = {bench.peer.producers[0]: Parcel([record(packet(1, size), topic=topic)])}
            taken += size * (bench.peer.try_append(parts) is not None)
        look(bench)
    return taken


def test_a_log_that_is_away_costs_no_room_for_parking(tmp_path: Path) -> None:
    without = accepted_while_away(make(tmp_path / "without", park_after_seconds=600.0))
    with_parking = make(tmp_path / "with", park_bytes=200_000)
    assert accepted_while_away(with_parking) == without > 900_000
    assert not park_files(with_parking.kit.instance)
    parked_before = make(tmp_path / "before", park_bytes=200_000)
    parked_before.log.blocked.add("Car")
    while not parked_before.peer.producers[0].is_closed("Car"):
        parked_before.append(packet(1, 10_000))
        look(parked_before)
    assert accepted_while_away(parked_before) >= without


def test_a_greedy_topic_does_not_close_a_small_one(tmp_path: Path) -> None:
    bench = make(tmp_path, park_bytes=40_000)
    producer = bench.peer.producers[0]
    bench.log.blocked |= {"Car", "Boat"}
    for number in range(22):
        bench.append(packet(number, 1000))
    look(bench)
    bench.append(packet(1), topic="Boat")
    look(bench)
    look(bench)
    assert producer.is_closed("Car") and not producer.is_closed("Boat")
    assert bench.producer._parking.statistics()["park_full"] == 1


def test_a_topic_that_is_only_slow_leaves_a_full_park(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(tmp_path, park_bytes=40_000)
    producer = bench.peer.producers[0]
    bench.log.blocked.add("Car")
    for number in range(22):
        bench.append(packet(number, 1000))
    look(bench)
    look(bench)
    assert producer.is_closed("Car")
    monkeypatch.setattr(bench.writer, "overdue", lambda _: set())  # it goes on, but has much to do
    look(bench)
    bench.append(packet(22, 1000))
    look(bench)
    assert not producer.is_closed("Car") and sum(len(topics) for topics in parked_topics(bench)) == 22
    bench.log.blocked.clear()
    look(bench)
    assert logged(bench.log) == list(range(23))


def test_a_small_packet_counts_for_the_memory_that_it_takes(tmp_path: Path) -> None:
    bench = make(tmp_path, park_bytes=64 << 10)
    bench.log.blocked.add("Car")
    for number in range(70):
        bench.append(packet(number))
    look(bench)
    look(bench)
    assert bench.peer.producers[0].is_closed("Car") and bench.producer._parking.statistics()["parked_bytes"] < 16 << 10


def test_a_partition_that_moves_is_not_blocked() -> None:
    queue = PartitionQueue(CAR)
    progress = RecordProgress("ring", RingAccount(), 8, appended_at=10.0)
    cut(record(packet(1), packet(2)), progress, lambda _: queue)
    assert not queue.is_blocked(before=10.0) and queue.is_blocked(before=11.0)
    queue.pass_one(refused=False)
    assert not queue.is_blocked(before=11.0)  # the one behind it waits just as long
    queue.passed_at = 12.0
    assert not queue.is_blocked(before=12.0) and queue.is_blocked(before=12.5)
    queue.pass_one(refused=False)
    assert not queue.is_blocked(before=1e12)


def test_one_bad_folder_is_not_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / "Car").write_bytes(b"")
    clock = iter(range(1000))
    writer = LocalLogWriter(tmp_path, tmp_path / "ends", settings=Settings(), monotonic=lambda: float(next(clock)))
    writer.append("ring", 8, record(packet(1)))
    writer.append("ring", 16, record(packet(2), topic="Boat"))
    writer.do_work()
    assert writer.answers() and "cannot write Car/0" in writer.state().reason
    assert writer.logged("ring") == 0 and writer.statistics()["appended"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", _no_room)
        assert not writer.answers()
    (tmp_path / "log" / "Car").unlink()
    for _ in range(3):
        writer.do_work()
    assert writer.answers() and writer.state() == (True, "") and writer.logged("ring") == 16
    writer.close(1.0)


def test_no_data_gets_into_a_park_that_had_no_room_for_its_essentials(tmp_path: Path) -> None:
    bench = make(tmp_path, park_bytes=3000)
    bench.log.blocked.add("Car_essential")
    write(bench, 1, "Car_essential")
    look(bench)
    write(bench, 2, "Car_essential", size=4000)
    write(bench, 3, "Car.Lap")
    look(bench)
    assert parked_topics(bench) == [["Car_essential"]] and logged(bench.log, LAP) == []
    bench.log.blocked.clear()
    for _ in range(3):
        look(bench)
    assert logged(bench.log, ESSENTIALS) == [1, 2] and logged(bench.log, LAP) == [3]


def test_with_too_many_topics_data_waits_for_its_essentials_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "TOPICS_MAX", 1)
    bench = make(tmp_path)
    bench.log.blocked |= {"Car_essential", "Car.Lap"}
    write(bench, 1, "Car.Lap")
    write(bench, 2, "Car_essential")
    look(bench)
    assert parked_topics(bench) == [["Car_essential"]]
    bench.log.blocked.discard("Car.Lap")
    write(bench, 3, "Car.Lap")
    look(bench)
    assert logged(bench.log, LAP) == []
    bench.log.blocked.clear()
    for _ in range(3):
        look(bench)
    assert logged(bench.log, ESSENTIALS) == [2] and logged(bench.log, LAP) == [1, 3]


def test_a_file_written_anew_still_says_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record for two topics, one of which the log has: it must not be appended again behind what came after it."""
    monkeypatch.setattr(parking, "GARBAGE_BYTES", 2000)
    bench = make(tmp_path)
    bench.log.blocked |= {"Car", "Car_essential", "Boat"}
    bench.peer.try_append({bench.peer.producers[0]: Parcel([record(packet(1), essentials="Car_essential")])})
    look(bench)
    bench.log.blocked.discard("Car_essential")
    look(bench)
    bench.append(packet(2), topic="Car_essential")
    bench.append(packet(3, 5000), topic="Boat")
    look(bench)
    bench.log.blocked.discard("Boat")
    look(bench)
    (path,) = park_files(bench.kit.instance)
    assert path.stat().st_size < 1000
    bench.start_producer()
    bench.settle()
    assert logged(bench.log, ESSENTIALS) == [1, 2]
    bench.log.blocked.clear()
    bench.settle()
    assert logged(bench.log) == [1]


def test_a_look_that_costs_much_is_not_repeated_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(tmp_path, park_bytes=3000)
    parks = bench.producer._parking
    copies: list[int] = []
    copy = parks._copy

    def slow(*arguments: Any) -> Any:
        copies.append(1)
        return copy(*arguments)

    monkeypatch.setattr(parks, "_copy", slow)
    monkeypatch.setattr(parking, "CHEAP_SECONDS", 0.0)
    monkeypatch.setattr(parking, "BACK_OFF", 1e9)
    bench.log.blocked.add("Car")
    for number in range(4):
        bench.append(packet(number, 1000))
    for _ in range(5):
        parks.look()
        bench.settle(1)
    assert len(copies) <= 2


def test_a_thousand_waiters_cost_a_little_each(tmp_path: Path) -> None:
    bench = make(tmp_path)
    producer = bench.peer.producers[0]

    async def wait() -> None:
        bench.log.blocked.add("Car")
        for number in range(300):
            bench.append(packet(number))
        ends = [found.end for found in producer.down.walk(0, producer.down.publish_position)]
        look(bench)
        waits = [asyncio.ensure_future(bench.peer.wait_logged({producer: {"Car": end}}, 60)) for end in ends]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.log.blocked.clear()
        look(bench)
        look(bench)
        assert all(await asyncio.gather(*waits)) and not producer._park_waits

    asyncio.run(wait())
