"""What is counted by connection: read, delivered, received; and that rows of closed connections are given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_bench import CAR, Bench, packet

from trackside.data_plane import metrics
from trackside.data_plane.frame import FrameTally, frames_of
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import END, Run
from trackside.data_plane.metrics import Metric
from trackside.data_plane.peer import Parcel
from trackside.data_plane.reader_metrics import KEY_CHARACTERS_MAX, SESSIONS_MAX, ReaderMetrics
from trackside.data_plane.reading import Reader
from trackside.data_plane.record import Record, Route
from trackside.shm.counters import CounterTable, create_counters, read_counters

VALUES = [b"a" * 10, b"b" * 20, b"c" * 30, b"d" * 40]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_counters(tmp_path / "counters", rows=200)
    return tmp_path / "counters"


def rows(path: Path | str, metric: Metric) -> dict[tuple[str, ...], int]:
    return {
        tuple(labels[name] for name in metric.labels): value
        for name, labels, value in read_counters(path)
        if name == metric.name and value
    }


# --- numbers of a frame --------------------------------------------------------------------------------------------


def run_of_two_sessions() -> Run:
    """Offsets 10, 11, 13, 14; sessions one, two, one, two; the second row of session one is the server's own record."""
    keys = [(b"one", b""), (b"two", b""), (b"one", b"own")]
    return Run(CAR, b"log", 10, 15, [10, 11, 13, 14], [1000, 2000, 3000, 4000], [0, 1, 2, 1], keys, VALUES)


def test_numbers_of_a_frame() -> None:
    (frame,), _ = frames_of(run_of_two_sessions(), "", {7: [True, False, False, True]})
    assert frame.tally(0, None, None) == FrameTally(4, 4, [(b"one", 1, 10), (b"two", 2, 60), (b"one", 1, 30)])
    assert frame.tally(0, b"two", None) == FrameTally(2, 2, [(b"two", 2, 60)])
    assert frame.tally(0, b"two", 7) == FrameTally(2, 1, [(b"two", 2, 60)])
    assert frame.tally(11, None, 7) == FrameTally(3, 1, [(b"two", 2, 60), (b"one", 1, 30)])
    assert frame.tally(0, None, None, until=13) == FrameTally(2, 2, [(b"one", 1, 10), (b"two", 1, 20)])
    assert frame.tally(0, b"three", 7) == FrameTally(0, 0, [])
    assert frame.tally(5, None, None) is frame.tally(0, None, None), "shared by all who want the same"


def test_numbers_of_frames_agree_with_what_they_hold() -> None:
    """Of each want, in frames of one entry and of many, also when an entry is left out as too large."""
    run = run_of_two_sessions()._replace(values=[VALUES[0], bytes(5 << 20), VALUES[2], VALUES[3]])
    frames, oversize = frames_of(run, "Engine", {})
    assert oversize == 1 and [frame.logged_ns for frame in frames] == [1000]
    assert frames[0].tally(0, None, None) == FrameTally(3, 3, [(b"one", 1, 10), (b"two", 1, 40), (b"one", 1, 30)])
    empty, _ = frames_of(Run(CAR, b"log", 10, 15, [], [], [], [], []), "", {})
    assert empty[0].tally(0, None, None) == FrameTally(0, 0, []) and empty[0].logged_ns == 0


# --- counters of connections ---------------------------------------------------------------------------------------


def test_tallies_of_a_stream(path: Path) -> None:
    connections = ReaderMetrics(CounterTable(path), per_connection=True)
    tally = connections.stream(5, "Car", "Engine")
    tally.on_read(FrameTally(3, 2, [(b"one", 1, 10), (b"two", 2, 60)]))
    tally.on_read(FrameTally(1, 1, [(b"one", 1, 30)]))
    tally.on_sent(2)
    labels = ("5", "Car", "Engine")
    assert rows(path, metrics.READ) == {labels: 4} and rows(path, metrics.DELIVERED) == {labels: 2}
    assert rows(path, metrics.RECEIVED) == {(*labels, "one"): 2, (*labels, "two"): 2}
    assert rows(path, metrics.RECEIVED_BYTES) == {(*labels, "one"): 40, (*labels, "two"): 60}


