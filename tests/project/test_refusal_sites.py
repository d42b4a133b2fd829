"""Whoever gives a call a status counts it and logs it: found in the sources, so that a new place is not forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from project_tree import ROOT

FOLDERS = ("data_plane", "control_plane")

ABORTS = {("data_plane/refusals.py", "end")}
"""The one function that ends calls."""

TELLS_ITSELF = {
    ("data_plane/refusals.py", "refuse"): "note",
    ("data_plane/guard.py", "_deny"): "_denied",
    ("data_plane/slow_reads.py", "end_slow"): "log",
    ("data_plane/packet_writer.py", "_end"): "not_logged",
    ("control_plane/statuses.py", "_end"): "PASSED_METHODS",
}
"""Functions that use ``end``, and what in them shows who counts: the guard, ``Readers`` (overruns), the writer, the
gateway that passed the call on."""

STATUS_SETTERS = {"abort", "abort_with_status", "set_code", "set_details"}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with the file that it is in; one inside another comes by itself, too."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{folder}/{path.name}", node


def names_in(node: ast.AST) -> set[str]:
    found = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return found | {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def calls_in(node: ast.AST) -> list[ast.expr]:
    return [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]


def test_one_function_gives_calls_their_status() -> None:
    found = {
        (file, function.name)
        for file, function in functions()
        for called in calls_in(function)
        if isinstance(called, ast.Attribute) and called.attr in STATUS_SETTERS
    }
    assert found == ABORTS, "use Refusals.refuse, which counts and logs"


def test_who_ends_a_call_without_a_refusal_counts_by_a_name_of_its_own() -> None:
    found = {
        (file, function.name): function
        for file, function in functions()
        for called in calls_in(function)
        if isinstance(called, ast.Name) and called.id == "end"
    }
    assert set(found) == set(TELLS_ITSELF), "use Refusals.refuse, which counts and logs"
    for place, function in found.items():
        assert TELLS_ITSELF[place] in names_in(function), place


def test_the_interceptor_counts_what_no_gateway_does() -> None:
    """Of the calls on the control plane's socket: who is not passed through is refused here."""
    (ending,) = (
        function for file, function in functions() if (file, function.name) == ("control_plane/statuses.py", "_end")
    )
    assert {"end", "refuse"} <= names_in(ending)
