"""Session calls over a real Unix socket: what was answered stands in the log, and every server sees the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
import pytest
from bad_input import told
from control_plane_support import ManualClock, Running, refused, run, running, short_folder, until
from fake_log_port import FakeLog, FakeLogPort

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import session_changes
from trackside.control_plane.log_port import Append, LoggedRun
from trackside.data_plane.log import Partition

SESSIONS = Partition("SessionInfo", 0)


async def create(server: Running, source: str = "Car", **fields: object) -> str:
    answer = await server.sessions.CreateSession(messages.CreateSessionRequest(data_source=source, **fields))  # type: ignore[arg-type]
    assert answer.success
    return str(answer.session_key)


async def info_of(server: Running, key: str) -> messages.GetSessionInfoResponse:
    answer: messages.GetSessionInfoResponse = await server.sessions.GetSessionInfo(
        messages.GetSessionInfoRequest(session_key=key)
    )
    return answer


async def end(server: Running, key: str, **fields: object) -> messages.EndSessionResponse:
    request = messages.EndSessionRequest(session_key=key, **fields)  # type: ignore[arg-type]
    answer: messages.EndSessionResponse = await server.sessions.EndSession(request)
    return answer


async def rename(server: Running, key: str, identifier: str) -> bool:
    request = messages.UpdateSessionIdentifierRequest(session_key=key, identifier=identifier)
    return bool((await server.sessions.UpdateSessionIdentifier(request)).success)


async def detail(server: Running, key: str, **details: str) -> bool:
    request = messages.UpdateSessionDetailsRequest(session_key=key, details=details)
    return bool((await server.sessions.UpdateSessionDetails(request)).success)


async def associate(server: Running, key: str, other: str) -> bool:
    request = messages.AddAssociateSessionRequest(session_key=key, associate_session_key=other)
    return bool((await server.sessions.AddAssociateSession(request)).success)


def packets(log: FakeLog, type: str) -> list[data.Packet]:
    every = [data.Packet.FromString(entry.packet) for entry in log.partitions[SESSIONS]]
    return [packet for packet in every if packet.type == type]


def write_info(log: FakeLog, key: str, **fields: object) -> None:
    """A SessionInfo packet by another program, as WriteInfoPacket appends it."""
    content = data.SessionInfoPacket(**fields).SerializeToString()  # type: ignore[arg-type]
    log.append(SESSIONS, data.Packet(type="SessionInfo", session_key=key, content=content).SerializeToString())


# -- one server -------------------------------------------------------------------------------------------------------


@pytest.mark.fact("A4")
def test_what_was_answered_is_seen_in_the_next_answer() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        async with running(clock=clock) as server:
            key = await create(
                server, identifier="FP1", associate_session_key=["a"], details={"driver": "A"}, utc_offset={"seconds": 7200}
            )  # fmt: skip
            assert await rename(server, key, "FP2")
            assert await associate(server, key, "b")
            assert await detail(server, key, driver="B", tyres="soft")
            info = await info_of(server, key)
            assert (info.identifier, info.type, info.version, info.data_source) == ("FP2", "Session", 1, "Car")
            assert list(info.associate_session_keys) == ["a", "b"]
            assert info.details == {"driver": "B", "tyres": "soft"}
            assert info.utc_offset.seconds == 7200
            assert info.creation_time.ToNanoseconds() == clock.now_ns
            assert not info.is_complete and not info.HasField("termination_time")
            assert (await end(server, key)).success
            info = await info_of(server, key)
            assert info.is_complete and info.identifier == "FP2"
            assert info.termination_time.ToNanoseconds() == clock.now_ns

    run(scenario())


@pytest.mark.fact("A5")
@pytest.mark.reference_test("SessionManagementServiceShould: GetCurrentSessions gives those of the data source")
def test_sessions_are_listed_in_the_order_in_which_they_started_ended_ones_too() -> None:
    async def scenario() -> None:
        async with running() as server:
            keys = [await create(server) for _ in range(3)]
            await create(server, "Truck")
            await end(server, keys[1])
            answer = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source="Car"))
            assert answer.success and list(answer.session_keys) == keys
            answer = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source="car"))
            assert answer.success and not answer.session_keys

    run(scenario())


@pytest.mark.fact("A17", "C4")
@pytest.mark.reference_test(
    "SessionManagementServiceShould: EndSession for an unknown session",
    "SessionManagementServiceShould: UpdateSessionIdentifier for an unknown session",
    "SessionManagementServiceShould: UpdateSessionDetails for an unknown session",
    "SessionManagementServiceShould: AddAssociateSession for an unknown session",
)
def test_an_unknown_session_is_an_answer_not_an_error() -> None:
    async def scenario() -> None:
        async with running() as server:
            assert await info_of(server, "nobody") == messages.GetSessionInfoResponse()
            assert await end(server, "nobody") == messages.EndSessionResponse()
            assert not await rename(server, "nobody", "x")
            assert not await associate(server, "nobody", "x")
            assert not await detail(server, "nobody", x="y")
            assert not server.port.appended

    run(scenario())


@pytest.mark.fact("S3")
def test_changes_that_change_nothing_succeed_and_write_nothing() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server, identifier="FP1", associate_session_key=["a"])
            assert await rename(server, key, "")
            assert await rename(server, key, "FP1")
            assert await associate(server, key, "a")
            assert (await info_of(server, key)).identifier == "FP1"
            assert not packets(server.port.log, "SessionInfo")

    run(scenario())


@pytest.mark.fact("A6", "C2")
@pytest.mark.parametrize("naming", ["legacy", "domain"])
def test_offsets_have_the_topics_names_on_the_log_and_the_clients_names_in_answers(naming: str) -> None:
    real = {"legacy": ["Car", "Car_essential", "Car.a"], "domain": ["D.Data.Car", "D.Essential.Car", "D.Data.Car.a"]}

    async def scenario() -> None:
        port = FakeLogPort()
        for count, topic in enumerate(real[naming], 1):
            for _ in range(count):
                port.log.append(Partition(topic, 0), b"")
        async with running(port, naming=naming, domain="D") as server:
            answer = await server.sessions.CreateSession(messages.CreateSessionRequest(data_source="Car"))
            expected = {"Car:0": 1, "Car_essential:0": 2, "Car.a:0": 3}
            assert answer.new_session.topic_partition_offsets == expected
            info = await info_of(server, answer.session_key)
            assert info.topic_partition_offsets == expected
            assert (info.main_offset, info.essentials_offset, list(info.streams)) == (1, 2, ["a"])
            _, append = port.appended[0]
            new = data.NewSessionPacket.FromString(data.Packet.FromString(append.packet).content)
            assert new.topic_partition_offsets == {f"{topic}:0": n for n, topic in enumerate(real[naming], 1)}

    run(scenario())


@pytest.mark.fact("A6")
def test_partition_based_offsets_and_streams_are_those_of_the_configuration() -> None:
    async def scenario() -> None:
        port = FakeLogPort()
        port.log.append(Partition("Car", 2), b"")
        mappings = {"b": 2, "a": 1}
        async with running(port, strategy="PartitionBased", partition_mappings=mappings) as server:
            info = await info_of(server, await create(server))
            assert info.topic_partition_offsets == {"Car:0": 0, "Car:1": 0, "Car:2": 1, "Car_essential:0": 0}
            assert list(info.streams) == ["b", "a"]

    run(scenario())


@pytest.mark.fact("A21", "S5", "S7")
def test_streams_are_kept_per_data_source_and_asked_for_once() -> None:
    async def scenario() -> None:
        clock = ManualClock()
        async with running(clock=clock) as server:
            server.port.log.append(Partition("Car.left", 0), b"")
            server.port.log.append(Partition("Truck.right", 0), b"")
            car, truck = await create(server, "Car"), await create(server, "Truck")
            server.port.asked.clear()
            for _ in range(20):
                assert list((await info_of(server, car)).streams) == ["left"]
                assert list((await info_of(server, truck)).streams) == ["right"]
            assert server.port.asked == ["topics", "topics"]
            server.port.log.append(Partition("Car.new", 0), b"")
            clock.seconds += 1
            assert list((await info_of(server, car)).streams) == ["left", "new"]
            server.port.away = "no broker"
            clock.seconds += 1
            assert list((await info_of(server, car)).streams) == ["left", "new"], (
                "the last answer, while the log is away"
            )

    run(scenario())


@pytest.mark.fact("S1")
def test_two_hundred_updates_of_one_session_at_once_lose_nothing() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            server.port.echoes = 2
            calls = [detail(server, key, **{f"d{n}": str(n)}) for n in range(100)]
            calls += [associate(server, key, f"s{n}") for n in range(100)]
            assert all(await asyncio.gather(*calls))
            info = await info_of(server, key)
            assert info.details == {f"d{n}": str(n) for n in range(100)}
            assert sorted(info.associate_session_keys) == sorted(f"s{n}" for n in range(100))

    run(scenario())


@pytest.mark.fact("S12")
def test_ending_twice_writes_one_packet_and_answers_the_same() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            server.port.holding = True
            await server.port.append("Car", [Append(Partition("Car", 0), b"", b"", b"")], 1)
            ending = asyncio.gather(*(end(server, key) for _ in range(20)))
            await until(lambda: "logged Car" in server.port.asked)
            await asyncio.gather(*(info_of(server, key) for _ in range(20)))  # so that all twenty have arrived
            server.port.holding = False
            server.port.release()
            first, *others = await ending
            server.port.log.append(Partition("Car", 0), b"")
            again = await end(server, key, termination_time={"seconds": 5})
            assert all(other == first for other in (*others, again))
            assert first.success and first.end_session.topic_partition_offsets["Car:0"] == 1
            assert first.end_session.data_source == "Car"
            assert len(packets(server.port.log, "EndOfSession")) == 1

    run(scenario())


@pytest.mark.fact("S13")
def test_ending_a_session_of_another_data_source_does_nothing() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            assert not (await end(server, key, data_source="Truck")).success
            assert not (await info_of(server, key)).is_complete
            assert (await end(server, key, data_source="Car")).success

    run(scenario())


def test_end_offsets_cover_what_was_accepted_before_the_call() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            server.port.holding = True
            await server.port.append("Car", [Append(Partition("Car", 0), b"", b"", b"")] * 3, 1)
            server.port.asked.clear()
            ending = asyncio.ensure_future(end(server, key))
            await until(lambda: bool(server.port.asked))
            server.port.holding = False
            server.port.release()
            assert (await ending).end_session.topic_partition_offsets["Car:0"] == 3

    run(scenario())


def test_offsets_know_streams_that_have_just_begun() -> None:
    """A list of topics may be a second old; the offsets of a start and of an end are not (S4)."""

    async def scenario() -> None:
        async with running() as server:
            server.port.stale_topics = {}
            server.port.log.append(Partition("Car.old", 0), b"")
            key = await create(server)
            assert (await info_of(server, key)).topic_partition_offsets["Car.old:0"] == 1
            server.port.log.append(Partition("Car.new", 0), b"")
            assert (await end(server, key)).end_session.topic_partition_offsets["Car.new:0"] == 1

    run(scenario())


def test_a_session_ends_also_when_some_of_its_packets_are_parked(capsys: pytest.CaptureFixture[str]) -> None:
    """The log says which; parked topics of others concern nobody here."""

    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            server.port.parked = ["Boat", "Car.s", "Car", "Car2.s"]
            assert (await end(server, key)).success
            server.port.parked = ["Boat"]
            assert (await end(server, await create(server))).success

    run(scenario())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " warn " in line]
    assert "do not cover all that was accepted" in line and line.endswith('missing="Car, Car.s"')


@pytest.mark.fact("S16")
def test_a_session_log_whose_entries_have_all_expired_is_loaded() -> None:
    async def scenario() -> None:
        port = FakeLogPort()
        write_info(port.log, "k", identifier="old")
        port.log.earliest[SESSIONS] = 1
        async with running(port) as server:
            assert not (await info_of(server, "k")).success

    run(scenario())


# -- when the log is away ---------------------------------------------------------------------------------------------


@pytest.mark.fact("S17")
def test_nothing_is_appended_when_the_log_is_known_to_be_away() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            await info_of(server, key)
            before = list(server.port.appended)
            server.port.away = "broker 10.0.0.1:9092 does not answer"
            for call in (create(server), rename(server, key, "x"), end(server, key)):
                code, text = await refused(call)
                assert code is grpc.StatusCode.UNAVAILABLE and "10.0.0.1:9092" in text
            assert server.port.appended == before
            listing = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source="Car"))
            assert list(listing.session_keys) == [key], "what is known is still answered"
            assert (await info_of(server, key)).success

    run(scenario())


@pytest.mark.fact("S17")
def test_a_session_whose_creation_was_given_up_is_ended_when_it_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_changes, "CHANGE_SECONDS", 0.05)

    async def scenario() -> None:
        async with running() as server:
            server.port.holding = True
            code, text = await refused(create(server))
            assert code is grpc.StatusCode.UNAVAILABLE and "may still come" in text
            monkeypatch.setattr(session_changes, "CHANGE_SECONDS", 5.0)
            server.port.holding = False
            server.port.release()
            await until(lambda: bool(packets(server.port.log, "EndOfSession")))
            (started,) = packets(server.port.log, "NewSession")
            await until(lambda: server.control_plane.statistics()["sessions"]["live"] == 0)
            assert (await info_of(server, started.session_key)).is_complete

    run(scenario())


def test_a_session_whose_creator_went_away_is_ended_when_it_appears() -> None:
    async def scenario() -> None:
        async with running() as server:
            server.port.holding = True
            call = server.sessions.CreateSession(messages.CreateSessionRequest(data_source="Car"))
            await until(lambda: bool(server.port.appended))
            call.cancel()
            await until(lambda: server.control_plane.statistics()["sessions"]["given_up"] == 1)
            server.port.holding = False
            server.port.release()
            await until(lambda: bool(packets(server.port.log, "EndOfSession")))

    run(scenario())


def test_a_late_change_of_a_caller_that_gave_up_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server)
            server.port.holding = True
            monkeypatch.setattr(session_changes, "CHANGE_SECONDS", 0.05)
            assert (await refused(associate(server, key, "late")))[0] is grpc.StatusCode.UNAVAILABLE
            monkeypatch.setattr(session_changes, "CHANGE_SECONDS", 5.0)
            server.port.holding = False  # the next append brings both, the late one first
            assert await associate(server, key, "next")
            assert sorted((await info_of(server, key)).associate_session_keys) == ["late", "next"]

    run(scenario())


@pytest.mark.fact("S16")
def test_before_the_log_was_read_nobody_is_told_that_a_session_is_unknown() -> None:
    async def scenario() -> None:
        port = FakeLogPort()
        async with running(port) as first:
            key = await create(first)
        port.away = "the broker is being started"
        port.blind = True
        async with running(port, ready=False) as server:
            code, text = await refused(info_of(server, key))
            assert code is grpc.StatusCode.UNAVAILABLE and "being started" in text
            await until(lambda: bool(server.states))
            assert "being started" in server.states[0]
            port.away, port.blind = "", False
            port.log.wake()
            await server.control_plane.ready.wait()
            assert server.states[-1] == ""
            assert (await info_of(server, key)).success

    run(scenario())


# -- the state is the log's -------------------------------------------------------------------------------------------


@pytest.mark.fact("S16")
@pytest.mark.reference_test("SessionInfoServiceShould: it starts when the broker is there")
def test_a_server_that_starts_anew_gives_the_same_answers() -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with running(FakeLogPort(log)) as server:
            keys = [await create(server, identifier=f"run {n}", details={"n": str(n)}) for n in range(5)]
            await asyncio.gather(*(associate(server, key, "x") for key in keys))
            await end(server, keys[2])
            answers = [await info_of(server, key) for key in keys]
        async with running(FakeLogPort(log)) as successor:
            assert [await info_of(successor, key) for key in keys] == answers

    run(scenario())


@pytest.mark.fact("A22", "S15")
def test_sessions_of_other_programs_are_seen_and_can_be_changed() -> None:
    async def scenario() -> None:
        async with running() as server:
            new = data.NewSessionPacket(data_source="Car", topic_partition_offsets={"Car:0": 10, "Car_essential": 4})
            packet = data.Packet(type="NewSession", session_key="theirs", content=new.SerializeToString())
            write_info(server.port.log, "theirs", identifier="before it was there")
            server.port.log.append(SESSIONS, packet.SerializeToString())
            await until(lambda: server.control_plane.next_offset == 2)
            assert await detail(server, "theirs", driver="A")
            write_info(server.port.log, "theirs", version=9)
            await until(lambda: server.control_plane.next_offset == 4)
            info = await info_of(server, "theirs")
            assert (info.identifier, info.version, info.details["driver"]) == ("before it was there", 9, "A")
            assert (info.main_offset, info.essentials_offset) == (10, 4)

    run(scenario())


@pytest.mark.fact("S1", "S2")
def test_another_servers_change_between_is_kept() -> None:
    """Its snapshot came first, ours was made without it and takes it back; then ours is appended again with both."""

    async def scenario() -> None:
        async with running() as server:
            key = await create(server, associate_session_key=["a"], details={"both": "0"})

            def theirs(_: Append) -> None:
                server.port.before_own = lambda _: None
                write_info(
                    server.port.log, key, identifier="theirs", associate_session_keys=["a", "theirs"],
                    details={"both": "theirs", "only theirs": "1"},
                )  # fmt: skip

            server.port.before_own = theirs
            await asyncio.gather(detail(server, key, both="ours"), associate(server, key, "ours"))
            info = await info_of(server, key)
            assert sorted(info.associate_session_keys) == ["a", "ours", "theirs"]
            assert info.details == {"both": "ours", "only theirs": "1"}, "ours came later in the log"
            assert info.identifier == "theirs"

    run(scenario())


def test_a_third_servers_later_change_stays_when_ours_is_appended_again() -> None:
    async def scenario() -> None:
        async with running() as server:
            key = await create(server, identifier="A")

            def theirs(_: Append) -> None:
                server.port.before_own = lambda _: None
                write_info(server.port.log, key, identifier="theirs", details={"theirs": "1"})

            def third(_: Append) -> None:
                server.port.after_own = lambda _: None
                write_info(server.port.log, key, identifier="third")

            server.port.before_own, server.port.after_own = theirs, third
            assert await detail(server, key, ours="1")
            info = await info_of(server, key)
            assert (info.identifier, info.details) == ("third", {"theirs": "1", "ours": "1"})

    run(scenario())


def test_two_servers_that_change_one_session_at_once_converge() -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with running(FakeLogPort(log)) as one, running(FakeLogPort(log)) as two:
            key = await create(one)
            await until(lambda: two.control_plane.next_offset == 1)
            calls = []
            for number in range(40):
                calls.append(detail(one, key, **{f"one{number}": "x"}))
                calls.append(detail(two, key, **{f"two{number}": "x"}))
                calls.append(associate(one, key, f"one{number}"))
                calls.append(associate(two, key, f"two{number}"))
            assert all(await asyncio.gather(*calls))
            end_offset = len(log.partitions[SESSIONS])
            await until(lambda: one.control_plane.next_offset == two.control_plane.next_offset == end_offset)
            first, second = await info_of(one, key), await info_of(two, key)
            assert first == second
            assert len(first.details) == len(first.associate_session_keys) == 80

    run(scenario())


def test_two_servers_that_end_one_session_at_once_give_one_answer() -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with running(FakeLogPort(log)) as one, running(FakeLogPort(log)) as two:
            key = await create(one)
            await until(lambda: two.control_plane.next_offset == 1)
            answers = await asyncio.gather(
                end(one, key, termination_time={"seconds": 1}), end(two, key, termination_time={"seconds": 2})
            )
            assert answers[0] == answers[1]
            assert await info_of(one, key) == await info_of(two, key)

    run(scenario())


def test_when_the_log_is_another_one_the_sessions_are_those_of_the_other() -> None:
    async def scenario() -> None:
        async with running() as server:
            gone = await create(server)
            server.port.away = "the other log is being started"
            server.port.log.restart()
            await until(lambda: server.control_plane.next_offset == 0)
            assert (await refused(info_of(server, gone)))[0] is grpc.StatusCode.UNAVAILABLE
            server.port.away = ""
            assert not (await info_of(server, gone)).success
            key = await create(server)
            answer = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source="Car"))
            assert list(answer.session_keys) == [key]

    run(scenario())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"data_source": ""}, "data_source: ''"),
        ({"data_source": "Car/1"}, "data_source: 'Car/1'"),
        ({"data_source": "x" * 300}, "data_source: "),
        ({"data_source": "Car", "type": "t" * 2000}, "type: 'tttt"),
        ({"data_source": "Car", "associate_session_key": ["ok", "k" * 2000]}, "associate_session_key[1]: 'kkkk"),
        ({"data_source": "Car", "identifier": "i" * 70_000}, "identifier: "),
        ({"data_source": "Car", "details": {"d": "v" * 70_000}}, "details: "),
        ({"data_source": "Car", "utc_offset": {"seconds": 1, "nanos": -1}}, "utc_offset: "),
        ({"data_source": "Car", "creation_time": {"nanos": -1}}, "creation_time: "),
    ],
)
def test_a_bad_request_names_the_field(fields: dict[str, object], expected: str) -> None:
    async def scenario() -> None:
        async with running(max_packet_bytes=128 << 10) as server:
            code, text = await refused(server.sessions.CreateSession(messages.CreateSessionRequest(**fields)))  # type: ignore[arg-type]
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert text.startswith(expected) and "wanted" in text and len(text) < 400
            assert not server.port.appended

    run(scenario())


def test_a_data_source_of_too_many_streams_is_refused_by_the_limit() -> None:
    async def scenario() -> None:
        async with running(max_packet_bytes=1 << 10) as server:
            for number in range(100):
                server.port.log.append(Partition(f"Car.{number:0>40}", 0), b"")
            code, text = await refused(create(server))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and text.startswith(told("MaxPacketBytes", 1 << 10))

    run(scenario())


def test_a_change_that_makes_a_session_too_large_harms_no_other_of_the_same_moment() -> None:
    async def scenario() -> None:
        async with running(max_packet_bytes=128 << 10) as server:
            key = await create(server)
            server.port.holding = True
            first = asyncio.ensure_future(detail(server, key, first="1"))
            await until(lambda: len(server.port.appended) == 2)
            calls = [
                refused(detail(server, key, large="x" * 66_000)),
                rename(server, key, "A"),
                associate(server, key, "b"),
            ]
            together = asyncio.gather(*calls)
            await until(lambda: server.control_plane.statistics()["sessions"]["changes_pending"] == 3)
            server.port.holding = False
            server.port.release()
            assert await first
            code, text = (await together)[0]
            assert code is grpc.StatusCode.INVALID_ARGUMENT and text.startswith("details: ") and "65536" in text
            info = await info_of(server, key)
            assert (info.identifier, list(info.associate_session_keys), info.details) == ("A", ["b"], {"first": "1"})

    run(scenario())


@pytest.mark.fact("C4")
def test_without_session_management_every_call_says_no() -> None:
    async def scenario() -> None:
        async with running(integrate_session_management=False) as server:
            assert not (await server.sessions.CreateSession(messages.CreateSessionRequest(data_source="Car"))).success
            listing = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source="Car"))
            assert not listing.success
            assert not (await info_of(server, "k")).success
            assert not (await end(server, "k")).success
            assert not await rename(server, "k", "x")
            assert not await associate(server, "k", "x")
            assert not await detail(server, "k", x="y")
            assert not server.port.appended

    run(scenario())


def test_what_should_not_happen_is_internal_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running() as server:

            async def broken(*_: object) -> None:
                raise KeyError("a bug\nwith two lines")

            server.port.topics_now = broken  # type: ignore[method-assign,assignment]
            code, text = await refused(create(server))
            assert code is grpc.StatusCode.INTERNAL and text.startswith("KeyError") and "\n" not in text
            notification = server.sessions.GetSessionStartNotification(messages.GetSessionStartNotificationRequest())
            assert (await refused(notification.read()))[0] is grpc.StatusCode.UNIMPLEMENTED, "gateways serve it"

    run(scenario())
    assert "Traceback" in caplog.text


def test_a_fold_that_fails_takes_the_process_down() -> None:
    class Broken(FakeLogPort):
        async def follow(self, partition: Partition, offset: int) -> AsyncGenerator[LoggedRun, None]:
            yield LoggedRun(0, [])
            raise ZeroDivisionError

    async def scenario() -> None:
        async with running(Broken()) as server:
            with pytest.raises(ZeroDivisionError):
                await server.control_plane.failed

    run(scenario())


def test_the_socket_of_a_killed_predecessor_is_taken_over() -> None:
    async def scenario() -> None:
        with short_folder() as folder:
            (folder / "control-1").write_bytes(b"")
            async with running(folder=folder) as server:
                await create(server)

    run(scenario())
