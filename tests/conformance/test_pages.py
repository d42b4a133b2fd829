"""Every fact, and every scenario of the reference's tests, is shown by a test or says why not; pages say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.facts import FACTS, GROUPS, Fact, Verdict
from conformance.marks import marked_tests
from conformance.pages import PAGES
from conformance.reference_tests import REFERENCE_TESTS, WITHOUT_EQUIVALENT

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"A": 25, "C": 7, "W": 16, "R": 21, "S": 19, "D": 8, "K": 10}


def test_all_numbers_are_there_in_their_order() -> None:
    wanted = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
    assert list(FACTS) == wanted == [fact.number for facts in GROUPS.values() for fact in facts]


def test_marks_name_what_is_in_the_tables() -> None:
    for test in marked_tests():
        assert set(test.facts) <= FACTS.keys(), test
        assert set(test.reference_tests) <= set(REFERENCE_TESTS), test


@pytest.mark.parametrize("fact", FACTS.values(), ids=lambda fact: fact.number)
def test_every_fact_is_tested_or_says_why_not(fact: Fact) -> None:
    tests = [test.name for test in marked_tests() if fact.number in test.facts]
    if fact.verdict in (Verdict.OPEN, Verdict.NOT_APPLICABLE):
        assert fact.note, "say what is missing"
        assert not tests or fact.verdict is Verdict.OPEN, f"{fact.number} is tested by {tests}"
    else:
        assert tests, f'no test carries fact("{fact.number}")'


def test_every_scenario_of_the_reference_has_a_test_or_a_reason() -> None:
    marked = {name for test in marked_tests() for name in test.reference_tests}
    assert not marked & WITHOUT_EQUIVALENT.keys()
    missing = [name for name in REFERENCE_TESTS if name not in marked and name not in WITHOUT_EQUIVALENT]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_fresh(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page](), "python tests/conformance/pages.py"
