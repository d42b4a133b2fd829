"""Parsers of whole files, for ``fuzz_parsers.py``: what a crash, a disk or an operator may have left there.

Where frames have a checksum there are two targets: the file as it is, nearly all of whose changes the checksum catches,
and "good CRC", where the input is a body that is framed as it should be.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
from tls_files import TlsFiles

from ma.streaming.open_data.v1.open_data_pb2 import NewSessionPacket, Packet, SessionInfoPacket
from trackside.control_plane.checkpoint import VERSION, Checkpoint, _State
from trackside.control_plane.config_kafka import CONSUMING, PUBLISHING, WHITELIST_KEY, read_overrides
from trackside.control_plane.config_sources import Reading
from trackside.control_plane.connections import ConnectionTable, Opened, _frame, _opening
from trackside.control_plane.frame_file import _frame as with_crc
from trackside.control_plane.log_port import LoggedEntry
from trackside.control_plane.remote_access import RemoteAccessFiles, RemoteAccessNotUsable
from trackside.control_plane.session_fold import SessionFold
from trackside.data_plane.certificates import CertificateFiles, CertificatesNotUsable
from trackside.data_plane.data_dir import FORMAT_FILE, read_identity
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.log import LogConfigurationError, Partition, Progress
from trackside.data_plane.park_file import MAGIC as PARK_MAGIC
from trackside.data_plane.park_file import ParkDamaged, ParkEntry, ParkFile, live, read_park
from trackside.data_plane.progress_journal import JournalDamaged, ProgressJournal
from trackside.data_plane.record import Record, Route
from trackside.data_plane.segments import (
    SEGMENT_MAGIC,
    SegmentHead,
    SegmentTooNew,
    encode_segment_head,
    read_segment_head,
)
from trackside.data_plane.spec import Settings

__all__ = ["FileTarget", "NotTaken", "file_targets"]

CAR = Partition("Car", 0)


class NotTaken(Exception):
    """A parser that raises nothing has said that something is wrong."""


class FileTarget(NamedTuple):
    """A row of :class:`fuzz_parsers.Target`."""

    name: str
    parse: Callable[[bytes], object]
    seeds: list[bytes]
    declared: tuple[type[Exception], ...]
    share: int


def file_targets() -> list[FileTarget]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="fuzz-files-", dir=memory)
    atexit.register(made.cleanup)
    folder = Path(made.name)
    rows = [*_segment_heads(), *_parks(folder), *_groups(folder), *_checkpoints(folder), *_connections(folder)]
    rows += [_dead_letters(folder), _format(folder), _overrides(folder), _certificates(folder), _remote_token(folder)]
    return [FileTarget(*row) for row in rows]


Row = tuple[str, Callable[[bytes], object], list[bytes], tuple[type[Exception], ...], int]


def _segment_heads() -> list[Row]:
    heads = [SegmentHead(b"i" * 16, b"b" * 16, "Car", 3, 7, 9, rings) for rings in ({}, {"a/b": 5, "c/d": 1 << 40})]
    seeds = [encode_segment_head(head) for head in heads]

    def parse(data: bytes) -> object:
        descriptor = os.memfd_create("head")
        try:
            os.write(descriptor, data)
            if (found := read_segment_head(descriptor)) is None:
                raise NotTaken
            return found
        finally:
            os.close(descriptor)

    def with_good_crc(covered: bytes) -> object:
        size = int.from_bytes(covered[:4], "little")
        return parse(SEGMENT_MAGIC + crc32(covered[: max(size - 12, 0)]).to_bytes(4, "little") + covered)

    declared = (SegmentTooNew, NotTaken)
    return [
        ("segment head", parse, [*seeds, seeds[0] + b"\0" * 200, SEGMENT_MAGIC + bytes(200)], declared, 5),
        ("segment head, good CRC", with_good_crc, [seed[12:] for seed in seeds], declared, 5),
    ]


def _parks(folder: Path) -> list[Row]:
    path = folder / "producer-0.park"
    record = Record([Route("Car", 0, b"k"), Route("Car.s", 1, b"", "Car_essential")], [0, 1, 0], [b"x" * 40] * 3)
    record.count()
    entries = [ParkEntry(["Car", "Car.s"], "guid/gateway-0.producer-0", 64, 5, record), ParkEntry(["Car"])]
    bodies = [msgspec.msgpack.encode(entry) for entry in entries]

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        found = sum(1 for _ in read_park(path))
        park = ParkFile(path, 1 << 20)
        try:
            kept = list(live(park.take_found()))
            records = [entry.record for _, entry, _ in kept if entry.record is not None]
            routes = [[record.routes[row] for row in record.indexes[: len(record.packets)]] for record in records]
            assert len(routes) == found and park.append(entries[0]) is not None
        finally:
            park.close()
        return routes

    whole = PARK_MAGIC + b"".join(map(with_crc, bodies))
    return [
        ("park", parse, [whole, PARK_MAGIC, b""], (ParkDamaged,), 3),
        ("park, good CRC", lambda data: parse(PARK_MAGIC + with_crc(data)), bodies, (ParkDamaged,), 5),
    ]


def _groups(folder: Path) -> list[Row]:
    path = folder / "groups" / "consumer-0.progress"
    path.parent.mkdir()
    rows = [["Car", 0, 17, 3], ["Car.s", 1, 1 << 40, 4]]
    bodies = [msgspec.msgpack.encode(body) for body in (["g", b"i" * 16, rows], ["h", b"", []])]

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        journal = ProgressJournal(path.parent, "consumer-0")
        try:
            found = journal.find("g", CAR)
            journal.keep("g", {CAR: Progress(b"i" * 16, 18)})
        finally:
            journal.close()
        return found

    return [
        ("progress journal", parse, [b"".join(map(with_crc, bodies))], (), 3),
        ("progress journal, good CRC", lambda data: parse(with_crc(data)), bodies, (JournalDamaged,), 5),
    ]


def _checkpoints(folder: Path) -> list[Row]:
    path = folder / "checkpoint"
    empty = SessionFold().dump()
    state = msgspec.msgpack.encode(_State(VERSION, "place", CAR, b"log", 7, True, empty))

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        if (restored := Checkpoint(path, "place", CAR, SessionFold.load).restore()) is None:
            raise NotTaken
        return restored

    def with_good_crc(data: bytes) -> object:
        return parse(with_crc(data))

    def with_good_state(data: bytes) -> object:
        return parse(with_crc(msgspec.msgpack.encode(_State(VERSION, "place", CAR, b"log", 7, True, data))))

    return [
        ("checkpoint", parse, [with_crc(state)], (NotTaken,), 2),
        ("checkpoint, good CRC", with_good_crc, [state], (NotTaken,), 3),
        ("state of sessions", with_good_state, [empty, _sessions()], (NotTaken,), 3),
    ]


def _sessions() -> bytes:
    """The dump of a fold that knows a session, and holds an entry of one that it does not know."""
    fold = SessionFold()
    new = NewSessionPacket(data_source="Car", topic_partition_offsets={"Car:0": 10}).SerializeToString()
    info = SessionInfoPacket(identifier="late", details={"driver": "A"}).SerializeToString()
    for offset, (type, key, content) in enumerate((("NewSession", "k", new), ("SessionInfo", "unknown", info))):
        packet = Packet(type=type, session_key=key, content=content)
        fold.apply(LoggedEntry(offset, 5, b"", bytes([offset]) * 16, packet.SerializeToString()))
    return fold.dump()


def _connections(folder: Path) -> list[Row]:
    path = folder / "connections"
    frames = [_frame(_opening(n, Opened(b"\x0a\x03Car", owner))) for n, owner in ((1, ""), (2, "car"))]

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        table = ConnectionTable(path)
        table.shut()
        return table.counts()

    return [
        ("connection journal", parse, [b"".join(frames)], (), 3),
        ("connection journal, good CRC", lambda data: parse(with_crc(data)), [frame[8:] for frame in frames], (), 3),
    ]


def _dead_letters(folder: Path) -> Row:
    file = DeadLetterFile(folder)
    letter = DeadLetter(time="2024-05-01T00:00:00Z", topic="Car", partition=0, reason="r", key=b"k", value=b"v")
    line = msgspec.json.encode(letter) + b"\n"

    def parse(data: bytes) -> object:
        file.path.write_bytes(data)
        return list(file.letters())

    return "dead letters", parse, [line, line * 3], (), 5


def _format(folder: Path) -> Row:
    seeds = [b'{"format": 1, "identity": "7d3c3c1e-5f0c-4d38-9c55-0d2a52d1f7a1"}\n']

    def parse(data: bytes) -> object:
        (folder / FORMAT_FILE).write_bytes(data)
        return read_identity(folder)

    return "format of the data directory", parse, seeds, (LogConfigurationError,), 5


def _overrides(folder: Path) -> Row:
    """The first byte says which of the three files has the rest; the others are good ones."""
    rules = [{"Pattern": "*.ms", "Allow": True}, {"Pattern": "a?k*s", "Allow": False}]
    good = {
        PUBLISHING.key: {"linger.ms": 5, "acks": "1", "compression.type": "lz4", "x" * 40: 1.5},
        CONSUMING.key: {"fetch.wait.max.ms": "7", "group.id": "g", "check.crcs": False},
        WHITELIST_KEY: {"Publish": rules, "Consume": [{"Pattern": "*" * 3 + "a*" * 8, "Allow": True}, *rules]},
    }
    paths = {key: folder / f"override-{number}.json" for number, key in enumerate(good)}
    texts = {key: json.dumps(value).encode() for key, value in good.items()}
    names = {key: str(path) for key, path in paths.items()}

    def parse(data: bytes) -> object:
        chosen = list(paths)[data[0] % len(paths)] if data else ""
        for key, path in paths.items():
            path.write_bytes(data[1:] if key == chosen else texts[key])
        reading = Reading()
        found = read_overrides(reading, names, frozenset(names))
        if reading.problems:
            assert all(len(str(problem)) < 1000 and "\n" not in str(problem) for problem in reading.problems)
            raise NotTaken
        return found

    seeds = [bytes([number]) + text for number, text in enumerate(texts.values())]
    return "override files", parse, seeds, (NotTaken,), 3


def _certificates(folder: Path) -> Row:
    """The first byte says which of the three files has the rest, and whether that is PEM or what is inside of it."""
    files = TlsFiles(folder / "tls")
    paths = [files.certificate, files.key, files.authority]
    texts = [path.read_bytes() for path in paths]
    settings = Settings(
        tls_certificate=str(paths[0]), tls_key=str(paths[1]), tls_client_authority=str(paths[2])
    )  # fmt: skip

    def parse(data: bytes) -> object:
        number, inside = (data[0] % 3, data[0] // 3 % 2) if data else (0, 0)
        for at, path in enumerate(paths):
            changed = _pem(texts[at], data[1:]) if inside else data[1:]
            path.write_bytes(changed if at == number else texts[at])
        return CertificateFiles(settings).read_changed()

    seeds = [bytes([number]) + text for number, text in enumerate(texts)]
    seeds += [bytes([number + 3]) + base64.b64decode(text.split(b"-----")[2]) for number, text in enumerate(texts)]
    return "certificates", parse, seeds, (CertificatesNotUsable,), 1


def _pem(like: bytes, inside: bytes) -> bytes:
    label = like.split(b"-----")[1].removeprefix(b"BEGIN ")
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(inside), label)


def _remote_token(folder: Path) -> Row:
    path = folder / "token"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        found = RemoteAccessFiles(Settings(remote_key_token_file=str(path))).read_changed()
        assert found is not None and repr(found) == "RemoteAccess(...)"
        return found

    return "token file", parse, [b"trackside_abcdefghijklmnop\n"], (RemoteAccessNotUsable,), 3
