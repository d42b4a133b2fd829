"""Writes numbered packets over gRPC while things die, and knows of each whether it was accepted."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Self

import grpc
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

__all__ = ["Load", "Tail", "read_everything"]

PACKETS_A_MESSAGE = 10
MESSAGES_A_CALL = 5


class Load:
    """One writer thread a data source. Never writes a number twice, so that whoever sees it twice has a repeat."""

    def __init__(self, server: Server, data_sources: list[str]) -> None:
        self._server = server
        self._stop = threading.Event()
        self.accepted: dict[str, set[int]] = defaultdict(set)
        self.failures = 0
        self.threads = [threading.Thread(target=self._write, args=(name,), daemon=True) for name in data_sources]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted.values()))

    def wait_more(self, more: int = 200) -> None:
        """Until so many more packets were accepted: the load goes on."""
        wanted = self.count + more
        wait_until(lambda: self.count >= wanted, f"{more} more packets accepted; {self.failures} calls failed")

    def _write(self, data_source: str) -> None:
        client = self._server.client()
        number = 1
        while not self._stop.is_set():
            requests = []
            for _ in range(MESSAGES_A_CALL):
                requests.append(_request(data_source, number))
                number += PACKETS_A_MESSAGE
            first = number - MESSAGES_A_CALL * PACKETS_A_MESSAGE
            try:
                client.writer.WriteDataPackets(iter(requests), timeout=30)
                messages = MESSAGES_A_CALL
            except grpc.RpcError as error:
                self.failures += 1
                messages = int(dict(error.trailing_metadata() or ()).get("trackside-accepted", 0))
                client.close()
                client = self._server.client()
                self._stop.wait(0.02)  # a gateway that is being started again refuses at once: do not spin
            self.accepted[data_source].update(range(first, first + messages * PACKETS_A_MESSAGE))
        client.close()


def _request(data_source: str, number: int) -> api_pb2.WriteDataPacketsRequest:
    return api_pb2.WriteDataPacketsRequest(
        details=[
            api_pb2.DataPacketDetails(
                message=Packet(type="RowData", id=n, content=b"%d" % n, is_essential=n % 50 == 0),
                data_source=data_source,
                stream="s",
            )
            for n in range(number, number + PACKETS_A_MESSAGE)
        ]
    )


class Tail:
    """A reader that stays open. ``broken`` counts how often its call ended, which only its own gateway may cause."""

    def __init__(self, server: Server, data_source: str) -> None:
        self._client = server.client()
        self.numbers: list[int] = []
        self.broken: list[str] = []
        connection = self._client.connect(data_source, streams=["s"], stream_offsets=[0], exclude_main_stream=True)
        self._call: Any = self._client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self.numbers.extend(r.packet.id for r in response.response)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                self.broken.append(f"{error.code()}: {error.details()}")

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()
        self._client.close()


def read_everything(client: Client, data_source: str, until: set[int], seconds: float = 60.0) -> list[int]:
    """Numbers of the stream from its beginning until all of ``until`` came."""
    connection = client.connect(data_source, streams=["s"], stream_offsets=[0], exclude_main_stream=True)
    call = client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=seconds)
    numbers: list[int] = []
    missing = set(until)
    try:
        while missing:
            for response in next(call).response:
                numbers.append(response.packet.id)
                missing.discard(response.packet.id)
    except grpc.RpcError as error:
        raise AssertionError(
            f"{data_source}: {len(missing)} accepted packets did not come back, the first is "
            f"{min(missing)}; {error.code()} {error.details()}"
        ) from None
    call.cancel()
    return numbers
