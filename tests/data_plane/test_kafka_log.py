"""The log on a real Apache Kafka: the contract of every log, then what only Kafka can do to us."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from kafka_broker import KafkaBroker
from kafka_log_support import PARTITIONS, KafkaUnderTest
from log_contract import (
    OTHER_RING,
    READ_BYTES,
    RING,
    WAIT_SECONDS,
    Feed,
    LogContract,
    ask_watermarks,
    collector,
    drive,
    log_all,
    numbered,
    packet_of_size,
    record,
    see_topic,
)

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.kafka_topics import KafkaTopics
from trackside.data_plane.log import LogConfigurationError, Partition, Watermarks
from trackside.data_plane.record import Route

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[KafkaUnderTest]:
    made = KafkaUnderTest(kafka_broker, tmp_path)
    yield made
    made.close()


class TestKafkaLog(LogContract):
    """The contract."""


# --- what is in Kafka, seen by a plain client ------------------------------------------------------------------------


def plain_read(broker: KafkaBroker, topic: str, partition: int = 0) -> list[Message]:
    """Everything that is there now."""
    config = {"bootstrap.servers": broker.address, "group.id": "plain", "enable.auto.commit": False}
    consumer = Consumer(config | {"enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    found = []
    while (message := consumer.poll(WAIT_SECONDS)) is not None and message.error() is None:
        found.append(message)
    consumer.close()
    assert message is not None, f"no end of {topic} within {WAIT_SECONDS} s"
    return found


def plain_values(broker: KafkaBroker, topic: str, partition: int = 0) -> list[bytes | None]:
    return [message.value() for message in plain_read(broker, topic, partition)]


def plain_write(broker: KafkaBroker, topic: str, values: Sequence[bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for value in values:
        producer.produce(topic, value, b"plain", 0)
    assert producer.flush(WAIT_SECONDS) == 0


def once_each(values: Sequence[bytes | None]) -> list[bytes | None]:
    """Without repeats, in the order of first appearance."""
    return list(dict.fromkeys(values))


# --- writing ---------------------------------------------------------------------------------------------------------


class TestRefusals:
    """A topic that takes messages of 3,000 bytes; number 11 of 40 is larger and cannot be stored."""

    def packets(self) -> list[bytes]:
        return [packet_of_size(5000 if number == 11 else 806, number) for number in range(40)]

    @pytest.mark.fact("W8")
    def test_the_culprit_alone_is_refused_and_order_stays(self, log: KafkaUnderTest) -> None:
        topic, other, packets = log.topic("small"), log.topic("other"), self.packets()
        log.broker.create_topic(topic, PARTITIONS, {"max.message.bytes": "3000"})
        feed = Feed(log.writer())
        for start in range(0, 40, 8):  # 11 is in the middle of a chunk whose last message alone is reported
            feed.append(record(packets[start : start + 8], Route(topic, 0, b"k", "", b"me")))
        feed.append(record(numbered(0, 500), Route(other, 0, b"k")))
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, topic) == packets[:11] + packets[12:]
        assert once_each(plain_values(log.broker, other)) == numbered(0, 500)
        (refusal,) = feed.writer.refusals()
        assert refusal[:4] == (RING, 64 * 9 * 2, 3, Partition(topic, 0))
        assert "too large" in refusal.reason
        self.check_letter(log, topic, packets[11])

    @pytest.mark.fact("W15")
    def test_nothing_passes_a_refused_packet(self, log: KafkaUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Batches of two, many of them handed over, and only the last message of all reported: the batch of 10 and 11
        is refused, and those behind it would be taken but for the gapless guarantee. A window may stand twice."""
        topic, packets = log.topic("small"), self.packets()
        log.broker.create_topic(topic, PARTITIONS, {"max.message.bytes": "3000"})
        monkeypatch.setattr(KafkaTopics, "refresh_limit", lambda topics, name: None)  # the writer must not know
        writer = log.writer(msgspec.structs.replace(log.settings, publisher_overrides={"batch.size": "2000"}))
        monkeypatch.setattr(writer, "_bytes_held_max", 1 << 20)
        feed = Feed(writer)
        feed.append_logged(record(packets, Route(topic, 0, b"k")))
        assert [refusal.packet for refusal in writer.refusals()] == [11]
        there = plain_values(log.broker, topic)
        assert once_each(there) == packets[:11] + packets[12:]
        assert there[there.index(packets[12]) :] == packets[12:]  # nothing behind it was there before it was out
        assert writer.statistics()["clients"] == 1

    def check_letter(self, log: KafkaUnderTest, topic: str, culprit: bytes) -> None:
        (letter,) = plain_read(log.broker, log.dead_letters)
        assert (letter.key(), letter.value()) == (b"k", culprit)
        headers = dict(letter.headers() or ())
        assert headers["trackside-topic"] == topic.encode()
        assert headers["trackside-partition"] == b"0"
        assert headers["trackside-identity"] == b"me"
        assert b"too large" in headers["trackside-reason"]

    def test_a_dead_letter_that_is_refused_goes_to_the_file(self, log: KafkaUnderTest) -> None:
        topic, packets = log.topic("small"), self.packets()
        for name in (topic, log.dead_letters):
            log.broker.create_topic(name, PARTITIONS, {"max.message.bytes": "3000"})
        feed = Feed(log.writer())
        feed.append_logged(record(packets, Route(topic, 1, b"k")))
        assert plain_values(log.broker, topic, 1) == packets[:11] + packets[12:]
        assert [refusal.packet for refusal in feed.writer.refusals()] == [11]
        (line,) = (Path(log.settings.data_dir) / "dead-letters" / "refused.jsonl").read_bytes().splitlines()
        letter = msgspec.json.decode(line, type=DeadLetter)
        assert (letter.topic, letter.partition, letter.packet) == (topic, 1, 11)
        assert (letter.key, letter.value) == (b"k", packets[11])

    def test_a_dead_letter_waits_for_its_file_and_holds_up_its_topic_alone(self, log: KafkaUnderTest) -> None:
        topic, other, packets = log.topic("small"), log.topic("other"), self.packets()
        for name in (topic, log.dead_letters):
            log.broker.create_topic(name, PARTITIONS, {"max.message.bytes": "3000"})
        in_the_way = Path(log.settings.data_dir) / "dead-letters"
        in_the_way.write_text("no folder")
        feed = Feed(log.writer())
        others = Feed(feed.writer, OTHER_RING)
        feed.append(record(packets, Route(topic, 1, b"k")))
        drive(lambda: feed.writer.statistics()["dead_letter_file_failures"] > 1, feed.writer, what="two tries")
        others.append_logged(record(numbered(0, 50), Route(other, 0, b"k")))
        assert feed.writer.logged(RING) == 0
        in_the_way.unlink()
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, topic, 1) == packets[:11] + packets[12:]
        assert [found.letter.packet for found in DeadLetterFile(in_the_way).letters()] == [11]

    def test_a_dead_letter_that_a_full_file_does_not_take_is_counted(self, log: KafkaUnderTest) -> None:
        topic, packets = log.topic("small"), self.packets()
        for name in (topic, log.dead_letters):
            log.broker.create_topic(name, PARTITIONS, {"max.message.bytes": "3000"})
        feed = Feed(log.writer())
        feed.writer._graveyard._file = DeadLetterFile(Path(log.settings.data_dir) / "dead-letters", bytes_max=1000)
        feed.append_logged(record(packets, Route(topic, 1, b"k")))
        assert plain_values(log.broker, topic, 1) == packets[:11] + packets[12:]
        assert [refusal.packet for refusal in feed.writer.refusals()] == [11]
        statistics = feed.writer.statistics()
        assert (statistics["dead_letters_given_up"], statistics["dead_letter_file"]) == (1, 0)

    def test_many_refusals_among_many_packets(self, log: KafkaUnderTest) -> None:
        topic = log.topic("small")
        log.broker.create_topic(topic, PARTITIONS, {"max.message.bytes": "3000"})
        rng = random.Random(3)
        packets = [packet_of_size(rng.choice((200, 300, 806, 2500, 4000)), number) for number in range(300)]
        feed = Feed(log.writer())
        for start in range(0, 300, 10):
            feed.append(record(packets[start : start + 10], Route(topic, 0, b"k")))
            feed.writer.do_work()
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, topic) == [value for value in packets if len(value) < 3000]
        assert plain_values(log.broker, log.dead_letters) == [value for value in packets if len(value) > 3000]

    def test_what_an_override_forbids_is_refused_before_it_is_sent(self, log: KafkaUnderTest) -> None:
        topic, packets = log.topic("narrow"), self.packets()
        overrides = {"message.max.bytes": "3000"}
        feed = Feed(log.writer(msgspec.structs.replace(log.settings, publisher_overrides=overrides)))
        assert feed.writer.value_bytes_max() < 3000
        feed.append_logged(record(packets[11:12], Route(topic, 0, b"k")))
        feed.append_logged(record(packets, Route(topic, 0, b"k")))
        assert once_each(plain_values(log.broker, topic)) == packets[:11] + packets[12:]
        assert [refusal.packet for refusal in feed.writer.refusals()] == [0, 11]
        assert feed.writer.statistics()["dead_letter_file"] == 2

    def test_a_topic_that_we_may_not_write(self, log: KafkaUnderTest) -> None:
        topic, other = log.topic("forbidden"), log.topic("allowed")
        log.broker.create_topic(topic, PARTITIONS)
        log.broker.forbid_writing(topic)
        feed = Feed(log.writer(log.secured()))
        others = Feed(feed.writer, OTHER_RING)
        feed.append(record(numbered(0, 40), Route(topic, 0, b"k")))
        others.append_logged(record(numbered(0, 50), Route(other, 0, b"k")))
        drive(lambda: feed.writer.overdue(0.0) == {topic}, feed.writer, what="the forbidden one waits")
        assert plain_values(log.broker, topic) == [] and feed.writer.logged(RING) == 0
        others.append_logged(record(numbered(50, 50), Route(other, 0, b"k")))
        log.broker.allow_writing(topic)
        feed.append_logged(record(numbered(40, 20), Route(topic, 0, b"k")))
        assert plain_values(log.broker, topic) == numbered(0, 60)
        assert once_each(plain_values(log.broker, other)) == numbered(0, 100)
        assert feed.writer.refusals() == []


