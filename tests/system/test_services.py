"""Sessions, connections, data formats, keys and filtered reads over the public ports, while processes come and go.

Every test has a data source of its own, so that all share one server a shape. Calls go over several channels where the
answer must not depend on the gateway that gives it.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server import Client, Server, take, wait_until
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

GATEWAY_CHANNELS = 6
"""With two gateways so many channels are spread over both, but for one time in thirty."""


@pytest.fixture
def clients(shared_server: Server) -> Iterator[list[Client]]:
    """Several channels, so that what one gateway was told is asked of another."""
    several = [shared_server.client() for _ in range(GATEWAY_CHANNELS)]
    yield several
    for client in several:
        client.close()


@pytest.fixture
def client(clients: list[Client]) -> Client:
    return clients[0]


@pytest.fixture
def source() -> str:
    """A data source that no other test has."""
    return f"Source{uuid.uuid4().hex[:12]}"


def numbers_of(responses: list[Any]) -> list[int]:
    return [response.packet.id for response in responses]


def kill_and_wait(server: Server, name: str) -> None:
    """SIGKILL, and back when the process is gone, not yet when it has a successor."""
    pid = server.liveness(name).pid
    server.send(name, signal.SIGKILL)
    wait_until(lambda: not _runs(pid), f"death of {name}")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A4")
def test_what_was_answered_is_seen_by_the_next_call(clients: list[Client], source: str) -> None:
    """On whichever gateway: create, rename, details, associates, end, each looked at over another channel."""
    asked = itertools.cycle(clients)
    key = create(next(asked), source, type="Race", version=7, details={"track": "Spa"})
    found = info(next(asked), key)
    assert (found.success, found.data_source, found.type, found.version) == (True, source, "Race", 7)
    assert (found.identifier, found.is_complete, dict(found.details)) == ("", False, {"track": "Spa"})
    for change in range(GATEWAY_CHANNELS):
        name, detail = f"name {change}", {f"detail {change}": str(change)}
        rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier=name)
        assert next(asked).sessions.UpdateSessionIdentifier(rename, **CALL).success
        assert info(next(asked), key).identifier == name
        describe = api_pb2.UpdateSessionDetailsRequest(session_key=key, details=detail)
        assert next(asked).sessions.UpdateSessionDetails(describe, **CALL).success
        assert detail.items() <= dict(info(next(asked), key).details).items()
    join = api_pb2.AddAssociateSessionRequest(session_key=key, associate_session_key="other")
    assert next(asked).sessions.AddAssociateSession(join, **CALL).success
    assert list(info(next(asked), key).associate_session_keys) == ["other"]
    end(next(asked), key)
    found = info(next(asked), key)
    assert found.is_complete and found.HasField("termination_time") and found.details["track"] == "Spa"


@pytest.mark.fact("S1")
def test_two_hundred_updates_at_once_lose_nothing(clients: list[Client], source: str) -> None:
    """S1: over all gateways, and each is in the answer to the next question."""
    key = create(clients[0], source, details={"track": "Spa"})
    calls = []
    for number, client in zip(range(100), itertools.cycle(clients), strict=False):
        describe = api_pb2.UpdateSessionDetailsRequest(session_key=key, details={f"d{number}": str(number)})
        calls.append(client.sessions.UpdateSessionDetails.future(describe, **CALL))
        join = api_pb2.AddAssociateSessionRequest(session_key=key, associate_session_key=f"a{number}")
        calls.append(client.sessions.AddAssociateSession.future(join, **CALL))
    assert all(call.result().success for call in calls)
    for client in clients:
        found = info(client, key)
        assert dict(found.details) == {"track": "Spa", **{f"d{number}": str(number) for number in range(100)}}
        assert sorted(found.associate_session_keys) == sorted(f"a{number}" for number in range(100))


@pytest.mark.fact("A5")
def test_sessions_are_listed_in_the_order_in_which_they_began(clients: list[Client], source: str) -> None:
    keys = [create(client, source) for client in clients]
    end(clients[0], keys[1])
    for client in clients:
        assert keys_of(client, source) == keys
    assert keys_of(clients[0], source + "x") == []


@pytest.mark.fact("A6", "A16")
def test_offsets_of_a_session_are_where_its_packets_begin_and_end(client: Client, source: str) -> None:
    """EndSession covers what was accepted before it, also while that is still on its way to the log."""
    for number in range(1, 4):
        client.write(source, data.Packet(id=number), stream="s")
    first = create(client, source)
    wait_until(lambda: info(client, first).topic_partition_offsets.get(f"{source}.s:0", 3) == 3, "offsets of the start")
    for number in range(4, 9):
        client.write(source, data.Packet(id=number), stream="s")
    ended = end(client, first)
    assert ended.topic_partition_offsets[f"{source}.s:0"] == 8
    second = create(client, source)
    begun = dict(info(client, second).topic_partition_offsets)
    assert begun[f"{source}.s:0"] == 8
    wait_until(lambda: list(info(client, second).streams) == ["s"], "the stream is known")


@pytest.mark.fact("A17", "S13")
def test_what_is_not_there_is_no_success(client: Client, source: str) -> None:
    unknown = str(uuid.uuid4())
    assert not info(client, unknown).success
    assert not client.sessions.EndSession(api_pb2.EndSessionRequest(session_key=unknown), **CALL).success
    key = create(client, source)
    other = api_pb2.EndSessionRequest(session_key=key, data_source=f"{source}x")
    assert not client.sessions.EndSession(other, **CALL).success
    assert not info(client, key).is_complete
    with pytest.raises(grpc.RpcError) as caught:
        client.sessions.CreateSession(api_pb2.CreateSessionRequest(), **CALL)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("data_source")


# -- notifications ----------------------------------------------------------------------------------------------------


@pytest.mark.fact("A19", "S9")
def test_notifications_over_every_gateway_and_through_a_kill(
    shared_server: Server, clients: list[Client], source: str
) -> None:
    """Headers at once, no history, each event once and in order; the streams outlive the control plane."""
    before = create(clients[0], source)
    starts = [Subscriber(client, source, "Start") for client in clients]
    stops = [Subscriber(client, source, "Stop") for client in clients]
    elsewhere = Subscriber(clients[0], f"{source}x", "Start")
    begun = [create(client, source) for client in clients[:2]]
    ended = [begun[0], before]
    for key in ended:
        end(clients[1], key)
    shared_server.kill("control-plane")
    begun += [create(client, source) for client in clients[:2]]
    end(clients[0], begun[-1])
    ended.append(begun[-1])
    for subscriber in starts:
        wait_until(lambda s=subscriber: len(s.keys) >= len(begun) or s.ended, "starts told")
    for subscriber in stops:
        wait_until(lambda s=subscriber: len(s.keys) >= len(ended) or s.ended, "stops told")
    assert [subscriber.keys for subscriber in starts] == [begun] * len(starts)
    assert [subscriber.keys for subscriber in stops] == [ended] * len(stops)
    assert not elsewhere.keys
    assert not any(subscriber.ended for subscriber in (*starts, *stops, elsewhere))
    for subscriber in (*starts, *stops, elsewhere):
        subscriber.close()


@pytest.mark.fact("A19")
def test_what_happens_while_the_control_plane_is_away_is_told_later(
    shared_server: Server, clients: list[Client], source: str
) -> None:
    """A session that another program puts on the log meanwhile: the successor goes on where each gateway was."""
    starts = [Subscriber(client, source, "Start") for client in clients]
    before = create(clients[0], source)
    for subscriber in starts:
        wait_until(lambda s=subscriber: s.keys == [before], "the first start is told")
    liveness = shared_server.liveness("control-plane")
    pid = liveness.pid
    shared_server.send("control-plane", signal.SIGKILL)
    wait_until(lambda: liveness.pid != pid, "a successor is started")
    shared_server.send("control-plane", signal.SIGSTOP)
    meanwhile = str(uuid.uuid4())
    new = data.NewSessionPacket(data_source=source, session_info=data.SessionInfoPacket(data_source=source))
    packet = data.Packet(type="NewSession", session_key=meanwhile, content=new.SerializeToString())
    request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SESSION_INFO)
    clients[0].writer.WriteInfoPacket(request, metadata=(("trackside-ack", "log"),), **CALL)
    shared_server.send("control-plane", signal.SIGCONT)
    for subscriber in starts:
        wait_until(lambda s=subscriber: len(s.keys) > 1 or s.ended, "the second start is told")
        assert subscriber.keys == [before, meanwhile] and not subscriber.ended
        subscriber.close()


@pytest.mark.fact("A4", "S19")
def test_a_session_is_complete_when_its_start_is_told(clients: list[Client], source: str) -> None:
    """A reader asks for the info at once, and of another gateway (A4)."""
    subscription = clients[0].sessions.GetSessionStartNotification(
        api_pb2.GetSessionStartNotificationRequest(data_source=source), timeout=60, wait_for_ready=True
    )
    subscription.initial_metadata()
    for client in clients:
        create(client, source, identifier="Lap 1", type="Race")
        told = next(subscription)
        found = info(client, told.session_key)
        assert (found.success, found.identifier, found.type) == (True, "Lap 1", "Race")
    subscription.cancel()


SESSIONS = 3_000
"""Enough for one subscriber's windows and queue to run full, in few enough bytes."""

