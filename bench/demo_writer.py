"""The demo's writer: a process that drives the car and writes what it measures, in real time.

It does what a writer by the rules does: create a session; NewSession and Configuration to both streams before any
data; data formats by number; data, laps and events; EndOfSession to both; end the session. Every packet has a number.
Each 10 ms it sends what that time brought as one message: whole or not at all.

    python -m trackside.bench.demo_writer '{"address": "localhost:13579", "seconds": 30, ...}'
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import grpc

from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.bench.car import Car
from trackside.bench.ibt import Recording
from trackside.bench.ledger import Ledger
from trackside.bench.talk import listen_for_orders, tell
from trackside.bench.telemetry import Block, Drive, Group, Samples
from trackside.client.access import Access
from trackside.client.channel import open_channel
from trackside.client.errors import ClientError
from trackside.client.packets import PacketMaker
from trackside.client.writer import PacketStream, create_session, end_session, event_format, parameter_format

__all__ = ["BLOCK_NS", "DATA_SOURCE", "STREAM", "Writer", "main"]

DATA_SOURCE = "Demo"
STREAM = "Stream1"
MAIN_STREAM = ""
BLOCK_NS = 10_000_000
BEGIN_IN_NS = 200_000_000
TELL_EVERY_BLOCKS = 25
FLUSH_SECONDS = 60.0
"""A server that lost a process needs a few seconds; one whose log is away longer than this ends the demo."""

LEAD_IN_SECONDS = 8.0
"""The drive begins so long before the line, so that a short demonstration has a lap in it."""


class Writer:
    """One session from its creation to its end; ``run`` blocks for as long as the drive takes."""

    def __init__(self, channel: grpc.Channel, drive: Drive, drive_start_seconds: float) -> None:
        self._channel = channel
        self._drive = drive
        self._drive_start_seconds = drive_start_seconds
        self.begin = threading.Event()
        self.stop = threading.Event()
        self.ledger = Ledger()
        self.session_key = create_session(channel, DATA_SOURCE, f"Demo: {drive.name}")
        self._maker = PacketMaker(DATA_SOURCE, self.session_key)
        self._stream = PacketStream(channel, DATA_SOURCE, self.session_key)
        self._formats = [parameter_format(channel, DATA_SOURCE, group.identifiers) for group in drive.groups]
        self._event_formats = {
            kind.identifier: event_format(channel, DATA_SOURCE, kind.identifier) for kind in drive.event_kinds
        }
        self._behind_ns = 0
        self._epoch_ns = self._begin_ns = 0

    def run(self, seconds: float | None) -> None:
        """Write for ``seconds`` from ``begin`` on, or until ``stop``, then end the session. Raises ClientError."""
        self._introduce()
        self._tell_session()
        self.begin.wait()
        self._set_clock()
        blocks = None if seconds is None else round(seconds * 1e9) // BLOCK_NS
        number = 0
        while number != blocks and not self.stop.is_set():
            self._wait_for_end_of(number)
            self._write_block(number)
            number += 1
            if number % TELL_EVERY_BLOCKS == 0:
                self.tell_progress("progress")
        self._conclude()

    def tell_progress(self, kind: str) -> None:
        tell(
            kind,
            written=self.ledger.distinct,
            bytes=self.ledger.bytes,
            hash=self.ledger.hash(),
            behind_ms=self._behind_ns / 1e6,
            **self._stream.statistics(),
        )

    def _introduce(self) -> None:
        identifier = f"Demo: {self._drive.name}"
        self._write([(stream, self._maker.new_session(identifier)) for stream in (MAIN_STREAM, STREAM)])
        rates = [(group.parameters, _periodic_rate(group)) for group in self._drive.groups]
        self._write(
            [
                # Essential once: that copy is what a late reader gets, the other one is for readers of the stream.
                (stream, self._maker.configuration(rates, self._drive.event_kinds, essential=stream == MAIN_STREAM))
                for stream in (MAIN_STREAM, STREAM)
            ]
        )

    def _tell_session(self) -> None:
        shown = {parameter.identifier: parameter for group in self._drive.groups for parameter in group.parameters}
        tell(
            "session",
            session_key=self.session_key,
            streams=[STREAM],
            drive=self._drive.name,
            formats={
                str(number): group.identifiers for number, group in zip(self._formats, self._drive.groups, strict=True)
            },
            highlights={name: [shown[name].format_string, shown[name].units] for name in self._drive.highlights},
        )

    def _set_clock(self) -> None:
        """The drive begins a moment from now: time for who measures latencies to hear of it."""
        self._begin_ns, self._epoch_ns = time.monotonic_ns() + BEGIN_IN_NS, time.time_ns() + BEGIN_IN_NS
        tell("clock", begin_ns=self._begin_ns, epoch_ns=self._epoch_ns, block_ns=BLOCK_NS)

    def on_order(self, order: dict[str, Any]) -> None:
        if order.get("stop"):
            self.stop.set()
        self.begin.set()

    def _wait_for_end_of(self, block: int) -> None:
        """A block can be sent when its time has passed; a late one at once, and how late is told."""
        due_ns = self._begin_ns + (block + 1) * BLOCK_NS
        left_ns = due_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        self._behind_ns = max(time.monotonic_ns() - due_ns, 0)

    def _write_block(self, number: int) -> None:
        start = self._drive_start_seconds + number * (BLOCK_NS / 1e9)
        packets = self._packets_of(self._drive.block(start, BLOCK_NS / 1e9))
        if packets:
            self._write([(STREAM, packet) for packet in packets])

    def _packets_of(self, block: Block) -> list[pb.Packet]:
        packets = [
            self._data_packet(group, number, samples)
            for group, number, samples in zip(self._drive.groups, self._formats, block.samples, strict=True)
            if len(samples.times_ns)
        ]
        packets += [
            self._maker.marker(self._utc(lap.time_ns), f"Lap {lap.number}", value=lap.number) for lap in block.laps
        ]
        packets += [
            self._maker.event(self._event_formats[event.identifier], self._utc(event.time_ns), event.values)
            for event in block.occurrences
        ]
        return packets

    def _data_packet(self, group: Group, number: int, samples: Samples) -> pb.Packet:
        times = samples.times_ns + self._utc(0)
        if group.interval_ns is None:
            return self._maker.row_data(number, times, samples.values.T)
        return self._maker.periodic_data(number, int(times[0]), group.interval_ns, samples.values)

    def _utc(self, drive_ns: int) -> int:
        return self._epoch_ns + drive_ns - round(self._drive_start_seconds * 1e9)

    def _write(self, packets: list[tuple[str, pb.Packet]]) -> None:
        for _, packet in packets:
            self.ledger.note(packet)
        self._stream.write(packets)

    def _conclude(self) -> None:
        self._write([(stream, self._maker.end_of_session()) for stream in (STREAM, MAIN_STREAM)])
        self._stream.flush(FLUSH_SECONDS)
        end_session(self._channel, DATA_SOURCE, self.session_key)
        self._stream.close()


def _periodic_rate(group: Group) -> float | None:
    return group.rate_hz if group.interval_ns is not None else None


def open_drive(ibt: str | None, seed: int) -> tuple[Drive, float]:
    """The drive and where to begin in it. Raises BrokenRecording, OSError."""
    if ibt:
        return Recording(ibt), 0.0
    car = Car(seed)
    return car, round(car.first_lap_seconds() - LEAD_IN_SECONDS, 2)


def main(arguments: dict[str, Any]) -> int:
    drive, start = open_drive(arguments.get("ibt"), arguments.get("seed", 1))
    drive.block(start, 1.0)  # so that nothing is computed for the first time while it is measured
    with open_channel(arguments["address"], Access(*arguments.get("access", ()))) as channel:
        try:
            writer = Writer(channel, drive, start)
            listen_for_orders(writer.on_order)
            writer.run(arguments.get("seconds"))
        except ClientError as error:
            tell("failed", reason=str(error))
            return 1
        writer.tell_progress("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
