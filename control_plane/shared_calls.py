"""One running call for many who ask for the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["SharedCalls"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class SharedCalls(Generic[K, R]):
    """Calls under way, by what they are for. A caller that gives up does not end the call for the others."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[R]] = {}

    async def call(self, key: K, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """The result, or the exception, of the running call for ``key``; ``make`` makes it when there is none."""
        if (task := self._running.get(key)) is None:
            task = self._running[key] = asyncio.create_task(make())
            task.add_done_callback(lambda ended: self._ended(key, ended))
        return await asyncio.shield(task)

    def __len__(self) -> int:
        return len(self._running)

    def _ended(self, key: K, task: asyncio.Task[R]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # all callers may have gone; then nobody else looks at it
