"""Consumer groups at a peer: only what was sent is committed, all of it is in the end, whatever dies on the way."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from agent_bench import CAR, Bench, numbers, packet
from worker_kit import move

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.frame import Frame, decode_frame, encode_frame, frames_of
from trackside.data_plane.group_progress import ROWS_MAX, GroupProgress
from trackside.data_plane.link import Commit, CommitAnswer, Message, SliceEnd, decode_message, encode_message
from trackside.data_plane.log import END, Partition, Progress, Run
from trackside.data_plane.reading import Reader, Readers
from trackside.data_plane.spec import Settings

BIKE = Partition("Bike", 0)
KEYS = [(b"one", b""), (b"two", b"")]


class Consumer:
    """Collects what it is told; a test answers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(decode_message(*encode_message(message)[::2]))

    def commits(self) -> list[Commit]:
        found = [message for message in self.messages if isinstance(message, Commit)]
        self.messages.clear()
        return found


def frame(keys: list[int], start: int, end: int, log: bytes = b"log") -> Frame:
    values = [Packet(id=number + 1).SerializeToString() for number in range(start, end)]
    run = Run(CAR, log, start, end, list(range(start, end)), [1] * len(values), keys[start:end], KEYS, values)
    return decode_frame(encode_frame(frames_of(run, "", {})[0][0]))


def rows(commit: Commit) -> dict[Partition, Progress]:
    return {Partition(topic, number): Progress(log, offset) for topic, number, log, offset in commit.progress}


def make() -> tuple[Consumer, Readers]:
    consumer = Consumer()
    return consumer, Readers(1, lambda _: consumer, Settings())


def open_live(readers: Readers, consumer: Consumer, group: str, key: bytes | None = None, offset: int = 0) -> Reader:
    reader = readers.open(key=key, group=group)
    readers.join(reader, CAR, offset)
    readers.on_slice_end(SliceEnd(reader.number, *CAR, max(offset, 0), True))
    consumer.messages.clear()
    return reader


def ids(response: bytes) -> list[int]:
    return [one.packet.id - 1 for one in api_pb2.ReadPacketsResponse.FromString(response).response]


@pytest.mark.parametrize("seed", range(30))
def test_no_commit_is_ahead_of_what_was_sent_and_the_last_one_has_all(seed: int) -> None:
    """A reader with a session filter; frames, responses that are written or break off, ticks, a consumer that dies."""
    chooser = random.Random(seed)
    consumer, readers = make()
    keys = [chooser.randrange(2) for _ in range(200)]
    wanted = chooser.choice([None, b"one"])
    mine = [n for n, key in enumerate(keys) if wanted is None or KEYS[key][0] == wanted]
    sent: list[int] = []
    kept = 0
    broken = False

    def check() -> None:
        nonlocal kept
        for commit in consumer.commits():
            offset = rows(commit)[CAR].offset
            assert [n for n in mine if n < offset] == sent[: len([n for n in mine if n < offset])]
            answered = chooser.random() < 0.7
            if answered or chooser.random() < 0.5:
                kept = offset if answered else kept
                readers.groups.on_answer(CommitAnswer(commit.request, answered))

    reader = open_live(readers, consumer, "g", wanted)
    end, now = 0, 0.0
    while end < len(keys) and not broken:
        action = chooser.random()
        if action < 0.5:
            start, end = end, min(len(keys), end + chooser.randrange(1, 4))
            readers.on_frame(frame(keys, start, end))
        elif action < 0.8 and reader.pending:
            taken = ids(reader.take())
            if chooser.random() < 0.3:  # more arrives while it is written
                start, end = end, min(len(keys), end + 1)
                if end > start:
                    readers.on_frame(frame(keys, start, end))
            broken = chooser.random() < 0.02
            if not broken:
                sent += taken
                reader.on_sent()
        elif action < 0.95:
            now += 1.0
            readers.groups.commit_when_due(now)
            check()
        else:
            readers.on_successor(consumer)
            check()
    while reader.pending and not broken:
        sent += ids(reader.take())
        reader.on_sent()
    readers.close(reader)
    readers.on_successor(consumer)  # whatever was lost is said once more
    for commit in consumer.commits():
        kept = rows(commit)[CAR].offset
        assert [n for n in mine if n < kept] == sent[: len([n for n in mine if n < kept])]
    assert [n for n in mine if n < kept] == sent


