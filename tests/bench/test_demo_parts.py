"""The demo's parts by themselves: writer and reader on a server that breaks calls, the judgement, what is shown."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ibt_files import ibt_bytes, write_ibt
from run_directory_kit import FakeRunDirectory
from stand_in_server import StandIn, stand_in

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.bench import demo_server, talk
from trackside.bench.demo_proof import Outcome, document, failures
from trackside.bench.demo_reader import Clock, Reader
from trackside.bench.demo_server import DemoServer, KillResult, Shape, find_process
from trackside.bench.demo_view import Moment, line, summary
from trackside.bench.demo_writer import STREAM, Writer, open_drive
from trackside.bench.talk import Child, ChildFailed
from trackside.client.channel import open_channel
from trackside.shm.observe import flows, observe

BOUND = 30.0


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as servicer:
        yield servicer


@pytest.fixture
def channel(server: StandIn) -> Iterator[grpc.Channel]:
    with open_channel(server.address) as channel:
        yield channel


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What writers and readers of this process say."""
    news: list[dict[str, Any]] = []

    def tell(kind: str, **fields: Any) -> None:
        news.append({"kind": kind, **fields})

    monkeypatch.setattr("trackside.bench.demo_writer.tell", tell)
    monkeypatch.setattr("trackside.bench.demo_reader.tell", tell)
    return news


def write_session(channel: grpc.Channel, seconds: float, ibt: str | None = None) -> Writer:
    drive, start = open_drive(ibt, seed=1)
    if ibt is None:
        start += 7.9  # so that the line comes at once
    writer = Writer(channel, drive, start)
    writer.begin.set()
    writer.run(seconds)
    return writer


def read_session(channel: grpc.Channel, told: list[dict[str, Any]], packets: int) -> Reader:
    session = next(news for news in told if news["kind"] == "session")
    clock = next(news for news in told if news["kind"] == "clock")
    # The stand-in says that sessions begin at 2 and 1; what lies below is not this session's.
    reader = Reader(channel, session)
    reader.on_order({"clock": {name: clock[name] for name in ("begin_ns", "epoch_ns", "block_ns")}})
    watchdog = threading.Timer(BOUND, reader.close)
    watchdog.start()
    reader.expect(packets)
    reader.run()
    watchdog.cancel()
    return reader


def fill_up(server: StandIn) -> None:
    """What the stand-in's sessions begin behind."""
    server.entries[STREAM] += [pb_entry(), pb_entry()]
    server.entries[""].append(pb_entry())


def pb_entry() -> api.DataPacketDetails:
    return api.DataPacketDetails(message=pb.Packet(id=1, content=b"of another session"), session_key="")


def test_a_session_by_the_rules(server: StandIn, channel: grpc.Channel, told: list[dict[str, Any]]) -> None:
    """NewSession, then the configuration with one group, then data, on both streams; the end comes last."""
    writer = write_session(channel, 0.5)
    types = {stream: [entry.message.type for entry in entries] for stream, entries in server.entries.items()}
    assert types[""] == ["NewSession", "Configuration", "EndOfSession"]
    assert types[STREAM][:2] == ["NewSession", "Configuration"] and types[STREAM][-1] == "EndOfSession"
    assert types[STREAM].count("PeriodicData") == 100 and types[STREAM].count("Marker") == 1
    essential = [
        entry.message.type for entries in server.entries.values() for entry in entries if entry.message.is_essential
    ]
    assert sorted(essential) == ["Configuration", "Marker"]
    numbers = sorted(entry.message.id for entries in server.entries.values() for entry in entries)
    assert numbers == [*range(1, len(numbers) + 1)] and writer.ledger.distinct == len(numbers)
    check_times_of(server)


def check_times_of(server: StandIn) -> None:
    """Samples follow each other without a gap, and the lap marker lies between the first and the last."""
    packets = [entry.message for entry in server.entries[STREAM] if entry.message.type == "PeriodicData"]
    fast = [pb.PeriodicDataPacket.FromString(packet.content) for packet in packets][::2]
    starts = [packet.start_time for packet in fast]
    assert {packet.interval for packet in fast} == {1_000_000}
    assert [second - first for first, second in itertools.pairwise(starts)] == [10_000_000] * (len(starts) - 1)
    marker = next(entry.message for entry in server.entries[STREAM] if entry.message.type == "Marker")
    assert starts[0] < pb.MarkerPacket.FromString(marker.content).timestamp < starts[-1]


