"""Kills the writer and the reader of a ring, again and again, and counts what was lost or torn.

    writer --ring 64 KiB--> reader        both sleep on doorbells; SIGKILL of one or the other every few milliseconds

    python -m trackside.bench.ring_soak --kills 2000

What stands in the ring is a function of the position, so every incarnation of the reader checks each record whole, and
that each follows the one before; nobody has to remember a sequence number over a death. The reader notes in memory of its own
how far it has checked before it commits: a commit beyond that would be a loss. The writer notes what it was told is
published: less than that in the ring would be one, too. With ``--kills 0`` nobody dies, and a doorbell that was not
rung shows as a wait that ran into its bound.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from trackside.bench.forks import fork
from trackside.shm.liveness import Doorbell, Liveness, create_doorbell, create_liveness
from trackside.shm.ring import RingReader, RingRecord, RingWriter, create_ring

__all__ = ["Soak", "run"]

BLOB = random.Random(0).randbytes(1 << 16)
COMMIT_LAG_MAX = 32

# Cells that the two ends and the parent share apart from the ring; one writer each.
STOP = 0
ACCEPTED, UNPUBLISHED, WRITER_LATE, DONE = 16, 17, 18, 19
VERIFIED, RECORDS, REPEATED, TORN, SKIPPED, READER_LATE = 32, 33, 34, 35, 36, 37


class Soak(NamedTuple):
    """What happened. ``lost``, ``torn`` and, when nobody was killed, ``late_wakes`` must be 0."""

    seed: int
    kills_writer: int
    kills_reader: int
    records: int
    bytes: int
    lost: int
    torn: int
    repeated: int
    late_wakes: int
    failures: int
    seconds: float

    @property
    def good(self) -> bool:
        killed = self.kills_writer + self.kills_reader > 0
        return self.lost == self.torn == self.failures == 0 and (killed or self.late_wakes == 0)


class Stage:
    """The ring, the two slots and the shared cells; made before the fork."""

    def __init__(self, directory: Path, seed: int, capacity_bytes: int, bytes_total: int, wait_seconds: float) -> None:
        self.ring = directory / "soak.ring"
        self.seed = seed
        self.bytes_total = bytes_total
        self.wait_ms = int(wait_seconds * 1000)
        create_ring(self.ring, capacity_bytes=capacity_bytes, ring_id=f"soak/{seed}")
        self.cells = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self.bells = {name: _bell(directory / name, name) for name in ("writer", "reader")}

    def sleep(self, name: str) -> bool:
        """True when somebody rang before the bound."""
        return bool(select.select([self.bells[name].fd], [], [], self.wait_ms / 1000)[0])


def _bell(path: Path, name: str) -> Doorbell:
    create_liveness(path, name)
    return Doorbell(create_doorbell(), Liveness(path))


# --- what stands in the ring -------------------------------------------------------------------------------------------


def body_after(end: int, seed: int, capacity: int) -> bytes:
    """The body of the record that follows the one that ended at ``end``; three of the largest fit half the ring."""
    size_max = min(2000, capacity // 8)
    chance = crc32(end.to_bytes(8, "little"), seed)
    size = chance % size_max if chance & 7 else 0
    start = (chance >> 8) % (len(BLOB) - size_max)
    return BLOB[start : start + size]


def place_after(end: int, body: bytes, capacity: int) -> tuple[int, int]:
    """(position, end) of a record with this body, by the ring's rule: 64-byte lines, never across the end."""
    size = (len(body) + 127) // 64 * 64
    left = capacity - end % capacity
    position = end if size <= left else end + left
    return position, position + size


def group_after(end: int, seed: int, capacity: int) -> list[tuple[int, int, bytes]]:
    """One to three records, published at once."""
    group: list[tuple[int, int, bytes]] = []
    for number in range(1 + crc32(end.to_bytes(8, "little"), seed + 1) % 3):
        body = body_after(end, seed, capacity)
        group.append((number, len(body), body))
        _, end = place_after(end, body, capacity)
    return group


def follows(record: RingRecord, end: int, seed: int, capacity: int) -> bool:
    body = body_after(end, seed, capacity)
    return record.body == body and (record.position, record.end) == place_after(end, body, capacity)


# --- the two ends ------------------------------------------------------------------------------------------------------


def write(stage: Stage) -> None:
    """Publishes until the parent says stop or there is enough."""
    cells = stage.cells
    writer = RingWriter(stage.ring)
    cells[UNPUBLISHED] += writer.publish_position < cells[ACCEPTED]
    while not cells[STOP] and writer.publish_position < stage.bytes_total:
        group = group_after(writer.publish_position, stage.seed, writer.capacity_bytes)
        while (end := writer.try_publish(group)) is None:
            _wait_for_room(stage, writer, [len(body) for _, _, body in group])
        cells[ACCEPTED] = end
        stage.bells["reader"].ring_if_asleep()
    cells[DONE] = 1
    stage.bells["reader"].ring()


