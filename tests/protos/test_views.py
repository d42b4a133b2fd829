"""Views read and write the same bytes as the public messages and leave packets untouched."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2
from trackside.protos import internal_pb2

PAIRS = [
    (internal_pb2.DataPacketDetailsView, api_pb2.DataPacketDetails),
    (internal_pb2.WriteDataPacketRequestView, api_pb2.WriteDataPacketRequest),
    (internal_pb2.WriteDataPacketsRequestView, api_pb2.WriteDataPacketsRequest),
    (internal_pb2.WriteInfoPacketRequestView, api_pb2.WriteInfoPacketRequest),
    (internal_pb2.WriteInfoPacketRequestView, api_pb2.WriteInfoPacketsRequest),
    (internal_pb2.PacketResponseView, api_pb2.PacketResponse),
    (internal_pb2.ReadPacketsResponseView, api_pb2.ReadPacketsResponse),
    (internal_pb2.ReadPacketsResponseView, api_pb2.ReadEssentialsResponse),
    (internal_pb2.ReadPacketsResponseView, api_pb2.ReadDataPacketsResponse),
]

VIEW_OF = {public.DESCRIPTOR.full_name: view.DESCRIPTOR.full_name for view, public in PAIRS}


def expected_kind(field: FieldDescriptor) -> tuple[int, str]:
    """Wire type and message type that the view of a public field has: bytes for a packet, the view for a message
    that has one, else the same."""
    if field.message_type is None:
        return field.type, ""
    name = field.message_type.full_name
    if name == open_data_pb2.Packet.DESCRIPTOR.full_name:
        return FieldDescriptor.TYPE_BYTES, ""
    return field.type, VIEW_OF.get(name, name)


def kind(field: FieldDescriptor) -> tuple[int, str]:
    return field.type, field.message_type.full_name if field.message_type else ""


def shape(descriptor: Descriptor, kind_of) -> list:
    return [(field.number, field.name, field.is_repeated, *kind_of(field)) for field in descriptor.fields]


@pytest.mark.parametrize(("view", "public"), PAIRS, ids=lambda message: message.__name__)
def test_a_view_keeps_in_step_with_its_public_message(view, public) -> None:
    assert shape(view.DESCRIPTOR, kind) == shape(public.DESCRIPTOR, expected_kind)


DATA_PACKETS = [
    (open_data_pb2.PeriodicDataPacket, open_data_pb2.SampleDataFormat),
    (open_data_pb2.RowDataPacket, open_data_pb2.SampleDataFormat),
    (open_data_pb2.SynchroDataPacket, open_data_pb2.SampleDataFormat),
    (open_data_pb2.EventPacket, open_data_pb2.EventDataFormat),
]


@pytest.mark.parametrize(("public", "data_format"), DATA_PACKETS, ids=lambda message: message.__name__)
def test_the_data_format_is_where_the_content_view_looks(public, data_format) -> None:
    (field,) = internal_pb2.DataContentView.DESCRIPTOR.fields
    assert public.DESCRIPTOR.fields_by_number[field.number].name == field.name
    content = public(data_format=data_format(data_format_identifier=7)).SerializeToString()
    assert data_format.FromString(internal_pb2.DataContentView.FromString(content).data_format).data_format_identifier


def test_every_view_is_compared() -> None:
    views = {name for name in internal_pb2.DESCRIPTOR.message_types_by_name if name.endswith("View")}
    assert views == {view.__name__ for view, _ in PAIRS} | {"DataContentView"}


def test_a_packet_comes_out_of_a_view_as_it_was_sent() -> None:
    unknown_field = b"\xf8\x07\x2a"  # number 127, varint 42
    packet = open_data_pb2.Packet(type="PeriodicData", content=b"\xff\x00", id=1 << 63).SerializeToString()
    packet += unknown_field
    view = internal_pb2.WriteDataPacketsRequestView()
    view.details.add(message=packet, data_source="Car", stream="Chassis", session_key="key")
    read = api_pb2.WriteDataPacketsRequest.FromString(view.SerializeToString())
    assert read.details[0].stream == "Chassis"
    assert read.details[0].message.id == 1 << 63
    again = internal_pb2.WriteDataPacketsRequestView.FromString(read.SerializeToString())
    assert again.details[0].message == packet


def test_a_view_tells_a_missing_packet_from_an_empty_one() -> None:
    missing = api_pb2.DataPacketDetails(data_source="Car")
    empty = api_pb2.DataPacketDetails(data_source="Car", message=open_data_pb2.Packet())
    view = internal_pb2.DataPacketDetailsView
    assert not view.FromString(missing.SerializeToString()).HasField("message")
    assert view.FromString(empty.SerializeToString()).HasField("message")
    info = internal_pb2.WriteInfoPacketRequestView
    assert not info.FromString(api_pb2.WriteInfoPacketRequest().SerializeToString()).HasField("message")


def test_a_view_tells_a_missing_detail() -> None:
    view = internal_pb2.WriteDataPacketRequestView
    assert not view.FromString(api_pb2.WriteDataPacketRequest().SerializeToString()).HasField("detail")


def test_concatenated_elements_are_one_response() -> None:
    elements = [
        internal_pb2.ReadPacketsResponseView(
            response=[internal_pb2.PacketResponseView(packet=open_data_pb2.Packet(id=number).SerializeToString())]
        ).SerializeToString()
        for number in (1, 2, 3)
    ]
    joined = api_pb2.ReadPacketsResponse.FromString(b"".join(elements))
    assert [response.packet.id for response in joined.response] == [1, 2, 3]
