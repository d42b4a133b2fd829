"""Keys from another server: all of them, in bounded time, and never one made here in their place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from control_plane_support import Running, refused, run, running

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as services
from trackside.control_plane import remote_keys
from trackside.control_plane.statuses import Context

ULONG = messages.GenerateUniqueKeyRequest(type=messages.KEY_TYPE_ULONG)
STRING = messages.GenerateUniqueKeyRequest(type=messages.KEY_TYPE_STRING)


class Generator(services.UniqueKeyGeneratorServiceServicer):
    """Counts; ``answer`` replaces what it says, ``silent`` that it says anything."""

    def __init__(self) -> None:
        self.asked = 0
        self.silent = False
        self.answer: messages.GenerateUniqueKeyResponse | None = None

    async def GenerateUniqueKey(
        self, request: messages.GenerateUniqueKeyRequest, context: Context
    ) -> messages.GenerateUniqueKeyResponse:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.answer is not None:
            return self.answer
        if request.type == messages.KEY_TYPE_ULONG:
            return messages.GenerateUniqueKeyResponse(ulong_key=1000 + self.asked)
        return messages.GenerateUniqueKeyResponse(string_key=f"remote-{self.asked}")


@contextlib.asynccontextmanager
async def serving(generator: Generator, port: int = 0) -> AsyncIterator[str]:
    server = grpc.aio.server()
    services.add_UniqueKeyGeneratorServiceServicer_to_server(generator, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def create(server: Running) -> api_pb2.CreateSessionResponse:
    request = api_pb2.CreateSessionRequest(data_source="Car")
    answer: api_pb2.CreateSessionResponse = await server.sessions.CreateSession(request)
    return answer


async def format_id(server: Running, *names: str) -> int:
    request = api_pb2.GetParameterDataFormatIdRequest(data_source="Car", parameters=names)
    return int((await server.formats.GetParameterDataFormatId(request)).data_format_identifier)


def test_every_key_comes_from_the_generator() -> None:
    async def scenario() -> None:
        generator = Generator()
        async with serving(generator) as address, running(use_remote_keys=True, remote_key_address=address) as server:
            assert generator.asked == 0, "connected when it is needed"
            assert (await create(server)).session_key == "remote-1"
            assert await format_id(server, "a") == 1002
            assert await format_id(server, "a") == 1002 and generator.asked == 2
            assert (await server.keys.GenerateUniqueKey(ULONG)).ulong_key == 1003
            assert (await server.keys.GenerateUniqueKey(STRING)).string_key == "remote-4"

    run(scenario())


def test_a_generator_that_is_not_there_is_named_and_found_when_it_comes() -> None:
    async def scenario() -> None:
        address = f"127.0.0.1:{free_port()}"
        async with running(use_remote_keys=True, remote_key_address=address) as server:
            for call in (create(server), format_id(server, "a"), server.keys.GenerateUniqueKey(ULONG)):
                code, text = await refused(call)
                assert code is grpc.StatusCode.UNAVAILABLE and address in text
            assert not server.port.appended
            async with serving(Generator(), int(address.rpartition(":")[2])):
                while True:  # the channel tries again by itself
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        assert (await create(server)).success
                        break

    run(scenario())


def test_a_generator_that_says_nothing_is_waited_for_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_keys, "REMOTE_SECONDS", 0.05)

    async def scenario() -> None:
        generator = Generator()
        generator.silent = True
        async with serving(generator) as address, running(use_remote_keys=True, remote_key_address=address) as server:
            code, text = await refused(create(server))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert text == f"the remote key generator at {address} did not answer within 0.05 s"

    run(scenario())


@pytest.mark.parametrize("request_", [ULONG, STRING])
def test_an_answer_without_the_key_is_none(request_: messages.GenerateUniqueKeyRequest) -> None:
    async def scenario() -> None:
        generator = Generator()
        generator.answer = messages.GenerateUniqueKeyResponse()
        async with serving(generator) as address, running(use_remote_keys=True, remote_key_address=address) as server:
            code, text = await refused(server.keys.GenerateUniqueKey(request_))
            assert code is grpc.StatusCode.UNAVAILABLE and address in text and "without" in text

    run(scenario())


def test_a_session_key_that_was_given_twice_gives_nobodys_session_away() -> None:
    async def scenario() -> None:
        generator = Generator()
        generator.answer = messages.GenerateUniqueKeyResponse(string_key="same")
        async with serving(generator) as address, running(use_remote_keys=True, remote_key_address=address) as server:
            assert (await create(server)).session_key == "same"
            code, text = await refused(create(server))
            assert code is grpc.StatusCode.UNAVAILABLE and "given twice" in text
            info = await server.sessions.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key="same"))
            assert info.success and not info.is_complete

    run(scenario())
