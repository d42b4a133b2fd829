"""What went wrong as a gRPC status: one place decides the code, and nothing ever reaches a client as UNKNOWN.

Services raise the errors below (or let LogAway pass); :class:`StatusInterceptor` ends the call.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from trackside.control_plane.log_port import LogAway
from trackside.data_plane.access import Forbidden, Unauthenticated
from trackside.data_plane.control_calls import PASSED_METHODS
from trackside.data_plane.metrics import CONTROL_LIMITS, limit_counters
from trackside.data_plane.refusals import METHOD, Log, Refusals, end
from trackside.data_plane.routing import BadName
from trackside.shm.counters import CounterTable

__all__ = ["BadRequest", "Context", "Handler", "NotReady", "StatusInterceptor", "TooMuch", "shorten"]

log = logging.getLogger(__name__)


Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # no subscript at run time

VALUE_CHARACTERS_MAX = 60


class BadRequest(ValueError):
    """The request cannot be meant: INVALID_ARGUMENT that names the field, the value (None: missing) and the limit."""

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(f"{field}: {_fault(value)}, wanted {limit}")


class _Unreadable(Exception):
    """The bytes are not the method's message: INVALID_ARGUMENT, in the words that gateways use."""


class NotReady(Exception):
    """Not now, but perhaps soon: UNAVAILABLE with the reason."""


class TooMuch(Exception):
    """A bound of this server is reached: RESOURCE_EXHAUSTED that names it, its value and what to do.

    ``limit`` is one of ``metrics.CONTROL_LIMITS``.
    """

    def __init__(self, limit: str, value: int, asked: str) -> None:
        super().__init__(f"{limit} = {value}: {asked}")
        self.limit = limit


def _fault(value: object) -> str:
    return "missing" if value is None else f"{shorten(value)} is not allowed"


def shorten(value: object) -> str:
    """``value`` for a one-line message, however long it is."""
    text = repr(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """Code and text for an error with a story; None for one that should not have happened."""
    if isinstance(error, BadRequest | BadName | _Unreadable):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, Forbidden):
        return grpc.StatusCode.PERMISSION_DENIED, str(error)
    if isinstance(error, Unauthenticated):
        return grpc.StatusCode.UNAUTHENTICATED, str(error)
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
    """Turns what a service raises into the status of its call.

    It parses requests itself: grpc ends a call whose request it could not parse as UNKNOWN. Refusals of calls that a
    gateway passed on are counted and logged there, where their clients are known; others, and limits, here.
    """

    def __init__(self, counters: CounterTable, log: Log) -> None:
        self._refusals = Refusals(counters, log)
        self._limits = limit_counters(counters, CONTROL_LIMITS)

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
            return _replace(handler, grpc.unary_unary_rpc_method_handler, self._unary(handler, method))
        if handler.unary_stream is not None:
            return _replace(handler, grpc.unary_stream_rpc_method_handler, self._stream(handler, method))
        return handler  # no service here takes a stream

    def _unary(self, handler: Any, method: str) -> Any:
        async def call(request: bytes, context: Context) -> Any:
            try:
                return await handler.unary_unary(_parse(handler, request), context)
            except Exception as error:  # noqa: BLE001 - whatever it is becomes a status, and a traceback in the log
                await self._end(context, error, method)

        return call

    def _stream(self, handler: Any, method: str) -> Any:
        async def call(request: bytes, context: Context) -> AsyncIterator[Any]:
            try:
                async for response in handler.unary_stream(_parse(handler, request), context):
                    yield response
            except Exception as error:  # noqa: BLE001 - whatever it is becomes a status, and a traceback in the log
                await self._end(context, error, method)

        return call

    async def _end(self, context: Context, error: Exception, method: str) -> None:
        """End the call with the status of ``error``. Cancellation is no Exception and passes by."""
        if isinstance(error, grpc.aio.AbortError):
            raise error  # has its status already
        if (status := status_of(error)) is None:
            log.error("%s failed", method, exc_info=error)
            status = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, TooMuch):
            self._limits[error.limit].add(1)
        if method in PASSED_METHODS:
            await end(context, *status)
        METHOD.set(method.rpartition("/")[2])
        await self._refusals.refuse(context, *status)


def _replace(handler: Any, make: Callable[..., Handler], behaviour: Any) -> Handler:
    return make(behaviour, None, handler.response_serializer)


def _parse(handler: Any, request: bytes) -> Any:
    try:
        return handler.request_deserializer(request)
    except DecodeError as error:
        raise _Unreadable(f"request: not readable: {error}") from None
