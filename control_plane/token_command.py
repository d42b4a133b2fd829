"""``trackside token``: makes a token, and the entry of the tokens file that knows it by its hash.

The token is printed once and stands nowhere else.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.data_plane.rights import RIGHTS
from trackside.data_plane.small_file import FileNotReadable, read_small_file
from trackside.data_plane.tokens_file import Tokens, TokensNotUsable, hash_of

__all__ = ["Made", "add_to_file", "make_token"]

PREFIX = "trackside_"
"""So that scanners for secrets find one that was left somewhere."""

RANDOM_BYTES = 32


class Made(NamedTuple):
    """``entry`` is the token's row in the file."""

    token: str
    entry: dict[str, Any]


def make_token(name: str, rights: dict[str, Sequence[str]]) -> Made:
    """Raises CommandFailed for a name or a pattern that cannot be one."""
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    entry: dict[str, Any] = {"name": name, "sha256": [hash_of(token)]}
    entry |= {right: list(rights[right]) for right in RIGHTS if rights.get(right)}
    _check({"tokens": [entry]}, ExitCode.USAGE)
    return Made(token, entry)


def add_to_file(path: Path, made: Made) -> None:
    """Add the entry to the file, which need not be there; a name that is there gets one hash more, and keeps its
    rights. Raises CommandFailed, and then nothing has changed."""
    document = _read(path)
    known = next((row for row in document["tokens"] if row["name"] == made.entry["name"]), None)
    if known is None:
        document["tokens"].append(made.entry)
    elif any(right in made.entry for right in RIGHTS):
        raise CommandFailed(
            ExitCode.USAGE,
            f"{path}: {known['name']} is there and has rights; leave them out for one more token with the same, or "
            "change them in the file",
        )
    else:
        known["sha256"] += made.entry["sha256"]
    _check(document, ExitCode.USAGE)
    _replace(path, document)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"tokens": []}
    try:
        data = read_small_file(str(path))
        Tokens(data)
    except (FileNotReadable, TokensNotUsable) as error:
        raise CommandFailed(ExitCode.CONFIGURATION, str(error)) from None
    document: dict[str, Any] = json.loads(data)
    return document


def _check(document: dict[str, Any], code: ExitCode) -> None:
    try:
        Tokens(json.dumps(document).encode())
    except TokensNotUsable as error:
        raise CommandFailed(code, str(error)) from None


def _replace(path: Path, document: dict[str, Any]) -> None:
    """In one step: a server that looks sees the old text or the new one. Owner and mode stay."""
    aside = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2) + "\n")
            if path.exists():
                before = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise CommandFailed(ExitCode.CANNOT_CREATE, f"{path}: cannot be written: {error.strerror}") from None
