"""What the proof of the demo stands on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.bench import ledger as ledgers
from trackside.bench.ledger import Latencies, Ledger


def packet(number: int, content: bytes = b"", **fields: object) -> Packet:
    return Packet(type="T", id=number, content=content or bytes([number % 251]) * 5, **fields)  # type: ignore[arg-type]


def ledger_of(packets: list[Packet]) -> Ledger:
    ledger = Ledger()
    for one in packets:
        ledger.note(one)
    return ledger


def test_order_and_repeats_do_not_matter() -> None:
    packets = [packet(number) for number in range(1, 200)]
    shuffled = packets + packets[50:90]
    random.Random(3).shuffle(shuffled)
    written, read = ledger_of(packets), ledger_of(shuffled)
    assert written.hash() == read.hash()
    assert (read.distinct, read.duplicates, read.changed, read.first_missing) == (199, 40, 0, 200)
    assert read.bytes == written.bytes == 199 * 5


def test_a_missing_packet_shows() -> None:
    packets = [packet(number) for number in range(1, 50)]
    read = ledger_of(packets[:20] + packets[21:])
    assert (read.distinct, read.first_missing) == (48, 21)
    assert read.hash() != ledger_of(packets).hash()


@pytest.mark.parametrize(
    "other",
    [
        packet(7, b"another"),
        Packet(type="U", id=7, content=b"\7" * 5),
        packet(7, is_essential=True),
        packet(7, session_key="k"),
    ],
)
def test_a_changed_packet_shows(other: Packet) -> None:
    packets = [packet(number) for number in range(1, 10)]
    assert ledger_of([*packets[:6], other, *packets[7:]]).hash() != ledger_of(packets).hash()
    repeated = ledger_of([*packets, other])
    assert (repeated.duplicates, repeated.changed) == (1, 1) and repeated.hash() == ledger_of(packets).hash()


def test_a_repeat_ahead_of_a_hole_is_a_repeat() -> None:
    ledger = ledger_of([packet(1), packet(3), packet(3), packet(2)])
    assert (ledger.distinct, ledger.duplicates, ledger.first_missing) == (3, 1, 4)


def test_memory_is_bounded_and_old_repeats_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "REMEMBERED", 10)
    ledger = ledger_of([packet(number) for number in range(1, 1_000)])
    assert len(ledger._digests) <= 11
    ledger.note(packet(3))
    assert (ledger.distinct, ledger.duplicates, ledger.changed) == (999, 1, 0)


def test_percentiles_are_right_to_one_per_cent() -> None:
    durations = np.random.default_rng(5).lognormal(15, 1.2, 5_000).astype(int)
    latencies = Latencies()
    for duration in durations.tolist():
        latencies.record(duration)
    for percent in (1, 50, 99, 100):
        exact = np.percentile(durations, percent, method="inverted_cdf") / 1e6
        assert latencies.percentile_ms(percent) == pytest.approx(exact, rel=0.011)
    assert latencies.summary()["max_ms"] == durations.max() / 1e6


def test_no_latency_is_none_and_clocks_may_differ_a_little() -> None:
    latencies = Latencies()
    assert latencies.summary() == {"count": 0, "p50_ms": None, "p99_ms": None, "max_ms": None}
    latencies.record(-500)
    assert latencies.percentile_ms(50) == pytest.approx(0.001)
