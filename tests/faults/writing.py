"""The writers: one thread a lane, which knows of each packet whether it was accepted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from faults.lanes import Lane, make_packet
from faults.pauses import Pause

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc

__all__ = ["Fate", "Writer", "open_channel"]

CALL_SECONDS = 30.0
AGAIN_SECONDS = 0.02
"""After a failed call: a gateway that is being started again refuses at once."""

REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
"""A server that answers so has kept nothing of the request."""


def open_channel(address: str) -> grpc.Channel:
    """A connection of its own: any gateway may get it. Connects again quickly after a failure."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    return grpc.insecure_channel(address, options=options)


class Fate:
    """What became of a lane's numbers: accepted, refused by the server (so nothing may be left of them), or unknown.

    Ranges [first, end), in order.
    """

    def __init__(self) -> None:
        self.accepted: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []
        self.count = 0
        self.forgiven_below = 0
        """Numbers below need not be there any more: somebody has deleted their topic."""

    def accept(self, first: int, end: int) -> None:
        _extend(self.accepted, first, end)
        self.count += end - first

    def refuse(self, first: int, end: int) -> None:
        _extend(self.refused, first, end)


def _extend(ranges: list[tuple[int, int]], first: int, end: int) -> None:
    if first == end:
        return
    if ranges and ranges[-1][1] == first:
        ranges[-1] = ranges[-1][0], end
    else:
        ranges.append((first, end))


class Writer:
    """Writes a lane from ``start`` to ``stop``; ``finish`` writes a last packet, behind which nothing is missing."""

    def __init__(self, address: str, lane: Lane) -> None:
        self.lane = lane
        self.fate = Fate()
        self.statuses: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}  # the first text of each status
        self.pause = Pause()
        self._address = address
        self._next = 1
        self._stopping = threading.Event()
        self._channels = [open_channel(address) for _ in range(lane.channels)]
        self._turn = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.pause.begin()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def forgive(self) -> None:
        """What was written up to now need not be there; called by another thread."""
        self.fate.forgiven_below = self._next

    def finish(self, deadline: float) -> bool:
        """The last packet, in the log when this returns True; False when that took longer than until ``deadline``."""
        while time.monotonic() < deadline:
            if self._call(self._unary, "log"):
                return True
            time.sleep(0.1)
        return False

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _run(self) -> None:
        call = self._stream if self.lane.messages else self._unary
        wait = 1 / self.lane.calls_a_second
        while not self._stopping.is_set():
            if self._call(call, self.lane.acknowledge):
                self.pause.end()
                self._stopping.wait(wait)
            else:
                self._stopping.wait(AGAIN_SECONDS)
        self.pause.stop()

    def _call(self, call: Callable[..., int], acknowledge: str) -> bool:
        """One call; returns whether it was OK."""
        stub = api_pb2_grpc.PacketWriterServiceStub(self._channels[self._turn])
        first = self._next
        try:
            self._next = call(stub, first, {"timeout": CALL_SECONDS, "metadata": (("trackside-ack", acknowledge),)})
        except grpc.RpcError as error:
            self._on_failure(error, first)
            return False
        self.fate.accept(first, self._next)
        self._turn = (self._turn + 1) % len(self._channels)
        return True

    def _on_failure(self, error: Any, first: int) -> None:
        status, text = error.code(), error.details() or ""
        self.statuses[status.name] += 1
        self.reasons.setdefault(status.name, text)
        size = max(self.lane.messages, 1) * self.lane.packets
        self._next = first + size
        messages = dict(error.trailing_metadata() or ()).get("trackside-accepted")
        if messages is not None:
            told = first + int(messages) * self.lane.packets
            self.fate.accept(first, told)
            self.fate.refuse(told, self._next)
        elif status in REFUSALS:
            self.fate.refuse(first, self._next)
        self._reconnect()

    def _reconnect(self) -> None:
        """To a gateway that the kernel chooses anew."""
        self._channels[self._turn].close()
        self._channels[self._turn] = open_channel(self._address)

    # -- calls: write from ``first`` on, return the number behind the last -----------------------------------------------

    def _unary(self, stub: Any, first: int, call: dict[str, Any]) -> int:
        stub.WriteDataPacket(api_pb2.WriteDataPacketRequest(detail=self._detail(first)), **call)
        return first + 1

    def _stream(self, stub: Any, first: int, call: dict[str, Any]) -> int:
        stub.WriteDataPackets(self._messages(first), **call)
        return first + self.lane.messages * self.lane.packets

    def _messages(self, first: int) -> Iterator[api_pb2.WriteDataPacketsRequest]:
        for message in range(self.lane.messages):
            begin = first + message * self.lane.packets
            details = [self._detail(number) for number in range(begin, begin + self.lane.packets)]
            yield api_pb2.WriteDataPacketsRequest(details=details)

    def _detail(self, number: int) -> api_pb2.DataPacketDetails:
        lane = self.lane
        return api_pb2.DataPacketDetails(
            message=make_packet(lane, number),
            data_source=lane.data_source,
            stream=lane.stream,
            session_key=lane.session_key,
        )
