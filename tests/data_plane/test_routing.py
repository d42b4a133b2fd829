"""Names to topics and back, under both strategies and both presets."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trackside.data_plane import routing as routing_module
from trackside.data_plane.log import Partition
from trackside.data_plane.naming import TOPIC_CHARACTERS_MAX
from trackside.data_plane.routing import BadName, Routing, owner, parse_offset_key
from trackside.data_plane.spec import Settings

LEGACY = Settings()
DOMAIN = Settings(naming="domain", domain="Track")
NO_DOMAIN = Settings(naming="domain")
MAPPINGS = {"Chassis": 1, "Engine": 2}
PARTITIONED = Settings(strategy="PartitionBased", partition_mappings=MAPPINGS)
PARTITIONED_DOMAIN = Settings(strategy="PartitionBased", partition_mappings=MAPPINGS, naming="domain", domain="Track")
EVERY = [LEGACY, DOMAIN, NO_DOMAIN, PARTITIONED, PARTITIONED_DOMAIN]

names = st.one_of(
    st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12),
    st.lists(
        st.sampled_from(["A", "B", "Data", "Essential", "Sys", "Track", "essential", "_essential", ".", "_", "-"]),
        min_size=1,
        max_size=6,
    ).map("".join),
)
presets = st.sampled_from(EVERY).map(Routing)


def accepted(routing: Routing, data_source: str, stream: str) -> Partition:
    """The route of names that the door lets in; other examples are not counted."""
    try:
        return routing.route(data_source, stream)
    except BadName:
        assume(False)
        raise AssertionError from None


# -- both tables of names ---------------------------------------------------------------------------------------------


@pytest.mark.fact("C1")
@pytest.mark.parametrize(
    ("settings", "main", "stream", "essentials", "common"),
    [
        (LEGACY, "Car", "Car.Chassis", "Car_essential", ["SessionInfo", "SystemStatus", "dead-Letter"]),
        (
            DOMAIN,
            "Track.Data.Car",
            "Track.Data.Car.Chassis",
            "Track.Essential.Car",
            ["Track.Sys.SessionInfo", "Track.Sys.Status", "Track.Sys.DeadLetter"],
        ),
        (
            NO_DOMAIN,
            "Data.Car",
            "Data.Car.Chassis",
            "Essential.Car",
            ["Sys.SessionInfo", "Sys.Status", "Sys.DeadLetter"],
        ),
    ],
)
def test_each_preset_has_its_names(settings, main, stream, essentials, common) -> None:
    routing = Routing(settings)
    assert routing.route("Car", "") == Partition(main, 0)
    assert routing.route("Car", "Chassis") == Partition(stream, 0)
    assert routing.essentials("Car") == Partition(essentials, 0)
    assert [routing.session_info.topic, routing.system_status.topic, routing.dead_letter.topic] == common


def test_legacy_has_no_place_for_a_domain() -> None:
    assert Routing(Settings(naming="legacy", domain="Track")).route("Car", "") == Partition("Car", 0)


def test_a_bad_domain_is_refused() -> None:
    with pytest.raises(BadName, match="Domain: 'a b'"):
        Routing(Settings(naming="domain", domain="a b"))


@pytest.mark.fact("C1")
def test_streams_are_partitions_of_one_topic() -> None:
    routing = Routing(PARTITIONED)
    assert routing.route("Car", "Chassis") == Partition("Car", 1)
    assert routing.route("Car", "Engine") == Partition("Car", 2)
    assert routing.route("Car", "") == Partition("Car", 0)
    assert routing.route("Car", "a stream that nobody mapped / any text") == Partition("Car", 0)
    assert routing.label("Car", 1) == "Chassis"
    assert routing.label("Car", 0) == routing.label("Car", 7) == ""


@pytest.mark.fact("S4")
def test_streams_that_share_a_partition_have_the_first_ones_label_and_the_main_streams_has_none() -> None:
    routing = Routing(Settings(strategy="PartitionBased", partition_mappings={"A": 0, "B": 3, "C": 3}))
    assert [routing.label("Car", number) for number in (0, 3)] == ["", "B"]
    assert routing.streams_of("Car", []) == ["B", "C"]


@pytest.mark.fact("K9", "W13")
@pytest.mark.parametrize("settings", [PARTITIONED, PARTITIONED_DOMAIN])
def test_only_main_topics_have_several_partitions(settings) -> None:
    routing = Routing(settings)
    assert routing.partition_count(routing.route("Car", "").topic) == 3
    others = [routing.essentials("Car"), routing.session_info, routing.system_status, routing.dead_letter]
    assert [routing.partition_count(partition.topic) for partition in others] == [1, 1, 1, 1]
    assert Routing(LEGACY).partition_count("Car") == 1
    assert Routing(Settings(strategy="PartitionBased")).partition_count("Car") == 1


# -- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", EVERY)
@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "ä", "a\n", "a\0", "x" * 250, "Car_essential", "_essential", "Car_ESSENTIAL"]
)
def test_names_that_no_topic_can_have_are_refused(settings, name) -> None:
    routing = Routing(settings)
    for ask in (lambda: routing.route(name, ""), lambda: routing.essentials_topic(name)):
        with pytest.raises(BadName) as refused:
            ask()
        assert (refused.value.field, refused.value.value) == ("data_source", name)
    if name and settings.strategy == "TopicBased":
        with pytest.raises(BadName) as refused:
            routing.route("Car", name)
        assert (refused.value.field, refused.value.value) == ("stream", name)


def test_the_internal_name_of_the_reference_does_not_reach_the_essentials() -> None:
    with pytest.raises(BadName, match="stream: '@stream@::_essential' is not allowed, wanted one or more of A-Z"):
        Routing(LEGACY).route("Car", "@stream@::_essential")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (LEGACY, "SessionInfo"),
        (LEGACY, "SystemStatus"),
        (LEGACY, "dead-Letter"),
        (DOMAIN, "Track.Sys.Status"),
        (NO_DOMAIN, "Data.Car"),
        (NO_DOMAIN, "Essential.Car"),
    ],
)
def test_names_of_common_topics_and_prefixes_are_refused(settings, name) -> None:
    with pytest.raises(BadName, match="data_source"):
        Routing(settings).route(name, "")


def test_a_refusal_is_one_line_that_names_field_value_and_limit() -> None:
    with pytest.raises(BadName) as refused:
        Routing(LEGACY).route("x" * 5000, "")
    assert str(refused.value) == (
        f"data_source: {'x' * 60!r}... (5000 characters) is not allowed, wanted at most 239 characters"
    )


@pytest.mark.parametrize("settings", EVERY)
def test_the_longest_names_make_topics_of_the_longest_length(settings) -> None:
    routing = Routing(settings)
    longest = TOPIC_CHARACTERS_MAX - max(len(routing.essentials_topic("x")), len(routing.route("x", "").topic)) + 1
    routing.route("x" * longest, "")
    assert len(routing.essentials_topic("x" * longest)) == TOPIC_CHARACTERS_MAX
    with pytest.raises(BadName, match=f"at most {longest} characters"):
        routing.route("x" * (longest + 1), "")


def test_a_stream_has_what_its_data_source_leaves_of_the_length() -> None:
    routing = Routing(LEGACY)
    assert len(routing.route("x" * 200, "y" * 48).topic) == TOPIC_CHARACTERS_MAX
    with pytest.raises(BadName, match="at most 48 characters with data source"):
        routing.route("x" * 200, "y" * 49)


def test_pairs_that_differ_in_dots_and_underscores_are_not_written() -> None:
    routing = Routing(LEGACY)
    routing.learn(["Car_1", "Van_1_essential", "Car.A_B"])
    routing.check_writable("Car_1", "")
    with pytest.raises(BadName, match=r"data_source: 'Car\.1' .* the existing 'Car_1'"):
        routing.check_writable("Car.1", "")
    with pytest.raises(BadName, match=r"data_source: 'Van\.1' .* the existing 'Van_1_essential'"):
        routing.check_writable("Van.1", "other")
    with pytest.raises(BadName, match=r"stream: 'A\.B' .* the existing 'Car\.A_B'"):
        routing.check_writable("Car", "A.B")
    assert routing.route("Car.1", "") == Partition("Car.1", 0)  # which may be read


def test_of_two_that_are_learnt_the_first_counts() -> None:
    routing = Routing(LEGACY)
    routing.learn(["Car_1"])
    routing.learn(["Car.1"])
    routing.check_writable("Car_1", "")
    with pytest.raises(BadName):
        routing.check_writable("Car.1", "")


def test_a_stream_cannot_stand_in_the_way_of_the_essentials() -> None:
    with pytest.raises(BadName, match="stream: 'essential'"):
        Routing(LEGACY).route("Car", "essential")
    Routing(DOMAIN).route("Car", "essential")


@given(presets, names, names)
def test_topics_of_accepted_names_are_topics_of_kafka(routing: Routing, data_source: str, stream: str) -> None:
    allowed = set(string.ascii_letters + string.digits + "._-")
    for topic in (accepted(routing, data_source, stream).topic, routing.essentials_topic(data_source)):
        assert 0 < len(topic) <= TOPIC_CHARACTERS_MAX
        assert set(topic) <= allowed
        assert topic not in (".", "..")


@given(presets, names, names, names)
def test_kinds_of_topics_never_mix(routing: Routing, one: str, stream: str, other: str) -> None:
    topic = accepted(routing, one, stream).topic
    accepted(routing, other, "")
    common = {routing.session_info.topic, routing.system_status.topic, routing.dead_letter.topic}
    assert topic not in common
    assert topic != routing.essentials_topic(other) not in common


def test_invented_names_cost_no_memory(monkeypatch) -> None:
    monkeypatch.setattr(routing_module, "CACHED_MAX", 10)
    topics, partitions = Routing(LEGACY), Routing(PARTITIONED)
    for number in range(100):
        assert topics.route("Car", f"s{number}") == topics.route("Car", f"s{number}")
        topics.essentials_topic(f"Car{number}")
        partitions.route("Car", f"s{number}")
    assert len(topics._routes) <= 10
    assert len(topics._essentials) <= 10
    assert list(partitions._routes) == [("Car", "")]


# -- whose ------------------------------------------------------------------------------------------------------------


@given(presets, names, names, st.integers(1, 7))
def test_a_data_source_and_its_topics_have_one_owner(routing: Routing, data_source: str, stream: str, count) -> None:
    topic = accepted(routing, data_source, stream).topic
    mine = routing.owner(data_source, count)
    assert mine == owner(data_source, count)
    assert routing.owner(topic, count) == mine
    assert routing.owner(routing.essentials_topic(data_source), count) == mine
    assert routing.owner(routing.route(data_source, "").topic, count) == mine


@pytest.mark.parametrize("settings", EVERY)
def test_common_topics_are_number_0s(settings) -> None:
    routing = Routing(settings)
    common = [routing.session_info, routing.system_status, routing.dead_letter]
    assert [routing.owner(partition.topic, 5) for partition in common] == [0, 0, 0]
    assert owner("", 5) == 0


def test_owners_are_the_same_for_ever_and_spread() -> None:
    """crc32, not hash(): every process, every release. A change would leave rings that nobody drains."""
    assert [owner(name, 4) for name in ("Car", "Car.Chassis", "Car_essential", "Car2", "Default")] == [1, 1, 1, 0, 3]
    assert {owner(f"Car{number}", 4) for number in range(40)} == {0, 1, 2, 3}


# -- existing topics --------------------------------------------------------------------------------------------------

EXISTING = {
    "Car": 1,
    "Car.Chassis": 1,
    "Car.Engine": 2,
    "Car.Engine.Oil": 1,
    "Car_essential": 1,
    "Car.Engine_essential": 1,
    "Car2": 1,
    "Car2.Chassis": 1,
    "SessionInfo": 1,
}


def test_streams_of_a_data_source_are_found_among_the_topics() -> None:
    routing = Routing(LEGACY)
    assert routing.streams_of("Car", reversed(EXISTING)) == ["Chassis", "Engine"]
    assert routing.streams_of("Car.Engine", EXISTING) == ["Oil"]
    assert routing.streams_of("Ca", EXISTING) == routing.streams_of("car", EXISTING) == []


def test_topics_of_a_data_source_are_those_that_exist() -> None:
    routing = Routing(LEGACY)
    assert routing.topics_of("Car", EXISTING) == {"Car": 1, "Car_essential": 1, "Car.Chassis": 1, "Car.Engine": 2}
    assert routing.topics_of("Car.Engine", EXISTING) == {
        "Car.Engine": 2,
        "Car.Engine_essential": 1,
        "Car.Engine.Oil": 1,
    }
    assert routing.topics_of("Bus", EXISTING) == {}


def test_other_prefixes_and_strategies_find_their_own_topics() -> None:
    existing = {"Track.Data.Car": 3, "Track.Data.Car.Chassis": 1, "Track.Essential.Car": 1, "Car.Engine": 1}
    assert Routing(DOMAIN).streams_of("Car", existing) == ["Chassis"]
    assert list(Routing(DOMAIN).topics_of("Car", existing)) == [
        "Track.Data.Car",
        "Track.Essential.Car",
        "Track.Data.Car.Chassis",
    ]
    assert Routing(PARTITIONED_DOMAIN).topics_of("Car", existing) == {"Track.Data.Car": 3, "Track.Essential.Car": 1}
    assert Routing(PARTITIONED).streams_of("Car", existing) == ["Chassis", "Engine"]


@given(presets, names, names)
def test_what_is_read_is_labelled_with_what_was_written(routing: Routing, data_source: str, stream: str) -> None:
    partition = accepted(routing, data_source, stream)
    main, essentials = routing.route(data_source, ""), routing.essentials(data_source)
    assert routing.label(*partition, data_source) == ("" if partition == main else stream)
    assert routing.label(*main, data_source) == routing.label(*essentials, data_source) == ""
    if "." not in data_source:
        assert routing.label(*partition) == routing.label(*partition, data_source)


@pytest.mark.fact("A7")
@given(presets, names, names)
def test_streams_without_dots_are_listed(routing: Routing, data_source: str, stream: str) -> None:
    partition = accepted(routing, data_source, stream)
    assume(partition.topic != routing.route(data_source, "").topic)
    existing = {partition.topic: 1, routing.essentials_topic(data_source): 1, routing.session_info.topic: 1}
    assert routing.streams_of(data_source, existing) == ([] if "." in stream else [stream])


# -- offset maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LEGACY, DOMAIN, NO_DOMAIN])
def test_clients_find_their_streams_under_the_names_that_they_know(settings) -> None:
    routing = Routing(settings)
    offsets = {
        routing.route("Car", ""): 7,
        routing.route("Car", "Chassis"): 8,
        routing.essentials("Car"): 9,
        Partition("Bus", 0): 10,
    }
    assert routing.api_offsets("Car", offsets) == {"Car:0": 7, "Car.Chassis:0": 8, "Car_essential:0": 9, "Bus:0": 10}


def test_the_log_has_the_real_names() -> None:
    routing = Routing(DOMAIN)
    assert routing.log_offsets({routing.route("Car", "Chassis"): 8}) == {"Track.Data.Car.Chassis:0": 8}


def test_partitions_have_the_names_that_the_reference_gives_them() -> None:
    routing = Routing(PARTITIONED_DOMAIN)
    offsets = {routing.route("Car", "Chassis"): 3, routing.route("Car", ""): 1}
    assert routing.api_offsets("Car", offsets) == {"Car:1": 3, "Car:0": 1}


def test_one_partition_under_both_names_has_the_larger_offset() -> None:
    real, known = Partition("Track.Data.Car.Chassis", 0), Partition("Car.Chassis", 0)
    for offsets in ({known: 5, real: 6}, {real: 6, known: 5}, {known: 6, real: 5}):
        assert Routing(DOMAIN).api_offsets("Car", offsets) == {"Car.Chassis:0": 6}


@pytest.mark.fact("A6")
@given(presets, names, names)
def test_both_forms_of_a_key_mean_the_same_partition(routing: Routing, data_source: str, stream: str) -> None:
    """But for a data source that is called as topics begin: there a real name goes first."""
    assume(routing.naming.bare(f"{data_source}.{stream}") == f"{data_source}.{stream}")
    for partition in (accepted(routing, data_source, stream), routing.essentials(data_source)):
        (real,) = routing.log_offsets({partition: 1})
        (known,) = routing.api_offsets(data_source, {partition: 1})
        assert routing.resolve(data_source, parse_offset_key(real)) == partition
        assert routing.resolve(data_source, parse_offset_key(known)) == partition


@pytest.mark.parametrize(
    ("key", "partition"), [("Car", ("Car", 0)), ("Car:0", ("Car", 0)), ("Car:12", ("Car", 12)), ("a:b:1", ("a:b", 1))]
)
def test_keys_of_offset_maps(key, partition) -> None:
    assert parse_offset_key(key) == Partition(*partition)


@pytest.mark.parametrize("key", ["Car:", "Car:x", "Car:-1", "Car:\u0661", "Car:" + "1" * 5000, "Car: 1"])
def test_keys_that_name_no_partition(key) -> None:
    with pytest.raises(ValueError, match="names no partition"):
        parse_offset_key(key)