@pytest.mark.fact("R18")
def test_filtered_packets_are_passed_without_a_response() -> None:
    consumer, readers = make()
    reader = open_live(readers, consumer, "g", b"one")
    keys = [0, 1, 1, 1, 0]
    readers.on_frame(frame(keys, 0, 1))
    readers.on_frame(frame(keys, 1, 3))
    readers.groups.commit_when_due(1.0)
    assert not consumer.commits()  # the first one waits to be sent, and nothing behind it counts before it has gone
    reader.take()
    readers.on_frame(frame(keys, 3, 4))
    readers.groups.commit_when_due(2.0)
    assert not consumer.commits()  # it is being written
    reader.on_sent()
    readers.groups.commit_when_due(3.0)
    assert [rows(commit) for commit in consumer.commits()] == [{CAR: Progress(b"log", 4)}]
    readers.groups.on_answer(CommitAnswer(1 << 32 | 1, True))
    readers.on_frame(frame([0, 1, 1, 1, 1, 1], 4, 6))
    readers.groups.commit_when_due(4.0)
    assert [rows(commit) for commit in consumer.commits()] == [{CAR: Progress(b"log", 6)}]


@pytest.mark.fact("R18")
def test_a_reader_without_a_group_commits_nothing() -> None:
    consumer, readers = make()
    reader = open_live(readers, consumer, "")
    readers.on_frame(frame([0, 0], 0, 2))
    reader.take()
    reader.on_sent()
    readers.groups.commit_when_due(1.0)
    readers.close(reader)
    assert not consumer.commits()


def test_where_a_read_from_the_end_began_is_kept() -> None:
    consumer, readers = make()
    reader = readers.open(group="g")
    readers.join(reader, CAR, END)
    readers.on_slice_end(SliceEnd(reader.number, *CAR, 17, True))
    readers.close(reader)
    assert [rows(commit) for commit in consumer.commits()] == [{CAR: Progress(b"", 17)}]


def test_a_read_from_an_offset_that_sent_nothing_keeps_nothing() -> None:
    consumer, readers = make()
    reader = open_live(readers, consumer, "g", offset=17)
    readers.close(reader)
    assert not consumer.commits()


def test_another_log_is_committed_as_such() -> None:
    consumer, readers = make()
    reader = open_live(readers, consumer, "g")
    readers.on_frame(frame([0] * 9, 0, 9))
    readers.on_frame(frame([0] * 2, 0, 2, b"new"))
    reader.take()
    reader.on_sent()
    readers.close(reader)
    assert [rows(commit) for commit in consumer.commits()] == [{CAR: Progress(b"new", 2)}]


def test_what_another_log_has_for_nobody_does_not_move_what_waits_of_the_old_one() -> None:
    consumer, readers = make()
    reader = open_live(readers, consumer, "g", b"one")
    readers.on_frame(frame([0] * 3, 0, 3))
    readers.on_frame(frame([1] * 5, 0, 5, b"new"))
    reader.take()
    reader.on_sent()
    readers.close(reader)
    assert [rows(commit) for commit in consumer.commits()] == [{CAR: Progress(b"log", 3)}]


