"""Checks what a user installs: a wheel and a source archive, built from a clean copy of the tree.

Run by ``./dev package`` with both files as arguments. No test by itself: building takes long and asks the network for
setuptools.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from project_tree import ROOT, files_of_packages, listed_packages

PROGRAM = """
import sys
from importlib import import_module, metadata
for name in sys.argv[2:]:
    module = import_module(name)
    place = module.__file__ or next(iter(module.__path__))
    assert place.startswith(sys.argv[1]), f"{name} came from {place}"
print("installed", metadata.version("trackside"), "from the wheel, and", len(sys.argv) - 2, "modules of it loaded")
"""


def main(wheel: Path, archive: Path) -> None:
    check_wheel(wheel)
    check_archive(archive)
    check_installed(wheel)


def check_wheel(wheel: Path) -> None:
    """Every file of every package is in it under its import name, and nothing else but metadata."""
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    wanted = set(files_of_packages())
    assert found == wanted, f"only in the tree: {sorted(wanted - found)}; only in the wheel: {sorted(found - wanted)}"
    print(f"wheel: {len(found)} files, as in the tree")


def check_archive(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", *files_of_packages().values()}
    assert wanted <= names, f"not in the source archive: {sorted(wanted - names)}"
    print(f"source archive: holds all {len(wanted)} files that a build needs")


def check_installed(wheel: Path) -> None:
    """The wheel alone, with the dependencies of this environment, is what gets imported."""
    modules = [*listed_packages(), "ma.streaming.api.v1.api_pb2_grpc", "trackside.protos.internal_pb2"]
    with tempfile.TemporaryDirectory() as target:
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", target, str(wheel)]
        subprocess.run([sys.executable, *install], check=True)
        command = [sys.executable, "-P", "-c", PROGRAM, target, *modules]
        subprocess.run(command, check=True, env={"PYTHONPATH": target}, cwd=ROOT.anchor)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
