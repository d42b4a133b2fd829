"""Make the committed ``*_pb2`` modules again after a change of a .proto file.

    python protos/generate.py                       anywhere; fetches the pinned tool into .cache/protogen once
    python protos/generate.py --python PATH         with the interpreter of an environment that has the tool
    python protos/generate.py --check               only say whether they are fresh, by the recorded hashes

The generator is pinned, because generated code refuses to run on an older protobuf than its own: code of grpcio-tools
1.71.2 runs on protobuf 5.29 to 7 and grpcio from 1.71.2 on. That tool itself wants protobuf below 6, so it lives in an
environment apart from the one that the project runs in.

``generated.json`` records the tool and a hash of each source and each generated file, so that a stale or hand-edited
stub is found on machines that have no protoc. Comments do not count: changing one makes no stub stale.

Standard library only. Nothing imports this module but tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOL = "grpcio-tools==1.71.2"

PROTOS = Path(__file__).resolve().parent
TOOL_ENVIRONMENT = PROTOS.parent / ".cache" / "protogen"
RECORD = PROTOS / "generated.json"

PUBLIC = (
    "ma/streaming/open_data/v1/open_data.proto",
    "ma/streaming/api/v1/api.proto",
    "ma/streaming/key_generator/v1/key_generator.proto",
)
INTERNAL = "trackside/protos/internal.proto"
"""The name under which protoc sees internal.proto, so that its stub imports itself as ``trackside.protos``."""

SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def path_of(proto: str) -> Path:
    """Where a .proto file or generated file of that protoc name lies in the checkout."""
    return PROTOS / proto.removeprefix("trackside/protos/")


def generated_names(proto: str) -> list[str]:
    return [proto.removesuffix(".proto") + suffix for suffix in SUFFIXES]


def include_options(root: Path = PROTOS) -> list[str]:
    """protoc's -I options under which all four files find each other."""
    return [f"-I{root}", f"-Itrackside/protos={root}"]


def source_hash(path: Path) -> str:
    """SHA-256 of a .proto file's words, comments and white space aside (no string in these files holds ``//``)."""
    words = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8")).split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def current_hashes() -> dict[str, dict[str, str]]:
    """The hashes of what is in the checkout now, in the form in which ``generated.json`` records them."""
    protos = [*PUBLIC, INTERNAL]
    stubs = [name for proto in protos for name in generated_names(proto)]
    return {
        "sources": {proto: source_hash(path_of(proto)) for proto in protos},
        "stubs": {name: hashlib.sha256(path_of(name).read_bytes()).hexdigest() for name in stubs},
    }


def stale_files() -> list[str]:
    """Names of sources changed since the stubs were made, and of stubs that are not what was made then."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    return [
        name
        for part, hashes in current_hashes().items()
        for name, digest in hashes.items()
        if recorded[part].get(name) != digest
    ]


def find_protoc() -> list[str] | None:
    """The command of some protoc on this machine, of whatever version; None when there is none. Fetches nothing."""
    if importlib.util.find_spec("grpc_tools") is not None:
        return [sys.executable, "-m", "grpc_tools.protoc"]
    if (python := TOOL_ENVIRONMENT / "bin" / "python").exists():
        return [str(python), "-m", "grpc_tools.protoc"]
    return [protoc] if (protoc := shutil.which("protoc")) else None


def tool_python() -> Path:
    """The interpreter of an environment with the pinned tool; made when it is not there yet."""
    python = TOOL_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"making {TOOL_ENVIRONMENT} with {TOOL}")
        subprocess.run([sys.executable, "-m", "venv", str(TOOL_ENVIRONMENT)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", TOOL], check=True)
    return python


def check_tool_version(python: Path) -> None:
    """Exit with one line when the environment of ``python`` has another version of the tool than the pinned one."""
    ask = "import importlib.metadata as m; print(m.version('grpcio-tools'))"
    answer = subprocess.run([str(python), "-c", ask], check=False, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{python}: grpcio-tools is not installed there, wanted {TOOL}")
    if (version := answer.stdout.strip()) != TOOL.partition("==")[2]:
        sys.exit(f"{python}: has grpcio-tools {version}, wanted {TOOL}")


def generate(python: Path) -> None:
    """Run protoc into a folder aside, then put its files in their places and record their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        command = [str(python), "-m", "grpc_tools.protoc", *include_options(), *outputs, *PUBLIC, INTERNAL]
        if status := subprocess.run(command, check=False).returncode:
            sys.exit(f"protoc failed with status {status}, nothing was changed")
        for proto in (*PUBLIC, INTERNAL):
            for name in generated_names(proto):
                shutil.copyfile(Path(folder) / name, path_of(name))
    record = {"tool": TOOL, **current_hashes()}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the committed *_pb2 modules from the .proto files.")
    parser.add_argument("--python", type=Path, help=f"interpreter of an environment that has {TOOL}")
    parser.add_argument("--check", action="store_true", help="only check the recorded hashes")
    arguments = parser.parse_args()
    if arguments.check:
        stale = stale_files()
        sys.exit(f"stale, run python protos/generate.py: {', '.join(stale)}" if stale else 0)
    python = arguments.python or tool_python()
    check_tool_version(python)
    generate(python)


if __name__ == "__main__":
    main()
