"""Which data sources a right holds for, and which tokens files are taken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from trackside.data_plane import access, rights
from trackside.data_plane.access import ANYBODY, CALLER, Caller, Forbidden, Grant, Unauthenticated, require, require_own
from trackside.data_plane.reflection import METHODS as REFLECTION_METHODS
from trackside.data_plane.rights import CONNECTION, EVERY, NEEDS, RIGHTS, SESSION
from trackside.data_plane.tokens_file import Tokens, TokensFile, TokensNotUsable, hash_of

HASH = hash_of("car")


def reads(*patterns: str) -> Caller:
    return Caller(Grant("reader", read=list(patterns)))


def methods() -> Iterator[Any]:
    for file in (api_pb2.DESCRIPTOR, key_generator_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            yield from service.methods


def test_every_method_says_which_right_it_needs() -> None:
    """By the descriptors: nobody can add a method and forget who may call it, or name a field that is not there."""
    known = {f"/{method.containing_service.full_name}/{method.name}": method for method in methods()}
    assert set(NEEDS) == {*known, *REFLECTION_METHODS}
    for path, need in NEEDS.items():
        assert need.right in (None, *RIGHTS)
        if need.right is None:
            continue
        message = known[path].input_type
        if need.source == SESSION:
            assert "session_key" in message.fields_by_name, path
        elif need.source == CONNECTION:
            inner = message.fields_by_name.get("request")
            assert "connection" in (inner.message_type if inner else message).fields_by_name, path
        elif need.source != EVERY:
            for name in need.source.split("."):
                message = message.fields_by_name[name].message_type or message.fields_by_name[name]
            assert message.name == "data_source", path


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("Car44", ["Car44", "Car44.Front", "Car44.a.b"], ["Car440", "Car4", "car44", "Car44_essential", "", "XCar44"]),
        ("Car*", ["Car", "Car44", "Car.44"], ["car", "ACar"]),
        ("Car?", ["Car4", "Car4.x"], ["Car", "Car44"]),
        ("Team.Car", ["Team.Car", "Team.Car.x"], ["Team", "TeamXCar", "Team.Cars"]),
        ("*", ["Car", "a.b", "\n"], ["x" * 300]),
        ("*.Car", ["A.Car", "A.B.Car", "A.Car.x"], ["Car", "A.Carx"]),
    ],
)
def test_which_data_sources_a_pattern_means(pattern: str, yes: list[str], no: list[str]) -> None:
    caller = reads("NeverThis", pattern)
    for name in yes:
        assert caller.may("read", name), name
        assert not caller.may("write", name)
    for name in no:
        assert not caller.may("read", name), name


def test_a_name_cannot_escape_its_pattern() -> None:
    for name in ("Car44\n", "Car44\nBoat", "Boat\nCar44", "Car44|Boat", "Boat.Car44", "Car44\x00", " Car44"):
        assert not reads("Car44").may("read", name), name


def test_no_rights_are_no_rights() -> None:
    assert not any(Caller(Grant("nobody")).may(right, name) for right in RIGHTS for name in ("", "Car", EVERY))


def test_everything_is_only_what_is_said_to_be() -> None:
    assert reads("*").may("read", EVERY)
    assert not reads("**", "?*", "Car*").may("read", EVERY)


def test_long_names_cost_nothing() -> None:
    """Ten million characters with as many dots, against patterns made to go back and forth."""
    caller = reads(*["*a" * 40 + "c"] * 30)
    begun = time.monotonic()
    assert not caller.may("read", "a." * 5_000_000)
    assert not caller.may("read", "a." * 124)
    assert time.monotonic() - begun < 30  # no measure of speed: one that goes back and forth takes for ever


def test_refusals_name_the_right_and_the_data_source() -> None:
    before = CALLER.set(reads("Car"))
    try:
        require("read", "Car")
        with pytest.raises(Forbidden, match=r"^token reader has no right to write data source 'Car'$"):
            require("write", "Car")
        with pytest.raises(Forbidden, match=r"^token reader has no right to write all data sources$"):
            require("write", EVERY)
        with pytest.raises(Forbidden) as caught:
            require("write", "x\n" * 5000)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
        require_own("reader")
        for other in ("", "Reader", "other"):
            with pytest.raises(Forbidden, match="belongs to who made it"):
                require_own(other)
    finally:
        CALLER.reset(before)


def test_without_tokens_everybody_may_do_everything() -> None:
    assert CALLER.get() is ANYBODY
    require("manage", EVERY)
    require_own("whoever made it while tokens were asked for")


# -- the file -----------------------------------------------------------------------------------------------------------


def document(**fields: Any) -> bytes:
    return json.dumps({"tokens": [{"name": "car", "sha256": [HASH], **fields}]}).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no tokens file: "),
        (b"\xff\xfe", "no tokens file: "),
        (b"[" * 100_000, "no tokens file: "),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `tokens`"),
        (b'{"tokens": [{}]}', "missing required field `name` - at `$.tokens[0]`"),
        (document(reed=["Car"]), "unknown field `reed` - at `$.tokens[0]`"),
        (document(read="Car"), "Expected `array`, got `str` - at `$.tokens[0].read`"),
        (document(read=["Car", "Ca r"]), "tokens[0].read: 'Ca r', wanted 1 to 100 of "),
        (document(write=[""]), "tokens[0].write: '', wanted"),
        (document(write=["(a+)+$"]), "tokens[0].write: '(a+)+$', wanted"),
        (document(manage=["x"] * 33), "tokens[0].manage: 33 patterns; at most 32"),
        (document(read=["x" * 100] * 32, write=["y" * 100] * 32), "tokens[0]: its patterns take "),
        (document(name="a b"), "tokens[0].name: 'a b', wanted"),
        (document(name=""), "tokens[0].name: '', wanted"),
        (document(sha256=[]), "tokens[0].sha256: 0 hashes, wanted 1"),
        (document(sha256=[HASH, HASH]), "a hash stands there twice"),
        (document(sha256=["my-s3cret-token"]), "tokens[0].sha256: no hash, wanted 64"),
    ],
)
def test_files_that_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(TokensNotUsable) as caught:
        Tokens(data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_names_and_hashes_stand_there_once() -> None:
    row = {"name": "car", "sha256": [HASH]}
    for other, says in (
        ({**row, "sha256": [hash_of("x")]}, "stands there twice"),
        ({**row, "name": "b"}, "a hash stands"),
    ):
        with pytest.raises(TokensNotUsable, match=says):
            Tokens(json.dumps({"tokens": [row, other]}).encode())


def test_who_is_found() -> None:
    tokens = Tokens(document(sha256=[HASH, hash_of("spare")], read=["Car"]))
    for good in ("Bearer car", "bearer car", "BEARER  car ", "Bearer spare"):
        assert tokens.caller(good).name == "car"
    bad = ["", "car", "Basic car", "Bearer", "Bearer ", "Bearer Car", f"Bearer {HASH}", "Bearer " + "x" * 5000]
    for authorization in bad:
        with pytest.raises(Unauthenticated) as caught:
            tokens.caller(authorization)
        assert "Car" not in str(caught.value) and HASH not in str(caught.value)
    with pytest.raises(Unauthenticated):
        Tokens(b'{"tokens": []}').caller("Bearer car")


def test_what_does_not_change_stays_the_same_caller(tmp_path: Path) -> None:
    """By identity: a gateway ends the calls of those that are no more."""
    path = tmp_path / "tokens.json"
    file = TokensFile(str(path))
    with pytest.raises(TokensNotUsable, match="No such file"):
        file.read_changed()
    path.write_bytes(document(read=["Car"]))
    first = file.read_changed()
    assert first is not None and file.read_changed() is None
    path.write_bytes(document(sha256=[HASH, hash_of("new")], read=["Car"]))
    second = file.read_changed()
    assert second is not None and second.callers[HASH] is first.callers[HASH]
    path.write_bytes(b"{")
    with pytest.raises(TokensNotUsable, match=str(path)):
        file.read_changed()
    path.write_bytes(document(read=["Car", "Boat"]))
    third = file.read_changed()
    assert third is not None and third.callers[HASH] is not first.callers[HASH]


def test_a_file_that_everybody_may_change_is_no_proof_of_anything(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(document())
    path.chmod(0o666)
    with pytest.raises(TokensNotUsable, match="everybody on this machine may change it; chmod o-w"):
        TokensFile(str(path)).read_changed()


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for path, need in NEEDS.items():
        assert rights.table_row(path, need) in page, path
    assert access.CALLER_METADATA.startswith("trackside-")  # which no client can send as far as the control plane
