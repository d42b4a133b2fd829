"""gRPC reflection on the public ports: which services there are and what their messages look like, for grpcurl and such.

The protocol has two names and one content: ``v1``, which newer tools ask for first, and ``v1alpha``, which the library
knows. Both are answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2

__all__ = ["METHODS", "SERVICES", "reflection_handler"]

SERVICES = (
    *(service.full_name for service in api_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in key_generator_pb2.DESCRIPTOR.services_by_name.values()),
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)
"""All that a client can discover."""

METHODS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))

Context = grpc.aio.ServicerContext[bytes, bytes]


def reflection_handler() -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
    """Serves one call, on raw bytes. It raises DecodeError for a question that cannot be read.

    What is described is what this process has imported.
    """
    servicer = reflection.aio.ReflectionServicer(SERVICES)

    async def parsed(questions: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for question in questions:
            yield reflection_pb2.ServerReflectionRequest.FromString(question)

    async def serve(questions: AsyncIterator[bytes], context: Context) -> None:
        async for answer in servicer.ServerReflectionInfo(parsed(questions), context):
            await context.write(answer.SerializeToString())

    return serve
