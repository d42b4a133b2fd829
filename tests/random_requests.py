"""Random requests for hypothesis, made from the descriptors: structurally valid ones, and bytes with bits turned.

Values are drawn from what existing clients send and from what stands at the edges: names that are topics, names that
are none, offsets at both ends of their range, enumerations that nobody declared, packets that hold what their type says
and packets that do not. ``known`` brings in what the server has: keys of sessions and identifiers of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from ma.streaming.open_data.v1 import open_data_pb2 as data

__all__ = ["Known", "requests"]

DEPTH_MAX = 6
"""Beyond it messages stay empty: some of them hold themselves."""

TEXTS = (
    *("", "Car", "Car.s", "s", "t", "fuzz", "vCar:Chassis", "Data.Car", "SessionInfo", "dead-Letter"),
    *("a/b", "..", ".", "../../x", "ü", "\0", "Car_essential", "x" * 300, "x" * 1025, "é" * 1024),
    *("(", ".*", "[", "(?=x)", r"\Q", "a{1000}", "^vCar", "Session"),
)
NUMBERS = (0, 1, -1, 2, 5, 10**9 - 1, 10**9, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
CONTENTS: dict[str, Any] = {
    name.removesuffix("Packet"): GetMessageClass(kind)
    for name, kind in data.DESCRIPTOR.message_types_by_name.items()
    if name.endswith("Packet") and name != "Packet"
}

RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Known:
    """What the server under test has. Filled by the test once, before the first example."""

    def __init__(self, session_keys: Sequence[str], connections: Sequence[int]) -> None:
        self.texts = st.sampled_from((*TEXTS, *session_keys)) | st.text(max_size=12)
        self._connections = tuple(connections)

    def integers(self, kind: int) -> st.SearchStrategy[int]:
        low, high = RANGES[kind]
        edges = tuple(number for number in (*NUMBERS, *self._connections) if low <= number <= high)
        return st.sampled_from(edges + self._connections * 5 if kind == FieldDescriptor.CPPTYPE_INT64 else edges)


@st.composite
def requests(draw: Draw, descriptor: Descriptor, known: Known) -> bytes:
    """The bytes of one request, every third of them damaged."""
    request = _filled(draw, descriptor, known, 0).SerializeToString()
    return _damaged(draw, request) if draw(st.integers(0, 2)) == 0 else request


def _filled(draw: Draw, descriptor: Descriptor, known: Known, depth: int) -> Message:
    if descriptor.full_name == data.Packet.DESCRIPTOR.full_name:
        return _packet(draw, known, depth)
    message = GetMessageClass(descriptor)()
    chosen = {oneof.name: draw(st.sampled_from(tuple(oneof.fields))).name for oneof in descriptor.oneofs}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if depth < DEPTH_MAX and (oneof is None or chosen[oneof.name] == field.name) and draw(st.integers(0, 4)):
            _fill(draw, message, field, known, depth)
    return message


def _fill(draw: Draw, message: Any, field: FieldDescriptor, known: Known, depth: int) -> None:
    place = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        for _ in range(draw(st.integers(0, 3))):
            key, value = (_value(draw, one, known, depth) for one in kind.fields)
            if isinstance(value, Message):
                place[key].CopyFrom(value)
            else:
                place[key] = value
    elif hasattr(place, "extend"):
        place.extend([_value(draw, field, known, depth) for _ in range(draw(st.integers(0, 3)))])
    elif kind is not None:
        place.CopyFrom(_value(draw, field, known, depth))
    else:
        setattr(message, field.name, _value(draw, field, known, depth))


def _value(draw: Draw, field: FieldDescriptor, known: Known, depth: int) -> Any:
    if field.message_type is not None:
        return _filled(draw, field.message_type, known, depth + 1)
    if field.cpp_type in RANGES:
        return draw(known.integers(field.cpp_type))
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return draw(st.integers(-1, 12))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return draw(st.booleans())
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return draw(st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else known.texts)
    return draw(st.floats())


def _packet(draw: Draw, known: Known, depth: int) -> data.Packet:
    """Mostly what its type says."""
    name = draw(st.sampled_from(sorted(CONTENTS)))
    content = _filled(draw, CONTENTS[name].DESCRIPTOR, known, depth + 1).SerializeToString()
    if draw(st.integers(0, 4)) == 0:
        content = _damaged(draw, content)
    return data.Packet(
        type=name if draw(st.integers(0, 9)) else draw(known.texts),
        session_key=draw(known.texts),
        is_essential=draw(st.booleans()),
        content=content,
        id=draw(known.integers(FieldDescriptor.CPPTYPE_UINT64)),
    )


def _damaged(draw: Draw, whole: bytes) -> bytes:
    """Up to three places changed, taken out, doubled, or overwritten with anything; or only bytes of no meaning."""
    damaged = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(damaged)))
        end = min(len(damaged), begin + draw(st.integers(0, 8)))
        damaged[begin:end] = draw(st.sampled_from((b"", bytes(damaged[begin:end] * 2), b"\xff"))) + draw(
            st.binary(max_size=4)
        )
    return bytes(damaged)
