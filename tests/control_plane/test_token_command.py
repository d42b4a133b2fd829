"""``trackside token``: what it prints, what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from trackside.control_plane import cli
from trackside.control_plane.config import conclude
from trackside.data_plane.tokens_file import Tokens, hash_of


def made(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert cli.run(["token", *arguments]) == 0
    return capfd.readouterr().out.splitlines()


def test_a_token_is_printed_once_and_its_hash_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.json"
    (car,) = made(capfd, "car", "--file", str(path), "--write", "Car", "--write", "Car2", "--manage", "Car")
    (wall,) = made(capfd, "wall", "--file", str(path), "--read", "*")
    assert car != wall and len(car) > 40 and car.startswith("trackside_")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert car not in text and wall not in text
    tokens = Tokens(text.encode())
    assert tokens.caller(f"Bearer {car}").grant.write == ["Car", "Car2"]
    assert tokens.caller(f"Bearer {wall}").grant.read == ["*"]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]


def test_a_name_gets_another_token_with_the_same_rights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.json"
    (first,) = made(capfd, "car", "--file", str(path), "--read", "Car")
    path.chmod(0o640)
    (second,) = made(capfd, "car", "--file", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    tokens = Tokens(path.read_bytes())
    assert tokens.caller(f"Bearer {first}").grant == tokens.caller(f"Bearer {second}").grant
    before = path.read_bytes()
    assert cli.run(["token", "car", "--file", str(path), "--read", "Boat"]) == 2
    assert "car is there and has rights" in capfd.readouterr().err
    assert path.read_bytes() == before


def test_without_a_file_the_entry_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    token, entry = made(capfd, "car", "--read", "Car")
    assert json.loads(entry) == {"name": "car", "sha256": [hash_of(token)], "read": ["Car"]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a b"], "tokens[0].name: 'a b', wanted"),
        (["car", "--read", "(Car)"], "tokens[0].read: '(Car)', wanted"),
        ([], "Missing argument 'NAME'"),
        (["car", "--file", "{folder}/no/tokens.json"], "cannot be written: No such file or directory"),
        (["car", "--file", "{folder}"], "is no file"),
        (["car", "--file", "{folder}/broken"], "no tokens file: "),
    ],
)
def test_what_it_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    (tmp_path / "broken").write_text("{")
    assert cli.run(["token", *(text.format(folder=tmp_path) for text in arguments)]) != 0
    found = capfd.readouterr()
    assert says in found.err and len(found.err.splitlines()) == 1
    assert not found.out
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_file_that_cannot_be_used_is_refused_by_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    (problem,) = conclude({"TokensFile": str(path)}, environ={}).problems
    assert str(problem) == f"TokensFile = {path}: {path}: cannot be read: No such file or directory (argument)"
    path.write_text('{"tokens": [{"name": "car", "sha256": ["pl41n-s3cret"]}]}')
    (problem,) = conclude({"TokensFile": str(path)}, environ={}).problems
    assert "tokens[0].sha256: no hash" in str(problem) and "s3cret" not in str(problem)
    path.write_text('{"tokens": []}')
    conclusion = conclude({"TokensFile": str(path), "ListenAddress": "127.0.0.1"}, environ={})
    assert conclusion.settings is not None and conclusion.settings.tokens_file == str(path)
