"""Counters: rows by metric and labels, found again by a successor, read from outside."""

from __future__ import annotations

from pathlib import Path

from trackside.shm.counters import CounterTable, Metric, create_counters, read_counters, read_metrics

PACKETS = Metric("packets", "counter", ("topic",), "Packets.")


def test_successor_finds_its_cells_again(tmp_path: Path) -> None:
    create_counters(tmp_path / "c", "producer-0")
    CounterTable(tmp_path / "c").counter(PACKETS, topic="a").add(3)
    CounterTable(tmp_path / "c").counter(PACKETS, topic="a").add(4)
    assert ("packets", {"topic": "a"}, 7) in read_counters(tmp_path / "c")
    assert read_metrics(tmp_path / "c")["packets"] == PACKETS


def test_full_table_counts_in_other(tmp_path: Path) -> None:
    create_counters(tmp_path / "c", "producer-0", rows=4)
    table = CounterTable(tmp_path / "c")
    for topic in "abcd":
        table.counter(PACKETS, topic=topic).add(10)
    values = {(name, labels.get("topic")): value for name, labels, value in read_counters(tmp_path / "c")}
    assert values == {
        ("packets", "a"): 10,
        ("packets", "b"): 10,
        ("counters_other", None): 20,
        ("counters_refused", None): 2,
    }
