"""No wake-up is lost: the two sleep protocols, taken from the running code, on a model of what x86-64 may do.

The code runs once per side on a memory that notes its loads, stores and fences. Then every interleaving of the two sides
is tried in which each processor's stores leave its store buffer in order, but as late as they like, unless a
fence empties it. Forbidden is one outcome: both looked, and neither saw the other's store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ring_journal import JournalMemory

from trackside.shm import liveness, ring
from trackside.shm.layout import LivenessCell, RingCell
from trackside.shm.liveness import Doorbell, Liveness, create_doorbell, create_liveness
from trackside.shm.ring import RingReader, RingWriter

Event = tuple[str, int]  # ("store" | "load" | "fence", cell)
FENCE: Event = ("fence", 0)


class Noted:
    """Cells that note what is done to those that matter."""

    def __init__(self, cells: memoryview, events: list[Event], of_interest: set[int]) -> None:
        self._cells, self._events, self._of_interest = cells, events, of_interest

    def __getitem__(self, index: int) -> int:
        if int(index) in self._of_interest:
            self._events.append(("load", int(index)))
        return self._cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        if int(index) in self._of_interest:
            self._events.append(("store", int(index)))
        self._cells[index] = value


def lost(one: list[Event], other: list[Event]) -> bool:
    """Whether some execution lets the last load of each side miss the store of the other."""

    def step(at: tuple[int, int], buffers: tuple[tuple[int, ...], ...], seen: frozenset[int], missed: int) -> bool:
        """``buffers``: cells stored but not yet visible; ``seen``: visible cells; ``missed``: sides that saw nothing."""
        if at == (len(one), len(other)):
            return missed == 0b11
        for side, events in enumerate((one, other)):
            if buffers[side]:  # the oldest store leaves the buffer
                rest = _with(buffers, side, buffers[side][1:])
                if step(at, rest, seen | {buffers[side][0]}, missed):
                    return True
            if at[side] == len(events):
                continue
            verb, cell = events[at[side]]
            after = (at[0] + (side == 0), at[1] + (side == 1))
            if verb == "fence" and buffers[side]:
                continue  # waits until the buffer is empty
            if verb == "store":
                if step(after, _with(buffers, side, (*buffers[side], cell)), seen, missed):
                    return True
            elif verb == "load":
                last = not any(later[0] == "load" for later in events[at[side] + 1 :])
                if step(after, buffers, seen, missed | (1 << side if last and cell not in seen else 0)):
                    return True
            elif step(after, buffers, seen, missed):
                return True
        return False

    return step((0, 0), ((), ()), frozenset(), 0)


def _with(buffers: tuple[tuple[int, ...], ...], side: int, buffer: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (buffer, buffers[1]) if side == 0 else (buffers[0], buffer)


def note(events: list[Event]) -> Callable[[], None]:
    return lambda: events.append(FENCE)


def without_fences(events: list[Event]) -> list[Event]:
    return [event for event in events if event != FENCE]


def forbids_only_with_fences(one: list[Event], other: list[Event]) -> None:
    assert not lost(one, other), (one, other)
    assert lost(without_fences(one), other) and lost(one, without_fences(other)), "the model must be able to fail"


def test_waiting_for_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writer: wish, then look at commit. Reader: commit, then look for a wish."""
    memory = JournalMemory(1024)
    writer, reader = RingWriter("", segment=memory), RingReader("", segment=memory)
    end = writer.try_publish([(0, 0, b"x")])
    assert end is not None
    reader.poll()
    watched = {int(RingCell.COMMIT), int(RingCell.COMMIT_WANTED)}
    writer_does: list[Event] = []
    reader_does: list[Event] = []

    monkeypatch.setattr(ring, "full_fence", note(writer_does))
    writer._cells = Noted(memory.cells, writer_does, watched)  # type: ignore[arg-type]
    writer.wait_for_commit(end)
    assert writer.commit_position == 0

    monkeypatch.setattr(ring, "full_fence", note(reader_does))
    reader._cells = Noted(memory.cells, reader_does, watched)  # type: ignore[arg-type]
    assert reader.commit(end), "it was asked for"
    forbids_only_with_fences(writer_does, reader_does)


def test_sleeping_on_a_doorbell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeper: I sleep, then look at the ring. The other: publish, then look whether it sleeps."""
    create_liveness(tmp_path / "consumer-0", "consumer-0")
    memory = JournalMemory(1024)
    writer, reader = RingWriter("", segment=memory), RingReader("", segment=memory)
    bell = Doorbell(create_doorbell(), Liveness(tmp_path / "consumer-0"))
    watched = {int(RingCell.PUBLISH), int(LivenessCell.SLEEPING) + 10_000}
    sleeper_does: list[Event] = []
    other_does: list[Event] = []
    slot = bell._cells

    class Slot(Noted):  # cell numbers of the slot, kept apart from those of the ring
        def __getitem__(self, index: int) -> int:
            self._events.append(("load", int(index) + 10_000))
            return self._cells[index]

        def __setitem__(self, index: int, value: int) -> None:
            self._events.append(("store", int(index) + 10_000))
            self._cells[index] = value

    monkeypatch.setattr(liveness, "full_fence", note(sleeper_does))
    bell._cells = Slot(slot, sleeper_does, watched)  # type: ignore[assignment]
    reader._cells = Noted(memory.cells, sleeper_does, watched)  # type: ignore[arg-type]
    bell.prepare_sleep()
    assert reader.publish_position() == 0

    monkeypatch.setattr(liveness, "full_fence", note(other_does))
    bell._cells = Slot(slot, other_does, watched)  # type: ignore[assignment]
    writer._cells = Noted(memory.cells, other_does, watched)  # type: ignore[arg-type]
    writer.try_publish([(0, 0, b"x")])
    bell.ring_if_asleep()
    forbids_only_with_fences(sleeper_does, other_does)
