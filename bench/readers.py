"""Very many readers, of which some never read: what the others notice, and what it costs.

::

    writer --2 packets/s--> gateway -> log -> gateway ==> readers: the latency of each delivery is measured
           --bulk---------> gateway -> log -> gateway ==> readers that never read: a process that is there in every
                                                          second phase

    python -m trackside.bench.readers [--readers 1000] [--silent 100] [--pairs 3] [--policy skip ...] [--json] [--small]
    python -m trackside.bench.readers --readers 3000 --tcp 3000 --silent 0 --pairs 1        thousands of connections

For each policy of slow readers, phases without and with the silent ones alternate; the load is the same in both. A
latency counts from just before a packet is written until a reader's process has it, that process's own work included, so
compare the two of a pair: their ratio, and the median over the pairs, is what a busy machine does not change. The bulk
is read by the silent ones alone, and they also read what the others read. Their buffers are full when a phase begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.bench.demo_server import DemoServer, Shape
from trackside.bench.ledger import Latencies
from trackside.bench.talk import Child
from trackside.bench.watch import MIB, PeakMemory, anonymous_bytes, counted, mebibytes
from trackside.shm.observe import observe

__all__ = ["FULL", "SMALL", "Load", "Phase", "main", "measure"]

POLICIES = ("catch-up", "skip", "end")
SOURCE, LIVE, BULK = "Bench", "live", "bulk"
BULK_BYTES = 64 << 10
ALL_READERS_BYTES = 256 * MIB
"""AllReadersBufferBytes, as it is by itself."""

WAIT_SECONDS = 60.0
OPEN_AT_A_TIME = 100
_API = "/ma.streaming.api.v1"


class Load(NamedTuple):
    """``silent`` of the ``readers`` never read. ``tcp``: TCP connections of the others. ``buffer_bytes``:
    ReaderBufferBytes of the server."""

    readers: int = 1000
    silent: int = 100
    tcp: int = 50
    pairs: int = 3
    seconds: float = 5.0
    packets_per_second: float = 2.0
    packet_bytes: int = 1024
    buffer_bytes: int = MIB
    shape: Shape = Shape()


FULL = Load()
SMALL = Load(readers=8, silent=2, tcp=2, pairs=1, seconds=0.5, buffer_bytes=256 << 10)


class Phase(NamedTuple):
    """One stretch of time with or without silent readers. ``missing``: deliveries that did not come.

    ``kept_bytes`` is what the gateways had unsent at its end, ``gateway_bytes`` the most that one had for itself.
    """

    policy: str
    silent: int
    delivered: int
    missing: int
    p50_ms: float
    p99_ms: float
    kept_bytes: int
    gateway_bytes: int


class Readers:
    """Those that read: all in this process, each with a connection of its own."""

    def __init__(self, address: str, load: Load) -> None:
        self._address, self._load = address, load
        count = load.readers - load.silent
        self.channels = [_channel(address) for _ in range(max(min(load.tcp, count), 1))]
        self.count = count
        self.phase = 0
        self.latencies = Latencies()
        self.delivered = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Until each of them has got something."""
        for first in range(0, self.count, OPEN_AT_A_TIME):
            numbers = range(first, min(first + OPEN_AT_A_TIME, self.count))
            ids = await asyncio.gather(*(_connect(self._channel(number), [LIVE]) for number in numbers))
            for number, connection in zip(numbers, ids, strict=True):
                self._tasks.append(asyncio.create_task(self._read(self._channel(number), connection)))

    def begin(self, phase: int) -> None:
        """What was written for another phase is not counted in this one."""
        self.phase, self.latencies, self.delivered = phase, Latencies(), 0

    def check(self) -> None:
        """Raises what made a reader end."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError("a read ended by itself")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self.channels))

    def _channel(self, number: int) -> grpc.aio.Channel:
        return self.channels[number % len(self.channels)]

    async def _read(self, channel: grpc.aio.Channel, connection: int) -> None:
        request = api.ReadPacketsRequest(connection=api.Connection(id=connection)).SerializeToString()
        call: Any = channel.unary_stream(f"{_API}.PacketReaderService/ReadPackets")
        async for response in call(request):
            now = time.monotonic_ns()
            for item in api.ReadPacketsResponse.FromString(response).response:
                if item.packet.id == self.phase:
                    self.delivered += 1
                    self.latencies.record(now - int.from_bytes(item.packet.content[:8], "little"))


class Writer:
    """The one load of all phases: numbered by phase, each packet with the time when it was written."""

    def __init__(self, address: str, load: Load) -> None:
        self._load = load
        self._channel = _channel(address)
        self._write: Any = self._channel.unary_unary(f"{_API}.PacketWriterService/WriteDataPacket")

    async def write(self, phase: int) -> None:
        content = time.monotonic_ns().to_bytes(8, "little") + bytes(self._load.packet_bytes - 8)
        await self._send(LIVE, pb.Packet(type="RowData", id=phase, content=content))

    async def bulk(self, size: int) -> None:
        for _ in range(0, size, BULK_BYTES):
            await self._send(BULK, pb.Packet(type="RowData", id=1, content=bytes(BULK_BYTES)))

    async def close(self) -> None:
        await self._channel.close()

    async def _send(self, stream: str, packet: pb.Packet) -> None:
        detail = api.DataPacketDetails(message=packet, data_source=SOURCE, stream=stream)
        request = api.WriteDataPacketRequest(detail=detail).SerializeToString()
        await self._write(request, timeout=WAIT_SECONDS, wait_for_ready=True)


class Bench:
    """One server, its readers that read, and phases one after another."""

    def __init__(self, server: DemoServer, address: str, load: Load) -> None:
        self.load = load
        self._server, self._address = server, address
        self._readers, self._writer = Readers(address, load), Writer(address, load)
        self._control = _channel(address)
        self._phase = 1
        self.memory = PeakMemory(observe(server.run_dir))

    async def open(self) -> int:
        """Until all that read have got something; returns how much more memory the gateways have for each of them."""
        await self._writer.write(1)
        await self._writer.bulk(BULK_BYTES)
        before = self._gateway_bytes()
        self._readers.begin(1)
        await self._readers.open()
        await self._wait_reads(self._readers.count)
        await self._until(lambda: self._readers.delivered >= self._readers.count, lambda: self._writer.write(1))
        return (self._gateway_bytes() - before) // max(self._readers.count, 1)

    async def close(self) -> None:
        self.memory.close()
        await self._readers.close()
        await self._writer.close()
        await self._control.close()

    async def phase(self, policy: str, silent: int) -> Phase:
        child = await self._silent(policy, silent) if silent else None
        self._phase += 1
        try:
            await self._writer.bulk(3 * self.load.buffer_bytes)
            self.memory.start_again()
            self._readers.begin(self._phase)
            written = await self._load()
            expected = written * self._readers.count
            await self._until(lambda: self._readers.delivered >= expected, None)
            kept = counted(observe(self._server.run_dir), "trackside_gateway_reader_bytes")
        finally:
            if child is not None:
                await asyncio.to_thread(child.end)
        await self._wait_reads(self._readers.count)
        latencies = self._readers.latencies
        return Phase(
            policy,
            silent,
            self._readers.delivered,
            expected - self._readers.delivered,
            latencies.percentile_ms(50) or 0.0,
            latencies.percentile_ms(99) or 0.0,
            kept,
            self.memory.of("gateway"),
        )

    async def _load(self) -> int:
        """Packets at even times, and bulk between them; returns how many packets."""
        count = max(1, int(self.load.seconds * self.load.packets_per_second))
        begun = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / self.load.packets_per_second - time.monotonic()))
            await self._writer.write(self._phase)
            await self._writer.bulk(BULK_BYTES)
        return count

    async def _silent(self, policy: str, count: int) -> Child:
        ids = await asyncio.gather(*(_connect(self._control, [LIVE, BULK]) for _ in range(count)))
        arguments = {"address": self._address, "connections": ids, "policy": policy}
        log_file = self._server.folder / "silent.log"
        child = Child("silent readers", "trackside.bench.silent_readers", arguments, log_file)
        try:
            await asyncio.to_thread(child.wait, "open", WAIT_SECONDS)
            await self._wait_reads(self._readers.count + count)
        except BaseException:
            await asyncio.to_thread(child.end)
            raise
        return child

    async def _wait_reads(self, count: int) -> None:
        await self._until(lambda: counted(observe(self._server.run_dir), "trackside_gateway_readers") == count, None)

    async def _until(self, condition: Any, between: Any) -> None:
        """Bounded; what did not come is seen in the report."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition() and time.monotonic() < deadline:
            self._readers.check()
            if between is not None:
                await between()
            await asyncio.sleep(0.1)

    def _gateway_bytes(self) -> int:
        return sum(anonymous_bytes(p.pid) for p in observe(self._server.run_dir).processes if p.role == "gateway")


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def _connect(channel: grpc.aio.Channel, streams: Sequence[str]) -> int:
    """A connection at the live end of some streams; its number."""
    details = api.ConnectionDetails(
        data_source=SOURCE, streams=streams, stream_offsets=[-1] * len(streams), exclude_main_stream=True
    )
    request = api.NewConnectionRequest(details=details).SerializeToString()
    call: Any = channel.unary_unary(f"{_API}.ConnectionManagerService/NewConnection")
    answer = await call(request, timeout=WAIT_SECONDS, wait_for_ready=True)
    return int(api.NewConnectionResponse.FromString(answer).connection.id)


