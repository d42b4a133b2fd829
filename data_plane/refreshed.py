"""What an operator's files hold, taken anew when they change, in a process that serves on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from trackside.data_plane.worker import Worker
from trackside.shm.liveness import WorkerState

__all__ = ["LOOK_SECONDS", "Refreshed"]

LOOK_SECONDS = 1.0
"""How often the files are looked at."""

T = TypeVar("T")


class Refreshed(Generic[T]):
    """``read`` gives what the files hold when it is new, else None, or raises ``unusable``, once for each change: then
    what was there before stays in use. It may block, and runs in a thread; ``take`` runs on the loop."""

    def __init__(
        self,
        worker: Worker,
        what: str,
        read: Callable[[], T | None],
        unusable: type[Exception],
        take: Callable[[T], None],
    ) -> None:
        self._worker = worker
        self._what = what
        self._read = read
        self._unusable = unusable
        self._take = take
        self._there = False

    async def wait_there(self) -> None:
        """Until there is something good. It was when the server started; a successor that finds it otherwise says why
        it does not serve, and waits."""
        await self._look()
        while not self._there:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def keep_fresh(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._read)
        except self._unusable as error:
            kept = "; those from before stay in use" if self._there else ""
            self._worker.log("error", f"{self._what} not usable", reason=f"{error}{kept}")
            if not self._there:
                self._worker.become(WorkerState.DEGRADED, f"{self._what} not usable: {error}")
            return
        if found is not None:
            if self._there:
                self._worker.log("info", f"{self._what} reloaded")
            self._there = True
            self._take(found)
