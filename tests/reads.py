"""Open reads for tests: collected in the background, waited for by what they bring, counted from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters

__all__ = ["Got", "Read", "count_of", "threads_and_files", "wait_count", "write_logged"]

SETTLED_SECONDS = 60.0


class Got(NamedTuple):
    """One packet as a read brought it."""

    number: int
    stream: str


class Read:
    """An open read of any kind: a thread takes its responses until it ends or is closed."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.got: list[Got] = []
        self.sizes: list[int] = []  # bytes of each response
        self.counts: list[int] = []  # packets in each response
        self.ended = threading.Event()
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            for response in self._call:
                self.sizes.append(response.ByteSize())
                self.counts.append(len(response.response))
                self.got += [Got(one.packet.id, one.stream) for one in response.response]
            self.status = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.status, self.details = error.code(), error.details() or ""
        self.ended.set()

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in list(self.got)]

    def of(self, stream: str) -> list[int]:
        """Numbers in the order in which one stream brought them."""
        return [number for number, its in list(self.got) if its == stream]

    def wait(self, *numbers: int) -> None:
        """Until all of them have come."""
        wanted = set(numbers)
        wait_until(
            lambda: wanted <= set(self.numbers) or self.ended.is_set(), f"{wanted} came; there are {self.numbers}"
        )
        assert wanted <= set(self.numbers), f"the read ended: {self.status} {self.details}; {self.numbers}"

    def wait_end(self) -> grpc.StatusCode:
        assert self.ended.wait(SETTLED_SECONDS), f"the read goes on; it has {self.numbers}"
        assert self.status is not None
        return self.status

    def close(self) -> None:
        self._call.cancel()
        self._thread.join(SETTLED_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request_of(data_source: str, packets: Iterable[tuple[str, Packet]], key: str = "") -> Any:
    return api_pb2.WriteDataPacketsRequest(
        details=[
            api_pb2.DataPacketDetails(message=packet, data_source=data_source, stream=stream, session_key=key)
            for stream, packet in packets
        ]
    )


def write_logged(client: Client, data_source: str, key: str = "", /, **numbers: Iterable[int]) -> None:
    """Packets with these numbers into each stream (``main`` is the main one); returns when the log has them all.

    One request message a packet, in the order given, so that streams can be interleaved by several calls.
    """
    packets = [
        ("" if stream == "main" else stream, Packet(type="RowData", id=number, content=b"%d" % number))
        for stream, some in numbers.items()
        for number in some
    ]
    write_packets(client, data_source, packets, key)


def write_packets(client: Client, data_source: str, packets: Iterable[tuple[str, Packet]], key: str = "") -> None:
    """Returns when the log has them."""

    def requests() -> Iterator[Any]:
        for packet in packets:
            yield request_of(data_source, [packet], key)

    client.writer.WriteDataPackets(requests(), timeout=60, wait_for_ready=True, metadata=(("trackside-ack", "log"),))


def count_of(server: Server, metric: str, **labels: str) -> int:
    """One counter or gauge, summed over all processes."""
    paths = [Path(process["counters"]) for process in server.described()["processes"]]
    rows = [row for path in paths for row in read_counters(path)]
    return sum(value for name, found, value in rows if name == metric and found.items() >= labels.items())


def wait_count(server: Server, metric: str, wanted: int, **labels: str) -> None:
    def there() -> bool:
        return count_of(server, metric, **labels) == wanted

    try:
        wait_until(there, "")
    except AssertionError:
        raise AssertionError(f"{metric} is {count_of(server, metric, **labels)}, not {wanted}") from None


def threads_and_files(pid: int) -> tuple[int, int]:
    """How many threads and open descriptors a process has."""
    root = Path(f"/proc/{pid}")
    return len(list((root / "task").iterdir())), len(list((root / "fd").iterdir()))
