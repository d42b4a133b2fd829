"""The tree as the project's rules see it: packages, their files, what each file imports."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def listed_packages() -> list[str]:
    """Import names of all packages, as pyproject.toml lists them."""
    return list(pyproject()["tool"]["setuptools"]["packages"])


def folder_of(package: str) -> Path:
    """Where a package lies in the tree: the longest prefix that package-dir maps decides."""
    mapping: dict[str, str] = pyproject()["tool"]["setuptools"]["package-dir"]
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        if (start := mapping.get(".".join(parts[:length]))) is not None:
            return ROOT.joinpath(start, *parts[length:])
    raise AssertionError(f"package-dir does not map {package}")


@cache
def kept_files() -> frozenset[str]:
    """Every file that is in the repository or would get there with ``git add``; else, without git, every file."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return frozenset(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts)
    return frozenset(name for name in listed if name and (ROOT / name).is_file())


def files_of_packages() -> dict[str, str]:
    """What an installation holds: path below site-packages to path in the tree."""
    found: dict[str, str] = {}
    for package in listed_packages():
        folder = folder_of(package)
        for path in sorted(folder.iterdir()):
            name = str(path.relative_to(ROOT))
            kept = name in kept_files()
            if kept and (path.suffix in (".py", ".pyi", ".proto") or path.name == "py.typed"):
                found["/".join((*package.split("."), path.name))] = name
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """Every hand-written Python module of the packages: import name, file."""
    for installed, name in files_of_packages().items():
        if name.endswith(".py") and not name.endswith(("_pb2.py", "_pb2_grpc.py")):
            yield installed.removesuffix(".py").removesuffix("/__init__").replace("/", "."), ROOT / name


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Full names of modules that a file imports at run time; imports for type checkers do not count.

    ``top_only`` leaves out what is imported inside functions, when they are called.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), str(path))]
    while pending:
        node = pending.pop()
        found |= _named_by(node)
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and _is_type_checking(node):
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))
    return found


def _named_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide which package is meant"
        return {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def _is_type_checking(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