class TestCommits:
    @pytest.fixture
    def consumer(self) -> Consumer:
        return Consumer()

    @pytest.fixture
    def groups(self, consumer: Consumer) -> GroupProgress:
        return GroupProgress(1, lambda _: consumer)

    def test_once_a_second_the_newest_of_each_partition(self, consumer: Consumer, groups: GroupProgress) -> None:
        one, two = groups.join("g"), groups.join("g")
        for offset in range(1, 50):
            one.note(CAR, b"log", offset)
            two.note(BIKE, b"log", 2 * offset)
            groups.commit_when_due(10.0 + offset / 100)
        first, *more = consumer.commits()
        assert not more and rows(first) == {CAR: Progress(b"log", 1), BIKE: Progress(b"log", 2)}
        groups.commit_when_due(11.5)
        assert not consumer.commits()  # the log has not answered yet
        groups.on_answer(CommitAnswer(first.request, True))
        groups.commit_when_due(13.0)
        assert [rows(commit) for commit in consumer.commits()] == [
            {CAR: Progress(b"log", 49), BIKE: Progress(b"log", 98)}
        ]

    def test_what_the_log_did_not_take_is_said_again_unless_there_is_newer(
        self, consumer: Consumer, groups: GroupProgress
    ) -> None:
        member = groups.join("g")
        member.note(CAR, b"log", 1)
        member.note(BIKE, b"log", 1)
        groups.commit_when_due(1.0)
        (refused,) = consumer.commits()
        member.note(CAR, b"log", 2)
        groups.on_answer(CommitAnswer(refused.request, False))
        groups.commit_when_due(2.5)
        assert [rows(commit) for commit in consumer.commits()] == [
            {CAR: Progress(b"log", 2), BIKE: Progress(b"log", 1)}
        ]

    def test_what_is_refused_after_the_last_read_is_counted(self, consumer: Consumer, groups: GroupProgress) -> None:
        member, stays = groups.join("g"), groups.join("g")
        member.note(CAR, b"log", 1)
        member.leave()
        (commit,) = consumer.commits()
        groups.on_answer(CommitAnswer(commit.request, False))
        assert groups.uncommitted == 0
        stays.leave()
        (commit,) = consumer.commits()
        groups.on_answer(CommitAnswer(commit.request, False))
        groups.commit_when_due(9.0)
        assert groups.uncommitted == 1 and not consumer.commits()

    def test_a_successor_hears_what_was_not_answered_in_its_order(
        self, consumer: Consumer, groups: GroupProgress
    ) -> None:
        groups.join("other")
        for offset in (1, 2, 3):
            member = groups.join("g")
            member.note(CAR, b"log", offset)
            member.leave()
        commits = consumer.commits()
        groups.on_answer(CommitAnswer(commits[1].request, True))
        groups.on_successor(consumer)
        assert consumer.commits() == [commits[0], commits[2]]

    def test_many_partitions_go_in_messages_that_fit(self, consumer: Consumer, groups: GroupProgress) -> None:
        member = groups.join("g" * 1024)
        for number in range(2 * ROWS_MAX + 1):
            member.note(Partition(f"{number:0249}", number), bytes(40), 2**62)
        member.leave()
        commits = consumer.commits()
        assert sum(len(commit.progress) for commit in commits) == 2 * ROWS_MAX + 1
        assert max(len(encode_message(commit)[2]) for commit in commits) < 512 << 10


class TestOverRings:
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return Bench(tmp_path)

    def ask(self, bench: Bench, group: str, *partitions: Partition) -> dict[Partition, int]:
        async def question() -> dict[Partition, int]:
            task = asyncio.ensure_future(bench.peer.committed(group, partitions, 30.0))
            while not task.done():
                await asyncio.sleep(0)
                bench.settle(1)
            return task.result()

        return asyncio.run(question())

    def test_what_was_sent_is_found_by_the_next(self, bench: Bench) -> None:
        readers = bench.peer.readers
        bench.append(packet(1), packet(2))
        reader = readers.open(group="g")
        readers.join(reader, CAR, 0)
        bench.settle()
        assert self.ask(bench, "g", CAR, BIKE) == {}
        assert numbers(reader) == [1, 2]
        reader.on_sent()
        readers.close(reader)
        assert self.ask(bench, "g", CAR, BIKE) == {CAR: 2}
        assert self.ask(bench, "h", CAR) == {}

    def test_a_commit_outlives_the_consumer_that_did_not_see_it(self, bench: Bench) -> None:
        bench.append(packet(1))
        readers = bench.peer.readers
        reader = readers.open(group="g")
        readers.join(reader, CAR, 0)
        bench.settle()
        bench.log.available = False  # its predecessor took it, could not keep it, and died
        numbers(reader)
        reader.on_sent()
        reader.member.note(CAR, b"memory", 1) if reader.member else None
        readers.groups.commit_when_due(1.0)
        bench.consumer._take_requests()
        bench.log.available = True
        bench.start_consumer()
        readers.on_successor(bench.peer.consumers[0])
        bench.settle()
        assert bench.log.groups == {("g", CAR): Progress(b"memory", 1)}

    def test_a_consumer_is_not_drained_before_the_log_has_answered(self, bench: Bench) -> None:
        answers = []
        bench.reader.commit = lambda group, progress, done: answers.append(done)  # type: ignore[method-assign]
        bench.peer.readers.groups.join("g").note(CAR, b"", 1)
        bench.peer.readers.groups.commit_when_due(1.0)
        bench.settle()
        assert not bench.consumer.drained()
        answers[0](True)
        assert bench.consumer.drained()
        move(bench.peer)
