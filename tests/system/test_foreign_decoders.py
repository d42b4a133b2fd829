"""Programs that read our Kafka topics without asking us find what was written: values, keys, every sample, rising times.

Two of them, in the versions that ``foreign_decoders/environment.py`` pins: kafka-python, which shares no code with our
client of Kafka, and quixstreams, whose released decoder of this protocol was made for the reference's topics.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from foreign_decoders.environment import decoder_command
from interop.builds import Unavailable
from kafka_broker import KafkaBroker
from server import Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.client.packets import PacketMaker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]  # the first run installs

SECONDS = 60.0
START_NS, INTERVAL_NS = 1_760_000_000_000_000_000, 1_000_000
BLOCK, BLOCKS = 50, 20
NAMES = ["vCar:Chassis", "nEngine:Engine"]

Sample = tuple[int, Any, str]


@pytest.fixture(scope="module")
def command() -> list[str]:
    try:
        return decoder_command()
    except Unavailable as missing:
        if os.environ.get("TRACKSIDE_REQUIRE_INTEROP") == "1":
            pytest.fail(f"TRACKSIDE_REQUIRE_INTEROP=1, but no foreign decoders: {missing}")
        pytest.skip(f"no foreign decoders: {missing}")


class Written(NamedTuple):
    """What a client sent, in order, and which samples it meant by it."""

    address: str
    data_source: str
    session_key: str
    format_id: int
    stream: list[data.Packet]
    main: list[data.Packet]
    samples: dict[str, list[Sample]]

    def topic(self, stream: str = "") -> str:
        return f"{self.data_source}.{stream}" if stream else self.data_source

    @property
    def essentials_topic(self) -> str:
        return f"{self.data_source}_essential"


@pytest.fixture(scope="module")
def written(kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Written:
    """A run of every kind of samples, by way of a server that is gone when they are read; ``command`` first: nothing is
    started to be skipped."""
    server = Server(tmp_path_factory.mktemp("foreign"), "2/2/2", broker=kafka_broker.address)
    try:
        done = write_all(server.start(), kafka_broker.address)
        assert server.stop() == 0
    finally:
        server.remove()
    return done


def write_all(server: Server, address: str) -> Written:
    client = server.client()
    source = f"Foreign{uuid.uuid4().hex[:12]}"
    created = api_pb2.CreateSessionRequest(data_source=source)
    key = client.sessions.CreateSession(created, timeout=SECONDS).session_key
    wanted = api_pb2.GetParameterDataFormatIdRequest(data_source=source, parameters=NAMES)
    format_id = client.formats.GetParameterDataFormatId(wanted, timeout=SECONDS).data_format_identifier
    make = PacketMaker(source, key)
    samples: dict[str, list[Sample]] = defaultdict(list)
    main = [make.configuration([], [], essential=True), make.marker(START_NS, "Lap 1")]
    stream = [*periodic_blocks(make, format_id, samples), *rows(make, samples), synchro(make, samples)]
    send(client, source, key, main, "")
    send(client, source, key, stream, "s")
    client.close()
    return Written(address, source, key, format_id, stream, main, dict(samples))


def periodic_blocks(make: PacketMaker, format_id: int, samples: dict[str, list[Sample]]) -> Iterator[data.Packet]:
    """By number: who decodes it needs the definition on the essentials topic. Values of all magnitudes, and gaps."""
    values = np.random.default_rng(7).normal(size=(2, BLOCKS * BLOCK)) * np.logspace(-300, 300, BLOCKS * BLOCK)
    values[:, ::17] = np.nan  # missing
    for block in range(BLOCKS):
        start = START_NS + block * BLOCK * INTERVAL_NS
        part = values[:, block * BLOCK : (block + 1) * BLOCK]
        packet = make.periodic_data(format_id, start, INTERVAL_NS, part)
        content = data.PeriodicDataPacket.FromString(packet.content)
        for name, column in zip(NAMES, content.columns, strict=True):
            for number, sample in enumerate(column.double_samples.samples):
                status = data.DataStatus.Name(sample.status)
                samples[name].append((start + number * INTERVAL_NS, sample.value, status))
        yield packet


def rows(make: PacketMaker, samples: dict[str, list[Sample]]) -> Iterator[data.Packet]:
    """By name, at times of their own."""
    times = START_NS + np.cumsum(np.random.default_rng(8).integers(1, 10**9, size=60))
    for block in range(0, 60, 20):
        part = times[block : block + 20]
        values = np.arange(block, block + 20, dtype=float).reshape(-1, 1)
        yield make.row_data(["gLat:Chassis"], part, values)
        samples["gLat:Chassis"] += [
            (int(time), float(value), "DATA_STATUS_VALID") for time, value in zip(part, values[:, 0], strict=True)
        ]


def synchro(make: PacketMaker, samples: dict[str, list[Sample]]) -> data.Packet:
    """The three kinds of values that are no doubles, at varying distances."""
    valid = data.DATA_STATUS_VALID
    columns = {
        "nGear:Gearbox": [-1, 2**31 - 1, -(2**31)],
        "bPit:Chassis": [True, False, True],
        "sTyre:Chassis": ["soft", "", "härter"],
    }
    encoded = [
        data.SampleColumn(int32_samples=data.Int32SampleList(samples=_each(data.Int32Sample, columns, 0, valid))),
        data.SampleColumn(bool_samples=data.BoolSampleList(samples=_each(data.BoolSample, columns, 1, valid))),
        data.SampleColumn(string_samples=data.StringSampleList(samples=_each(data.StringSample, columns, 2, valid))),
    ]
    named = data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=list(columns)))
    content = data.SynchroDataPacket(data_format=named, start_time=START_NS, intervals=[5, 7], columns=encoded)
    for name, values in columns.items():
        times = itertools.accumulate([START_NS, 5, 7])
        samples[name] = [(time, value, "DATA_STATUS_VALID") for time, value in zip(times, values, strict=True)]
    return make.packet("SynchroData", content.SerializeToString())


def _each(kind: Any, columns: dict[str, list[Any]], index: int, status: int) -> list[Any]:
    return [kind(value=value, status=status) for value in list(columns.values())[index]]


def send(client: Any, source: str, key: str, packets: list[data.Packet], stream: str) -> None:
    details = [
        api_pb2.DataPacketDetails(message=packet, data_source=source, stream=stream, session_key=key)
        for packet in packets
    ]
    parts = [details[first : first + 5] for first in range(0, len(details), 5)]
    requests = [api_pb2.WriteDataPacketsRequest(details=part) for part in parts]
    client.writer.WriteDataPackets(iter(requests), timeout=SECONDS, metadata=(("trackside-ack", "log"),))


def decoded(command: list[str], decoder: str, *arguments: str) -> list[Any]:
    done = subprocess.run([*command, decoder, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(done.stdout)
    return found


def as_hex(packets: list[data.Packet]) -> list[str]:
    return [packet.SerializeToString().hex() for packet in packets]


# -- kafka-python -----------------------------------------------------------------------------------------------------


def test_kafka_python_finds_values_and_keys(command: list[str], written: Written) -> None:
    """As they were sent, in their order, under the session key of the request, at times that do not step back."""
    found = decoded(command, "kafka-python", written.address, written.topic("s"))
    assert [message["value"] for message in found] == as_hex(written.stream)
    assert {message["key"] for message in found} == {written.session_key.encode().hex()}
    assert [message["offset"] for message in found] == list(range(len(written.stream)))
    times = [message["time_ms"] for message in found]
    assert times == sorted(times) and times[0] > 0


def test_kafka_python_finds_the_essentials_in_both_places(command: list[str], written: Written) -> None:
    """The definition that the server wrote, under an empty key, before the packets of the client."""
    essentials = decoded(command, "kafka-python", written.address, written.essentials_topic)
    main = decoded(command, "kafka-python", written.address, written.topic())
    definition, configuration, marker = essentials
    assert (definition["key"], configuration["key"]) == ("", written.session_key.encode().hex())
    packet = data.Packet.FromString(bytes.fromhex(definition["value"]))
    assert (packet.type, packet.is_essential) == ("DataFormatDefinition", True)
    content = data.DataFormatDefinitionPacket.FromString(packet.content)
    assert content.identifier == written.format_id
    assert list(content.parameter_identifiers.parameter_identifiers) == NAMES
    assert [configuration["value"], marker["value"]] == as_hex(written.main)
    assert [message["value"] for message in main] == [definition["value"], *as_hex(written.main)]


# -- quixstreams ------------------------------------------------------------------------------------------------------


def test_quixstreams_finds_every_sample(command: list[str], written: Written) -> None:
    """By name and by number; each parameter's samples in the order of their times."""
    found = decoded(command, "quixstreams", written.address, written.topic("s"), written.essentials_topic)
    assert {message["key"] for message in found} == {written.session_key}
    samples: dict[str, list[Sample]] = defaultdict(list)
    for row in itertools.chain.from_iterable(message["rows"] for message in found):
        assert row["session_key"] == written.session_key
        samples[row["parameter_identifier"]].append((row["timestamp"], row["value"], row["status"]))
    assert samples.keys() == written.samples.keys()
    for name, expected in written.samples.items():
        times = [time for time, _, _ in samples[name]]
        assert all(before < after for before, after in itertools.pairwise(times)), name
        assert repr(samples[name]) == repr(expected), name  # as text: a missing value may be no number


def test_quixstreams_finds_the_definition(command: list[str], written: Written) -> None:
    found = decoded(command, "quixstreams", written.address, written.essentials_topic, written.essentials_topic)
    whole = {kind: packet for message in found for kind, packet in message["whole"].items()}
    assert list(whole) == ["DataFormatDefinition", "Configuration", "Marker"]
    content = whole["DataFormatDefinition"]["content"]
    assert int(content["identifier"]) == written.format_id
    assert content["parameter_identifiers"]["parameter_identifiers"] == NAMES
    assert whole["Configuration"]["session_key"] == written.session_key
    assert [message["key"] for message in found] == ["", written.session_key, written.session_key]


# -- the environment --------------------------------------------------------------------------------------------------


def test_what_cannot_be_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unavailable, match="`pip` failed: ERROR"):
        decoder_command()
    assert list((tmp_path / "trackside" / "interop").iterdir()) == []