TOLD_AT_ONCE = 500
"""Less than a queue takes, so that only who does not read at all is too slow."""


@pytest.mark.fact("S8", "S9", "S10", "S11")
def test_slow_and_dead_subscribers_harm_nobody(shared_server: Server, clients: list[Client]) -> None:
    """Some never read, one is killed, one breaks off, and the others are told everything, in order."""
    source = f"{uuid.uuid4().hex}{'x' * 160}"  # long, so that few notifications fill what lies between
    readers = [Subscriber(client, source, "Start") for client in clients]
    others = [Client(narrow_channel(shared_server)) for _ in range(3)]
    slow = [subscribe(client, source) for client in others]
    killed = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, str(shared_server.port), source], stdout=subprocess.PIPE
    )
    assert killed.stdout is not None and killed.stdout.readline() == b"told\n"
    keys = [f"{number:04}-{source[:8]}" for number in range(SESSIONS)]
    for first in range(0, SESSIONS, TOLD_AT_ONCE):
        some = [
            api_pb2.WriteInfoPacketsRequest(message=new_session(key, source)) for key in keys[first:][:TOLD_AT_ONCE]
        ]
        clients[0].writer.WriteInfoPackets(iter(some), timeout=60)
        for reader in readers:
            wait_until(lambda r=reader, n=first: len(r.keys) == n + TOLD_AT_ONCE or r.ended, "all of these are told")
        if not first:
            killed.kill()
            slow.pop().cancel()
    for reader in readers:
        assert not reader.ended and reader.keys == keys
        reader.close()
    for call in slow:
        found, status = drained(call)
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED, "who reads nothing is ended, and told why"
        assert found == keys[: len(found)] and len(found) < len(keys), "in order, and without a gap"
    assert killed.wait() and info(clients[0], keys[-1]).success
    for client in others:
        client.close()


