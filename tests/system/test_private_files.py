"""What the server leaves on the machine is its user's alone; and that user may be any."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from server import START_SECONDS, Client, Server, wait_until

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet

OTHER_UID = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as another user")


def open_to_others(*folders: Path) -> list[str]:
    """Everything below that group or others may do anything with."""
    places = [place for folder in folders for place in (folder, *folder.rglob("*"))]
    assert len(places) > 20
    return [f"{stat.filemode(place.lstat().st_mode)} {place}" for place in places if place.lstat().st_mode & 0o077]


def use(client: Client) -> None:
    """What makes files: packets, essentials, sessions, formats, connections, packets that were read."""
    for number in range(3):
        client.write("Car", Packet(type="RowData", id=number, is_essential=True), stream="s")
    created = api_pb2.CreateSessionRequest(data_source="Car")
    assert client.sessions.CreateSession(created, timeout=30).success
    client.formats.GetEventDataFormatId(api_pb2.GetEventDataFormatIdRequest(data_source="Car", event="e"), timeout=30)
    assert client.read(client.connect("Car", consumer_group="g"), 3)


def test_files_are_the_users_alone_whatever_the_umask(make_server: Callable[..., Server]) -> None:
    server = make_server("2/2/2")
    before = os.umask(0)
    try:
        server.start()
    finally:
        os.umask(before)
    client = server.client()
    use(client)
    server.kill("producer-0")
    client.close()
    assert open_to_others(server.run_dir, server.data_dir) == []
    assert server.stop() == 0
    left = [place for place in server.data_dir.rglob("*") if place.stat().st_mode & 0o077]
    assert left == []


def test_a_run_directory_that_is_open_to_others_is_closed(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.run_dir.mkdir()
    server.run_dir.chmod(0o777)
    server.start()
    assert stat.S_IMODE(server.run_dir.stat().st_mode) == 0o770


@needs_root
def test_a_run_directory_of_somebody_else_is_refused(make_server: Callable[..., Server]) -> None:
    """It is in a folder where everybody may make some, so it can be there before us."""
    server = make_server()
    server.run_dir.mkdir(mode=0o777)
    os.chown(server.run_dir, OTHER_UID, OTHER_UID)
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(START_SECONDS) == 73
    assert f"run directory {server.run_dir}: belongs to user {OTHER_UID}, who could read" in server.log_text()


@pytest.fixture
def folder_of_other() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="trackside-test-other-", dir="/dev/shm"))
    os.chown(folder, OTHER_UID, OTHER_UID)
    yield folder
    shutil.rmtree(folder)


AS_OTHER = ["setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups"]
LOOK_ANYWHERE = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
"""Where the interpreter lies in root's home: reading is all that this allows, and files are still the user's own."""


def as_other(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HOME": "/nonexistent"}
    return subprocess.Popen([*AS_OTHER, *LOOK_ANYWHERE, *command], cwd="/", env=environment, start_new_session=True)


@needs_root
def test_any_user_can_run_it(folder_of_other: Path) -> None:
    if shutil.which("setpriv") is None or as_other(["true"]).wait(START_SECONDS):
        pytest.skip("no setpriv here that starts a program as another user")
    command = [sys.executable, "-P", "-m", "trackside.control_plane", "serve", "--port", "0", "--key-port", "0"]
    command += ["--status-port", "0", "--listen", "127.0.0.1"]
    command += ["--run-dir", str(folder_of_other / "run"), "--data-dir", str(folder_of_other / "data")]
    process = as_other(command)
    try:
        description = folder_of_other / "run" / "server.json"

        def serving() -> bool:
            assert process.poll() is None
            return description.exists() and json.loads(description.read_text())["state"] == "SERVING"

        wait_until(serving, "it serves")
        port = json.loads(description.read_text())["port"]
        client = Client(grpc.insecure_channel(f"127.0.0.1:{port}"))
        use(client)
        client.close()
        places = [*(folder_of_other / "run").rglob("*"), *(folder_of_other / "data").rglob("*")]
        assert {place.stat().st_uid for place in places} == {OTHER_UID}
        assert open_to_others(folder_of_other / "run", folder_of_other / "data") == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_SECONDS) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
