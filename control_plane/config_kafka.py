"""What the broker connection is made of besides its address: the Security section and the override files.

All of it becomes librdkafka properties, as text; the Kafka log gives them to every client it makes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from trackside.control_plane.config_kinds import spelled
from trackside.control_plane.config_sources import FileNotUsable, Problem, Reading, load_json, shorten
from trackside.control_plane.located_json import Node, shown_name
from trackside.data_plane.kafka_overrides import KEPT_CONSUMER, KEPT_PUBLISHER, broken_promises, named

__all__ = ["read_overrides", "security_is_on", "security_problems", "security_properties"]

PROTOCOLS = {"Plaintext": "PLAINTEXT", "Ssl": "SSL", "SaslPlaintext": "SASL_PLAINTEXT", "SaslSsl": "SASL_SSL"}
MECHANISMS = {"Plain": "PLAIN", "ScramSha256": "SCRAM-SHA-256", "ScramSha512": "SCRAM-SHA-512"}
PROPERTIES = {
    "SaslUsername": "sasl.username",
    "SaslPassword": "sasl.password",
    "SslCaLocation": "ssl.ca.location",
    "SslCertificateLocation": "ssl.certificate.location",
    "SslKeyLocation": "ssl.key.location",
    "SslKeyPassword": "ssl.key.password",
}
FILES = ("SslCaLocation", "SslCertificateLocation", "SslKeyLocation")


class Side(NamedTuple):
    """One override file: which key names it, its section in the whitelist, what is never taken from it."""

    key: str
    section: str
    kept: frozenset[str]


PUBLISHING = Side("KafkaBrokerPublishingConfigFilePath", "Publish", KEPT_PUBLISHER)
CONSUMING = Side("KafkaBrokerConsumingConfigFilePath", "Consume", KEPT_CONSUMER)
WHITELIST_KEY = "KafkaBrokerConfigWhitelistFilePath"


def security_is_on(fields: Mapping[str, object]) -> bool:
    return any(fields.get(name) for name in ("SaslUsername", "SslCaLocation", "SslCertificateLocation"))


def security_properties(fields: Mapping[str, object]) -> dict[str, str]:
    """librdkafka properties of a Security section whose fields are checked; empty when it is off."""
    if not security_is_on(fields):
        return {}
    protocol = _protocol(fields)
    properties = {"security.protocol": PROTOCOLS[protocol]}
    if protocol.startswith("Sasl"):
        properties["sasl.mechanism"] = MECHANISMS[str(fields["Mechanism"])]
    used = [name for name in PROPERTIES if fields.get(name)]
    return properties | {PROPERTIES[name]: str(fields[name]) for name in used}


def _protocol(fields: Mapping[str, object]) -> str:
    if fields.get("Protocol"):
        return str(fields["Protocol"])
    return "SaslPlaintext" if fields.get("SaslUsername") else "Ssl"


def security_problems(fields: Mapping[str, object], origins: Mapping[str, str]) -> list[Problem]:
    """Contradictions inside a Security section that is on."""
    if not security_is_on(fields):
        return []
    protocol, found = _protocol(fields), []
    name, secret = fields.get("SaslUsername"), fields.get("SaslPassword")

    def refuse(key: str, reason: str) -> None:
        value = "" if key.endswith("Password") else str(fields.get(key) or "")
        found.append(Problem(f"Security.{key}", value, reason, origins.get(key, "")))

    if protocol.startswith("Sasl") and not name:
        refuse("Protocol", "needs Security.SaslUsername, which is empty")
    if protocol.startswith("Sasl") and name and not secret:
        refuse("SaslPassword", "is empty, and Security.SaslUsername needs one")
    if not protocol.startswith("Sasl") and name:
        refuse("Protocol", "sends no user name, but Security.SaslUsername is set; use SaslPlaintext or SaslSsl")
    if bool(fields.get("SslCertificateLocation")) != bool(fields.get("SslKeyLocation")):
        refuse("SslCertificateLocation", "a certificate and Security.SslKeyLocation go together")
    for key in FILES:
        if fields.get(key) and not os.path.isfile(str(fields[key])):
            refuse(key, "there is no such file")
    return found


def read_overrides(reading: Reading, paths: Mapping[str, str], said: frozenset[str]) -> tuple[dict[str, str], ...]:
    """Properties for clients that write and for clients that read, as far as the whitelist lets them through.

    ``paths`` maps the three keys to their files; ``said`` are those that somebody set, whose absence is noted.
    Problems go to ``reading``.
    """
    whitelist = _load_object(reading, WHITELIST_KEY, paths, said)
    return tuple(_overrides_of(reading, side, whitelist, paths, said) for side in (PUBLISHING, CONSUMING))


def _overrides_of(
    reading: Reading, side: Side, whitelist: Node | None, paths: Mapping[str, str], said: frozenset[str]
) -> dict[str, str]:
    overrides = _load_object(reading, side.key, paths, said)
    if overrides is None:
        return {}
    rules = _rules(reading, whitelist, side.section, _path(paths[WHITELIST_KEY]))
    assert isinstance(overrides.value, dict)
    taken: dict[str, str] = {}
    for name, node in overrides.value.items():
        origin = f"{_path(paths[side.key])}:{node.line}"
        if side.kept.intersection(named({name: ""})):
            reading.notes.append(f"{shown_name(name)} is never taken from an override file ({origin})")
        elif not _allowed(rules, name):
            reading.notes.append(f"{shown_name(name)} is denied by {_path(paths[WHITELIST_KEY])} ({origin})")
        elif isinstance(node.value, str | int | float):
            taken[name] = _text(node.value)
        else:
            reading.problems.append(Problem(name, shorten(node.plain()), "must be text, a number or a boolean", origin))
    if side is PUBLISHING:
        reading.notes.extend(f"{name} = {value} breaks {what}" for name, value, what in broken_promises(taken))
    return taken


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _load_object(reading: Reading, key: str, paths: Mapping[str, str], said: frozenset[str]) -> Node | None:
    path = _path(paths[key])
    if not paths[key]:
        return None
    if not os.path.exists(path):
        if key in said:
            reading.notes.append(f"{key}: there is no {path}, so nothing is overridden")
        return None
    try:
        node = load_json(path, key)
    except FileNotUsable as failed:
        reading.problems.append(failed.problem)
        return None
    if not isinstance(node.value, dict):
        reading.problems.append(Problem(key, "", "must be a JSON object {...}", f"{path}:{node.line}"))
        return None
    return node


def _path(text: str) -> str:
    """A name without the extension gets it, as in the reference."""
    return text if text.lower().endswith(".json") else f"{text}.json"


Rule = tuple[str, bool]


def _rules(reading: Reading, whitelist: Node | None, section: str, path: str) -> list[Rule]:
    """The rules of one section; no rules let everything through."""
    if whitelist is None:
        return []
    assert isinstance(whitelist.value, dict)
    rows = next((node for name, node in whitelist.value.items() if spelled(name) == spelled(section)), None)
    if rows is None or rows.value is None:
        return []
    if not isinstance(rows.value, list):
        reading.problems.append(Problem(section, "", "must be an array of rules", f"{path}:{rows.line}"))
        return []
    return [rule for row in rows.value if (rule := _rule(reading, row, section, path)) is not None]


def _rule(reading: Reading, row: Node, section: str, path: str) -> Rule | None:
    plain = row.plain()
    fields = {spelled(str(name)): value for name, value in plain.items()} if isinstance(plain, dict) else {}
    pattern, allow = fields.get("pattern"), fields.get("allow")
    if isinstance(pattern, str) and isinstance(allow, bool) and len(fields) == 2:
        return pattern, allow
    reason = 'a rule is {"Pattern": text, "Allow": true or false}'
    reading.problems.append(Problem(section, shorten(plain), reason, f"{path}:{row.line}"))
    return None


def _allowed(rules: list[Rule], name: str) -> bool:
    """The first rule that matches decides; where there are rules and none matches, no."""
    return next((allow for pattern, allow in rules if _matches(pattern, name)), not rules)


def _matches(pattern: str, name: str) -> bool:
    """In time that grows with pattern times name only, whatever the pattern: the last star takes one more at a time."""
    pattern, name = pattern.lower(), name.lower()
    at = matched = 0
    star, taken = -1, 0
    while matched < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, taken = at, matched
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[matched]):
            at, matched = at + 1, matched + 1
        elif star >= 0:
            taken += 1
            at, matched = star + 1, taken
        else:
            return False
    return not pattern[at:].strip("*")
