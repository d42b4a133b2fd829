"""The judge is not blind: each way to break a promise is seen."""

from __future__ import annotations

from array import array

import pytest
from faults.lanes import CORRUPTED, FOREIGN, Lane, entry_of, lane_of, lanes, make_packet, number_of, sources
from faults.verdict import Tally, difference, judge_lane
from faults.writing import Fate

from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.routing import owner

LANE = Lane(3, "Car", "s", "", 0, 1, "ring", 1, 1.0)


def column(*numbers: int) -> list[int]:
    return [entry_of(make_packet(LANE, number)) for number in numbers]


def fate() -> Fate:
    """1 to 4 and 7 are accepted, 5 is refused, of 6 nobody knows."""
    made = Fate()
    made.accept(1, 3)
    made.accept(3, 5)
    made.refuse(5, 6)
    made.accept(7, 8)
    return made


@pytest.mark.parametrize(
    ("found", "tally"),
    [
        ((1, 2, 3, 4, 7), Tally(0, 0, 0, 0, 0)),
        ((1, 2, 3, 4, 7, 6), Tally(0, 0, 0, 0, 0)),
        ((1, 2, 4, 7), Tally(1, 0, 0, 0, 0)),
        ((1, 2, 3, 2, 3, 4, 7), Tally(0, 2, 0, 0, 0)),
        ((1, 3, 2, 4, 7), Tally(0, 0, 1, 0, 0)),
        ((1, 2, 3, 4, 5, 7), Tally(0, 0, 0, 1, 0)),
    ],
)
def test_what_became_of_a_lane(found: tuple[int, ...], tally: Tally) -> None:
    others = [entry_of(make_packet(LANE._replace(index=4), number)) for number in (9, 9, 1)]
    assert judge_lane(LANE, fate(), [*others, *column(*found), FOREIGN]) == tally


def test_a_dead_letter_is_not_lost_and_what_was_deleted_is_forgiven() -> None:
    assert judge_lane(LANE, fate(), column(1, 2, 4, 7), column(3)) == Tally(0, 0, 0, 0, 1)
    forgiven = fate()
    forgiven.forgiven_below = 4
    assert judge_lane(LANE, forgiven, column(7)).lost == 1


def test_every_flipped_byte_of_a_packet_is_seen() -> None:
    packet = make_packet(LANE, 50)
    assert (lane_of(entry_of(packet)), number_of(entry_of(packet))) == (3, 50)
    for place in range(len(packet.content)):
        flipped = bytearray(packet.content)
        flipped[place] ^= 1
        assert entry_of(Packet(type=packet.type, id=50, content=bytes(flipped))) == CORRUPTED
    assert entry_of(b"\xff") == CORRUPTED
    assert entry_of(Packet(type="ParameterDataFormat")) == FOREIGN


def test_how_a_read_differs() -> None:
    log = array("Q", column(1, 2, 3))
    assert difference(log, array("Q", log), "read") == ""
    for numbers, words in (
        ((1, 3), "1 missing, 0 too many, first difference at 1"),
        ((1, 2, 2, 3), "0 missing, 1 too many, first difference at 2"),
        ((2, 1, 3), "0 missing, 0 too many, first difference at 0"),
    ):
        assert words in difference(log, array("Q", column(*numbers)), "read")


def test_both_of_two_producers_have_something_to_do() -> None:
    names = sources("Any")
    assert {owner(name, 2) for name in names} == {0, 1} and len(set(names)) == 3
    assert len({lane.index for lane in lanes(names, 1.0)}) == 12
