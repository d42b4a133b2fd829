"""Clients in other languages, generated from our .proto files by their usual tools, run one scenario and get the same.

What the scenario covers of what existing clients rely on, by the numbers of those facts: calls of all five services and
of the key generator on both ports (A1), replies below the default limit of every language (A2), unary calls between the
replies of open reads (A3), sessions that are complete when their start is told (A4), keys of offset maps (A6), streams
that appear (A7), connections told as given and read twice at once (A8), sessions selected by the request's key (A10),
the main stream as "" (A11), essentials in both places (A12), a reply to half-close (A14), opaque content (A15), ends by
session key alone (A16), failures with status OK (A17), data format identifiers (A18), notifications (A19), reads that
stay open (A20), info packets that change a session (A22) and packets as they were written (A23).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.builds import LANGUAGES, Unavailable, client_command
from interop.comparable import comparable
from server import Server

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(1500),
]  # the first run builds, and other work may share the cores

SCENARIO = Path(__file__).with_name("scenario.json")
RUN_SECONDS = 180.0


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """One whose client can be run here, built if it was not yet."""
    name: str = request.param
    try:
        client_command(name)
    except Unavailable as missing:
        if os.environ.get("TRACKSIDE_REQUIRE_INTEROP") == "1":
            pytest.fail(f"TRACKSIDE_REQUIRE_INTEROP=1, but no client in {name}: {missing}")
        pytest.skip(f"no client in {name}: {missing}")
    return name


@pytest.fixture(scope="module")
def scenario() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCENARIO.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all languages: each has a data source of its own."""
    server = Server(tmp_path_factory.mktemp("interop"), "2/2/2")
    yield server.start()
    server.remove()


def run(language: str, server: Server, scenario: dict[str, Any]) -> dict[str, Any]:
    """What the scenario gives in that language, comparable."""
    data_source = f"Interop{language.capitalize()}"
    ports = server.port, server.described()["key_port"]
    arguments = [*(f"127.0.0.1:{port}" for port in ports), str(SCENARIO), data_source]
    done = subprocess.run(
        [*client_command(language), *arguments], capture_output=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return comparable(json.loads(done.stdout), scenario, data_source)


@pytest.fixture(scope="module")
def in_python(server: Server, scenario: dict[str, Any]) -> dict[str, Any]:
    return run("python", server, scenario)


@pytest.mark.fact(
    "A1",
    "A2",
    "A3",
    "A4",
    "A6",
    "A7",
    "A8",
    "A10",
    "A11",
    "A12",
    "A14",
    "A15",
    "A16",
    "A17",
    "A18",
    "A19",
    "A20",
    "A22",
    "A23",
)
def test_python_gets_what_the_scenario_expects(in_python: dict[str, Any], scenario: dict[str, Any]) -> None:
    assert in_python == scenario["expected"]


@pytest.mark.fact(
    "A1",
    "A2",
    "A3",
    "A4",
    "A6",
    "A7",
    "A8",
    "A10",
    "A11",
    "A12",
    "A14",
    "A15",
    "A16",
    "A17",
    "A18",
    "A19",
    "A20",
    "A22",
    "A23",
)
def test_other_languages_get_the_same(
    language: str, server: Server, scenario: dict[str, Any], in_python: dict[str, Any]
) -> None:
    assert run(language, server, scenario) == in_python


@pytest.mark.parametrize(("language", "program"), [("go", "go"), ("java", "java"), ("node", "node")])
def test_what_is_missing_is_named(language: str, program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=f"no `{program}` found"):
        client_command(language)
    assert list(tmp_path.iterdir()) == []
