"""Two servers on one Kafka: each sees what the other did, and nothing is lost or given out twice between them.

``one`` runs two gateways, producers and consumers, ``two`` one of each. They share a domain that no other test has; every
test has a data source of its own. What must become visible at the other server is waited for: the promise is a second
on an idle machine, the bound here is for a busy one.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from kafka_broker import KafkaBroker
from scrape import Scrape
from server import Client, Server, wait_until
from service_calls import (
    CALL,
    Subscriber,
    create,
    end,
    event_id,
    event_of,
    info,
    key_stub,
    keys_of,
    make_key,
    parameters_id,
    parameters_of,
)

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data

pytestmark = pytest.mark.kafka

OTHER_SECONDS = 60.0
"""Bound for what one server did to be seen by the other."""

UPDATES = 100


class Pair(NamedTuple):
    one: Server
    two: Server
    broker: KafkaBroker
    domain: str


@pytest.fixture(scope="module")
def pair(kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    domain = f"Two{uuid.uuid4().hex[:8]}"
    servers = [Server(tmp_path_factory.mktemp("two"), shape, (), kafka_broker.address) for shape in ("2/2/2", "1/1/1")]
    try:
        for server in servers:
            server.environment["TRACKSIDE_DOMAIN"] = domain
            server.start(wait=False)
        for server in servers:
            server.wait_state("SERVING")
            server.port = server.described()["port"]
        yield Pair(*servers, kafka_broker, domain)
    finally:
        for server in servers:
            server.remove()


@pytest.fixture
def one(pair: Pair) -> Iterator[Client]:
    client = pair.one.client()
    yield client
    client.close()


@pytest.fixture
def two(pair: Pair) -> Iterator[Client]:
    client = pair.two.client()
    yield client
    client.close()


@pytest.fixture
def source() -> str:
    return f"Source{uuid.uuid4().hex[:12]}"


def seen(condition: Any, what: str) -> None:
    wait_until(condition, f"{what}, at the other server", OTHER_SECONDS)


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A4")
def test_sessions_updates_and_ends_are_seen_by_the_other(one: Client, two: Client, source: str) -> None:
    key = create(one, source, identifier="Lap 1", type="Race", details={"track": "Spa"})
    seen(lambda: info(two, key).success, "the session")
    assert info(two, key) == info(one, key)
    rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier="Lap 2")
    assert two.sessions.UpdateSessionIdentifier(rename, **CALL).success
    seen(lambda: info(one, key).identifier == "Lap 2", "the new identifier")
    one.write(source, data.Packet(id=1), stream="s")
    ended = end(two, key)
    seen(lambda: info(one, key).is_complete, "the end")
    assert end(one, key) == ended, "the first end counts, for everybody"
    seen(lambda: info(one, key) == info(two, key), "the same streams")
    assert keys_of(one, source) == keys_of(two, source) == [key]


@pytest.mark.fact("S14")
def test_sessions_of_both_are_in_the_gauge_of_each(pair: Pair, one: Client, two: Client, source: str) -> None:
    for number, client in enumerate((one, two, one), 1):
        create(client, source)
        for server in (pair.one, pair.two):
            seen(lambda s=server, n=number: Scrape(s).of(source, "sessions_total") == {(): n}, f"{number} sessions")


@pytest.mark.fact("S1", "S2")
def test_two_hundred_updates_from_both_at_once_lose_nothing(one: Client, two: Client, source: str) -> None:
    key = create(one, source)
    seen(lambda: info(two, key).success, "the session")
    calls = []
    for number in range(UPDATES // 2):
        for name, client in (("one", one), ("two", two)):
            describe = api_pb2.UpdateSessionDetailsRequest(session_key=key, details={f"{name}{number}": str(number)})
            calls.append(client.sessions.UpdateSessionDetails.future(describe, **CALL))
            join = api_pb2.AddAssociateSessionRequest(session_key=key, associate_session_key=f"{name}{number}")
            calls.append(client.sessions.AddAssociateSession.future(join, **CALL))
    assert all(call.result().success for call in calls)
    expected = {f"{name}{number}": str(number) for name in ("one", "two") for number in range(UPDATES // 2)}
    for client in (one, two):
        seen(lambda c=client: dict(info(c, key).details) == expected, "all details")
        seen(lambda c=client: sorted(info(c, key).associate_session_keys) == sorted(expected), "all associates")
    assert info(one, key) == info(two, key)


@pytest.mark.fact("A19")
def test_sessions_of_the_other_are_notified(one: Client, two: Client, source: str) -> None:
    """Complete at the subscriber's own server when they are told, once, in order, and no history."""
    old = create(one, source)
    seen(lambda: info(two, old).success, "the session")
    starts, stops = Subscriber(two, source, "Start"), Subscriber(two, source, "Stop")
    keys = [create(one, source, identifier=f"run {number}") for number in range(3)]
    for key in reversed(keys):
        end(one, key)
    wait_until(lambda: len(starts.keys) >= 3 and len(stops.keys) >= 3, "three starts and three stops", OTHER_SECONDS)
    assert starts.keys == keys and stops.keys == keys[::-1]
    for number, key in enumerate(keys):
        found = info(two, key)
        assert (found.identifier, found.is_complete) == (f"run {number}", True)
    for subscriber in (starts, stops):
        assert not subscriber.ended
        subscriber.close()


