"""Liveness and doorbell: one slot, its owners, and who looks from outside."""

from __future__ import annotations

from pathlib import Path

from trackside.shm.liveness import Doorbell, Liveness, WorkerState, create_doorbell, create_liveness


def test_cells_and_texts_survive(tmp_path: Path) -> None:
    create_liveness(tmp_path / "gateway-0", "gateway-0")
    live = Liveness(tmp_path / "gateway-0")
    live.state, live.epoch, live.last_exit = WorkerState.READY, 3, -9
    live.write_reason("Kafka is away")
    live.write_last_words("ä" * 5000)
    live.close()
    seen = Liveness(tmp_path / "gateway-0", writable=False)
    assert (seen.name, seen.state, seen.epoch, seen.last_exit) == ("gateway-0", WorkerState.READY, 3, -9)
    assert seen.read_reason() == "Kafka is away"
    assert seen.read_last_words() == "ä" * 2048


def test_doorbell_rings_only_who_sleeps(tmp_path: Path) -> None:
    create_liveness(tmp_path / "x", "x")
    bell = Doorbell(create_doorbell(), Liveness(tmp_path / "x"))
    bell.ring_if_asleep()
    bell.woken()
    bell.prepare_sleep()
    bell.ring_if_asleep()
    bell.woken()
