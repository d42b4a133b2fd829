"""Who may call a gateway: finds the caller of each call from its token, and says and counts when there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc

from trackside.data_plane import metrics
from trackside.data_plane.access import CALLER, Caller, Forbidden, Unauthenticated, require
from trackside.data_plane.refreshed import Refreshed
from trackside.data_plane.refusals import end
from trackside.data_plane.rights import EVERY, NEEDS
from trackside.data_plane.tokens_file import Tokens, TokensFile, TokensNotUsable
from trackside.data_plane.worker import Worker

__all__ = ["Guard"]

AUTHORIZATION = "authorization"

QUIET_SECONDS = 1.0
"""At most one line a token in the log for this long; the next one says how many calls there were."""

WITHDRAWN = "the token was withdrawn, or its rights have changed; call again"

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


@dataclass(slots=True)
class _Untold:
    calls: int = 0
    quiet_until: float = 0.0  # CLOCK_MONOTONIC


class Guard:
    """One a gateway; runs on its loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tokens: Tokens | None = None
        self._open: dict[asyncio.Task[Any], Caller] = {}
        self._withdrawn: set[asyncio.Task[Any]] = set()
        self._denied = metrics.denial_counters(worker.counters)
        self._untold: dict[str, _Untold] = {}  # by name of the token, empty for who has none
        path = worker.spec.settings.tokens_file
        self._is_on = bool(path)
        self.files = Refreshed(worker, "tokens", TokensFile(path).read_changed, TokensNotUsable, self._take)

    def guarded(self, method: str, handler: Handler) -> Handler:
        """``handler`` with its caller in ``CALLER``, when there is one who may call ``method``. What depends on the
        request is asked by the handler, with ``access.require``; here it gets its answer."""
        need = NEEDS[method]

        async def call(request: Any, context: Context) -> Any:
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            try:
                caller = self._open[task] = self._caller(context)
                CALLER.set(caller)
                if need.source == EVERY:
                    require("write", EVERY)
                return await handler(request, context)
            except Unauthenticated as error:
                await self._deny(grpc.StatusCode.UNAUTHENTICATED, str(error), method, context)
            except Forbidden as error:
                await self._deny(grpc.StatusCode.PERMISSION_DENIED, str(error), method, context)
            except asyncio.CancelledError:
                if task not in self._withdrawn:
                    raise
                await self._deny(grpc.StatusCode.UNAUTHENTICATED, WITHDRAWN, method, context)
            finally:
                self._open.pop(task, None)
                self._withdrawn.discard(task)

        return call if self._is_on else handler

    def _caller(self, context: Context) -> Caller:
        """Raises Unauthenticated."""
        assert self._tokens is not None, "nobody listens before there are some"
        found = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
        if len(found) != 1:
            what = f"{len(found)} of them" if found else "missing"
            raise Unauthenticated(f"authorization: {what}, wanted one `authorization: Bearer TOKEN` in the metadata")
        return self._tokens.caller(str(found[0]))

    async def _deny(self, status: grpc.StatusCode, reason: str, method: str, context: Context) -> None:
        """Counted each time, logged at most once a second and token: who is kept out must not fill the disk."""
        self._denied[status.name.lower()].add(1)
        caller = self._open.get(cast("asyncio.Task[Any]", asyncio.current_task()))
        untold = self._untold.setdefault(caller.name if caller else "", _Untold())
        untold.calls += 1
        now = time.monotonic()
        if now >= untold.quiet_until:
            self._worker.log("warn", "denied", reason=reason, method=method, peer=context.peer(), calls=untold.calls)
            untold.calls, untold.quiet_until = 0, now + QUIET_SECONDS
        await end(context, status, reason, context.trailing_metadata() or ())

    def _take(self, tokens: Tokens) -> None:
        """Calls of callers that are no more, or have other rights, end: they may call again and see."""
        self._tokens = tokens
        known = set(tokens.callers.values())
        for task, caller in self._open.items():
            if caller not in known:
                self._withdrawn.add(task)
                task.cancel()