def test_both_ledgers_agree_through_broken_calls(
    server: StandIn, channel: grpc.Channel, told: list[dict[str, Any]]
) -> None:
    fill_up(server)
    server.break_write_at, server.break_read_at, server.tell_accepted = [10, 3], [4, 2, 9], False
    writer = write_session(channel, 0.5)
    reader = read_session(channel, told, writer.ledger.distinct)
    assert reader.ledger.hash() == writer.ledger.hash()
    assert reader.ledger.distinct == writer.ledger.distinct and reader.ledger.duplicates >= 13
    assert reader.ledger.changed == 0 and reader.foreign == 0
    assert reader.latencies.count == 100
    reader.tell_progress("done")
    assert told[-1]["broken_calls"] == 3 and set(told[-1]["values"]) == set(told[0]["highlights"])


def test_a_recording_goes_through_as_rows(
    server: StandIn, channel: grpc.Channel, told: list[dict[str, Any]], tmp_path: Path
) -> None:
    fill_up(server)
    path = write_ibt(tmp_path / "drive.ibt", ibt_bytes(120))
    writer = write_session(channel, 0.3, str(path))
    reader = read_session(channel, told, writer.ledger.distinct)
    assert reader.ledger.hash() == writer.ledger.hash()
    types = [entry.message.type for entry in server.entries[STREAM][2:]]
    assert types.count("RowData") == 18 + 30 and "PeriodicData" not in types  # 60 Hz, and 360 Hz in 30 blocks
    assert reader.latencies.max_ns < 10e9  # the due time of a row is the end of its block


def test_a_stop_ends_the_session_properly(server: StandIn, channel: grpc.Channel, told: list[dict[str, Any]]) -> None:
    drive, start = open_drive(None, seed=1)
    writer = Writer(channel, drive, start)
    writer.on_order({"stop": True})
    writer.run(None)
    assert [entry.message.type for entry in server.entries[STREAM]] == ["NewSession", "Configuration", "EndOfSession"]


def test_a_packet_is_due_at_the_end_of_its_block() -> None:
    clock = Clock(begin_ns=500, epoch_ns=10_000, block_ns=100)
    assert clock.due_ns(10_000) == clock.due_ns(10_099) == 600 and clock.due_ns(10_100) == 700


# --- the judgement

WRITTEN = {"written": 10, "confirmed_packets": 10, "hash": "aa", "bytes": 99, "resent_packets": 0, "broken_calls": 0}
READ = {
    "distinct": 10, "duplicates": 3, "changed": 0, "first_missing": 11, "hash": "aa", "broken_calls": 0,
    "latency": {"count": 9, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0},
}  # fmt: skip


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    directory = FakeRunDirectory(tmp_path)
    directory.run_as_us("gateway-0")
    killed = [KillResult("gateway-0", 17, 1, 1.5, 18)]
    return Outcome("A drive", 3.0, dict(WRITTEN), dict(READ), killed, 0.01, observe(tmp_path), 0)


def test_everything_proved(outcome: Outcome) -> None:
    assert failures(outcome) == []
    assert document(outcome)["proved"] is True
    text = summary(outcome)
    assert text.splitlines()[-1].startswith("PROVED") and "duplicates 3" in text
    assert "publish" in text and "commit" in text and "restarts" in text and "followed by pid 18" in text


@pytest.mark.parametrize(
    ("side", "changes", "reason"),
    [
        ("written", {"confirmed_packets": 9}, "9 of 10 packets were confirmed"),
        ("read", {"distinct": 8, "first_missing": 4}, "2 of 10 packets were not read; first missing 4"),
        ("read", {"changed": 1}, "another content"),
        ("read", {"hash": "bb"}, "the hashes differ"),
    ],
)
def test_what_is_not_proved_about_packets(outcome: Outcome, side: str, changes: dict[str, Any], reason: str) -> None:
    getattr(outcome, side).update(changes)
    assert any(reason in failure for failure in failures(outcome))
    assert document(outcome)["proved"] is False and "PROVED: every" not in summary(outcome)
    assert summary(outcome).splitlines()[-1].startswith("NOT PROVED")


def test_what_is_not_proved_about_processes(outcome: Outcome, tmp_path: Path) -> None:
    assert failures(outcome._replace(exit_code=70)) == ["the server ended with exit code 70"]
    assert failures(outcome._replace(server=None)) == ["the server's shared memory could not be read at the end"]
    nobody = outcome.kills[0]._replace(successor_pid=None)
    assert failures(outcome._replace(kills=[nobody])) == ["nobody took over from gateway-0"]
    (tmp_path / "other").mkdir()
    directory = FakeRunDirectory(tmp_path / "other")
    directory.writer().try_publish([(1, 1, b"x")])
    (waiting,) = failures(outcome._replace(server=observe(directory.path)))
    assert "gateway-0>producer-0 still holds 128 bytes" in waiting


