"""The unit: systemd understands every line of it, it is hardened, and it fits the server that it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project_tree import ROOT

from trackside.control_plane.config import conclude
from trackside.control_plane.exit_codes import ExitCode

UNIT = ROOT / "systemd" / "trackside.service"


@pytest.fixture
def analyze() -> str:
    """The program systemd-analyze; without it there is nothing that knows what a unit may say."""
    found = shutil.which("systemd-analyze")
    if found is None and os.environ.get("TRACKSIDE_REQUIRE_SYSTEMD") == "1":
        pytest.fail("TRACKSIDE_REQUIRE_SYSTEMD=1, but there is no systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze on this machine")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def settings() -> dict[str, list[str]]:
    """Assignments of the unit; a key may stand several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match.group(1), []).append(match.group(2))
    return found


def copy_with(tmp_path: Path, *replacements: tuple[str, str]) -> Path:
    """A copy whose ExecStart exists here: verify looks for the program."""
    text = UNIT.read_text(encoding="utf-8").replace("/opt/venvs/trackside/bin/trackside", sys.executable)
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    return copy


def test_systemd_understands_every_line(analyze: str, tmp_path: Path) -> None:
    done = run(analyze, "verify", "--man=no", copy_with(tmp_path))
    assert (done.stderr, done.returncode) == ("", 0)


def test_verify_would_tell_a_slip(analyze: str, tmp_path: Path) -> None:
    """It exits 0 all the same, so the test above must look at what it says."""
    assert "KillMod" in run(analyze, "verify", "--man=no", copy_with(tmp_path, ("KillMode=", "KillMod="))).stderr


def test_exposure_stays_below_two(analyze: str, tmp_path: Path) -> None:
    command = (analyze, "security", "--offline=true", "--threshold=20", "--no-pager")
    done = run(*command, copy_with(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    softened = copy_with(tmp_path, ("User=trackside", "User=root"), ("SystemCallFilter=@system-service\n", ""))
    assert run(*command, softened).returncode != 0, "the threshold would tell"


def test_comments_have_lines_of_their_own() -> None:
    """Behind a value, systemd takes a comment for a part of it."""
    assert [line for line in UNIT.read_text(encoding="utf-8").splitlines() if "#" in line and line[0] != "#"] == []


def test_a_wrong_configuration_is_not_started_again() -> None:
    assert settings()["RestartPreventExitStatus"] == [str(int(ExitCode.CONFIGURATION))]


def test_shared_memory_outlives_a_stop() -> None:
    assert settings()["RuntimeDirectoryPreserve"] == ["yes"]
    assert settings()["RemoveIPC"] == ["no"]


def test_the_folders_of_the_unit_are_those_that_the_server_takes() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/trackside", "STATE_DIRECTORY": "/var/lib/trackside"}
    concluded = conclude(ROOT / "systemd" / "AppConfig.json", environ=environ)
    assert concluded.settings is not None, concluded.problems
    assert (concluded.settings.run_dir, concluded.settings.data_dir) == tuple(environ.values())
    assert concluded.settings.drain_seconds < seconds(settings()["TimeoutStopSec"][0])
    assert concluded.settings.start_seconds < seconds(settings()["TimeoutStartSec"][0])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))
