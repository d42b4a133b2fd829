"""The forwarder over a real local log and a real Kafka: what stands there, in which order, how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_kit import EdgeKit, some
from kafka_broker import KafkaBroker

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.record import Route

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


def test_what_was_there_and_what_comes_arrives_in_order(make_edge: Callable[..., EdgeKit]) -> None:
    edge = make_edge()
    edge.write(some(0, 500))
    edge.start()
    edge.forward_all()
    edge.write(some(500, 500))
    edge.forward_all()
    found = edge.on_kafka(edge.topic())
    assert [message.value for message in found] == some(0, 1000)
    assert [message.place for message in found] == list(range(1000))


def test_a_restart_repeats_nothing(make_edge: Callable[..., EdgeKit]) -> None:
    edge = make_edge()
    for part in range(4):
        edge.write(some(part * 100, 100))
        edge.write(some(part * 100, 100, "s"), stream="chassis")
        edge.start()
        edge.forward_all()
        assert edge.forwarder is not None
        if part % 2:
            edge.forwarder.close()
        else:
            edge.forwarder = None  # as a kill leaves it: nothing was said or saved
    assert [message.value for message in edge.on_kafka(edge.topic())] == some(0, 400)
    assert [message.value for message in edge.on_kafka(edge.topic(stream="chassis"))] == some(0, 400, "s")


def end_of_session(offsets: dict[str, int]) -> bytes:
    content = data.EndOfSessionPacket(data_source="Car", topic_partition_offsets=offsets)
    return data.Packet(type="EndOfSession", session_key="k", content=content.SerializeToString()).SerializeToString()


def offsets_on_kafka(edge: EdgeKit) -> list[dict[str, int]]:
    packets = [data.Packet.FromString(message.value) for message in edge.on_kafka(edge.routing.session_info.topic)]
    return [dict(data.EndOfSessionPacket.FromString(packet.content).topic_partition_offsets) for packet in packets]


@pytest.mark.parametrize("killed", [False, True], ids=["in one go", "over restarts"])
def test_offsets_of_session_packets_are_those_of_kafka(make_edge: Callable[..., EdgeKit], killed: bool) -> None:
    """What Kafka has before such an offset is what the local log had before it; no packet stands there too early."""
    edge = make_edge()
    info = Route(*edge.routing.session_info, b"k")
    key, stream = f"{edge.topic()}:0", f"{edge.topic(stream='chassis')}:0"
    told = []
    for part in range(5):
        edge.start()
        edge.write(some(part * 50, 50))
        told.append({key: part * 50 + 25, stream: part, f"{edge.domain}.Data.Car.none:0": 0})
        edge.write(some(part, 1), stream="chassis")
        if killed:
            edge.forward_all()
            edge.start()
        edge.append([end_of_session(told[-1])], info)
        if killed and part != 2:
            continue
        edge.forward_all()
    edge.start()
    edge.forward_all()
    main, chassis = edge.on_kafka(edge.topic()), edge.on_kafka(edge.topic(stream="chassis"))
    found = offsets_on_kafka(edge)
    assert len(found) == len(told)
    for here, there in zip(told, found, strict=True):
        assert there[f"{edge.domain}.Data.Car.none:0"] == 0
        assert [m.place for m in main if m.offset < there[key]] == list(range(here[key]))
        assert [m.place for m in chassis if m.offset < there[stream]] == list(range(here[stream]))
