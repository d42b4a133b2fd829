"""Where gateways and consumers could be broken from outside or by an unlucky moment: each test was such a case once."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import grpc
import pytest
from agent_bench import CAR, Bench, numbers, packet, record
from bad_input import told
from memory_log import MemoryCursor
from worker_kit import move

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.data_plane import control_calls, formats_feed, metrics, packet_reader, packet_writer
from trackside.data_plane.control_calls import Notifications
from trackside.data_plane.data_formats import event_definition
from trackside.data_plane.door import BadRequest, Door
from trackside.data_plane.limits import LimitReached, Limits
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import END, LogState, Partition, Refusal, Watermarks
from trackside.data_plane.packet_reader import PacketReader
from trackside.data_plane.peer import Accepted, LogUnavailable, Parcel, TooManyWait
from trackside.data_plane.reading import FILTERS_MAX, PlaceState, Reader
from trackside.data_plane.refusals import Refusals
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line
from trackside.protos import internal_pb2
from trackside.shm.liveness import WorkerState

ESSENTIALS = Partition("Car_essential", 0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def filter_spec(number: int, *events: str) -> FilterSpec:
    return FilterSpec(number, 0, "Car", [], [], list(events), [], False)


def event(number: int, format_: int = 0) -> bytes:
    """An event packet that names itself "Pit", or a data format."""
    named = data.EventDataFormat(event_identifier="Pit")
    referring = data.EventDataFormat(data_format_identifier=format_)
    content = data.EventPacket(data_format=referring if format_ else named).SerializeToString()
    return data.Packet(type="Event", id=number, content=content).SerializeToString()


def notice_successors(bench: Bench) -> None:
    """What the peer's timer does."""

    async def turn() -> None:
        bench.peer.start()
        bench.peer.stop()

    asyncio.run(turn())


# -- filters ----------------------------------------------------------------------------------------------------------


def test_a_filter_lives_as_long_as_a_reader_has_it(bench: Bench) -> None:
    readers = [bench.open(partition=Partition("Car", n), filter_spec=filter_spec(7)) for n in range(3)]
    bench.settle()
    assert bench.consumer.formats.knows(7)
    assert any(cursor.partition == ESSENTIALS for cursor in bench.reader.cursors)
    for reader in readers[:2]:
        bench.peer.readers.close(reader)
    bench.settle()
    assert bench.consumer.formats.knows(7)
    bench.peer.readers.close(readers[2])
    bench.settle()
    assert not bench.consumer.formats.knows(7) and not bench.reader.cursors


def test_filters_of_a_gateway_go_with_it(bench: Bench) -> None:
    bench.open(filter_spec=filter_spec(7))
    bench.settle()
    bench.open(filter_spec=filter_spec(8))  # said, not taken before it dies
    bench.peer = bench.kit.peer()
    bench.settle()
    assert not bench.consumer.formats.knows(7) and not bench.consumer.formats.knows(8)


def test_a_request_with_a_filter_that_only_the_predecessor_knew_kills_nobody(bench: Bench) -> None:
    reader = bench.open(filter_spec=filter_spec(7))
    bench.settle()
    bench.append(event(1))
    bench.start_consumer()
    bench.peer.readers._want(reader.places[CAR])  # for whatever reason, before the gateway has noticed the successor
    bench.settle()
    notice_successors(bench)
    bench.settle()
    assert numbers(reader) == [1]


def test_filters_are_told_once_and_bounded(bench: Bench) -> None:
    down = bench.peer.consumers[0].down
    opened = [bench.open(partition=Partition("Car", n), filter_spec=filter_spec(n)) for n in range(FILTERS_MAX)]
    assert not bench.peer.readers.takes(filter_spec(FILTERS_MAX)) and bench.peer.readers.takes(filter_spec(3))
    before = down.publish_position
    another = bench.open(partition=CAR, filter_spec=filter_spec(3, *["x" * 1000] * 50))
    assert down.publish_position - before < 1000
    for reader in [*opened, another]:
        bench.peer.readers.close(reader)
    assert bench.peer.readers.takes(filter_spec(FILTERS_MAX))


