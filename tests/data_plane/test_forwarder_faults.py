"""The forwarder when something around it fails: the machine's power, its disk, Kafka's permission, another of its kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_kit import EdgeKit, changed, some
from kafka_broker import SASL_SECURITY, KafkaBroker

from trackside.data_plane.data_dir import partition_dir, segment_bases, segment_path
from trackside.data_plane.dead_letters import DeadLetterFile
from trackside.data_plane.log import Partition

pytestmark = pytest.mark.kafka


@pytest.fixture
def make_edge(tmp_path: Path, kafka_broker: KafkaBroker) -> Iterator[Callable[..., EdgeKit]]:
    made: list[EdgeKit] = []

    def make(**settings: Any) -> EdgeKit:
        folder = settings.pop("folder", tmp_path / str(len(made)))
        edge = EdgeKit(folder, settings.pop("address", kafka_broker.address), **settings)
        made.append(edge)
        return edge

    yield make
    for edge in made:
        edge.close()


# -- power ------------------------------------------------------------------------------------------------------------


class Device:
    """What a power cut leaves of a data directory: files as they were when they were synced last, the rest is gone."""

    def __init__(self, edge: EdgeKit, monkeypatch: pytest.MonkeyPatch) -> None:
        self._edge = edge
        self._monkeypatch = monkeypatch
        self._boot = 1
        self._sizes: dict[Path, int] = {}
        self._set_boot()

    def _set_boot(self) -> None:
        boot = self._boot.to_bytes(16, "big")
        self._monkeypatch.setattr("trackside.data_plane.local_log.boot_id", lambda: boot)

    def segment(self) -> Path:
        folder = partition_dir(self._edge.data_dir, Partition(self._edge.topic(), 0))
        return segment_path(folder, segment_bases(folder)[-1])

    def cut(self, lose: Callable[[], None]) -> None:
        """Processes and shared memory are gone; ``lose`` takes away what was not on the device."""
        edge = self._edge
        edge.forwarder = None
        edge.log.close(0)
        lose()
        self._boot += 1
        self._set_boot()
        edge.boot()


@pytest.mark.parametrize("left", ["synced part", "empty file", "no partition"])
def test_what_is_written_after_a_power_cut_is_forwarded_whatever_kafka_had_before(
    make_edge: Callable[..., EdgeKit], monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Kafka has packets that the device has lost: their offsets are nobody else's, so nothing new counts as forwarded."""
    edge = make_edge()
    device = Device(edge, monkeypatch)
    edge.write(some(0, 50))
    synced = device.segment().stat().st_size
    edge.write(some(50, 50))
    edge.start()
    edge.forward_all()
    segment = device.segment()

    def lose() -> None:
        if left == "no partition":
            shutil.rmtree(segment.parent.parent)
        else:
            segment.write_bytes(segment.read_bytes()[: synced if left == "synced part" else 0])

    device.cut(lose)
    edge.start()
    edge.forward_all()
    edge.write(some(100, 20))
    edge.write(some(120, 90))
    edge.forward_all()
    edge.start()
    edge.forward_all()
    assert [message.value for message in edge.on_kafka(edge.topic())] == some(0, 210)


# -- Kafka refuses ----------------------------------------------------------------------------------------------------


def test_a_copy_of_the_log_that_is_forwarded_too_is_noticed(
    make_edge: Callable[..., EdgeKit], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its packets have the places of others. Who is fenced says so, waits, and leaves out nothing of its own."""
    edge = make_edge()
    edge.write(some(0, 10))
    edge.start()
    edge.forward_all()
    shutil.copytree(edge.data_dir, tmp_path / "copied" / "data")
    copy = make_edge(folder=tmp_path / "copied", domain=edge.domain)
    assert copy.identity == edge.identity
    copy.write(some(100, 10, "copy"))
    copy.start()
    copy.forward_all()
    edge.write(some(10, 5))
    forwarder = edge.forwarder
    assert forwarder is not None
    edge.drive(lambda: not forwarder.state().available, "it is fenced")
    assert "another forwarder has begun as log" in forwarder.state().reason
    assert "is a copy of this data directory in use" in capsys.readouterr().err
    forwarder._connect_at = 0.0
    edge.drive(lambda: forwarder._link is not None, "it begins again")
    edge.drive(lambda: not forwarder.state().available, "it sees what the other has sent")
    assert "up to offset 19, sent here 10" in forwarder.state().reason
    assert forwarder._ways[Partition(edge.topic(), 0)].next_offset == 10, "its own five packets still wait"


def test_a_topic_that_may_be_written_again_goes_on(
    make_edge: Callable[..., EdgeKit], kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Denied in the middle; nothing is a dead letter, and nothing is there twice."""
    monkeypatch.setattr("trackside.data_plane.forward_partition.HOLD_SECONDS", 0.2)
    edge = make_edge(address=kafka_broker.sasl_address, security=SASL_SECURITY)
    edge.write(some(0, 10))
    forwarder = edge.start()
    edge.forward_all()
    kafka_broker.forbid_writing(edge.topic())
    edge.write(some(10, 20))
    way = forwarder._ways[Partition(edge.topic(), 0)]
    edge.drive(lambda: way.reason, "it says why it waits")
    kafka_broker.allow_writing(edge.topic())
    edge.forward_all()
    assert not way.reason
    edge.settings = changed(edge.settings, forward_to=kafka_broker.address)
    assert [message.value for message in edge.on_kafka(edge.topic())] == some(0, 30)
    assert not list(DeadLetterFile(edge.data_dir / "dead-letters").letters())
