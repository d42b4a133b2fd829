"""The tokens file: names, hashes and rights, as JSON that an operator writes and may change while the server runs.

::

    {"tokens": [{"name": "car-44", "sha256": ["9f86d081..."], "read": ["Car44"], "write": ["Car44"], "manage": ["Car44"]}]}

Tokens themselves stand nowhere. One name may have several hashes: so a token can be replaced without a moment in which
neither holds.
"""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

from trackside.data_plane.access import Caller, Grant, Unauthenticated, shown
from trackside.data_plane.rights import RIGHTS
from trackside.data_plane.small_file import FileNotReadable, WatchedFiles
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["NAME", "PATTERN", "Tokens", "TokensFile", "TokensNotUsable", "hash_of"]

TOKENS_MAX = 1000
PATTERNS_MAX = 32
"""Of one right of one token: all patterns of a token travel with each control call."""

GRANT_BYTES_MAX = 4096
"""Of one token's rights: they travel in the metadata of each control call, of which grpc takes 8 KiB."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,100}")
HASH = re.compile(r"[0-9a-f]{64}")

TOKEN_CHARACTERS_MAX = 4096


class TokensNotUsable(Exception):
    """One line: what is wrong with the tokens file."""


class TokensFile:
    """The tokens of a file that may change. Blocks for the file system."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = WatchedFiles([path])
        self._tokens: Tokens | None = None

    def read_changed(self) -> Tokens | None:
        """None when nothing has changed. Raises TokensNotUsable, once for each change."""
        try:
            contents = self._files.read_changed()
        except FileNotReadable as error:
            raise TokensNotUsable(str(error)) from None
        if contents is None:
            return None
        try:
            self._tokens = Tokens(contents[0], self._tokens)
        except TokensNotUsable as error:
            raise TokensNotUsable(f"{self._path}: {error}") from None
        return self._tokens


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    sha256: list[str]
    read: list[str] = []
    write: list[str] = []
    manage: list[str] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[_Row]


def _grant(row: _Row) -> Grant:
    return Grant(row.name, row.read, row.write, row.manage)


def hash_of(token: str) -> str:
    """What the file keeps of a token: it has 256 random bits, so nothing slower than SHA-256 is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens of one file. Callers of ``before`` whose token and rights are the same stay the same."""

    def __init__(self, data: bytes, before: Tokens | None = None) -> None:
        """Raises TokensNotUsable."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except UNDECODABLE as error:
            raise TokensNotUsable(f"no tokens file: {error}") from None
        _check(file.tokens)
        kept = before.callers if before else {}
        self.callers: dict[str, Caller] = {}  # by hash
        for row in file.tokens:
            grant = _grant(row)
            for hash in row.sha256:
                same = kept.get(hash)
                self.callers[hash] = same if same is not None and same.grant == grant else Caller(grant)
        self._by_beginning: dict[str, list[str]] = {}
        for hash in self.callers:
            self._by_beginning.setdefault(hash[:BEGINNING], []).append(hash)

    def caller(self, authorization: str) -> Caller:
        """The caller of this ``authorization`` metadata. Raises Unauthenticated."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_CHARACTERS_MAX:
            raise Unauthenticated("authorization: not understood, wanted `Bearer` and a token")
        hash = hash_of(token.strip())
        # Nobody chooses a hash, so where it leads tells nothing of the others; the rest takes the same time always.
        for known in self._by_beginning.get(hash[:BEGINNING], ()):
            if hmac.compare_digest(known, hash):
                return self.callers[known]
        raise Unauthenticated("authorization: unknown token")


BEGINNING = 4
"""Characters of a hash by which it is looked up."""


def _check(rows: list[_Row]) -> None:
    """Raises TokensNotUsable."""
    if len(rows) > TOKENS_MAX:
        raise TokensNotUsable(f"tokens: {len(rows)} of them; at most {TOKENS_MAX} are taken")
    names: set[str] = set()
    hashes: set[str] = set()
    for number, row in enumerate(rows):
        place = f"tokens[{number}]"
        if not NAME.fullmatch(row.name):
            raise TokensNotUsable(f"{place}.name: {shown(row.name)}, wanted 1 to 64 of A-Z a-z 0-9 . _ -")
        if row.name in names:
            raise TokensNotUsable(f"{place}.name: {row.name} stands there twice; one name may have several hashes")
        names.add(row.name)
        _check_hashes(place, row.sha256, hashes)
        for right in RIGHTS:
            _check_patterns(f"{place}.{right}", getattr(row, right))
        if (size := len(Caller(_grant(row)).encoded)) > GRANT_BYTES_MAX:
            raise TokensNotUsable(f"{place}: its patterns take {size} bytes; at most {GRANT_BYTES_MAX} are taken")


def _check_hashes(place: str, hashes: list[str], seen: set[str]) -> None:
    if not 1 <= len(hashes) <= PATTERNS_MAX:
        raise TokensNotUsable(f"{place}.sha256: {len(hashes)} hashes, wanted 1 to {PATTERNS_MAX}")
    for hash in hashes:
        if not HASH.fullmatch(hash):  # what stands there may be the token itself: it is not shown
            raise TokensNotUsable(f"{place}.sha256: no hash, wanted 64 of 0-9 a-f; `trackside token` makes one")
        if hash in seen:
            raise TokensNotUsable(f"{place}.sha256: a hash stands there twice")
        seen.add(hash)


def _check_patterns(place: str, patterns: list[str]) -> None:
    if len(patterns) > PATTERNS_MAX:
        raise TokensNotUsable(f"{place}: {len(patterns)} patterns; at most {PATTERNS_MAX} are taken")
    for pattern in patterns:
        if not PATTERN.fullmatch(pattern):
            raise TokensNotUsable(f"{place}: {shown(pattern)}, wanted 1 to 100 of A-Z a-z 0-9 . _ - * ?")