def test_patterns_that_no_ring_could_carry_are_refused() -> None:
    wide = "[" + "\N{RACING CAR}" * 60_000 + "]"  # a tiny program, and a quarter of a megabyte
    call = api_pb2.DataPacketRequest(include_parameters=[wide], exclude_parameters=[wide], include_events=[wide])
    with pytest.raises(packet_reader._BadRead, match=r"its patterns take \d+ bytes; at most 262144"):
        packet_reader._filter_of(call, "Car")


def test_what_waits_for_a_format_is_judged_again_only_when_it_can_be(bench: Bench) -> None:
    reader = bench.open(filter_spec=filter_spec(7, "Pit"))
    bench.settle()
    asked: list[object] = []
    bench.reader.watermarks = lambda _, done: asked.append(done)  # type: ignore[method-assign]
    bench.append(event(1, format_=5), event(2))
    bench.settle()
    judged: list[bytes] = []
    chosen = bench.consumer.formats._filters[7].chosen
    evaluate = chosen.evaluate
    chosen.evaluate = lambda value, fold: (judged.append(value), evaluate(value, fold))[1]  # type: ignore[method-assign]
    bench.settle()
    assert not judged and len(asked) == 1 and not numbers(reader)
    bench.append(event_definition(5, "Pit"), topic="Car_essential")
    bench.settle()
    asked[0]({ESSENTIALS: Watermarks(0, 1)})  # type: ignore[operator]
    bench.settle()
    assert numbers(reader) == [1, 2]


# -- places in the log ------------------------------------------------------------------------------------------------


def test_a_reader_beyond_the_end_blinds_nobody(bench: Bench) -> None:
    """It waits for its offset in the feed of the others, and does not become a feed that begins there."""
    bench.append(packet(0), packet(1), packet(2))
    bench.settle()
    ahead = bench.open(5)
    bench.settle()
    live, late = bench.open(END), bench.open(1)
    bench.settle()
    bench.append(packet(3), packet(4))
    bench.settle()
    bench.append(packet(5), packet(6))
    bench.settle()
    assert numbers(live) == [3, 4, 5, 6] and numbers(late) == [1, 2, 3, 4, 5, 6] and numbers(ahead) == [5, 6]
    assert {reader.places[CAR].state for reader in (ahead, live, late)} == {PlaceState.LIVE}
    assert len(bench.consumer._feeds) == 1 and len(bench.reader.cursors) == 1


def test_a_reader_whose_offset_comes_while_the_end_is_looked_for_misses_nothing(bench: Bench) -> None:
    bench.append(packet(0))
    bench.settle()
    reader = bench.open(1)
    open_ = bench.reader.open

    def open_later(partition: Partition, offset: int) -> MemoryCursor:
        if offset == END:
            bench.log.partitions[partition] += bench.log.partitions[partition]
        return open_(partition, offset)

    bench.reader.open = open_later  # type: ignore[method-assign]
    bench.settle()
    bench.reader.open = open_  # type: ignore[method-assign]
    bench.append(packet(2))
    bench.settle()
    assert numbers(reader) == [0, 2] and len(bench.reader.cursors) == 1


# -- writes -----------------------------------------------------------------------------------------------------------


def test_a_request_that_no_ring_could_take_is_refused_at_once_and_holds_up_nobody(bench: Bench) -> None:
    """Packets of a few bytes whose names and keys take far more in the ring than in the request."""
    settings = bench.kit.settings
    door = Door(Routing(settings), bench.peer, settings)
    details = [
        api_pb2.DataPacketDetails(message=data.Packet(is_essential=True), data_source="A", session_key=str(number))
        for number in range(20_000)
    ]
    request = api_pb2.WriteDataPacketsRequest(details=details).SerializeToString()
    down = bench.peer.producers[0].down
    assert len(request) < down.capacity_bytes // 2
    with pytest.raises(BadRequest, match=r"details\[\d+\].message: with it the request takes more than the \d+ bytes"):
        door.data_packets(request)
    half = api_pb2.WriteDataPacketsRequest(details=details[:6_000]).SerializeToString()
    assert bench.peer.try_append(door.data_packets(half))


