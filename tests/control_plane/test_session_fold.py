"""Sessions are the fold of the log in offset order: repeats, strangers and early entries change nothing about that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane import session_fold
from trackside.control_plane.log_port import LoggedEntry
from trackside.control_plane.session_fold import EventKind, Instant, SessionFold, offsets_of
from trackside.data_plane.log import Partition

SECOND_NS = 1_000_000_000


def entry(offset: int, type: str, key: str, content: bytes, identity: bytes = b"") -> LoggedEntry:
    packet = data.Packet(type=type, session_key=key, content=content)
    return LoggedEntry(offset, offset * SECOND_NS, b"not the session's", identity, packet.SerializeToString())


def new(offset: int, key: str = "k", source: str = "Car", **fields: object) -> LoggedEntry:
    content = data.NewSessionPacket(data_source=source, **fields)  # type: ignore[arg-type]
    return entry(offset, "NewSession", key, content.SerializeToString())


def info(offset: int, key: str = "k", identity: bytes = b"", **fields: object) -> LoggedEntry:
    content = data.SessionInfoPacket(**fields)  # type: ignore[arg-type]
    return entry(offset, "SessionInfo", key, content.SerializeToString(), identity)


def end(offset: int, key: str = "k", **fields: object) -> LoggedEntry:
    content = data.EndOfSessionPacket(**fields)  # type: ignore[arg-type]
    return entry(offset, "EndOfSession", key, content.SerializeToString())


def folded(*entries: LoggedEntry) -> SessionFold:
    fold = SessionFold()
    for one in entries:
        fold.apply(one)
    return fold


@pytest.mark.fact("C2")
def test_a_session_starts_changes_and_ends() -> None:
    fold = folded(
        new(0, topic_partition_offsets={"Car:0": 10, "Car.a:0": 3}, session_info=data.SessionInfoPacket(
            data_source="Car", identifier="first", type="Session", version=2, details={"driver": "A"}
        )),
        info(1, identifier="second", details={"tyres": "soft"}, associate_session_keys=["x", "y"]),
        info(2, version=3, details={"driver": "B"}),
        end(3, topic_partition_offsets={"Car:0": 20}),
        end(4, topic_partition_offsets={"Car:0": 99}),
    )  # fmt: skip
    record = fold.get("k")
    assert record is not None
    assert (record.identifier, record.type, record.version) == ("second", "Session", 3)
    assert record.details == {"driver": "B", "tyres": "soft"}
    assert record.associates == ("x", "y")
    assert record.start_offsets == {Partition("Car", 0): 10, Partition("Car.a", 0): 3}
    assert record.is_complete
    assert record.end_offsets == {Partition("Car", 0): 20}
    assert (record.creation_time, record.termination_time) == (Instant(0, 0), Instant(3, 0))


def test_given_times_win_over_the_logs_and_are_kept_as_they_are() -> None:
    fold = folded(
        new(5, creation_time={"seconds": 7, "nanos": 8}, utc_offset={"seconds": -3600}),
        end(6, termination_time={"seconds": -1, "nanos": 2_000_000_000}),
    )
    record = fold.get("k")
    assert record is not None
    assert record.creation_time == Instant(7, 8)
    assert record.utc_offset == Instant(-3600, 0)
    assert record.termination_time == Instant(-1, 2_000_000_000)


def test_information_that_names_no_data_source_in_a_new_session_is_left_out() -> None:
    record = folded(new(0, session_info=data.SessionInfoPacket(identifier="lost", version=7))).get("k")
    assert record is not None
    assert (record.identifier, record.version) == ("", 0)


@pytest.mark.fact("S15")
def test_what_comes_before_its_session_is_held() -> None:
    early = folded(info(0, identifier="early"), end(1, topic_partition_offsets={"Car:0": 4}), new(2))
    record = early.get("k")
    assert record is not None
    assert record.identifier == "early"
    assert record.is_complete
    assert record.end_offsets == {Partition("Car", 0): 4}
    assert [(event.kind, event.offset) for event in early.events_from(0)] == [
        (EventKind.STARTED, 2),
        (EventKind.STOPPED, 2),
    ]
    assert early.statistics()["held"] == 0


def test_held_entries_are_bounded_and_the_longest_held_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_fold, "HELD_BYTES_MAX", 3000)
    fold = folded(*(info(n, key=f"k{n}", identifier="early") for n in range(20)), new(20, key="k0"), new(21, key="k19"))
    first, last = fold.get("k0"), fold.get("k19")
    assert first is not None and last is not None
    assert (first.identifier, last.identifier) == ("", "early")
    assert fold.statistics()["dropped"] > 5


@pytest.mark.fact("S2")
def test_a_repeat_of_an_older_snapshot_does_not_take_back_a_newer_one() -> None:
    fold = folded(
        new(0), info(1, identity=b"1", identifier="A"), info(2, identity=b"2", identifier="B"),
        info(3, identity=b"1", identifier="A"),
    )  # fmt: skip
    record = fold.get("k")
    assert record is not None
    assert record.identifier == "B"
    assert fold.statistics()["repeats"] == 1


def test_what_cannot_be_read_is_counted_and_passed_by() -> None:
    fold = folded(
        LoggedEntry(0, 0, b"", b"", b"\xff\xff\xff"),
        entry(1, "NewSession", "k", b"\xff\xff\xff"),
        entry(2, "Lunch", "k", b""),
        new(3, topic_partition_offsets={"Car:zero": 1}),
        new(4, topic_partition_offsets={"Car:" + "9" * 5000: 1}),
        end(5, topic_partition_offsets={"Car:x": 1}),
        new(6),
    )
    record = fold.get("k")
    assert record is not None
    assert not record.is_complete, "its end names no partition"
    assert fold.statistics()["ignored"] == 6


@pytest.mark.fact("C2")
def test_forms_of_offset_keys() -> None:
    assert offsets_of([("Car", 4), ("Car:1", 5), ("Car:0", 3)]) == {Partition("Car", 0): 4, Partition("Car", 1): 5}


def test_sessions_of_a_data_source_in_the_order_in_which_they_started() -> None:
    fold = folded(new(0, "b"), new(1, "x", source="Truck"), new(2, "a"), end(3, "b"), new(4, "b"))
    assert fold.keys_of("Car") == ["b", "a"]
    assert fold.keys_of("car") == []
    assert fold.statistics()["live"] == 2


KEYS = ("k1", "k2")
WORDS = st.sampled_from(["", "a", "b"])


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEntry]:
    """Entries of own and foreign servers, in any order, some of the own repeated later."""
    entries: list[LoggedEntry] = []
    for number in range(draw(st.integers(0, 25))):
        key = draw(st.sampled_from(KEYS))
        kind = draw(st.sampled_from(["new", "info", "info", "info", "end", "junk"]))
        if kind == "new":
            one = new(0, key, source=draw(st.sampled_from(["Car", "Truck"])))
        elif kind == "info":
            one = info(
                0,
                key,
                identifier=draw(WORDS),
                version=draw(st.integers(0, 2)),
                associate_session_keys=draw(st.lists(WORDS, max_size=2)),
                details=draw(st.dictionaries(WORDS, WORDS, max_size=2)),
            )
        elif kind == "end":
            one = end(0, key, topic_partition_offsets={"Car:0": draw(st.integers(0, 9))})
        else:
            one = entry(0, draw(st.sampled_from(["Other", "NewSession"])), key, b"\xff")
        entries.append(one._replace(identity=b"%d" % number if draw(st.booleans()) else b""))
    for _ in range(draw(st.integers(0, 5))):
        own = [index for index, one in enumerate(entries) if one.identity]
        if own:
            index = draw(st.sampled_from(own))
            entries.insert(draw(st.integers(index + 1, len(entries))), entries[index])
    return [one._replace(offset=n, time_ns=n * SECOND_NS) for n, one in enumerate(entries)]


def state_of(fold: SessionFold) -> dict[str, object]:
    """All that a client can see; offsets and times in the log aside."""
    return {
        key: replace(record, started_offset=0, creation_time=Instant(0, 0), termination_time=None,
                     stopped_offset=None if record.stopped_offset is None else 0)
        for key in KEYS if (record := fold.get(key)) is not None
    }  # fmt: skip


@given(logs())
@settings(deadline=None, max_examples=200)
def test_repeats_change_nothing(log: list[LoggedEntry]) -> None:
    seen: set[bytes] = set()
    once = [one for one in log if not one.identity or not (one.identity in seen or seen.add(one.identity))]
    assert state_of(folded(*log)) == state_of(folded(*once))


@given(logs(), st.integers(0, 30))
@settings(deadline=None, max_examples=200)
def test_a_fold_that_was_kept_as_bytes_goes_on_as_if_it_had_not(log: list[LoggedEntry], kept_at: int) -> None:
    """What is held, and which repeats are known, included."""
    whole, before = folded(*log), folded(*log[:kept_at])
    after = SessionFold.load(before.dump())
    results = [after.apply(one) for one in log[kept_at:]]
    assert results == [before.apply(one) for one in log[kept_at:]]
    assert [after.get(key) for key in KEYS] == [whole.get(key) for key in KEYS]
    assert after.statistics() == whole.statistics()
    assert [after.keys_of(source) for source in ("Car", "Truck")] == [whole.keys_of(s) for s in ("Car", "Truck")]
    assert after.dump() == whole.dump()


@given(logs())
@settings(deadline=None, max_examples=200)
def test_the_state_is_that_of_a_plain_reading_of_the_rules(log: list[LoggedEntry]) -> None:
    """Against a model that knows the whole log: per session the entries from anywhere, in order of their offset."""
    fold = folded(*log)
    for key in KEYS:
        assert state_of(fold).get(key) == model_of(log, key)


def model_of(log: list[LoggedEntry], key: str) -> object:
    entries: dict[object, tuple[LoggedEntry, data.Packet]] = {}
    for one in log:
        packet = data.Packet.FromString(one.packet)
        if packet.session_key == key and packet.content != b"\xff":
            entries.setdefault(one.identity or one.offset, (one, packet))
    starts = [data.NewSessionPacket.FromString(p.content) for _, p in entries.values() if p.type == "NewSession"]
    if not starts:
        return None
    ends = [data.EndOfSessionPacket.FromString(p.content) for _, p in entries.values() if p.type == "EndOfSession"]
    record = session_fold.SessionRecord(key, starts[0].data_source, 0, Instant(0, 0))
    if ends:
        record = replace(record, stopped_offset=0, end_offsets=offsets_of(ends[0].topic_partition_offsets.items()))
    for _, packet in entries.values():
        if packet.type == "SessionInfo":
            said = data.SessionInfoPacket.FromString(packet.content)
            record = replace(
                record,
                identifier=said.identifier or record.identifier,
                version=said.version or record.version,
                associates=tuple(said.associate_session_keys) or record.associates,
                details={**record.details, **said.details},
            )
    return record


@given(logs(), st.integers(0, 30))
@settings(deadline=None, max_examples=100)
def test_events_are_told_once_and_can_be_asked_for_again(log: list[LoggedEntry], offset: int) -> None:
    fold = SessionFold()
    told = [event for one in log for event in fold.apply(one).events]
    assert told == fold.events_from(0)
    assert [event for event in told if event.offset >= offset] == fold.events_from(offset)
