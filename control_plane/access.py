"""Who may make a control call: the caller as the gateway tells it, and the right that the method needs.

One place for all services, from the table ``data_plane/rights.py``; what depends on state (whose session, whose
connection) is looked up by functions that the services give.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import msgspec

from trackside.control_plane.connections import ConnectionTable
from trackside.control_plane.statuses import Context, Handler
from trackside.data_plane.access import (
    CALLER,
    CALLER_METADATA,
    Caller,
    Grant,
    Unauthenticated,
    require,
    require_own,
)
from trackside.data_plane.rights import CONNECTION, NEEDS, SESSION, Need

__all__ = ["AccessInterceptor", "SourceOfSession"]

SourceOfSession = Callable[[str], Awaitable[str | None]]
"""The data source of a session, by its key; None when there is no such session. May raise what the services raise."""

INTERNAL = "/trackside.internal.v1."
"""Gateways ask for themselves there; they pass no client's call on to it."""

CALLERS_KEPT = 1000


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Stands behind the StatusInterceptor, which makes statuses of what is raised here. Only where tokens are asked for:
    then a call without a caller is refused, too."""

    def __init__(self, connections: ConnectionTable, source_of_session: SourceOfSession) -> None:
        self._connections = connections
        self._source_of_session = source_of_session
        self._callers: dict[bytes, Caller] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(INTERNAL):
            return handler  # type: ignore[no-any-return]
        need = NEEDS[method]

        async def call(request: Any, context: Context) -> Any:
            CALLER.set(self._caller(context))
            await self._check(need, request)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    def _caller(self, context: Context) -> Caller:
        """Raises Unauthenticated."""
        found = [value for key, value in context.invocation_metadata() or () if key == CALLER_METADATA]
        if len(found) != 1 or not isinstance(found[0], bytes):
            raise Unauthenticated("no gateway says who calls")
        if (known := self._callers.get(found[0])) is None:
            if len(self._callers) >= CALLERS_KEPT:
                self._callers.clear()
            known = self._callers[found[0]] = Caller(msgspec.msgpack.decode(found[0], type=Grant))
        return known

    async def _check(self, need: Need, request: Any) -> None:
        """Raises Forbidden. What a request leaves out is the service's to refuse."""
        if need.right is None:
            return
        if need.source == SESSION:
            data_source = await self._source_of_session(request.session_key)
            if data_source is not None:
                require(need.right, data_source)
        elif need.source == CONNECTION:
            self._check_connection(request.connection.id)
        else:
            require(need.right, _field(request, need.source))

    def _check_connection(self, id: int) -> None:
        if (opened := self._connections.find(id)) is not None:
            require_own(opened.owner)


def _field(request: Any, path: str) -> str:
    for name in path.split("."):
        request = getattr(request, name)
    return str(request)