def test_what_can_never_find_room_does_not_wait_for_it(bench: Bench) -> None:
    producer = bench.peer.producers[0]
    huge = {producer: Parcel([record(packet(n, 400_000)) for n in range(3)])}

    async def wait() -> None:
        with pytest.raises(ValueError, match="its ring takes"):
            await bench.peer.append(huge, 5)

    asyncio.run(wait())


# -- read calls -------------------------------------------------------------------------------------------------------


class Aborted(Exception):
    pass


class Call:
    """What a read handler sees of its call. ``on_write`` is done for each response, as if it took that long."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self.written: list[int] = []
        self.aborted: tuple[grpc.StatusCode, str] | None = None
        self._on_write = on_write

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def write(self, response: bytes) -> None:
        self.written += [r.packet.id for r in api_pb2.ReadPacketsResponse.FromString(response).response]
        self._on_write()
        await asyncio.sleep(0)

    def peer(self) -> str:
        return "ipv4:10.0.0.7:1234"

    async def abort(self, code: grpc.StatusCode, details: str, trailers: object) -> None:
        self.aborted = code, details
        raise Aborted


REQUEST = api_pb2.ReadPacketsRequest(connection=api_pb2.Connection(id=5)).SerializeToString()


def handler(bench: Bench, on_look_up: Callable[[], None] = lambda: None, **details: object) -> PacketReader:
    """PacketReaderService over the bench's gateway; every connection has these details."""
    settings = bench.kit.settings

    async def look_up(_: int) -> api_pb2.ConnectionDetails:
        on_look_up()
        return api_pb2.ConnectionDetails(**{"data_source": "Car", **details})

    counters = metrics.gateway_counters(bench.peer.worker.counters)
    worker = bench.peer.worker
    refusals = Refusals(worker.counters, worker.log)
    return PacketReader(bench.peer, Routing(settings), settings, look_up, counters, refusals, Limits(worker))


async def run_beside(bench: Bench, call: Coroutine[object, object, None]) -> None:
    """The call and all workers, until it ends."""
    task = asyncio.ensure_future(call)
    async with asyncio.timeout(30):
        while not task.done():
            bench.settle(1)
            await asyncio.sleep(0)
        await task


def test_a_connection_that_is_closed_while_it_is_looked_up_ends_its_read(bench: Bench) -> None:
    service = handler(bench, lambda: service.on_connection_closed(5), streams=["s"])
    asyncio.run(run_beside(bench, service.read_packets(REQUEST, Call())))
    assert not len(bench.peer.readers) and not service.open_connections()


def test_a_closed_connections_read_ends_however_much_comes_in(bench: Bench) -> None:
    bench.append(packet(0))
    bench.settle()

    def on_write() -> None:
        service.on_connection_closed(5)
        bench.append(packet(1))
        bench.settle()

    service = handler(bench, streams=["s"])
    call = Call(on_write)
    asyncio.run(run_beside(bench, service.read_packets(REQUEST, call)))
    assert call.written == [0] and not len(bench.peer.readers)


@pytest.mark.fact("R10", "R12")
def test_a_read_that_is_refused_leaves_nothing_behind(bench: Bench) -> None:
    service = handler(bench, streams=["good", "bad/name"])
    call = Call()
    with pytest.raises(Aborted):
        asyncio.run(run_beside(bench, service.read_packets(REQUEST, call)))
    assert call.aborted is not None and call.aborted[0] is grpc.StatusCode.INVALID_ARGUMENT
    bench.settle()
    assert not len(bench.peer.readers) and not bench.reader.cursors


def test_one_filter_too_many_is_refused_by_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.data_plane.reading.FILTERS_MAX", 0)
    monkeypatch.setattr(packet_reader, "FILTERS_MAX", 0)
    wanted = api_pb2.DataPacketRequest(connection=api_pb2.Connection(id=5), include_events=["Pit"])
    request = api_pb2.ReadDataPacketsRequest(request=wanted).SerializeToString()
    call = Call()
    with pytest.raises(LimitReached) as reached:
        asyncio.run(run_beside(bench, handler(bench, streams=["s"]).read_data_packets(request, call)))
    assert str(reached.value).startswith(told("FiltersMax", 0))


