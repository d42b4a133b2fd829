"""Machines: x86-64 as it is, others only with a real fence, and no store that zeroes its target first."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from trackside.shm import fence
from trackside.shm.fence import UnsupportedMachine, find_fences, full_fence, require_ordering

ROOT = Path(fence.__file__).resolve().parents[1]


def test_x86_64_needs_no_publish_fence() -> None:
    fences = find_fences("x86_64")
    assert fences is not None and fences[1] is None
    require_ordering("x86_64")


def test_other_machines_need_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "_atomicshm_fence", lambda: None)
    monkeypatch.setattr(fence, "_libatomic_fence", lambda: None)
    with pytest.raises(UnsupportedMachine, match=r"aarch64.*atomicshm or libatomic"):
        require_ordering("aarch64")
    with pytest.raises(UnsupportedMachine, match="riscv64"):
        require_ordering("riscv64")


def test_either_of_the_two_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def one() -> None: ...

    for there, missing in (("_atomicshm_fence", "_libatomic_fence"), ("_libatomic_fence", "_atomicshm_fence")):
        monkeypatch.setattr(fence, there, lambda: one)
        monkeypatch.setattr(fence, missing, lambda: None)
        assert find_fences("aarch64") == (one, one), "at publishing stores, too"
        require_ordering("aarch64")


def test_libatomic_when_it_is_here() -> None:
    real = fence._libatomic_fence()
    if real is None:
        pytest.skip("no libatomic.so.1")
    real()


def test_fence_from_several_threads() -> None:
    threads = [threading.Thread(target=lambda: [full_fence() for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_no_store_that_zeroes_its_target_first() -> None:
    """``struct`` packing into a buffer clears the target, then stores: a reader would see positions of 0."""
    forbidden = re.compile("pack" + "_into")
    files = [*ROOT.glob("shm/*.py"), *ROOT.glob("data_plane/*.py"), *ROOT.glob("bench/ring*.py")]
    assert len(files) > 8
    assert [str(file) for file in files if forbidden.search(file.read_text())] == []
