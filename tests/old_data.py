"""Data directories of each format that ever was, as the version that came with it wrote them.

``python tests/old_data.py`` fills a server with something of everything and packs its data directory to
``tests/data_directories/format-<n>.tar.xz``. It is run once for each number of ``DATA_FORMAT``, with the first version
that has it, and what it wrote stays as it is: ``tests/system/test_old_data.py`` lets the server of today open them all.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from server import Client, Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2, key_generator_pb2_grpc
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.data_dir import DATA_FORMAT
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile

__all__ = ["FOLDER", "GROUP", "PARAMETERS", "SOURCE", "make", "new_key", "unpack"]

FOLDER = Path(__file__).parent / "data_directories"
EXPECTED = "expected.json"

SOURCE = "Car"
GROUP = "analysts"
PARAMETERS = ["vCar", "nEngine"]
CALL: dict[str, Any] = {"timeout": 60, "wait_for_ready": True}


def make(path: Path) -> None:
    """Pack a data directory and, as ``expected.json``, what is in it. Takes seconds: a server runs and stops."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.environment["TRACKSIDE_DRAIN_SECONDS"] = "1"
        try:
            expected = _fill(server)
        finally:
            server.remove()
        with tarfile.open(path, "x:xz") as archive:
            archive.add(server.data_dir, "data", filter=_nobodys)
            text = json.dumps(expected, indent=1).encode()
            entry = tarfile.TarInfo(EXPECTED)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))


def unpack(path: Path, data_dir: Path) -> Any:
    """Put the directory to ``data_dir`` and return what is expected in it."""
    with tempfile.TemporaryDirectory(dir=data_dir.parent) as folder, tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
        (Path(folder) / "data").rename(data_dir)
        return json.loads((Path(folder) / EXPECTED).read_text(encoding="utf-8"))


def new_key(client: Client) -> int:
    stub = key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub(client.channel)
    request = key_generator_pb2.GenerateUniqueKeyRequest(type=key_generator_pb2.KEY_TYPE_ULONG)
    return int(stub.GenerateUniqueKey(request, **CALL).ulong_key)


def _fill(server: Server) -> dict[str, Any]:
    """Logged: 1 to 5, 11 to 13 in a stream, 21 as an essential packet. In ``unlogged``: 6 and 7."""
    client = server.start().client()
    live, ended = _session(client, "live"), _session(client, "ended")
    for number in range(1, 6):
        client.write(SOURCE, Packet(id=number), session_key=live)
    for number in range(11, 14):
        client.write(SOURCE, Packet(id=number), stream="s", session_key=live)
    client.write(SOURCE, Packet(type="Configuration", id=21, is_essential=True), session_key=live)
    ending = api_pb2.EndSessionRequest(session_key=ended, data_source=SOURCE)
    end = client.sessions.EndSession(ending, **CALL)
    expected = {
        "live": live,
        "ended": ended,
        "end_offsets": dict(end.end_session.topic_partition_offsets),
        "format": client.formats.GetParameterDataFormatId(
            api_pb2.GetParameterDataFormatIdRequest(data_source=SOURCE, parameters=PARAMETERS), **CALL
        ).data_format_identifier,
        "key": new_key(client),
    }
    group = client.connect(SOURCE, consumer_group=GROUP, streams=["s"], exclude_main_stream=True)
    assert [found.packet.id for found in client.read(group, 3)] == [11, 12, 13]
    letter = DeadLetter(time="2026-01-01T00:00:00Z", topic=SOURCE, partition=0, reason="refused", key=b"k", value=b"v")
    DeadLetterFile(server.data_dir / "dead-letters").append([letter])
    server.send("producer-0", signal.SIGSTOP)
    for number in (6, 7):
        client.write(SOURCE, Packet(id=number), session_key=live)
    assert server.stop() == 0
    assert list((server.data_dir / "unlogged").iterdir())
    return expected


def _session(client: Client, identifier: str) -> str:
    request = api_pb2.CreateSessionRequest(data_source=SOURCE, type="Race", identifier=identifier)
    key = str(client.sessions.CreateSession(request, **CALL).session_key)
    details = api_pb2.UpdateSessionDetailsRequest(session_key=key, details={"driver": identifier})
    assert client.sessions.UpdateSessionDetails(details, **CALL).success
    return key


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    made = FOLDER / f"format-{DATA_FORMAT}.tar.xz"
    if made.exists():
        sys.exit(f"{made} is there: what that version wrote is not made anew")
    make(made)
