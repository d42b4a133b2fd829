"""Liveness and doorbell: one slot, its owners, and who looks from outside."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from trackside.shm.layout import TEXT_BYTES_MAX, LivenessCell
from trackside.shm.liveness import Doorbell, Liveness, WorkerState, create_doorbell, create_liveness
from trackside.shm.ring import create_ring
from trackside.shm.segment import LayoutMismatch, Segment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_liveness(tmp_path / "gateway-0", "gateway-0")
    return tmp_path / "gateway-0"


def test_every_cell_is_its_own(path: Path) -> None:
    """Each attribute keeps what it was given while all the others are assigned."""
    names = ("epoch", "pid", "restarts", "started_ns", "heartbeat_ns", "work_ns", "idle_ns", "sleeping")
    live = Liveness(path)
    for number, name in enumerate(names):
        setattr(live, name, 1000 + number)
    live.state, live.last_exit = WorkerState.DEGRADED, 78
    live.write_reason("why")
    live.write_last_words("bye")
    live.close()
    seen = Liveness(path, writable=False)
    assert [getattr(seen, name) for name in names] == [1000 + number for number in range(len(names))]
    assert (seen.name, seen.state, seen.last_exit) == ("gateway-0", WorkerState.DEGRADED, 78)
    assert (seen.read_reason(), seen.read_last_words()) == ("why", "bye")
    assert len({int(cell) for cell in LivenessCell}) == len(LivenessCell)


@pytest.mark.parametrize("code", [None, 0, 78, -9, -15, 255])
def test_last_exit(path: Path, code: int | None) -> None:
    live = Liveness(path)
    assert live.last_exit is None
    live.last_exit = code
    assert Liveness(path).last_exit == code


def test_a_state_of_another_version_is_no_error(path: Path) -> None:
    live = Liveness(path)
    assert live.state is WorkerState.STARTING
    live.cells[LivenessCell.STATE] = 1000
    assert Liveness(path).state is WorkerState.FAILED


def test_texts_are_cut_between_characters(path: Path) -> None:
    live = Liveness(path)
    live.write_last_words("x" + "ä" * TEXT_BYTES_MAX)
    assert live.read_last_words() == "x" + "ä" * ((TEXT_BYTES_MAX - 1) // 2)
    assert live.read_reason() == "", "one text never runs into the other"
    live.write_reason("r" * 2 * TEXT_BYTES_MAX)
    assert live.read_reason() == "r" * TEXT_BYTES_MAX
    live.write_reason("\udcff")  # what os.fsdecode makes of a path that is no text
    assert live.read_reason() == "?"
    live.clear_reason()
    live.clear_last_words()
    assert live.read_reason() == live.read_last_words() == ""


def test_a_torn_text_is_a_text(path: Path) -> None:
    """Length and bytes of different writes, and a length that cannot be."""
    live = Liveness(path)
    live.write_last_words("ääää")
    for length in (0, 1, 3, 8, 5000, (1 << 64) - 1):
        live.cells[LivenessCell.LAST_WORDS_BYTES] = length
        assert live.read_last_words().startswith("äääa"[: length // 2 if length < 8 else 3])


def test_a_length_that_cannot_be_shows_no_other_text(path: Path) -> None:
    live = Liveness(path)
    live.write_reason("why")
    live.write_last_words("bye")
    live.cells[LivenessCell.REASON_BYTES] = TEXT_BYTES_MAX + 3
    assert live.read_reason().rstrip("\0") == "why"


def test_last_words_are_published_by_their_length(path: Path) -> None:
    """A reader in the middle of the write sees the old length as 0, not old and new mixed."""
    live = Liveness(path)
    live.write_last_words("the old words")
    stores: list[tuple[int, int]] = []

    class Cells:
        def __setitem__(self, index: int, value: int) -> None:
            stores.append((value, len(Liveness(path).read_last_words())))
            live._segment.cells[index] = value

    live.cells = Cells()  # type: ignore[assignment]
    live.write_last_words("new")
    assert stores == [(0, 13), (3, 0)]


def test_another_kind_is_refused(tmp_path: Path) -> None:
    Segment.create(tmp_path / "s", 4096).close()
    with pytest.raises(LayoutMismatch):
        Liveness(tmp_path / "s")
    create_ring(tmp_path / "ring", capacity_bytes=1 << 14, ring_id="x")
    with pytest.raises(LayoutMismatch, match="kind 1, LIVENESS is 2"):
        Liveness(tmp_path / "ring")


# --- doorbells -------------------------------------------------------------------------------------------------------


def rung(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_doorbell_rings_only_who_sleeps(path: Path) -> None:
    bell = Doorbell(create_doorbell(), Liveness(path))
    bell.ring_if_asleep()
    assert not rung(bell.fd)
    bell.prepare_sleep()
    assert Liveness(path).sleeping == 1
    bell.ring_if_asleep()
    assert rung(bell.fd)
    bell.woken()
    assert not rung(bell.fd) and Liveness(path).sleeping == 0
    bell.ring_if_asleep()
    assert not rung(bell.fd)
    os.close(bell.fd)


def test_ring_keeps_from_the_next_sleep(path: Path) -> None:
    bell = Doorbell(create_doorbell(), Liveness(path))
    bell.ring()
    bell.ring()
    bell.prepare_sleep()
    assert rung(bell.fd)
    bell.woken()
    bell.woken()  # also when nobody rang
    assert not rung(bell.fd)
    os.close(bell.fd)


def test_a_bell_at_its_end_rings(path: Path) -> None:
    bell = Doorbell(create_doorbell(), Liveness(path))
    os.eventfd_write(bell.fd, 2**64 - 2)
    bell.ring()
    assert rung(bell.fd)
    os.close(bell.fd)
