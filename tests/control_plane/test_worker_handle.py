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
from trackside.shm.liveness import WorkerState


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


class Process:
    """What Popen gives, without a process: it runs until ``returncode`` is set."""

    pid = 4711

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.killed = 0

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.killed += 1


class Slot:
    """A handle whose processes are made up and whose clock is moved by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kit = Kit(folder)
        self.now = 1000.0
        self.processes: list[Process] = []
        monkeypatch.setattr(subprocess, "Popen", self._make)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.handle = WorkerHandle(kit.slots[0], (), 30.0)
        self.handle.start(kit.worker(self.handle.name).spec)

    def _make(self, *_: object, **__: object) -> Process:
        self.processes.append(Process())
        return self.processes[-1]

    def watch(self, awake_since: float = 0.0) -> None:
        self.handle.watch(restart=True, start_seconds=10.0, awake_since=awake_since)

    def beat(self) -> None:
        self.handle.liveness.heartbeat_ns = int(self.now * 1e9)

    def die(self, code: int) -> None:
        self.processes[-1].returncode = code
        self.watch()

    def seconds_to_the_next_start(self) -> float:
        """Moves the clock in steps until there is a successor."""
        before, started = self.now, len(self.processes)
        while len(self.processes) == started:
            self.watch()
            self.now += 0.05
        return self.now - before


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    return Slot(tmp_path, monkeypatch)


def test_the_dead_are_not_ready(slot: Slot) -> None:
    """They leave in their slot what they were; everybody who looks there must see that it no longer holds."""
    liveness = slot.handle.liveness
    liveness.state = WorkerState.READY
    slot.die(-9)
    assert liveness.state == WorkerState.FAILED and liveness.last_exit == -9
    assert liveness.read_reason() == "process gateway-0 died and is being started again: killed by SIGKILL"
    assert liveness.read_last_words() == "killed by SIGKILL"
    slot.watch()
    assert liveness.state == WorkerState.STARTING and liveness.restarts == 1
    assert liveness.read_last_words() == "killed by SIGKILL", "for whoever looks later"


def test_last_words_are_its_own_when_it_had_time_for_them(slot: Slot) -> None:
    slot.handle.liveness.write_last_words("Traceback\nValueError: no")
    slot.die(70)
    assert slot.handle.liveness.read_last_words().endswith("ValueError: no")
    assert slot.handle.liveness.read_reason().endswith("started again: ValueError: no")


def test_deaths_without_having_served_are_answered_more_and_more_slowly(slot: Slot) -> None:
    waited = []
    for _ in worker_handle.BACK_OFF_SECONDS:
        slot.die(70)
        waited.append(slot.seconds_to_the_next_start())
    assert waited == pytest.approx(worker_handle.BACK_OFF_SECONDS, abs=0.11)
    slot.die(70)
    assert slot.handle.state == "given_up"
    assert "died and was given up" in slot.handle.liveness.read_reason()


def give_up(slot: Slot) -> float:
    """Let it die until it is given up, and say how long it stays so."""
    while True:
        slot.die(70)
        if slot.handle.state == "given_up":
            return slot.seconds_to_the_next_start()
        slot.seconds_to_the_next_start()


def test_what_was_given_up_is_tried_again_later_and_later(slot: Slot) -> None:
    """What it died of may have gone. It needs nobody to restart the server, and cannot keep the machine busy."""
    assert [give_up(slot) for _ in range(6)] == pytest.approx([60, 120, 240, 480, 600, 600], abs=0.11)
    slot.handle.liveness.state = WorkerState.READY
    slot.now += 2.0
    slot.beat()
    assert give_up(slot) == pytest.approx(60, abs=0.11), "it has served since"


def test_a_process_that_has_served_is_started_again_at_once_however_often(slot: Slot) -> None:
    for _ in range(3 * worker_handle.GIVE_UP_DEATHS):
        slot.handle.liveness.state = WorkerState.READY
        slot.now += 2.0
        slot.beat()
        slot.die(-9)
        assert slot.seconds_to_the_next_start() < 0.11


def test_what_cannot_boot_is_not_tried_again(slot: Slot) -> None:
    slot.die(78)
    slot.now += 1e6
    slot.watch()
    assert slot.handle.state == "given_up" and len(slot.processes) == 1


def test_a_worker_that_leaves_unasked_is_needed_all_the_same(slot: Slot) -> None:
    slot.die(0)
    assert slot.handle.state == "waiting"
    slot.watch()
    slot.processes[-1].returncode = 0
    slot.handle.watch(restart=False, start_seconds=10.0)
    assert slot.handle.state == "done"


def test_silence_is_counted_from_when_the_supervisor_could_hear(slot: Slot) -> None:
    slot.handle.liveness.state = WorkerState.READY
    slot.beat()
    slot.now += 31.0
    slot.watch(awake_since=slot.now - 1.0)
    assert not slot.processes[-1].killed
    slot.watch()
    slot.watch()
    assert slot.processes[-1].killed == 1, "once, however long its end takes"


def test_a_start_is_bounded_and_a_heartbeat_is_not_asked_for_meanwhile(slot: Slot) -> None:
    slot.now += 9.0
    slot.watch()
    assert not slot.processes[-1].killed
    slot.now += 2.0
    slot.watch()
    assert slot.processes[-1].killed == 1
