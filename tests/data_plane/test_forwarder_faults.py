"""The forwarder when something around it fails: the machine's power, its disk, Kafka's permission, another of its kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_kit import EdgeKit, some
from kafka_broker import KafkaBroker

from trackside.data_plane.data_dir import partition_dir, segment_bases, segment_path
from trackside.data_plane.log import Partition

pytestmark = pytest.mark.kafka


@pytest.fixture
def make_edge(tmp_path: Path, kafka_broker: KafkaBroker) -> Iterator[Callable[..., EdgeKit]]:
    made: list[EdgeKit] = []

    def make(**settings: Any) -> EdgeKit:
        edge = EdgeKit(tmp_path / str(len(made)), settings.pop("address", kafka_broker.address), **settings)
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
