"""How fast the forwarder sends a backlog: a local log full of small packets, and a Kafka beside it.

    ./dev run python tests/edge_rate.py                                    500,000 packets of 100 bytes
    ./dev run python tests/edge_rate.py --packets 100000 --size 1000 --streams 20

The forwarder runs in this process, so a profiler that is pointed at it shows what limits it. Prints packets and bytes a
second, and the share of one core that the forwarder took; what is missing to a whole one, it waited for Kafka.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from edge_kit import EdgeKit
from kafka_broker import running_broker
from log_contract import packet

RECORD_PACKETS = 500
BOUND_SECONDS = 600.0


def fill(edge: EdgeKit, options: argparse.Namespace) -> None:
    """Records in turns for each stream."""
    content = bytes(max(options.size - 20, 1))
    for number in range(options.packets // RECORD_PACKETS):
        edge.write([packet(content)] * RECORD_PACKETS, stream=f"s{number % options.streams}")


def forward(edge: EdgeKit) -> tuple[float, float]:
    """Seconds, and seconds of processor time, from the first packet on."""
    forwarder = edge.start()
    edge.drive(lambda: any(way.next_offset for way in forwarder._ways.values()), "the first transaction")
    begun, used, deadline = time.monotonic(), time.process_time(), time.monotonic() + BOUND_SECONDS
    while not forwarder.is_done():
        assert time.monotonic() < deadline, f"not within {BOUND_SECONDS:g} s: {forwarder.state()}"
        if not forwarder.do_work():
            time.sleep(0.002)
    return time.monotonic() - begun, time.process_time() - used


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=500_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of each")
    parser.add_argument("--streams", type=int, default=4, help="topics over which they are spread")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-rate-") as folder, running_broker() as broker:
        edge = EdgeKit(Path(folder) / "edge", broker.address)
        fill(edge, options)
        print(f"{options.packets} packets in the local log, to be forwarded by pid {os.getpid()}", flush=True)
        seconds, used = forward(edge)
        edge.close()
    rate = options.packets / seconds
    print(f"{rate:,.0f} packets/s, {rate * options.size / 1e6:.1f} MB/s, {used / seconds:.0%} of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