KILLED = """
import sys, grpc
from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
stub = api_pb2_grpc.SessionManagementServiceStub(grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}"))
call = stub.GetSessionStartNotification(api_pb2.GetSessionStartNotificationRequest(data_source=sys.argv[2]))
call.initial_metadata()
print("told", flush=True)
for _ in call:
    pass
"""


def narrow_channel(server: Server) -> grpc.Channel:
    """One on which no more than HTTP/2's first window of 64 KiB is under way to who does not read."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    return grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options)


def subscribe(client: Client, source: str) -> Any:
    """An open notification stream that nobody reads."""
    request = api_pb2.GetSessionStartNotificationRequest(data_source=source)
    call = client.sessions.GetSessionStartNotification(request, timeout=120, wait_for_ready=True)
    call.initial_metadata()
    return call


def drained(call: Any) -> tuple[list[str], grpc.StatusCode]:
    found = []
    try:
        for told in call:
            found.append(told.session_key)
    except grpc.RpcError as error:
        return found, error.code()
    return found, grpc.StatusCode.OK


def new_session(key: str, source: str) -> data.Packet:
    content = data.NewSessionPacket(data_source=source).SerializeToString()
    return data.Packet(type="NewSession", session_key=key, content=content)


# -- data formats -----------------------------------------------------------------------------------------------------


@pytest.mark.fact("A18")
def test_data_formats_in_both_directions(clients: list[Client], source: str) -> None:
    """One number for one list in its order, the same on every gateway, and back."""
    asked = itertools.cycle(clients)
    names = ["vCar:Chassis", "nEngine:Engine"]
    number = parameters_id(next(asked), source, *names)
    turned = parameters_id(next(asked), source, *reversed(names))
    assert number > 0 and turned > 0 and number != turned
    for client in clients:
        assert parameters_id(client, source, *names) == number
        assert parameters_of(client, source, number) == names
        assert parameters_of(client, source, turned) == names[::-1]
    event = event_id(next(asked), source, "Overtake:Race")
    assert event > 0 and event_id(next(asked), source, "Overtake:Race") == event
    assert event_of(next(asked), source, event) == "Overtake:Race"
    assert parameters_of(next(asked), source, 1) == [] and event_of(next(asked), source, 1) == ""
    assert parameters_of(next(asked), f"{source}x", number) == []


@pytest.mark.fact("D2")
def test_all_who_ask_at_once_get_one_number(clients: list[Client], source: str) -> None:
    calls = [
        client.formats.GetParameterDataFormatId.future(
            api_pb2.GetParameterDataFormatIdRequest(data_source=source, parameters=["a", "b"]), **CALL
        )
        for client in clients * 3
    ]
    assert len({call.result().data_format_identifier for call in calls}) == 1


# -- keys -------------------------------------------------------------------------------------------------------------


def ulong_keys(server: Server) -> list[int]:
    """Some, in turn from the main port and from the key port."""
    ports = key_stub(server.port), key_stub(server.described()["key_port"])
    return [make_key(stub, key_generator_pb2.KEY_TYPE_ULONG).ulong_key for stub in ports * 5]


def are_rising(numbers: list[int]) -> bool:
    return all(before < after for before, after in itertools.pairwise(numbers))


@pytest.mark.fact("C5", "K10")
def test_number_keys_rise_over_a_kill(shared_server: Server) -> None:
    """Over a restart of the server, too: :func:`test_state_comes_from_the_log_alone`."""
    numbers = ulong_keys(shared_server)
    shared_server.kill("control-plane")
    assert are_rising(numbers + ulong_keys(shared_server))


@pytest.mark.fact("C5")
def test_text_keys_are_guids_of_their_own(shared_server: Server) -> None:
    ports = key_stub(shared_server.port), key_stub(shared_server.described()["key_port"])
    texts = [make_key(stub, key_generator_pb2.KEY_TYPE_STRING).string_key for stub in ports]
    assert all(str(uuid.UUID(text)) == text for text in texts) and texts[0] != texts[1]


def test_a_key_of_no_type_is_refused(shared_server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        make_key(key_stub(shared_server.port), key_generator_pb2.KEY_TYPE_UNSPECIFIED)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and caught.value.details().startswith("type")


# -- filtered reads ---------------------------------------------------------------------------------------------------


def rows(number: int, *names: str, format_id: int = 0) -> data.Packet:
    """A RowData packet that names its parameters, or their format."""
    named = data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=names))
    numbered = data.SampleDataFormat(data_format_identifier=format_id)
    content = data.RowDataPacket(data_format=numbered if format_id else named)
    return data.Packet(type="RowData", id=number, content=content.SerializeToString())


def event(number: int, name: str = "", format_id: int = 0) -> data.Packet:
    chosen = {"data_format_identifier": format_id} if format_id else {"event_identifier": name}
    content = data.EventPacket(data_format=data.EventDataFormat(**chosen))
    return data.Packet(type="Event", id=number, content=content.SerializeToString())


def definition(number: int, format_id: int, *names: str) -> data.Packet:
    content = data.DataFormatDefinitionPacket(
        type=data.DATA_FORMAT_TYPE_PARAMETER,
        identifier=format_id,
        parameter_identifiers=data.ParameterList(parameter_identifiers=names),
    )
    return data.Packet(type="DataFormatDefinition", id=number, content=content.SerializeToString(), is_essential=True)


def read_data(client: Client, source: str, **lists: Any) -> Any:
    """An open ReadDataPackets call from the beginning of all streams."""
    request = api_pb2.DataPacketRequest(connection=client.connect(source), **lists)
    return client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), timeout=60)


@pytest.mark.fact("C3")
def test_only_what_was_asked_for_is_read(client: Client, source: str) -> None:
    lap = event_id(client, source, "Lap:Race")
    number = parameters_id(client, source, "vCar:Chassis", "gLat:Chassis")  # defined just before its first packet
    for packet in (
        rows(1, "vCar:Chassis"),
        rows(2, "nEngine:Engine"),
        rows(3, format_id=number),
        event(4, "Overtake:Race"),
        event(5, format_id=lap),
        data.Packet(type="Marker", id=6),
        data.Packet(type="RawCANData", id=7),
        rows(8, "vCar:Spare"),
        data.Packet(type="RowData", id=9, content=b"\xff\xff"),
        rows(10, "vCar:Chassis", "nEngine:Engine"),
    ):
        client.write(source, packet, stream="s")
    wanted = {"include_parameters": ["^vCar:"], "exclude_parameters": ["Spare$"], "include_events": ["^Lap"]}
    assert numbers_of(take(read_data(client, source, **wanted), 4)) == [1, 3, 5, 10]
    assert numbers_of(take(read_data(client, source, **wanted, include_markers=True), 5)) == [1, 3, 5, 6, 10]
    assert numbers_of(take(read_data(client, source, exclude_events=["."]), 5)) == [1, 2, 3, 8, 10]
    only = {"exclude_parameters": [""], "exclude_events": ["Race"], "include_markers": True}
    assert numbers_of(take(read_data(client, source, **only), 1)) == [6]


def test_a_definition_may_stand_after_its_first_packet(client: Client, source: str) -> None:
    """In the past: the packet is judged by a definition that the log has by the time it is read."""
    client.write(source, rows(1, format_id=77), stream="s")
    client.write(source, rows(2, format_id=78), stream="s")  # never defined, never delivered
    client.write(source, rows(3, "other"), stream="s")
    client.write(source, definition(4, 77, "vCar:Chassis"), stream="t", metadata=(("trackside-ack", "log"),))
    call = read_data(client, source, include_parameters=["vCar"])
    responses = iter(call)
    assert numbers_of(list(next(responses).response)) == [1]
    # And live: what is written after its definition is delivered, on any stream.
    for number, stream in ((5, "s"), (6, "u"), (7, "")):
        client.write(source, rows(number, format_id=77), stream=stream)
        assert numbers_of(list(next(responses).response)) == [number]
    call.cancel()


@pytest.mark.fact("R13")
def test_filtered_reads_survive_the_consumer(shared_server: Server, client: Client, source: str) -> None:
    number = parameters_id(client, source, "vCar:Chassis")
    call = read_data(client, source, include_parameters=["vCar"])
    responses = iter(call)
    for round_ in range(1, 3):
        client.write(source, rows(round_, format_id=number), stream="s")
        assert numbers_of(list(next(responses).response)) == [round_]
        for name in shared_server.names("consumer"):
            shared_server.kill(name)
    client.write(source, rows(3, "other"), stream="s")
    client.write(source, rows(4, format_id=number), stream="s")
    assert numbers_of(list(next(responses).response)) == [4]
    call.cancel()


@pytest.mark.fact("D8")
@pytest.mark.parametrize("field", ["include_parameters", "exclude_parameters", "include_events", "exclude_events"])
def test_a_pattern_that_is_none_is_refused(client: Client, source: str, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(read_data(client, source, **{field: ["fine", "(broken"]}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(f"request.{field}[1]: '(broken'")


@pytest.mark.fact("A13")
def test_essentials_of_a_session_are_followed_live(client: Client, source: str) -> None:
    key = create(client, source)
    client.write(source, data.Packet(id=1, is_essential=True), session_key=key)
    connection = client.connect(source, session_key=key)
    call = client.reader.ReadEssentials(api_pb2.ReadEssentialsRequest(connection=connection), timeout=60)
    responses = iter(call)
    assert numbers_of(list(next(responses).response)) == [1]
    client.write(source, data.Packet(id=2, is_essential=True), session_key="another")
    client.write(source, data.Packet(id=3), session_key=key)
    client.write(source, data.Packet(id=4, is_essential=True), session_key=key, stream="s")
    assert numbers_of(list(next(responses).response)) == [4]
    call.cancel()


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A8")
def test_connections_survive_the_control_plane_and_the_server(
    shared_server: Server, clients: list[Client], source: str
) -> None:
    """The same details, and a read over it, after a kill and after a stop and a start on the same run directory."""
    details = api_pb2.ConnectionDetails(
        data_source=source, streams=["s"], stream_offsets=[1], exclude_main_stream=True, session_key="k"
    )
    connection = clients[0].connections.NewConnection(api_pb2.NewConnectionRequest(details=details), **CALL).connection
    closed = clients[0].connect(source)
    assert clients[1].connections.CloseConnection(api_pb2.CloseConnectionRequest(connection=closed), **CALL).success
    for number in range(1, 4):
        clients[0].write(source, data.Packet(id=number), stream="s", session_key="k")

    def check() -> None:
        for client in clients:
            ask = api_pb2.GetConnectionRequest(connection=connection)
            assert client.connections.GetConnection(ask, **CALL).details == details
            gone = client.connections.GetConnection(api_pb2.GetConnectionRequest(connection=closed), **CALL)
            assert not gone.HasField("details")
            assert numbers_of(client.read(connection, 2)) == [2, 3]

    check()
    shared_server.kill("control-plane")
    check()
    assert shared_server.stop() == 0
    shared_server.start()
    check()


def test_calls_during_a_kill_wait_for_the_successor(shared_server: Server, clients: list[Client], source: str) -> None:
    """At most the call that was under way on a channel fails; every other is answered, by the successor if need be."""
    key = create(clients[0], source)
    for round_ in range(2):
        kill_and_wait(shared_server, "control-plane")
        failed = 0
        for client in clients:
            for _ in range(3):
                try:
                    assert info(client, key).success
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                    failed += 1
        assert failed <= len(shared_server.names("gateway")), f"round {round_}"


# -- health -----------------------------------------------------------------------------------------------------------

API = "ma.streaming.api.v1"
NEEDS = {
    f"{API}.PacketWriterService": {"producer"},
    f"{API}.PacketReaderService": {"consumer", "control-plane"},
    f"{API}.SessionManagementService": {"producer", "consumer", "control-plane"},
    f"{API}.ConnectionManagerService": {"control-plane"},
    f"{API}.DataFormatManagerService": {"producer", "consumer", "control-plane"},
    "ma.streaming.key_generator.v1.UniqueKeyGeneratorService": {"control-plane"},
    "": {"producer", "consumer", "control-plane"},
}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(client: Client, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), **CALL).status)


@pytest.mark.fact("K8")
def test_health_of_every_service(client: Client) -> None:
    for service in NEEDS:
        wait_until(lambda s=service: health_of(client, s) == SERVING, f"{service or 'the server'} is serving")
    with pytest.raises(grpc.RpcError) as caught:
        health_of(client, "no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.fact("K8")
@pytest.mark.parametrize("role", ["producer", "consumer", "control-plane"])
def test_health_says_which_services_a_dead_process_takes_along(
    shared_server: Server, client: Client, role: str
) -> None:
    """Told by Watch: SERVING, then NOT_SERVING for as long as there is no successor, then SERVING again."""
    stub = health_pb2_grpc.HealthStub(client.channel)
    watches = {}
    for service in NEEDS:
        wait_until(lambda s=service: health_of(client, s) == SERVING, f"{service or 'the server'} is serving")
        watches[service] = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert next(watches[service]).status == SERVING
    name = shared_server.names(role)[-1]
    liveness = shared_server.liveness(name)
    pid = liveness.pid
    shared_server.send(name, signal.SIGKILL)
    wait_until(lambda: liveness.pid != pid, f"successor of {name} is started")
    shared_server.send(name, signal.SIGSTOP)  # so that it stays away until everybody has been told
    affected = [watch for service, watch in watches.items() if role in NEEDS[service]]
    assert [next(watch).status for watch in affected] == [NOT_SERVING] * len(affected)
    shared_server.send(name, signal.SIGCONT)
    assert [next(watch).status for watch in affected] == [SERVING] * len(affected)
    for watch in watches.values():
        watch.cancel()


# -- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A18", "K10")
def test_state_comes_from_the_log_alone(make_server: Callable[..., Server], shape: str) -> None:
    """Without run directory and checkpoints every session and format reply is the same after the next start."""
    server = make_server(shape).start()
    client = server.client()
    formats: list[tuple[str, list[str]]] = []
    keys: list[str] = []
    for number, source in enumerate(["Alpha", "Bravo", "Charlie"]):
        formats += [(source, ["a", "b"]), (source, ["b", "a"]), (source, [f"only {source}"])]
        for _ in range(2):
            keys.append(create(client, source, details={"n": str(number)}, identifier="first"))
        for name in ("second", "third"):
            rename = api_pb2.UpdateSessionIdentifierRequest(session_key=keys[-1], identifier=name)
            assert client.sessions.UpdateSessionIdentifier(rename, **CALL).success
        join = api_pb2.AddAssociateSessionRequest(session_key=keys[-1], associate_session_key=keys[0])
        assert client.sessions.AddAssociateSession(join, **CALL).success
        client.write(source, rows(1, "x"), stream="s")
        end(client, keys[-2])
        wait_until(lambda: list(info(client, keys[-1]).streams) == ["s"], "the stream is known")

    def replies(client: Client) -> list[object]:
        """Serialised with sorted maps: what a client sees, byte by byte."""
        numbers = [parameters_id(client, source, *names) for source, names in formats]
        return [
            *(info(client, key).SerializeToString(deterministic=True) for key in keys),
            *(keys_of(client, source) for source in ("Alpha", "Bravo", "Charlie", "Nobody")),
            *numbers,
            *(parameters_of(client, source, n) for (source, _), n in zip(formats, numbers, strict=True)),
            event_of(client, "Alpha", event_id(client, "Alpha", "Lap:Race")),
        ]

    before, numbers = replies(client), ulong_keys(server)
    client.close()
    assert server.stop() == 0
    server.remove()
    shutil.rmtree(server.data_dir / "checkpoints", ignore_errors=True)
    server.start()
    assert replies(server.client()) == before
    assert are_rising(numbers + ulong_keys(server))
