"""Feeds every parser of ours with bytes that are nearly right: each either takes them or raises what it declares.

    python tests/fuzz_parsers.py --inputs 1000000 --seed 1

prints a table: inputs, taken, refused, the slowest. An input that raises anything else, takes longer than ten seconds or
more memory than the process may have ends the run with its bytes. The suite runs a short form of it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from fuzz_files import file_targets
from google.protobuf.message import DecodeError

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import NewSessionPacket, Packet
from trackside.control_plane.config import conclude
from trackside.control_plane.located_json import JsonError, parse_json
from trackside.data_plane.access import Unauthenticated
from trackside.data_plane.data_formats import DataFormatFold, event_definition, parameters_definition
from trackside.data_plane.frame import decode_frame, encode_frame, frames_of
from trackside.data_plane.link import TopicsAnswer, Watch, decode_message, encode_message
from trackside.data_plane.log import Partition, Run
from trackside.data_plane.record import Record, Route, decode_record, encode_record
from trackside.data_plane.segments import Window, encode_batch, walk
from trackside.data_plane.tokens_file import Tokens, TokensNotUsable, hash_of
from trackside.protos import internal_pb2 as views

SECONDS_MAX = 10
ADDRESS_SPACE_BYTES = 4 << 30

SEGMENT_SEED = 7

Parse = Callable[[bytes], object]


@dataclass
class Target:
    """One parser. ``seeds`` are inputs that it takes."""

    name: str
    parse: Parse
    seeds: list[bytes]
    declared: tuple[type[Exception], ...] = ()
    share: int = 10
    taken: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    kinds: set[str] = field(default_factory=set)


def _message(data: bytes) -> object:
    return decode_message(data[0] if data else 0, data[1:])


def _json(data: bytes) -> object:
    return parse_json(data.decode())


def _configuration(data: bytes) -> object:
    node = parse_json(data.decode())
    plain = node.plain()
    return conclude(plain, environ={}) if isinstance(plain, dict) else None


def _segment(data: bytes) -> object:
    descriptor = os.memfd_create("segment")
    try:
        os.write(descriptor, data)
        return sum(1 for _ in walk(Window(descriptor, len(data)), SEGMENT_SEED, 0, 0))
    finally:
        os.close(descriptor)


def _formats(data: bytes) -> object:
    fold = DataFormatFold()
    fold.apply_packet(0, data)
    return len(fold)


def _authorization(data: bytes) -> object:
    return TOKENS.caller(data.decode("latin-1"))


TOKENS_TEXT = json.dumps({"tokens": [{"name": "car", "sha256": [hash_of("x")], "read": ["Car*"], "write": ["a.b"]}]})
TOKENS = Tokens(TOKENS_TEXT.encode())
CONFIGURATION = {
    "StreamApiConfig": {
        "BrokerUrl": "kafka:9092,b:1",
        "PartitionMappings": [{"Stream": "a", "Partition": 1}],
        "StreamCreationStrategy": 1,
        "Cores": "0",
        "SegmentBytes": "64 MiB",
        "WriteWaitSeconds": 1.5,
        "Security": {"SaslUsername": "u", "SaslPassword": "p"},
        "BatchingResponses": "true",
    }
}


def _record() -> bytes:
    packet = Packet(type="RowData", session_key="k", content=b"x" * 40).SerializeToString()
    record = Record([Route("Car", 0, b"k"), Route("Car.s", 1, b"", "Car_essential")], [0, 1, 0], [packet] * 3)
    record.count()
    return encode_record(record)


def _request() -> bytes:
    detail = api_pb2.DataPacketDetails(
        data_source="Car", stream="s", session_key="k", message=Packet(type="RowData", content=b"abc", id=7)
    )
    return api_pb2.WriteDataPacketsRequest(details=[detail] * 3).SerializeToString()


def targets() -> list[Target]:
    protobuf = (DecodeError,)
    packed = (msgspec.MsgspecError, UnicodeDecodeError)
    sent = [encode_message(m) for m in (Watch("Car", True, 1), TopicsAnswer(3, {"Car": 1}))]
    messages = [bytes([kind]) + body for kind, _, body in sent]
    session = Packet(type="NewSession", content=NewSessionPacket(data_source="Car").SerializeToString())
    definitions = [event_definition(3, "e"), parameters_definition(4, ("a", "b")), session.SerializeToString()]
    text = json.dumps(CONFIGURATION).encode()
    return [
        Target("ring record", decode_record, [_record()], packed),
        Target("frame", decode_frame, _frames(), packed),
        Target("link message", _message, messages, (*packed, KeyError)),
        Target("segment", _segment, _segments(), (), 4),
        Target("data format", _formats, definitions),
        Target("view of writes", views.WriteDataPacketsRequestView.FromString, [_request()], protobuf),
        Target("view of responses", views.ReadPacketsResponseView.FromString, [_request()], protobuf),
        Target("view of content", views.DataContentView.FromString, definitions, protobuf),
        Target("packet", Packet.FromString, definitions, protobuf),
        Target("JSON with places", _json, [text, TOKENS_TEXT.encode()], (JsonError, UnicodeDecodeError)),
        Target("configuration", _configuration, [text], (JsonError, UnicodeDecodeError), 1),
        Target("tokens file", Tokens, [TOKENS_TEXT.encode()], (TokensNotUsable,)),
        Target("authorization", _authorization, [b"Bearer x"], (Unauthenticated,)),
        *(Target(*row) for row in file_targets()),
    ]


def _frames() -> list[bytes]:
    packet = Packet(type="RowData", content=b"abc").SerializeToString()
    run = Run(
        Partition("Car.s", 0), b"log", 3, 9, [3, 5, 6], [1, 2, 3], [0, 1, 0], [(b"k", b""), (b"", b"i")], [packet] * 3
    )
    return [encode_frame(frame) for frame in frames_of(run, "s", {7: [True, False, True]})[0]]


def _segments() -> list[bytes]:
    values = [b"one", b"two" * 20, b""]
    lengths = list(map(len, values))
    batches = [
        b"".join(encode_batch(SEGMENT_SEED, base, 5, values, lengths, [(b"k", b""), (b"", b"i")], [0, 1, 0], {"r": 9}))
        for base in (0, 3)
    ]
    return [batches[0], b"".join(batches)]


EDGES = [
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
    b"[" * 2000,
    b'"',
]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with one to four changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 6):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << chance.randint(0, 7)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 16))
            case 3:
                edge = chance.choice(EDGES)
                data[at : at + len(edge)] = edge
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 64)]
            case 5:
                del data[at : at + chance.randint(1, 16)]
            case _:
                other = chance.choice(seeds)
                data[at:] = other[chance.randint(0, len(other)) :]
    return bytes(data)


def inputs(chance: random.Random, all_targets: list[Target], count: int) -> Iterator[tuple[Target, bytes]]:
    weights = [target.share for target in all_targets]
    for target in all_targets:
        for seed in target.seeds:
            yield target, seed
    for target in chance.choices(all_targets, weights, k=count):
        yield target, mutated(chance, target.seeds)


def run(count: int, seed: int) -> list[Target]:
    """Raises AssertionError with the bytes of the first input that a parser did not deal with."""
    all_targets = targets()
    try:
        for target, data in inputs(random.Random(seed), all_targets, count):
            faulthandler.dump_traceback_later(SECONDS_MAX, exit=True)
            _try(target, data)
    finally:
        faulthandler.cancel_dump_traceback_later()  # else it ends the process long after
    return all_targets


def _try(target: Target, data: bytes) -> None:
    begun = time.perf_counter()
    try:
        target.parse(data)
        target.taken += 1
    except target.declared as error:
        target.refused += 1
        target.kinds.add(type(error).__name__)
    except Exception as error:
        raise AssertionError(f"{target.name}: {type(error).__name__}: {error}; input {data.hex()}") from error
    target.slowest_ms = max(target.slowest_ms, (time.perf_counter() - begun) * 1000)


def table(found: list[Target]) -> str:
    lines = ["| parser | inputs | taken | refused | slowest ms | refused as |", "|---|---|---|---|---|---|"]
    for one in found:
        kinds = ", ".join(sorted(one.kinds)) or "-"
        total = one.taken + one.refused
        lines.append(f"| {one.name} | {total} | {one.taken} | {one.refused} | {one.slowest_ms:.1f} | {kinds} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # else a line for many an input
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    try:
        found = run(options.inputs, options.seed)
    except AssertionError as failed:
        print(failed, file=sys.stderr)
        return 1
    print(table(found))
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
