"""Counters: rows by metric and labels, found again by a successor, read from outside."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trackside.shm import counters
from trackside.shm.counters import (
    BUCKET,
    OTHER,
    REFUSED,
    SUM,
    CounterTable,
    Metric,
    create_counters,
    read_counters,
    read_metrics,
)
from trackside.shm.layout import METRIC_ROWS, METRICS_OFFSET, PAGE_BYTES, ROW_ENTRY_BYTES, ROWS_OFFSET

PACKETS = Metric("packets", "counter", ("topic", "way"), "Packets that a producer appended. Look here first.")
LAG = Metric("lag_bytes", "gauge", (), "Bytes between commit and publish.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_counters(tmp_path / "producer-0", "producer-0", rows=8)
    return tmp_path / "producer-0"


def values(path: Path) -> dict[tuple[str, str], int]:
    return {(name, labels.get("topic", "")): value for name, labels, value in read_counters(path)}


def test_counting(path: Path) -> None:
    table = CounterTable(path)
    a, b = table.counter(PACKETS, topic="a", way="in"), table.counter(PACKETS, topic="b", way="in")
    a.add()
    a.add(41)
    b.set(7)
    lag = table.counter(LAG)
    lag.set(5)
    lag.set(-1)
    assert (a.value, b.value, lag.value) == (42, 7, 0)
    assert values(path) == {
        (OTHER.name, ""): 0,
        (REFUSED.name, ""): 0,
        ("packets", "a"): 42,
        ("packets", "b"): 7,
        ("lag_bytes", ""): 0,
    }
    assert read_metrics(path)["packets"] == PACKETS and read_metrics(path)["lag_bytes"] == LAG


def test_same_labels_same_row_whatever_their_order(path: Path) -> None:
    table = CounterTable(path)
    table.counter(PACKETS, topic="a", way="in").add()
    table.counter(PACKETS, way="in", topic="a").add()
    assert values(path)["packets", "a"] == 2
    assert ("packets", {"topic": "7", "way": "x"}, 0) not in read_counters(path)
    table.counter(PACKETS, topic=7, way="x")
    assert ("packets", {"topic": "7", "way": "x"}, 0) in read_counters(path)


def test_successor_finds_its_cells_again(path: Path) -> None:
    first = CounterTable(path)
    first.counter(PACKETS, topic="a", way="in").add(3)
    first.counter(LAG).set(9)
    first.close()
    successor = CounterTable(path)
    successor.counter(LAG)
    successor.counter(PACKETS, topic="b", way="in").add(1)
    successor.counter(PACKETS, topic="a", way="in").add(4)
    assert (
        values(path)["packets", "a"] == 7 and values(path)["packets", "b"] == 1 and values(path)["lag_bytes", ""] == 9
    )


def test_full_table_counts_in_other(path: Path) -> None:
    table = CounterTable(path)
    for number in range(10):  # two rows are the table's own, six are left
        table.counter(PACKETS, topic=str(number), way="").add(10)
    lost = table.counter(LAG)
    lost.set(99)
    assert lost.value == 99, "a gauge nobody can see, but no error either"
    assert values(path)[OTHER.name, ""] == 40 and values(path)[REFUSED.name, ""] == 5
    assert sum(values(path).values()) == 6 * 10 + 40 + 5
    table.counter(PACKETS, topic="0", way="").add(1)
    assert values(path)["packets", "0"] == 11, "who has a row keeps it"


def test_labels_too_long_for_a_row_count_in_other(path: Path) -> None:
    table = CounterTable(path)
    table.counter(PACKETS, topic="t" * 249, way="ü" * 20).add(1)
    table.counter(PACKETS, topic="t" * 400, way="").add(1)
    assert values(path)["packets", "t" * 249] == 1 and values(path)[OTHER.name, ""] == 1


def test_metric_directory_is_bounded(tmp_path: Path) -> None:
    create_counters(tmp_path / "c", rows=512)
    table = CounterTable(tmp_path / "c")
    for number in range(METRIC_ROWS + 3):
        table.counter(Metric(f"m{number}", "counter", (), "")).add(1)
    assert len(read_metrics(tmp_path / "c")) == METRIC_ROWS
    assert values(tmp_path / "c")[OTHER.name, ""] == 5, "two are the table's own"
    table.counter(Metric("n" * 1000, "counter", (), "")).add(1)
    assert values(tmp_path / "c")[OTHER.name, ""] == 6


def test_a_help_too_long_is_left_out(path: Path) -> None:
    CounterTable(path).counter(LAG._replace(help="x" * 1000)).add(1)
    assert values(path)["lag_bytes", ""] == 1 and read_metrics(path)["lag_bytes"].help == ""


def test_labels_must_be_those_of_the_metric(path: Path) -> None:
    with pytest.raises(ValueError, match=r"packets.*\['topic'\].*\['topic', 'way'\]"):
        CounterTable(path).counter(PACKETS, topic="a")


def test_a_row_that_was_not_finished_is_free(path: Path) -> None:
    """The owner died after the text and before the state."""
    table = CounterTable(path)
    table.counter(LAG).add(1)
    row = ROWS_OFFSET + 2 * ROW_ENTRY_BYTES
    assert table._directory.cells[row // 8] != 0
    table._directory.cells[row // 8] = 0
    successor = CounterTable(path)
    successor.counter(PACKETS, topic="a", way="").add(1)
    assert ("lag_bytes", "") not in values(path) and values(path)["packets", "a"] == 1


def test_a_damaged_row_is_left_out_and_left_alone(path: Path) -> None:
    """Its metric is none of the directory: a successor goes on behind the last row, not over it."""
    table = CounterTable(path)
    for topic in ("a", "b"):
        table.counter(PACKETS, topic=topic, way="").add(10)
    table._directory.cells[(ROWS_OFFSET + 2 * ROW_ENTRY_BYTES) // 8] = 77
    successor = CounterTable(path)
    successor.counter(PACKETS, topic="c", way="").add(1)
    assert [values(path).get(("packets", topic)) for topic in "abc"] == [None, 10, 1]


@pytest.mark.parametrize("seed", range(5))
def test_damage_is_left_out(path: Path, seed: int) -> None:
    """Noise in the directories: who reads leaves out what makes no sense, the owner goes on behind it."""
    table = CounterTable(path)
    for number in range(3):
        table.counter(PACKETS, topic=str(number), way="").add(number)
    table.close()
    image = path.read_bytes()
    rng = random.Random(seed)
    for _ in range(60):
        damaged = bytearray(image)
        for _ in range(rng.choice([1, 10, 3000])):
            start = rng.choice([METRICS_OFFSET, ROWS_OFFSET])
            damaged[start + rng.randrange(2000)] = rng.randrange(256)
        path.write_bytes(damaged)
        read_counters(path)
        read_metrics(path)
        CounterTable(path).counter(LAG).add(1)
    assert len(image) % PAGE_BYTES == 0


def test_a_released_row_is_anothers(path: Path) -> None:
    table = CounterTable(path)
    for number in range(6):
        table.counter(PACKETS, topic=str(number), way="").add(10 + number)
    table.release(PACKETS, topic="2", way="")
    table.release(PACKETS, topic="nobody's", way="")
    assert values(path).get(("packets", "2")) is None and values(path)["packets", "3"] == 13, (
        "behind it nothing is lost"
    )
    assert {"topic": "2", "way": ""} not in table.labels_of(PACKETS) and len(table.labels_of(PACKETS)) == 5
    assert table.counter(PACKETS, topic="new", way="").value == 0
    assert values(path)["packets", "new"] == 0 and values(path)[REFUSED.name, ""] == 0
    table.counter(PACKETS, topic="one too many", way="").add(1)
    assert values(path)[OTHER.name, ""] == 1


def test_successor_finds_what_was_released(path: Path) -> None:
    table = CounterTable(path)
    for number in range(6):
        table.counter(PACKETS, topic=str(number), way="").add(number)
    table.release(PACKETS, topic="0", way="")
    table.release(PACKETS, topic="5", way="")
    successor = CounterTable(path)
    assert sorted(labels["topic"] for labels in successor.labels_of(PACKETS)) == ["1", "2", "3", "4"]
    for topic in ("a", "b", "c"):
        successor.counter(PACKETS, topic=topic, way="").add(7)
    assert [values(path).get(("packets", topic)) for topic in "abc"] == [7, 7, None]
    assert values(path)[OTHER.name, ""] == 7


def test_a_row_given_anew_while_it_is_read_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the labels and the value the row becomes another's, of the same metric: the state is not the same."""
    table = CounterTable(path)
    table.counter(PACKETS, topic="old", way="").add(1)
    parse = counters._parse_labels

    def meanwhile(text: str) -> dict[str, str] | None:
        if "old" in text:
            table.release(PACKETS, topic="old", way="")
            table.counter(PACKETS, topic="new", way="").add(2)
        return parse(text)

    with monkeypatch.context() as patch:
        patch.setattr(counters, "_parse_labels", meanwhile)
        assert not {labels.get("topic") for _, labels, _ in read_counters(path)} & {"old", "new"}
    assert values(path)["packets", "new"] == 2


def test_histogram(tmp_path: Path) -> None:
    create_counters(tmp_path / "c")
    delay = Metric("delay", "histogram", ("way",), "How long it took.")
    table = CounterTable(tmp_path / "c")
    for value in (-5, 0, 10, 11, 100, 101, 5000):
        table.histogram(delay, (10, 100), way="in").observe(value)
    found = {labels[BUCKET]: value for name, labels, value in read_counters(tmp_path / "c") if name == "delay"}
    assert found == {"10": 3, "100": 2, "+Inf": 2, SUM: 5222}
    assert read_metrics(tmp_path / "c")["delay"].kind == "histogram"
    with pytest.raises(ValueError, match="delay"):
        table.histogram(delay, (10, 100))


def test_a_histogram_without_rows_goes_nowhere(path: Path) -> None:
    table = CounterTable(path)
    table.histogram(Metric("delay", "histogram", (), ""), tuple(range(10))).observe(99)
    assert values(path)[OTHER.name, ""] == 0 and values(path)[REFUSED.name, ""] == 6
