"""Keys from another server: all of them, in bounded time, and never one made here in their place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from control_plane_support import Running, refused, run, running
from tls_files import TlsFiles

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
        self.tokens: list[object] = []
        self.silent = False
        self.answer: messages.GenerateUniqueKeyResponse | None = None

    async def GenerateUniqueKey(
        self, request: messages.GenerateUniqueKeyRequest, context: Context
    ) -> messages.GenerateUniqueKeyResponse:
        self.asked += 1
        self.tokens.append(dict(context.invocation_metadata() or ()).get("authorization"))
        if self.silent:
            await asyncio.Event().wait()
        if self.answer is not None:
            return self.answer
        if request.type == messages.KEY_TYPE_ULONG:
            return messages.GenerateUniqueKeyResponse(ulong_key=1000 + self.asked)
        return messages.GenerateUniqueKeyResponse(string_key=f"remote-{self.asked}")


@contextlib.asynccontextmanager
async def serving(
    generator: Generator, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    server = grpc.aio.server()
    services.add_UniqueKeyGeneratorServiceServicer_to_server(generator, server)
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
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


class RemoteFiles:
    """Certificates of a generator that demands some of its clients, and those of a client, with a token."""

    def __init__(self, folder: Path) -> None:
        self.tls = TlsFiles(folder / "tls")
        chain, key = self.tls.pair("client")
        self.certificate, self.key, self.token = (self.tls.folder / name for name in ("own.pem", "own.key", "token"))
        self.certificate.write_bytes(chain)
        self.key.write_bytes(key)
        self.token.write_text("first\n")

    def credentials(self) -> grpc.ServerCredentials:
        pair = self.tls.key.read_bytes(), self.tls.certificate.read_bytes()
        return grpc.ssl_server_credentials([pair], self.tls.authority.read_bytes(), require_client_auth=True)

    def settings(self) -> dict[str, str]:
        return {
            "remote_key_authority": str(self.tls.authority),
            "remote_key_certificate": str(self.certificate),
            "remote_key_key": str(self.key),
            "remote_key_token_file": str(self.token),
        }


def replace(path: Path, text: str) -> None:
    aside = path.with_name("new")
    aside.write_text(text)
    os.replace(aside, path)


def test_a_generator_with_mutual_tls_and_tokens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a restart another token, and other certificates, hold; files that are no good change nothing."""
    files, generator = RemoteFiles(tmp_path), Generator()

    async def scenario() -> None:
        credentials = files.credentials()
        async with (
            serving(generator, credentials=credentials) as address,
            running(use_remote_keys=True, remote_key_address=address, **files.settings()) as server,
        ):
            assert (await create(server)).session_key == "remote-1"
            replace(files.token, "second")
            assert (await server.keys.GenerateUniqueKey(STRING)).string_key == "remote-2"
            chain, key = files.tls.pair("client")
            replace(files.certificate, chain.decode())
            assert (await server.keys.GenerateUniqueKey(STRING)).string_key == "remote-3", "half replaced: the old pair"
            replace(files.key, key.decode())
            replace(files.token, "third")
            assert (await server.keys.GenerateUniqueKey(STRING)).string_key == "remote-4"
        assert generator.tokens == ["Bearer first", "Bearer second", "Bearer second", "Bearer third"]

    run(scenario())
    said = capfd.readouterr().err
    assert said.count("files for the remote key generator not usable") == 1 and "is not the key of" in said
    assert not any(token in said for token in ("first", "second", "third"))


def test_who_is_not_let_in_by_the_generator_says_so(tmp_path: Path) -> None:
    files = RemoteFiles(tmp_path)
    strange = {**files.settings(), "remote_key_authority": str(TlsFiles(tmp_path / "strange").authority)}

    async def scenario() -> None:
        async with serving(Generator(), credentials=files.credentials()) as address:
            async with running(use_remote_keys=True, remote_key_address=address) as server:
                code, text = await refused(create(server))
                assert code is grpc.StatusCode.UNAVAILABLE and address in text, "plain text"
            async with running(use_remote_keys=True, remote_key_address=address, **strange) as server:
                code, text = await refused(create(server))
                assert code is grpc.StatusCode.UNAVAILABLE and address in text and "CERTIFICATE_VERIFY_FAILED" in text

    run(scenario())


def test_files_that_were_never_good_are_named_each_time(tmp_path: Path) -> None:
    files = RemoteFiles(tmp_path)
    files.token.write_text("two tokens")

    async def scenario() -> None:
        async with running(use_remote_keys=True, remote_key_address="127.0.0.1:1", **files.settings()) as server:
            for _ in range(2):
                code, text = await refused(create(server))
                assert code is grpc.StatusCode.UNAVAILABLE and f"{files.token}: wanted one token" in text
                assert "two tokens" not in text

    run(scenario())
