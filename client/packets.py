"""Packets from numpy arrays, and back.

Samples are encoded by numpy and not by protobuf: each ``DoubleSample`` of a packet has the same 13 bytes but for its
value, so a column is one structured array. Whatever is repeated in a message may follow the rest of it, so the head of
a packet (format, times) comes from the generated code and the columns are appended to it.

    DoubleSampleList.samples    0A 0B | 09 <value, 8 bytes> | 10 <status>
                                tag length  1: value          2: status
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.client.definitions import EventKind, Parameter
from trackside.client.errors import BadInput

__all__ = [
    "DecodedSamples",
    "PacketMaker",
    "SampleFormat",
    "decode_samples",
    "encode_configuration",
    "encode_periodic",
    "encode_rows",
]

SampleFormat = int | Sequence[str]
"""Which parameters the columns are: the number from GetParameterDataFormatId, or their identifiers."""

VALID, MISSING = pb.DATA_STATUS_VALID, pb.DATA_STATUS_MISSING
GROUP = "Channels"

_SAMPLE = np.dtype(
    [("tag", "u1"), ("length", "u1"), ("value_tag", "u1"), ("value", "<f8"), ("status_tag", "u1"), ("status", "u1")]
)
_SAMPLE_TEMPLATE = np.array((0x0A, _SAMPLE.itemsize - 2, 0x09, 0.0, 0x10, VALID), dtype=_SAMPLE)
_LIST_TAG = 0x0A  # SampleColumn.double_samples, SampleRow.double_samples
_COLUMN_TAG = 0x22  # PeriodicDataPacket.columns
_ROW_TAG = 0x1A  # RowDataPacket.rows

assert _SAMPLE.itemsize == 13


class PacketMaker:
    """Makes the packets of one session and numbers them 1, 2, 3, ... in ``Packet.id``.

    By convention a writer sends the packet of :meth:`new_session` and :meth:`configuration` to each of its streams,
    the main one (named "") included, before any data, and :meth:`end_of_session` at the end; lap markers must lie
    within the time of the data. Times are nanoseconds since 1970 UTC.
    """

    def __init__(self, data_source: str, session_key: str) -> None:
        self.data_source = data_source
        self.session_key = session_key
        self.numbers_used = 0

    def packet(self, type_name: str, content: bytes, *, essential: bool = False) -> pb.Packet:
        """Any content; ``type_name`` is its message's name without ``Packet``."""
        self.numbers_used += 1
        return pb.Packet(
            type=type_name,
            session_key=self.session_key,
            is_essential=essential,
            content=content,
            id=self.numbers_used,
        )

    def new_session(self, identifier: str, *, session_type: str = "Session", version: int = 1) -> pb.Packet:
        info = pb.SessionInfoPacket(
            data_source=self.data_source, identifier=identifier, type=session_type, version=version
        )
        content = pb.NewSessionPacket(data_source=self.data_source, session_info=info)
        return self.packet("NewSession", content.SerializeToString())

    def configuration(
        self, rates: Iterable[tuple[Sequence[Parameter], float | None]], events: Iterable[EventKind], *, essential: bool
    ) -> pb.Packet:
        """Parameters with the rate in Hz at which they come, None for those that come in rows."""
        return self.packet("Configuration", encode_configuration(rates, events), essential=essential)

    def periodic_data(
        self, sample_format: SampleFormat, start_ns: int, interval_ns: int, values: ArrayLike
    ) -> pb.Packet:
        return self.packet("PeriodicData", encode_periodic(sample_format, start_ns, interval_ns, values))

    def row_data(self, sample_format: SampleFormat, times_ns: ArrayLike, values: ArrayLike) -> pb.Packet:
        return self.packet("RowData", encode_rows(sample_format, times_ns, values))

    def marker(self, time_ns: int, label: str, *, kind: str = "Lap Trigger", value: int = 0) -> pb.Packet:
        """Essential, so that who joins late has the laps. ``source`` is "0": existing readers parse it as a number."""
        content = pb.MarkerPacket(timestamp=time_ns, label=label, type=kind, source="0", value=value)
        return self.packet("Marker", content.SerializeToString(), essential=True)

    def event(self, event_format: int | str, time_ns: int, values: Iterable[float] = ()) -> pb.Packet:
        """``event_format`` is the number from GetEventDataFormatId, or the event's identifier."""
        content = pb.EventPacket(timestamp=time_ns, raw_values=values)
        if isinstance(event_format, str):
            content.data_format.event_identifier = event_format
        else:
            content.data_format.data_format_identifier = event_format
        return self.packet("Event", content.SerializeToString())

    def end_of_session(self) -> pb.Packet:
        content = pb.EndOfSessionPacket(data_source=self.data_source)
        return self.packet("EndOfSession", content.SerializeToString())


