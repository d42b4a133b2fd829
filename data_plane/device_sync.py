"""Puts files of the local log on their device beside the agent: a device takes some 100 ms for what costs us nothing.

One round at a time. A file is opened anew by its name: what its writer appends meanwhile may or may not be part of the
round, and counts as unsynced until the next one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from trackside.data_plane.data_dir import sync_directory
from trackside.data_plane.log import Wake

__all__ = ["DeviceSync", "Unsynced"]

Whose = TypeVar("Whose", bound=Hashable)


class Unsynced(NamedTuple):
    """What one partition has that its device may not have: files, then folders with new names, and how many entries."""

    files: Sequence[str]
    folders: Sequence[Path]
    entries: int


def run_in_thread(round_: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=round_, name="log-sync", daemon=True)
    thread.start()
    return thread


class DeviceSync(Generic[Whose]):
    """Agent thread only, but for the round itself, which calls ``wake`` at its end."""

    def __init__(self, wake: Wake | None) -> None:
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._work: Mapping[Whose, Unsynced] = {}
        self._errors: dict[Whose, OSError] = {}

    @property
    def started(self) -> bool:
        """Whether there is a round whose result nobody has taken."""
        return bool(self._work)

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Mapping[Whose, Unsynced]) -> None:
        """Only when no round is started."""
        assert not self._work
        self._work, self._errors = work, {}
        self._thread = run_in_thread(self._round)

    def wait(self) -> None:
        """Blocks on the device."""
        if self._thread is not None:
            self._thread.join()

    def take_result(self) -> dict[Whose, tuple[Unsynced, OSError]]:
        """What could not be synced in the round, which has ended."""
        failed = {whose: (self._work[whose], error) for whose, error in self._errors.items()}
        self._work, self._errors = {}, {}
        return failed

    def _round(self) -> None:
        for whose, unsynced in self._work.items():
            try:
                _sync(unsynced)
            except OSError as error:
                self._errors[whose] = error
        if self._wake is not None:
            self._wake()


def _sync(unsynced: Unsynced) -> None:
    for path in unsynced.files:
        with contextlib.suppress(FileNotFoundError):  # retention was faster
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
    for folder in unsynced.folders:
        sync_directory(folder)
