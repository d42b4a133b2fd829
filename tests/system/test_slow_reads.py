"""What becomes of reads that are too slow, as their clients chose: on both shapes and both logs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input import told
from kafka_broker import KafkaBroker
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters

KIB = 1 << 10
READER_BUFFER_BYTES = 256 * KIB
PACKETS, PACKET_BYTES = 300, 16 * KIB
"""Far more than the reader's buffer, a response and what gRPC and the kernel hold on the way."""

SLOW_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),  # the window stays small, so not much is under way
]


@pytest.fixture(scope="module", params=["1/1/1 local", "2/2/2 kafka"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that ends slow reads, unless they say otherwise."""
    shape, log = request.param.split()
    broker: KafkaBroker | None = request.getfixturevalue("kafka_broker") if log == "kafka" else None
    server = Server(tmp_path_factory.mktemp("slow"), shape, (), broker.address if broker else "")
    server.environment = {
        "TRACKSIDE_WHEN_SLOW": "end",
        "TRACKSIDE_MAX_PACKET_BYTES": str(64 * KIB),
        "TRACKSIDE_READER_BUFFER_BYTES": str(READER_BUFFER_BYTES),
        "TRACKSIDE_DOMAIN": f"slow{uuid.uuid4().hex[:8]}",
    }
    yield server.start()
    server.remove()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = server.client()
    yield client
    client.close()


@pytest.fixture
def slow_client(server: Server) -> Iterator[Client]:
    client = Client(grpc.insecure_channel(f"127.0.0.1:{server.port}", options=SLOW_OPTIONS))
    yield client
    client.close()


@pytest.fixture
def source() -> str:
    return f"Source{uuid.uuid4().hex[:12]}"


def counter(server: Server, name: str) -> int:
    """Sum over all processes."""
    paths = [Path(process["counters"]) for process in server.described()["processes"]]
    return sum(value for path in paths for found, _, value in read_counters(path) if found == name)


def places(server: Server, *states: str) -> int:
    """Partitions of all open reads."""
    return sum(counter(server, f"trackside_gateway_{state}_places") for state in states or ("live", "past", "paused"))


class SlowRead:
    """A read that is at the live end, and then takes nothing until :meth:`read_on`."""

    def __init__(self, server: Server, client: Client, source: str, when_slow: str, essentials: bool = False) -> None:
        self.connection = client.connect(source, session_key="s", exclude_main_stream=False)
        wait_until(lambda: not places(server), "reads of earlier tests have gone")
        metadata = (("trackside-when-slow", when_slow),) if when_slow else ()
        if essentials:
            request: Any = api_pb2.ReadEssentialsRequest(connection=self.connection)
            self.call = client.reader.ReadEssentials(request, timeout=300, metadata=metadata)
        else:
            request = api_pb2.ReadPacketsRequest(connection=self.connection)
            self.call = client.reader.ReadPackets(request, timeout=300, metadata=metadata)
        self.got: list[int] = []
        self.error: grpc.RpcError | None = None
        wait_until(lambda: places(server, "live") == places(server) > 0, "the read is live")

    def read_on(self) -> threading.Thread:
        """Take everything, in a thread of its own, until the stream ends."""
        thread = threading.Thread(target=self._take)
        thread.start()
        return thread

    def _take(self) -> None:
        try:
            for response in self.call:
                self.got += [one.packet.id for one in response.response]
        except grpc.RpcError as error:
            self.error = error

    def close(self, client: Client) -> None:
        request = api_pb2.CloseConnectionRequest(connection=self.connection)
        client.connections.CloseConnection(request, timeout=30)


def flood(client: Client, source: str, *, essential: bool = False, count: int = PACKETS, first: int = 1) -> int:
    """So many packets, logged when this returns. Returns the number of the next."""
    for number in range(first, first + count):
        packet = Packet(type="RowData", id=number, content=bytes(PACKET_BYTES), is_essential=essential)
        call = {"metadata": (("trackside-ack", "log"),)} if number == first + count - 1 else {}
        client.write(source, packet, session_key="s", **call)
    return first + count


def test_a_read_that_skips_goes_on_at_the_live_end_and_says_what_it_passed(
    server: Server, client: Client, slow_client: Client, source: str
) -> None:
    skipped_before = counter(server, "trackside_gateway_skipped_total")
    slow = SlowRead(server, slow_client, source, "skip")
    next_number = flood(client, source)
    reading = slow.read_on()

    def is_live_again() -> bool:
        nonlocal next_number
        next_number = flood(client, source, count=1, first=next_number)
        return bool(slow.got) and slow.got[-1] > PACKETS

    wait_until(is_live_again, "the read is at the live end again")
    slow.close(client)
    reading.join(60)
    assert slow.error is None and slow.got == sorted(set(slow.got)) and slow.got[0] == 1
    missing = slow.got[-1] - len(slow.got)
    assert missing > 0
    assert dict(slow.call.trailing_metadata()) == {"trackside-skipped": str(missing)}
    wait_until(lambda: counter(server, "trackside_gateway_skipped_total") - skipped_before == missing, "it is counted")
    connection = f"connection={slow.connection.id}"
    lines = [line for line in server.log_text().splitlines() if connection in line]
    assert [word in line for word, line in zip(("read skips", "read ended"), lines, strict=True)] == [True, True]


def test_a_read_that_ends_is_told_the_limit(server: Server, client: Client, slow_client: Client, source: str) -> None:
    """The default here. Its connection is as it was: who reads again gets everything."""
    overruns = counter(server, "trackside_gateway_overruns_total")
    slow = SlowRead(server, slow_client, source, "")
    flood(client, source)
    wait_until(lambda: counter(server, "trackside_gateway_overruns_total") == overruns + 1, "it is counted")
    wait_until(lambda: counter(server, "trackside_gateway_reader_bytes") == 0, "nothing is kept for it")
    slow.read_on().join(60)
    assert slow.error is not None and slow.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert slow.error.details().startswith(told("ReaderBufferBytes", READER_BUFFER_BYTES))
    assert slow.got == list(range(1, len(slow.got) + 1)) and len(slow.got) < PACKETS
    assert [one.packet.id for one in client.read(slow.connection, PACKETS)] == list(range(1, PACKETS + 1))


@pytest.mark.parametrize(("when_slow", "essentials"), [("catch-up", False), ("", True)])
def test_a_read_that_catches_up_gets_everything(
    server: Server, client: Client, slow_client: Client, source: str, when_slow: str, essentials: bool
) -> None:
    """What a call says counts more than the configuration; definitions are kept for who says nothing."""
    slow = SlowRead(server, slow_client, source, when_slow, essentials)
    flood(client, source, essential=essentials)
    reading = slow.read_on()
    wait_until(lambda: len(slow.got) >= PACKETS, "everything has come")
    slow.call.cancel()
    reading.join(60)
    assert slow.got == list(range(1, PACKETS + 1))


@pytest.mark.parametrize("value", ["", "Skip", "later" * 100])
def test_anything_else_is_refused(client: Client, source: str, value: str) -> None:
    request = api_pb2.ReadPacketsRequest(connection=client.connect(source))
    with pytest.raises(grpc.RpcError) as caught:
        next(client.reader.ReadPackets(request, timeout=30, metadata=(("trackside-when-slow", value),)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        f"trackside-when-slow: {value[:60]!r} is not allowed, wanted one of catch-up, skip, end"
    )