def test_tallies_of_essentials(path: Path) -> None:
    tally = ReaderMetrics(CounterTable(path), per_connection=True).essentials(5, "Car")
    tally.on_read(FrameTally(3, 3, [(b"", 3, 30)]))
    tally.on_sent(2)
    assert rows(path, metrics.ESSENTIALS_READ) == {("5", "Car"): 3}
    assert rows(path, metrics.ESSENTIALS_DELIVERED) == {("5", "Car"): 2} and not rows(path, metrics.RECEIVED)


@pytest.mark.fact("R19")
def test_rows_of_a_forgotten_connection_are_gone(path: Path) -> None:
    connections = ReaderMetrics(CounterTable(path), per_connection=True)
    for number in (5, 6):
        connections.stream(number, "Car", "").on_read(FrameTally(1, 1, [(b"k", 1, 10)]))
        connections.essentials(number, "Car").on_read(FrameTally(1, 1, []))
    assert connections.connections() == {5, 6}
    connections.forget(5)
    connections.forget(7)
    assert connections.connections() == {6}
    assert rows(path, metrics.READ) == {("6", "Car", ""): 1} and rows(path, metrics.RECEIVED) == {
        ("6", "Car", "", "k"): 1
    }
    assert ReaderMetrics(CounterTable(path), per_connection=True).connections() == {6}, "a successor knows them, too"


def test_without_connections_all_are_one(path: Path) -> None:
    connections = ReaderMetrics(CounterTable(path), per_connection=False)
    for number in (5, 6):
        connections.stream(number, "Car", "").on_read(FrameTally(1, 1, [(b"k", 1, 10)]))
    connections.forget(5)
    assert rows(path, metrics.READ) == {("", "Car", ""): 2} and rows(path, metrics.RECEIVED) == {("", "Car", "", ""): 2}
    assert connections.connections() == set()


def test_keys_that_are_no_text_or_too_long_are_labels_all_the_same(path: Path) -> None:
    tally = ReaderMetrics(CounterTable(path), per_connection=True).stream(5, "Car", "")
    tally.on_read(FrameTally(2, 2, [(b"\xff", 1, 1), (b"k" * 1000, 1, 1)]))
    assert {labels[3] for labels in rows(path, metrics.RECEIVED)} == {"\ufffd", "k" * KEY_CHARACTERS_MAX}


def test_a_stream_of_many_sessions_costs_a_bounded_amount(path: Path) -> None:
    tally = ReaderMetrics(CounterTable(path), per_connection=True).stream(5, "Car", "")
    for number in range(3 * SESSIONS_MAX):
        tally.on_read(FrameTally(1, 1, [(b"%d" % number, 1, 1)]))
    assert len(tally._by_key) <= SESSIONS_MAX and sum(rows(path, metrics.RECEIVED).values()) == 3 * SESSIONS_MAX


# --- from the log to a reader --------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def connections(bench: Bench) -> ReaderMetrics:
    return ReaderMetrics(bench.peer.worker.counters, per_connection=True)


def counters_of(bench: Bench) -> str:
    return bench.kit.worker("gateway-0").spec.slot("gateway-0").counters


def append(bench: Bench, key: bytes, *numbers: int) -> None:
    record = Record([Route("Car", 0, key)], [0] * len(numbers), [packet(number) for number in numbers])
    assert bench.peer.try_append({bench.peer.producers[0]: Parcel([record])})


def open_reader(
    bench: Bench,
    connections: ReaderMetrics,
    number: int,
    *,
    offset: int = 0,
    key: bytes | None = None,
    until: int | None = None,
) -> Reader:
    readers = bench.peer.readers
    reader = readers.open(key=key, tally_of=lambda label: connections.stream(number, "Car", label))
    readers.join(reader, CAR, offset, until=until)
    return reader


