"""The committed stubs are what protoc makes of the committed .proto files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1 import open_data_pb2
from trackside.protos import generate, internal_pb2

MODULES = [open_data_pb2, api_pb2, key_generator_pb2, internal_pb2]


def test_sources_and_stubs_are_those_of_the_last_generation() -> None:
    assert generate.stale_files() == [], "run: python protos/generate.py"


def test_a_comment_makes_nothing_stale_and_a_field_does(tmp_path: Path) -> None:
    proto = tmp_path / "a.proto"
    hashes = []
    for text in ("message A { int32 b = 1; }", "// Says a thing.\nmessage A {\n  int32 b = 1;\n}", "message A {}"):
        proto.write_text(text)
        hashes.append(generate.source_hash(proto))
    assert hashes[0] == hashes[1] != hashes[2]


def test_stubs_describe_what_protoc_reads_in_the_sources(tmp_path: Path) -> None:
    protoc = generate.find_protoc()
    if protoc is None:
        pytest.skip("no protoc here: neither grpcio-tools, nor .cache/protogen, nor protoc on the path")
    target = tmp_path / "set.bin"
    names = [*generate.PUBLIC, generate.INTERNAL]
    subprocess.run([*protoc, *generate.include_options(), f"--descriptor_set_out={target}", *names], check=True)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    for file, module in zip(compiled.file, MODULES, strict=True):
        clear_json_names(list(file.message_type))
        assert file == descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb), file.name


def clear_json_names(messages: list[descriptor_pb2.DescriptorProto]) -> None:
    """Stubs carry no json names, descriptor sets do."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        clear_json_names(list(message.nested_type))