@pytest.mark.fact("R1", "R12")
def test_a_read_that_is_cancelled_while_it_opens_leaves_nothing_behind(bench: Bench) -> None:
    service = handler(bench)

    async def cancel() -> None:
        task = asyncio.ensure_future(service.read_packets(REQUEST, Call()))
        await asyncio.sleep(0)
        assert bench.peer.consumers[0].watched
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    bench.settle()
    assert not bench.peer.consumers[0].watched and not bench.consumer._watches


@pytest.mark.fact("R12")
def test_topics_that_nobody_watches_any_more_are_not_kept(bench: Bench) -> None:
    bench.append(packet(0))
    bench.peer.watch_topics("Car")
    for _ in range(3):
        bench.producer.do_work()
        bench.consumer.do_work()
    bench.peer.unwatch_topics("Car")  # what is told is on its way
    bench.settle()
    assert not bench.peer.consumers[0].topics


def test_new_topics_reach_readers_once(bench: Bench) -> None:
    told: list[dict[str, int]] = []
    bench.peer.on_topics.append(lambda _, new: told.append(new))
    bench.peer.watch_topics("Car")
    for topic in ("Car", "Car.a", "Car.b"):
        bench.append(packet(1), topic=topic)
        bench.settle()
        bench.consumer._topics_at = 0.0
    bench.settle()
    assert [topic for new in told for topic in new] == ["Car", "Car.a", "Car.b"]


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_what_is_published_while_a_peer_falls_asleep_does_not_wait_for_a_timer(bench: Bench) -> None:
    """Between its last look and its flag: the worker sees no sleeper and rings no bell."""
    reader = bench.open(END)
    bench.settle()
    doorbell = bench.peer.worker.doorbell
    prepare_sleep = doorbell.prepare_sleep

    def publish_first() -> None:
        bench.append(packet(1))
        bench.producer.do_work()
        bench.consumer.do_work()
        prepare_sleep()

    async def sleep() -> None:
        bench.peer._loop = asyncio.get_running_loop()
        doorbell.woken()
        doorbell.prepare_sleep = publish_first  # type: ignore[method-assign]
        bench.peer._serve()

    asyncio.run(sleep())
    assert numbers(reader) == [1]


def fill(bench: Bench, topic: str = "Car") -> Parcel:
    """Use up the topic's share of the ring while the log is away; a parcel that has to wait."""
    bench.log.available = False
    part = bench.peer.producers[0].down.capacity_bytes // 8
    bench.append(packet(1, part), topic=topic)
    return Parcel([record(packet(2, part), topic=topic)])


async def waiting_writes(bench: Bench, parcel: Parcel, count: int) -> list[asyncio.Task[Accepted]]:
    producer = bench.peer.producers[0]
    tasks = [asyncio.ensure_future(bench.peer.append({producer: parcel}, 30)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.fact("W9")
@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        (Settings(waiting_writes_max=3), told("WaitingWritesMax", 3)),
        (Settings(waiting_writes_bytes=450_000), told("WaitingWritesBytes", 450_000)),
    ],
    ids=["requests", "bytes"],
)
def test_what_may_wait_for_room_is_bounded_and_holds_up_its_own_topic_only(
    tmp_path: Path, settings: Settings, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the limit's name, or while the log is away by what it says."""
    bench = Bench(tmp_path, settings)
    parcel = fill(bench)
    producer = bench.peer.producers[0]

    async def write() -> None:
        tasks = await waiting_writes(bench, parcel, 3)
        with pytest.raises(LogUnavailable, match="not accepted at once, since 3 requests wait already: the"):
            await bench.peer.append({producer: parcel}, 30)
        monkeypatch.setattr(producer, "log_state", lambda: LogState(True))
        with pytest.raises(TooManyWait, match=f"^{begins}, since 3 requests wait already"):
            await bench.peer.append({producer: parcel}, 30)
        other = Parcel([record(packet(3), topic="Boat")])
        assert await bench.peer.append({producer: other}, 30)
        assert await bench.peer.append({}, 30) == []
        bench.log.available = True
        for _ in range(20):
            bench.settle(1)
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)

    bench.settle(1)
    asyncio.run(write())


