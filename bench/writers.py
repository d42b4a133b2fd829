"""Writers at three times what the log takes: what it costs, who notices, and what each of them gets.

::

    writers, each a stream and a TCP connection --64 KiB packets--> gateway --ring--> producer --> log, slowed
    control probe, a process ------------------GetCurrentSessions, New- and CloseConnection--> gateway --> control plane

    python -m trackside.bench.writers [--seconds 10] [--writers 12] [--gateways 1] [--json] [--small]
    python -m trackside.bench.writers --broker 127.0.0.1:9092         Kafka on this machine, slowed

The log is slowed by stopping a process of it most of the time (SIGSTOP, SIGCONT): the producers, or the Kafka broker,
which has to be this user's. First everybody writes as fast as it is let, some packets ahead: that is what the log
takes. Then each writer offers its share of three times as much, at even times, whether it was let in or not. A writer's
share is what it got of what all got; 1.00 is fair.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc
import psutil

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.bench.demo_server import DemoServer, Shape
from trackside.bench.talk import Child
from trackside.bench.watch import MIB, PeakMemory, mebibytes
from trackside.shm.observe import observe

__all__ = ["FULL", "SMALL", "Load", "main", "measure"]

SOURCE = "Bench"
OVERLOAD = 3
WAIT_SECONDS = 60.0
CALL_SECONDS = 20.0
CALLS_AHEAD = 40
KAFKA_RUNS = 20

WAITING_BYTES = 64 * MIB
"""WaitingWritesBytes, as it is by itself."""

RING_BYTES = 16 * MIB
MESSAGE_BYTES_MAX = 6 * MIB


class Load(NamedTuple):
    """The log is not stopped for ``runs_seconds`` of each second, Kafka for twenty times as long."""

    writers: int = 12
    packet_bytes: int = 64 << 10
    seconds: float = 10.0
    runs_seconds: float = 0.02
    shape: Shape = Shape()


FULL = Load()
SMALL = Load(writers=3, packet_bytes=256 << 10, seconds=0.5)


class Slowed:
    """Processes that are stopped most of the time, by a thread, while this is entered."""

    def __init__(self, pids: Sequence[int], runs_seconds: float) -> None:
        self._pids = pids
        self._runs_seconds = runs_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._send(signal.SIGSTOP)
                self._ended.wait(1 - self._runs_seconds)
                self._send(signal.SIGCONT)
                self._ended.wait(self._runs_seconds)
        finally:
            self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Writer:
    """One stream on a TCP connection of its own. Counts what was let in, and what was said to the rest."""

    def __init__(self, address: str, number: int, load: Load) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._write: Any = self._channel.unary_unary("/ma.streaming.api.v1.PacketWriterService/WriteDataPacket")
        packet = pb.Packet(type="RowData", id=number, content=bytes(load.packet_bytes))
        detail = api.DataPacketDetails(message=packet, data_source=SOURCE, stream=f"writer{number}")
        self._request = api.WriteDataPacketRequest(detail=detail).SerializeToString()
        self.accepted = 0
        self.refused: Counter[str] = Counter()

    async def write(self) -> None:
        try:
            await self._write(self._request, timeout=CALL_SECONDS, wait_for_ready=True)
            self.accepted += 1
        except grpc.aio.AioRpcError as error:
            self.refused[f"{error.code().name} {(error.details() or '').partition(':')[0]}"] += 1

    async def write_as_let(self, until: float) -> None:
        """So many at a time that all rings are full whenever the log takes something."""

        async def one_after_another() -> None:
            while time.monotonic() < until:
                await self.write()

        await asyncio.gather(*(one_after_another() for _ in range(CALLS_AHEAD)))

    async def write_at(self, per_second: float, seconds: float) -> None:
        """At even times; returns when all of them are answered."""
        begun = time.monotonic()
        calls = []
        for number in range(max(1, int(per_second * seconds))):
            await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
            calls.append(asyncio.create_task(self.write()))
        await asyncio.gather(*calls)

    async def close(self) -> None:
        await self._channel.close()


class Overloaded(NamedTuple):
    """What the writers met. ``shares``: of each, 1 is fair."""

    taken_per_second: float
    offered_per_second: float
    accepted_per_second: float
    shares: list[float]
    refused: dict[str, int]


async def _overload(address: str, load: Load, slowed: Slowed, probe: Child, memory: PeakMemory) -> Overloaded:
    writers = [Writer(address, number, load) for number in range(load.writers)]
    await asyncio.gather(*(writer.write() for writer in writers))
    with slowed:
        taken = await _per_second(writers, load.seconds / 2, lambda writer, until: writer.write_as_let(until))
        memory.start_again()
        await asyncio.to_thread(_told, probe, "between")
        each = OVERLOAD * taken / load.writers
        for writer in writers:
            writer.accepted = 0
            writer.refused.clear()
        begun = time.monotonic()
        await asyncio.gather(*(writer.write_at(each, load.seconds) for writer in writers))
        seconds = time.monotonic() - begun
    await asyncio.gather(*(writer.close() for writer in writers))
    accepted = [writer.accepted for writer in writers]
    fair = max(sum(accepted), 1) / len(accepted)
    refused = sum((writer.refused for writer in writers), Counter[str]())
    return Overloaded(
        taken, OVERLOAD * taken, sum(accepted) / seconds, [count / fair for count in accepted], dict(refused)
    )


async def _per_second(writers: Sequence[Writer], seconds: float, write: Any) -> float:
    before, begun = sum(writer.accepted for writer in writers), time.monotonic()
    await asyncio.gather(*(write(writer, begun + seconds) for writer in writers))
    return (sum(writer.accepted for writer in writers) - before) / (time.monotonic() - begun)


def _told(probe: Child, name: str) -> dict[str, Any]:
    """The latencies of control calls since the last time."""
    probe.order(tell=name)
    return probe.wait(name, WAIT_SECONDS)


@contextlib.contextmanager
def _probe(server: DemoServer, address: str) -> Iterator[Child]:
    arguments = {"address": address, "data_source": SOURCE}
    probe = Child("control probe", "trackside.bench.control_probe", arguments, server.folder / "probe.log")
    try:
        probe.wait("ready", WAIT_SECONDS)
        yield probe
    finally:
        probe.end()


def _broker_pids(broker: str) -> list[int]:
    """The process of this machine that listens there. Raises ValueError when none of this user's does."""
    port = int(broker.rpartition(":")[2])
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            listens = [
                c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
            ]
            if listens:
                return [process.pid]
    raise ValueError(f"--broker {broker}: no process of this user listens there; it has to be here to be slowed")


