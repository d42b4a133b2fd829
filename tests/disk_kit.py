"""A server whose disk is small: the disk, a writer who is refused there, and what the server counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import grpc
from server import Client, Server

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.shm.counters import read_counters

__all__ = ["Mount", "Writer", "counter"]

Mount = Callable[[Path, str], None]
"""Puts a tmpfs with options over a folder: the fixture ``mount`` of the system tests."""

PACKET_BYTES = 1 << 20
DEADLINE_SECONDS = 2.0
"""Of a write that may find no room: less than the server would wait by itself."""


def counter(server: Server, name: str) -> int:
    """Sum over all processes."""
    paths = [Path(process["counters"]) for process in server.described()["processes"]]
    return sum(value for path in paths for found, _, value in read_counters(path) if found == name)


class Writer:
    """Numbered packets, one call each. ``unknown``: their deadline passed; they may be there or not."""

    def __init__(self, client: Client, source: str) -> None:
        self._client, self._source = client, source
        self._number = 0
        self.accepted: list[int] = []
        self.unknown: set[int] = set()

    def write(self, size: int = PACKET_BYTES) -> grpc.RpcError | None:
        """The refusal, if it was refused."""
        self._number += 1
        packet = Packet(id=self._number, content=os.urandom(size))
        try:
            self._client.write(self._source, packet, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.unknown.add(packet.id)
                return None
            return error
        self.accepted.append(packet.id)
        return None

    def fill(self, size: int = PACKET_BYTES) -> grpc.RpcError:
        """Until it is refused with an answer."""
        while (error := self.write(size)) is None:
            assert len(self.accepted) < 100 and len(self.unknown) < 20
        return error

    def check(self) -> None:
        """Everything that was accepted is there, each once, in order."""
        connection = self._client.connect(self._source)
        there = [response.packet.id for response in self._client.read(connection, len(self.accepted))]
        assert there == sorted(set(there))
        assert set(there) <= {*self.accepted, *self.unknown}
        assert set(self.accepted) <= set(there) or self.unknown
