"""What went wrong as a gRPC status: one place decides the code, and nothing ever reaches a client as UNKNOWN.

Services raise the errors below (or let LogAway pass); :class:`StatusInterceptor` ends the call.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from trackside.control_plane.log_port import LogAway
from trackside.data_plane.routing import BadName

__all__ = ["BadRequest", "Context", "NotReady", "StatusInterceptor", "TooMuch", "shorten"]

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # no subscript at run time

VALUE_CHARACTERS_MAX = 60


class BadRequest(ValueError):
    """The request cannot be meant: INVALID_ARGUMENT that names the field, the value and the limit."""

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(f"{field}: {shorten(value)} is not allowed, wanted {limit}")


class NotReady(Exception):
    """Not now, but perhaps soon: UNAVAILABLE with the reason."""


class TooMuch(Exception):
    """A bound of this server is reached: RESOURCE_EXHAUSTED with what to do."""


def shorten(value: object) -> str:
    """``value`` for a one-line message, however long it is."""
    text = repr(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """Code and text for an error with a story; None for one that should not have happened."""
    if isinstance(error, BadRequest | BadName):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, LogAway | NotReady):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    if isinstance(error, TooMuch):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, NotImplementedError):  # as the generated base classes raise it
        return grpc.StatusCode.UNIMPLEMENTED, "not served here"
    return None


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a service raises into the status of its call."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.unary_unary is not None:
            return _replace(handler, grpc.unary_unary_rpc_method_handler, _unary(handler.unary_unary, method))
        if handler.unary_stream is not None:
            return _replace(handler, grpc.unary_stream_rpc_method_handler, _stream(handler.unary_stream, method))
        return handler  # no service here takes a stream


def _replace(handler: Any, make: Callable[..., Handler], behaviour: Any) -> Handler:
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _unary(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - whatever it is becomes a status, and a traceback in the log
            await _end(context, error, method)

    return call


def _stream(behaviour: Any, method: str) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except Exception as error:  # noqa: BLE001 - whatever it is becomes a status, and a traceback in the log
            await _end(context, error, method)

    return call


async def _end(context: Context, error: Exception, method: str) -> None:
    """End the call with the status of ``error``. Cancellation is no Exception and passes by."""
    if isinstance(error, grpc.aio.AbortError):
        raise error  # has its status already
    if (status := status_of(error)) is None:
        log.error("%s failed", method, exc_info=error)
        status = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}".splitlines()[0]
    await context.abort(*status)
