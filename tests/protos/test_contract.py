"""The public protocol is the published one: a foreign client's modules and ours describe the same files."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from ma.streaming.open_data.v1 import open_data_pb2

PUBLISHED = {
    "ma/streaming/open_data/v1/open_data.proto": "dd448ddc68ae86cbba636afddde3a083b5e4448e2276da3dd06952bc9e9ccdf4",
    "ma/streaming/api/v1/api.proto": "7fba4dc16cb1c95731d63079fef3bf70024fc876ba248db1fbfd593ada488fdd",
    "ma/streaming/key_generator/v1/key_generator.proto": (
        "b26cba5ab9b939d8f401fae93646d88c1a46cf3747e1b657efa6dec23779c758"
    ),
}
"""SHA-256 of the descriptors (comments aside, json names filled in) that protoc makes of the published files.

These never change: protobuf refuses two different files of one name in a process, so a program that carries modules
made from the published files could no longer import ours.
"""


def json_name(name: str) -> str:
    """The default json name of a field, as protoc writes it into descriptor sets."""
    return re.sub(r"_(.?)", lambda found: found[1].upper(), name)


def fill_json_names(messages: list[descriptor_pb2.DescriptorProto]) -> None:
    for message in messages:
        for field in message.field:
            field.json_name = json_name(field.name)
        fill_json_names(list(message.nested_type))


@pytest.mark.parametrize("module", [open_data_pb2, api_pb2, key_generator_pb2], ids=lambda module: module.__name__)
def test_the_descriptor_is_the_published_one(module) -> None:
    file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    fill_json_names(list(file.message_type))
    digest = hashlib.sha256(file.SerializeToString(deterministic=True)).hexdigest()
    assert digest == PUBLISHED[file.name]


def test_ma_stays_a_namespace_that_others_can_share() -> None:
    """A program's own generated ``ma/`` folder must not be hidden by ours: no level above ours is a regular package."""
    code = "import ma, ma.streaming, ma.streaming.api.v1.api_pb2; print(ma.__file__, ma.streaming.__file__)"
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["None", "None"]
