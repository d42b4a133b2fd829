"""Which partitions a connection reads, under which label, from where: the whole table, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from ma.streaming.api.v1 import api_pb2
from trackside.data_plane.log import END, Partition
from trackside.data_plane.read_plan import NothingToRead, ReadPlan
from trackside.data_plane.routing import BadName, Routing
from trackside.data_plane.spec import Settings

TOPICS = Settings()
DOMAIN = Settings(naming="domain", domain="Track")
MAPPED = Settings(strategy="PartitionBased", partition_mappings={"Engine": 1, "Chassis": 2, "Body": 0})

ALL = {"Car": 1, "Car.Engine": 1, "Car.Chassis": 1, "Car_essential": 1}

Found = dict[tuple[str, int], tuple[str, int]]


def plan(settings: Settings = TOPICS, **details: Any) -> ReadPlan:
    return ReadPlan(api_pb2.ConnectionDetails(data_source="Car", **details), Routing(settings), settings)


def starts(made: ReadPlan, topics: dict[str, int]) -> Found:
    return {tuple(partition): tuple(start) for partition, start in made.starts(topics).items()}  # type: ignore[misc]


@pytest.mark.fact("A9", "A25", "R5")
@pytest.mark.parametrize(
    ("details", "topics", "expected"),
    [
        ({}, {}, {("Car", 0): ("", 0)}),
        ({}, ALL, {("Car", 0): ("", 0), ("Car.Engine", 0): ("Engine", 0), ("Car.Chassis", 0): ("Chassis", 0)}),
        ({"main_offset": 7}, ALL, {("Car", 0): ("", 7), ("Car.Engine", 0): ("Engine", 0), ("Car.Chassis", 0): ("Chassis", 0)}),
        ({"main_offset": -5}, ALL, {("Car", 0): ("", END), ("Car.Engine", 0): ("Engine", END), ("Car.Chassis", 0): ("Chassis", END)}),
        ({"exclude_main_stream": True}, {}, {}),
        ({"exclude_main_stream": True}, {"Car": 3, "Car.Engine": 2}, {("Car.Engine", 0): ("Engine", 0), ("Car.Engine", 1): ("Engine", 0)}),
        ({"main_offset": 4}, {"Car": 3}, {("Car", 0): ("", 4), ("Car", 1): ("", 4), ("Car", 2): ("", 4)}),
        ({"streams": ["Engine"]}, {}, {("Car", 0): ("", 0), ("Car.Engine", 0): ("Engine", 0)}),
        ({"streams": ["Engine"], "stream_offsets": [9]}, {"Car": 3, "Car.Engine": 3, "Car.Chassis": 1},
         {("Car", 0): ("", 0), ("Car.Engine", 0): ("Engine", 9), ("Car.Engine", 1): ("Engine", 9), ("Car.Engine", 2): ("Engine", 9)}),
        ({"streams": ["Engine", "Chassis"], "stream_offsets": [-7], "main_offset": 3}, {},
         {("Car", 0): ("", 3), ("Car.Engine", 0): ("Engine", END), ("Car.Chassis", 0): ("Chassis", 0)}),
        ({"streams": ["Engine", "Engine"], "stream_offsets": [5, 6]}, {}, {("Car", 0): ("", 0), ("Car.Engine", 0): ("Engine", 5)}),
        ({"streams": ["", "Engine"], "stream_offsets": [5, 6], "main_offset": 2}, {}, {("Car", 0): ("", 2), ("Car.Engine", 0): ("Engine", 6)}),
        ({"streams": ["", "Engine"], "stream_offsets": [5, 6], "exclude_main_stream": True}, {"Car": 2},
         {("Car", 0): ("", 5), ("Car.Engine", 0): ("Engine", 6)}),
        ({"streams": ["Engine"], "exclude_main_stream": True}, {}, {("Car.Engine", 0): ("Engine", 0)}),
    ],
)  # fmt: skip
def test_topic_based(details: dict[str, Any], topics: dict[str, int], expected: Found) -> None:
    assert starts(plan(**details), topics) == expected


@pytest.mark.fact("A9", "A25", "R5")
@pytest.mark.parametrize(
    ("details", "topics", "expected"),
    [
        ({}, {}, {("Car", 0): ("", 0)}),
        ({"main_offset": 6}, {"Car": 4, "Car_essential": 1},
         {("Car", 0): ("", 6), ("Car", 1): ("Engine", 0), ("Car", 2): ("Chassis", 0), ("Car", 3): ("", 6)}),
        ({"main_offset": -1}, {"Car": 3}, {("Car", 0): ("", END), ("Car", 1): ("Engine", END), ("Car", 2): ("Chassis", END)}),
        ({"exclude_main_stream": True}, {"Car": 4}, {("Car", 1): ("Engine", 0), ("Car", 2): ("Chassis", 0)}),
        ({"streams": ["Chassis", "Engine"], "stream_offsets": [4]}, {"Car": 4},
         {("Car", 0): ("", 0), ("Car", 2): ("Chassis", 4), ("Car", 1): ("Engine", 0)}),
        ({"streams": ["Nobody", "Engine"], "stream_offsets": [4, 5]}, {}, {("Car", 0): ("", 0), ("Car", 1): ("Engine", 5)}),
        ({"streams": ["Body", "Engine"], "stream_offsets": [4, 5], "exclude_main_stream": True}, {},
         {("Car", 0): ("", 4), ("Car", 1): ("Engine", 5)}),
        ({"streams": ["Nobody"]}, {}, {("Car", 0): ("", 0)}),
    ],
)  # fmt: skip
def test_partition_based(details: dict[str, Any], topics: dict[str, int], expected: Found) -> None:
    assert starts(plan(MAPPED, **details), topics) == expected


def test_domain_names() -> None:
    topics = {"Track.Data.Car": 1, "Track.Data.Car.Engine": 2, "Track.Essential.Car": 1}
    assert starts(plan(DOMAIN), topics) == {
        ("Track.Data.Car", 0): ("", 0),
        ("Track.Data.Car.Engine", 0): ("Engine", 0),
        ("Track.Data.Car.Engine", 1): ("Engine", 0),
    }


@pytest.mark.fact("A25", "R6", "R11")
def test_what_appears_later_is_read_from_its_beginning() -> None:
    made = plan(main_offset=-1)
    assert set(made.later(ALL).values()) == {("", 0), ("Engine", 0), ("Chassis", 0)}
    made = plan(streams=["Engine"], stream_offsets=[8])
    later = made.later({"Car.Engine": 3, "Car.Chassis": 1})
    assert {number: start.offset for (topic, number), start in later.items() if topic == "Car.Engine"} == {
        0: 0,
        1: 0,
        2: 0,
    }
    assert Partition("Car.Chassis", 0) not in later


@pytest.mark.fact("R10")
@pytest.mark.parametrize(
    ("settings", "details"),
    [
        (MAPPED, {"streams": ["Nobody"], "exclude_main_stream": True}),
        (MAPPED, {"streams": ["a", "b"], "exclude_main_stream": True}),
    ],
)
def test_nothing_to_read_is_said(settings: Settings, details: dict[str, Any]) -> None:
    with pytest.raises(NothingToRead, match="exclude_main_stream"):
        plan(settings, **details)


@pytest.mark.parametrize(
    ("settings", "details", "grows", "needs_topics"),
    [
        (TOPICS, {}, True, False),
        (TOPICS, {"main_offset": -1}, True, True),
        (TOPICS, {"main_offset": 1}, True, True),
        (TOPICS, {"main_offset": -1, "exclude_main_stream": True}, True, True),
        (TOPICS, {"streams": ["Engine"]}, True, False),
        (TOPICS, {"streams": ["Engine"], "stream_offsets": [3]}, True, True),
        (TOPICS, {"streams": [""]}, False, False),
        (MAPPED, {}, True, False),
        (MAPPED, {"main_offset": -1}, True, True),
        (MAPPED, {"streams": ["Engine"], "stream_offsets": [3]}, False, False),
    ],
)
def test_when_the_list_of_topics_matters(
    settings: Settings, details: dict[str, Any], grows: bool, needs_topics: bool
) -> None:
    made = plan(settings, **details)
    assert (made.grows, made.needs_topics) == (grows, needs_topics)


def test_names_are_checked() -> None:
    with pytest.raises(BadName, match="stream"):
        plan(streams=["no/way"])
    with pytest.raises(BadName, match="data_source"):
        ReadPlan(api_pb2.ConnectionDetails(), Routing(TOPICS), TOPICS)
