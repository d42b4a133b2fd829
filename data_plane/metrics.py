"""The counters of the data plane: one table with a sentence each, from which help texts and docs come."""

from __future__ import annotations

from typing import NamedTuple

from trackside.shm.counters import Counter, CounterTable, Metric

__all__ = [
    "METRICS",
    "ConsumerCounters",
    "GatewayCounters",
    "ProducerCounters",
    "consumer_counters",
    "gateway_counters",
    "producer_counters",
]

METRICS = {
    metric.name: metric
    for metric in (
        Metric("trackside_producer_records_total", "counter", (), "Records taken from the down rings of all peers."),
        Metric(
            "trackside_producer_packets_total",
            "counter",
            (),
            "Packets in those records; copies of essential packets not counted.",
        ),
        Metric(
            "trackside_producer_refused_total",
            "counter",
            (),
            "Packets that the log refused for good; each is a dead letter.",
        ),
        Metric(
            "trackside_consumer_live_frames_total",
            "counter",
            (),
            "Frames made at the live end of partitions, each once for all peers.",
        ),
        Metric(
            "trackside_consumer_past_frames_total",
            "counter",
            (),
            "Frames made for one reader that was behind the live end.",
        ),
        Metric(
            "trackside_consumer_marks_total",
            "counter",
            (),
            "Live frames that found no room in an up ring; the peer asks for them again.",
        ),
        Metric("trackside_consumer_oversize_total", "counter", (), "Log entries too large for any response; skipped."),
        Metric("trackside_consumer_stale_requests_total", "counter", (), "Requests of a peer's predecessor; dropped."),
        Metric("trackside_consumer_fetches_total", "counter", (), "Reads of the log, whatever the number of readers."),
        Metric("trackside_gateway_messages_total", "counter", (), "Write requests accepted."),
        Metric("trackside_gateway_packets_total", "counter", (), "Packets accepted."),
        Metric("trackside_gateway_bytes_total", "counter", (), "Bytes of packets accepted."),
        Metric("trackside_gateway_refused_total", "counter", ("reason",), "Write requests refused, by status."),
        Metric("trackside_gateway_readers", "gauge", (), "Open read streams."),
        Metric("trackside_gateway_responses_total", "counter", (), "Read responses sent."),
        Metric("trackside_gateway_response_bytes_total", "counter", (), "Bytes of read responses sent."),
    )
}


class ProducerCounters(NamedTuple):
    records: Counter
    packets: Counter
    refused: Counter


class ConsumerCounters(NamedTuple):
    live_frames: Counter
    past_frames: Counter
    marks: Counter
    oversize: Counter
    stale_requests: Counter
    fetches: Counter


class GatewayCounters(NamedTuple):
    messages: Counter
    packets: Counter
    bytes: Counter
    readers: Counter
    responses: Counter
    response_bytes: Counter


def _counters(table: CounterTable, role: str, fields: tuple[str, ...]) -> list[Counter]:
    def find(field: str) -> Counter:
        name = f"trackside_{role}_{field}"
        return table.counter(METRICS.get(f"{name}_total") or METRICS[name])

    return [find(field) for field in fields]


def producer_counters(table: CounterTable) -> ProducerCounters:
    return ProducerCounters(*_counters(table, "producer", ProducerCounters._fields))


def consumer_counters(table: CounterTable) -> ConsumerCounters:
    return ConsumerCounters(*_counters(table, "consumer", ConsumerCounters._fields))


def gateway_counters(table: CounterTable) -> GatewayCounters:
    return GatewayCounters(*_counters(table, "gateway", GatewayCounters._fields))
