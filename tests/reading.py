"""What a test of reading does with one cell: writes, opens reads of every kind, waits for what they bring."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

from conformance.cells import MAPPINGS, Cell
from reads import Got, Read, count_of, wait_count, write_logged

from ma.streaming.api.v1 import api_pb2
from trackside.data_plane.log import Partition

__all__ = ["Reading"]


class Reading:
    """One test's use of a cell that other tests use, too: data sources of its own, and no read is left open."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.server = cell.server
        self.broker = cell.broker
        self.client = cell.client()
        self._lasts = itertools.count(1_000_000)
        self._reads: list[Read] = []
        self._wait_nobody_reads()

    def reconnect(self) -> None:
        """After a restart: what is open has ended with it."""
        self.close_reads()
        self.client.close()
        self.client = self.cell.client()

    def close(self) -> None:
        self.close_reads()
        self.client.close()

    def source(self) -> str:
        return f"Car{uuid.uuid4().hex[:10]}"

    def place(self, source: str, stream: str = "") -> Partition:
        return self.cell.place(source, stream)

    # -- calls --------------------------------------------------------------------------------------------------------

    def write(self, source: str, key: str = "", /, **numbers: Any) -> None:
        write_logged(self.client, source, key, **numbers)

    def read(self, source: str, **details: Any) -> Read:
        return self.read_again(self.client.connect(source, **details))

    def read_again(self, connection: api_pb2.Connection) -> Read:
        call = self.client.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), timeout=120)
        return self._opened(call)

    def read_data(self, connection: api_pb2.Connection, **filters: Any) -> Read:
        request = api_pb2.DataPacketRequest(connection=connection, **filters)
        call = self.client.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), timeout=120)
        return self._opened(call)

    def essentials(self, source: str, **details: Any) -> Read:
        request = api_pb2.ReadEssentialsRequest(connection=self.client.connect(source, **details))
        return self._opened(self.client.reader.ReadEssentials(request, timeout=120))

    def _opened(self, call: Any) -> Read:
        read = Read(call)
        self._reads.append(read)
        return read

    # -- what is waited for -------------------------------------------------------------------------------------------

    def places(self, *streams: str) -> int:
        """What a read of everything follows when these named streams exist."""
        if not self.cell.partitions:
            return 1 + len(streams)
        return 1 + (len(MAPPINGS) if self.broker else max(MAPPINGS[stream] for stream in streams))

    def wait_live(self, places: int) -> None:
        """Until the open reads follow so many partitions: from here on they get what is written."""
        wait_count(self.server, "trackside_gateway_live_places", places)

    def rest_of(self, read: Read, source: str, *streams: str) -> list[Got]:
        """Everything that ``read`` gets, up to a last packet in each of ``streams``, which it has to read."""
        lasts = {stream: next(self._lasts) for stream in streams}
        self.write(source, **{stream: [number] for stream, number in lasts.items()})
        read.wait(*lasts.values())
        return [got for got in read.got if got.number not in lasts.values()]

    def close_reads(self) -> None:
        while self._reads:
            self._reads.pop().close()
        self._wait_nobody_reads()

    def _wait_nobody_reads(self) -> None:
        for gauge in ("readers", "reader_bytes", "live_places", "past_places", "paused_places"):
            wait_count(self.server, f"trackside_gateway_{gauge}", 0)

    # -- what reads take ----------------------------------------------------------------------------------------------

    def feeds(self) -> dict[str, int]:
        """What consumers do for readers. (The control plane reads, too: sessions, and formats that it was asked for.)"""
        return {gauge: count_of(self.server, f"trackside_consumer_{gauge}") for gauge in ("feeds", "past", "held")}

    def processes(self) -> dict[str, int]:
        """Pids of all that have to do with reading, by their names."""
        roles = ("gateway", "consumer", "control-plane")
        return {name: self.server.liveness(name).pid for role in roles for name in self.server.names(role)}

    def log_folder(self, source: str, stream: str) -> Path:
        """Where the local log keeps a stream."""
        topic, number = self.place(source, stream)
        return self.server.data_dir / "log" / topic / str(number)
