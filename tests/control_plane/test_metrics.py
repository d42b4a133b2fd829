"""One scrape: out of a run directory made by hand, read back as Prometheus would read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from project_tree import ROOT
from prometheus_client.parser import text_string_to_metric_families
from run_directory_kit import DEAD_PID, FakeRunDirectory

from ma.streaming.api.v1.api_pb2 import ConnectionDetails
from ma.streaming.open_data.v1.open_data_pb2 import EndOfSessionPacket, NewSessionPacket, Packet
from trackside.control_plane import metrics as seen
from trackside.control_plane.connections import SOURCES_REMEMBERED, ConnectionTable
from trackside.control_plane.log_port import LoggedEntry
from trackside.control_plane.metrics import LABELLED_MAX, Population, families
from trackside.control_plane.metrics_pages import TITLES, markdown_page
from trackside.control_plane.prometheus_text import Family, Sample, encode
from trackside.control_plane.session_fold import SessionFold
from trackside.control_plane.topology import Topology
from trackside.data_plane import metrics as counted
from trackside.data_plane.reader_metrics import READER_ROWS_MAX
from trackside.data_plane.spec import Settings
from trackside.data_plane.stream_metrics import OTHER, SOURCES_MAX, STREAMS_MAX
from trackside.shm.counters import CounterTable
from trackside.shm.observe import observe

NOBODY = Population({}, {}, {}, {})

Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes) -> Scraped:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(directory: FakeRunDirectory, population: Population = NOBODY) -> Scraped:
    return parsed(encode(families(observe(directory.path), population, str(directory.path))))


def value(scraped: Scraped, name: str, **labels: str) -> float | None:
    return scraped.get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def directory(tmp_path: Path) -> FakeRunDirectory:
    return FakeRunDirectory(tmp_path)


# --- the text format -----------------------------------------------------------------------------------------------


def test_what_was_encoded_is_parsed_again() -> None:
    awkward = 'a"b\\c\nd, {e}=é'
    text = encode(
        [
            Family(
                "packets_total",
                "counter",
                'Help with \\ and\nlines and "quotes".',
                [Sample({"source": awkward, "b": ""}, 2**60 + 1)],
            ),
            Family("nothing", "gauge", "No sample yet.", []),
            Family("ratio", "gauge", "A number.", [Sample({}, 0.25), Sample({"x": "y"}, 1e-9)]),
        ]
    )
    assert f" {2**60 + 1}\n".encode() in text, "to the last digit"
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert found["packets"].samples[0].labels == {"source": awkward, "b": ""}
    assert (
        found["packets"].documentation == 'Help with \\ and\nlines and "quotes".' and found["packets"].type == "counter"
    )
    assert found["nothing"].samples == [] and found["nothing"].type == "gauge"
    assert [sample.value for sample in found["ratio"].samples] == [0.25, 1e-9]


# --- counters ------------------------------------------------------------------------------------------------------


def test_the_references_counters_are_one_for_all_processes(directory: FakeRunDirectory) -> None:
    for name, amount in (("gateway-0", 3), ("producer-0", 4)):
        table = CounterTable(directory.path / f"{name}.counters")
        table.counter(counted.PUBLISHED, data_source="Car", stream="").add(amount)
        table.counter(counted.METRICS["trackside_gateway_packets_total"]).add(amount)
    found = scrape(directory)
    assert value(found, "stream_api_data_packets_published_total", data_source="Car", stream="") == 7
    assert value(found, "trackside_gateway_packets_total", worker="gateway-0") == 3
    assert value(found, "trackside_gateway_packets_total", worker="producer-0") == 4


def test_nanoseconds_are_scraped_as_seconds(directory: FakeRunDirectory) -> None:
    table = CounterTable(directory.path / "gateway-0.counters")
    table.counter(counted.METRICS["trackside_gateway_held_back_seconds_total"]).add(1_500_000_000)
    assert value(scrape(directory), "trackside_gateway_held_back_seconds_total", worker="gateway-0") == 1.5


def test_a_histogram_is_cumulative_and_in_seconds(directory: FakeRunDirectory) -> None:
    histogram = counted.latency(CounterTable(directory.path / "producer-0.counters"), counted.ACCEPTED_TO_LOGGED)
    for milliseconds in (0.05, 0.05, 3, 20_000):
        histogram.observe(int(milliseconds * 1e6))
    found = scrape(directory)
    name, worker = "trackside_accepted_to_logged_seconds", {"worker": "producer-0"}
    edges = {
        edge: value(found, f"{name}_bucket", le=edge, **worker)
        for edge in ("0.0001", "0.0025", "0.005", "10.0", "+Inf")
    }
    assert edges == {"0.0001": 2, "0.0025": 2, "0.005": 3, "10.0": 3, "+Inf": 4}
    assert value(found, f"{name}_count", **worker) == 4
    assert value(found, f"{name}_sum", **worker) == pytest.approx(20.0031)


def test_a_dead_processs_counters_are_there(directory: FakeRunDirectory) -> None:
    directory.run_as_us("gateway-0", pid=DEAD_PID)
    CounterTable(directory.path / "gateway-0.counters").counter(counted.PUBLISHED, data_source="Car", stream="").add(5)
    found = scrape(directory)
    assert value(found, "stream_api_data_packets_published_total", data_source="Car", stream="") == 5
    assert value(found, "trackside_worker_up", worker="gateway-0") == 0
    assert value(found, "trackside_worker_state", worker="gateway-0", state="dead") == 1
    assert value(found, "trackside_worker_state", worker="gateway-0", state="ready") == 0
    assert value(found, "trackside_worker_cpu_seconds_total", worker="gateway-0") is None


def test_other_is_shown_when_it_counts_something(directory: FakeRunDirectory) -> None:
    counter = CounterTable(directory.path / "gateway-0.counters").counter(
        counted.PUBLISHED, data_source=OTHER, stream=OTHER
    )
    labels = {"data_source": OTHER, "stream": OTHER}
    assert value(scrape(directory), "stream_api_data_packets_published_total", **labels) is None
    counter.add(2)
    assert value(scrape(directory), "stream_api_data_packets_published_total", **labels) == 2


# --- what is seen from outside -------------------------------------------------------------------------------------


def test_processes_as_they_are(directory: FakeRunDirectory) -> None:
    directory.run_as_us("producer-0", restarts=2, work_ns=1_000_000_000, idle_ns=3_000_000_000)
    found = scrape(directory)
    worker = {"worker": "producer-0"}
    assert value(found, "trackside_worker_up", **worker) == 1
    assert value(found, "trackside_worker_restarts_total", **worker) == 2
    assert value(found, "trackside_worker_work_seconds_total", **worker) == 1
    assert value(found, "trackside_worker_idle_seconds_total", **worker) == 3
    assert value(found, "trackside_worker_state", state="ready", **worker) == 1
    age, cpu = (
        value(found, f"trackside_worker_{name}", **worker) for name in ("heartbeat_age_seconds", "cpu_seconds_total")
    )
    assert age is not None and age >= 0 and cpu is not None and cpu > 0
    assert (value(found, "trackside_worker_resident_bytes", **worker) or 0) > 1 << 20


def test_rings_and_how_far_the_log_is_behind(directory: FakeRunDirectory) -> None:
    writer, reader = directory.writer(), directory.reader()
    writer.try_publish([(1, 64, bytes(1000))])
    end = writer.try_publish([(1, 36, bytes(2000))])
    assert end is not None
    reader.poll()
    found = scrape(directory)
    ring, worker = {"ring": "gateway-0>producer-0"}, {"worker": "producer-0"}
    assert (
        value(found, "trackside_ring_used_bytes", **ring)
        == end
        == value(found, "trackside_ring_held_back_bytes", **ring)
    )
    assert value(found, "trackside_ring_used_ratio", **ring) == end / 65_536
    assert value(found, "trackside_ring_records_total", **ring) == 2
    assert value(found, "trackside_ring_packets_total", **ring) == 100
    assert value(found, "trackside_log_unlogged_bytes", **worker) == end
    assert (value(found, "trackside_log_oldest_unacknowledged_seconds", **worker) or 0) > 0
    reader.commit(end)
    found = scrape(directory)
    assert value(found, "trackside_log_unlogged_bytes", **worker) == 0
    assert value(found, "trackside_log_oldest_unacknowledged_seconds", **worker) == 0


def test_a_ring_that_is_gone_is_left_out(directory: FakeRunDirectory) -> None:
    (directory.path / "gateway-0.producer-0.down.ring").unlink()
    assert value(scrape(directory), "trackside_ring_capacity_bytes", ring="gateway-0>producer-0") is None


def test_the_server_and_its_disks(directory: FakeRunDirectory) -> None:
    found = scrape(directory)
    (labels,) = [dict(labels) for name, labels in found if name == "trackside_info"]
    assert labels["log"] == "local" and labels["instance"] == "000001-feed"
    assert value(found, "trackside_serving") == 1
    disk = os.statvfs(directory.path)
    assert value(found, "trackside_data_dir_size_bytes") == disk.f_blocks * disk.f_frsize
    directory.describe(state="NOT_SERVING", reason="the log is away")
    assert value(scrape(directory), "trackside_serving") == 0


# --- what the control plane holds ----------------------------------------------------------------------------------


def test_sessions_formats_and_connections_by_data_source(directory: FakeRunDirectory) -> None:
    parts = {"connections": {"bytes": 77}, "follow": {"gateways": 2}}
    found = scrape(directory, Population({"Car": (3, 1), "Van": (1, 0)}, {"Car": 5}, {"Car": 2, "Van": 0}, parts))
    by_source = {
        (name, dict(labels)["data_source"]): number
        for (name, labels), number in found.items()
        if "data_source" in dict(labels)
    }
    assert by_source == {
        ("stream_api_sessions_total", "Car"): 3,
        ("stream_api_sessions_total", "Van"): 1,
        ("trackside_sessions_live", "Car"): 1,
        ("trackside_sessions_live", "Van"): 0,
        ("stream_api_data_formats_total", "Car"): 5,
        ("stream_api_connections_total", "Car"): 2,
        ("stream_api_connections_total", "Van"): 0,
    }
    assert value(found, "trackside_connections_bytes") == 77 and value(found, "trackside_following_gateways") == 2


def test_many_data_sources_are_named_up_to_a_bound(directory: FakeRunDirectory) -> None:
    found = scrape(directory, NOBODY._replace(connections={f"S{number}": 2 for number in range(LABELLED_MAX + 10)}))
    shown = [labels for name, labels in found if name == "stream_api_connections_total"]
    assert len(shown) == LABELLED_MAX + 1
    assert value(found, "stream_api_connections_total", data_source=OTHER) == 20


@pytest.mark.reference_test("ConnectionManagerShould: the gauge follows the open connections")
def test_connections_are_counted_over_a_restart(tmp_path: Path) -> None:
    """What is no ConnectionDetails, of another version perhaps, keeps nobody from starting."""
    car, van = (ConnectionDetails(data_source=name).SerializeToString() for name in ("Car", "Van"))
    table = ConnectionTable(tmp_path / "connections")
    numbers = [table.open(details) for details in (car, car, van, b"\xff")]
    table.close(numbers[2])
    assert table.counts() == {"Car": 2, "Van": 0, "": 1}
    table.shut()
    table = ConnectionTable(tmp_path / "connections")
    assert table.counts() == {"Car": 2, "": 1}
    table.close(numbers[0])
    assert table.counts()["Car"] == 1
    table.shut()


def test_sources_without_a_connection_are_remembered_up_to_a_bound(tmp_path: Path) -> None:
    table = ConnectionTable(tmp_path / "connections")
    for number in range(SOURCES_REMEMBERED + 10):
        table.close(table.open(ConnectionDetails(data_source=f"S{number}").SerializeToString()))
    assert len(table.counts()) == SOURCES_REMEMBERED
    table.shut()


def test_sessions_are_counted_as_the_log_has_them() -> None:
    def entry(offset: int, kind: str, key: str, content: Any) -> LoggedEntry:
        packet = Packet(type=kind, session_key=key, content=content.SerializeToString()).SerializeToString()
        return LoggedEntry(offset, 0, key.encode(), b"", packet)

    fold = SessionFold()
    for offset, key in enumerate("abc"):
        fold.apply(entry(offset, "NewSession", key, NewSessionPacket(data_source="Car" if key != "c" else "Van")))
    for offset in (3, 4):  # the second end does nothing
        fold.apply(entry(offset, "EndOfSession", "a", EndOfSessionPacket(data_source="Car")))
    assert fold.counts() == {"Car": (2, 1), "Van": (1, 1)} and fold.statistics()["live"] == 2


# --- tables and pages ----------------------------------------------------------------------------------------------


@pytest.mark.fact("C7")
def test_all_metrics_of_the_reference_are_there_with_their_labels() -> None:
    """Dashboards that were made for it go on working."""
    source, stream, connection = ("data_source",), ("data_source", "stream"), ("connection", "data_source", "stream")
    wanted = {
        "stream_api_data_packets_published_total": stream,
        "stream_api_info_packets_published_total": source,
        "stream_api_data_packets_routed_total": stream,
        "stream_api_data_packets_routed_bytes_total": stream,
        "stream_api_info_packets_routed_total": source,
        "stream_api_info_packets_routed_bytes_total": source,
        "stream_api_sessions_total": source,
        "stream_api_data_formats_total": source,
        "stream_api_connections_total": source,
        "stream_api_router_messages_received_total": (*connection, "session_key"),
        "stream_api_router_messages_received_bytes_total": (*connection, "session_key"),
        "stream_api_data_packets_read_total": connection,
        "stream_api_data_packets_delivered_total": connection,
        "stream_api_essential_packets_read_total": ("connection", "data_source"),
        "stream_api_essential_packets_delivered_total": ("connection", "data_source"),
    }
    ours = {m.name: m.labels for m in (*counted.METRICS.values(), *seen.CONTROL) if m.name.startswith("stream_api_")}
    assert ours == wanted


def test_names_are_said_once_and_every_group_is_on_the_page() -> None:
    names = [m.name for groups in (counted.GROUPS, seen.GROUPS) for group in groups.values() for m in group]
    assert len(names) == len(set(names))
    assert set(TITLES) == {*counted.GROUPS, *seen.GROUPS}
    page = markdown_page()
    assert all(f"| `{name}` |" in page for name in names)
    assert all(m.help.endswith(".") and "|" not in m.help for group in seen.GROUPS.values() for m in group)


def test_the_page_is_the_tables() -> None:
    again = "python -m trackside.control_plane.metrics_pages docs/metrics.md"
    assert (ROOT / "docs/metrics.md").read_text() == markdown_page(), f"write it anew: {again}"


def test_every_row_that_the_bounds_allow_has_a_place() -> None:
    """Gateways: six metrics by connection; producers: packets and bytes. The rest of a table is for all others."""
    gateway = 6 * (READER_ROWS_MAX + 1) + STREAMS_MAX + SOURCES_MAX + 2
    producer = 2 * (STREAMS_MAX + 1) + 2 * (SOURCES_MAX + 1)
    for role, labelled in (("gateway", gateway), ("producer", producer), ("consumer", 0)):
        plain = sum(20 if m.kind == "histogram" else 3 for m in counted.GROUPS[role])
        assert labelled + plain < Topology(Settings(), Path("/nowhere")).counter_rows(role)
