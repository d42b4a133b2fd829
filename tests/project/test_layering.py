"""Import arrows point one way: control_plane -> data_plane -> shm, and bench -> client -> protos.

Beside the chains, everybody may use the contract, and bench measures and watches shared memory: both are at the bottom.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from project_tree import ROOT, imports, modules

ARROWS: dict[str, set[str]] = {
    "trackside.shm": set(),
    "trackside.protos": {"ma"},
    "trackside.data_plane": {"trackside.shm", "trackside.protos", "ma"},
    "trackside.control_plane": {"trackside.data_plane", "trackside.shm", "trackside.protos", "ma"},
    "trackside.client": {"trackside.protos", "ma"},
    "trackside.bench": {"trackside.client", "trackside.shm", "trackside.protos", "ma"},
}
"""Which of our packages each may import besides itself."""

EXCEPTIONS = {
    # the command line finds the demo; nothing else of the server knows that the load harness exists
    ("trackside.control_plane.cli", "trackside.bench"),
    # a bench of one part measures it from inside, without a server around it
    ("trackside.bench.segments", "trackside.data_plane"),
    ("trackside.bench.kafka_writer", "trackside.data_plane"),
}

OUTSIDE: dict[str, set[str]] = {
    "trackside.shm": {"numpy"},
    "trackside.client": {"numpy", "grpc", "google"},
}
"""Packages that may import only these besides the standard library."""

NO_GRPC = (
    "producer",
    "consumer",
    "forwarder",
    "log",
    "local_log",
    "kafka_log",
    "segments",
    "worker",
    "record",
    "frame",
    "link",
)

ALL = dict(modules())


def own(name: str) -> str | None:
    """The package of ours that a module belongs to."""
    if name == "ma" or name.startswith("ma."):
        return "ma"
    return next((package for package in ARROWS if name == package or name.startswith(f"{package}.")), None)


@pytest.mark.parametrize("module", ALL)
def test_arrows_point_one_way(module: str) -> None:
    package = own(module)
    assert package is not None, f"{module} is in no package that ARROWS knows"
    for name in imports(ALL[module]):
        target = own(name)
        assert name.split(".")[0] not in {"shm", "data_plane", "control_plane", "protos", "client", "bench"}, (
            f"{module} imports the bare name {name}: a second copy of the package in one process"
        )
        if target not in (None, package, *ARROWS[package]) and (module, target) not in EXCEPTIONS:
            pytest.fail(f"{module} imports {name}, and {package} may import only {sorted(ARROWS[package])}")


@pytest.mark.parametrize("module", [name for name in ALL if own(name) in OUTSIDE])
def test_packages_that_promise_few_dependencies_keep_to_them(module: str) -> None:
    package = own(module)
    assert package is not None
    allowed = OUTSIDE[package] | {"trackside", "ma"} | set(sys.stdlib_module_names)
    strangers = {name for name in imports(ALL[module]) if name.split(".")[0] not in allowed}
    assert not strangers


def reached(start: str) -> dict[str, str]:
    """Every module that importing ``start`` loads, ours or not, and who imports it."""
    found = {start: ""}
    pending = [start]
    while pending:
        module = pending.pop()
        for name in imports(ALL[module], top_only=True) if module in ALL else ():
            if name not in found:
                found[name] = module
                pending.append(name)
    return found


@pytest.mark.parametrize("name", NO_GRPC)
def test_log_workers_do_not_load_grpc(name: str) -> None:
    module = f"trackside.data_plane.{name}"
    if module not in ALL:
        pytest.fail(f"NO_GRPC names {module}, which does not exist")
    found = reached(module)
    assert not {by: loaded for loaded, by in found.items() if loaded.split(".")[0] == "grpc"}


@pytest.mark.parametrize("module", [name for name in ALL if own(name) == "trackside.control_plane"])
def test_the_control_plane_never_touches_kafka(module: str) -> None:
    found = reached(module)
    assert not {by: loaded for loaded, by in found.items() if loaded.split(".")[0] == "confluent_kafka"}


@pytest.mark.parametrize("heavy", ["grpc", "numpy", "rich", "msgspec", "uvloop", "psutil", "asyncio"])
def test_the_command_line_loads_commands_when_asked(heavy: str) -> None:
    found = reached("trackside.control_plane.cli")
    assert not {by: loaded for loaded, by in found.items() if loaded.split(".")[0] == heavy}


def test_the_rules_are_about_files_that_exist() -> None:
    assert {own(module) for module in ALL} >= set(ARROWS) - {"ma"}
    for module, target in EXCEPTIONS:
        assert target in {own(name) for name in imports(ALL[module])}


def test_no_module_beside_the_packages() -> None:
    """At the top of the tree lie folders with code in packages; a stray module there would shadow others."""
    assert [path.name for path in Path(ROOT).glob("*.py")] == []
