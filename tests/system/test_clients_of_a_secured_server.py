"""Our own programs against a server that demands certificates of clients, and tokens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import psutil
import pytest
from server import Server
from tls_files import TlsFiles

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
from trackside.client.access import Access
from trackside.client.channel import call, open_channel
from trackside.client.errors import BadInput, Refused
from trackside.data_plane.tokens_file import hash_of

BOUND = 120.0
TOKEN = "s3cret-token-of-the-demo"
DEMO = [sys.executable, "-P", "-m", "trackside.control_plane", "demo", "--seconds", "1", "--json"]


class Secured:
    """A server, and the files of a client that may do everything with data source Demo there."""

    def __init__(self, folder: Path) -> None:
        self.files = TlsFiles(folder / "tls")
        chain, key = self.files.pair("client")
        self.access = Access(*(str(folder / name) for name in ("tls/authority.pem", "own.pem", "own.key", "token")))
        Path(self.access.certificate).write_bytes(chain)
        Path(self.access.key).write_bytes(key)
        Path(self.access.token_file).write_text(f"{TOKEN}\n")
        rights = {right: ["Demo"] for right in ("read", "write", "manage")}
        tokens = {"tokens": [{"name": "demo", "sha256": [hash_of(TOKEN)], **rights}]}
        (folder / "tokens.json").write_text(json.dumps(tokens))
        self.server = Server(folder)
        self.server.environment.update(self.files.settings(mutual=True))
        self.server.environment["TRACKSIDE_TOKENS_FILE"] = str(folder / "tokens.json")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    made.server.start()
    yield made
    made.server.remove()


def run_demo(secured: Secured, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*DEMO, "--server", secured.address, *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=BOUND, check=False
    )


def as_options(access: Access) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in access._asdict().items() if value]


def as_environment(access: Access) -> dict[str, str]:
    return {f"TRACKSIDE_CLIENT_{name.upper()}": value for name, value in access._asdict().items()}


def test_the_demo_with_options(secured: Secured) -> None:
    done = run_demo(secured, *as_options(secured.access))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["proved"] and found["packets_read"] == found["packets_written"] > 100
    assert found["processes"] == [] and secured.server.process and secured.server.process.poll() is None


def test_the_demo_with_the_environment_and_no_secret_to_be_seen(secured: Secured) -> None:
    command = [*DEMO[:4], "demo", "--forever", "--server", secured.address]
    environment = {**os.environ, **as_environment(secured.access)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "written" not in process.stdout.readline():
        assert process.poll() is None
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    seen = [" ".join([*member.cmdline(), *member.environ().values()]) for member in family]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=BOUND)
    assert process.returncode == 0 and out.splitlines()[-1].startswith("PROVED")
    assert all(any(f"demo_{name}" in text for text in seen) for name in ("writer", "reader"))
    assert not any(TOKEN in text or "PRIVATE KEY" in text for text in seen)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"token_file": ""}, 1, "UNAUTHENTICATED: authorization: missing"),
        ({"token_file": "/nowhere"}, 2, "token file is '/nowhere': cannot be read: No such file or directory"),
        ({"certificate": ""}, 2, "it and its key go together"),
        ({"roots": ""}, 2, "it has no meaning without roots"),
        ({"roots": __file__}, 2, "it holds no certificate in PEM form"),
        ({"key": "{roots}"}, 2, "do not fit"),
    ],
)
def test_what_is_missing_is_told_in_a_line(secured: Secured, changes: Mapping[str, str], code: int, says: str) -> None:
    changed = {name: value.format(roots=secured.access.roots) for name, value in changes.items()}
    done = run_demo(secured, *as_options(secured.access._replace(**changed)))
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr and len(done.stderr.splitlines()) == 1 and TOKEN not in done.stderr


def test_who_is_not_let_in_hears_why(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackside.bench import running_server
    from trackside.bench.demo_server import ServerFailed

    monkeypatch.setattr(running_server, "ANSWER_SECONDS", 0.0)
    other = TlsFiles(Path(tempfile.mkdtemp(dir=secured.server.folder)) / "other")
    server = running_server.RunningServer(secured.address, secured.access._replace(roots=str(other.authority)))
    try:
        with pytest.raises(ServerFailed, match=r"does not serve: UNAVAILABLE: .*CERTIFICATE_VERIFY_FAILED"):
            server.start()
    finally:
        server.remove()


def test_a_token_that_is_replaced_needs_no_new_channel(secured: Secured, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("nobody-knows-this-one")
    with open_channel(secured.address, secured.access._replace(token_file=str(token))) as channel:
        assert current_sessions(channel).startswith("UNAUTHENTICATED")
        token.write_text(TOKEN)
        assert current_sessions(channel) == ""
        token.unlink()
        assert current_sessions(channel) == "", "the one from before is kept"


def current_sessions(channel: grpc.Channel) -> str:
    """Why it is refused; empty when it is not."""
    sessions = api_pb2_grpc.SessionManagementServiceStub(channel)
    try:
        call(sessions.GetCurrentSessions, api_pb2.GetCurrentSessionsRequest(data_source="Demo"))
    except Refused as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", ["", " \n", "two tokens", "a\nb", "t\u00f6ken", "x" * 4097])
def test_a_token_file_that_holds_none_is_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(BadInput, match="token file is ") as refused:
        open_channel("127.0.0.1:1", Access(token_file=str(path)))
    assert not text.strip() or text not in str(refused.value)
