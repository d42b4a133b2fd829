"""What a stopping server could not log, kept on a disk: the run directory's tmpfs may be gone at the next start. Also what
a server that was killed left there, where its successor would have no room beside it.

::

    <data_dir>/unlogged/<seq>-<guid>/     as the instance was in the run directory, what must be recovered of it
        laid-out
        links/*.ring                      rings to producers that hold something
        parks/*.park

A folder appears whole, on the device, or not at all; only then the instance goes. Whatever is kept is older than every
instance in the run directory: all that are there are kept in their order, or, from one that cannot be kept on, none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from trackside.data_plane.data_dir import sync_directory
from trackside.data_plane.park_file import park_files
from trackside.data_plane.recovery import write_rings_of
from trackside.shm.ring import RingView
from trackside.shm.segment import SegmentError

__all__ = ["LAID_OUT", "keep", "kept_instances", "kept_names"]

LAID_OUT = "laid-out"
UNFINISHED = ".unfinished"


def keep(instance: Path, data_dir: Path) -> None:
    """Move what an instance holds to the data directory; blocks on the device. Nobody may have the instance open.

    Raises OSError, SegmentError; then the instance is as it was.
    """
    target = data_dir / "unlogged" / instance.name
    if instance == target:
        return
    draft = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    try:
        _copy(_used_parts(instance), draft / "links")
        _copy([(park, [(0, park.stat().st_size)]) for park in park_files(instance)], draft / "parks")
        (draft / LAID_OUT).touch(mode=0o600)
        sync_directory(draft)
        os.rename(draft, target)
    except (OSError, SegmentError):
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_directory(target.parent)
    sync_directory(data_dir)
    shutil.rmtree(instance)


def _used_parts(instance: Path) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """Rings that hold something: the file, and what of it matters."""
    for path in write_rings_of(instance):
        ring = RingView(path)
        if ring.used_bytes:
            yield path, ring.used_parts()
        ring.close()


def _copy(files: Iterable[tuple[Path, Iterable[tuple[int, int]]]], folder: Path) -> None:
    """Of each file just these parts, (begin, end), in their places; the rest is a hole, which costs the device nothing."""
    folder.mkdir(mode=0o700)
    for file, parts in files:
        with open(file, "rb") as source, open(folder / file.name, "xb", opener=_private) as copy:
            copy.truncate(os.fstat(source.fileno()).st_size)
            for begin, end in parts:
                _copy_part(source, copy, begin, end)
            copy.flush()
            os.fsync(copy.fileno())
    sync_directory(folder)


def _copy_part(source: BinaryIO, copy: BinaryIO, begin: int, end: int) -> None:
    source.seek(begin)
    copy.seek(begin)
    while begin < end and (piece := source.read(min(1 << 20, end - begin))):
        copy.write(piece)
        begin += len(piece)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def kept_names(data_dir: Path) -> list[str]:
    """For who may not touch them yet."""
    folder = data_dir / "unlogged"
    return [name for name in os.listdir(folder) if not name.endswith(UNFINISHED)] if folder.is_dir() else []


def kept_instances(data_dir: Path) -> list[Path]:
    """Oldest first. Takes away what a death left unfinished. Raises OSError."""
    folder = data_dir / "unlogged"
    if not folder.is_dir():
        return []
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(unfinished)
    return [folder / name for name in sorted(kept_names(data_dir))]
