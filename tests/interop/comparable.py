"""Makes what a client printed comparable: what a server chooses anew each time gets a name, a packet that is one of
the scenario's becomes that packet's name there."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

__all__ = ["comparable"]

DOUBLES_EXACT_TO = 2**53
"""Number keys lie above it, so a client that keeps them as doubles shows."""


def comparable(result: dict[str, Any], scenario: dict[str, Any], data_source: str) -> dict[str, Any]:
    """``result`` with names in place of what differs between two correct runs. Raises AssertionError for keys and
    data format identifiers that break a promise of their own."""
    check_keys(result["keys"])
    names = names_of_choices(result)
    known = {name: as_read(packet) for name, packet in scenario["packets"].items()}
    rest = {step: got for step, got in result.items() if step != "keys"}
    rest["refused"] = [{**error, "message": field_of(error["message"])} for error in rest["refused"]]
    found = _renamed(rest, names, data_source, known)
    assert isinstance(found, dict)
    return found


def field_of(message: str) -> str:
    """The field that an error names first; the rest is for people and may be put better."""
    return message.partition(":")[0]


def check_keys(keys: dict[str, list[str]]) -> None:
    texts, numbers = keys["texts"], [int(number) for number in keys["numbers"]]
    assert all(str(uuid.UUID(text)) == text for text in texts) and len(set(texts)) == len(texts), texts
    assert all(before < after for before, after in itertools.pairwise([DOUBLES_EXACT_TO, *numbers])), numbers


def names_of_choices(result: dict[str, Any]) -> dict[str, str]:
    """The texts that the server chose, and what they are."""
    key = result["created"]["session_key"]
    assert str(uuid.UUID(key)) == key
    formats = result["formats"]
    numbers = {formats["parameters"][0]: "<list>", formats["parameters"][1]: "<turned>", formats["event"][0]: "<event>"}
    assert len(numbers) == 3 and "0" not in numbers, formats
    return {key: "<session>", **numbers}


def as_read(packet: dict[str, Any]) -> dict[str, Any]:
    """How clients describe a packet of the scenario when they have read it."""
    told = ("id", "type", "session_key", "essential", "content")
    return {**{field: packet[field] for field in told}, "has_submit_time": True}


def _renamed(found: Any, names: dict[str, str], data_source: str, known: dict[str, dict[str, Any]]) -> Any:
    if isinstance(found, dict):
        for name, packet in known.items():
            if found == packet:
                return name
        return {
            _text(key, names, data_source): _renamed(value, names, data_source, known) for key, value in found.items()
        }
    if isinstance(found, list):
        return [_renamed(value, names, data_source, known) for value in found]
    return _text(found, names, data_source) if isinstance(found, str) else found


def _text(found: str, names: dict[str, str], data_source: str) -> str:
    return names.get(found, found.replace(data_source, "<source>"))
