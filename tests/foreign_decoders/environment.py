"""The virtual environment of programs that read our Kafka topics and know nothing of us.

It lies in ``$XDG_CACHE_HOME/trackside/interop/decoders-<hash>`` (``~/.cache`` without it). The hash is over the pinned
versions and the interpreter's, so what was installed once needs no network. It is an environment of its own because
one of them brings the same messages under another file name, which protobuf does not take twice in one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from interop.builds import Unavailable, cache_folder

__all__ = ["REQUIREMENTS", "decoder_command"]

REQUIREMENTS = (
    "quixstreams[protobuf]==3.28.1",  # the first release whose decoder has its present name
    "kafka-python==3.0.12",
    "lz4==4.4.5",  # what we compress with; kafka-python brings no codec
)
INSTALL_SECONDS = 600.0


def decoder_command() -> list[str]:
    """The command that runs ``decode.py``, without its arguments. Raises Unavailable; blocks while it installs."""
    place = cache_folder() / f"decoders-{_hash()}"
    if not place.is_dir():
        _install(place)
    return [str(place / "bin" / "python"), str(Path(__file__).with_name("decode.py"))]


def _hash() -> str:
    return hashlib.sha256(" ".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:16]


def _install(place: Path) -> None:
    """Aside, then renamed: two runs at once cannot see half an environment."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="building-decoders-") as aside:
        folder = Path(aside) / "environment"
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        ours = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(folder / "bin" / "python"),
        ]  # a pip of its own takes seconds
        _run([*ours, "install", "--quiet", *REQUIREMENTS])
        with contextlib.suppress(OSError):  # another run was first: its folder is as good
            folder.rename(place)


def _run(command: list[str]) -> None:
    """The reason is for one line: what was said from the first error on."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{command[2]}` was not done within {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        said = done.stdout + done.stderr
        words = " ".join(said[max(said.find("ERROR"), 0) :].split())
        raise Unavailable(f"`{command[2]}` failed: {words[:300]}")
