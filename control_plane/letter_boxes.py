"""Where dead letters lie, and which of them were sent again.

::

    <data_dir>/dead-letters/refused.jsonl       what no topic took (data_plane/dead_letters.py)
                           /sent-again.jsonl    {"id":"...","time":"..."} a line, for each letter that was sent again
    the dead-letter topic                       what Kafka refused elsewhere; read by a process of the data plane

A letter in the file is taken out when it was sent again; one in the topic stays there, and is known by its id.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.data_plane.dead_letters import DeadLetterFile, Found, now_text
from trackside.data_plane.durable import replace_file
from trackside.data_plane.spec import Settings
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["LetterBoxes", "SentAgain"]

TOPIC_MODULE = "trackside.data_plane.dead_letter_topic"


class _Sent(msgspec.Struct):
    id: str
    time: str


class SentAgain:
    """The ids that were sent again, on the device before :meth:`add` returns. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sent-again.jsonl"
        self.times = dict(self._read())

    def _read(self) -> Iterator[tuple[str, str]]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                sent = msgspec.json.decode(line, type=_Sent)
            except UNDECODABLE:  # cut short by a crash: it counts as not sent
                continue
            yield sent.id, sent.time

    def add(self, ids: Collection[str]) -> None:
        time = now_text()
        self.times.update(dict.fromkeys(ids, time))
        lines = b"".join(msgspec.json.encode(_Sent(id_, time)) + b"\n" for id_ in ids)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"\n" + lines)  # ends what a crash cut short
            file.flush()
            os.fsync(file.fileno())

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget ids of letters that no longer exist, so that this file is in proportion to them."""
        kept = {id_: time for id_, time in self.times.items() if wanted(id_)}
        if len(kept) != len(self.times):
            self.times = kept
            replace_file(self._path, b"".join(msgspec.json.encode(_Sent(*sent)) + b"\n" for sent in kept.items()))


class LetterBoxes:
    """Both boxes of one server, found as the server itself finds its log and its data directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        folder = Path(settings.data_dir) / "dead-letters"
        self._file = DeadLetterFile(folder)
        try:
            self.sent = SentAgain(folder)
        except OSError as error:
            raise _not_usable(error) from None
        self._in_topic: set[str] = set()
        self._read_whole = False

    def letters(self) -> Iterator[Found]:
        """Every letter that there is, of the file first; one at a time, since there may be many. Raises CommandFailed."""
        try:
            yield from self._file.letters()
        except OSError as error:
            raise _not_usable(error) from None
        if self._settings.broker:
            for found in _letters_of_topic(self._settings):
                self._in_topic.add(found.id)
                yield found
        self._read_whole = True

    def tidy(self) -> None:
        """Take letters that were sent again out of the file, then forget what need not be remembered."""
        try:
            self._file.keep(lambda id_: id_ not in self.sent.times)
            if self._read_whole:
                self.sent.keep(self._in_topic.__contains__)
        except OSError as error:
            raise _not_usable(error) from None


def _letters_of_topic(settings: Settings) -> Iterator[Found]:
    """By a process of its own: nothing of the control plane speaks to Kafka. Its settings, secrets among them, go by a
    pipe."""
    decoder = msgspec.json.Decoder(Found)
    with tempfile.TemporaryFile() as words:
        command = [sys.executable, "-P", "-m", TOPIC_MODULE]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words) as reader:
            assert reader.stdin is not None and reader.stdout is not None
            reader.stdin.write(msgspec.json.encode(settings))
            reader.stdin.close()
            for line in reader.stdout:
                yield decoder.decode(line)
        if reader.returncode:
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
            raise CommandFailed(_code(reader.returncode), said[-1] if said else f"{TOPIC_MODULE} ended with nothing")


def _code(code: int) -> ExitCode:
    return ExitCode(code) if code in (ExitCode.NOT_REACHABLE, ExitCode.CONFIGURATION) else ExitCode.INTERNAL


def _not_usable(error: OSError) -> CommandFailed:
    return CommandFailed(ExitCode.CANNOT_CREATE, f"dead letters: {error.filename}: {error.strerror}")
