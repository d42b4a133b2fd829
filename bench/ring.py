"""Throughput and round trip of a ring between two pinned processes, against ``multiprocessing.Pipe`` in the same run.

    throughput   core 0: writer --4 MiB ring | pipe--> core 1: reader        batches of 64 x 128 B, one MessagePack list each
    round trip   core 0: client <--two rings | pipe--> core 1: server        one batch there and back, spinning on rings

    python -m trackside.bench.ring [--small] [--json]

Both transports carry the same bytes from the same codec, and both readers end with a list of ``bytes``. Compare ratios of one run:
a virtual machine may be twice as fast in the next. The result hash says that all readers got the same, and what was sent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from trackside.bench.forks import fork
from trackside.shm.ring import RingReader, RingWriter, create_ring

__all__ = ["Measured", "main", "measure"]

BATCH_PACKETS = 64
PACKET_BYTES = 128
RING_BYTES = 4 << 20
BATCHES = [[Random(n).randbytes(PACKET_BYTES) for _ in range(BATCH_PACKETS)] for n in range(16)]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[bytes]).decode

Send = Callable[[bytes], None]
Receive = Callable[[], list[bytes]]  # one body or more; waits until there is one


class Measured(NamedTuple):
    """One transport: packets a second (median of the repeats), round trip in microseconds, and what arrived."""

    transport: str
    packets_per_s: float
    mb_per_s: float
    rtt_us_p50: float
    rtt_us_p99: float
    hash: str


class Sizes(NamedTuple):
    batches: int
    round_trips: int
    repeats: int


FULL = Sizes(batches=50_000, round_trips=10_000, repeats=3)
SMALL = Sizes(batches=2_000, round_trips=500, repeats=1)


# --- transports: each gives a (send, receive) pair to either side ------------------------------------------------------


class Channel(NamedTuple):
    """One direction; ``opened`` in each process, after the fork."""

    open_send: Callable[[], Send]
    open_receive: Callable[[], Receive]


def ring_channel(path: Path) -> Channel:
    create_ring(path, capacity_bytes=RING_BYTES, ring_id=path.name)

    def open_send() -> Send:
        writer = RingWriter(path)

        def send(body: bytes) -> None:
            while writer.try_publish([(1, BATCH_PACKETS, body)]) is None:
                os.sched_yield()

        return send

    def open_receive() -> Receive:
        reader = RingReader(path)

        def receive() -> list[bytes]:
            while not (records := reader.poll(bytes_max=1 << 18)):
                pass
            reader.commit(records[-1].end)
            return [record.body for record in records]

        return receive

    return Channel(open_send, open_receive)


def pipe_channel() -> Channel:
    receiving, sending = Pipe(duplex=False)
    return Channel(lambda: sending.send_bytes, lambda: lambda: [receiving.recv_bytes()])


@contextmanager
def ring_channels() -> Iterator[tuple[Channel, Channel]]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield ring_channel(Path(directory) / "there"), ring_channel(Path(directory) / "back")


@contextmanager
def pipe_channels() -> Iterator[tuple[Channel, Channel]]:
    yield pipe_channel(), pipe_channel()


# --- measurements ------------------------------------------------------------------------------------------------------


def throughput(channel: Channel, batches: int) -> tuple[float, int]:
    """Packets a second as the reader saw them, and the hash of what it got."""

    def write(_answer: Connection) -> None:
        send = channel.open_send()
        for number in range(batches):
            send(encode(BATCHES[number % len(BATCHES)]))

    def read(answer: Connection) -> None:
        receive = channel.open_receive()
        packets = hash_ = started = 0
        while packets < batches * BATCH_PACKETS:
            for body in receive():
                started = started or time.perf_counter_ns()
                batch = decode(body)
                packets += len(batch)
                hash_ = crc32(batch[packets // BATCH_PACKETS % BATCH_PACKETS], hash_)
        answer.send((packets / (time.perf_counter_ns() - started) * 1e9, hash_))

    result: tuple[float, int] = run_pair(write, read)
    return result


def round_trip(there: Channel, back: Channel, rounds: int) -> list[float]:
    """Microseconds of each batch there and back, made and taken apart on both sides."""

    def serve(_answer: Connection) -> None:
        receive, send = there.open_receive(), back.open_send()
        for _ in range(rounds):
            send(encode(decode(receive()[0])))

    def call(answer: Connection) -> None:
        send, receive = there.open_send(), back.open_receive()
        times = []
        for number in range(rounds):
            started = time.perf_counter_ns()
            send(encode(BATCHES[number % len(BATCHES)]))
            decode(receive()[0])
            times.append((time.perf_counter_ns() - started) / 1000)
        answer.send(times)

    result: list[float] = run_pair(serve, call)
    return result


def run_pair(first: Callable[[Connection], None], second: Callable[[Connection], None]) -> Any:
    """Forks both, each on a core of its own where there are two; returns what ``second`` answers."""
    receiving, sending = Pipe(duplex=False)
    cores = sorted(os.sched_getaffinity(0))
    pids = [fork(partial(role, sending), core=cores[core % len(cores)]) for core, role in enumerate((first, second))]
    answer = receiving.recv()
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("one end of the benchmark failed; its error stands above")
    return answer


def measure(sizes: Sizes) -> list[Measured]:
    """Both transports, alternating, so that a slow spell of the machine meets both."""
    channels = {"ring": ring_channels, "pipe": pipe_channels}
    rates: dict[str, list[float]] = {name: [] for name in channels}
    times: dict[str, list[float]] = {name: [] for name in channels}
    hashes: dict[str, set[int]] = {name: set() for name in channels}
    for _ in range(sizes.repeats):
        for name, make in channels.items():
            with make() as (there, _back):
                rate, hash_ = throughput(there, sizes.batches)
            with make() as (there, back):
                times[name] += round_trip(there, back, sizes.round_trips)
            rates[name].append(rate)
            hashes[name].add(hash_)
    return [_measured(name, rates[name], times[name], hashes[name]) for name in channels]


def _measured(name: str, rates: list[float], times: list[float], hashes: set[int]) -> Measured:
    rate = statistics.median(rates)
    percentiles = statistics.quantiles(times, n=100)
    return Measured(
        transport=name,
        packets_per_s=round(rate),
        mb_per_s=round(rate * PACKET_BYTES / 1e6),
        rtt_us_p50=round(percentiles[49], 2),
        rtt_us_p99=round(percentiles[98], 2),
        hash="+".join(f"{value:08x}" for value in sorted(hashes)),
    )


def expected_hash(batches: int) -> str:
    hash_ = 0
    for number in range(1, batches + 1):
        hash_ = crc32(BATCHES[(number - 1) % len(BATCHES)][number % BATCH_PACKETS], hash_)
    return f"{hash_:08x}"


# --- report ------------------------------------------------------------------------------------------------------------


def summary(sizes: Sizes, results: list[Measured]) -> dict[str, object]:
    ring, pipe = results
    return {
        "batch_packets": BATCH_PACKETS,
        "packet_bytes": PACKET_BYTES,
        "sizes": sizes._asdict(),
        "results": [result._asdict() for result in results],
        "throughput_ratio": round(ring.packets_per_s / pipe.packets_per_s, 2),
        "round_trip_ratio": round(pipe.rtt_us_p50 / ring.rtt_us_p50, 2),
        "hash_ok": all(result.hash == expected_hash(sizes.batches) for result in results),
    }


def table(report: dict[str, object], results: list[Measured]) -> str:
    lines = [
        f"{BATCH_PACKETS} packets of {PACKET_BYTES} B a batch, one MessagePack list each; two processes, two cores",
        "",
    ]
    lines.append(f"{'transport':<10}{'packets/s':>14}{'MB/s':>8}{'round trip p50':>17}{'p99 us':>9}  hash")
    for r in results:
        lines.append(
            f"{r.transport:<10}{r.packets_per_s:>14,.0f}{r.mb_per_s:>8,.0f}{r.rtt_us_p50:>14.2f} us{r.rtt_us_p99:>9.2f}  {r.hash}"
        )
    lines.append("")
    lines.append(
        f"ring : pipe  {report['throughput_ratio']} times the packets, a round trip {report['round_trip_ratio']} times as fast, "
        + ("hashes equal" if report["hash_ok"] else "HASHES DIFFER")
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trackside.bench.ring", description="A ring against a pipe.")
    parser.add_argument("--small", action="store_true", help="a second, for tests: shows that it works, not how fast")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    sizes = SMALL if given.small else FULL
    results = measure(sizes)
    report = summary(sizes, results)
    print(json.dumps(report) if given.json else table(report, results))
    return 0 if report["hash_ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
