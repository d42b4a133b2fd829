"""The server inside your program: ``with launch_embedded() as server:``.

The server is a child process of the program, never a part of it: nothing of it is imported by workers, no main guard
is needed, and it may be launched from any thread. It drains when the block ends and, by the pipe that it holds, when
the program dies in whatever way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["EmbeddedServer", "EmbeddedServerFailed", "launch_embedded"]

LIFELINE = "TRACKSIDE_LIFELINE"
"""Environment variable with the descriptor whose end tells a server that its program has gone."""

LOOK_SECONDS = 0.01
DRAIN_MARGIN_SECONDS = 15.0


class EmbeddedServerFailed(Exception):
    """The server did not come up; the text is what it said."""


class EmbeddedServer:
    """A running server. ``address`` is what a gRPC client takes."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: int, folders: list[Path], run_dir: Path) -> None:
        self._process = process
        self._lifeline = lifeline
        self._folders = folders  # made for this server alone; the first has its log
        self.run_dir = run_dir

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    @property
    def described(self) -> dict[str, Any]:
        """The server's own description (``server.json``); empty before it has one."""
        try:
            found: dict[str, Any] = json.loads((self.run_dir / "server.json").read_text())
        except FileNotFoundError:
            return {}
        return found if found.get("pid") == self.pid else {}

    @property
    def port(self) -> int:
        return int(self.described["port"])

    @property
    def key_port(self) -> int:
        return int(self.described["key_port"])

    @property
    def status_port(self) -> int:
        """Of ``/metrics``, on loopback."""
        return int(self.described["status_port"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_up(self, timeout: float) -> None:
        """Until it serves, or is up and says why it cannot yet (``described["reason"]``). Blocks. Raises
        EmbeddedServerFailed when it ends or the bound passes."""
        deadline = time.monotonic() + timeout
        while self.described.get("state") not in ("SERVING", "NOT_SERVING"):
            if self._process.poll() is not None:
                raise EmbeddedServerFailed(
                    f"the server ended with exit code {self._process.returncode}: {self._said()}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedServerFailed(f"the server was not up within {timeout:g} s: {self._said()}")
            time.sleep(LOOK_SECONDS)

    def _said(self) -> str:
        text = (self._folders[0] / "server.log").read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"

    def drain(self, timeout: float = 60.0) -> None:
        """End it as SIGTERM would: what was accepted is logged first. Blocks up to ``timeout`` seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """Drain, then remove what was made for this server alone. May be called twice."""
        self.drain()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch_embedded(
    config: str | os.PathLike[str] | Mapping[str, object] | None = None, *, timeout: float = 60.0
) -> EmbeddedServer:
    """Start a server and wait until it is up. Blocks up to ``timeout`` seconds.

    ``config`` is an AppConfig.json, or its keys. What it does not say: ports are free ones, on loopback; run and data
    directory are temporary and go with the server, so name a ``DataDir`` for data that is to stay.
    Raises EmbeddedServerFailed with what the server said, for instance about a wrong key.
    """
    folder = Path(tempfile.mkdtemp(prefix="trackside-"))
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else folder
    keys = _keys_of(config)
    own_run_dir = memory / f"trackside-embedded-{folder.name}"
    run_dir = Path(str(keys.setdefault("RunDir", str(own_run_dir))))
    keys.setdefault("DataDir", str(folder / "data"))
    keys.setdefault("ListenAddress", "127.0.0.1")
    keys.setdefault("StreamApiPort", 0)
    keys.setdefault("KeyGeneratorPort", 0)
    keys.setdefault("PrometheusMetricPort", 0)
    file = folder / "AppConfig.json"
    file.write_text(json.dumps(keys))
    reading, writing = os.pipe()
    try:
        server = EmbeddedServer(_start(file, folder, reading), writing, [folder, own_run_dir], run_dir)
    finally:
        os.close(reading)
    try:
        server.wait_up(timeout)
    except BaseException:
        server.close()
        raise
    return server


def _keys_of(config: str | os.PathLike[str] | Mapping[str, object] | None) -> dict[str, object]:
    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    try:
        keys: dict[str, object] = json.loads(Path(config).read_text())
    except (OSError, ValueError) as error:
        raise EmbeddedServerFailed(f"{config}: {error}") from None
    inner = keys.get("StreamApiConfig", keys)
    return dict(inner) if isinstance(inner, Mapping) else keys


def _own_environment() -> dict[str, str]:
    """Without what would configure a server: this one is told by its program alone."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRACKSIDE_", "StreamApiConfig__")) and name not in ("CONFIG_PATH", "RUNTIME_DIRECTORY")
    }


def _start(file: Path, folder: Path, reading: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "trackside.control_plane", "serve", "--config", str(file)]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[reading],
            env={**_own_environment(), LIFELINE: str(reading)},
            start_new_session=True,  # Ctrl-C is for the program, which drains the server
        )