def measure(load: Load, broker: str = "") -> dict[str, Any]:
    """A server of its own, idle and overloaded, and the report. Raises ServerFailed, ChildFailed, ValueError."""
    pids = _broker_pids(broker) if broker else []
    runs_seconds = load.runs_seconds * (KAFKA_RUNS if broker else 1)
    server = DemoServer(load.shape, broker=broker)
    try:
        started = server.start()
        address = f"127.0.0.1:{started.port}"
        pids = pids or [process.pid for process in started.processes if process.role == "producer"]
        memory = PeakMemory(observe(server.run_dir))
        with _probe(server, address) as probe:
            time.sleep(load.seconds / 4)
            _told(probe, "warm")
            time.sleep(load.seconds / 2)
            idle, before = _told(probe, "idle"), dict(memory.bytes)
            found = asyncio.run(_overload(address, load, Slowed(pids, runs_seconds), probe, memory))
            overloaded = _told(probe, "overloaded")
        memory.close()
        return _report(load, broker, found, idle, overloaded, before, memory.bytes)
    finally:
        server.stop()
        server.remove()


# --- report ------------------------------------------------------------------------------------------------------------


def _report(
    load: Load,
    broker: str,
    found: Overloaded,
    idle: dict[str, Any],
    overloaded: dict[str, Any],
    before: dict[str, int],
    peak: dict[str, int],
) -> dict[str, Any]:
    bound = _bounds(load)
    grown = {name: peak[name] - before[name] for name in peak if name.rpartition("-")[0] in bound}
    return {
        "load": {**load._asdict(), "shape": load.shape._asdict()},
        "log": "Kafka" if broker else "local",
        "writers": found._asdict(),
        "share_min": round(min(found.shares), 2),
        "share_max": round(max(found.shares), 2),
        "memory": {
            name: {"grown_bytes": size, "bound_bytes": bound[name.rpartition("-")[0]]} for name, size in grown.items()
        },
        "control_calls": {
            name: {"idle": _rounded(idle["calls"][name]), "overloaded": _rounded(overloaded["calls"][name])}
            for name in idle["calls"]
        },
        "control_calls_failed": [*idle["failed"], *overloaded["failed"]],
    }