def sent(reader: Reader) -> tuple[int, int]:
    """Packets sent, and whether any of it came live."""
    packets = live = 0
    while reader.pending:
        reader.take()
        some, logged_ns = reader.on_sent()
        packets, live = packets + some, live + bool(logged_ns)
    return packets, live


def test_read_and_delivered_of_past_and_live(bench: Bench, connections: ReaderMetrics) -> None:
    append(bench, b"one", 1, 2)
    bench.settle()
    everything, one = open_reader(bench, connections, 1), open_reader(bench, connections, 2, key=b"one")
    bench.settle()
    append(bench, b"two", 3)
    append(bench, b"one", 4)
    bench.settle()
    path = counters_of(bench)
    assert rows(path, metrics.READ) == {("1", "Car", ""): 4, ("2", "Car", ""): 3}
    assert not rows(path, metrics.DELIVERED), "nothing is sent yet"
    assert sent(everything)[0] == 4 and sent(one)[0] == 3
    assert rows(path, metrics.DELIVERED) == {("1", "Car", ""): 4, ("2", "Car", ""): 3}
    assert rows(path, metrics.RECEIVED) == {
        ("1", "Car", "", "one"): 3,
        ("1", "Car", "", "two"): 1,
        ("2", "Car", "", "one"): 3,
    }
    size = len(packet(1))
    assert rows(path, metrics.RECEIVED_BYTES) == {
        ("1", "Car", "", "one"): 3 * size,
        ("1", "Car", "", "two"): size,
        ("2", "Car", "", "one"): 3 * size,
    }


def test_a_finite_read_counts_what_is_below_its_end(bench: Bench, connections: ReaderMetrics) -> None:
    append(bench, b"one", 1, 2, 3)
    bench.settle()
    reader = open_reader(bench, connections, 1, offset=1, until=2)
    bench.settle()
    assert sent(reader) == (1, 0)
    assert rows(counters_of(bench), metrics.READ) == {("1", "Car", ""): 1}


@pytest.mark.fact("R19")
def test_what_a_filter_lets_through_is_delivered(bench: Bench, connections: ReaderMetrics) -> None:
    """A packet that is no data of a known type does not pass; nor is anything sent for it."""
    spec = FilterSpec(1, 0, "Car", ["never"], [], [], [], False)
    reader = bench.peer.readers.open(filter_spec=spec, tally_of=lambda label: connections.stream(1, "Car", label))
    bench.peer.readers.join(reader, CAR, 0)
    append(bench, b"one", 1, 2)
    bench.settle(30)
    assert rows(counters_of(bench), metrics.READ) == {("1", "Car", ""): 2}
    assert sent(reader) == (0, 0) and not rows(counters_of(bench), metrics.DELIVERED)


def test_only_what_came_live_has_a_latency(bench: Bench, connections: ReaderMetrics) -> None:
    append(bench, b"one", 1)
    bench.settle()
    reader = open_reader(bench, connections, 1)
    bench.settle()
    past = sent(reader)
    append(bench, b"one", 2)
    bench.settle()
    assert past == (1, 0) and sent(reader) == (1, 1)


def test_readers_inside_the_server_are_not_counted(bench: Bench) -> None:
    reader = bench.open(END)
    bench.settle()
    append(bench, b"one", 1)
    bench.settle()
    assert sent(reader) == (0, 1) and not rows(counters_of(bench), metrics.READ)


def test_statistics_of_readers(bench: Bench) -> None:
    slow, fast = bench.open(END), bench.open(END)
    bench.settle()
    slow.buffer_bytes = 100_000
    for number in range(4):
        record = Record([Route("Car", 0, b"")], [0], [packet(number, 60_000)])
        assert bench.peer.try_append({bench.peer.producers[0]: Parcel([record])})
        bench.settle()
        sent(fast)
    found = bench.peer.readers.statistics()
    assert (
        found["slow"] == 1 and found["live_places"] == 1 and found["paused_places"] == 1 and found["past_places"] == 0
    )
    assert found["reader_bytes"] == found["reader_bytes_max"] == slow.pending_bytes > 100_000
    assert set(found) == set(metrics.READERS_STATISTICS)
