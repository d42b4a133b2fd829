"""The status port over plain HTTP: ``/metrics`` for Prometheus, ``/livez`` and ``/readyz`` for who restarts or routes.

Served by the control plane on its own loop, for reading only. What takes milliseconds (a scrape opens all shared memory)
runs on a thread, once for all who ask at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from trackside.control_plane.metrics import Population, families
from trackside.control_plane.prometheus_text import CONTENT_TYPE, encode
from trackside.control_plane.shared_calls import SharedCalls
from trackside.data_plane.spec import Settings
from trackside.shm.observe import NothingToObserve, observe

__all__ = ["StatusServer"]

STOP_SECONDS = 0.5

INDEX = """\
trackside

/metrics   everything that is counted, for Prometheus
/livez     200 while the control plane runs
/readyz    200 while the server serves, else 503 and the reason
"""


class StatusServer:
    """``population`` is called on the loop, once a scrape."""

    def __init__(self, settings: Settings, port: int, population: Callable[[], Population]) -> None:
        self._settings = settings
        self._port = port
        self._population = population
        self._scrapes: SharedCalls[str, bytes] = SharedCalls()
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/metrics", self._metrics),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS)

    async def start(self) -> None:
        """Listen on the port that the supervisor keeps for us. Raises OSError."""
        await self._runner.setup()
        # As the supervisor's own socket, which is bound and does not listen: else the port would be in use.
        address = self._settings.status_address
        await web.TCPSite(self._runner, address, self._port, reuse_address=True, reuse_port=True).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return _text(INDEX)

    async def _metrics(self, _: web.Request) -> web.Response:
        try:
            body = await self._scrapes.call("metrics", self._scrape)
        except NothingToObserve as error:
            return _text(f"{error}\n", 503)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _scrape(self) -> bytes:
        return await asyncio.to_thread(self._render, self._population())

    def _render(self, population: Population) -> bytes:
        return encode(families(observe(self._settings.run_dir), population, self._settings.data_dir))

    async def _livez(self, _: web.Request) -> web.Response:
        return _text("alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """As the supervisor judges it: every process ready and the log there."""
        try:
            server = await asyncio.to_thread(observe, self._settings.run_dir, counters=False)
        except NothingToObserve as error:
            return _text(f"not ready: {error}\n", 503)
        if server.state == "SERVING":
            return _text("ready\n")
        state = server.state.lower().replace("_", " ")
        return _text(f"{state}: {server.reason}\n" if server.reason else f"{state}\n", 503)


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, headers={"Cache-Control": "no-store"})
