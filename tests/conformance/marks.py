"""Which tests carry ``fact`` and ``reference_test`` marks, and where they run; read from the sources alone.

A mark stands on a test, a class of tests or, as ``pytestmark``, on a whole module; its arguments are plain strings. A
test runs on both logs, or in both shapes, when it or a fixture that it asks for is parametrised so: what its parameters
mention tells. Where they name cells of the conformance tests by words, those cells tell.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["FACT", "REFERENCE_TEST", "MarkedTest", "marked_tests"]

TESTS = Path(__file__).resolve().parents[1]
CONTRACT = TESTS / "log_contract.py"
"""Tests that classes elsewhere inherit, one class for each log."""

CELLS = TESTS / "conformance" / "cells.py"
NAMING_CELLS = ("only", "cell_params")
"""What is called with words that cells have in their names; no words mean all cells."""

FACT, REFERENCE_TEST = "fact", "reference_test"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class MarkedTest(NamedTuple):
    """One test with at least one of the two marks."""

    path: str
    """From the project's root."""

    name: str
    facts: tuple[str, ...]
    reference_tests: tuple[str, ...]
    logs: str
    """``both logs``, ``Kafka`` or empty: the local log, or none."""

    shapes: bool
    """Whether it runs with one process of each role and with two."""


def marked_tests() -> list[MarkedTest]:
    """All, in the order of paths and lines."""
    found: list[MarkedTest] = []
    for path in sorted([*TESTS.glob("**/test_*.py"), CONTRACT]):
        found += _of_module(path)
    return found


def _of_module(path: Path) -> Iterator[MarkedTest]:
    tree = _tree(path)
    outer = _module_marks(tree)
    for test, marks in _tests(tree, outer):
        marked = _arguments(marks)
        if marked:
            about = [*marks, *_parameters(path, test)]
            yield MarkedTest(
                str(path.relative_to(TESTS.parent)),
                test.name,
                tuple(marked[FACT]),
                tuple(marked[REFERENCE_TEST]),
                "both logs" if path == CONTRACT else _logs(about),
                _shapes(about),
            )


def _tests(node: ast.Module | ast.ClassDef, outer: list[ast.expr]) -> Iterator[tuple[_Function, list[ast.expr]]]:
    """Each test with the marks that it and what it stands in carry."""
    for each in node.body:
        if isinstance(each, ast.ClassDef):
            yield from _tests(each, outer + each.decorator_list)
        elif isinstance(each, _Function) and each.name.startswith("test_"):
            yield each, outer + each.decorator_list


def _module_marks(tree: ast.Module) -> list[ast.expr]:
    for each in tree.body:
        if isinstance(each, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in each.targets):
            return each.value.elts if isinstance(each.value, ast.List) else [each.value]
    return []


def _arguments(marks: list[ast.expr]) -> defaultdict[str, list[str]]:
    """The texts that marks of the two names were given."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for mark in marks:
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute):
            name = mark.func.attr
            if name in (FACT, REFERENCE_TEST):
                found[name] += [ast.literal_eval(argument) for argument in mark.args]
    return found


# -- where it runs ----------------------------------------------------------------------------------------------------


def _logs(about: list[ast.expr]) -> str:
    if cells := _cells(about):
        logs = {name.split()[2] for name in cells}
        return "both logs" if len(logs) == 2 else "Kafka" if logs == {"kafka"} else ""
    if any(_mentions(each, "kafka") and _mentions(each, "params", "local", "parametrize") for each in about):
        return "both logs"
    return "Kafka" if any(_mentions(each, "kafka") for each in about) else ""


def _shapes(about: list[ast.expr]) -> bool:
    if cells := _cells(about):
        return len({name.split()[3] for name in cells}) == 2
    return any(_mentions(each, "SHAPES") or _has_text(each, "2/2/2") for each in about)


def _cells(about: list[ast.expr]) -> list[str]:
    """The cells that the first of these names by words: marks stand before fixtures."""
    for node in (node for each in about for node in ast.walk(each)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMING_CELLS:
            words = {ast.literal_eval(argument) for argument in node.args}
            return [name for name in _all_cells() if words <= set(name.split())]
    return []


@cache
def _all_cells() -> tuple[str, ...]:
    for node in _tree(CELLS).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CELLS" for t in node.targets):
            found: tuple[str, ...] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{CELLS}: no CELLS")


def _mentions(expression: ast.expr, *words: str) -> bool:
    """Whether one of the words stands in it: as a name, an attribute, a text or the name of an argument."""
    for node in ast.walk(expression):
        texts = (
            getattr(node, "id", ""),
            getattr(node, "attr", ""),
            getattr(node, "value", ""),
            getattr(node, "arg", ""),
        )
        if any(word in texts for word in words):
            return True
    return False


def _has_text(expression: ast.expr, text: str) -> bool:
    constants = (node.value for node in ast.walk(expression) if isinstance(node, ast.Constant))
    return any(isinstance(value, str) and text in value for value in constants)


def _parameters(path: Path, test: _Function) -> list[ast.expr]:
    """Decorators of every fixture that the test asks for, itself or through other fixtures."""
    fixtures = _fixtures_seen_from(path)
    found: list[ast.expr] = []
    waiting, seen = _asked_for(test), set[str]()
    while waiting:
        name = waiting.pop()
        if name in fixtures and name not in seen:
            found += fixtures[name].decorator_list
            waiting += _asked_for(fixtures[name])
        seen.add(name)
    return found


def _asked_for(function: _Function) -> list[str]:
    return [argument.arg for argument in function.args.args]


def _fixtures_seen_from(path: Path) -> dict[str, _Function]:
    """By name; a module's own stand before those of conftest files, and these before those of folders above."""
    files = [path, *(folder / "conftest.py" for folder in path.parents if folder.is_relative_to(TESTS))]
    found: dict[str, _Function] = {}
    for file in reversed([file for file in files if file.exists()]):
        for node in _tree(file).body:
            if isinstance(node, _Function) and any(_mentions(each, "fixture") for each in node.decorator_list):
                found[node.name] = node
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
