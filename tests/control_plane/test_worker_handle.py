"""A process slot where the machine or a signal is unusual."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from worker_kit import Kit

from trackside.control_plane import worker_handle
from trackside.control_plane.worker_handle import WorkerHandle
from trackside.data_plane.worker import STOP_SIGNALS


def test_a_machine_that_has_no_process_to_give_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor must not die of it: every other process would, too."""
    kit = Kit(tmp_path)
    handle = WorkerHandle(kit.slots[0], (), 30.0)
    popen = subprocess.Popen

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    handle.start(kit.worker(handle.name).spec)
    assert handle.state == "waiting" and "cannot be started" in handle.liveness.read_reason()
    monkeypatch.setattr(subprocess, "Popen", popen)
    handle.watch(restart=True, start_seconds=30.0)
    assert handle.state == "waiting"  # not at once
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + worker_handle.EXEC_AGAIN_SECONDS)
    handle.watch(restart=True, start_seconds=30.0)
    assert handle.running and handle.pid
    handle.kill()


def test_signals_without_a_name_have_a_number() -> None:
    assert [worker_handle._signal_name(number) for number in (9, 40)] == ["SIGKILL", "signal 40"]


def test_a_stop_that_comes_while_a_process_starts_waits_until_it_can_be_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It inherits what is blocked when it is started; the supervisor itself hears signals again at once."""
    kit = Kit(tmp_path)
    handle = WorkerHandle(kit.slots[0], (), 30.0)
    blocked: list[set[signal.Signals]] = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *_, **__: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    with pytest.raises(AttributeError):  # there is no process to ask for its number
        handle.start(kit.worker(handle.name).spec)
    assert blocked[0] >= STOP_SIGNALS
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & STOP_SIGNALS
