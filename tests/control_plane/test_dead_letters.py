"""``trackside dead-letters`` without a broker: what is in the file, what is said of it, and what cannot be sent."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from trackside.control_plane import cli
from trackside.control_plane.letter_boxes import SentAgain
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRACKSIDE_CONFIG", raising=False)
    monkeypatch.delenv("CONFIG_PATH", raising=False)
    return tmp_path


def letter(topic: str, key: bytes = b"k", **fields: object) -> DeadLetter:
    common = {"time": "2026-05-01T12:00:00Z", "partition": 0, "reason": "too large", "value": bytes(100)}
    return DeadLetter(**{**common, "topic": topic, "key": key, **fields})  # type: ignore[arg-type]


def put(place: Path, *letters: DeadLetter) -> None:
    DeadLetterFile(place / "data" / "dead-letters").append(letters)


def run(text: str) -> int:
    return cli.run(["dead-letters", "--data-dir", "data", "--run-dir", "run", *shlex.split(text)])


def test_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("") == 0
    assert capsys.readouterr().out == "no dead letters\n"


def test_the_table_shows_what_is_there_and_steers_no_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, letter("Car.fast"), letter("Truck", b"\x1b[2J", reason="no\nright"), letter("", partition=0))
    assert run("") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "when", "topic", "key", "bytes", "where", "reason"]
    assert [line.split()[1:] for line in lines] == [
        ["2026-05-01T12:00:00Z", "Car.fast:0", "k", "100", "file", "too", "large"],
        ["2026-05-01T12:00:00Z", "Truck:0", "\\x1b[2J", "100", "file", "no\\nright"],
        ["2026-05-01T12:00:00Z", "unknown", "k", "100", "file", "too", "large"],
    ]


def test_letters_are_chosen_by_id_and_topic(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, letter("Car"), letter("Car", b"2"), letter("Truck"))
    assert run("--json --topic Car") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["topic"], row["key"]) for row in found] == [("Car", "k"), ("Car", "2")]
    assert run(f"--json --id {found[1]['id']}") == 0
    assert json.loads(capsys.readouterr().out) == found[1]


def test_what_was_sent_again_is_listed_only_when_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, letter("Car"), letter("Truck"))
    sent = SentAgain(place / "data" / "dead-letters")
    sent.add([next(DeadLetterFile(place / "data" / "dead-letters").letters()).id])
    with sent._path.open("ab") as file:
        file.write(b'{"id":"of a crash')
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out)["topic"] == "Truck"
    assert run("--json --sent") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["sent_again"] != "" for row in rows] == [True, False]
    sent.add(["another"])
    assert set(SentAgain(place / "data" / "dead-letters").times) == set(sent.times)


def test_nothing_is_taken_for_sent_without_a_server(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, letter("Car"))
    assert run("--resend") == 69
    out, err = capsys.readouterr()
    assert "0 sent again" in out
    assert err.startswith("trackside: ") and f"{place}/run" in err
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out)["topic"] == "Car"


def test_what_must_not_or_cannot_be_sent_is_left_and_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(place, letter(""), letter("Car", quarantined=True))
    assert run("--resend") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2] for line in lines] == [
        "not sent: nobody knows where it belongs",
        "not sent: its record ended a process; --id sends it all the same",
        "",
    ]
    assert lines[-1] == "0 sent again; 0 refused again; 2 not sent"
