"""The tables of metrics, and what producers and gateways count by data source and stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from agent_bench import CAR, Bench, packet
from worker_kit import Kit

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane import metrics
from trackside.data_plane.consumer import Consumer
from trackside.data_plane.door import Door
from trackside.data_plane.link import PACKETS
from trackside.data_plane.log import Partition, Refusal
from trackside.data_plane.log_backend import open_reader, open_writer
from trackside.data_plane.peer import Parcel
from trackside.data_plane.record import Record, Route, decode_record
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings
from trackside.data_plane.stream_metrics import (
    INFO,
    OTHER,
    PLACES_MAX,
    LabelledCounters,
    published_counters,
    routed_counters,
)
from trackside.shm.counters import SUM, CounterTable, create_counters, read_counters, read_metrics

PARTITIONS = {"strategy": "PartitionBased", "partition_mappings": {"Engine": 1}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_counters(tmp_path / "counters", rows=200)
    return tmp_path / "counters"


def rows(path: Path | str, metric: metrics.Metric) -> dict[tuple[str, ...], int]:
    """Values of what was counted at all, by label values."""
    return {
        tuple(labels[name] for name in metric.labels): value
        for name, labels, value in read_counters(path)
        if name == metric.name and value
    }


# --- the tables ----------------------------------------------------------------------------------------------------


def test_every_metric_fits_into_a_table_with_its_help(tmp_path: Path) -> None:
    create_counters(tmp_path / "all", rows=1000)
    table = CounterTable(tmp_path / "all")
    for metric in metrics.METRICS.values():
        if metric.kind == "histogram":
            metrics.latency(table, metric)
        else:
            table.counter(metric, **dict.fromkeys(metric.labels, "x"))
    kept = read_metrics(tmp_path / "all")
    assert all(kept[name].help == metric.help != "" for name, metric in metrics.METRICS.items())


def test_names_say_what_they_are() -> None:
    assert sum(map(len, metrics.GROUPS.values())) == len(metrics.METRICS), "a name that two metrics have"
    for metric in metrics.METRICS.values():
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.startswith(("trackside_", "stream_api_")) and metric.help.endswith("."), metric.name


def test_the_tuples_of_counters_are_rows_of_the_table(path: Path) -> None:
    table = CounterTable(path)
    metrics.gateway_counters(table).held_back.add(3)
    metrics.producer_counters(table).refused.add(4)
    metrics.consumer_counters(table).marks.add(5)
    found = {name: value for name, labels, value in read_counters(path) if not labels}
    assert found["trackside_gateway_held_back_total"] == 3
    assert found["trackside_producer_refused_total"] == 4 and found["trackside_consumer_marks_total"] == 5


def test_mirrored_counts_go_on_over_incarnations(path: Path) -> None:
    table = {"appended": metrics.WRITER_STATISTICS["appended"], "open_files": metrics.WRITER_STATISTICS["open_files"]}
    first = metrics.Mirror(CounterTable(path), table)
    first.show({"appended": 5, "open_files": 3, "unknown": 7})
    first.show({"appended": 8, "open_files": 4})
    metrics.Mirror(CounterTable(path), table).show({"appended": 1, "open_files": 1})
    assert rows(path, table["appended"]) == {(): 9} and rows(path, table["open_files"]) == {(): 1}


# --- rows by labels ------------------------------------------------------------------------------------------------


def test_rows_by_labels_are_bounded_and_what_comes_then_is_other(path: Path) -> None:
    counters = LabelledCounters(CounterTable(path), metrics.PUBLISHED, 2)
    for stream in ("a", "b", "c", "d", "a"):
        counters.of("Car", stream).add(1)
    assert rows(path, metrics.PUBLISHED) == {("Car", "a"): 2, ("Car", "b"): 1, (OTHER, OTHER): 2}
    successor = LabelledCounters(CounterTable(path), metrics.PUBLISHED, 2)
    for stream in ("d", "b"):
        successor.of("Car", stream).add(1)
    assert rows(path, metrics.PUBLISHED) == {("Car", "a"): 2, ("Car", "b"): 2, (OTHER, OTHER): 3}


def test_released_rows_are_room_for_others(path: Path) -> None:
    counters = LabelledCounters(CounterTable(path), metrics.PUBLISHED, 2)
    counters.of("Car", "a").add(1)
    counters.of("Car", "b").add(1)
    counters.release("Car")
    counters.release("nobody")
    counters.of("Van", "a").add(5)
    assert rows(path, metrics.PUBLISHED) == {("Van", "a"): 5} and counters.firsts() == {"Van"}


def test_labels_too_long_for_a_row_and_a_full_table_are_other(tmp_path: Path) -> None:
    create_counters(tmp_path / "small", rows=4)
    counters = LabelledCounters(CounterTable(tmp_path / "small"), metrics.PUBLISHED, 100)
    for data_source in ("s" * 400, "a", "b"):  # two rows are the table's own, one is `other`
        counters.of(data_source, "").add(1)
    assert rows(tmp_path / "small", metrics.PUBLISHED) == {("a", ""): 1, (OTHER, OTHER): 2}


def test_invented_routes_cost_a_bounded_amount(path: Path) -> None:
    counters = published_counters(CounterTable(path), Routing(Settings()))
    for number in range(PLACES_MAX + 10):
        counters.of(f"Car.{number}", 0, "Car")[0].add(1)
    assert sum(rows(path, metrics.PUBLISHED).values()) == PLACES_MAX + 10
    assert len(counters._found) <= PLACES_MAX


@pytest.mark.parametrize(
    ("settings", "route", "labels"),
    [
        ({}, ("Car", 0, "Car"), ("Car", "")),
        ({}, ("Car.Engine", 0, "Car"), ("Car", "Engine")),
        ({}, ("Car.Engine", 0, "Car.Engine"), ("Car.Engine", "")),
        ({}, ("Car.Engine", 0, ""), ("Car", "Engine")),
        (PARTITIONS, ("Car", 1, "Car"), ("Car", "Engine")),
        (PARTITIONS, ("Car", 0, "Car"), ("Car", "")),
        ({"naming": "domain", "domain": "F"}, ("F.Data.Car.E", 0, "Car"), ("Car", "E")),
    ],
)
def test_labels_of_a_route(
    path: Path, settings: dict[str, object], route: tuple[str, int, str], labels: tuple[str, str]
) -> None:
    published_counters(CounterTable(path), Routing(Settings(**settings))).of(*route)[0].add(1)
    assert rows(path, metrics.PUBLISHED) == {labels: 1}


def test_info_packets_have_metrics_of_their_own(path: Path) -> None:
    routing = Routing(Settings())
    counters = routed_counters(CounterTable(path), routing)
    for partition, data_source in (
        (routing.session_info, INFO),
        (routing.system_status, INFO),
        (routing.session_info, "Car"),
    ):
        logged, logged_bytes = counters.of(*partition, data_source)
        logged.add(1)
        logged_bytes.add(10)
    assert rows(path, metrics.INFO_ROUTED) == {(INFO,): 2, ("Car",): 1}
    assert rows(path, metrics.INFO_ROUTED_BYTES) == {(INFO,): 20, ("Car",): 10}
    assert not rows(path, metrics.ROUTED)


def test_amounts_of_a_record() -> None:
    a, b = Route("A", 0, b""), Route("B", 0, b"")
    mixed, plain = Record([a, b], [0, 1, 0], [b"xx", b"yyy", b"z"]), Record([a], [0, 0], [b"xx", b"y"])
    for record in (mixed, plain):
        record.count()
    assert list(mixed.amounts()) == [(a, 2, 3), (b, 1, 3)]
    assert list(mixed.amounts([0, 1])) == [(a, 1, 1), (b, 0, 0)] and list(mixed.amounts()) == [(a, 2, 3), (b, 1, 3)]
    assert list(plain.amounts()) == [(a, 2, 3)] and list(plain.amounts([1])) == [(a, 1, 2)]


def test_records_of_a_version_before_are_read(bench: Bench) -> None:
    """A ring that outlived its server may hold records without a data source and without counts."""
    fields = [[["Car.Engine", 0, b"k", "Car_essential", b"me"]], [0], [packet(1)]]
    body = msgspec.msgpack.encode(fields)
    assert decode_record(body).routes == [Route("Car.Engine", 0, b"k", "Car_essential", b"me")]
    bench.peer.producers[0].down.try_publish([(PACKETS, 1, body)])
    bench.settle()
    assert rows(counters_of(bench), metrics.ROUTED) == {("Car", "Engine"): 1}


# --- the door ------------------------------------------------------------------------------------------------------


def details(*streams: str) -> bytes:
    message = Packet(content=b"x")
    return api_pb2.WriteDataPacketsRequest(
        details=[api_pb2.DataPacketDetails(message=message, data_source="Car", stream=stream) for stream in streams]
    ).SerializeToString()


def test_the_door_says_whose_each_packet_is(tmp_path: Path) -> None:
    async def check() -> None:
        bench = Bench(tmp_path)
        table = bench.peer.worker.spec.own_slot.counters
        door = Door(Routing(bench.kit.settings), bench.peer, bench.kit.settings)
        (parcel,) = door.data_packets(details("", "Engine", "", "Engine", "")).values()
        (info,) = door.info_packet(
            api_pb2.WriteInfoPacketRequest(message=Packet(), type=api_pb2.INFO_TYPE_SESSION_INFO).SerializeToString()
        ).values()
        assert not rows(table, metrics.PUBLISHED), "not accepted yet"
        for counter, packets in (*parcel.published, *info.published):
            counter.add(packets)
        assert rows(table, metrics.PUBLISHED) == {("Car", ""): 3, ("Car", "Engine"): 2}
        assert rows(table, metrics.INFO_PUBLISHED) == {(INFO,): 1}
        (record,) = [decode_record(body) for _, _, body in parcel.bodies]
        assert [(route.data_source, *amounts) for route, *amounts in record.amounts()] == [("Car", 3, 9), ("Car", 2, 6)]

    asyncio.run(check())


# --- the producer --------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def counters_of(bench: Bench) -> str:
    return bench.kit.worker("producer-0").spec.slot("producer-0").counters


def append(bench: Bench, *packets: bytes, essentials: str = "", routes: tuple[str, ...] = ("",)) -> int:
    """One record over streams of Car, packets in turn; returns where it ends."""
    table = [Route(f"Car.{name}" if name else "Car", 0, b"", essentials, data_source="Car") for name in routes]
    record = Record(table, [index % len(table) for index in range(len(packets))], list(packets))
    accepted = bench.peer.try_append({bench.peer.producers[0]: Parcel([record])})
    assert accepted is not None
    return accepted[0].end


def test_routed_means_logged(bench: Bench) -> None:
    bench.log.available = False
    append(bench, packet(1), packet(2), packet(3), essentials="Car_essential", routes=("", "Engine"))
    bench.settle()
    assert not rows(counters_of(bench), metrics.ROUTED)
    bench.log.available = True
    bench.settle()
    assert rows(counters_of(bench), metrics.ROUTED) == {("Car", ""): 2, ("Car", "Engine"): 1}
    sizes = [len(packet(number)) for number in (1, 2, 3)]
    assert rows(counters_of(bench), metrics.ROUTED_BYTES) == {
        ("Car", ""): sizes[0] + sizes[2],
        ("Car", "Engine"): sizes[1],
    }


def test_what_the_log_refused_is_not_routed(bench: Bench) -> None:
    """Packet 1 is refused by its own partition, packet 2 only by the topic of essentials."""
    bench.log.available = False
    end = append(bench, packet(0), packet(1), packet(2), essentials="Car_essential")
    bench.settle()
    ring = bench.peer.producers[0].down.ring_id
    bench.writer.refused += [
        Refusal(ring, end, 1, CAR, "too large"),
        Refusal(ring, end, 2, Partition("Car_essential", 0), "too large"),
    ]
    bench.log.available = True
    bench.settle()
    assert rows(counters_of(bench), metrics.ROUTED) == {("Car", ""): 2}
    assert rows(counters_of(bench), metrics.ROUTED_BYTES) == {("Car", ""): len(packet(0)) + len(packet(2))}


def test_a_producers_successor_counts_what_it_logs_once(bench: Bench) -> None:
    append(bench, packet(1))
    bench.settle()
    bench.log.available = False
    append(bench, packet(2))
    bench.settle()
    bench.log.available = True
    bench.start_producer()
    bench.settle()
    assert rows(counters_of(bench), metrics.ROUTED) == {("Car", ""): 2}


def test_one_sample_of_latency_a_record(bench: Bench) -> None:
    for number in range(5):
        append(bench, packet(number), packet(number))
    bench.settle()
    found = rows(counters_of(bench), metrics.ACCEPTED_TO_LOGGED._replace(labels=("le",)))
    assert sum(value for (edge,), value in found.items() if edge != SUM) == 5 and found[SUM,] > 0


def test_the_logs_statistics_are_shown(bench: Bench) -> None:
    append(bench, packet(1), packet(2))
    bench.settle()
    bench.producer._limits_at = 0.0
    bench.settle()
    assert rows(counters_of(bench), metrics.WRITER_STATISTICS["appended"]) == {(): 2}


# --- the logs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["", "127.0.0.1:1"])
def test_all_that_the_logs_count_is_shown(tmp_path: Path, broker: str) -> None:
    """Nobody answers at that address; what is counted does not depend on it."""
    settings = Settings(broker=broker, data_dir=str(tmp_path / "data"))
    kit = Kit(tmp_path, settings)
    worker = kit.worker("producer-0")
    worker.spec = msgspec.structs.replace(worker.spec, log_tables=[str(tmp_path / "log-table")])
    writer, reader = open_writer(worker), open_reader(worker)
    own = {"refused"}  # a counter of the producer itself
    assert set(writer.statistics()) <= set(metrics.WRITER_STATISTICS) | own
    assert set(reader.statistics()) <= set(metrics.READER_STATISTICS)
    assert set(Consumer(kit.worker("consumer-0"), reader).statistics()) <= set(metrics.READER_STATISTICS)
    writer.close(0.0)
    reader.close()
