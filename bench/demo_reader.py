"""The demo's reader: a process that reads the session back and keeps a ledger of what came.

It starts at the session's beginning and knows nothing of the writer but what a connection shows, and when packets were
due: a sample is due when its block of 10 ms ends, and its latency counts from then, not from when the writer got round
to sending it.

    python -m trackside.bench.demo_reader '{"address": "localhost:13579", "session_key": "...", ...}'
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.bench.ledger import Latencies, Ledger
from trackside.bench.talk import listen_for_orders, tell
from trackside.client.access import Access
from trackside.client.channel import open_channel
from trackside.client.errors import ClientError
from trackside.client.packets import decode_samples
from trackside.client.reader import PacketReader, session_start

__all__ = ["Clock", "Reader", "main"]

TELL_SECONDS = 0.25


class Clock:
    """When a packet was due, on this machine's monotonic clock, from the times in it (UTC)."""

    def __init__(self, *, begin_ns: int, epoch_ns: int, block_ns: int) -> None:
        self._begin_ns = begin_ns
        self._epoch_ns = epoch_ns
        self._block_ns = block_ns

    def due_ns(self, last_sample_utc_ns: int) -> int:
        """The end of the block in which the sample lies."""
        block = (last_sample_utc_ns - self._epoch_ns) // self._block_ns
        return self._begin_ns + (block + 1) * self._block_ns


class Reader:
    """``run`` reads until ``expect`` has said how many packets there are and they are there, or until ``close``."""

    def __init__(self, channel: grpc.Channel, arguments: dict[str, Any]) -> None:
        streams = arguments["streams"]
        start = session_start(channel, arguments["session_key"], streams)
        self._reader = PacketReader(channel, arguments["session_key"], streams, start)
        self._clock: Clock | None = None
        self._formats = {int(number): names for number, names in arguments["formats"].items()}
        self._highlights = frozenset(arguments["highlights"])
        self._expected: int | None = None
        self.ledger = Ledger()
        self.foreign = 0
        self.latencies = Latencies()
        self.recent = Latencies()
        self._values: dict[str, float] = {}

    def run(self) -> None:
        """Raises ClientError."""
        for items in self._reader.responses():
            now = time.monotonic_ns()
            if not self.ledger.distinct:
                tell("reading")
            for item in items:
                self._take(item, now)
            self._close_when_complete()

    def on_order(self, order: dict[str, Any]) -> None:
        """``clock``: when the drive began; ``expect``: how many packets there are; ``stop``."""
        if "clock" in order:
            self._clock = Clock(**order["clock"])
        elif "expect" in order:
            self.expect(order["expect"])
        else:
            self.close()

    def expect(self, packets: int) -> None:
        self._expected = packets
        self._close_when_complete()

    def close(self) -> None:
        self._reader.close()

    def tell_progress(self, kind: str) -> None:
        recent, self.recent = self.recent, Latencies()
        ledger = self.ledger
        tell(
            kind,
            distinct=ledger.distinct,
            duplicates=ledger.duplicates,
            changed=ledger.changed,
            foreign=self.foreign,
            first_missing=ledger.first_missing,
            bytes=ledger.bytes,
            hash=ledger.hash(),
            broken_calls=self._reader.broken_calls,
            latency=self.latencies.summary(),
            recent=recent.summary(),
            values=dict(self._values),
        )

    def _close_when_complete(self) -> None:
        if self._expected is not None and self.ledger.distinct >= self._expected:
            self._reader.close()

    def _take(self, item: api.PacketResponse, now_ns: int) -> None:
        packet = item.packet
        if not packet.id:  # not the writer's
            self.foreign += 1
            return
        known = self.ledger.distinct
        self.ledger.note(packet)
        if self.ledger.distinct > known:
            self._measure(packet, now_ns)

    def _measure(self, packet: pb.Packet, now_ns: int) -> None:
        samples = decode_samples(packet)
        if samples is None or not len(samples.times_ns):
            return
        if self._clock is not None:
            latency_ns = now_ns - self._clock.due_ns(int(samples.times_ns[-1]))
            self.latencies.record(latency_ns)
            self.recent.record(latency_ns)
        names = self._formats.get(samples.format, ()) if isinstance(samples.format, int) else samples.format
        for name, values in zip(names, samples.values, strict=False):
            if name in self._highlights:
                self._values[name] = float(values[-1])


def _tell_regularly(reader: Reader, ended: threading.Event) -> None:
    while not ended.wait(TELL_SECONDS):
        reader.tell_progress("progress")


def main(arguments: dict[str, Any]) -> int:
    ended = threading.Event()
    with open_channel(arguments["address"], Access(*arguments.get("access", ()))) as channel:
        try:
            reader = Reader(channel, arguments)
            listen_for_orders(reader.on_order)
            threading.Thread(target=_tell_regularly, args=(reader, ended), daemon=True).start()
            reader.run()
        except ClientError as error:
            tell("failed", reason=str(error))
            return 1
        finally:
            ended.set()
        reader.tell_progress("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
