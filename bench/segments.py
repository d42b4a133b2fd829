"""How fast the local log takes and gives back packets, one process, one core.

::

    records --LocalLogWriter.append, do_work--> segment files --LocalLogReader--> runs

CPU microseconds an entry are the honest number; entries a second depend on what else the machine does. The hash over
the values that were read shows that all of them came back.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trackside.data_plane.local_log import LocalLogReader, LocalLogWriter
from trackside.data_plane.log import Partition
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

__all__ = ["Load", "Measured", "Result", "main", "measure"]

RING = "00000000-0000-0000-0000-000000000000/gateway-0.producer-0.down"


class Load(NamedTuple):
    """What is appended: ``records_per_work`` records wait when the writer works, as under load in a producer."""

    entries: int
    value_bytes: int = 1024
    record_entries: int = 64
    records_per_work: int = 16
    read_bytes: int = 1 << 20
    sync: str = "Interval"


class Measured(NamedTuple):
    entries: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.entries / self.wall_seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.entries * 1e6


class Result(NamedTuple):
    """``intact``: what was read has the hash of what was appended."""

    append: Measured
    read: Measured
    digest: str
    intact: bool


def measure(load: Load, folder: Path) -> Result:
    """Appends ``load`` to a new local log in ``folder`` and reads it back. Leaves the files there."""
    settings = Settings(sync=load.sync)  # type: ignore[arg-type]
    records = _records(load)
    writer = LocalLogWriter(folder / "data", folder / "ends", settings=settings)
    append = _timed(load.entries, lambda: _append_all(writer, records, load))
    writer.close(60.0)
    reader = LocalLogReader(folder / "data", [folder / "ends"])
    sizes: list[int] = []
    read = _timed(load.entries, lambda: sizes.append(_read_all(reader, load)))
    digest = hashlib.sha256()
    for values in _runs(reader, load):
        digest.update(b"".join(values))
    expected = hashlib.sha256()
    for record in _appended(records, load):
        expected.update(b"".join(record.packets))
    reader.close()
    return Result(
        append, read, digest.hexdigest()[:16], sizes == [load.entries] and digest.digest() == expected.digest()
    )


def _records(load: Load) -> list[Record]:
    """A few different records, appended in turn: as much as a processor cache does not keep."""
    rng = random.Random(1)
    route = Route("bench", 0, b"session")
    indexes = [0] * load.record_entries
    return [
        Record([route], indexes, [rng.randbytes(load.value_bytes) for _ in range(load.record_entries)])
        for _ in range(64)
    ]


def _appended(records: list[Record], load: Load) -> Iterator[Record]:
    for number in range(load.entries // load.record_entries):
        yield records[number % len(records)]


def _append_all(writer: LocalLogWriter, records: list[Record], load: Load) -> None:
    position = 0
    for number, record in enumerate(_appended(records, load), 1):
        position += 64 + load.record_entries * load.value_bytes
        writer.append(RING, position, record)
        if number % load.records_per_work == 0:
            writer.do_work()
    writer.do_work()
    assert writer.logged(RING) == position


def _read_all(reader: LocalLogReader, load: Load) -> int:
    return sum(len(values) for values in _runs(reader, load))


def _runs(reader: LocalLogReader, load: Load) -> Iterator[list[bytes]]:
    cursor = reader.open(Partition("bench", 0), 0)
    while (run := cursor.read(load.read_bytes)) is not None:
        yield run.values
    cursor.close()


def _timed(entries: int, work: Callable[[], None]) -> Measured:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Measured(entries, time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def _folder(path: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trackside-segments-", dir=path) as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Append and read throughput of the local log.")
    parser.add_argument("--entries", type=int, default=512_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--record-entries", type=int, default=64)
    parser.add_argument("--records-per-work", type=int, default=16)
    parser.add_argument("--sync", choices=("Interval", "Each"), default="Interval")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where to make the log; the temporary directory by default")
    options = parser.parse_args()
    entries = options.entries // options.record_entries * options.record_entries
    load = Load(entries, options.value_bytes, options.record_entries, options.records_per_work, sync=options.sync)
    print(f"{entries} entries of {load.value_bytes} B, {load.record_entries} a record, sync {load.sync}")
    intact = True
    for _ in range(options.runs):
        with _folder(options.folder) as folder:
            result = measure(load, folder)
        for name, seen in (("append", result.append), ("read", result.read)):
            print(f"  {name:6} {seen.per_second / 1e3:7.0f} k/s   {seen.cpu_us:5.2f} us CPU an entry")
        print(f"  hash   {result.digest}  {'intact' if result.intact else 'DIFFERENT'}")
        intact = intact and result.intact
    return 0 if intact else 1


if __name__ == "__main__":
    raise SystemExit(main())