def encode_configuration(
    rates: Iterable[tuple[Sequence[Parameter], float | None]], events: Iterable[EventKind]
) -> bytes:
    """A ConfigurationPacket with exactly one group, and an id that the same definitions get in every process."""
    configuration = pb.ConfigurationPacket(
        parameter_definitions=[
            _parameter_definition(parameter, rate) for parameters, rate in rates for parameter in parameters
        ],
        event_definitions=[_event_definition(number, kind) for number, kind in enumerate(events, 1)],
        group_definitions=[pb.GroupDefinition(identifier=GROUP, name=GROUP)],
    )
    definitions = configuration.SerializeToString(deterministic=True)
    configuration.config_id = hashlib.sha256(definitions).hexdigest()[:32]
    return configuration.SerializeToString(deterministic=True)


def encode_periodic(sample_format: SampleFormat, start_ns: int, interval_ns: int, values: ArrayLike) -> bytes:
    """A PeriodicDataPacket of ``values[column, sample]`` as doubles; NaN becomes status MISSING.

    Raises BadInput for an interval that is not 1 to 2**32 - 1 ns, or for an array whose columns are not the format's.
    """
    table = _table(sample_format, values, columns_axis=0)
    if not 1 <= interval_ns < 1 << 32:
        raise BadInput("interval_ns", interval_ns, "it must be 1 to 4294967295")
    head = pb.PeriodicDataPacket(data_format=_format(sample_format), start_time=start_ns, interval=interval_ns)
    return head.SerializeToString() + _sample_lists(_COLUMN_TAG, table)


def encode_rows(sample_format: SampleFormat, times_ns: ArrayLike, values: ArrayLike) -> bytes:
    """A RowDataPacket of ``values[row, column]``, row i taken at ``times_ns[i]``; NaN becomes status MISSING.

    Raises BadInput when there are not as many times as rows, or when the columns are not the format's.
    """
    table = _table(sample_format, values, columns_axis=1)
    times = np.asarray(times_ns, dtype=np.uint64)
    if times.shape != (len(table),):
        raise BadInput("times_ns", times.shape, f"{len(table)} rows need as many times")
    head = pb.RowDataPacket(data_format=_format(sample_format), timestamps=times.tolist())
    return head.SerializeToString() + _sample_lists(_ROW_TAG, table)


class DecodedSamples(NamedTuple):
    """``values[column, sample]`` at ``times_ns[sample]``; MISSING is NaN. ``format`` is a number or identifiers."""

    format: int | tuple[str, ...]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]


def decode_samples(packet: pb.Packet) -> DecodedSamples | None:
    """Samples of a PeriodicData or RowData packet, None for any other type. Strings become NaN.

    Raises google.protobuf.message.DecodeError when the content is not what the type says.
    """
    if packet.type == "PeriodicData":
        periodic = pb.PeriodicDataPacket.FromString(packet.content)
        values = _values(periodic.columns)
        times = periodic.start_time + np.arange(values.shape[1], dtype=np.int64) * periodic.interval
        return DecodedSamples(_decode_format(periodic.data_format), times, values)
    if packet.type == "RowData":
        rows = pb.RowDataPacket.FromString(packet.content)
        times = np.array(rows.timestamps, dtype=np.uint64).astype(np.int64)
        return DecodedSamples(_decode_format(rows.data_format), times, _values(rows.rows).T)
    return None


