"""The local log under a running server: a full disk, one that cannot be written, bytes and whole segments that are gone.

Writers are held back, then refused with the reason; readers jump over what is lost, and it is counted. No process is
started again for any of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from disk_kit import Mount, Writer, counter
from server import Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

MIB = 1 << 20
SEGMENT_BYTES = 8 * MIB
DISK_BYTES, BALLAST_BYTES = 32 * MIB, 20 * MIB


def test_a_full_disk(make_server: Callable[..., Server], mount: Mount, shape: str) -> None:
    server = make_server(shape)
    mount(server.data_dir, f"size={DISK_BYTES}")
    (server.data_dir / "ballast").write_bytes(bytes(BALLAST_BYTES))
    server.environment["TRACKSIDE_WRITE_WAIT_SECONDS"] = "1"
    server.start()
    client, pids = server.client(), server.pids()
    writer = Writer(client, "Car")
    error = writer.fill()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"the local log in {server.data_dir} cannot write Car/0: No space left on device" in error.details()
    wait_until(lambda: "No space left" in server.described()["reason"], "the reason in server.json")
    assert counter(server, "trackside_log_write_failures_total") > 0
    (server.data_dir / "ballast").unlink()
    server.wait_state("SERVING")
    for _ in range(3):
        assert writer.write(1000) is None
    client.write("Car", Packet(id=10_000), metadata=(("trackside-ack", "log"),))
    writer.accepted.append(10_000)
    writer.check()
    assert server.pids() == pids, "nobody was started again"
    client.close()


def test_a_disk_that_cannot_be_written(make_server: Callable[..., Server], mount: Mount) -> None:
    """What is open goes on; new topics wait, and go on when the disk can be written again."""
    server = make_server()
    server.environment["TRACKSIDE_WRITE_WAIT_SECONDS"] = "1"
    client, pids = server.start().client(), server.pids()
    old, new = Writer(client, "Old"), Writer(client, "New")
    assert old.write(1000) is None
    client.write("Old", Packet(id=1000), metadata=(("trackside-ack", "log"),))
    folder = server.data_dir / "log"
    mount(folder, "ro")
    error = new.fill()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"the local log in {server.data_dir} cannot write New/0: Read-only file system" in error.details()
    subprocess.run(["umount", "-l", folder], check=True)
    server.wait_state("SERVING")
    client.write("New", Packet(id=1000), metadata=(("trackside-ack", "log"),))
    new.accepted.append(1000)
    new.check()
    assert server.pids() == pids
    client.close()


def test_readers_see_what_the_recovery_logs_while_they_read(make_server: Callable[..., Server]) -> None:
    """The log can be read and not written for a while after a kill: readers have what is there, and then the rest."""
    server = make_server("1/1/1")
    client, log = server.start().client(), str(server.data_dir / "log")
    client.write("Car", Packet(id=1), metadata=(("trackside-ack", "log"),))
    server.send("producer-0", signal.SIGSTOP)
    client.write("Car", Packet(id=2))
    server.kill_group()
    if subprocess.run(["mount", "--bind", log, log], capture_output=True, check=False).returncode:
        pytest.skip("who runs this may not mount anything")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", log], check=True)
        server.start(wait=False)
        server.wait_state("NOT_SERVING", "SERVING")
        request = api_pb2.ReadPacketsRequest(connection=client.connect("Car"))
        call = client.reader.ReadPackets(request, timeout=60)
        assert [one.packet.id for one in next(call).response] == [1]
    finally:
        subprocess.run(["umount", "-l", log], check=True)
    assert [one.packet.id for one in next(call).response] == [2]
    call.cancel()
    server.wait_state("SERVING")


def test_segments_that_are_gone_or_damaged(make_server: Callable[..., Server], shape: str) -> None:
    """Readers get all the rest in order, and the loss is counted: while the server runs, and after the next start."""
    server = make_server(shape)
    server.environment["TRACKSIDE_SEGMENT_BYTES"] = str(SEGMENT_BYTES)
    client = server.start().client()
    writer = Writer(client, "Car")
    for _ in range(40):
        assert writer.write() is None
    client.write("Car", Packet(id=41), metadata=(("trackside-ack", "log"),))
    segments = sorted((server.data_dir / "log" / "Car" / "0").glob("*.segment"))
    assert len(segments) >= 5
    bases = [int(path.stem) for path in segments]
    segments[1].unlink()
    flip(segments[3], 5 * MIB)
    lost = set(range(bases[1] + 1, bases[2] + 1))
    there = read_all(client)
    assert there == sorted(set(there)) and lost.isdisjoint(there)
    damaged = set(range(1, 42)) - lost - set(there)
    assert damaged and damaged <= set(range(bases[3] + 1, bases[4] + 1))
    for name in ("trackside_log_holes_total", "trackside_log_damaged_reads_total"):
        wait_until(lambda name=name: counter(server, name) > 0, f"{name} tells")
    client.close()

    assert server.stop() == 0
    os.truncate(segments[-1], segments[-1].stat().st_size - 3)  # packet 41, or the batch that it shares
    client = server.start().client()
    client.write("Car", Packet(id=42), metadata=(("trackside-ack", "log"),))
    again = read_all(client, last=42)
    assert again == sorted(set(again)) and set(there) - {39, 40, 41} <= set(again) <= {*there, 42}
    client.close()


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))


def read_all(client: Client, last: int = 41) -> list[int]:
    """From the beginning until packet ``last``."""
    numbers: list[int] = []
    request = api_pb2.ReadPacketsRequest(connection=client.connect("Car"))
    for response in client.reader.ReadPackets(request, timeout=60):
        numbers += [each.packet.id for each in response.response]
        if numbers[-1] == last:
            return numbers
    raise AssertionError(f"no packet {last}")
