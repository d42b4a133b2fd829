"""Writes the pages that are made from marks: docs/compatibility.md, and the lists in tests/README.md.

``python tests/conformance/pages.py`` writes them anew; ``tests/conformance/test_pages.py`` compares.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path

if __name__ == "__main__":  # run as a program: what pytest puts on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from conformance.facts import FACTS, GROUPS, Fact, Verdict
from conformance.marks import MarkedTest, marked_tests
from conformance.reference_tests import REFERENCE_TESTS, WITHOUT_EQUIVALENT

__all__ = ["PAGES"]

ROOT = Path(__file__).resolve().parents[2]

_COMPATIBILITY = """\
# Compatibility with the reference server

The reference is the public C# server of the Stream API. Its clients work unchanged; where it fails, this server does
not. A is what existing clients rely on, C the points in which every implementation must agree, W to K are weak points of
the reference. *Same*: programs see no difference. *Better*: the reference fails there, and the sentence holds here.

The page is made from `tests/conformance/facts.py` and from the marks that tests carry, `@pytest.mark.fact("A5")`. Do
not edit it: `python tests/conformance/pages.py` writes it. Tests that run over both logs, on a real Kafka only, or with
one process of each role and with two ("both shapes"), say so.
"""

_README = """\
# Tests

`CONTRIBUTING.md` says how they are run and what a test must be. Folders are those of the project; beside them,
`tests/system` runs whole servers, `tests/conformance` looks at servers as clients do, and `tests/interop` runs clients
in other languages.
A test that holds a fact of [the page on compatibility](../docs/compatibility.md) is marked with its number.

## The reference server's own tests

Each scenario of its tests, and the tests of ours that hold it. Made from `tests/conformance/reference_tests.py` and the
marks `reference_test`; `python tests/conformance/pages.py` writes this page.
"""


def compatibility_page() -> str:
    """The whole page docs/compatibility.md."""
    tests = _by_argument("facts")
    parts = [_COMPATIBILITY, _summary()]
    for title, facts in GROUPS.items():
        rows = "\n".join(_fact_row(fact, tests[fact.number]) for fact in facts)
        parts.append(f"## {title}\n\n| | what holds | verdict | shown by |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def readme_page() -> str:
    """The whole page tests/README.md."""
    tests = _by_argument("reference_tests")
    rows = "\n".join(f"| {name} | {_shown_by(name, tests[name])} |" for name in REFERENCE_TESTS)
    return f"{_README}\n| its test | shown by |\n|---|---|\n{rows}\n"


PAGES = {"docs/compatibility.md": compatibility_page, "tests/README.md": readme_page}


def _by_argument(field: str) -> defaultdict[str, list[MarkedTest]]:
    found: defaultdict[str, list[MarkedTest]] = defaultdict(list)
    for test in marked_tests():
        for argument in getattr(test, field):
            found[argument].append(test)
    return found


def _summary() -> str:
    counts = [(verdict, sum(fact.verdict is verdict for fact in FACTS.values())) for verdict in Verdict]
    return "Of {} facts: {}.\n".format(
        len(FACTS), ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    )


def _fact_row(fact: Fact, tests: list[MarkedTest]) -> str:
    says = f"{fact.says} {fact.note}".strip()
    return f"| {fact.number} | {says} | {fact.verdict} | {_links(tests, 'docs')} |"


def _shown_by(name: str, tests: list[MarkedTest]) -> str:
    return _links(tests, "tests") or f"*none: {WITHOUT_EQUIVALENT.get(name, 'open')}*"


def _links(tests: list[MarkedTest], folder: str) -> str:
    return "<br>".join(f"[{test.name}]({os.path.relpath(test.path, folder)}){_where(test)}" for test in tests)


def _where(test: MarkedTest) -> str:
    said = ", ".join(filter(None, [test.logs, "both shapes" if test.shapes else ""]))
    return f" ({said})" if said else ""


def main() -> None:
    for page, made in PAGES.items():
        (ROOT / page).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
