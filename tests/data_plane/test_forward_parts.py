"""Parts of the forwarder that need no Kafka: places, the map of offsets, the backlog, retention that waits."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from edge_kit import some
from local_log_support import PARTITION, TOPIC, LocalLog
from log_contract import RING, record

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.data_dir import claim_data_dir
from trackside.data_plane.forward_backlog import NOTHING, YEARS_SECONDS, BacklogMeter, DiskMeter
from trackside.data_plane.forward_place import PLACE_HEADER, Forwarded, ForwardedFile, encode_place, offset_of
from trackside.data_plane.forwarded_ends import ForwardedEnds, ForwardedEndsWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.log_recovery import OFFSET_GAP
from trackside.data_plane.offset_map import PIECES_MAX, OffsetMap
from trackside.data_plane.record import Route
from trackside.data_plane.routing import Routing
from trackside.data_plane.session_offsets import session_offsets
from trackside.data_plane.spec import Settings

ONE, OTHER = b"1" * 16, b"2" * 16


# --- places --------------------------------------------------------------------------------------------------------


def test_a_place_is_that_of_one_log() -> None:
    headers = [("other", b"x"), (PLACE_HEADER, encode_place(ONE, 2**40))]
    assert offset_of(headers, ONE) == 2**40
    assert offset_of(headers, OTHER) is None
    assert offset_of(None, ONE) is None
    assert offset_of([(PLACE_HEADER, b"short"), (PLACE_HEADER, None)], ONE) is None


def test_the_file_comes_back_as_it_was(tmp_path: Path) -> None:
    file = ForwardedFile(tmp_path, ONE)
    assert not file.known and not file.partitions
    file.note(PARTITION, Forwarded(b"id", 5, 7))
    file.save()
    again = ForwardedFile(tmp_path, ONE)
    assert again.known and again.partitions == {PARTITION: Forwarded(b"id", 5, 7)}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"log": 1}', b"\xff" * 100])
def test_a_file_that_cannot_be_understood_counts_as_lost(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "forwarded.json").write_bytes(content)
    assert not ForwardedFile(tmp_path, ONE).known


def test_the_file_of_another_log_counts_as_lost(tmp_path: Path) -> None:
    ForwardedFile(tmp_path, OTHER).save()
    assert not ForwardedFile(tmp_path, ONE).known


# --- the map of offsets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_offsets_are_mapped_between_the_neighbours(seed: int) -> None:
    """On Kafka, everything from the mapped offset on is everything from the local offset on."""
    chance = random.Random(seed)
    base, kafka = chance.choice([0, 17]), chance.choice([0, 1000])
    known = OffsetMap(base, kafka)
    pairs: list[tuple[int, int]] = []
    here = base
    for _ in range(chance.randint(0, 12)):
        here += chance.choice([0, 0, 3])  # holes
        load = []
        for _ in range(chance.randint(1, 6)):
            kafka += chance.choice([0, 0, 0, 2])  # markers and other writers
            load.append((here, kafka))
            here, kafka = here + 1, kafka + 1
        known.add([a for a, _ in load], [b for _, b in load])
        pairs += load
    for offset in range(base, here + 4):
        there = known.on_kafka(offset)
        assert there is not None
        assert [a for a, b in pairs if b < there] == [a for a, _ in pairs if a < offset], offset
    assert known.on_kafka(base - 1) is None


def test_the_map_forgets_the_oldest_pieces() -> None:
    known = OffsetMap(0, 0)
    for number in range(PIECES_MAX + 10):
        known.add([number], [2 * number])
    assert known.on_kafka(9) is None
    assert known.on_kafka(10) == 19
    assert known.on_kafka(PIECES_MAX) == 2 * PIECES_MAX - 1


# --- session packets -----------------------------------------------------------------------------------------------


def test_only_offsets_change_in_a_session_packet() -> None:
    routing = Routing(Settings())
    content = data.NewSessionPacket(data_source="Car", topic_partition_offsets={"Car:0": 5, "Car.s:0": 6, "x:y": 7})
    content.topic_partition_offsets["Car_essential:0"] = -1
    packet = data.Packet(
        type="NewSession", session_key="k", id=9, content=content.SerializeToString() + b"\x92\x06\x01z"
    )
    told = session_offsets(packet.SerializeToString() + b"\x92\x06\x01y", routing)
    assert told is not None
    assert told.wanted == {Partition("Car", 0): 5, Partition("Car.s", 0): 6}
    found = data.Packet.FromString(told.translated(lambda partition, offset: offset + 100))
    assert (found.type, found.session_key, found.id) == ("NewSession", "k", 9)
    assert b"\x92\x06\x01y" in found.SerializeToString() and found.content.endswith(b"\x92\x06\x01z")
    after = data.NewSessionPacket.FromString(found.content)
    assert dict(after.topic_partition_offsets) == {"Car:0": 105, "Car.s:0": 106, "x:y": 7, "Car_essential:0": -1}


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        data.Packet(type="NewSession", content=b"\xff").SerializeToString(),
        data.Packet(type="SessionInfo").SerializeToString(),
    ],
    ids=["no packet", "no content", "no offsets"],
)
def test_what_has_no_offsets_goes_as_it_is(value: bytes) -> None:
    assert session_offsets(value, Routing(Settings())) is None


# --- the backlog ---------------------------------------------------------------------------------------------------


def test_the_backlog_is_what_lies_behind_the_place(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    clock = itertools.count(1_000_000)
    writer = log.writer(now_ns=lambda: next(clock))
    for end in range(1, 11):
        writer.append(RING, end, record(some(end * 10, 10), Route(TOPIC, 0, b"")))
        writer.do_work()
    meter = BacklogMeter(log.data_dir, claim_data_dir(log.data_dir))
    whole = meter.measure(PARTITION, 0, 100)
    half = meter.measure(PARTITION, 50, 100)
    assert (whole.packets, half.packets) == (100, 50)
    assert half.bytes < whole.bytes < log.segments()[0].stat().st_size
    assert half.oldest_ns == whole.oldest_ns + 5
    assert meter.measure(PARTITION, 100, 100) == NOTHING
    assert meter.measure(Partition("none", 0), 0, 1) == NOTHING
    log.close()


def test_offsets_that_nobody_got_are_no_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(tmp_path)
    log.write([(1, record(some(0, 10), Route(TOPIC, 0, b"")))])
    monkeypatch.setattr("trackside.data_plane.local_log.boot_id", lambda: b"b" * 16)
    log.table.unlink()
    log.write([(2, record(some(10, 10), Route(TOPIC, 0, b"")))])
    end = log.read_all().entries[-1].offset + 1
    assert end > OFFSET_GAP
    meter = BacklogMeter(log.data_dir, claim_data_dir(log.data_dir))
    assert meter.measure(PARTITION, 4, end).packets == 16
    assert meter.measure(PARTITION, 10, end).packets == 10
    assert meter.measure(PARTITION, end - 3, end).packets == 3
    log.close()


def test_a_disk_lasts_as_long_as_the_log_grows(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    meter = DiskMeter(log.data_dir)
    log.write([(1, record(some(0, 10), Route(TOPIC, 0, b"")))])
    first = meter.measure(0.0, [PARTITION])
    assert first.log_bytes == log.segments()[0].stat().st_size and first.left_seconds == YEARS_SECONDS
    log.write([(2, record([bytes(8)] * 5, Route(TOPIC, 0, b"")))])
    second = meter.measure(1.0, [PARTITION])
    assert second.growth_bytes == second.log_bytes - first.log_bytes > 0
    log.close()


# --- retention -----------------------------------------------------------------------------------------------------


def test_retention_waits_for_what_is_not_forwarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LocalLog(tmp_path, segment_bytes=4096, retention_bytes=8192)
    table = tmp_path / "forwarder.log-table"
    writer = log.writer(is_forwarded=ForwardedEnds(table).is_forwarded)
    ends = itertools.count(1)

    def write(count: int) -> None:
        for end in itertools.islice(ends, count):
            writer.append(RING, end, record([b"\x0a\x04" + b"x" * 1020], Route(TOPIC, 0, b"")))
            writer.do_work()

    write(40)
    assert len(log.segments()) > 4 and writer.statistics()["retention_held"] == 1
    assert writer.statistics()["segments_expired"] == 0
    forwarded = ForwardedEndsWriter(table)
    forwarded.publish(PARTITION, 20)
    write(1)
    kept = [int(path.name.split(".")[0]) for path in log.segments()]
    assert kept[0] <= 20 < kept[1], "what is forwarded goes, the rest stays"
    forwarded.publish(PARTITION, 41)
    write(1)
    assert len(log.segments()) <= 3 and writer.statistics()["retention_held"] == 0
    lines = capsys.readouterr().err
    assert lines.count("retention waits for the forwarder") == 1 and lines.count("retention goes on") == 1
    forwarded.close()
    log.close()