class TestOutages:
    def test_a_killed_broker_loses_nothing(self, log: KafkaUnderTest) -> None:
        topic, feed, reader = log.topic("killed"), Feed(log.writer()), log.reader()
        reading = collector(reader, topic)
        number = 0

        def write_until(condition: Callable[[], bool], what: str) -> None:
            def step() -> bool:
                nonlocal number
                if number < 40_000 and feed.position - feed.writer.logged(RING) < 64 * 11 * 200:
                    feed.append(record(numbered(number, 10), Route(topic, number // 10 % 2, b"k")))
                    number += 10
                reader.do_work()
                return condition()

            drive(step, feed.writer, what=what)

        write_until(lambda: feed.writer.logged(RING) > 64 * 11 * 50, "the first fifty records logged")
        log.broker.kill()
        try:
            write_until(lambda: not feed.writer.state().available and not reader.state().available, "the log away")
            assert log.settings.broker in feed.writer.state().reason
            drive(lambda: not feed.writer.do_work(), what="the reports from before")
            before = feed.writer.logged(RING)
            for _ in range(5):
                feed.append(record(numbered(number, 10), Route(topic, number // 10 % 2, b"k")))
                number += 10
                feed.writer.do_work()
            assert feed.writer.logged(RING) == before  # handed over is not logged
        finally:
            log.broker.start()
        write_until(lambda: feed.writer.logged(RING) > before, "the log back")
        log_all(feed.writer, RING, feed.position)
        drive(lambda: feed.writer.state().available and reader.state().available, feed.writer, reader, what="back")
        for partition in (0, 1):
            expected = [one for start in range(10 * partition, number, 20) for one in numbered(start, 10)]
            assert once_each(plain_values(log.broker, topic, partition)) == expected
        reading.collect(len(plain_values(log.broker, topic)))
        assert reading.values == plain_values(log.broker, topic)

    def test_a_broker_that_is_away_at_the_start(self, log: KafkaUnderTest) -> None:
        topic = log.topic("late")
        log.broker.stop()
        try:
            feed, reader = Feed(log.writer()), log.reader()
            reading = collector(reader, topic)
            feed.append(record(numbered(0, 50), Route(topic, 0, b"k")))
            answers: list[dict[Partition, Watermarks] | None] = []
            reader.watermarks([reading.cursor.partition], answers.append)
            drive(lambda: bool(answers), feed.writer, reader, what="the question given up")
            assert answers == [None]
            assert feed.writer.logged(RING) == 0
            assert not feed.writer.state().available
            assert not reader.state().available
        finally:
            log.broker.start()
        log_all(feed.writer, RING, feed.position)
        reading.collect(50)
        assert reading.values == numbered(0, 50)
        assert feed.writer.state() == (True, "")
        assert reader.state() == (True, "")


class TestTopics:
    @pytest.mark.fact("K1")
    def test_a_topic_deleted_underneath_is_made_again(self, log: KafkaUnderTest) -> None:
        topic, feed, reader = log.topic("gone"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 100), Route(topic, 1, b"k")))
        reading = collector(reader, topic, partition=1)
        reading.collect(100)
        log.broker.delete_topic(topic)
        feed.append_logged(record(numbered(100, 7), Route(topic, 1, b"k")))
        assert log.broker.topics()[topic] == PARTITIONS
        assert plain_values(log.broker, topic, 1) == numbered(100, 7)

        def step() -> bool:
            reader.do_work()
            while (run := reading.cursor.read(READ_BYTES)) is not None:
                reading.runs.append(run)
            return reading.runs[-1].values == numbered(100, 7)

        drive(step, reader, what="the entries of the new log")
        assert reading.runs[-1].start == 0
        assert reading.runs[-1].identity != reading.runs[0].identity
        assert reader.statistics()["restarts"] == 1

    @pytest.mark.fact("K9")
    @pytest.mark.reference_test("Router: end to end: an existing topic keeps its partitions, missing ones are made")
    def test_new_topics_cost_no_client_and_no_repeat(self, log: KafkaUnderTest) -> None:
        """The broker says that a topic is there before it can be written: only that topic may feel it."""
        feed, other = Feed(log.writer()), log.topic("busy")
        for number in range(30):
            feed.append(record(numbered(20 * number, 20), Route(log.topic(f"new{number}"), 0, b"k")))
            feed.append(record(numbered(20 * number, 20), Route(other, 0, b"k")))
            feed.writer.do_work()
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, other) == numbered(0, 600)
        statistics = feed.writer.statistics()
        assert (statistics["clients"], statistics["repeats"]) == (0, 0)

    def test_a_topic_with_too_few_partitions_grows(self, log: KafkaUnderTest) -> None:
        topic, feed = log.topic("narrow"), Feed(log.writer())
        log.broker.create_topic(topic, 1)
        feed.append_logged(record(numbered(0, 3), Route(topic, 1, b"k")))
        assert plain_values(log.broker, topic, 1) == numbered(0, 3)

    @pytest.mark.fact("K1", "W14")
    def test_a_topic_that_cannot_be_made_holds_up_nobody_else(self, log: KafkaUnderTest) -> None:
        there, missing, late = log.topic("there"), log.topic("missing"), log.topic("late")
        log.broker.create_topic(there, PARTITIONS)
        writer = log.writer(msgspec.structs.replace(log.settings, replication_factor=3))  # there is one broker
        feed, blocked = Feed(writer), Feed(writer, OTHER_RING)
        blocked.append(record(numbered(0, 5), Route(missing, 0, b"k")))
        feed.append_logged(record(numbered(0, 50), Route(there, 0, b"k")))
        assert writer.logged(OTHER_RING) == 0
        log.broker.create_topic(missing, PARTITIONS)  # by an operator
        log_all(writer, OTHER_RING, blocked.position)
        assert plain_values(log.broker, missing) == numbered(0, 5)
        assert late not in log.broker.topics()

    def test_an_essential_packet_waits_for_its_copy(self, log: KafkaUnderTest) -> None:
        topic, essentials = log.topic("data"), log.topic("essentials")
        log.broker.create_topic(topic, PARTITIONS)
        writer = log.writer(msgspec.structs.replace(log.settings, replication_factor=3))
        feed, other = Feed(writer), Feed(writer, OTHER_RING)
        feed.append(record(numbered(0, 5), Route(topic, 0, b"k", essentials)))
        feed.append(record(numbered(5, 5), Route(topic, 0, b"k")))
        for _ in range(3):  # by the third, what may go would have gone
            other.append_logged(record(numbered(0, 5), Route(topic, 1, b"k")))
        assert writer.logged(RING) == 0
        assert plain_values(log.broker, topic) == []
        log.broker.create_topic(essentials, PARTITIONS)
        log_all(writer, RING, feed.position)
        assert plain_values(log.broker, essentials) == numbered(0, 5)
        assert plain_values(log.broker, topic) == numbered(0, 10)


class TestClients:
    def test_every_client_gets_the_security_section(self, log: KafkaUnderTest) -> None:
        """On a listener that asks for it: creating, writing, looking up, catching up, following, listing."""
        topic, feed, reader = log.topic("secured"), Feed(log.writer(log.secured())), log.reader(log.secured())
        feed.append_logged(record(numbered(0, 10), Route(topic, 0, b"k")))
        reading = collector(reader, topic)
        reading.collect(10)
        feed.append_logged(record(numbered(10, 10), Route(topic, 0, b"k")))
        reading.collect(20)
        assert ask_watermarks(reader, Partition(topic, 0))[Partition(topic, 0)].end == 20
        assert see_topic(reader, topic) == PARTITIONS

    @pytest.mark.parametrize("side", ["writer", "reader"])
    def test_refused_credentials_end_the_process(self, log: KafkaUnderTest, side: str) -> None:
        settings = log.secured("wrong")
        agent = log.writer(settings) if side == "writer" else log.reader(settings)
        with pytest.raises(LogConfigurationError, match="refuses the credentials"):
            drive(lambda: False, agent, what="an error")

    def test_overrides_of_the_reference_server(self, log: KafkaUnderTest, capsys: pytest.CaptureFixture[str]) -> None:
        """Its defaults as an operator may have written them down: without idempotence every packet is reported."""
        overrides = {"acks": "1", "enable.idempotence": "false", "compression.type": "zstd", "linger.ms": "20"}
        topic = log.topic("overridden")
        feed = Feed(log.writer(msgspec.structs.replace(log.settings, publisher_overrides=overrides)))
        warnings = capsys.readouterr().err
        assert "promise 2" in warnings
        assert "promise 4" in warnings
        for start in range(0, 500, 50):
            feed.append(record(numbered(start, 50), Route(topic, 0, b"k")))
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, topic) == numbered(0, 500)

    def test_a_client_queue_that_is_too_short(self, log: KafkaUnderTest) -> None:
        overrides = {"queue.buffering.max.messages": "100"}
        topic = log.topic("short")
        feed = Feed(log.writer(msgspec.structs.replace(log.settings, publisher_overrides=overrides)))
        for start in range(0, 1000, 70):
            feed.append(record(numbered(start, 70), Route(topic, 0, b"k")))
        log_all(feed.writer, RING, feed.position)
        assert plain_values(log.broker, topic) == numbered(0, 1050)
        assert feed.writer.statistics()["clients"] == 0


# --- reading ---------------------------------------------------------------------------------------------------------


class TestReading:
    @pytest.mark.fact("K3", "R4")
    def test_what_retention_has_deleted_is_jumped_over(self, log: KafkaUnderTest) -> None:
        topic, feed, reader = log.topic("old"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 30), Route(topic, 0, b"k")))
        log.broker.delete_records(topic, 0, 12)
        assert ask_watermarks(reader, Partition(topic, 0)) == {Partition(topic, 0): (12, 30)}
        for start in (0, 5, 12, 20):
            reading = collector(reader, topic, start)
            reading.collect(30 - max(start, 12))
            assert reading.runs[0].start == start
            assert reading.values == numbered(max(start, 12), 30 - max(start, 12))

    @pytest.mark.fact("R4")
    def test_retention_that_passes_a_waiting_cursor(self, log: KafkaUnderTest) -> None:
        topic, feed, reader = log.topic("passed"), Feed(log.writer()), log.reader()
        reading = collector(reader, topic, bytes_max=1)
        feed.append_logged(record(numbered(0, 10), Route(topic, 0, b"k")))
        reading.collect(10)
        feed.append_logged(record([packet_of_size(100_000, seed) for seed in range(80)], Route(topic, 0, b"k")))
        log.broker.delete_records(topic, 0, 85)  # the cursor holds some of it, not all
        feed.append_logged(record(numbered(90, 3), Route(topic, 0, b"k")))
        drive(lambda: not reading.step() and reading.cursor.next_offset == 93, reader, what="the end")
        assert reading.values[-3:] == numbered(90, 3)
        assert [run.start for run in reading.runs[1:]] == [run.next_offset for run in reading.runs[:-1]]

    @pytest.mark.fact("R9")
    def test_undecodable_and_null_values_are_skipped_and_counted(self, log: KafkaUnderTest) -> None:
        topic, reader = log.topic("strange"), log.reader()
        log.broker.create_topic(topic)
        good = numbered(0, 3)
        plain_write(log.broker, topic, [good[0], None, b"\xff\xff no packet", good[1], b"\x0a\x05abc", good[2], None])
        reading = collector(reader, topic)
        reading.collect(3)
        assert [(entry.offset, entry.value) for entry in reading.entries] == [(0, good[0]), (3, good[1]), (5, good[2])]
        drive(lambda: not reading.step() and reading.cursor.next_offset == 7, reader, what="the end")
        assert reader.statistics()["undecodable"] == 4

    @pytest.mark.fact("R3")
    def test_a_hundred_cursors_cost_as_many_fetches_as_one(self, log: KafkaUnderTest) -> None:
        lonely, crowded = log.topic("lonely"), log.topic("crowded")
        feed, reader = Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 2), Route(lonely, 0, b"k"), Route(crowded, 0, b"k"), indexes=[0, 1]))
        readings = [collector(reader, crowded if number else lonely) for number in range(101)]
        for reading in readings:
            reading.collect(1)
        drive(lambda: reader.live_cursors == 101, reader, what="all cursors live")
        before = dict(reader.fetches())
        for number in range(1, 11):
            routes = Route(lonely, 0, b"k"), Route(crowded, 0, b"k")
            feed.append_logged(record(numbered(2 * number, 2), *routes, indexes=[0, 1]))
            for reading in readings:
                reading.collect(number + 1)
        for topic in (lonely, crowded):
            assert reader.fetches()[Partition(topic, 0)] - before[Partition(topic, 0)] == 10

    def test_a_slow_cursor_catches_up_and_holds_up_nobody(self, log: KafkaUnderTest) -> None:
        topic, feed, reader = log.topic("slow"), Feed(log.writer()), log.reader()
        fast, slow = collector(reader, topic), collector(reader, topic)
        packets = [packet_of_size(50_000, seed) for seed in range(200)]
        for start in range(0, 200, 10):
            feed.append_logged(record(packets[start : start + 10], Route(topic, 0, b"k")))
            fast.collect(start + 10)
        assert slow.cursor.buffered <= 3 << 20
        slow.collect(200)
        assert fast.values == slow.values == packets

    def test_many_cursors_all_over_a_log_that_grows(self, log: KafkaUnderTest) -> None:
        """More cursors than catch-up clients, opened and closed at random while packets are appended."""
        topic, feed, reader = log.topic("busy"), Feed(log.writer()), log.reader()
        feed.append_logged(record(numbered(0, 500), Route(topic, 0, b"k")))
        rng, readings, written = random.Random(11), [], 500
        for _ in range(60):
            feed.append(record(numbered(written, 20), Route(topic, 0, b"k")))
            written += 20
            feed.writer.do_work()
            readings.append(collector(reader, topic, rng.randrange(written), bytes_max=rng.choice((50, 5000, 1 << 20))))
            if len(readings) > 12:
                readings.pop(rng.randrange(len(readings))).cursor.close()
            for reading in rng.sample(readings, min(5, len(readings))):
                reading.step()
        log_all(feed.writer, RING, feed.position)
        for reading in readings:
            start = reading.runs[0].start if reading.runs else reading.cursor.next_offset
            reading.collect(written - start)
            assert reading.values == numbered(start, written - start)