def _wait_for_room(stage: Stage, writer: RingWriter, sizes: list[int]) -> None:
    wanted = writer.commit_needed(sizes)
    writer.wait_for_commit(wanted)
    if writer.commit_position < wanted:
        late = not stage.sleep("writer") and writer.commit_position >= wanted
        stage.cells[WRITER_LATE] += late
    writer.wait_for_commit(0)
    stage.bells["writer"].woken()


def read(stage: Stage) -> None:
    """Checks, notes and commits, in parts, until the writer is done and everything is committed."""
    cells = stage.cells
    reader = RingReader(stage.ring)
    rng = random.Random(os.getpid())
    end = reader.commit_position
    cells[SKIPPED] += end > cells[VERIFIED]
    while True:
        records = reader.poll(bytes_max=rng.choice([1, 5000, 1 << 20]))
        for record in records:
            cells[TORN] += not follows(record, end, stage.seed, reader.capacity_bytes)
            cells[REPEATED] += record.end <= cells[VERIFIED]
            cells[RECORDS] += 1
            end = record.end
            cells[VERIFIED] = max(cells[VERIFIED], end)
        _commit_some(stage, reader, records, rng)
        if records:
            continue
        if cells[DONE] and reader.publish_position() == end:
            break
        _sleep(stage, reader)


def _commit_some(stage: Stage, reader: RingReader, records: list[RingRecord], rng: random.Random) -> None:
    """Leaves the last few for the next time, as a producer does that waits for delivery reports."""
    done = records[-1 - rng.randrange(min(len(records), COMMIT_LAG_MAX))].end if records else reader.read_position
    if reader.commit(done):
        stage.bells["writer"].ring()


def _sleep(stage: Stage, reader: RingReader) -> None:
    bell = stage.bells["reader"]
    bell.prepare_sleep()
    if reader.publish_position() == reader.read_position and not stage.cells[DONE]:
        late = not stage.sleep("reader") and reader.publish_position() != reader.read_position
        stage.cells[READER_LATE] += late
    bell.woken()


# --- the parent --------------------------------------------------------------------------------------------------------


def run(
    *,
    kills: int,
    seed: int = 1,
    bytes_total: int = 1 << 62,
    capacity_bytes: int = 1 << 16,
    wait_seconds: float = 0.02,
    directory: Path | None = None,
) -> Soak:
    """Forks both ends; call it from a process without threads. Ends after ``kills`` kills, or ``bytes_total`` bytes."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        stage = Stage(Path(place), seed, capacity_bytes, bytes_total, wait_seconds)
        roles: dict[str, Callable[[Stage], None]] = {"writer": write, "reader": read}
        pids = {name: fork(partial(role, stage)) for name, role in roles.items()}
        killed = {"writer": 0, "reader": 0}
        rng = random.Random(seed)
        for _ in range(kills):
            _let_it_run(stage, rng)
            name = rng.choice(["writer", "reader"])
            os.kill(pids[name], signal.SIGKILL)
            killed[name] += os.WIFSIGNALED(os.waitpid(pids[name], 0)[1])
            pids[name] = fork(partial(roles[name], stage))
        if kills:
            stage.cells[STOP] = 1
        failures = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids.values())
        return _result(stage, seed, killed, failures, time.monotonic() - started)


def _let_it_run(stage: Stage, rng: random.Random) -> None:
    """A moment by chance, and until records flow (a machine may be busy); five seconds at most."""
    before = stage.cells[RECORDS]
    give_up = time.monotonic() + 5
    time.sleep(rng.uniform(0.001, 0.015))
    while stage.cells[RECORDS] < before + 10 and time.monotonic() < give_up:
        time.sleep(0.001)


def _result(stage: Stage, seed: int, killed: dict[str, int], failures: int, seconds: float) -> Soak:
    cells = stage.cells
    reader = RingReader(stage.ring)
    left = reader.publish_position() != reader.commit_position or reader.commit_position != cells[VERIFIED]
    return Soak(
        seed=seed,
        kills_writer=killed["writer"],
        kills_reader=killed["reader"],
        records=cells[RECORDS],
        bytes=reader.commit_position,
        lost=cells[UNPUBLISHED] + cells[SKIPPED] + left,
        torn=cells[TORN],
        repeated=cells[REPEATED],
        late_wakes=cells[WRITER_LATE] + cells[READER_LATE],
        failures=failures,
        seconds=round(seconds, 2),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trackside.bench.ring_soak", description="Kill both ends of a ring."
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=1 << 62, help="end after so many bytes, for --kills 0")
    parser.add_argument("--capacity", type=int, default=1 << 16, help="of the ring, bytes")
    parser.add_argument("--wait", type=float, default=0.02, help="bound of a sleep, seconds")
    parser.add_argument("--directory", type=Path, default=None, help="a tmpfs; default: that of tempfile")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    result = run(
        kills=given.kills,
        seed=given.seed,
        bytes_total=given.bytes,
        capacity_bytes=given.capacity,
        wait_seconds=given.wait,
        directory=given.directory,
    )
    if given.json:
        print(json.dumps(result._asdict()))
    else:
        print("  ".join(f"{name}={value}" for name, value in result._asdict().items()))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
