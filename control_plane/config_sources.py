"""Where configuration comes from: AppConfig.json, the environment, flags. Each source yields what it gives, and where.

Nothing is judged here but whether a name is a key at all; types and ranges are the table's, and what goes together
is decided when everything is known (``config``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trackside.control_plane.config_keys import FOREIGN_SECTIONS, KEYS, SECTION, SECTIONS_INSIDE, Key, find_key
from trackside.control_plane.config_kinds import spelled
from trackside.control_plane.located_json import JsonError, Node, node_of, parse_json, shown_name

__all__ = [
    "FileNotUsable",
    "Given",
    "Problem",
    "Reading",
    "locate_file",
    "read_document",
    "read_environment",
    "read_flags",
]

FILE_BYTES_MAX = 1 << 20
FILE_VARIABLES = ("TRACKSIDE_CONFIG", "CONFIG_PATH")
_SECRET = re.compile("password|secret|token|security", re.IGNORECASE)
DEFAULT_FILE = os.path.join("Configs", "AppConfig.json")


@dataclass(frozen=True, slots=True)
class Given:
    """One value for one key, as it stood there."""

    key: Key
    raw: object
    origin: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: which key, with which value, what is allowed or contradicts, where it came from."""

    key: str
    value: str
    reason: str
    origin: str

    def __str__(self) -> str:
        value = f" = {self.value}" if self.value else ""
        origin = f" ({self.origin})" if self.origin else ""
        return f"{shown_name(self.key)}{value}: {self.reason}{origin}"


@dataclass(slots=True)
class Reading:
    """What the sources said so far; later ones count more."""

    given: list[Given] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, key: Key, raw: object, origin: str) -> None:
        self.given.append(Given(key, raw, origin))

    def unknown(self, name: str, value: object, origin: str) -> None:
        self.refuse(name, value, f"unknown key{suggestion(name)}", origin)

    def refuse(self, name: str, value: object, reason: str, origin: str) -> None:
        """A problem of something that may not have a row in the table; what looks like a secret is not shown."""
        shown = "" if isinstance(value, dict) or _SECRET.search(name) else shorten(value)
        self.problems.append(Problem(name, shown, reason, origin))


class FileNotUsable(Exception):
    """The file cannot be read as a whole: not there, not text, not JSON."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def locate_file(flag: str | None, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The configuration file and who named it: ``--config``, TRACKSIDE_CONFIG, CONFIG_PATH, else the place where the
    reference server looks, when there is a file. Raises FileNotUsable for a named file that does not exist.

    The reference appends CONFIG_PATH to the working directory even when it starts with a slash, and newer ones take
    it as it is; so both are looked at.
    """
    named = [("flag --config", flag)] if flag is not None else []
    named += [(f"environment {name}", environ[name]) for name in FILE_VARIABLES if environ.get(name)]
    if not named:
        return (DEFAULT_FILE, "working directory") if os.path.isfile(DEFAULT_FILE) else (None, "")
    origin, path = named[0]
    candidates = [path] if flag is not None else [path, os.path.join(os.getcwd(), path.lstrip("/"))]
    for candidate in candidates:
        if os.path.exists(candidate) and not os.path.isdir(candidate):
            return candidate, origin
    raise FileNotUsable(Problem("configuration file", path, "there is no such file", origin))


def read_document(reading: Reading, path: str) -> None:
    """Takes every key of the JSON file. Raises FileNotUsable."""
    _take_root(reading, _load(path), _FileOrigin(path))


def read_mapping(reading: Reading, config: Mapping[str, object]) -> None:
    """The same for what a program gave in place of a file."""
    _take_root(reading, node_of(config), _ArgumentOrigin())


