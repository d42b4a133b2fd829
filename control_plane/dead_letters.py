"""``trackside dead-letters``: lists what the log refused, and sends it again.

Sending goes through the running server's control plane and its producers, who alone write the log. A letter counts as sent
when the server has accepted it, and that is on the disk before the next one goes: a command that was killed in between
sends the last few again. What is refused once more is a new letter.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.control_plane.letter_boxes import LetterBoxes
from trackside.control_plane.run_directory import control_socket_of
from trackside.data_plane.dead_letters import Found
from trackside.data_plane.spec import Settings
from trackside.protos import internal_pb2 as messages
from trackside.protos import internal_pb2_grpc as services
from trackside.shm.observe import NothingToObserve, observe

__all__ = ["Choice", "main"]

CALL_SECONDS = 30.0
BATCH_LETTERS, BATCH_BYTES = 64, 512 << 10
"""What goes in one record; a larger packet goes alone."""

REASON_CHARACTERS = 60


class Choice(NamedTuple):
    """Which letters: all that are open, or those of these ids or topics. ``sent`` lists those that are not open, too."""

    ids: Collection[str] = ()
    topics: Collection[str] = ()
    sent: bool = False

    def takes(self, found: Found) -> bool:
        return (not self.ids or found.id in self.ids) and (not self.topics or found.letter.topic in self.topics)


def main(settings: Settings, choice: Choice, *, resend: bool, as_json: bool) -> int:
    """Raises CommandFailed. Blocks: each wait for Kafka or the server has a bound."""
    boxes = LetterBoxes(settings)
    if resend:
        return _resend(settings, boxes, choice, as_json)
    wanted = (found for found in boxes.letters() if choice.takes(found))
    shown = (found for found in wanted if choice.sent or found.id not in boxes.sent.times)
    rows = (_row(found, boxes.sent.times.get(found.id, "")) for found in shown)
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        _print_table(list(rows))
    return ExitCode.OK


# -- listing ----------------------------------------------------------------------------------------------------------


def _row(found: Found, sent: str) -> dict[str, Any]:
    """As plain values, for ``--json``."""
    letter = found.letter
    return {
        "id": found.id,
        "time": letter.time,
        "topic": letter.topic,
        "partition": letter.partition,
        "key": letter.key.decode(errors="backslashreplace"),
        "bytes": len(letter.value),
        "other_topic": letter.other,
        "quarantined": letter.quarantined,
        "where": found.where,
        "sent_again": sent,
        "reason": letter.reason,
    }


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("id", lambda row: row["id"]),
    ("when", lambda row: row["time"]),
    ("topic", lambda row: f"{row['topic']}:{row['partition']}" if row["topic"] else "unknown"),
    ("key", lambda row: row["key"] or "-"),
    ("bytes", lambda row: row["bytes"]),
    ("where", lambda row: f"sent again {row['sent_again']}" if row["sent_again"] else row["where"]),
    ("reason", lambda row: row["reason"][:REASON_CHARACTERS]),
)


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no dead letters")
        return
    table = [[name for name, _ in COLUMNS], *([_printable(str(cell(row))) for _, cell in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """Keys and reasons are a client's: nothing in them may steer a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


# -- sending ----------------------------------------------------------------------------------------------------------


class _Outcome:
    """What became of the letters, for the last lines."""

    def __init__(self) -> None:
        self.sent = 0
        self.not_logged = 0
        self.refused: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []

    def show(self, as_json: bool) -> None:
        if as_json:
            told: dict[str, Any] = {"sent": self.sent, "not_logged_yet": self.not_logged}
            for name, some in (("refused_again", self.refused), ("left", self.left)):
                told[name] = [{"id": id_, "reason": reason} for id_, reason in some]
            print(json.dumps(told))
            return
        for what, some in (("refused again", self.refused), ("not sent", self.left)):
            for id_, reason in some:
                print(f"{id_}  {what}: {_printable(reason)}")
        waits = f", {self.not_logged} of them wait for the log" if self.not_logged else ""
        print(f"{self.sent} sent again{waits}; {len(self.refused)} refused again; {len(self.left)} not sent")


def _resend(settings: Settings, boxes: LetterBoxes, choice: Choice, as_json: bool) -> int:
    outcome = _Outcome()
    opened = (found for found in boxes.letters() if choice.takes(found) and found.id not in boxes.sent.times)
    try:
        with contextlib.ExitStack() as closing:
            server: _Server | None = None
            for batch in _batches(_sendable(opened, choice, outcome)):
                server = server or _connect(settings, closing)
                _send(server, batch, boxes, outcome)
    finally:
        boxes.tidy()
        outcome.show(as_json)
    return ExitCode.CHECK_FAILED if outcome.refused or outcome.left else ExitCode.OK


class _Server(NamedTuple):
    stub: services.DeadLettersStub
    run_dir: str


def _connect(settings: Settings, closing: contextlib.ExitStack) -> _Server:
    """The control plane of the server that has the run directory. Raises CommandFailed when none ever had."""
    try:
        instance = observe(settings.run_dir, counters=False).instance
    except NothingToObserve as error:
        raise CommandFailed(ExitCode.NOT_REACHABLE, str(error)) from None
    socket = control_socket_of(Path(settings.run_dir), instance)
    channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.max_send_message_length", -1)])
    return _Server(services.DeadLettersStub(closing.enter_context(channel)), settings.run_dir)


def _sendable(letters: Iterable[Found], choice: Choice, outcome: _Outcome) -> Iterator[Found]:
    for found in letters:
        if not found.letter.topic:
            outcome.left.append((found.id, "nobody knows where it belongs"))
        elif found.letter.quarantined and found.id not in choice.ids:
            outcome.left.append((found.id, "its record ended a process; --id sends it all the same"))
        else:
            yield found


def _batches(letters: Iterable[Found]) -> Iterator[list[Found]]:
    """Runs of one topic, in order, each of a size that goes into one record."""
    batch: list[Found] = []
    size = 0
    for found in letters:
        full = len(batch) >= BATCH_LETTERS or size + len(found.letter.value) > BATCH_BYTES
        if batch and (full or found.letter.topic != batch[0].letter.topic):
            yield batch
            batch, size = [], 0
        batch.append(found)
        size += len(found.letter.value)
    if batch:
        yield batch


def _send(server: _Server, batch: list[Found], boxes: LetterBoxes, outcome: _Outcome) -> None:
    request = messages.SendAgainRequest(packets=[_packet(found) for found in batch])
    try:
        answer = server.stub.SendAgain(request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            outcome.left += [(found.id, str(error.details())) for found in batch]
            return
        raise CommandFailed(
            ExitCode.NOT_REACHABLE, f"the server in {server.run_dir} does not take letters: {error.details()}"
        ) from None
    boxes.sent.add([found.id for found in batch])
    outcome.refused += [(batch[again.packet].id, again.reason) for again in answer.refused]
    outcome.sent += len(batch) - len(answer.refused)
    outcome.not_logged += 0 if answer.logged else len(batch)


def _packet(found: Found) -> messages.RefusedPacket:
    letter = found.letter
    return messages.RefusedPacket(
        topic=letter.topic,
        partition=letter.partition,
        key=letter.key,
        packet=letter.value,
        identity=letter.identity,
        essentials=letter.essentials,
    )
