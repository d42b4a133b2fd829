"""The control-plane process: the services of ``server.py`` over links of its own.

Started as ``python -P -m trackside.control_plane.process FD``, as any worker. :class:`LinkedLog` is the log port that the
services are written against, backed by rings to the producers and consumers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import uvloop

from trackside.control_plane.keys import KeyFileDamaged
from trackside.control_plane.log_port import Append, LogAway, LoggedEntry, LoggedRun
from trackside.control_plane.server import ControlPlane
from trackside.control_plane.status_server import StatusServer
from trackside.data_plane.data_dir import DataDirDamaged
from trackside.data_plane.frame import Frame
from trackside.data_plane.log import LogState, Partition, Watermarks
from trackside.data_plane.peer import LogUnavailable, Parcel, Peer, RingFull
from trackside.data_plane.record import Record, Route
from trackside.data_plane.worker import Worker, play
from trackside.protos.internal_pb2 import ReadPacketsResponseView
from trackside.shm.liveness import WorkerState
from trackside.shm.ring import RingView

WATCHED_MAX = 1000
"""Data sources whose topics are kept fresh at a time."""

__all__ = ["LinkedLog", "run"]

LOOK_SECONDS = 0.005
"""How often other peers' rings are looked at while their commit is waited for: nobody rings us for theirs."""

PARKS_LOOK_SECONDS = 0.05
"""How often the news of parks is looked at: it comes some times a second while there are any."""


