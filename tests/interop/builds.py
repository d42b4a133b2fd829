"""Builds the clients in other languages, each with the usual tools of its language, and says how to start them.

A build lies in ``$XDG_CACHE_HOME/trackside/interop/<language>-<hash>`` (``~/.cache`` without it). The hash is over the
client's sources, which pin the versions of all that they need, and over our .proto files; so what was built once needs
no network and no compiler, and whatever changes is built again. Nothing is written into the checkout.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trackside.protos import generate

__all__ = ["LANGUAGES", "BuildFailed", "Unavailable", "client_command"]

HERE = Path(__file__).resolve().parent
STEP_SECONDS = 600.0


class Unavailable(Exception):
    """This machine cannot build or run the client; the text says what is missing."""


class BuildFailed(Exception):
    """Everything was there and fetched, and the client does not build: its sources do not fit the .proto files."""


class Language(NamedTuple):
    """``build`` runs in a folder that holds a copy of the sources and the .proto files below ``protos``."""

    builds_with: tuple[str, ...]
    runs_with: tuple[str, ...]
    build: Callable[[Path], None]
    command: Callable[[Path], list[str]]


def client_command(language: str) -> list[str]:
    """The command that runs the client, without its arguments; builds it first where that was not done yet.

    Raises Unavailable and BuildFailed. Blocks for up to some minutes.
    """
    if language == "python":
        return [sys.executable, str(HERE / "python" / "client.py")]
    what = LANGUAGES[language]
    _check_programs(what.runs_with)
    place = cache_folder() / f"{language}-{source_hash(language)}"
    if not place.is_dir():
        _check_programs(what.builds_with)
        _build(language, place)
    return what.command(place)


def cache_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "trackside" / "interop"


def source_hash(language: str) -> str:
    """Changes with everything that the build depends on; comments in .proto files do not count."""
    found = hashlib.sha256(f"{platform.system()} {platform.machine()} {generate.TOOL}".encode())
    for path in (Path(__file__), *source_files(language)):
        found.update(f"{path.relative_to(HERE)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    for proto in generate.PUBLIC:
        found.update(f"{proto} {generate.source_hash(generate.path_of(proto))}".encode())
    return found.hexdigest()[:16]


def source_files(language: str) -> list[Path]:
    return sorted(path for path in (HERE / language).rglob("*") if path.is_file())


def _check_programs(names: tuple[str, ...]) -> None:
    for name in names:
        if shutil.which(name) is None:
            raise Unavailable(f"no `{name}` found")


def _build(language: str, place: Path) -> None:
    """Aside, then renamed: two runs at once cannot see half a build."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"building-{language}-") as aside:
        folder = Path(aside) / "build"
        shutil.copytree(HERE / language, folder)
        for proto in generate.PUBLIC:
            target = folder / "protos" / proto
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(generate.path_of(proto), target)
        LANGUAGES[language].build(folder)
        with contextlib.suppress(OSError):  # another run was first: its folder is as good
            folder.rename(place)


def _run(command: list[str], folder: Path) -> str:
    """What the command said, and an empty text when it succeeded."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done within {STEP_SECONDS:.0f} s"
    return (done.stdout + done.stderr).strip() or f"exit code {done.returncode}" if done.returncode else ""


def _fetch(command: list[str], folder: Path) -> None:
    """A step that may need the network; the reason is for one line: what was said from the first error on."""
    if said := _run(command, folder):
        words = " ".join(said[max(said.lower().find("error"), 0) :].split())
        raise Unavailable(f"`{' '.join(command[:4])}` failed: {words[:300]}")


def _make(command: list[str], folder: Path) -> None:
    """A step that has all it needs."""
    if said := _run(command, folder):
        raise BuildFailed(f"`{' '.join(command[:4])}` failed: {said[-3000:]}")


# -- Go -----------------------------------------------------------------------------------------------------------------

GO_MODULE = "trackside.test/interop"


def _build_go(folder: Path) -> None:
    """Plugins and libraries are those of go.mod; protoc, which Go does not fetch, is Python's."""
    protoc = _protoc_python()
    _fetch(["go", "mod", "download"], folder)
    plugins = folder / "plugins"
    _make(["go", "build", "-o", f"{plugins}/", "tool"], folder)
    command = [str(protoc), "-m", "grpc_tools.protoc", "-Iprotos"]
    for name in ("go", "go-grpc"):
        command += [f"--plugin={plugins}/protoc-gen-{name}", f"--{name}_out=.", f"--{name}_opt=module={GO_MODULE}"]
        command += [f"--{name}_opt=M{proto}={GO_MODULE}/{_go_package(proto)}" for proto in generate.PUBLIC]
    _make([*command, *generate.PUBLIC], folder)
    _make(["go", "build", "-o", "client", "."], folder)
    shutil.rmtree(plugins)


def _go_package(proto: str) -> str:
    """``ma/streaming/open_data/v1/open_data.proto`` becomes the package ``opendata``."""
    return Path(proto).stem.replace("_", "")


def _protoc_python() -> Path:
    """The interpreter of an environment that holds the protoc with which our own stubs are made."""
    place = cache_folder() / generate.TOOL.replace("==", "-")
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="building-protoc-") as aside:
            folder = Path(aside) / "environment"
            _fetch([sys.executable, "-m", "venv", str(folder)], place.parent)
            _fetch([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", generate.TOOL], place.parent)
            with contextlib.suppress(OSError):
                folder.rename(place)
    return place / "bin" / "python"


# -- Java ---------------------------------------------------------------------------------------------------------------


def _build_java(folder: Path) -> None:
    """Maven fetches libraries, then protoc and its plugin, which generate into ``target``, too."""
    maven = ["mvn", "--quiet", "--batch-mode"]
    _fetch([*maven, "dependency:copy-dependencies"], folder)
    _make([*maven, "compile"], folder)


def _java_command(place: Path) -> list[str]:
    classes = f"{place}/target/classes:{place}/target/dependency/*"
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-cp", classes, "interop.Client"]


# -- Node ---------------------------------------------------------------------------------------------------------------


def _build_node(folder: Path) -> None:
    """Nothing is generated: the loader reads the .proto files when the client starts."""
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    _fetch(["npm", "ci", *quiet], folder)


LANGUAGES = {
    "go": Language(("go",), (), _build_go, lambda place: [str(place / "client")]),
    "java": Language(("mvn", "javac"), ("java",), _build_java, _java_command),
    "node": Language(("npm",), ("node",), _build_node, lambda place: ["node", str(place / "client.js")]),
}
