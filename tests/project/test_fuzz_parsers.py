"""The short form of ``tests/fuzz_parsers.py``."""

from __future__ import annotations

import fuzz_parsers
import pytest


def test_nearly_right_bytes_are_taken_or_refused_as_declared() -> None:
    found = fuzz_parsers.run(20_000, seed=20)
    for target in found:
        assert target.taken, target.name  # else its seeds are none
        assert target.refused or not target.declared, target.name
    assert fuzz_parsers.table(found).count("\n") == len(found) + 1


def test_it_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise IndexError

    monkeypatch.setattr(fuzz_parsers, "targets", lambda: [fuzz_parsers.Target("broken", broken, [b"abc"])])
    with pytest.raises(AssertionError, match="broken: IndexError: ; input 616263"):
        fuzz_parsers.run(1, seed=1)