def _bounds(load: Load) -> dict[str, int]:
    """What docs/overload.md says that a process may have on top."""
    arriving = load.writers * MESSAGE_BYTES_MAX
    return {"gateway": 3 * WAITING_BYTES + arriving, "producer": 2 * RING_BYTES * load.shape.gateways + 32 * MIB}


def _rounded(summary: dict[str, Any]) -> dict[str, Any]:
    return {"count": summary["count"], "p50_ms": _round(summary["p50_ms"]), "p99_ms": _round(summary["p99_ms"])}


def _round(value: float | None) -> float:
    return round(value or 0.0, 2)


def _table(report: dict[str, Any]) -> str:
    load, found = report["load"], report["writers"]
    rate = load["packet_bytes"] / MIB
    stopped = 1 - load["runs_seconds"] * (KAFKA_RUNS if report["log"] == "Kafka" else 1)
    taken, offered, accepted = (found[f"{name}_per_second"] * rate for name in ("taken", "offered", "accepted"))
    writers = f"{load['writers']} writers of {load['packet_bytes'] >> 10} KiB packets"
    lines = [
        f"{writers}, {report['log']} log, stopped {stopped:.0%} of the time; {load['seconds']:g} s",
        f"the log takes {taken:.1f} MiB/s; offered {offered:.1f}, accepted {accepted:.1f}",
        f"refused: {_refused(found['refused'])}",
        f"shares of the writers: {report['share_min']:.2f} to {report['share_max']:.2f} of a fair one",
        "",
        f"{'process':20}{'grew':>12}{'bound':>12}",
    ]
    for name, memory in report["memory"].items():
        lines.append(f"{name:20}{mebibytes(memory['grown_bytes']):>12}{mebibytes(memory['bound_bytes']):>12}")
    lines += ["", f"{'p50 / p99 ms':20}{'idle':>18}{'overloaded':>18}"]
    for name, calls in report["control_calls"].items():
        lines.append(f"{name:20}{_pair(calls['idle']):>18}{_pair(calls['overloaded']):>18}")
    lines.append(f"control calls that failed: {len(report['control_calls_failed'])}")
    return "\n".join(lines)


def _refused(refused: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(refused.items())) or "none"


def _pair(calls: dict[str, float]) -> str:
    return f"{calls['p50_ms']:.1f} / {calls['p99_ms']:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trackside.bench.writers", description="Writers at three times what a slowed log takes."
    )
    parser.add_argument("--broker", default="", metavar="HOST:PORT", help="Kafka on this machine; else the local log")
    parser.add_argument("--writers", type=int)
    parser.add_argument("--seconds", type=float, help="of overload (10)")
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--producers", type=int, default=1)
    parser.add_argument(
        "--small", action="store_true", help="some seconds, for tests: shows that it works, not how well"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    chosen = {key: value for key in ("writers", "seconds") if (value := getattr(given, key)) is not None}
    load = (SMALL if given.small else FULL)._replace(**chosen)
    load = load._replace(shape=Shape(gateways=given.gateways, producers=given.producers))
    try:
        report = measure(load, given.broker)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(report) if given.json else _table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
