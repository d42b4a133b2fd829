"""The fold of definitions: which identifier is given out, and what each stands for."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane.data_formats import DataFormat, DataFormatFold, event_definition, parameters_definition

PARAMETER, EVENT = data.DATA_FORMAT_TYPE_PARAMETER, data.DATA_FORMAT_TYPE_EVENT


class Entry(NamedTuple):
    offset: int
    packet: bytes


def fold_of(*packets: bytes) -> DataFormatFold:
    fold = DataFormatFold()
    for offset, packet in enumerate(packets):
        fold.apply(Entry(offset, packet))
    return fold


def packet_of(definition: data.DataFormatDefinitionPacket) -> bytes:
    return data.Packet(type="DataFormatDefinition", content=definition.SerializeToString()).SerializeToString()


@pytest.mark.fact("C5")
@pytest.mark.reference_test("DataFormatInfoServiceShould: two ids of one list and of one event all resolve")
def test_the_first_definition_of_a_list_is_given_out_and_all_are_found() -> None:
    fold = fold_of(parameters_definition(20, ("a", "b")), parameters_definition(10, ("a", "b")))
    assert fold.parameters_identifier(("a", "b")) == 20
    assert fold.parameters(20) == fold.parameters(10) == ("a", "b")
    assert fold.statistics() == {"formats": 1, "identifiers": 2, "ignored": 0}


@pytest.mark.fact("C5", "D3")
@pytest.mark.reference_test("ParameterListKeyCreatorShould: an empty list, one name and three names are different keys")
def test_order_repetition_and_commas_make_other_lists() -> None:
    lists = [("a", "b"), ("b", "a"), ("a", "b", "b"), ("a,b",), ("a", "b", ""), ()]
    fold = fold_of(*(parameters_definition(number, names) for number, names in enumerate(lists, 1)))
    assert [fold.parameters_identifier(names) for names in lists] == [1, 2, 3, 4, 5, 6]
    assert fold.parameters(6) == ()


def test_parameters_and_events_are_numbered_apart() -> None:
    fold = fold_of(parameters_definition(1, ("x",)), event_definition(1, "x"), event_definition(2, "y"))
    assert fold.parameters(1) == ("x",)
    assert fold.event(1) == "x"
    assert (fold.parameters(2), fold.event(2)) == (None, "y")
    assert (fold.parameters_identifier(("y",)), fold.event_identifier("y")) == (None, 2)
    assert len(fold) == 3


def test_an_identifier_keeps_what_it_stood_for_first() -> None:
    """Packets with it are on their way; and the list that came late must not be told to use it."""
    fold = fold_of(parameters_definition(1, ("a",)), parameters_definition(1, ("b",)))
    assert fold.parameters(1) == ("a",)
    assert fold.parameters_identifier(("b",)) is None
    assert fold.statistics()["ignored"] == 1


def test_applying_says_what_is_given_out_now() -> None:
    fold = DataFormatFold()
    assert fold.apply(Entry(0, parameters_definition(5, ("a",)))) == DataFormat(False, ("a",), 5)
    assert fold.apply(Entry(1, parameters_definition(6, ("a",)))) == DataFormat(False, ("a",), 5)
    assert fold.apply(Entry(2, event_definition(5, "start"))) == DataFormat(True, ("start",), 5)
    assert fold.apply(Entry(3, data.Packet(type="Configuration").SerializeToString())) is None
    assert fold.statistics()["ignored"] == 0


def test_what_was_taken_before_is_not_taken_again() -> None:
    fold = fold_of(parameters_definition(5, ("a",)), parameters_definition(6, ("b",)))
    assert fold.next_offset == 2
    assert fold.apply(Entry(1, parameters_definition(7, ("c",)))) is None
    assert fold.parameters(7) is None
    fold.move_to(10)
    assert fold.apply(Entry(9, parameters_definition(7, ("c",)))) is None
    assert fold.apply(Entry(10, parameters_definition(7, ("c",)))) is not None
    fold.move_to(4)
    assert fold.next_offset == 11


def list_of(*names: str) -> data.ParameterList:
    return data.ParameterList(parameter_identifiers=names)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(packet_of(data.DataFormatDefinitionPacket(type=PARAMETER)), id="identifier 0"),
        pytest.param(packet_of(data.DataFormatDefinitionPacket(identifier=1)), id="no kind"),
        pytest.param(
            packet_of(data.DataFormatDefinitionPacket(identifier=1, type=EVENT, parameter_identifiers=list_of("a"))),
            id="an event with a list",
        ),
        pytest.param(
            packet_of(data.DataFormatDefinitionPacket(identifier=1, type=PARAMETER, event_identifier="a")),
            id="a list with an event",
        ),
        pytest.param(
            data.Packet(type="DataFormatDefinition", content=b"\xff").SerializeToString(), id="undecodable content"
        ),
        pytest.param(b"\xff", id="undecodable packet"),
    ],
)
def test_definitions_that_say_nothing_are_counted(packet: bytes) -> None:
    fold = fold_of(packet, parameters_definition(1, ("x",)))
    assert fold.statistics() == {"formats": 1, "identifiers": 1, "ignored": 1}
    assert fold.parameters(1) == ("x",)


def test_only_definitions_by_their_exact_type_count() -> None:
    content = data.Packet.FromString(parameters_definition(1, ("x",))).content
    for name in ("dataformatdefinition", "DataFormatDefinitionPacket", "DataFormatConfiguration"):
        assert len(fold_of(data.Packet(type=name, content=content).SerializeToString())) == 0


def test_an_empty_list_may_be_left_out_of_its_definition() -> None:
    fold = fold_of(packet_of(data.DataFormatDefinitionPacket(identifier=3, type=PARAMETER)))
    assert fold.parameters_identifier(()) == 3


def test_a_definition_has_the_form_that_other_servers_read() -> None:
    packet = data.Packet.FromString(parameters_definition(1 << 63, ("a", "b")))
    assert (packet.type, packet.session_key, packet.is_essential) == ("DataFormatDefinition", "", True)
    definition = data.DataFormatDefinitionPacket.FromString(packet.content)
    assert (definition.identifier, definition.type) == (1 << 63, PARAMETER)
    assert list(definition.parameter_identifiers.parameter_identifiers) == ["a", "b"]
    event = data.DataFormatDefinitionPacket.FromString(data.Packet.FromString(event_definition(1, "")).content)
    assert (event.type, event.WhichOneof("format")) == (EVENT, "event_identifier")


names = st.lists(st.sampled_from(["a", "b", "a,b", ""]), max_size=3).map(tuple)
definitions = st.one_of(
    st.builds(parameters_definition, st.integers(1, 6), names),
    st.builds(event_definition, st.integers(1, 6), st.sampled_from(["a", "b", ""])),
)


def everything(fold: DataFormatFold) -> tuple:
    lists = [fold.parameters(number) for number in range(7)]
    events = [fold.event(number) for number in range(7)]
    return (
        lists,
        events,
        [fold.parameters_identifier(found) for found in lists if found is not None],
        [fold.event_identifier(found) for found in events if found is not None],
    )


@given(st.lists(definitions, max_size=12), st.data())
def test_a_repeat_changes_nothing(log: list[bytes], drawn: st.DataObject) -> None:
    """A window of entries may stand in the log once more (a producer died); all servers must come out the same."""
    start = drawn.draw(st.integers(0, len(log)))
    end = drawn.draw(st.integers(start, len(log)))
    assert everything(fold_of(*log)) == everything(fold_of(*log[:end], *log[start:end], *log[end:]))


@given(st.lists(definitions, max_size=12))
def test_what_is_given_out_stands_for_the_list(log: list[bytes]) -> None:
    lists, events, given_lists, given_events = everything(fold_of(*log))
    known = [found for found in lists if found is not None]
    assert [lists[identifier] for identifier in given_lists] == known
    assert [events[identifier] for identifier in given_events] == [found for found in events if found is not None]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.sampled_from("abc"), max_size=2), st.booleans()), max_size=20),
    st.integers(0, 20),
)
def test_a_fold_that_was_kept_as_bytes_goes_on_as_if_it_had_not(
    definitions: list[tuple[int, list[str], bool]], kept_at: int
) -> None:
    packets = [
        event_definition(number, "".join(names)) if is_event else parameters_definition(number, tuple(names))
        for number, names, is_event in definitions
    ]
    whole, after = fold_of(*packets), DataFormatFold.load(fold_of(*packets[:kept_at]).dump())
    for offset, packet in list(enumerate(packets))[kept_at:]:
        after.apply(Entry(offset, packet))
    assert after.dump() == whole.dump() and after.statistics() == whole.statistics()
    for _, names, _ in definitions:
        assert after.parameters_identifier(tuple(names)) == whole.parameters_identifier(tuple(names))
        assert after.event_identifier("".join(names)) == whole.event_identifier("".join(names))
