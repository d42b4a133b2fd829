"""The duty cycles of producer and consumer, called by hand, over real rings and a log in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_bench import CAR, Bench, logged, numbers, packet, record
from bad_input import told
from worker_kit import move

from trackside.data_plane.log import END, Partition, Refusal
from trackside.data_plane.peer import LogUnavailable, Parcel, RingFull
from trackside.data_plane.reading import PlaceState
from trackside.shm.liveness import WorkerState


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_packets_go_to_the_log_and_come_back(bench: Bench) -> None:
    reader = bench.open()
    bench.append(packet(1), packet(2))
    bench.settle()
    assert logged(bench.log) == [1, 2] and numbers(reader) == [1, 2]


def test_commit_waits_for_the_log(bench: Bench) -> None:
    down = bench.peer.producers[0].down
    bench.log.available = False
    bench.append(packet(1))
    bench.settle()
    assert down.commit_position == 0 < down.publish_position
    assert bench.peer.producers[0].log_state().reason == "the test took it away"
    bench.log.available = True
    bench.settle()
    assert down.commit_position == down.publish_position


def test_a_producers_successor_begins_where_the_log_ended(bench: Bench) -> None:
    bench.append(packet(1))
    bench.settle()
    bench.log.available = False
    bench.append(packet(2))
    bench.settle()
    bench.log.available = True
    bench.start_producer()  # its predecessor had taken packet 2 and died
    bench.settle()
    assert logged(bench.log) == [1, 2]


@pytest.mark.fact("R3")
def test_fetches_are_the_same_for_one_reader_and_for_a_hundred(bench: Bench) -> None:
    def fetches_of(readers: int) -> int:
        opened = [bench.open(END) for _ in range(readers)]
        bench.settle()
        before = bench.reader.fetches
        for number in range(50):
            bench.append(packet(number))
            bench.settle(2)
        bench.settle()
        assert all(numbers(reader) == list(range(50)) for reader in opened)
        for reader in opened:
            bench.peer.readers.close(reader)
        bench.settle()
        return bench.reader.fetches - before

    assert fetches_of(1) == fetches_of(100) == 50


def test_two_peers_share_a_fetch(bench: Bench) -> None:
    other = bench.kit.peer("control-plane")
    mine, theirs = bench.open(END), bench.open(END, other)
    bench.settle()
    before = bench.reader.fetches
    bench.append(packet(1))
    bench.settle()
    move(other)
    assert numbers(mine) == numbers(theirs) == [1]
    assert bench.reader.fetches == before + 1


def test_a_reader_in_the_past_joins_the_live_feed(bench: Bench) -> None:
    live = bench.open(END)
    bench.settle()
    for number in range(40):
        bench.append(packet(number, 100_000))
        bench.settle(3)
    late = bench.open()
    for _ in range(200):
        bench.settle(1)
        numbers(live)
        if late.places[CAR].state is PlaceState.LIVE:
            break
        late_so_far = numbers(late)
        bench.peer.readers.sent(late)
        assert late_so_far == sorted(late_so_far)
    assert late.places[CAR].state is PlaceState.LIVE and late.places[CAR].next_offset == 40
    numbers(late), numbers(live)
    bench.append(packet(99))
    bench.settle()
    assert numbers(late) == numbers(live) == [99]


def test_a_consumers_successor_is_told_all_readers(bench: Bench) -> None:
    reader = bench.open()
    bench.append(packet(1))
    bench.settle()
    bench.start_consumer()
    bench.append(packet(2))

    async def notice() -> None:
        bench.peer.start()
        bench.peer.stop()

    asyncio.run(notice())
    bench.settle()
    assert numbers(reader) == [1, 2]


def test_a_gateways_successor_costs_nothing_of_its_predecessor(bench: Bench) -> None:
    bench.open()
    bench.settle()
    assert bench.consumer._feeds
    bench.peer = bench.kit.peer()  # another process now: its readers are its own
    bench.settle()
    assert not bench.consumer._feeds and not bench.consumer._past
    reader = bench.open()
    bench.append(packet(1))
    bench.settle()
    assert numbers(reader) == [1]


def test_frames_without_room_leave_a_mark_and_nothing_is_missed(bench: Bench) -> None:
    reader, other = bench.open(), bench.open(partition=Partition("Boat", 0))
    bench.settle()
    sizes = [packet(number, 200_000) for number in range(12)]  # more than the up ring of this kit holds
    for value in sizes:
        bench.append(value)
        for _ in range(4):
            bench.producer.do_work()
            bench.consumer.do_work()  # the peer takes nothing meanwhile
            bench.peer.producers[0].settle()
    assert bench.consumer._count.marks.value
    found: list[int] = []
    for _ in range(100):
        bench.settle(1)
        found += numbers(reader)
        bench.peer.readers.sent(reader)
    assert found == list(range(12)) and not bench.consumer._marks
    bench.append(packet(77), topic="Boat")
    bench.settle()
    assert numbers(other) == [77]


def test_watermarks_and_topics(bench: Bench) -> None:
    async def ask() -> None:
        bench.append(packet(1), packet(2))
        bench.settle()
        asked = asyncio.ensure_future(bench.peer.watermarks([CAR, Partition("None", 0)], 5))
        bench.peer.watch_topics("Car")
        for _ in range(10):
            await asyncio.sleep(0)
            bench.settle(1)
        assert {tuple(p): tuple(m) for p, m in (await asked).items()} == {("Car", 0): (0, 2), ("None", 0): (0, 0)}
        assert bench.peer.topics_of("Car") == {"Car": 1}

    asyncio.run(ask())


def test_a_full_ring_waits_and_lets_the_oldest_in_first(bench: Bench) -> None:
    producer = bench.peer.producers[0]
    half = producer.down.capacity_bytes // 4 - 20_000

    async def fill() -> None:
        for topic in ("A", "B", "C", "D"):
            assert bench.peer.try_append({producer: Parcel([record(packet(1, half), topic=topic)])})
        waiting = [
            asyncio.ensure_future(bench.peer.append({producer: Parcel([record(packet(n, half), topic="E")])}, 5))
            for n in (1, 2)
        ]
        await asyncio.sleep(0)
        assert bench.peer.try_append({producer: Parcel([record(packet(9), topic="F")])}) is None  # nobody is overtaken
        for _ in range(20):
            bench.settle(1)
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    asyncio.run(fill())
    bench.settle()
    assert logged(bench.log, Partition("E", 0)) == [1, 2]


@pytest.mark.fact("W9")
def test_one_topic_holds_at_most_its_share_of_a_ring(bench: Bench) -> None:
    producer = bench.peer.producers[0]
    bench.log.available = False
    part = producer.down.capacity_bytes // 8
    taken = 0
    while bench.peer.try_append({producer: Parcel([record(packet(1, part))])}):
        taken += 1
    assert taken == 1  # two would be more than a quarter
    assert bench.peer.try_append({producer: Parcel([record(packet(1, part), topic="Other")])})
    successor = bench.kit.peer()  # recomputes the shares from the ring itself
    assert successor.try_append({successor.producers[0]: Parcel([record(packet(1, part))])}) is None


def test_full_is_an_answer_that_says_why(bench: Bench) -> None:
    producer = bench.peer.producers[0]

    async def overfill(error: type[Exception], text: str) -> None:
        bench.settle(2)
        while bench.peer.try_append({producer: Parcel([record(packet(1, 60_000))])}):
            pass
        with pytest.raises(error, match=text):
            await bench.peer.append({producer: Parcel([record(packet(1, 60_000))])}, 0.05)
        assert bench.peer.try_append(
            {producer: Parcel([record(packet(2), topic="Other")])}
        )  # the refused one left nothing

    asyncio.run(
        overfill(RingFull, told("WriteWaitSeconds", 5) + ".*: topic Car has used its share of the ring to producer-0")
    )
    bench.settle()
    bench.log.available = False
    asyncio.run(overfill(LogUnavailable, told("log away", 0.05) + "the test took it away"))


def test_a_refusal_is_told_before_the_commit_that_covers_it(bench: Bench) -> None:
    producer = bench.peer.producers[0]
    bench.append(packet(1))
    end = producer.down.publish_position
    bench.writer.refused.append(Refusal(producer.down.ring_id, end, 0, CAR, "too large"))
    bench.producer.do_work()
    assert producer.down.commit_position == end
    bench.peer.take_news()
    assert [(refused.end, refused.reason) for refused in producer.refusals] == [(end, "too large")]


def test_limits_reach_each_incarnation_of_a_peer(bench: Bench) -> None:
    bench.settle()
    assert bench.peer.producers[0].value_bytes_max == 1 << 20
    bench.peer = bench.kit.peer()
    bench.producer._limits_at = 0.0
    bench.settle()
    assert bench.peer.producers[0].value_bytes_max == 1 << 20


def test_a_worker_says_what_it_thinks_of_the_log(bench: Bench) -> None:
    bench.settle()
    assert bench.consumer.worker.liveness.state == WorkerState.READY
    bench.log.available = False
    bench.settle()
    assert bench.consumer.worker.liveness.state == WorkerState.DEGRADED
    assert bench.consumer.worker.liveness.read_reason() == "the test took it away"
