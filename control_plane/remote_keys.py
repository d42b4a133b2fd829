"""Keys from another server's key generator, for clusters that have one for all of them.

Every key is one unary call, with a bound. The channel connects at the first call and again by itself; nothing is kept
for later, and nothing is made here in its place: two sources of keys could give the same one.
"""

from __future__ import annotations

import grpc

from ma.streaming.key_generator.v1 import key_generator_pb2 as messages
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc as services
from trackside.control_plane.statuses import NotReady

__all__ = ["REMOTE_SECONDS", "RemoteKeys"]

REMOTE_SECONDS = 5.0
"""How long one key may take."""


class RemoteKeys:
    """:class:`Keys` of the generator at ``address`` (host:port). Raises NotReady that names it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.aio.Channel | None = None

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
        if self._channel is not None:
            await self._channel.close()

    async def _generate(self, type: messages.KeyType) -> messages.GenerateUniqueKeyResponse:
        if self._channel is None:
            self._channel = _connected_when_used(self._address)
        stub = services.UniqueKeyGeneratorServiceStub(self._channel)
        try:
            answer: messages.GenerateUniqueKeyResponse = await stub.GenerateUniqueKey(
                messages.GenerateUniqueKeyRequest(type=type), timeout=REMOTE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotReady(f"{self._who()} did not answer within {REMOTE_SECONDS:g} s") from None
            raise NotReady(f"{self._who()}: {error.code().name}: {error.details()}") from None
        return answer

    def _who(self) -> str:
        return f"the remote key generator at {self._address}"


def _connected_when_used(address: str) -> grpc.aio.Channel:
    """A channel that tries again soon: the generator's return is noticed within a second."""
    backoff = {"initial_reconnect_backoff_ms": 100, "min_reconnect_backoff_ms": 100, "max_reconnect_backoff_ms": 1000}
    return grpc.aio.insecure_channel(address, options=[(f"grpc.{name}", value) for name, value in backoff.items()])
