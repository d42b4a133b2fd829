"""What lies where in the data directory, and the number that says who may touch it.

::

    <data_dir>/format.json                                      {"format": 1, "identity": "<GUID of this log>"}
    <data_dir>/log/<topic>/<partition>/<base offset, 20 digits>.segment
                                       <...>.segment.damaged-<offset>    bytes that recovery could not read, kept
    <data_dir>/groups/                                          how far consumer groups are (``progress_journal.py``)
    <data_dir>/unlogged/                                        what a stopping server could not log (``kept.py``)
    <data_dir>/dead-letters/                                    packets that the log refused (``dead_letters.py``)
    <data_dir>/checkpoints/                                     what folds have taken (``control_plane/checkpoint.py``)
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from trackside.data_plane.log import LogConfigurationError, Partition

__all__ = [
    "DATA_FORMAT",
    "SEGMENT_SUFFIX",
    "DataDirDamaged",
    "DataDirTooNew",
    "boot_id",
    "claim_data_dir",
    "partition_dir",
    "partitions_on_disk",
    "read_identity",
    "segment_bases",
    "segment_path",
    "sync_directory",
]

DATA_FORMAT = 1
"""Goes up when a version of Trackside writes what the one before it cannot read, whatever part of it that is. A directory
without ``format.json`` is older than the number, and is opened. Segments and checkpoints have versions of their own.

1 is what the first release writes, ``unlogged`` among it, which builds before it do not know. For each number there is
a directory that its first version wrote, in ``tests/data_directories``; every version must open them all."""

SEGMENT_SUFFIX = ".segment"
FORMAT_FILE = "format.json"
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class DataDirTooNew(LogConfigurationError):
    """A newer version of Trackside wrote this data directory; this one must not touch it. No retry helps."""


class DataDirDamaged(LogConfigurationError):
    """``format.json`` cannot be understood. No retry helps; its text says what to look at."""


def claim_data_dir(data_dir: Path) -> bytes:
    """Identity (16 bytes) of the log in ``data_dir``; makes a new log where there is none.

    Also where the log is Kafka: the number holds for all that is in the directory. Several processes may call it at
    once: one of them makes the file, whole or not at all. Raises DataDirTooNew, DataDirDamaged, OSError.
    """
    identity = read_identity(data_dir)
    if identity is not None:
        return identity
    data_dir.mkdir(parents=True, exist_ok=True)
    draft = data_dir / f".{FORMAT_FILE}.{uuid.uuid4().hex}"
    try:
        _write_synced(draft, json.dumps({"format": DATA_FORMAT, "identity": str(uuid.uuid4())}) + "\n")
        _link_once(draft, data_dir / FORMAT_FILE)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(data_dir)
    identity = read_identity(data_dir)
    assert identity is not None
    return identity


def read_identity(data_dir: Path) -> bytes | None:
    """Identity of the log in ``data_dir``, None where none was made yet. Raises as ``claim_data_dir``."""
    path = data_dir / FORMAT_FILE
    try:
        found = json.loads(path.read_text())
        number, identity = int(found["format"]), str(found["identity"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataDirDamaged(f"{path} does not say the format of this data directory: {error!r}") from None
    if number > DATA_FORMAT:
        raise DataDirTooNew(
            f"{data_dir} has data format {number}, written by a newer version of Trackside; "
            f"this one reads formats up to {DATA_FORMAT}"
        )
    try:
        return uuid.UUID(identity).bytes
    except ValueError:
        raise DataDirDamaged(f"{path}: identity {identity!r} is no GUID") from None


def boot_id() -> bytes:
    """16 bytes that differ after each boot of the machine (not of a container)."""
    return uuid.UUID(BOOT_ID_FILE.read_text().strip()).bytes


def partition_dir(data_dir: Path, partition: Partition) -> Path:
    assert partition.topic not in ("", ".", "..") and "/" not in partition.topic, partition
    return data_dir / "log" / partition.topic / str(partition.number)


def partitions_on_disk(data_dir: Path) -> Iterator[Partition]:
    """Every partition that has a folder, in no order. Raises OSError other than for what is missing."""
    for topic in _list(data_dir / "log"):
        for number in _list(data_dir / "log" / topic):
            if number.isdecimal():
                yield Partition(topic, int(number))


def segment_path(folder: Path, base_offset: int) -> Path:
    return folder / f"{base_offset:020d}{SEGMENT_SUFFIX}"


def segment_bases(folder: Path) -> list[int]:
    """Base offsets of the segments in a partition's folder, in order; empty when there is no such folder."""
    names = (name.removesuffix(SEGMENT_SUFFIX) for name in _list(folder) if name.endswith(SEGMENT_SUFFIX))
    return sorted(int(name) for name in names if name.isdecimal())


def sync_directory(folder: Path) -> None:
    """Puts the names in ``folder`` on the device: what a new file needs besides its own sync. Blocks on the device."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write_synced(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _link_once(draft: Path, path: Path) -> None:
    """Gives ``draft`` its name unless another process was first."""
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
