"""What needs no broker: addresses, overrides, the order of one partition, the dead-letter file."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from log_contract import numbered, record

from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.kafka_config import (
    admin_config,
    catch_up_config,
    check_address,
    live_config,
    made,
    publisher_config,
)
from trackside.data_plane.kafka_cursor import KafkaCursor
from trackside.data_plane.kafka_fetch import Block
from trackside.data_plane.kafka_queue import PartitionQueue, RecordProgress, RingAccount, cut
from trackside.data_plane.log import END, LogConfigurationError, Partition
from trackside.data_plane.record import Route
from trackside.data_plane.spec import Settings

SETTINGS = Settings(broker="127.0.0.1:9092")


def with_overrides(**overrides: str) -> Settings:
    return msgspec.structs.replace(SETTINGS, publisher_overrides={k.replace("_", "."): v for k, v in overrides.items()})


class TestConfiguration:
    @pytest.mark.parametrize(
        "good", ["kafka", "kafka:9092", "10.0.0.1:1", "a:1, b:2", "[::1]:9092", "SSL://k.example.:9"]
    )
    def test_good_addresses(self, good: str) -> None:
        check_address(good)

    @pytest.mark.parametrize(
        "bad", ["", "kafka:", ":9092", "kafka:0", "kafka:65536", "kafka:port", "a:1,,b:2", "a b:1"]
    )
    def test_malformed_addresses_are_named(self, bad: str) -> None:
        with pytest.raises(LogConfigurationError, match="broker = "):
            check_address(bad)

    @pytest.mark.fact("W15")
    def test_nothing_is_given_up_and_nothing_passes_by_default(self) -> None:
        config = publisher_config(SETTINGS)
        assert config.gapless
        assert config.bulk["acks"] == "all"
        assert config.bulk["enable.idempotence"] is True
        assert config.bulk["message.timeout.ms"] == 0
        assert config.bulk["max.in.flight.requests.per.connection"] == 1  # see docs/decisions/0010
        assert config.single["enable.gapless.guarantee"] is False

    @pytest.mark.parametrize(
        ("overrides", "promise"),
        [
            ({"acks": "1"}, "promise 2"),
            ({"enable_idempotence": "false"}, "promise 4"),
            ({"max_in_flight": "1000000"}, "promises 2 and 3"),
            ({"enable_gapless_guarantee": "false"}, "promise 3"),
            ({"message_timeout_ms": "600000"}, "promise 4"),
        ],
    )
    def test_an_override_that_breaks_a_promise_is_taken_with_a_warning(
        self, overrides: dict[str, str], promise: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = publisher_config(with_overrides(**overrides))
        assert promise in capsys.readouterr().err
        made(Producer, config.bulk)  # librdkafka takes what comes out
        assert config.gapless == (set(overrides) == {"message_timeout_ms"})

    def test_keys_that_the_server_needs_are_never_taken(self, capsys: pytest.CaptureFixture[str]) -> None:
        stolen = {"bootstrap.servers": "elsewhere:1", "allow.auto.create.topics": "true"}
        read = stolen | {"group.id": "theirs", "auto.offset.reset": "latest", "enable.partition.eof": "false"}
        settings = msgspec.structs.replace(SETTINGS, publisher_overrides=stolen, consumer_overrides=read)
        configs = [publisher_config(settings).bulk, live_config(settings), catch_up_config(settings)]
        for config in [*configs, admin_config(settings)]:
            assert config["bootstrap.servers"] == SETTINGS.broker
            assert config["allow.auto.create.topics"] is False
        for config in configs[1:]:
            assert config["group.id"] != "theirs"
            assert config["auto.offset.reset"] == "error"
            assert config["enable.partition.eof"] is True
        assert capsys.readouterr().err.count("override ignored") == 2 + 5 + 5

    def test_every_client_gets_security_and_the_way_to_the_brokers(self) -> None:
        settings = msgspec.structs.replace(
            SETTINGS,
            security={"sasl.username": "me", "security.protocol": "SASL_SSL"},
            publisher_overrides={"broker.address.family": "v4"},
            consumer_overrides={"socket.timeout.ms": "7000"},
        )
        publisher = publisher_config(settings)
        for config in (publisher.bulk, publisher.single, live_config(settings), catch_up_config(settings)):
            assert config["sasl.username"] == "me"
        admin = admin_config(settings)
        assert (admin["sasl.username"], admin["broker.address.family"], admin["socket.timeout.ms"]) == (
            "me",
            "v4",
            "7000",
        )

    @pytest.mark.parametrize("overrides", [{"no_such_thing": "1"}, {"client_rack_": "x"}, {"batch_size": "large"}])
    def test_what_librdkafka_does_not_take_is_named(self, overrides: dict[str, str]) -> None:
        with pytest.raises(LogConfigurationError, match=next(iter(overrides)).replace("_", ".")):
            made(Producer, publisher_config(with_overrides(**overrides)).bulk)


class Queues:
    """Cuts records into queues, as the writer does."""

    def __init__(self) -> None:
        self.account = RingAccount()
        self.queues: dict[Partition, PartitionQueue] = {}
        self.end = 0

    def queue(self, topic: str, number: int = 0) -> PartitionQueue:
        return self.queues.setdefault(Partition(topic, number), PartitionQueue(Partition(topic, number)))

    def append(self, packets: list[bytes], *routes: Route, indexes: list[int] | None = None) -> None:
        self.end += 1
        progress = RecordProgress("ring", self.account, self.end)
        self.account.add(progress)
        cut(record(packets, *routes, indexes=indexes), progress, lambda partition: self.queue(*partition))


def values(queue: PartitionQueue) -> list[bytes]:
    return [value for chunk in queue.waiting for value in chunk.values]


class TestPartitionQueue:
    def test_partitions_get_their_packets_in_order(self) -> None:
        queues = Queues()
        routes = [Route("a", 0, b"x"), Route("b", 0, b"y"), Route("a", 0, b"z", "", b"me")]
        queues.append(numbered(0, 6), *routes, indexes=[0, 1, 2, 1, 0, 2])
        packets = numbered(0, 6)
        assert values(queues.queue("a")) == [packets[index] for index in (0, 2, 4, 5)]
        assert values(queues.queue("b")) == [packets[1], packets[3]]
        (chunk,) = queues.queue("a").waiting
        assert chunk.keys == [b"x", b"z", b"x", b"z"]
        assert [bool(headers) for headers in chunk.headers or ()] == [False, True, False, True]
        assert list(chunk.indexes) == [0, 2, 4, 5]

    def test_a_record_is_logged_when_all_its_chunks_are(self) -> None:
        queues = Queues()
        queues.append(numbered(0, 2), Route("a", 0, b""), Route("b", 0, b""), indexes=[0, 1])
        queues.append(numbered(2, 1), Route("a", 0, b""))
        first, second = queues.queue("a").waiting
        second.logged()
        first.logged()
        assert queues.account.logged == 0
        queues.queue("b").waiting[0].logged()
        assert queues.account.logged == 2
        assert queues.account.empty

    def test_pieces_of_a_chunk_count_together(self) -> None:
        queues = Queues()
        queues.append(numbered(0, 10), Route("a", 0, b"key"))
        chunk = queues.queue("a").waiting[0]
        rest = chunk.cut_to(chunk.size // 3)
        assert rest is not None
        assert [*chunk.values, *rest.values] == numbered(0, 10)
        assert [*chunk.indexes, *rest.indexes] == list(range(10))
        assert len(chunk.values) == 3
        rest.logged()
        assert queues.account.logged == 0
        chunk.logged()
        assert queues.account.logged == 1

    def test_an_essential_packet_waits_for_every_piece_of_its_copy(self) -> None:
        queues = Queues()
        queues.append(numbered(0, 4), Route("a", 0, b"", "a_essential"))
        copy, data = queues.queue("a_essential").waiting[0], queues.queue("a").waiting[0]
        assert data.after is not None
        data.after.waiting.add(queues.queue("a"))
        rest = copy.cut_off(1)
        assert list(copy.logged()) == []
        assert data.after.left == 1
        assert list(rest.logged()) == [queues.queue("a")]
        assert data.after.left == 0
        assert queues.account.logged == 0
        data.logged()
        assert queues.account.logged == 1

    def test_what_was_in_flight_waits_again_in_its_order(self) -> None:
        queues = Queues()
        for start in range(0, 30, 10):
            queues.append(numbered(start, 10), Route("a", 0, b""))
        queue = queues.queue("a")
        for _ in range(2):
            queue.put_in_flight(queue.waiting.popleft())
        assert queue.bytes_in_flight == sum(chunk.size for chunk in queue.in_flight)
        assert queue.restore(suspect=True) == 20
        assert values(queue) == numbered(0, 30)
        assert (queue.suspects, queue.bytes_in_flight) == (2, 0)

    def test_suspects_go_one_at_a_time_until_all_are_through(self) -> None:
        queues = Queues()
        for start in (0, 2):
            queues.append(numbered(start, 2), Route("a", 0, b""))
        queue = queues.queue("a")
        queue.suspects = 1
        seen = []
        for refused in (False, True, False, False):
            seen.append(queue.careful)
            queue.pass_one(refused=refused)
        assert seen == [True, True, True, True]  # a refusal keeps it careful until a packet was taken
        assert queue.idle


def block(start: int, *offsets: int, next_offset: int | None = None) -> Block:
    end = offsets[-1] + 1 if offsets else start
    packets = [b"%d" % offset for offset in offsets]
    return Block(
        Partition("t", 0),
        1,
        start,
        end if next_offset is None else next_offset,
        False,
        list(offsets),
        [1] * len(offsets),
        [0] * len(offsets),
        [(b"", b"")],
        packets,
        sum(map(len, packets)),
        0,
    )


class ReaderStub:
    def on_read(self, cursor: KafkaCursor) -> None: ...
    def on_close(self, cursor: KafkaCursor) -> None: ...


def cursor_at(offset: int, earliest: int = 0, end: int = 100) -> KafkaCursor:
    cursor = KafkaCursor(ReaderStub(), Partition("t", 0), offset)  # type: ignore[arg-type]
    cursor.start_at(b"log", end if offset == END else earliest, end)
    return cursor


def read_all(cursor: KafkaCursor, bytes_max: int = 1000) -> tuple[list[int], deque[tuple[int, int]]]:
    """Offsets of entries, and the ranges that runs covered."""
    offsets: list[int] = []
    ranges: deque[tuple[int, int]] = deque()
    while (run := cursor.read(bytes_max)) is not None:
        assert run.values == [b"%d" % offset for offset in run.offsets]
        offsets += run.offsets
        ranges.append((run.start, run.next_offset))
    return offsets, ranges


class TestCursor:
    """Two feeds at once, live and catch-up: each entry once, in order, whatever comes first."""

    def test_overlapping_blocks_are_taken_once(self) -> None:
        cursor = cursor_at(3)
        for one in (block(0, 0, 1, 2, 3, 4), block(2, 2, 3, 4, 5, 6), block(5, 5, 6), block(7, 7)):
            cursor.offer(one)
        assert read_all(cursor) == ([3, 4, 5, 6, 7], deque([(3, 5), (5, 7), (7, 8)]))

    def test_blocks_beyond_a_gap_wait_for_it(self) -> None:
        cursor = cursor_at(0)
        cursor.offer(block(4, 4, 5))
        cursor.offer(block(6, 6, 9))
        assert not cursor.readable
        cursor.offer(block(0, 0, 1, 2))
        cursor.offer(block(3, 3, 4))
        offsets, ranges = read_all(cursor)
        assert offsets == [0, 1, 2, 3, 4, 5, 6, 9]
        assert [start for start, _ in ranges] == [0, 3, 5, 6]

    def test_what_retention_took_is_an_empty_range(self) -> None:
        cursor = cursor_at(3, earliest=10)
        cursor.offer(block(10, 10, 12))
        assert read_all(cursor) == ([10, 12], deque([(3, 10), (10, 13)]))

    def test_a_block_is_divided_between_entries(self) -> None:
        cursor = cursor_at(0)
        cursor.offer(block(0, 0, 3, 4, 9, next_offset=12))
        assert read_all(cursor, bytes_max=2) == ([0, 3, 4, 9], deque([(0, 4), (4, 12)]))

    def test_another_log_starts_anew(self) -> None:
        cursor = cursor_at(5)
        cursor.offer(block(5, 5, 6))
        cursor.offer(block(9, 9))
        cursor.start_at(b"another", 0, 2)
        cursor.offer(block(0, 0, 1))
        runs = [cursor.read(1000), cursor.read(1000)]
        assert [(run.identity, run.offsets) for run in runs if run] == [(b"log", [5, 6]), (b"another", [0, 1])]
        assert cursor.next_offset == 2
        assert cursor.at_end

    def test_the_end_of_a_partition_that_appears_later_is_its_beginning(self) -> None:
        cursor = KafkaCursor(ReaderStub(), Partition("t", 0), END)  # type: ignore[arg-type]
        assert not cursor.at_end
        cursor.wait_for_partition()
        assert cursor.at_end
        cursor.start_at(b"log", 0, 3)
        cursor.offer(block(0, 0, 1, 2))
        assert read_all(cursor)[0] == [0, 1, 2]

    def test_a_dropped_buffer_is_fetched_again(self) -> None:
        cursor = cursor_at(0)
        cursor.offer(block(0, 0, 1, 2, 3))
        assert cursor.read(2) is not None
        cursor.drop_buffer()
        assert (cursor.fed, cursor.next_offset, cursor.buffered) == (2, 2, 0)


class TestDeadLetterFile:
    LETTER = DeadLetter(time="now", topic="t", partition=1, reason="why", key=b"\xff", value=b"\x00" * 5, packet=3)

    def test_letters_come_back(self, tmp_path: Path) -> None:
        file = DeadLetterFile(tmp_path / "dead-letters")
        for _ in range(3):
            file.append([self.LETTER])
        lines = file.path.read_bytes().splitlines()
        assert [msgspec.json.decode(line, type=DeadLetter) for line in lines] == [self.LETTER] * 3

    def test_a_line_that_a_crash_cut_short_spoils_only_itself(self, tmp_path: Path) -> None:
        file = DeadLetterFile(tmp_path)
        file.append([self.LETTER])
        with file.path.open("r+b") as handle:
            handle.truncate(file.path.stat().st_size - 10)
        file.append([self.LETTER])
        assert msgspec.json.decode(file.path.read_bytes().splitlines()[-1], type=DeadLetter) == self.LETTER