def measure(load: Load, policies: Sequence[str]) -> dict[str, Any]:
    """A server of its own, all phases, and the report. Raises ServerFailed, ChildFailed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keys = {
        "TRACKSIDE_READER_BUFFER_BYTES": str(load.buffer_bytes),
        "TRACKSIDE_MAX_PACKET_BYTES": str(min(load.buffer_bytes, 4 * MIB - (64 << 10))),  # no buffer may be smaller
    }
    server = DemoServer(load.shape, environment=keys)
    try:
        started = server.start()
        return asyncio.run(_measure(server, f"127.0.0.1:{started.port}", load, policies))
    finally:
        server.stop()
        server.remove()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _measure(server: DemoServer, address: str, load: Load, policies: Sequence[str]) -> dict[str, Any]:
    bench = Bench(server, address, load)
    try:
        bytes_a_reader = await bench.open()
        await bench.phase("", 0)  # not reported: everything is there once
        idle_bytes = bench.memory.of("gateway")
        phases = []
        for policy in policies if load.silent else ("",):
            for _ in range(load.pairs):
                phases.append(await bench.phase(policy, 0))
                if load.silent:
                    phases.append(await bench.phase(policy, load.silent))
    finally:
        await bench.close()
    return _report(load, phases, idle_bytes, bytes_a_reader)


# --- report ------------------------------------------------------------------------------------------------------------


def _report(load: Load, phases: list[Phase], idle_bytes: int, bytes_a_reader: int) -> dict[str, Any]:
    policies = dict.fromkeys(phase.policy for phase in phases)
    return {
        "load": {**load._asdict(), "shape": load.shape._asdict()},
        "bytes_a_reader": bytes_a_reader,
        "gateway_idle_bytes": idle_bytes,
        "gateway_bound_bytes": _bound(load),
        "policies": {policy: _summary([p for p in phases if p.policy == policy], idle_bytes) for policy in policies},
        "phases": [phase._asdict() for phase in phases],
        "complete": all(not phase.missing for phase in phases),
    }


def _bound(load: Load) -> int:
    """What docs/overload.md says: responses, and their copy in the transport."""
    each = load.silent * load.buffer_bytes
    return 2 * min(each, ALL_READERS_BYTES + each // 8)


def _summary(phases: list[Phase], idle_bytes: int) -> dict[str, Any]:
    """Medians over the pairs; the ratio is that of each pair."""
    without, with_ = [p for p in phases if not p.silent], [p for p in phases if p.silent]
    found: dict[str, Any] = {"without": _median(without)}
    if with_:
        pairs = list(zip(without, with_, strict=True))
        found |= {
            "with": _median(with_),
            "p50_ratio": round(statistics.median(b.p50_ms / a.p50_ms for a, b in pairs), 2),
            "p99_ratio": round(statistics.median(b.p99_ms / a.p99_ms for a, b in pairs), 2),
            "kept_bytes": max(phase.kept_bytes for phase in with_),
            "gateway_growth_bytes": max(phase.gateway_bytes for phase in with_) - idle_bytes,
        }
    return found


def _median(phases: list[Phase]) -> dict[str, float]:
    return {
        "p50_ms": round(statistics.median(phase.p50_ms for phase in phases), 2),
        "p99_ms": round(statistics.median(phase.p99_ms for phase in phases), 2),
    }


def _table(report: dict[str, Any]) -> str:
    load = report["load"]
    packets = f"{load['packets_per_second']:g} packets/s of {load['packet_bytes']} B to each"
    idle, each = mebibytes(report["gateway_idle_bytes"]), report["bytes_a_reader"] / 1024
    lines = [
        f"{load['readers']} readers, {load['silent']} of them never read; {packets}; {load['tcp']} TCP connections",
        f"{load['pairs']} pairs of {load['seconds']:g} s; a gateway has {idle} with those that read, {each:.0f} KiB for each",
        "",
        f"{'':10}{'without':>20}{'with silent':>20}{'ratio':>14}{'kept for them':>15}{'gateway grew':>14}{'bound':>10}",
        f"{'policy':10}{'p50 / p99 ms':>20}{'p50 / p99 ms':>20}{'p50 / p99':>14}",
    ]
    for policy, found in report["policies"].items():
        line = f"{policy or '-':10}{_pair(found['without']):>20}"
        if "with" in found:
            ratio = f"{found['p50_ratio']:.2f} / {found['p99_ratio']:.2f}"
            line += f"{_pair(found['with']):>20}{ratio:>14}{mebibytes(found['kept_bytes']):>15}"
            line += f"{mebibytes(found['gateway_growth_bytes']):>14}{mebibytes(report['gateway_bound_bytes']):>10}"
        lines.append(line)
    lines += ["", "every delivery came" if report["complete"] else "DELIVERIES ARE MISSING"]
    return "\n".join(lines)


def _pair(found: dict[str, float]) -> str:
    return f"{found['p50_ms']:.1f} / {found['p99_ms']:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trackside.bench.readers", description="Very many readers, of which some never read."
    )
    parser.add_argument("--readers", type=int, help="all of them (1000)")
    parser.add_argument("--silent", type=int, help="those that never read, among them (100)")
    parser.add_argument("--tcp", type=int, help="TCP connections of those that read (50)")
    parser.add_argument("--pairs", type=int, help="phases without and with the silent ones, a policy (3)")
    parser.add_argument("--seconds", type=float, help="of one phase (5)")
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--policy", action="append", choices=POLICIES, help="again for several; all by default")
    parser.add_argument(
        "--small", action="store_true", help="some seconds, for tests: shows that it works, not how well"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    chosen = {key: getattr(given, key) for key in ("readers", "silent", "tcp", "pairs", "seconds")}
    load = (SMALL if given.small else FULL)._replace(
        **{key: value for key, value in chosen.items() if value is not None}
    )
    load = load._replace(shape=Shape(gateways=given.gateways))
    if not 0 <= load.silent < load.readers:
        parser.error(f"--silent {load.silent}: wanted 0 to {load.readers - 1}, since some have to read")
    report = measure(load, given.policy or POLICIES)
    print(json.dumps(report) if given.json else _table(report))
    return 0 if report["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