def _table(sample_format: SampleFormat, values: ArrayLike, columns_axis: int) -> NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise BadInput("values", table.shape, "it must have two dimensions")
    if not isinstance(sample_format, int) and table.shape[columns_axis] != len(sample_format):
        raise BadInput("values", table.shape, f"the format has {len(sample_format)} parameters")
    return table


def _format(sample_format: SampleFormat) -> pb.SampleDataFormat:
    if isinstance(sample_format, int):
        return pb.SampleDataFormat(data_format_identifier=sample_format)
    return pb.SampleDataFormat(parameter_identifiers=pb.ParameterList(parameter_identifiers=sample_format))


def _sample_lists(tag: int, table: NDArray[np.float64]) -> bytes:
    """Each row of ``table`` as one repeated element ``tag`` that holds one list of samples."""
    lists, samples = table.shape
    list_bytes = samples * _SAMPLE.itemsize
    inner = bytes([_LIST_TAG]) + _varint(list_bytes)
    prefix = bytes([tag]) + _varint(len(inner) + list_bytes) + inner
    encoded = np.empty((lists, len(prefix) + list_bytes), dtype=np.uint8)
    encoded[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    encoded[:, len(prefix) :] = _samples(table).view(np.uint8).reshape(lists, list_bytes)
    return encoded.tobytes()


def _samples(table: NDArray[np.float64]) -> NDArray[np.void]:
    samples = np.full(table.shape, _SAMPLE_TEMPLATE)
    samples["value"] = table
    missing = np.isnan(table)
    if missing.any():
        samples["value"][missing] = 0.0
        samples["status"][missing] = MISSING
    return samples


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _values(lists: Iterable[pb.SampleColumn] | Iterable[pb.SampleRow]) -> NDArray[np.float64]:
    rows = [_list_values(item) for item in lists]
    return np.array(rows) if rows else np.empty((0, 0))


def _list_values(item: pb.SampleColumn | pb.SampleRow) -> list[float]:
    kind = item.WhichOneof("list")
    if kind is None:
        return []
    samples = getattr(item, kind).samples
    if kind == "string_samples":
        return [np.nan] * len(samples)
    return [np.nan if sample.status == MISSING else float(sample.value) for sample in samples]


def _decode_format(sample_format: pb.SampleDataFormat) -> int | tuple[str, ...]:
    if sample_format.WhichOneof("format") == "parameter_identifiers":
        return tuple(sample_format.parameter_identifiers.parameter_identifiers)
    return sample_format.data_format_identifier


def _parameter_definition(parameter: Parameter, rate_hz: float | None) -> pb.ParameterDefinition:
    return pb.ParameterDefinition(
        identifier=parameter.identifier,
        name=parameter.name,
        application_name=parameter.application,
        description=parameter.description,
        groups=[GROUP],
        units=parameter.units,
        data_type=pb.DATA_TYPE_FLOAT64,
        format_string=parameter.format_string,
        min_value=parameter.minimum,
        max_value=parameter.maximum,
        warning_min_value=parameter.minimum,
        warning_max_value=parameter.maximum,
        frequencies=[] if rate_hz is None else [rate_hz],
        includes_row_data=rate_hz is None,
        conversion=_conversion(parameter),
    )


def _conversion(parameter: Parameter) -> pb.TextConversionDefinition | None:
    if not parameter.texts:
        return None
    return pb.TextConversionDefinition(
        conversion_identifier=f"{parameter.identifier}:texts",
        input_values=[value for value, _ in parameter.texts],
        string_values=[text for _, text in parameter.texts],
    )


def _event_definition(number: int, kind: EventKind) -> pb.EventDefinition:
    return pb.EventDefinition(
        identifier=kind.identifier,
        name=kind.name,
        definition_id=number,
        application_name=kind.application,
        description=kind.description,
        priority=pb.EventPriority.Name(kind.priority),
        groups=[GROUP],
        data_types=[pb.DATA_TYPE_FLOAT64] * len(kind.units),
        format_strings=kind.format_strings,
        units=kind.units,
    )