@pytest.mark.fact("A6", "C2")
def test_end_offsets_cover_all_that_was_accepted_through_either_gateway(pair: Pair, two: Client, source: str) -> None:
    """While writers go on, and with streams that began a moment ago; also when the session began elsewhere."""
    writers = [Writer(pair.one, source, f"w{number}") for number in range(4)]
    ending = pair.one.client()
    try:
        for round_ in range(3):
            key = create(two if round_ else ending, source)
            seen(lambda k=key: info(ending, k).success, "the session")
            for writer in writers:
                writer.wait_more(20)
            ending.write(source, data.Packet(id=1), stream=f"late{round_}")
            accepted = {writer.stream: writer.accepted for writer in writers}
            offsets = end(ending, key).topic_partition_offsets
            for stream, count in accepted.items():
                assert offsets[f"{source}.{stream}:0"] >= count, f"round {round_}, stream {stream}"
            assert offsets[f"{source}.late{round_}:0"] == 1
    finally:
        for writer in writers:
            writer.stop()
        ending.close()


class Writer:
    """Writes one packet after another over a channel of its own until it is told to stop."""

    def __init__(self, server: Server, source: str, stream: str) -> None:
        self.stream = stream
        self.accepted = 0
        self.failure: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(server.client(), source), daemon=True)
        self._thread.start()

    def _run(self, client: Client, source: str) -> None:
        try:
            while not self._stopped.is_set():
                client.write(source, data.Packet(id=self.accepted + 1), stream=self.stream)
                self.accepted += 1
        except BaseException as failure:  # noqa: BLE001 - told to the test
            self.failure = failure
        finally:
            client.close()

    def wait_more(self, count: int) -> None:
        wanted = self.accepted + count
        wait_until(lambda: self.accepted >= wanted or self.failure, f"{count} more packets on {self.stream}")
        assert self.failure is None, self.failure

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def test_a_session_begins_with_the_streams_that_the_other_has_just_made(one: Client, two: Client, source: str) -> None:
    """Offsets of a start, too, are those of the log and not of a list that is a second old (S4, A6)."""
    keys_of(two, source)
    create(two, source)  # from here on this server knows a list
    for number in range(5):
        for _ in range(number + 1):
            one.write(source, data.Packet(id=1), stream=f"s{number}", metadata=(("trackside-ack", "log"),))
        begun = info(two, create(two, source)).topic_partition_offsets
        assert begun[f"{source}.s{number}:0"] == number + 1


# -- what other programs write ----------------------------------------------------------------------------------------


def info_packet(type: str, key: str, content: Any) -> data.Packet:
    return data.Packet(type=type, session_key=key, content=content.SerializeToString())


def write_info(client: Client, packet: data.Packet) -> None:
    request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SESSION_INFO)
    client.writer.WriteInfoPacket(request, **CALL)


def produce(pair: Pair, topic: str, packet: data.Packet, key: str = "") -> None:
    """What a program that knows only Kafka does."""
    from confluent_kafka import Producer

    problems: list[Any] = []
    producer = Producer({"bootstrap.servers": pair.broker.address, "allow.auto.create.topics": False})
    producer.produce(
        f"{pair.domain}.{topic}",
        packet.SerializeToString(),
        key or None,
        partition=0,
        on_delivery=lambda error, _: problems.append(error),
    )
    assert producer.flush(30) == 0 and problems == [None], problems


