"""docs/reliability.md says what was found."""

from __future__ import annotations

from faults.pages import PAGE, page


def test_the_page_is_what_was_found() -> None:
    assert PAGE.read_text() == page(), "run: python tests/faults/pages.py"