def test_a_successor_is_a_later_incarnation_that_is_ready(outcome: Outcome, tmp_path: Path) -> None:
    assert outcome.server is not None
    assert KillResult("gateway-0", 17, 0, 1.0).followed_up(outcome.server).successor_pid == os.getpid()
    assert KillResult("gateway-0", 17, 1, 1.0).followed_up(outcome.server).successor_pid is None
    assert KillResult("producer-0", 17, 0, 1.0).followed_up(outcome.server).successor_pid is None


def test_a_line_says_what_flows(outcome: Outcome) -> None:
    assert outcome.server is not None
    session = {"drive": "A drive", "highlights": {"vCar:Chassis": ["%6.2f", "km/h"], "NGear:Gearbox": ["%2.0f", ""]}}
    reader = {"distinct": 1234, "recent": {"p50_ms": 1.25, "p99_ms": None}, "values": {"vCar:Chassis": 211.5}}
    moment = Moment(2.0, session, {"written": 1200}, reader, outcome.server, flows(outcome.server, outcome.server))
    text = line(moment)
    assert "written 1,234" in text and "read 1,234" in text and "p50 1.2 ms p99 -" in text
    assert "vCar 211.50 km/h" in text and "NGear" not in text


def test_names_of_processes() -> None:
    shape = Shape(2, 1, 1)
    assert [find_process(name, shape) for name in ("gateway", "gateway-1", "producer", "control-plane")] == [
        "gateway-0", "gateway-1", "producer-0", "control-plane",
    ]  # fmt: skip
    for name in ("supervisor", "gateway-2", "producer-1", ""):
        with pytest.raises(ValueError, match="there are gateway-0, gateway-1, producer-0"):
            find_process(name, shape)


def test_folders_of_a_demo_that_was_killed_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_server, "_memory_folder", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, living, foreign = (
        tmp_path / name for name in ("trackside-demo-4194305-a", f"trackside-demo-{os.getpid()}-b", "x")
    )
    for folder in (left, living, foreign):
        folder.mkdir()
    server = DemoServer(Shape())
    assert not left.exists() and living.exists() and foreign.exists()
    assert server.run_dir.exists() and server.folder.exists()
    server.remove()
    assert not server.run_dir.exists() and not server.folder.exists()


def test_folders_that_are_kept_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_server, "_memory_folder", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = DemoServer(Shape(), keep=True)
    server.remove()
    monkeypatch.setattr(demo_server.Path, "exists", lambda _: False)  # as if this process were gone
    demo_server.remove_leftovers()
    assert os.path.isdir(server.run_dir) and os.path.isdir(server.folder)


# --- the talk

CHILD = """
import json, sys
from trackside.bench.talk import listen_for_orders, tell
import threading
done = threading.Event()
def on_order(order):
    tell("answer", **order)
    if order.get("end"):
        done.set()
tell("hello", arguments=json.loads(sys.argv[1]))
listen_for_orders(on_order)
if not json.loads(sys.argv[1]).get("wait"):
    print("no such thing", file=sys.stderr)
    sys.exit(3)
done.wait()
"""


def child_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **arguments: object) -> Child:
    (tmp_path / "talking_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return Child("child", "talking_child", arguments, tmp_path / "child.log")


def test_news_and_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = child_of(tmp_path, monkeypatch, wait=True)
    assert child.wait("hello", BOUND)["arguments"] == {"wait": True}
    child.order(number=7, end=True)
    assert child.wait("answer", BOUND)["number"] == 7
    assert child.wait("ended", BOUND) == {"code": 0}
    child.order(number=8)  # nobody hears it, and that is no error
    child.end()


def test_a_child_that_ends_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = child_of(tmp_path, monkeypatch)
    with pytest.raises(ChildFailed, match="the child ended: no such thing"):
        child.wait("answer", BOUND)
    child.end()


def test_a_child_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = child_of(tmp_path, monkeypatch, wait=True)
    child.wait("hello", BOUND)
    with pytest.raises(ChildFailed, match="did not say 'answer'"):
        child.wait("answer", 0.05)
    assert child.end(BOUND) == 1  # closes its stdin, as the kernel does for a parent that died


def test_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\n\ntwo\nthree\n\n")
    assert talk.last_lines(tmp_path / "log", 2) == ["two", "three"] and talk.last_lines(tmp_path / "none", 2) == []