@pytest.mark.fact("A22", "C2")
@pytest.mark.parametrize("way", ["WriteInfoPacket", "Kafka"])
def test_sessions_of_raw_clients_begin_change_and_end(
    pair: Pair, one: Client, two: Client, source: str, way: str
) -> None:
    """NewSession, SessionInfo and EndOfSession, by the merge rules (A22); told to subscribers like any other."""
    key = f"raw-{uuid.uuid4()}"

    def send(packet: data.Packet) -> None:
        write_info(one, packet) if way == "WriteInfoPacket" else produce(pair, "Sys.SessionInfo", packet, key)

    subscribers = [Subscriber(client, source, what) for client in (one, two) for what in ("Start", "Stop")]
    main = f"{pair.domain}.Data.{source}"
    started = data.SessionInfoPacket(data_source=source, identifier="raw", version=3, details={"a": "1", "b": "1"})
    new = data.NewSessionPacket(data_source=source, session_info=started, topic_partition_offsets={f"{main}:0": 7})
    send(info_packet("NewSession", key, new))
    for client in (one, two):
        seen(lambda c=client: info(c, key).success, "the session")
        found = info(client, key)
        assert (found.identifier, found.version, found.main_offset) == ("raw", 3, 7)
        assert found.topic_partition_offsets == {f"{source}:0": 7}
    changed = data.SessionInfoPacket(type="Race", associate_session_keys=["x"], details={"b": "2"})
    send(info_packet("SessionInfo", key, changed))
    for client in (one, two):
        seen(lambda c=client: info(c, key).type == "Race", "the change")
        found = info(client, key)
        assert (found.identifier, found.version, dict(found.details)) == ("raw", 3, {"a": "1", "b": "2"})
        assert list(found.associate_session_keys) == ["x"]
    send(info_packet("EndOfSession", key, data.EndOfSessionPacket(data_source=source)))
    for client in (one, two):
        seen(lambda c=client: info(c, key).is_complete, "the end")
    for subscriber in subscribers:
        wait_until(lambda s=subscriber: s.keys == [key], "told once", OTHER_SECONDS)
        subscriber.close()


def definition(number: int, *names: str) -> data.Packet:
    content = data.DataFormatDefinitionPacket(
        type=data.DATA_FORMAT_TYPE_PARAMETER,
        identifier=number,
        parameter_identifiers=data.ParameterList(parameter_identifiers=names),
    )
    return data.Packet(type="DataFormatDefinition", content=content.SerializeToString(), is_essential=True)


@pytest.mark.fact("A18")
@pytest.mark.reference_test(
    "DataFormatInfoServiceShould: definitions on the topic are found by list and by id",
    "DataFormatInfoServiceShould: two ids of one list and of one event all resolve",
)
def test_definitions_of_raw_clients_resolve(pair: Pair, one: Client, two: Client, source: str) -> None:
    """Both ways, at both servers; several ids of one list all resolve, and the first is the one that is given out."""
    one.write(source, definition(71, "vCar", "nEngine"), metadata=(("trackside-ack", "log"),))
    for client in (one, two):
        seen(lambda c=client: parameters_of(c, source, 71) == ["vCar", "nEngine"], "the definition")
        assert parameters_id(client, source, "vCar", "nEngine") == 71
    produce(pair, f"Essential.{source}", definition(72, "vCar", "nEngine"))
    produce(pair, f"Essential.{source}", definition(73, "gLat"))
    for client in (one, two):
        seen(lambda c=client: parameters_of(c, source, 72) == ["vCar", "nEngine"], "the second id")
        seen(lambda c=client: parameters_of(c, source, 73) == ["gLat"], "the other list")
        assert parameters_id(client, source, "vCar", "nEngine") == 71
        assert parameters_id(client, source, "gLat") == 73


# -- data formats -----------------------------------------------------------------------------------------------------


@pytest.mark.fact("D2")
def test_both_asked_at_once_give_one_id(one: Client, two: Client, source: str) -> None:
    """A hundred times for new lists; and every id that was given out resolves at the server that did not give it."""
    lists = [[f"p{number}", "q"] for number in range(20)]
    calls = []
    for names in lists:
        for client in (one, two):
            request = api_pb2.GetParameterDataFormatIdRequest(data_source=source, parameters=names)
            calls += [(names, client.formats.GetParameterDataFormatId.future(request, **CALL)) for _ in range(5)]
    found: dict[str, set[int]] = {}
    for names, call in calls:
        found.setdefault(names[0], set()).add(call.result().data_format_identifier)
    assert all(len(ids) == 1 for ids in found.values()), found
    assert len({min(ids) for ids in found.values()}) == len(lists)
    for names in lists:
        (number,) = found[names[0]]
        for client in (one, two):
            seen(lambda c=client, n=number, w=names: parameters_of(c, source, n) == w, "the list")


@pytest.mark.fact("A18")
def test_events_and_lists_of_one_are_known_to_the_other(one: Client, two: Client, source: str) -> None:
    event = event_id(one, source, "Lap:Race")
    seen(lambda: event_of(two, source, event) == "Lap:Race", "the event")
    assert event_id(two, source, "Lap:Race") == event
    assert parameters_id(two, source, "a,b") != parameters_id(two, source, "a", "b"), "no list is another's text"


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.fact("K10")
def test_no_key_is_given_twice(pair: Pair) -> None:
    stubs = [key_stub(server.port) for server in (pair.one, pair.two)]

    def some(stub: Any) -> list[int]:
        return [make_key(stub, key_generator_pb2.KEY_TYPE_ULONG).ulong_key for _ in range(200)]

    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(some, stubs * 2))
    keys = [key for run in runs for key in run]
    assert len(set(keys)) == len(keys)
    assert all(run == sorted(run) for run in runs)
    nodes = [{key % 1000 for key in run} for run in runs]
    assert all(len(node) == 1 for node in nodes) and nodes[0] == nodes[2] and nodes[1] == nodes[3]
    assert nodes[0] != nodes[1], "each has claimed a number of its own"