def test_nothing_is_not_held_up_by_a_full_ring(bench: Bench) -> None:
    for topic in "ABCDE":
        fill(bench, topic)
    producer = bench.peer.producers[0]

    async def write() -> None:
        big = Parcel([record(packet(2, producer.down.capacity_bytes // 2 - 10_000), topic="F")])
        (task,) = await waiting_writes(bench, big, 1)
        assert await asyncio.wait_for(bench.peer.append({}, 30), 5) == []
        task.cancel()

    asyncio.run(write())


def test_a_cancelled_wait_for_the_log_is_given_up(bench: Bench) -> None:
    fill(bench)
    producer = bench.peer.producers[0]

    async def wait() -> None:
        task = asyncio.ensure_future(bench.peer.wait_committed({producer: producer.down.publish_position}, 30))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not producer.want(False) and not producer._waits

    asyncio.run(wait())


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_commit_waits_for_the_refusals_that_it_covers(bench: Bench) -> None:
    """However long the gateway takes nothing: else a client would be told that the log has what it refused."""
    producer = bench.peer.producers[0]
    bench.append(*map(packet, range(300)))
    end = producer.down.publish_position
    bench.writer.refused += [Refusal(producer.down.ring_id, end, number, CAR, "x" * 5_000) for number in range(300)]
    for _ in range(5):
        bench.producer.do_work()  # its up ring has room for two thirds of them
    assert producer.down.commit_position == 0
    for _ in range(3):
        bench.settle(1)
    assert producer.down.commit_position == end and len(producer.refusals) == 300


def test_a_refusal_in_any_record_of_a_request_is_found_among_very_many(bench: Bench) -> None:
    producer = bench.peer.producers[0]
    unlogged = packet_writer._Unlogged(bench.peer)
    records = [record(packet(number, 20_000)) for number in range(3)]
    ends: list[int] = []
    for number in range(packet_writer.UNLOGGED_LOOK):
        (stretch,) = bench.peer.try_append({producer: Parcel(records[: 1 + number % 3])}) or ()
        ends += [found.end for found in producer.down.walk(stretch.begin, stretch.end)]
        if number == 500:  # of its three records the first has a packet that the log does not take
            bench.writer.refused.append(Refusal(producer.down.ring_id, ends[-3], 0, CAR, "too large"))
        bench.settle(1)
        unlogged.add([stretch])
    assert unlogged.refused is not None and unlogged.refused.reason == "too large"
    assert unlogged._count < 5


# -- many names -------------------------------------------------------------------------------------------------------


def test_topics_and_watermarks_of_very_many_streams_fit_into_rings(bench: Bench) -> None:
    topics = [f"Car.{number:04}{'x' * 200}" for number in range(3_000)]
    for topic in topics:
        bench.log.partitions[Partition(topic, 0)] = []

    async def ask() -> None:
        bench.peer.watch_topics("Car")
        asked = asyncio.ensure_future(bench.peer.watermarks([Partition(topic, 0) for topic in topics], 30))
        listed = asyncio.ensure_future(bench.peer.topics_now("Car", 30))
        for _ in range(40):
            await asyncio.sleep(0)
            bench.settle(1)
        assert len(await asked) == 3_000
        assert list(await listed) == topics
        bench.consumer._topics_at = 0.0  # what found no room is told next time
        bench.settle(4)

    asyncio.run(ask())
    assert list(bench.peer.topics_of("Car") or ()) == topics


def test_a_list_of_topics_that_is_asked_for_is_not_the_one_that_was_seen_last(bench: Bench) -> None:
    """Neither the answer to a question nor the first thing that is told to who begins to watch."""
    bench.reader.topics = dict  # type: ignore[method-assign]
    bench.log.partitions[Partition("Car.s", 0)] = []
    bench.reader.list_topics = lambda done: done({"Car.s": 1, "Truck": 1})  # type: ignore[method-assign]

    async def ask() -> None:
        asked = asyncio.ensure_future(bench.peer.topics_now("Car", 30))
        await asyncio.sleep(0)
        bench.settle(2)
        assert await asked == {"Car.s": 1}
        bench.peer.watch_topics("Car")
        bench.consumer._topics_at = 0.0
        bench.settle(1)
        assert bench.peer.topics_of("Car") == {"Car.s": 1}

    asyncio.run(ask())


def test_a_log_that_does_not_list_its_topics_is_no_log_without_topics(bench: Bench) -> None:
    bench.log.available = False

    async def ask() -> None:
        asked = asyncio.ensure_future(bench.peer.topics_now("Car", 30))
        bench.peer.watch_topics("Car")
        await asyncio.sleep(0)
        bench.settle(2)
        with pytest.raises(LogUnavailable):
            await asked
        assert bench.peer.topics_of("Car") is None
        bench.log.available = True
        bench.consumer._topics_at = 0.0
        bench.settle(2)
        assert bench.peer.topics_of("Car") == {}

    asyncio.run(ask())


def test_only_new_topics_are_looked_at_for_those_who_watch(bench: Bench) -> None:
    looked_at: list[int] = []
    topics_of = bench.consumer.routing.topics_of

    def count(data_source: str, topics: Mapping[str, int]) -> dict[str, int]:
        looked_at.append(len(topics))
        return topics_of(data_source, topics)

    bench.consumer.routing.topics_of = count  # type: ignore[method-assign]
    bench.peer.watch_topics("Car")
    for number in range(20):
        bench.log.partitions[Partition(f"Car.{number}", 0)] = []
        bench.consumer._topics_at = 0.0
        bench.settle(1)
    assert len(bench.peer.topics_of("Car") or ()) == 20 and max(looked_at) == 1
    del bench.log.partitions[Partition("Car.3", 0)]
    bench.consumer._topics_at = 0.0
    bench.settle()
    assert len(bench.peer.topics_of("Car") or ()) == 19


# -- nobody else ------------------------------------------------------------------------------------------------------


def test_readers_in_the_past_take_turns_and_do_not_hold_up_the_live_end(bench: Bench) -> None:
    history = Partition("History", 0)
    for number in range(40):
        bench.append(packet(number, 100_000), topic="History")
        bench.settle(2)
    live = bench.open(END)
    bench.settle()
    crowd = [bench.open(partition=history) for _ in range(30)]
    bench.append(packet(1))
    bench.producer.do_work()
    before = bench.reader.fetches
    bench.consumer.do_work()
    assert bench.reader.fetches - before <= 1 + 3  # the live end, and about a megabyte of the past
    move(bench.peer)
    assert numbers(live) == [1]
    got: dict[Reader, list[int]] = {reader: [] for reader in crowd}
    for _ in range(3_000):
        bench.settle(1)
        for reader in crowd:
            got[reader] += numbers(reader)
            bench.peer.readers.sent(reader)
        if all(len(found) == 40 for found in got.values()):
            break
    assert all(found == list(range(40)) for found in got.values())


def test_a_filter_whose_formats_are_being_loaded_holds_up_nobody_else_and_misses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats_feed, "FOLD_BYTES", 1)  # one definition a round
    for number in range(1, 31):
        bench.append(event_definition(number, f"Event{number}"), topic="Car_essential")
    everything = bench.open(END)
    bench.settle()
    filtered = bench.open(END, filter_spec=filter_spec(7, "Event30"))
    bench.settle(3)
    bench.append(event(1, format_=30), event(2, format_=29))
    bench.settle(4)
    assert numbers(everything) == [1, 2] and not numbers(filtered)
    bench.settle(40)
    assert numbers(filtered) == [1] and filtered.places[CAR].state is PlaceState.LIVE
    assert len(bench.consumer._feeds[CAR]) == 1


# -- notifications ----------------------------------------------------------------------------------------------------

SUBSCRIBE = api_pb2.GetSessionStartNotificationRequest(data_source="Car").SerializeToString()


class Subscribed:
    """A call's context that keeps what it was told; ``headers`` says that it was told so far."""

    def __init__(self) -> None:
        self.headers = False
        self.told: list[bytes] = []

    async def send_initial_metadata(self, _: object) -> None:
        self.headers = True

    async def write(self, reply: bytes) -> None:
        self.told.append(reply)


class NamedLimits(Limits):
    """Counts nowhere."""

    def __init__(self) -> None:
        pass

    def count(self, limit: str) -> None:
        assert limit in metrics.LIMITS


def test_headers_mean_that_no_session_is_missed_from_here_on() -> None:
    """None before the control plane has said from which offset on it tells what happens, also not while it reads."""

    async def subscribe() -> None:
        notifications, context = Notifications(NamedLimits()), Subscribed()
        call = asyncio.ensure_future(notifications.starts(SUBSCRIBE, context))
        for offset in (-1, -1, 7):
            await asyncio.sleep(0)
            assert not context.headers
            notifications.on_snapshot(internal_pb2.Snapshot(session_offset=offset))
        await asyncio.sleep(0)
        assert context.headers and not context.told
        notifications.on_started(internal_pb2.SessionStarted(offset=7, session_key="k", data_source="Car"))
        await asyncio.sleep(0)
        assert len(context.told) == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(subscribe())


def test_a_subscriber_that_does_not_read_is_told_how_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_calls, "SUBSCRIBER_EVENTS_MAX", 2)
    started = internal_pb2.SessionStarted(offset=7, session_key="k", data_source="Car")

    class Slow(Subscribed):
        async def write(self, reply: bytes) -> None:
            for _ in range(3):
                notifications.on_started(started)

    async def subscribe() -> None:
        call = asyncio.ensure_future(notifications.starts(SUBSCRIBE, Slow()))
        notifications.on_snapshot(internal_pb2.Snapshot(session_offset=7))
        await asyncio.sleep(0)
        notifications.on_started(started)
        with pytest.raises(LimitReached, match=told("UnreadNotificationsMax", 2)):
            await asyncio.wait_for(call, 30)

    notifications = Notifications(NamedLimits())
    asyncio.run(subscribe())


def test_without_session_management_the_streams_end_at_once() -> None:
    async def subscribe() -> None:
        context = Subscribed()
        await Notifications(NamedLimits(), enabled=False).stops(SUBSCRIBE, context)
        assert not context.told

    asyncio.run(subscribe())


@pytest.mark.fact("S11")
def test_a_subscriber_that_goes_at_once_leaves_nothing_behind() -> None:
    class Gone:
        async def send_initial_metadata(self, _: object) -> None:
            raise asyncio.CancelledError

    notifications = Notifications(NamedLimits())
    notifications.on_snapshot(internal_pb2.Snapshot(session_offset=0))

    async def subscribe() -> None:
        with pytest.raises(asyncio.CancelledError):
            await notifications.starts(SUBSCRIBE, Gone())

    asyncio.run(subscribe())
    assert not notifications._started


# -- log lines --------------------------------------------------------------------------------------------------------


def test_a_log_that_nobody_reads_costs_the_line_and_not_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    log_line("info", "gateway-0", "state", state="READY")


# -- dead and deaf ----------------------------------------------------------------------------------------------------


def test_a_peer_that_cannot_take_what_it_is_told_says_so_and_does_not_go_on_deaf(bench: Bench) -> None:
    """An exception in a callback of the loop would be a line in its log, and the process would look alive."""

    async def serve() -> None:
        bench.peer.start()
        link = next(iter(bench.consumer.peers))
        assert link.try_send([(99, 1, b"of another version")])
        bench.peer.worker.doorbell.ring()
        with pytest.raises(KeyError):
            async with asyncio.timeout(30):
                await bench.peer.failed
        bench.peer.stop()

    asyncio.run(serve())


def test_nothing_piles_up_for_a_dead_consumer(bench: Bench) -> None:
    proxy = bench.peer.consumers[0]
    bench.consumer.worker.liveness.state = WorkerState.FAILED
    kept = bench.open()
    for _ in range(20_000):
        bench.peer.readers.close(bench.open())
    assert not proxy._unsent and proxy.down.publish_position == 0
    bench.append(packet(1))
    bench.start_consumer()
    notice_successors(bench)
    bench.settle()
    assert numbers(kept) == [1] and len(bench.reader.cursors) == 1
