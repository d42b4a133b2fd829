"""What gateways are told: each start and stop once, by its offset, whatever they or the control plane went through."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from control_plane_support import Running, refused, run, running, until
from fake_log_port import FakeLog, FakeLogPort

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import follow
from trackside.data_plane.log import Partition
from trackside.protos import internal_pb2 as internal

SESSIONS = Partition("SessionInfo", 0)


def write(log: FakeLog, type: str, key: str) -> int:
    content = data.NewSessionPacket(data_source="Car").SerializeToString()
    return log.append(SESSIONS, data.Packet(type=type, session_key=key, content=content).SerializeToString())


def start(log: FakeLog, key: str) -> int:
    return write(log, "NewSession", key)


def stop(log: FakeLog, key: str) -> int:
    return write(log, "EndOfSession", key)


class Gateway:
    """One Follow stream and what it brought."""

    def __init__(self, server: Running, offset: int = -1, name: str = "gateway-0", epoch: int = 1) -> None:
        request = internal.FollowRequest(gateway=name, epoch=epoch, session_offset=offset)
        self.stream: Any = server.internal.Follow(request)

    async def next(self) -> tuple[Any, ...]:
        event = await self.stream.read()
        assert event is not grpc.aio.EOF
        kind = event.WhichOneof("event")
        told = getattr(event, kind)
        if kind == "snapshot":
            return kind, told.epoch, told.session_offset, list(told.open_connections)
        if kind == "connection_closed":
            return kind, told.id
        assert told.data_source == "Car"
        return kind, told.offset, told.session_key

    async def take(self, count: int) -> list[tuple[Any, ...]]:
        return [await self.next() for _ in range(count)]


def test_a_first_call_gets_a_snapshot_and_then_what_comes() -> None:
    async def scenario() -> None:
        async with running(epoch=7) as server:
            log = server.port.log
            start(log, "past")
            await until(lambda: server.control_plane.next_offset == 1)
            request = messages.NewConnectionRequest(details=messages.ConnectionDetails(data_source="Car"))
            id = (await server.connections.NewConnection(request)).connection.id
            gateway = Gateway(server)
            assert await gateway.next() == ("snapshot", 7, 1, [id])
            start(log, "new")
            stop(log, "past")
            stop(log, "past")
            await server.connections.CloseConnection(messages.CloseConnectionRequest(connection={"id": id}))
            assert await gateway.take(3) == [
                ("session_started", 1, "new"),
                ("session_stopped", 2, "past"),
                ("connection_closed", id),
            ]

    run(scenario())


@pytest.mark.parametrize("recent", [2, 10_000])
def test_a_gateway_goes_on_from_the_offset_that_it_asks_for(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the events at hand, and from the fold where these do not reach back."""
    monkeypatch.setattr(follow, "RECENT_MAX", recent)

    async def scenario() -> None:
        async with running() as server:
            log = server.port.log
            for number in range(5):
                start(log, f"k{number}")
                stop(log, f"k{number}")
            await until(lambda: server.control_plane.next_offset == 10)
            for offset in range(11):
                gateway = Gateway(server, offset, f"gateway-{offset}")
                assert (await gateway.next())[0] == "snapshot"
                told = await gateway.take(10 - offset)
                assert [event[1] for event in told] == list(range(offset, 10))
            late = start(log, "late")
            assert await gateway.next() == ("session_started", late, "late")

    run(scenario())


def test_a_control_plane_that_starts_anew_tells_what_was_missed() -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with running(FakeLogPort(log)) as server:
            gateway = Gateway(server)
            await gateway.next()
            start(log, "a")
            assert await gateway.next() == ("session_started", 0, "a")
        start(log, "b")
        stop(log, "a")
        async with running(FakeLogPort(log), epoch=2) as successor:
            told = await Gateway(successor, 1).take(3)
            assert told == [("snapshot", 2, 3, []), ("session_started", 1, "b"), ("session_stopped", 2, "a")]

    run(scenario())


@pytest.mark.fact("A19")
def test_sessions_of_the_past_are_no_news_when_they_are_read_late() -> None:
    async def scenario() -> None:
        port = FakeLogPort()
        start(port.log, "past")
        port.away = "the broker is being started"
        port.blind = True
        async with running(port, ready=False) as server:
            first, again = Gateway(server), Gateway(server, 0, "gateway-1")
            assert await first.next() == ("snapshot", 1, -1, [])
            assert await again.next() == ("snapshot", 1, -1, [])
            port.away, port.blind = "", False
            port.log.wake()
            await server.control_plane.ready.wait()
            start(port.log, "new")
            assert await first.take(2) == [("snapshot", 1, 1, []), ("session_started", 1, "new")]
            assert await again.take(3) == [
                ("snapshot", 1, 1, []),
                ("session_started", 0, "past"),
                ("session_started", 1, "new"),
            ]

    run(scenario())


def test_when_the_log_is_another_one_gateways_ask_again() -> None:
    async def scenario() -> None:
        async with running() as server:
            log = server.port.log
            for number in range(3):
                start(log, f"k{number}")
            gateway = Gateway(server, 0)
            await gateway.take(4)
            log.restart()
            assert (await refused(gateway.stream.read()))[0] is grpc.StatusCode.UNAVAILABLE
            again = Gateway(server, 3)
            assert (await again.next())[0] == "snapshot"
            await until(lambda: server.control_plane.loaded)
            start(log, "k0")
            while (told := await again.next())[0] == "snapshot":
                pass
            assert told == ("session_started", 0, "k0")

    run(scenario())


@pytest.mark.fact("S10")
def test_a_gateway_that_takes_nothing_loses_its_stream_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "QUEUED_MAX", 20)

    async def scenario() -> None:
        async with running() as server:
            stalled = follow._Stream(internal.FollowRequest(gateway="stalled", epoch=1, session_offset=-1))
            server.control_plane._follow._replace(stalled)
            server.control_plane._follow._join(stalled)
            gateway = Gateway(server)
            await gateway.next()
            for number in range(50):
                offset = start(server.port.log, f"k{number}")
                assert await gateway.next() == ("session_started", offset, f"k{number}")
            assert stalled.ended
            assert stalled.queued.qsize() <= 21

    run(scenario())


def test_a_gateway_has_one_stream_that_of_its_newest_incarnation() -> None:
    async def scenario() -> None:
        async with running() as server:
            old = Gateway(server, epoch=1)
            await old.next()
            new = Gateway(server, epoch=2)
            await new.next()
            assert (await refused(old.stream.read()))[0] is grpc.StatusCode.UNAVAILABLE
            late = Gateway(server, epoch=1)
            assert (await refused(late.stream.read()))[0] is grpc.StatusCode.UNAVAILABLE
            start(server.port.log, "k")
            assert await new.next() == ("session_started", 0, "k")
            new.stream.cancel()
            await until(lambda: server.control_plane.statistics()["follow"]["gateways"] == 0)

    run(scenario())


@pytest.mark.fact("A4", "S19")
def test_the_session_is_complete_when_its_start_is_told() -> None:
    async def scenario() -> None:
        async with running() as server:
            gateway = Gateway(server)
            await gateway.next()
            request = messages.CreateSessionRequest(data_source="Car", identifier="FP1")
            creating = asyncio.ensure_future(server.sessions.CreateSession(request))
            _, _, key = await gateway.next()
            info = await server.sessions.GetSessionInfo(messages.GetSessionInfoRequest(session_key=key))
            assert info.success and info.identifier == "FP1"
            assert (await creating).session_key == key

    run(scenario())
