"""Data formats: one identifier for one list, however many ask, on however many servers, for ever."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from control_plane_support import Running, refused, run, running, until
from fake_log_port import FakeLog, FakeLogPort

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import data_formats
from trackside.control_plane.log_port import Append
from trackside.data_plane.data_formats import parameters_definition
from trackside.data_plane.log import Partition

ESSENTIALS = Partition("Car_essential", 0)


async def id_of(server: Running, *parameters: str, source: str = "Car") -> int:
    request = messages.GetParameterDataFormatIdRequest(data_source=source, parameters=parameters)
    return int((await server.formats.GetParameterDataFormatId(request)).data_format_identifier)


async def event_id_of(server: Running, event: str) -> int:
    request = messages.GetEventDataFormatIdRequest(data_source="Car", event=event)
    return int((await server.formats.GetEventDataFormatId(request)).data_format_identifier)


async def parameters_of(server: Running, identifier: int, source: str = "Car") -> list[str]:
    request = messages.GetParametersListRequest(data_source=source, data_format_identifier=identifier)
    return list((await server.formats.GetParametersList(request)).parameters)


async def event_of(server: Running, identifier: int) -> str:
    request = messages.GetEventRequest(data_source="Car", data_format_identifier=identifier)
    return str((await server.formats.GetEvent(request)).event)


@pytest.mark.fact("A18", "C5", "D3")
@pytest.mark.reference_test("DataFormatManagerShould: a new event and a new list get ids that resolve at once")
def test_a_list_has_one_identifier_and_another_order_another() -> None:
    async def scenario() -> None:
        async with running() as server:
            identifier = await id_of(server, "a", "b")
            assert identifier > 0
            assert await id_of(server, "a", "b") == identifier
            others = {await id_of(server, "b", "a"), await id_of(server, "a,b"), await id_of(server), identifier}
            assert len(others) == 4
            assert await parameters_of(server, identifier) == ["a", "b"]
            event = await event_id_of(server, "start")
            assert await event_of(server, event) == "start"
            assert await event_of(server, identifier) == "" and await parameters_of(server, event) == []
            assert await parameters_of(server, identifier, source="Truck") == []

    run(scenario())


@pytest.mark.fact("C2", "D7")
def test_a_definition_goes_to_the_main_stream_and_the_essentials() -> None:
    async def scenario() -> None:
        async with running() as server:
            identifier = await id_of(server, "a")
            ((source, append),) = server.port.appended
            assert source == "Car"
            assert (append.partition, append.essentials, append.key) == (Partition("Car", 0), "Car_essential", b"")
            packet = data.Packet.FromString(append.packet)
            assert (packet.type, packet.session_key, packet.is_essential) == ("DataFormatDefinition", "", True)
            definition = data.DataFormatDefinitionPacket.FromString(packet.content)
            assert (definition.identifier, definition.type) == (identifier, data.DATA_FORMAT_TYPE_PARAMETER)
            assert list(definition.parameter_identifiers.parameter_identifiers) == ["a"]

    run(scenario())


@pytest.mark.fact("D2", "D4")
def test_a_hundred_requests_at_once_get_one_identifier_and_write_one_definition() -> None:
    async def scenario() -> None:
        async with running() as server:
            assert len(set(await asyncio.gather(*(id_of(server, "a", "b") for _ in range(100))))) == 1
            assert len(server.port.appended) == 1

    run(scenario())


@pytest.mark.fact("D2")
def test_two_servers_that_ask_at_once_come_to_the_first_definition_in_the_log() -> None:
    async def scenario() -> None:
        log = FakeLog()
        ports = FakeLogPort(log), FakeLogPort(log)
        async with running(ports[0]) as one, running(ports[1], node_number=1) as two:
            for port in ports:
                port.holding = True
            asking = [asyncio.ensure_future(id_of(server, "a")) for server in (one, two)]
            await until(lambda: all(port.appended for port in ports))  # neither saw the other's
            ports[1].release()
            ports[0].release()
            first, second = await asyncio.gather(*asking)
            assert first == second and first % 1000 == 1
            assert await id_of(one, "a") == await id_of(two, "a") == first
            assert len(log.partitions[ESSENTIALS]) == 2

    run(scenario())


def test_a_definition_of_another_program_that_came_first_wins() -> None:
    async def scenario() -> None:
        async with running() as server:

            def theirs(_: Append) -> None:
                server.port.before_own = lambda _: None
                server.port.log.append(ESSENTIALS, parameters_definition(77, ("a",)))

            server.port.before_own = theirs
            assert await id_of(server, "a") == 77

    run(scenario())


@pytest.mark.fact("D6")
@pytest.mark.reference_test(
    "DataFormatInfoServiceShould: definitions on the topic are found by list and by id",
    "DataFormatManagerShould: what the topic has is given out, in both directions",
)
def test_what_the_log_has_is_known_after_a_start_and_followed() -> None:
    async def scenario() -> None:
        log = FakeLog()
        async with running(FakeLogPort(log)) as server:
            identifier = await id_of(server, "a", "b")
        log.append(ESSENTIALS, parameters_definition(5, ("x",)))
        async with running(FakeLogPort(log)) as successor:
            assert await parameters_of(successor, identifier) == ["a", "b"]
            assert await id_of(successor, "a", "b") == identifier
            assert await id_of(successor, "x") == 5
            assert not successor.port.appended
            log.append(ESSENTIALS, parameters_definition(6, ("y",)))
            while await parameters_of(successor, 6) != ["y"]:
                await asyncio.sleep(0)

    run(scenario())


def test_a_log_that_does_not_answer_is_unavailable_never_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_formats, "LOG_SECONDS", 0.05)

    async def scenario() -> None:
        async with running() as server:
            server.port.log.append(ESSENTIALS, parameters_definition(5, ("x",)))
            server.port.blind = True
            for away, mute in (("no broker", False), ("", True), ("", False)):
                server.port.away, server.port.mute = away, mute
                assert (await refused(parameters_of(server, 5)))[0] is grpc.StatusCode.UNAVAILABLE
                assert (await refused(id_of(server, "x")))[0] is grpc.StatusCode.UNAVAILABLE
            server.port.blind = False
            server.port.log.wake()
            assert await parameters_of(server, 5) == ["x"]
            assert await id_of(server, "x") == 5
            assert not server.port.appended

    run(scenario())


def test_another_log_has_other_formats() -> None:
    async def scenario() -> None:
        async with running() as server:
            before = await id_of(server, "a")
            server.port.log.restart()
            server.port.log.append(ESSENTIALS, parameters_definition(9, ("b",)))
            while await parameters_of(server, 9) != ["b"]:
                await asyncio.sleep(0)
            assert await parameters_of(server, before) == []
            assert await id_of(server, "a") != before

    run(scenario())


def test_data_sources_that_nobody_asks_for_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_formats, "FOLLOWED_MAX", 3)

    async def scenario() -> None:
        async with running() as server:
            identifiers = {f"Car{n}": await id_of(server, "a", source=f"Car{n}") for n in range(10)}
            await until(lambda: server.port.following == 4)  # three, and the sessions
            for source, identifier in identifiers.items():
                assert await parameters_of(server, identifier, source) == ["a"]

    run(scenario())


def test_without_management_identifiers_are_given_out_but_nothing_is_read() -> None:
    async def scenario() -> None:
        log = FakeLog()
        log.append(ESSENTIALS, parameters_definition(5, ("x",)))
        async with running(FakeLogPort(log), integrate_data_format_management=False) as server:
            assert await parameters_of(server, 5) == []
            identifiers = [await id_of(server, "x"), await id_of(server, "y")]
            assert identifiers[0] != 5 and await id_of(server, "x") == identifiers[0]
            assert [await parameters_of(server, id) for id in identifiers] == [["x"], ["y"]]
            assert len(log.partitions[ESSENTIALS]) == 3
            assert len(set(await asyncio.gather(*(id_of(server, "z") for _ in range(20))))) == 1

    run(scenario())


def test_a_bad_request_names_the_field() -> None:
    async def scenario() -> None:
        async with running(max_packet_bytes=10_000) as server:
            for call, expected in (
                (id_of(server, "a", source="Car/1"), "data_source: 'Car/1'"),
                (parameters_of(server, 1, source=""), "data_source: ''"),
                (id_of(server, *["p" * 100] * 100), "parameters: "),
                (event_id_of(server, "e" * 10_000), "event: "),
            ):
                code, text = await refused(call)
                assert code is grpc.StatusCode.INVALID_ARGUMENT and text.startswith(expected)
            assert not server.port.appended

    run(scenario())
