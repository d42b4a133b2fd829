"""The forwarder over a real local log and a real Kafka: what stands there, in which order, how often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from edge_kit import EdgeKit, some
from kafka_broker import SASL_SECURITY, KafkaBroker
from log_contract import packet_of_size

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.dead_letters import DeadLetterFile
from trackside.data_plane.forward_link import ForwardLink, Parcel
from trackside.data_plane.kafka_config import IDENTITY_HEADER
from trackside.data_plane.log import Partition
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


def test_what_a_killed_forwarder_had_under_way_can_never_appear(make_edge: Callable[..., EdgeKit]) -> None:
    """Killed between sending and committing: the successor sends it again, and the predecessor's last word comes late."""
    edge = make_edge()
    edge.write(some(0, 100))
    killed = edge.start()
    edge.forward_all()
    edge.write(some(100, 100))
    late: list[Callable[..., None]] = []

    class Killed(BaseException):
        pass

    def insist(verb: Callable[..., None], seconds: float) -> None:
        late.append(verb)
        raise Killed

    assert killed._link is not None
    killed._link._insist = insist  # type: ignore[method-assign]
    with pytest.raises(Killed):
        edge.forward_all()
    edge.start()
    edge.forward_all()
    with pytest.raises(KafkaException):
        late[0](5.0)
    assert [message.place for message in edge.on_kafka(edge.topic())] == list(range(200))


def test_a_lost_file_is_made_again_from_what_is_on_kafka(make_edge: Callable[..., EdgeKit]) -> None:
    """Also behind what others wrote to the same topics."""
    edge = make_edge()
    other = make_edge(domain=edge.domain)
    for part in range(3):
        for one in (edge, other) if part < 2 else (other,):
            one.write(some(part * 100, 100))
            one.start()
            one.forward_all()
            assert one.forwarder is not None
            one.forwarder.close()
            one.forwarder = None
    edge.write(some(200, 100))
    (edge.data_dir / "forwarded.json").unlink()
    edge.start()
    edge.forward_all()
    for one in (edge, other):
        found = [message.place for message in one.on_kafka(one.topic()) if message.place is not None]
        assert found == list(range(300))


def test_a_topic_that_was_deleted_is_made_and_filled_again(
    make_edge: Callable[..., EdgeKit], kafka_broker: KafkaBroker
) -> None:
    edge = make_edge()
    edge.write(some(0, 100))
    edge.start()
    edge.forward_all()
    kafka_broker.delete_topic(edge.topic())
    edge.write(some(100, 100))
    edge.drive(lambda: kafka_broker.topics().get(edge.topic()), "the topic is there again")
    edge.forward_all()
    assert [message.place for message in edge.on_kafka(edge.topic())] == list(range(200))


def test_a_packet_that_kafka_refuses_is_a_dead_letter_and_its_neighbours_keep_their_order(
    make_edge: Callable[..., EdgeKit], kafka_broker: KafkaBroker
) -> None:
    edge = make_edge()
    kafka_broker.create_topic(edge.topic(), config={"max.message.bytes": "20000"})
    packets = [packet_of_size(size, seed) for seed, size in enumerate([500, 30_000, 600, 700, 25_000, 40_000, 800])]
    edge.write(packets)
    edge.start()
    edge.forward_all()
    assert [message.value for message in edge.on_kafka(edge.topic())] == [p for p in packets if len(p) < 20_000]
    letters = [found.letter for found in DeadLetterFile(edge.data_dir / "dead-letters").letters()]
    assert [letter.value for letter in letters] == [p for p in packets if len(p) > 20_000]
    assert [(letter.place, letter.end) for letter in letters] == [((edge.topic(), 0), end) for end in (1, 4, 5)]


def test_a_refusal_that_nobody_could_foresee_costs_the_one_packet(
    make_edge: Callable[..., EdgeKit], kafka_broker: KafkaBroker
) -> None:
    """The limit went down while the forwarder ran: by halves it finds who is refused."""
    edge = make_edge()
    kafka_broker.create_topic(edge.topic())
    packets = [packet_of_size(300 if seed != 40 else 30_000, seed) for seed in range(60)]
    edge.write(packets[:1])
    edge.start()
    edge.forward_all()
    kafka_broker.configure_topic(edge.topic(), {"max.message.bytes": "20000"})
    edge.write(packets[1:])
    edge.forward_all()
    assert [message.value for message in edge.on_kafka(edge.topic())] == packets[:40] + packets[41:]
    assert len(list(DeadLetterFile(edge.data_dir / "dead-letters").letters())) == 1


def test_a_topic_that_may_not_be_written_waits_and_others_go_on(
    make_edge: Callable[..., EdgeKit], kafka_broker: KafkaBroker
) -> None:
    """Its data waits in the local log, and so do sessions that speak of it; nothing of it is a dead letter."""
    edge = make_edge(address=kafka_broker.sasl_address, security=SASL_SECURITY)
    kafka_broker.create_topic(edge.topic())
    kafka_broker.forbid_writing(edge.topic())
    edge.write(some(0, 10))
    edge.write(some(0, 10), source="Truck")
    edge.append([end_of_session({f"{edge.topic()}:0": 10})], Route(*edge.routing.session_info, b"k"))
    forwarder = edge.start()
    ways = forwarder._ways
    edge.drive(lambda: ways and ways[Partition(edge.topic("Truck"), 0)].next_offset == 10, "the other one goes on")
    edge.drive(lambda: ways[Partition(edge.topic(), 0)].reason, "it says why it waits")
    edge.drive(lambda: "waits for" in ways[edge.routing.session_info].reason, "the session waits")
    assert forwarder.state().available
    assert not list(DeadLetterFile(edge.data_dir / "dead-letters").letters())


def test_essentials_are_there_before_the_data_that_needs_them(
    make_edge: Callable[..., EdgeKit], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = make_edge()
    essentials = edge.routing.essentials_topic("Car")
    sent: list[str] = []
    send = ForwardLink.send

    def watched(self: ForwardLink, parcels: Sequence[Parcel]) -> list[list[int]]:
        sent.extend(parcel.partition.topic for parcel in parcels)
        return send(self, parcels)

    monkeypatch.setattr(ForwardLink, "send", watched)
    edge.write(some(0, 1))
    edge.start()
    edge.forward_all()
    edge.write(some(1, 10), essentials=essentials)
    edge.forward_all()
    assert sent == [edge.topic(), essentials, edge.topic()]
    assert [message.value for message in edge.on_kafka(essentials)] == some(1, 10)


def test_key_identity_and_time_go_along(make_edge: Callable[..., EdgeKit]) -> None:
    edge = make_edge()
    before = time.time_ns() // 1_000_000
    edge.append(some(0, 2), Route(edge.topic(), 0, b"key", identity=b"me"))
    after = time.time_ns() // 1_000_000
    edge.start()
    edge.forward_all()
    for message in edge.on_kafka(edge.topic()):
        assert (message.key, message.headers[IDENTITY_HEADER]) == (b"key", b"me")
        assert before <= message.time_ms <= after