# -- without management -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A third server on the same log that manages neither sessions nor data formats."""
    server = Server(tmp_path_factory.mktemp("bare"), "1/1/1", (), pair.broker.address)
    server.environment["TRACKSIDE_DOMAIN"] = pair.domain
    server.environment["TRACKSIDE_INTEGRATE_SESSION_MANAGEMENT"] = "false"
    server.environment["TRACKSIDE_INTEGRATE_DATA_FORMAT_MANAGEMENT"] = "false"
    yield server.start()
    server.remove()


@pytest.mark.fact("C4")
def test_without_session_management_every_call_says_no(bare: Server, one: Client, source: str) -> None:
    """Nothing but success=false, and notification streams that end at once with OK (behaviour.md 2.2)."""
    key = create(one, source)
    client = bare.client()
    stub = client.sessions
    replies = [
        stub.CreateSession(api_pb2.CreateSessionRequest(data_source=source), **CALL),
        stub.EndSession(api_pb2.EndSessionRequest(session_key=key), **CALL),
        stub.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key=key), **CALL),
        stub.GetCurrentSessions(api_pb2.GetCurrentSessionsRequest(data_source=source), **CALL),
        stub.UpdateSessionIdentifier(api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier="x"), **CALL),
        stub.AddAssociateSession(api_pb2.AddAssociateSessionRequest(session_key=key), **CALL),
        stub.UpdateSessionDetails(api_pb2.UpdateSessionDetailsRequest(session_key=key, details={"a": "b"}), **CALL),
    ]
    assert [reply.ByteSize() for reply in replies] == [0] * len(replies)
    for what in ("Start", "Stop"):
        subscriber = Subscriber(client, source, what)
        wait_until(lambda s=subscriber: s.ended, "the end of the stream")
        assert subscriber.ended == "OK" and not subscriber.keys
    client.close()


def test_without_format_management_ids_are_made_and_written_but_not_read(
    bare: Server, one: Client, source: str
) -> None:
    """behaviour.md 2.6: what was defined through this server is known to it, and to all that read the log."""
    theirs = parameters_id(one, source, "a")
    client = bare.client()
    assert parameters_of(client, source, theirs) == []
    ours = parameters_id(client, source, "a")
    assert ours != theirs and parameters_id(client, source, "a") == ours
    assert parameters_of(client, source, ours) == ["a"]
    seen(lambda: parameters_of(one, source, ours) == ["a"], "the second id of the list")
    assert parameters_id(one, source, "a") == theirs
    client.close()


def test_a_server_that_manages_nothing_carries_packets_and_makes_keys(
    pair: Pair, bare: Server, one: Client, source: str
) -> None:
    client = bare.client()
    client.write(source, data.Packet(id=5), stream="s", session_key="k")
    (response,) = one.read(one.connect(source, streams=["s"]), 1)
    assert response.packet.id == 5
    ports = (pair.one.port, pair.two.port, bare.port)
    keys = [make_key(key_stub(port), key_generator_pb2.KEY_TYPE_ULONG).ulong_key for port in ports]
    assert len({key % 1000 for key in keys}) == 3
    client.close()


# -- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.fact("S16")
def test_the_same_answers_after_a_restart_of_one(pair: Pair, one: Client, source: str) -> None:
    """Sessions, first ids and the node number, while the other goes on changing what there is; without checkpoints."""
    key = create(one, source, identifier="before")
    client = pair.two.client()
    number = parameters_id(client, source, "a", "b")
    node = make_key(key_stub(pair.two.port), key_generator_pb2.KEY_TYPE_ULONG).ulong_key
    client.close()
    assert pair.two.stop() == 0
    shutil.rmtree(pair.two.data_dir / "checkpoints")
    rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier="meanwhile")
    assert one.sessions.UpdateSessionIdentifier(rename, **CALL).success
    pair.two.start()
    client = pair.two.client()
    assert info(client, key) == info(one, key)
    assert info(client, key).identifier == "meanwhile"
    assert parameters_id(client, source, "a", "b") == parameters_id(one, source, "a", "b") == number
    again = make_key(key_stub(pair.two.port), key_generator_pb2.KEY_TYPE_ULONG).ulong_key
    assert again > node and again % 1000 == node % 1000
    client.close()
