"""Which data packets pass: types, patterns, formats by number and by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane import filtering
from trackside.data_plane.data_formats import DataFormatFold, event_definition, parameters_definition
from trackside.data_plane.filtering import UNKNOWN_FORMAT, BadPattern, DataPacketFilter, IdentifierFilter

SAMPLES = {
    "PeriodicData": data.PeriodicDataPacket,
    "RowData": data.RowDataPacket,
    "SynchroData": data.SynchroDataPacket,
}
NO_FORMATS = DataFormatFold()


def filter_of(**lists: object) -> DataPacketFilter:
    return DataPacketFilter.of_spec(api_pb2.DataPacketRequest(**lists))


def packet_of(kind: str, content: bytes) -> bytes:
    return data.Packet(type=kind, content=content, session_key="key", id=1 << 63).SerializeToString()


def samples(kind: str, *names: str) -> bytes:
    """A packet that names its parameters itself."""
    listed = data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=names))
    return packet_of(kind, SAMPLES[kind](data_format=listed).SerializeToString())


def numbered(kind: str, identifier: int) -> bytes:
    """A packet that refers to a format."""
    if kind == "Event":
        content = data.EventPacket(data_format=data.EventDataFormat(data_format_identifier=identifier))
    else:
        content = SAMPLES[kind](data_format=data.SampleDataFormat(data_format_identifier=identifier))
    return packet_of(kind, content.SerializeToString())


def event(name: str) -> bytes:
    content = data.EventPacket(data_format=data.EventDataFormat(event_identifier=name), timestamp=1)
    return packet_of("Event", content.SerializeToString())


def formats_of(*definitions: bytes) -> DataFormatFold:
    fold = DataFormatFold()
    for offset, definition in enumerate(definitions):
        fold.apply_packet(offset, definition)
    return fold


@pytest.fixture(params=sorted(SAMPLES))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.fact("C3")
@pytest.mark.reference_test(
    "IdentifierFilterShould: without include patterns everything passes",
    "IdentifierFilterShould: without exclude patterns nothing is excluded",
)
def test_without_patterns_all_samples_and_events_pass_and_markers_do_not(kind: str) -> None:
    everything = filter_of()
    assert everything.evaluate(samples(kind, "vCar:Chassis"), NO_FORMATS) is True
    assert everything.evaluate(event("Start:Race"), NO_FORMATS) is True
    marker = packet_of("Marker", data.MarkerPacket(label="Lap 1").SerializeToString())
    assert everything.evaluate(marker, NO_FORMATS) is False
    assert filter_of(include_markers=True).evaluate(marker, NO_FORMATS) is True


@pytest.mark.fact("A15", "C3")
@pytest.mark.parametrize("other", ["RawCANData", "Configuration", "periodicdata", "PeriodicDataPacket", "", "0"])
def test_other_types_never_pass(other: str) -> None:
    content = data.PeriodicDataPacket(
        data_format=data.SampleDataFormat(parameter_identifiers=data.ParameterList(parameter_identifiers=["vCar"]))
    )
    packet = packet_of(other, content.SerializeToString())
    assert filter_of(include_markers=True).evaluate(packet, NO_FORMATS) is False


@pytest.mark.fact("A15")
@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\xff", id="no packet"),
        pytest.param(packet_of("RowData", b"\xff\xff"), id="random content"),
        pytest.param(packet_of("RowData", b"\x0a\x02\x12\x05"), id="a cut data format"),
        pytest.param(packet_of("RowData", b"\x0a\x03\x12\x01\x0a"), id="a cut list"),
        pytest.param(packet_of("RowData", b"\x0a\x05\x12\x03\x0a\x01\xff"), id="a name that is no text"),
        pytest.param(packet_of("Event", b"\x0a\x03\x12\x01\xff"), id="an event that is no text"),
        pytest.param(packet_of("RowData", b""), id="no data format"),
        pytest.param(packet_of("RowData", b"\x0a\x00"), id="an empty data format"),
        pytest.param(packet_of("Event", b"\x0a\x00"), id="an empty event format"),
        pytest.param(samples("RowData"), id="an empty list"),
        pytest.param(numbered("RowData", 0), id="number 0"),
        pytest.param(numbered("Event", 0), id="event number 0"),
    ],
)
def test_what_cannot_be_judged_ever_does_not_pass(packet: bytes) -> None:
    assert filter_of().evaluate(packet, NO_FORMATS) is False
    but_x = filter_of(exclude_parameters=["x"], exclude_events=["x"])  # lets empty identifiers pass
    assert but_x.evaluate(packet, NO_FORMATS) is False


def test_samples_behind_the_data_format_do_not_matter(kind: str) -> None:
    packet = data.Packet.FromString(samples(kind, "vCar"))
    packet.content += b"\x22\x02\xff\xff"  # a column that cannot be decoded: the reader's to find out
    assert filter_of().evaluate(packet.SerializeToString(), NO_FORMATS) is True


# -- parameters and events --------------------------------------------------------------------------------------------


@pytest.mark.fact("C3")
def test_any_parameter_of_a_packet_is_enough(kind: str) -> None:
    wanted = filter_of(include_parameters=["^vCar"], exclude_parameters=["Rear"])
    for names, answer in [
        (["nEngine", "vCar"], True),
        (["nEngine"], False),
        (["vCarRear"], False),
        (["vCarRear", "vCar"], True),
        (["vCarRear", "nEngine"], False),
    ]:
        assert wanted.evaluate(samples(kind, *names), NO_FORMATS) is answer, names


@pytest.mark.fact("C3")
@pytest.mark.reference_test("IdentifierFilterShould: a name in both lists is rejected")
def test_a_parameter_in_both_lists_is_excluded(kind: str) -> None:
    wanted = filter_of(include_parameters=["vCar"], exclude_parameters=["vCar"])
    assert wanted.evaluate(samples(kind, "vCar"), NO_FORMATS) is False


def test_parameters_and_events_are_filtered_apart() -> None:
    wanted = filter_of(include_parameters=["vCar"])
    assert wanted.evaluate(event("Start"), NO_FORMATS) is True
    wanted = filter_of(include_events=["Start"], exclude_events=["Re"])
    assert wanted.evaluate(samples("RowData", "vCar"), NO_FORMATS) is True
    answers = [wanted.evaluate(event(name), NO_FORMATS) for name in ("Start", "ReStart", "Stop")]
    assert answers == [True, False, False]


def test_one_name_as_event_and_as_parameter_has_two_answers() -> None:
    """Both data formats are the same bytes: an answer that is remembered must know which kind it was for."""
    wanted = filter_of(include_parameters=["a"], exclude_events=["a"])
    formats = formats_of(parameters_definition(1, ("a",)), event_definition(1, "a"))
    for _ in range(2):
        assert wanted.evaluate(numbered("RowData", 1), formats) is True
        assert wanted.evaluate(numbered("Event", 1), formats) is False


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.fact("C3")
@pytest.mark.reference_test(
    "IdentifierFilterShould: an include pattern matches", "IdentifierFilterShould: an exclude pattern matches"
)
@pytest.mark.parametrize(
    ("include", "exclude", "identifier", "answer"),
    [
        ([], [], "Parameter 9", True),
        ([], [], "", False),
        ([], ["x"], "", True),
        (["^$"], ["x"], "", True),
        (["Param.+"], [], "Parameter 9", True),
        ([], ["Param.+"], "Parameter 9", False),
        (["Param.+"], ["Param.+"], "Parameter 9", False),
        (["eter"], [], "Parameter 9", True),
        (["^eter"], [], "Parameter 9", False),
        (["parameter"], [], "Parameter 9", False),
        (["(?i)parameter"], [], "Parameter 9", True),
        (["(?i)x", "parameter"], [], "Parameter 9", False),
        (["x", "9$"], [], "Parameter 9", True),
        (["a|Z", "b"], [], "Zb", True),
        ([""], [], "Parameter 9", True),
        (["x", ""], [], "Parameter 9", True),
        ([r"^vCar:Chassis$"], [], "vCar:Chassis", True),
        ([r"\."], [], "a.b", True),
        ([r"^.$"], [], "ä", True),
        (["ä"], [], "Fahrwerk ä", True),
        ([r"(?P<name>a)b", "(?P<name>c)"], [], "ab", True),
        ([r"\Qa.b\E"], [], "a.b", True),
        ([r"\Qa.b\E", "c"], [], "axb", False),
    ],
)
def test_patterns_are_searched_for(include, exclude, identifier, answer) -> None:
    assert IdentifierFilter("parameters", include, exclude).passes(identifier) is answer


simple_patterns = st.lists(st.text("ab.|^$*()-", max_size=5).filter(lambda text: accepted(text)), max_size=4)


def accepted(pattern: str) -> bool:
    """Whether both engines take the pattern; they agree on what such patterns mean."""
    try:
        re.compile(pattern)
        IdentifierFilter("parameters", [pattern], [])
    except (re.error, BadPattern):
        return False
    return True


@given(simple_patterns, simple_patterns, st.text("ab-", max_size=5))
def test_patterns_together_mean_what_each_means(include: list[str], exclude: list[str], identifier: str) -> None:
    included = any(re.search(pattern, identifier) for pattern in include or [".*"])
    excluded = any(re.search(pattern, identifier) for pattern in exclude or ["^$"])
    assert IdentifierFilter("parameters", include, exclude).passes(identifier) is (included and not excluded)


@pytest.mark.fact("D8")
@pytest.mark.parametrize(
    "pattern", ["(", "a)|(b", "[a", "*", "a{1001}", r"(a)\1", "(?!a)", "(?<=a)b", "\\", r"\Qa", r"\pL{100}"]
)
@pytest.mark.parametrize("field", ["include_parameters", "exclude_parameters", "include_events", "exclude_events"])
def test_a_bad_pattern_is_refused_at_the_door(field: str, pattern: str) -> None:
    with pytest.raises(BadPattern) as refused:
        filter_of(**{field: ["good", pattern]})
    assert (refused.value.field, refused.value.value) == (f"{field}[1]", pattern)
    assert refused.value.reason
    assert "\n" not in str(refused.value)


def test_a_refusal_names_field_value_and_reason() -> None:
    with pytest.raises(BadPattern) as refused:
        filter_of(include_events=["(?!a)b"])
    assert str(refused.value) == (
        "include_events[0]: '(?!a)b' is not a pattern (RE2 regular expression) that can be used: "
        "invalid perl operator: (?!"
    )


@pytest.mark.fact("K8")
@pytest.mark.parametrize(
    ("patterns", "reason"),
    [
        (["x"] * (filtering.PATTERNS_MAX + 1), "it is pattern 1001 of 1001"),
        (["x" * 1000] * 66, "66000 characters, wanted at most 65536"),
        ([r"\pL{10}"] * 6, "too large, by itself or with those before it"),
    ],
)
def test_lists_have_a_bound(patterns: list[str], reason: str) -> None:
    with pytest.raises(BadPattern, match=f"exclude_parameters.*{reason}"):
        filter_of(exclude_parameters=patterns)


def test_the_largest_list_is_taken() -> None:
    wanted = filter_of(include_parameters=[f"^vCar{number}:Chassis$" for number in range(filtering.PATTERNS_MAX)])
    assert wanted.evaluate(samples("RowData", "vCar999:Chassis"), NO_FORMATS) is True
    assert wanted.evaluate(samples("RowData", "vCar1000:Chassis"), NO_FORMATS) is False


@pytest.mark.timeout(60)
def test_a_catastrophic_pattern_is_none_here() -> None:
    """A backtracking engine would be at it longer than the universe has existed."""
    assert filter_of(include_parameters=["^(a+)+$"]).evaluate(samples("RowData", "a" * 5000 + "b"), NO_FORMATS) is False


# -- formats by number ------------------------------------------------------------------------------------------------


def test_formats_are_looked_up_among_their_kind(kind: str) -> None:
    formats = formats_of(parameters_definition(1, ("vCar",)), event_definition(2, "Start"))
    wanted = filter_of(include_parameters=["vCar"], include_events=["Start"])
    assert wanted.evaluate(numbered(kind, 1), formats) is True
    assert wanted.evaluate(numbered("Event", 2), formats) is True
    assert wanted.evaluate(numbered(kind, 2), formats) is UNKNOWN_FORMAT
    assert wanted.evaluate(numbered("Event", 1), formats) is UNKNOWN_FORMAT


def test_a_packet_can_be_judged_once_its_format_is_known(kind: str) -> None:
    formats = DataFormatFold()
    wanted = filter_of(exclude_parameters=["vCar"])
    assert wanted.evaluate(numbered(kind, 1), formats) is UNKNOWN_FORMAT
    formats.apply_packet(0, parameters_definition(1, ("vCar", "nEngine")))
    assert wanted.evaluate(numbered(kind, 1), formats) is True


def test_a_known_empty_list_does_not_pass() -> None:
    assert filter_of().evaluate(numbered("RowData", 1), formats_of(parameters_definition(1, ()))) is False


def test_an_answer_does_not_outlive_the_formats_that_it_came_from() -> None:
    """When the log turns out to be another one its fold is another one, and so may be what a number stands for."""
    wanted = filter_of(include_parameters=["vCar"])
    assert wanted.evaluate(numbered("RowData", 1), formats_of(parameters_definition(1, ("vCar",)))) is True
    assert wanted.evaluate(numbered("RowData", 1), formats_of(parameters_definition(1, ("nEngine",)))) is False


class CountingFold(DataFormatFold):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def parameters(self, identifier: int) -> tuple[str, ...] | None:
        self.asked += 1
        return super().parameters(identifier)


@pytest.mark.fact("R15")
def test_a_format_is_judged_once_for_all_packets() -> None:
    formats = CountingFold()
    formats.apply_packet(0, parameters_definition(1, ("vCar",)))
    wanted = filter_of()
    assert [wanted.evaluate(numbered(kind, 1), formats) for kind in SAMPLES] == [True] * 3
    assert formats.asked == 1


def test_invented_formats_cost_a_bounded_amount_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "REMEMBERED_BYTES_MAX", 64_000)
    wanted = filter_of()
    for number in range(2000):
        assert wanted.evaluate(samples("RowData", f"p{number}"), NO_FORMATS) is True
        assert wanted.evaluate(samples("RowData", f"p{number}", "x" * 5000), NO_FORMATS) is True
    kept = sum(len(data_format) + filtering.REMEMBERED_OVERHEAD_BYTES for _, data_format in wanted._remembered)
    assert 0 < kept == wanted._remembered_bytes <= 64_000
    assert max(len(data_format) for _, data_format in wanted._remembered) < 5000
