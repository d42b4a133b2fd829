"""The command line: what each command is told, what users are told, and that help stays light."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

from trackside.control_plane import cli
from trackside.control_plane.exit_codes import MEANING, ExitCode
from trackside.data_plane.spec import Settings


@pytest.fixture(autouse=True)
def _quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("TRACKSIDE_CONFIG", "CONFIG_PATH", "TRACKSIDE_DEBUG", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings that ``serve`` handed on; the server itself is left out."""
    calls: list[Settings] = []

    def run_server(settings: Settings, **_: object) -> int:
        calls.append(settings)
        return 75

    stand_in(monkeypatch, "trackside.control_plane.supervisor", run_server=run_server)
    return calls


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Callable[..., object]) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    package, _, last = name.rpartition(".")
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)


def test_serve_hands_on_the_settings_and_returns_the_code(served: list[Settings]) -> None:
    assert cli.run(shlex.split("serve --port 0 --key-port 0 --broker k:1 --data-dir d --gateways 2 --cores 0")) == 75
    (settings,) = served
    assert (settings.port, settings.key_port, settings.broker, settings.gateways) == (0, 0, "k:1", 2)
    assert settings.data_dir == str(Path.cwd() / "d")


def test_serve_tells_every_problem_on_a_line_of_its_own(
    served: list[Settings], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("a.json").write_text('{\n"Gateways": 0}')
    assert cli.run(shlex.split("serve --config a.json --port abc --broker nonsense")) == 78
    assert served == []
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("trackside: ") for line in lines)
    assert "trackside: StreamApiPort = 'abc': must be a whole number from 0 to 65535 (flag --port)" in lines
    assert "trackside: Gateways = 0: must be a whole number from 1 to 64 (a.json:2)" in lines


@pytest.mark.usefixtures("served")
def test_serve_says_what_has_no_effect(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text('{"BrokerUrl": "k:1", "StreamCreationStrategy": 2, "EnableMetrics": false}')
    cli.run(["serve", "--config", "a.json"])
    assert capfd.readouterr().err.startswith("note: EnableMetrics has no effect: ")


def test_check_config_prints_what_holds_and_where_it_comes_from(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text('{\n"StreamApiPort": 5000}')
    assert cli.run(shlex.split("check-config --config a.json --gateways 3")) == 0
    out = capfd.readouterr().out
    assert re.search(r"^StreamApiPort +5000 +a.json:2$", out, re.MULTILINE)
    assert re.search(r"^Gateways +3 +flag --gateways$", out, re.MULTILINE)
    assert re.search(r"^KeyGeneratorPort +15379 +default$", out, re.MULTILINE)


def test_check_config_for_programs(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(shlex.split("check-config --json --port 99999")) == 78
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] is False
    assert document["errors"] == [
        {
            "key": "StreamApiPort",
            "value": "'99999'",
            "reason": "must be a whole number from 0 to 65535",
            "origin": "flag --port",
        }
    ]
    assert {"key": "Gateways", "value": "1", "origin": "default"} in document["values"]


def test_top_looks_where_serve_would_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[object, ...]] = []
    stand_in(monkeypatch, "trackside.control_plane.top", main=lambda *args: calls.append(args) or 0)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/trackside")
    assert cli.run(["top", "--once", "--json"]) == 0
    assert cli.run(["top", "--run-dir", "/run/other", "--interval", "5"]) == 0
    assert calls == [("/run/trackside", True, True, 1.0), ("/run/other", False, False, 5.0)]
    assert cli.run(["top", "--run-dir", ""]) == 78
    assert "RunDir = ''" in capfd.readouterr().err


def test_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[SimpleNamespace] = []
    stand_in(monkeypatch, "trackside.bench.demo", main=lambda options: calls.append(options) or 1)
    assert cli.run(shlex.split("demo --seconds 5 --kill producer --ibt a.ibt --broker k:1 --json")) == 1
    (options,) = calls
    assert (options.seconds, options.kill, options.ibt, options.broker) == (5.0, "producer", "a.ibt", "k:1")
    assert (options.forever, options.gateways, options.port, options.as_json) == (False, 1, 0, True)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert re.fullmatch(r"trackside \d+\.\d+\.\d+\S*\n", capfd.readouterr().out)


@pytest.mark.parametrize(
    "line",
    ["chekc", "serve --prot 1", "serve --port", "serve extra", "demo --seconds x", "demo --gateways 0", "top --x"],
)
def test_usage_errors_are_one_line(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(shlex.split(line)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("trackside: ")
    assert err.count("\n") == 1


def test_a_defect_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: Settings, **_: object) -> int:
        raise RuntimeError("this must not happen")

    stand_in(monkeypatch, "trackside.control_plane.supervisor", run_server=broken)
    assert cli.run(["serve"]) == 70
    err = capfd.readouterr().err
    assert "defect in Trackside: RuntimeError('this must not happen')" in err
    assert "Traceback" not in err
    monkeypatch.setenv("TRACKSIDE_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.run(["serve"])


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(settings: Settings, **_: object) -> int:
        raise KeyboardInterrupt

    stand_in(monkeypatch, "trackside.control_plane.supervisor", run_server=interrupted)
    assert cli.run(["serve"]) == 130
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str) -> None:
    """``trackside version | true``: the pipe's reader has gone before anything is written, by print or at the end."""
    program = "import sys; from trackside.control_plane import cli; sys.stdin.read(); sys.exit(cli.run(['version']))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_ends_with_lines_that_the_command_understands(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    _, _, examples = capfd.readouterr().out.partition("Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        context = click.Context(cli.commands)
        found = cli.commands.get_command(context, name)
        assert found is not None, line
        found.make_context(name, arguments)  # parses, runs nothing


def test_help_names_every_command_and_code_meanings_are_complete(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(re.search(rf"^  {command} +\S", out, re.MULTILINE) for command in cli.COMMANDS)
    assert set(MEANING) == set(ExitCode)


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (
            ["--help"],
            "grpc numpy msgspec rich confluent_kafka trackside.data_plane trackside.shm trackside.bench asyncio",
        ),
        (["serve", "--help"], "grpc numpy msgspec rich confluent_kafka trackside.shm trackside.bench asyncio"),
        (["check-config"], "grpc numpy rich confluent_kafka trackside.shm trackside.bench asyncio"),
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str], forbidden: str) -> None:
    """What makes help instant is what it does not import; time itself depends on the machine."""
    program = f"import sys; from trackside.control_plane import cli; cli.run({arguments!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & set(forbidden.split())


def test_workers_and_commands_share_one_table_of_codes() -> None:
    from trackside.data_plane import worker

    assert worker.EXIT_OK == ExitCode.OK
    assert worker.EXIT_CRASHED == ExitCode.INTERNAL
    assert worker.EXIT_CANNOT_BOOT == ExitCode.CONFIGURATION