class LinkedLog:
    """``LogPort`` over the links of this process."""

    def __init__(self, worker: Worker, peer: Peer) -> None:
        self._peer = peer
        self._watched: dict[str, bool] = {}  # data sources, least recently asked first
        self._down_rings = {
            producer.name: [RingView(link.down) for link in worker.spec.all_links if link.worker == producer.name]
            for producer in peer.producers
        }

    async def append(self, data_source: str, appends: Sequence[Append], timeout: float) -> None:
        producer = self._peer.producer_of(data_source)
        state = producer.log_state()
        if not state.available:
            raise LogAway(state.reason)
        try:
            await self._peer.append({producer: Parcel([_record(appends)])}, timeout)
        except (RingFull, LogUnavailable) as error:
            raise LogAway(str(error)) from None

    async def append_again(self, topic: str, appends: Sequence[Append], timeout: float) -> dict[int, str] | None:
        producer = self._peer.producer_of(topic)
        try:
            (stretch,) = await self._peer.append({producer: Parcel([_record(appends)])}, timeout)
        except (RingFull, LogUnavailable) as error:
            raise LogAway(str(error)) from None
        if not await self._peer.wait_logged({producer: dict.fromkeys(stretch.topics, stretch.end)}, timeout):
            return None  # parked is not logged: it is no dead letter any more only when the log has it
        return {refused.packet: refused.reason for refused in producer.refusals if refused.end == stretch.end}

    async def watermarks(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Watermarks]:
        try:
            return await self._peer.watermarks(partitions, timeout)
        except LogUnavailable as error:
            raise LogAway(str(error)) from None

    async def topics(self, data_source: str, timeout: float) -> Mapping[str, int]:
        """Watches the data source from the first question on, so that later answers are at hand."""
        self._keep_watching(data_source)
        if self._peer.topics_of(data_source) is None:
            await self._first_topics(data_source, timeout)
        return self._peer.topics_of(data_source) or {}

    async def topics_now(self, data_source: str, timeout: float) -> Mapping[str, int]:
        try:
            return await self._peer.topics_now(data_source, timeout)
        except LogUnavailable as error:
            raise LogAway(str(error)) from None

    def _keep_watching(self, data_source: str) -> None:
        """The least recently asked is let go when there are many: invented names cost a bounded amount."""
        if self._watched.pop(data_source, None) is None:
            self._peer.watch_topics(data_source)
        self._watched[data_source] = True
        while len(self._watched) > WATCHED_MAX:
            oldest = next(iter(self._watched))
            del self._watched[oldest]
            self._peer.unwatch_topics(oldest)

    async def _first_topics(self, data_source: str, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while self._peer.topics_of(data_source) is None:
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            consumer = self._peer.consumer_of(data_source)
            raise LogAway(consumer.log_state().reason or f"{consumer.name} did not answer in {timeout:g} s") from None

    async def wait_logged_so_far(
        self, data_source: str, own_topics: Callable[[list[str]], list[str]], timeout: float
    ) -> list[str]:
        producer = self._peer.producer_of(data_source)
        wanted = [(ring, ring.publish_position) for ring in self._down_rings[producer.name]]
        parked: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while not all(ring.commit_position >= position for ring, position in wanted):
                    await asyncio.sleep(LOOK_SECONDS)
                self._peer.take_news()  # of parks, which were told before that commit
                while parked := own_topics(producer.parked_topics()):
                    await asyncio.sleep(PARKS_LOOK_SECONDS)
        except TimeoutError:
            return parked or [f"the rings to {producer.name}"]
        return []

    async def follow(self, partition: Partition, offset: int) -> AsyncGenerator[LoggedRun, None]:
        """Bounded by how fast the fold takes it: frames wait in memory only while the partition is behind its end."""
        runs: asyncio.Queue[LoggedRun] = asyncio.Queue()

        def on_frame(frame: Frame, first: int, restarted: bool) -> None:
            if restarted:
                runs.put_nowait(LoggedRun(0, (), restarted=True, log=frame.log))
            else:
                runs.put_nowait(LoggedRun(frame.next_offset, _entries(frame, first), log=frame.log))

        reader = self._peer.readers.open(on_frame=on_frame)
        self._peer.readers.join(reader, partition, offset)
        try:
            while True:
                yield await runs.get()
        finally:
            self._peer.readers.close(reader)

    def state(self) -> LogState:
        """The log as all its workers see it: the first that is away says why."""
        states = [proxy.log_state() for proxy in (*self._peer.producers, *self._peer.consumers)]
        return next((state for state in states if not state.available), LogState(True))


def _record(appends: Sequence[Append]) -> Record:
    routes = [Route(*a.partition, a.key, a.essentials, a.identity, a.data_source) for a in appends]
    return Record(routes, list(range(len(appends))), [append.packet for append in appends])


def _entries(frame: Frame, first: int) -> list[LoggedEntry]:
    entries = []
    packets = ReadPacketsResponseView.FromString(frame.elements).response
    for (offset, (key, identity), _), view in zip(frame.entries(), packets, strict=True):
        if offset >= first:
            time_ns = view.submit_time.seconds * 1_000_000_000 + view.submit_time.nanos
            entries.append(LoggedEntry(offset, time_ns, key, identity, view.packet))
    return entries


async def _serve(worker: Worker) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    if worker.stopping:  # the signal came before
        stopping.set()
    peer = Peer(worker)
    peer.start()

    def report(reason: str) -> None:
        if not worker.stopping:
            worker.become(WorkerState.DEGRADED if reason else WorkerState.READY, reason)

    spec = worker.spec
    log = LinkedLog(worker, peer)
    try:
        control_plane = ControlPlane(
            log,
            spec.settings,
            spec.control_socket,
            spec.epoch,
            instance=spec.instance,
            on_state=report,
            counters=worker.counters,
            log=worker.log,
        )
    except KeyFileDamaged as error:
        raise DataDirDamaged(str(error)) from None  # the exit code that forbids a restart
    status = StatusServer(spec.settings, spec.status_port, control_plane.population)
    await status.start()  # first: who is told that the server is ready may scrape it
    await control_plane.start()
    for failed in (control_plane.failed, peer.failed):
        failed.add_done_callback(lambda _: stopping.set())
    await stopping.wait()
    for failed in (control_plane.failed, peer.failed):
        if failed.done():
            failed.result()
    worker.stopping = True
    worker.become(WorkerState.DRAINING)
    await status.stop()
    await control_plane.stop(grace=1.0)
    peer.stop()


def run(worker: Worker) -> None:
    """Play the role until SIGTERM; ``worker.play`` calls it."""
    uvloop.run(_serve(worker))


if __name__ == "__main__":
    play(run)
