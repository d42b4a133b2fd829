"""Consumer groups on a real Kafka, beside what other programs do with the same groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_broker import KafkaBroker
from kafka_log_support import KafkaUnderTest
from log_contract import Feed, ask_committed, collector, commit, drive, identity_of, numbered, record

from trackside.data_plane import kafka_groups
from trackside.data_plane.log import LogReader, Partition, Progress
from trackside.data_plane.record import Route

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[KafkaUnderTest]:
    made = KafkaUnderTest(kafka_broker, tmp_path)
    yield made
    made.close()


def written(log: KafkaUnderTest, topic: str, count: int) -> Partition:
    Feed(log.writer()).append_logged(record(numbered(0, count), Route(topic, 0, b"k")))
    return Partition(topic, 0)


def consumer(log: KafkaUnderTest, group: str, **settings: Any) -> Any:
    """Another program's member of the group."""
    from confluent_kafka import Consumer

    own = {"group.id": group, "enable.auto.commit": False, "log_level": 0, "session.timeout.ms": 6000}
    return Consumer({"bootstrap.servers": log.broker.address, **own, **settings})


def answer_of(reader: LogReader, group: str, progress: dict[Partition, Progress]) -> bool:
    answers: list[bool] = []
    reader.commit(group, progress, answers.append)
    drive(lambda: bool(answers), reader, what="an answer to the commit")
    return answers[0]


def test_other_programs_see_the_offsets_and_theirs_are_taken(log: KafkaUnderTest) -> None:
    from confluent_kafka import TopicPartition

    topic, group = log.topic("shared"), log.topic("group")
    partition = written(log, topic, 20)
    reader = log.reader()
    commit(reader, group, {partition: Progress(identity_of(reader, topic), 7)})
    other = consumer(log, group)
    (place,) = other.committed([TopicPartition(*partition)], timeout=20)
    assert place.offset == 7
    other.commit(offsets=[TopicPartition(*partition, 12)], asynchronous=False)
    other.close()
    assert ask_committed(reader, group, partition) == {partition: 12}


def test_a_topic_that_was_made_again_has_no_progress(log: KafkaUnderTest) -> None:
    """Neither what Kafka had, nor a commit that was on its way while the topic was replaced."""
    topic, group = log.topic("again"), log.topic("group")
    partition = written(log, topic, 9)
    reader = log.reader()
    before = identity_of(reader, topic)
    commit(reader, group, {partition: Progress(before, 5)})
    log.broker.delete_topic(topic)
    log.broker.create_topic(topic, 1)
    assert ask_committed(reader, group, partition) == {}
    written(log, topic, 9)
    commit(reader, group, {partition: Progress(before, 4)})
    assert ask_committed(reader, group, partition) == {}
    commit(reader, group, {partition: Progress(identity_of(reader, topic), 3)})
    assert ask_committed(reader, group, partition) == {partition: 3}


def test_a_group_with_members_elsewhere_refuses_and_reading_goes_on(
    log: KafkaUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_groups, "ANSWER_SECONDS", 0.5)
    topic, group = log.topic("member"), log.topic("group")
    partition = written(log, topic, 9)
    reader = log.reader()
    member = consumer(log, group, **{"auto.offset.reset": "earliest"})
    member.subscribe([topic])
    drive(lambda: bool(member.poll(0.2) and member.assignment()), reader, what="the other program is a member")
    assert answer_of(reader, group, {partition: Progress(b"", 4)}) is False
    assert reader.statistics()["uncommitted"] == 1
    collector(reader, topic).collect(9)
    member.close()
    assert answer_of(reader, group, {partition: Progress(b"", 4)}) is True
    assert ask_committed(reader, group, partition) == {partition: 4}


def test_without_a_broker_the_answer_is_none_within_the_bound(
    log: KafkaUnderTest, kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is committed while it is away is there when it is back in time."""
    topic, group = log.topic("away"), log.topic("group")
    partition = written(log, topic, 9)
    reader = log.reader()
    commit(reader, group, {partition: Progress(b"", 2)})
    kafka_broker.stop()
    try:
        monkeypatch.setattr(kafka_groups, "ANSWER_SECONDS", 1.0)
        found: list[dict[Partition, int] | None] = []
        reader.committed(group, [partition], found.append)
        kept: list[bool] = []
        reader.commit(group, {partition: Progress(b"", 3)}, kept.append)
        drive(lambda: bool(found and kept), reader, what="both are given up")
        assert (found, kept) == ([None], [False])
        monkeypatch.setattr(kafka_groups, "ANSWER_SECONDS", 120.0)
        for offset in (4, 5, 6):
            reader.commit(group, {partition: Progress(b"", offset)}, kept.append)
        reader.do_work()
    finally:
        kafka_broker.start()
    drive(lambda: len(kept) == 4, reader, what="the commits that waited")
    assert kept == [False, True, True, True]
    assert ask_committed(reader, group, partition) == {partition: 6}


def test_no_group_appears_where_nobody_commits(log: KafkaUnderTest) -> None:
    """The clients that fetch have group ids of their own, as librdkafka wants it; none of them reaches the broker."""
    from confluent_kafka.admin import AdminClient

    topic, group = log.topic("quiet"), log.topic("group")
    partition = written(log, topic, 50)
    reader = log.reader()
    admin = AdminClient({"bootstrap.servers": log.broker.address})

    def groups() -> set[str]:
        return {found.group_id for found in admin.list_consumer_groups().result(30).valid}

    before = groups()
    reading = collector(reader, topic)
    reading.collect(50)
    assert ask_committed(reader, group, partition) == {}
    assert groups() <= before
    commit(reader, group, {partition: Progress(b"", 50)})
    assert groups() - before == {group}
