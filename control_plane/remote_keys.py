"""Keys from another server's key generator, for clusters that have one for all of them.

Every key is one unary call, with a bound. The channel connects at the first call and again by itself; nothing is kept
for later, and nothing is made here in its place: two sources of keys could give the same one.
"""

from __future__ import annotations

import asyncio

import grpc

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as services
from trackside.control_plane.remote_access import RemoteAccess, RemoteAccessFiles, RemoteAccessNotUsable
from trackside.control_plane.statuses import NotReady
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = ["REMOTE_SECONDS", "RemoteKeys"]

REMOTE_SECONDS = 5.0
"""How long one key may take."""


class RemoteKeys:
    """:class:`Keys` of the generator that the settings name. Raises NotReady that names it."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.remote_key_address
        self._way = _Way(settings)

    async def number(self) -> int:
        number = (await self._generate(messages.KEY_TYPE_ULONG)).ulong_key
        if not number:
            raise NotReady(f"{self._who()} answered without a ulong key")
        return number

    async def text(self) -> str:
        text = (await self._generate(messages.KEY_TYPE_STRING)).string_key
        if not text:
            raise NotReady(f"{self._who()} answered without a string key")
        return text

    async def close(self) -> None:
        await self._way.close()

    async def _generate(self, type: messages.KeyType) -> messages.GenerateUniqueKeyResponse:
        try:
            channel, metadata = await self._way.now()
        except RemoteAccessNotUsable as error:
            raise NotReady(f"{self._who()} is not asked: {error}") from None
        stub = services.UniqueKeyGeneratorServiceStub(channel)
        try:
            answer: messages.GenerateUniqueKeyResponse = await stub.GenerateUniqueKey(
                messages.GenerateUniqueKeyRequest(type=type), timeout=REMOTE_SECONDS, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotReady(f"{self._who()} did not answer within {REMOTE_SECONDS:g} s") from None
            raise NotReady(f"{self._who()}: {error.code().name}: {error.details()}") from None
        return answer

    def _who(self) -> str:
        return f"the remote key generator at {self._address}"


class _Way:
    """The channel to the generator, and what each call says of the caller; both anew when the files change. Files that
    cannot be used change nothing, and are one line in the log."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.remote_key_address
        self._files = RemoteAccessFiles(settings)
        self._looking = asyncio.Lock()
        self._access: RemoteAccess | None = None
        self._channel: grpc.aio.Channel | None = None
        self._reason = ""
        self._closing: set[asyncio.Task[None]] = set()

    async def now(self) -> tuple[grpc.aio.Channel, tuple[tuple[str, str], ...]]:
        """Raises RemoteAccessNotUsable where there never was anything good."""
        async with self._looking:
            await self._look()
        if self._channel is None or self._access is None:
            raise RemoteAccessNotUsable(self._reason)
        token = self._access.token
        return self._channel, (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._files.read_changed)
        except RemoteAccessNotUsable as error:
            self._reason = str(error)
            log_line("error", "control-plane", "files for the remote key generator not usable", reason=self._reason)
            return
        if found is None:
            return
        before, self._access = self._access, found
        if before is None or before[:-1] != found[:-1]:
            self._replace(_connected_when_used(self._address, found))

    def _replace(self, channel: grpc.aio.Channel) -> None:
        """Calls that are under way end over the channel that they began with."""
        if self._channel is not None:
            closing = asyncio.create_task(self._channel.close(REMOTE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._channel = channel


def _connected_when_used(address: str, access: RemoteAccess) -> grpc.aio.Channel:
    """A channel that tries again soon: the generator's return is noticed within a second."""
    backoff = {"initial_reconnect_backoff_ms": 100, "min_reconnect_backoff_ms": 100, "max_reconnect_backoff_ms": 1000}
    options = [(f"grpc.{name}", value) for name, value in backoff.items()]
    if not access.authority:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(access.authority, access.key or None, access.certificate or None)
    return grpc.aio.secure_channel(address, credentials, options=options)
