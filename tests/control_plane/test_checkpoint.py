"""Checkpoints: what a successor can say while the log is away, and that nothing else depends on them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from control_plane_support import Running, refused, run, running, short_folder, until
from fake_log_port import FakeLog, FakeLogPort
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import checkpoint, frame_file
from trackside.control_plane.frame_file import FrameFile
from trackside.data_plane.data_formats import parameters_definition
from trackside.data_plane.log import Partition
from trackside.protos import internal_pb2

SESSIONS = Partition("SessionInfo", 0)
ESSENTIALS = Partition("Car_essential", 0)
AWAY = "no broker answers at kafka:9092"


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@asynccontextmanager
async def serving(log: FakeLog, folder: Path, *, away: str = "", **settings: Any) -> AsyncIterator[Running]:
    """A control plane as one after another is started on the same folders, with a log that may be away."""
    port = FakeLogPort(log)
    port.away, port.blind = away, bool(away)
    async with running(
        port, folder=folder, ready=not away, **{"broker": "kafka:9092", "node_number": 1, **settings}
    ) as server:
        yield server


async def create(server: Running, source: str = "Car", **fields: Any) -> str:
    answer = await server.sessions.CreateSession(messages.CreateSessionRequest(data_source=source, **fields))
    return str(answer.session_key)


async def info(server: Running, key: str) -> messages.GetSessionInfoResponse:
    answer: messages.GetSessionInfoResponse = await server.sessions.GetSessionInfo(
        messages.GetSessionInfoRequest(session_key=key)
    )
    return answer


async def keys_of(server: Running, source: str = "Car") -> list[str]:
    answer = await server.sessions.GetCurrentSessions(messages.GetCurrentSessionsRequest(data_source=source))
    return list(answer.session_keys)


async def id_of(server: Running, *names: str, source: str = "Car") -> int:
    request = messages.GetParameterDataFormatIdRequest(data_source=source, parameters=names)
    return int((await server.formats.GetParameterDataFormatId(request)).data_format_identifier)


async def parameters_of(server: Running, identifier: int, source: str = "Car") -> list[str]:
    request = messages.GetParametersListRequest(data_source=source, data_format_identifier=identifier)
    return list((await server.formats.GetParametersList(request)).parameters)


def unavailable(answer: tuple[grpc.StatusCode, str]) -> bool:
    return answer[0] is grpc.StatusCode.UNAVAILABLE and AWAY in answer[1]


# -- while the log is away --------------------------------------------------------------------------------------------


def test_a_successor_answers_what_its_predecessor_knew(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        log.append(Partition("Car.s", 0), b"")
        async with serving(log, folder) as server:
            keys = [await create(server, identifier=f"run {n}", details={"n": str(n)}) for n in range(3)]
            await server.sessions.EndSession(messages.EndSessionRequest(session_key=keys[1]))
            number = await id_of(server, "a", "b")
            before = [await info(server, key) for key in keys]
        async with serving(log, folder, away=AWAY) as successor:
            assert [await info(successor, key) for key in keys] == before
            assert list(before[0].streams) == ["s"]
            assert await keys_of(successor) == keys
            assert await id_of(successor, "a", "b") == number
            assert await parameters_of(successor, number) == ["a", "b"]

    run(scenario())


def test_what_a_checkpoint_does_not_have_is_never_said_to_be_unknown(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            key, number = await create(server), await id_of(server, "a")
            await info(server, key)
        elsewhere = data.Packet(type="NewSession", session_key="other").SerializeToString()
        log.append(SESSIONS, elsewhere)
        log.append(ESSENTIALS, parameters_definition(77, ("b",)))
        async with serving(log, folder, away=AWAY) as successor:
            assert (await info(successor, key)).success
            assert unavailable(await refused(info(successor, "other")))
            assert unavailable(await refused(parameters_of(successor, 77)))
            assert unavailable(await refused(id_of(successor, "b")))
            assert unavailable(await refused(id_of(successor, "a", source="Truck")))
            assert unavailable(await refused(create(successor)))
            rename = messages.UpdateSessionIdentifierRequest(session_key=key, identifier="x")
            assert unavailable(await refused(successor.sessions.UpdateSessionIdentifier(rename)))
            successor.port.away, successor.port.blind = "", False
            log.wake()
            await successor.control_plane.ready.wait()
            assert (await info(successor, "other")).success
            assert await parameters_of(successor, 77) == ["b"] and await id_of(successor, "b") == 77
            assert await id_of(successor, "a") == number
            assert await info(successor, "nobody") == messages.GetSessionInfoResponse()

    run(scenario())


def test_a_log_that_says_nothing_is_not_waited_for_by_those_who_ask_for_what_is_known(folder: Path) -> None:
    """Nobody knows yet that it is away; who asks for something else waits until somebody does."""

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            key = await create(server)
        port = FakeLogPort(log)
        port.mute = port.blind = True
        async with running(port, folder=folder, ready=False, broker="kafka:9092", node_number=1) as successor:
            other = asyncio.ensure_future(refused(info(successor, "other")))
            assert await keys_of(successor) == [key]
            assert not other.done()
            other.cancel()

    run(scenario())


def test_without_a_checkpoint_nothing_is_answered(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            key, number = await create(server), await id_of(server, "a")
        shutil.rmtree(folder / "data" / "checkpoints")
        async with serving(log, folder, away=AWAY) as successor:
            assert unavailable(await refused(info(successor, key)))
            assert unavailable(await refused(keys_of(successor)))
            assert unavailable(await refused(parameters_of(successor, number)))

    run(scenario())


def test_a_checkpoint_that_never_came_to_the_end_of_the_log_says_nothing(folder: Path) -> None:
    """Its process died while it read: what it has may have been changed since, in entries that it had not reached."""

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            await create(server)
        shutil.rmtree(folder / "data" / "checkpoints")
        port = FakeLogPort(log)
        port.mute = True  # entries come, but nobody says where the end is
        async with running(port, folder=folder, ready=False, broker="kafka:9092", node_number=1) as reading:
            await until(lambda: reading.control_plane.next_offset > 0)
        assert (folder / "data" / "checkpoints" / "sessions").exists()
        async with serving(log, folder, away=AWAY) as successor:
            assert unavailable(await refused(keys_of(successor)))

    run(scenario())


def test_every_answer_is_in_the_checkpoint_before_it_is_given(folder: Path) -> None:
    """Whenever the process is killed: what it has said, its successor says, too."""

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder / "live") as server:
            for number in range(5):
                key, identifier = await create(server), await id_of(server, f"p{number}")
                said = await info(server, key)
                shutil.copytree(folder / "live" / "data", folder / f"{number}" / "data")
                async with serving(log, folder / f"{number}", away=AWAY) as successor:
                    assert await info(successor, key) == said
                    assert await parameters_of(successor, identifier) == [f"p{number}"]

    (folder / "live").mkdir()
    run(scenario())


# -- the log wins -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [0, 1, 4, 5, 6, 9], ids=lambda n: f"{n} entries")
def test_another_log_makes_an_end_of_a_checkpoint(folder: Path, entries: int) -> None:
    """Shorter, longer or just as long."""

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            gone = [await create(server) for _ in range(4)]
            number = await id_of(server, "a")
        log.restart()
        for entry in range(entries):
            new = data.NewSessionPacket(data_source="Car").SerializeToString()
            packet = data.Packet(type="NewSession", session_key=f"new {entry}", content=new)
            log.append(SESSIONS, packet.SerializeToString())
        if entries:
            log.append(ESSENTIALS, parameters_definition(99, ("a",)))
        async with serving(log, folder) as successor:
            assert await keys_of(successor) == [f"new {entry}" for entry in range(entries)]
            assert not (await info(successor, gone[0])).success
            assert await parameters_of(successor, number) == []
            assert (await id_of(successor, "a") == 99) == bool(entries)
        async with serving(log, folder, away=AWAY) as successor:
            if entries:
                assert await keys_of(successor) == [f"new {entry}" for entry in range(entries)]
            assert unavailable(await refused(info(successor, gone[0])))

    run(scenario())


def test_a_log_that_has_lost_its_past_keeps_what_is_known(folder: Path) -> None:
    """Retention took every entry: the sessions are still those of the checkpoint, as those of a process that runs."""

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            keys = [await create(server) for _ in range(3)]
        log.earliest[SESSIONS] = len(log.partitions[SESSIONS])
        async with serving(log, folder) as successor:
            assert await keys_of(successor) == keys
            keys.append(await create(successor))
            assert await keys_of(successor) == keys

    run(scenario())


def test_the_entry_that_is_read_again_counts_once(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            early = data.Packet(type="SessionInfo", session_key="not there yet").SerializeToString()
            log.append(SESSIONS, early)
            await until(lambda: server.control_plane.statistics()["sessions"]["held"] == 1)
            before = server.control_plane.statistics()["sessions"]
            log.append(Partition("Car", 0), b"")  # nothing that this fold sees
            shutil.copytree(folder / "data", folder / "then" / "data")
        claims = len(log.partitions[SESSIONS])
        async with serving(log, folder / "then") as successor:
            await until(lambda: len(log.partitions[SESSIONS]) > claims)  # its own
            assert successor.control_plane.statistics()["sessions"] == before

    run(scenario())


def test_deleting_them_changes_no_answer(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            keys = [await create(server, identifier=f"run {n}") for n in range(3)]
            number = await id_of(server, "a")
            before = [await info(server, key) for key in keys]
        for delete in (False, True):
            if delete:
                shutil.rmtree(folder / "data" / "checkpoints")
            async with serving(log, folder) as successor:
                assert [await info(successor, key) for key in keys] == before
                assert (await id_of(successor, "a"), await keys_of(successor)) == (number, keys)

    run(scenario())


@pytest.mark.parametrize("settings_", [{"broker": "other:9092"}, {"naming": "domain", "domain": "D"}])
def test_a_checkpoint_of_another_place_is_none(folder: Path, settings_: dict[str, str]) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            key, number = await create(server), await id_of(server, "a")
        async with serving(log, folder, away=AWAY, **settings_) as successor:
            assert unavailable(await refused(info(successor, key)))
            assert unavailable(await refused(parameters_of(successor, number)))

    run(scenario())


def test_the_local_log_needs_none(folder: Path) -> None:
    async def scenario() -> None:
        async with serving(FakeLog(), folder, broker="") as server:
            await create(server)
            await id_of(server, "a")
        assert not (folder / "data" / "checkpoints").exists()

    run(scenario())


def test_gateways_are_told_what_happened_before_the_checkpoint(folder: Path) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            keys = [await create(server) for _ in range(3)]
            offset = server.control_plane.next_offset
        async with serving(log, folder, epoch=2) as successor:
            asked = internal_pb2.FollowRequest(gateway="gateway-0", epoch=1, session_offset=0)
            told = []
            async for event in successor.internal.Follow(asked):
                if event.WhichOneof("event") == "session_started":
                    told.append(event.session_started.session_key)
                if len(told) == 3:
                    break
            assert told == keys and successor.control_plane.next_offset >= offset

    run(scenario())


# -- the files --------------------------------------------------------------------------------------------------------


def test_they_stay_in_proportion_to_what_they_keep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SLACK_BYTES", 1000)

    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            key = await create(server)
            await info(server, key)
            for number in range(300):
                rename = messages.UpdateSessionIdentifierRequest(session_key=key, identifier=f"name {number}")
                await server.sessions.UpdateSessionIdentifier(rename)
            state = server.control_plane._sessions.fold.dump()  # type: ignore[union-attr]
            assert (folder / "data" / "checkpoints" / "sessions").stat().st_size < 3 * len(state) + 3000
        async with serving(log, folder, away=AWAY) as successor:
            assert (await info(successor, key)).identifier == "name 299"

    run(scenario())


NO_TEXT = msgspec.msgpack.encode([1, "place", ["Car", 0]]).replace(b"place", b"plac\xff")


@pytest.mark.parametrize("name", ["sessions", "formats.Car", "streams"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x03\0\0\0\x26\xa5\xa6\x35abc", frame_file._frame(NO_TEXT)])
def test_a_damaged_one_is_none(folder: Path, name: str, content: bytes) -> None:
    async def scenario() -> None:
        log = FakeLog()
        log.append(Partition("Car.s", 0), b"")
        async with serving(log, folder) as server:
            key, number = await create(server), await id_of(server, "a")
            before = await info(server, key)
        (folder / "data" / "checkpoints" / name).write_bytes(content)
        async with serving(log, folder) as successor:
            assert await info(successor, key) == before
            assert await parameters_of(successor, number) == ["a"]
        async with serving(log, folder, away=AWAY) as successor:
            assert await info(successor, key) == before, "and a good one took its place"

    run(scenario())


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with serving(log, folder) as server:
            first = await create(server)

            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patched:
                patched.setattr(FrameFile, "append", full)
                patched.setattr(FrameFile, "replace", full)
                second = await create(server)
                assert await keys_of(server) == [first, second]
            assert not (folder / "data" / "checkpoints" / "sessions").exists(), "an old one would say what was"
            third = await create(server)
        async with serving(log, folder, away=AWAY) as successor:
            assert await keys_of(successor) == [first, second, third], "written whole when there was room again"

    run(scenario())
    assert "No space left on device" in caplog.text


def common_bytes(one: bytes, other: bytes) -> int:
    """How long they begin alike: junk may be just what was cut off."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


@given(bodies=st.lists(st.binary(max_size=30), max_size=8), cut=st.integers(0, 10_000), junk=st.binary(max_size=20))
@example(bodies=[b"\0"], cut=8, junk=b"\0")
@settings(deadline=None, max_examples=150)
def test_frames_before_a_cut_are_read(
    bodies: list[bytes], cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("frames") / "file"
    file = FrameFile(path)
    file.replace(bodies[:2])
    for body in bodies[2:]:
        file.append(body)
    whole = path.read_bytes()
    broken = whole[: cut % (len(whole) + 1)] + junk
    path.write_bytes(broken)
    intact = common_bytes(whole, broken)
    ends = [sum(8 + len(body) for body in bodies[:count]) for count in range(len(bodies) + 1)]
    expected = bodies[: max(count for count, end in enumerate(ends) if end <= intact)]
    again = FrameFile(path)
    assert again.read() == expected
    again.append(b"next")
    assert FrameFile(path).read() == [*expected, b"next"], "the torn end is gone"
