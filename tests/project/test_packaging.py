"""What pyproject.toml says about packages is what the tree holds."""

from __future__ import annotations

import re

from project_tree import ROOT, files_of_packages, folder_of, kept_files, listed_packages, pyproject

CODE_ROOTS = ("control_plane", "data_plane", "shm", "protos", "client", "bench")


def test_every_package_in_the_tree_is_listed() -> None:
    folders = {
        ROOT / name for name in kept_files() if name.endswith((".py", ".pyi")) and name.split("/")[0] in CODE_ROOTS
    }
    assert {path.parent for path in folders} - {folder_of(package) for package in listed_packages()} == set()


def test_every_listed_package_exists_and_is_typed() -> None:
    for package in listed_packages():
        folder = folder_of(package)
        assert folder.is_dir(), package
        marked = (folder, *folder.parents) if package.startswith("ma.") else (folder,)
        assert any((path / "py.typed").is_file() for path in marked), f"{package} has no py.typed"


def test_namespaces_have_no_init() -> None:
    """``trackside`` and ``ma`` are open: an __init__.py there would hide other distributions' parts."""
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "protos" / "ma" / "__init__.py").exists()


def test_proto_files_travel_with_their_stubs() -> None:
    installed = files_of_packages()
    stubs = [name for name in installed if name.endswith("_pb2.py")]
    assert stubs
    for stub in stubs:
        assert stub.replace("_pb2.py", ".proto") in installed
        assert stub.replace("_pb2.py", "_pb2.pyi") in installed


def test_every_dependency_has_a_floor_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in pyproject()["project"]["dependencies"]:
        assert re.match(r"[a-z0-9-]+>=\d", requirement), requirement
        assert re.search(rf'"{re.escape(requirement)}", +# \S', text), f"{requirement} does not say why"


def test_bare_names_of_our_packages_are_banned() -> None:
    banned = pyproject()["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == set(CODE_ROOTS)


def test_nothing_generated_or_private_is_in_the_repository() -> None:
    forbidden = re.compile(r"(^|/)(__pycache__|\.venv|build|dist|.*\.egg-info)/|\.pyc$")
    assert [name for name in kept_files() if forbidden.search(name)] == []
