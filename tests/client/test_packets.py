"""What numpy encodes is what the generated code reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.client.definitions import EventKind, Parameter
from trackside.client.errors import BadInput
from trackside.client.packets import (
    PacketMaker,
    decode_samples,
    encode_configuration,
    encode_periodic,
    encode_rows,
)

START = 1_700_000_000_123_456_789
tables = arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 40)), elements=st.floats(width=64))


def samples_of(items: list) -> list[list[tuple[float, int]]]:
    return [[(sample.value, sample.status) for sample in item.double_samples.samples] for item in items]


def expected(table: np.ndarray) -> list[list[tuple[float, int]]]:
    return [[(0.0, pb.DATA_STATUS_MISSING) if np.isnan(value) else (value, 1) for value in row] for row in table]


@settings(max_examples=60, deadline=None)
@given(values=tables)
def test_periodic_data_is_what_the_generated_code_would_write(values: np.ndarray) -> None:
    packet = pb.PeriodicDataPacket.FromString(encode_periodic(7, START, 1_000_000, values))
    assert (packet.data_format.data_format_identifier, packet.start_time, packet.interval) == (7, START, 1_000_000)
    assert samples_of(packet.columns) == expected(values)


@settings(max_examples=60, deadline=None)
@given(values=tables)
def test_row_data_is_what_the_generated_code_would_write(values: np.ndarray) -> None:
    times = START + np.arange(len(values)) * 17
    packet = pb.RowDataPacket.FromString(encode_rows(9, times, values))
    assert list(packet.timestamps) == times.tolist()
    assert samples_of(packet.rows) == expected(values)


def test_long_columns() -> None:
    values = np.random.default_rng(1).normal(size=(2, 5_000))  # lengths of three bytes
    packet = pb.PeriodicDataPacket.FromString(encode_periodic(1, 0, 1, values))
    assert [len(column.double_samples.samples) for column in packet.columns] == [5_000, 5_000]
    assert packet.columns[1].double_samples.samples[4_999].value == values[1, 4_999]


def test_inline_formats() -> None:
    packet = pb.PeriodicDataPacket.FromString(encode_periodic(["a:b", "c:d"], 0, 1, np.zeros((2, 3))))
    assert list(packet.data_format.parameter_identifiers.parameter_identifiers) == ["a:b", "c:d"]


@pytest.mark.parametrize(
    ("encode", "field"),
    [
        (lambda: encode_periodic(1, 0, 0, np.zeros((1, 1))), "interval_ns is 0"),
        (lambda: encode_periodic(1, 0, 1 << 32, np.zeros((1, 1))), "interval_ns is 4294967296"),
        (lambda: encode_periodic(1, 0, 1, np.zeros(3)), "values"),
        (lambda: encode_periodic(["a"], 0, 1, np.zeros((2, 3))), "1 parameters"),
        (lambda: encode_rows(["a"], [0, 1], np.zeros((2, 3))), "1 parameters"),
        (lambda: encode_rows(1, [0], np.zeros((2, 3))), "times_ns"),
    ],
)
def test_impossible_input_names_its_field(encode: object, field: str) -> None:
    with pytest.raises(BadInput, match=field):
        encode()  # type: ignore[operator]


def test_decoding_gives_back_what_went_in() -> None:
    values = np.array([[1.5, np.nan, -3.0], [0.0, 2.0, 1e300]])
    maker = PacketMaker("Demo", "key")
    periodic = decode_samples(maker.periodic_data(7, START, 10, values))
    rows = decode_samples(maker.row_data(["a", "b"], START + np.arange(3) * 10, values.T))
    assert periodic is not None and rows is not None
    assert (periodic.format, rows.format) == (7, ("a", "b"))
    for decoded in (periodic, rows):
        assert np.array_equal(decoded.values, values, equal_nan=True)
        assert decoded.times_ns.tolist() == [START, START + 10, START + 20]
    assert decode_samples(maker.marker(START, "Lap 1")) is None


def test_other_kinds_of_samples_are_decoded_as_numbers() -> None:
    column = pb.SampleColumn(
        int32_samples=pb.Int32SampleList(samples=[pb.Int32Sample(value=4, status=1), pb.Int32Sample(status=2)])
    )
    texts = pb.SampleColumn(string_samples=pb.StringSampleList(samples=[pb.StringSample(value="a")] * 2))
    content = pb.PeriodicDataPacket(interval=1, columns=[column, texts]).SerializeToString()
    decoded = decode_samples(pb.Packet(type="PeriodicData", content=content))
    assert decoded is not None
    assert np.array_equal(decoded.values, [[4, np.nan], [np.nan, np.nan]], equal_nan=True)


def test_packets_are_numbered_and_carry_their_session() -> None:
    maker = PacketMaker("Demo", "key")
    packets = [
        maker.new_session("Spa"),
        maker.configuration([], [], essential=True),
        maker.marker(START, "Lap 2", value=2),
        maker.event("Limiter:Engine", START, [1.0]),
        maker.event(12, START),
        maker.end_of_session(),
    ]
    assert [packet.id for packet in packets] == [1, 2, 3, 4, 5, 6] and maker.numbers_used == 6
    assert {packet.session_key for packet in packets} == {"key"}
    assert [packet.type for packet in packets] == [
        "NewSession", "Configuration", "Marker", "Event", "Event", "EndOfSession",
    ]  # fmt: skip
    assert [packet.is_essential for packet in packets] == [False, True, True, False, False, False]
    info = pb.NewSessionPacket.FromString(packets[0].content).session_info
    assert (info.data_source, info.identifier, info.type, info.version) == ("Demo", "Spa", "Session", 1)
    int(pb.MarkerPacket.FromString(packets[2].content).source)  # existing readers parse it
    assert pb.EventPacket.FromString(packets[3].content).data_format.event_identifier == "Limiter:Engine"
    assert pb.EventPacket.FromString(packets[4].content).data_format.data_format_identifier == 12


SPEED = Parameter("vCar:Chassis", "Speed", "km/h", 0, 360)
GEAR = Parameter("NGear:Gearbox", "Gear", "", 0, 8, "%2.0f", ((0.0, "N"), (1.0, "1")))
LOCK_UP = EventKind("LockUp:Chassis", "A wheel locked", 2, ("km/h",), ("%5.1f",))


def test_configuration_keeps_the_rules_that_readers_check_silently() -> None:
    """Exactly one group, everything in it, names and ranges complete."""
    configuration = pb.ConfigurationPacket.FromString(
        encode_configuration([([SPEED], 1000), ([GEAR], None)], [LOCK_UP])
    )
    assert len(configuration.group_definitions) == 1
    group = configuration.group_definitions[0].identifier
    speed, gear = configuration.parameter_definitions
    assert (speed.identifier, speed.name, speed.application_name) == ("vCar:Chassis", "vCar", "Chassis")
    assert (speed.units, speed.min_value, speed.max_value, list(speed.frequencies)) == ("km/h", 0, 360, [1000])
    assert list(speed.groups) == list(gear.groups) == [group] and not speed.includes_row_data
    assert gear.includes_row_data and list(gear.conversion.string_values) == ["N", "1"]
    event = configuration.event_definitions[0]
    assert (event.identifier, event.priority, list(event.units)) == ("LockUp:Chassis", pb.EVENT_PRIORITY_HIGH, ["km/h"])
    assert len(event.data_types) == len(event.format_strings) == 1


def test_configuration_ids_are_stable_and_differ_with_the_content() -> None:
    def id_of(*parameters: Parameter) -> str:
        return pb.ConfigurationPacket.FromString(encode_configuration([(parameters, 100)], [LOCK_UP])).config_id

    assert id_of(SPEED, GEAR) == id_of(SPEED, GEAR) == "a94bd1af0f12c1e35f638c819150afc3"
    assert id_of(SPEED, GEAR) != id_of(GEAR, SPEED) != id_of(GEAR)
