"""Packets as the scenario describes them, to and from messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data

SHORT_BYTES = 64
"""Content up to this length is told byte by byte, longer content as one byte and how often it stands there."""


class Numbers:
    """Data format identifiers of the scenario's lists and event, and the way back by asking the server."""

    def __init__(self) -> None:
        self.of_list: dict[tuple[str, ...], int] = {}
        self.of_event: dict[str, int] = {}
        self.look_up_list: Callable[[int], list[str]] = lambda number: []
        self.look_up_event: Callable[[int], str] = lambda number: ""


def encode(described: dict[str, Any], numbers: Numbers) -> data.Packet:
    return data.Packet(
        type=described["type"],
        id=int(described["id"]),
        session_key=described["session_key"],
        is_essential=described["essential"],
        content=_encode_content(described["content"], numbers),
    )


def _encode_content(content: dict[str, Any], numbers: Numbers) -> bytes:
    match content:
        case {"bytes": text}:
            return bytes.fromhex(text)
        case {"fill": value, "count": count}:
            return bytes([value]) * int(count)
        case {"marker": marker}:
            return _marker(marker).SerializeToString()
        case {"event": event}:
            return _event(event, numbers).SerializeToString()
        case {"periodic": periodic}:
            return _periodic(periodic, numbers).SerializeToString()
    raise ValueError(f"no such kind of content: {list(content)}")


def _marker(content: dict[str, Any]) -> data.MarkerPacket:
    return data.MarkerPacket(
        timestamp=int(content["timestamp"]),
        end_time=int(content["end_time"]),
        label=content["label"],
        value=int(content["value"]),
    )


def _event(content: dict[str, Any], numbers: Numbers) -> data.EventPacket:
    name = content["event"]
    by_number = data.EventDataFormat(data_format_identifier=numbers.of_event.get(name, 0))
    by_name = data.EventDataFormat(event_identifier=name)
    return data.EventPacket(
        data_format=by_number if content["numbered"] else by_name,
        timestamp=int(content["timestamp"]),
        raw_values=content["values"],
    )


def _periodic(content: dict[str, Any], numbers: Numbers) -> data.PeriodicDataPacket:
    names = content["parameters"]
    by_number = data.SampleDataFormat(data_format_identifier=numbers.of_list.get(tuple(names), 0))
    by_name = data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=names))
    return data.PeriodicDataPacket(
        data_format=by_number if content["numbered"] else by_name,
        start_time=int(content["start_time"]),
        interval=content["interval"],
        columns=[_column(values) for values in content["columns"]],
    )


def _column(values: list[float]) -> data.SampleColumn:
    samples = [data.DoubleSample(value=value, status=data.DATA_STATUS_VALID) for value in values]
    return data.SampleColumn(double_samples=data.DoubleSampleList(samples=samples))


def describe(response: api_pb2.PacketResponse, numbers: Numbers) -> dict[str, Any]:
    """What was read, in the scenario's words, without its stream."""
    packet = response.packet
    return {
        "id": str(packet.id),
        "type": packet.type,
        "session_key": packet.session_key,
        "essential": packet.is_essential,
        "content": _describe_content(packet, numbers),
        "has_submit_time": response.submit_time.seconds > 0,
    }


def _describe_content(packet: data.Packet, numbers: Numbers) -> dict[str, Any]:
    match packet.type:
        case "Marker":
            return {"marker": _describe_marker(data.MarkerPacket.FromString(packet.content))}
        case "Event":
            return {"event": _describe_event(data.EventPacket.FromString(packet.content), numbers)}
        case "PeriodicData":
            return {"periodic": _describe_periodic(data.PeriodicDataPacket.FromString(packet.content), numbers)}
        case "DataFormatDefinition":
            return {"definition": _describe_definition(data.DataFormatDefinitionPacket.FromString(packet.content))}
    return _describe_bytes(packet.content)


def _describe_bytes(content: bytes) -> dict[str, Any]:
    if len(content) <= SHORT_BYTES:
        return {"bytes": content.hex()}
    return {"fill": content[0] if content == content[:1] * len(content) else -1, "count": len(content)}


def _describe_marker(marker: data.MarkerPacket) -> dict[str, Any]:
    return {
        "timestamp": str(marker.timestamp),
        "end_time": str(marker.end_time),
        "label": marker.label,
        "value": str(marker.value),
    }


def _describe_event(event: data.EventPacket, numbers: Numbers) -> dict[str, Any]:
    form = event.data_format
    numbered = form.WhichOneof("format") == "data_format_identifier"
    return {
        "numbered": numbered,
        "event": numbers.look_up_event(form.data_format_identifier) if numbered else form.event_identifier,
        "timestamp": str(event.timestamp),
        "values": list(event.raw_values),
    }


def _describe_periodic(periodic: data.PeriodicDataPacket, numbers: Numbers) -> dict[str, Any]:
    form = periodic.data_format
    numbered = form.WhichOneof("format") == "data_format_identifier"
    named = list(form.parameter_identifiers.parameter_identifiers)
    return {
        "numbered": numbered,
        "parameters": numbers.look_up_list(form.data_format_identifier) if numbered else named,
        "start_time": str(periodic.start_time),
        "interval": periodic.interval,
        "columns": [[sample.value for sample in column.double_samples.samples] for column in periodic.columns],
    }


def _describe_definition(definition: data.DataFormatDefinitionPacket) -> dict[str, Any]:
    return {
        "number": str(definition.identifier),
        "type": data.DataFormatType.Name(definition.type),
        "parameters": list(definition.parameter_identifiers.parameter_identifiers),
        "event": definition.event_identifier,
    }
