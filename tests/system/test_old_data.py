"""A data directory that an older version wrote opens in this one, with everything in it.

The archives were made by ``tests/old_data.py``, each with the first version of its format number.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from old_data import FOLDER, GROUP, PARAMETERS, SOURCE, new_key, unpack
from scrape import Scrape
from server import Client, Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.data_dir import DATA_FORMAT

FORMAT = 0
"""The id of the packet that defines the data format; the server itself wrote it."""

ARCHIVES = sorted(FOLDER.glob("format-*.tar.xz"))


def test_there_is_one_for_each_format_number() -> None:
    assert [path.name for path in ARCHIVES] == [f"format-{number}.tar.xz" for number in range(1, DATA_FORMAT + 1)], (
        "python tests/old_data.py makes the one of this version"
    )


def ids(client: Client, count: int, **details: object) -> list[int]:
    return [found.packet.id for found in client.read(client.connect(SOURCE, **details), count)]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_server_opens_it_and_has_everything(make_server: Callable[..., Server], archive: Path) -> None:
    server = make_server()
    expected = unpack(archive, server.data_dir)
    client = server.start().client()

    assert ids(client, 9) == [1, 2, 3, 4, 5, 21, FORMAT, 6, 7], "6 and 7 were in `unlogged`"
    assert not list((server.data_dir / "unlogged").iterdir())
    assert Scrape(server).total("trackside_recovered_packets_total") == 2
    stream = {"streams": ["s"], "exclude_main_stream": True}
    assert ids(client, 3, **stream) == [11, 12, 13]
    client.write(SOURCE, Packet(id=14), stream="s")
    assert ids(client, 1, consumer_group=GROUP, **stream) == [14], "the group goes on where it was"

    essentials = api_pb2.ReadEssentialsRequest(connection=client.connect(SOURCE))
    found = [
        response.packet
        for answer in client.reader.ReadEssentials(essentials, timeout=60)
        for response in answer.response
    ]
    assert [packet.id for packet in found if packet.type == "Configuration"] == [21]

    for identifier, key in (("live", expected["live"]), ("ended", expected["ended"])):
        info = client.sessions.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key=key), timeout=60)
        assert (info.success, info.identifier, dict(info.details)) == (True, identifier, {"driver": identifier})
        assert info.is_complete == (identifier == "ended")
    ending = api_pb2.EndSessionRequest(session_key=expected["ended"], data_source=SOURCE)
    offsets = client.sessions.EndSession(ending, timeout=60).end_session.topic_partition_offsets
    assert dict(offsets) == expected["end_offsets"]

    formats = api_pb2.GetParameterDataFormatIdRequest(data_source=SOURCE, parameters=PARAMETERS)
    assert client.formats.GetParameterDataFormatId(formats, timeout=60).data_format_identifier == expected["format"]
    assert new_key(client) > expected["key"]
    assert [letter["reason"] for letter in dead_letters(server)] == ["refused"]


def dead_letters(server: Server) -> list[dict[str, str]]:
    command = [sys.executable, "-P", "-m", "trackside.control_plane", "dead-letters", "--json"]
    command += ["--run-dir", str(server.run_dir), "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
