"""Strict JSON that remembers where each value stands, so that an error can say ``AppConfig.json:12``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder

__all__ = ["JsonError", "Node", "node_of", "parse_json", "shown_name"]

DEPTH_MAX = 32
DIGITS_MAX = 1000
NAME_CHARACTERS_SHOWN = 100
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRINGS = JSONDecoder()
_WORDS = {"true": True, "false": False, "null": None}


class JsonError(Exception):
    """What is wrong and where; lines and columns count from 1."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"{reason} (line {line}, column {column})")
        self.reason = reason
        self.line = line
        self.column = column


def shown_name(name: str) -> str:
    """A name for a message: in one line, whatever somebody wrote there."""
    if name.isprintable() and len(name) <= NAME_CHARACTERS_SHOWN:
        return name
    text = repr(name)
    return text if len(text) <= NAME_CHARACTERS_SHOWN else f"{text[:NAME_CHARACTERS_SHOWN]}... ({len(name)} characters)"


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value. Objects hold ``dict[str, Node]``, arrays ``list[Node]``. ``line`` is 0 when it came from a
    program, else the line of the name in front of it, or its own."""

    value: object
    line: int = 0

    def plain(self) -> object:
        """The value as ordinary Python objects."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def node_of(value: object) -> Node:
    """Wraps what a program gave in place of a file."""
    if isinstance(value, Mapping):
        return Node({str(name): node_of(child) for name, child in value.items()})
    if isinstance(value, list | tuple):
        return Node([node_of(child) for child in value])
    return Node(value)


def parse_json(text: str) -> Node:
    """Raises JsonError. A byte-order mark in front is accepted: editors on Windows write one."""
    return _Parser(text.removeprefix("\ufeff")).document()


class _Parser:
    """Recursive descent; every method starts at ``self.at`` and leaves it behind what it took."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def document(self) -> Node:
        self.skip_space()
        if not self.peek():
            raise self.error("the file is empty, and JSON needs at least {}")
        node = self.value()
        self.skip_space()
        if self.peek():
            raise self.error(f"{self.peek()!r} stands behind the end of the document")
        return node

    def value(self) -> Node:
        line, character = self.line(), self.peek()
        if character == "{":
            return Node(self.nested(self.members), line)
        if character == "[":
            return Node(self.nested(self.elements), line)
        if character == '"':
            return Node(self.string(), line)
        return Node(self.scalar(), line)

    def nested(self, read: Callable[[], object]) -> object:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise self.error(f"nested deeper than {DEPTH_MAX} levels")
        self.at += 1
        result = read()
        self.depth -= 1
        return result

    def members(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for _ in self.items("}"):
            if self.peek() != '"':
                raise self.error(f"a name in double quotes is expected, not {self.what()}")
            line, start = self.line(), self.at
            name = self.string()
            if name in found:
                raise self.error(
                    f"{shown_name(name)} stands twice in this object, first in line {found[name].line}", start
                )
            self.expect(":", f"a colon is expected behind {shown_name(name)}")
            self.skip_space()
            found[name] = Node(self.value().value, line)
        return found

    def elements(self) -> list[Node]:
        return [self.value() for _ in self.items("]")]

    def items(self, end: str) -> Iterator[None]:
        """Stops in front of each item; the caller takes it before it asks for the next."""
        self.skip_space()
        if self.peek() == end:
            self.at += 1
            return
        while True:
            self.skip_space()
            if self.peek() == end:
                raise self.error("a comma in front of the closing bracket is not allowed in JSON")
            yield
            self.skip_space()
            if self.peek() == end:
                self.at += 1
                return
            self.expect(",", f"a comma or {end} is expected")

    def scalar(self) -> object:
        if number := _NUMBER.match(self.text, self.at):
            if len(number.group()) > DIGITS_MAX:
                raise self.error(f"a number of {len(number.group())} characters; at most {DIGITS_MAX} are taken")
            self.at = number.end()
            return float(number.group()) if number.group(1) or number.group(2) else int(number.group())
        for word, meaning in _WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return meaning
        raise self.error(f"a value is expected, not {self.what()}")

    def string(self) -> str:
        try:
            value, self.at = _STRINGS.raw_decode(self.text, self.at)
        except JSONDecodeError as wrong:
            raise self.error(f"text in quotes is broken: {wrong.msg}", wrong.pos) from None
        return str(value)

    def expect(self, character: str, reason: str) -> None:
        self.skip_space()
        if self.peek() != character:
            raise self.error(f"{reason}, not {self.what()}")
        self.at += 1

    def skip_space(self) -> None:
        space = _SPACE.match(self.text, self.at)
        assert space is not None, "the pattern matches the empty text"
        self.at = space.end()

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def what(self) -> str:
        if self.text.startswith(("//", "/*"), self.at):
            return "a comment, which JSON does not have"
        return repr(self.peek()) if self.peek() else "the end of the file"

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def error(self, reason: str, at: int | None = None) -> JsonError:
        position = self.at if at is None else at
        line = self.text.count("\n", 0, position) + 1
        column = position - (self.text.rfind("\n", 0, position) + 1) + 1
        return JsonError(reason, line, column)