def load_json(path: str, what: str) -> Node:
    """A JSON file of at most 1 MiB. Raises FileNotUsable naming the file as ``what``."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as failed:
        raise FileNotUsable(Problem(what, path, f"cannot be read: {failed.strerror}", "")) from None
    if len(data) > FILE_BYTES_MAX:
        raise FileNotUsable(Problem(what, path, f"is larger than {FILE_BYTES_MAX >> 20} MiB", ""))
    try:
        return parse_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise FileNotUsable(Problem(what, path, f"is {encoding}; save it as UTF-8", "")) from None
    except JsonError as wrong:
        place = f"{path}:{wrong.line}:{wrong.column}"
        raise FileNotUsable(Problem(what, "", f"no valid JSON: {wrong.reason}", place)) from None


def _load(path: str) -> Node:
    return load_json(path, "configuration file")


@dataclass(frozen=True, slots=True)
class _FileOrigin:
    path: str

    def at(self, node: Node) -> str:
        return f"{self.path}:{node.line}"


@dataclass(frozen=True, slots=True)
class _ArgumentOrigin:
    def at(self, node: Node) -> str:
        return "argument"


def _take_root(reading: Reading, root: Node, origin: _FileOrigin | _ArgumentOrigin) -> None:
    if not isinstance(root.value, dict):
        problem = Problem("configuration", shorten(root.plain()), "must be a JSON object {...}", origin.at(root))
        raise FileNotUsable(problem)
    sections = [name for name in root.value if spelled(name) == spelled(SECTION)]
    if not sections:
        _take_members(reading, root, "", origin)
        return
    section = root.value[sections[0]]
    if not isinstance(section.value, dict):
        problem = Problem(sections[0], shorten(section.plain()), "must be a JSON object {...}", origin.at(section))
        raise FileNotUsable(problem)
    _take_members(reading, section, "", origin)
    _judge_siblings(reading, root.value, sections[0], origin)


def _judge_siblings(
    reading: Reading, members: Mapping[str, Node], section: str, origin: _FileOrigin | _ArgumentOrigin
) -> None:
    """What stands beside the section belongs to other programs when it is a section itself; a key there is lost."""
    for name, node in members.items():
        if name == section or spelled(name) in FOREIGN_SECTIONS:
            continue
        if find_key(name) is not None or spelled(name) in (spelled(SECTION), *SECTIONS_INSIDE):
            reason = f"stands beside {section}, where nobody reads it; move it into that section"
            reading.refuse(name, node.plain(), reason, origin.at(node))
        elif isinstance(node.value, dict):
            reading.notes.append(f"section {name} is not for this server ({origin.at(node)})")
        else:
            reading.unknown(name, node.plain(), origin.at(node))


def _take_members(reading: Reading, section: Node, prefix: str, origin: _FileOrigin | _ArgumentOrigin) -> None:
    assert isinstance(section.value, dict)
    seen: dict[str, str] = {}
    for name, node in section.value.items():
        place = origin.at(node)
        if not prefix and spelled(name) in FOREIGN_SECTIONS:
            continue
        first = seen.setdefault(spelled(name), name)
        if first != name:
            reading.refuse(prefix + name, node.plain(), f"the same key stands there as {first}, too", place)
            continue
        _take_member(reading, prefix + name, node, place, origin)


def _take_member(reading: Reading, name: str, node: Node, place: str, origin: _FileOrigin | _ArgumentOrigin) -> None:
    if node.value is None:
        return  # the reference takes a null for "not set"
    key = find_key(name)
    if key is not None:
        reading.take(key, node.plain(), place)
    elif spelled(name) in SECTIONS_INSIDE and isinstance(node.value, dict):
        _take_members(reading, node, f"{name}.", origin)
    elif spelled(name) in SECTIONS_INSIDE:
        reading.refuse(name, node.plain(), "must be a JSON object {...}", place)
    else:
        reading.unknown(name, node.plain(), place)


def read_environment(reading: Reading, environ: Mapping[str, str]) -> None:
    """``StreamApiConfig__Key`` in any case, a TRACKSIDE_ name for each key, and what the reference's images read."""
    found: dict[str, list[tuple[str, object]]] = {}
    names = {variable.lower(): key for key in KEYS for variable in key.variables}
    elements: dict[int, dict[str, str]] = {}
    for variable in sorted(environ):
        if (key := names.get(variable.lower())) is not None:
            found.setdefault(key.name, []).append((variable, environ[variable]))
        elif variable.lower().startswith(f"{SECTION}__".lower()):
            if not _take_element(elements, variable, environ[variable]):
                reading.unknown(variable, environ[variable], "environment")
        elif variable.startswith("TRACKSIDE_"):
            _note_near_miss(reading, variable)
    if elements:
        variable = f"{SECTION}__PartitionMappings__*"
        found.setdefault("PartitionMappings", []).append((variable, [elements[i] for i in sorted(elements)]))
    for name, values in found.items():
        _take_variables(reading, name, values)


def _take_variables(reading: Reading, name: str, values: list[tuple[str, object]]) -> None:
    key = find_key(name)
    assert key is not None, "names come from the table"
    variable, raw = values[0]
    if contradicting := [other for other, value in values[1:] if value != raw]:
        shown = "" if key.secret else shorten(raw)
        reason = f"{contradicting[0]} gives the same key another value"
        reading.problems.append(Problem(name, shown, reason, f"environment {variable}"))
    reading.take(key, raw, f"environment {variable}")


def _take_element(elements: dict[int, dict[str, str]], variable: str, value: str) -> bool:
    """``StreamApiConfig__PartitionMappings__0__Stream``: one field of one element of the array."""
    match = re.fullmatch(r"\w+?__partitionmappings__(\d{1,4})__(stream|partition)", variable.lower())
    if match is None:
        return False
    elements.setdefault(int(match.group(1)), {})[match.group(2)] = value
    return True


def _note_near_miss(reading: Reading, variable: str) -> None:
    """Tests, clients and scripts have TRACKSIDE_ variables, too; only what looks like a slip is worth a note."""
    from difflib import get_close_matches

    names = [key.own_variable for key in KEYS if not key.instead] + ["TRACKSIDE_CONFIG"]
    if variable not in names and (close := get_close_matches(variable, names, 1, 0.85)):
        reading.notes.append(f"environment {variable} is read by nobody; did you mean {close[0]}?")


def read_flags(reading: Reading, flags: Mapping[str, object]) -> None:
    """``flags`` maps names of keys to what the command line (or a program) said; None is "not said"."""
    for name, raw in flags.items():
        key = find_key(name)
        if raw is None:
            continue
        if key is None:
            reading.unknown(name, raw, "argument")
        else:
            reading.take(key, raw, f"flag {key.flag}" if key.flag else "argument")


def suggestion(name: str) -> str:
    """``; did you mean X?`` where X is a key that is spelled nearly like ``name``."""
    from difflib import get_close_matches

    tail = name.split("__", 1)[-1] if spelled(name).startswith(spelled(SECTION)) else name
    names: Iterable[str] = [key.name for key in KEYS] + [SECTION]
    by_spelling = {spelled(candidate): candidate for candidate in names}
    close = get_close_matches(spelled(tail), by_spelling, 1, 0.7)
    return f"; did you mean {by_spelling[close[0]]}?" if close else ""


def shorten(value: object) -> str:
    """A value for an error message: quoted when it is text, at most 60 characters."""
    text = repr(value) if isinstance(value, str | float | int | None) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
