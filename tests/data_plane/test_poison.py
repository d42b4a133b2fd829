"""One record at a time: only the record that was on trial when a process ended by itself is quarantined."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from agent_bench import Bench, logged, packet, record
from worker_kit import move

from trackside.control_plane.poison_watch import PoisonWatch, is_own_end
from trackside.data_plane import poison
from trackside.data_plane.dead_letters import DeadLetter, DeadLetterFile
from trackside.data_plane.link import PACKETS
from trackside.data_plane.poison import Suspect, Trial, trial_of
from trackside.data_plane.producer import Producer
from trackside.data_plane.record import Record, Route, encode_record

GARBAGE = b"\xc1 no record"


class PoisonBench(Bench):
    """Its producer is careful from the second on."""

    def start_careful(self) -> None:
        worker = self.kit.worker("producer-0")
        worker.liveness.write_last_words("Traceback\nValueError: no")
        worker.spec = msgspec.structs.replace(worker.spec, careful=True)
        self.writer.__init__(self.log)  # type: ignore[misc]
        self.producer = Producer(worker, self.writer)

    @property
    def down(self):  # type: ignore[no-untyped-def]
        return self.peer.producers[0].down

    def put(self, body: bytes) -> int:
        position = self.down.try_publish([(PACKETS, 1, body)])
        assert position is not None
        return int(position)

    @property
    def trial(self) -> Trial:
        return trial_of(self.kit.instance, "producer-0")

    def letters(self) -> list[DeadLetter]:
        folder = Path(self.kit.settings.data_dir) / "dead-letters"
        return [found.letter for found in DeadLetterFile(folder).letters()]

    @property
    def is_committed(self) -> bool:
        return bool(self.down.commit_position == self.down.publish_position)


@pytest.fixture
def bench(tmp_path: Path) -> PoisonBench:
    return PoisonBench(tmp_path)


def test_records_go_one_at_a_time_until_all_that_lay_there_is_logged(bench: PoisonBench) -> None:
    for number in range(5):
        bench.append(packet(number))
    bench.start_careful()
    taken = []
    for _ in range(5):
        before = bench.writer.statistics()["appended"]
        bench.producer.do_work()
        taken.append(bench.writer.statistics()["appended"] - before)
    assert taken == [1] * 5
    assert bench.trial.read() is not None
    bench.settle()
    assert bench.trial.read() is None
    for number in range(5, 8):
        bench.append(packet(number))
    bench.producer.do_work()
    assert logged(bench.log) == list(range(8)), "at once again"


def test_the_record_on_trial_is_quarantined_and_no_other(bench: PoisonBench) -> None:
    bench.append(packet(1))
    bench.append(packet(2), packet(3))
    end = bench.down.publish_position
    bench.append(packet(4))
    bench.trial.write(Suspect(bench.down.ring_id, end))
    bench.start_careful()
    bench.settle()
    assert logged(bench.log) == [1, 4] and bench.is_committed
    letters = bench.letters()
    assert [letter.value for letter in letters] == [packet(2), packet(3)]
    assert {(letter.topic, letter.partition, letter.key, letter.quarantined) for letter in letters} == {
        ("Car", 0, b"key", True)
    }
    assert letters[0].reason == "its record ended producer-0: ValueError: no"
    move(bench.peer)
    assert [(refused.end, refused.packet) for refused in bench.peer.producers[0].refusals] == [(end, 0), (end, 1)]
    assert bench.producer.drained()


def test_without_a_note_nobody_is_to_blame(bench: PoisonBench) -> None:
    """Whoever was killed from outside: the supervisor has taken the note away."""
    for number in range(3):
        bench.append(packet(number))
    bench.start_careful()
    bench.settle()
    assert logged(bench.log) == [0, 1, 2] and bench.letters() == []


@pytest.mark.parametrize("garbage", [GARBAGE, encode_record(record(packet(1))).replace(b"Car", b"C\xffr")])
def test_a_record_that_nobody_can_take_apart_is_kept_as_it_is(bench: PoisonBench, garbage: bytes) -> None:
    end = bench.put(garbage)
    bench.append(packet(1))
    with pytest.raises(ValueError, match="no record at position 0"):
        bench.producer.do_work()
    bench.start_careful()
    with pytest.raises(ValueError, match="no record at position 0"):
        bench.producer.do_work()
    assert bench.trial.read() == Suspect(bench.down.ring_id, end)
    bench.start_careful()
    bench.settle()
    assert logged(bench.log) == [1] and bench.is_committed
    assert [(letter.topic, letter.value) for letter in bench.letters()] == [("", garbage)]


def test_a_record_that_ends_even_who_takes_it_apart_is_kept_as_it_is(
    bench: PoisonBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.append(packet(1))
    body = encode_record(record(packet(1)))
    bench.trial.write(Suspect(bench.down.ring_id, bench.down.publish_position))

    class Killed(BaseException):
        pass

    def killed(_: bytes) -> Record:
        raise Killed

    monkeypatch.setattr(poison, "decode_record", killed)
    bench.start_careful()
    with pytest.raises(Killed):
        bench.producer.do_work()
    bench.start_careful()
    bench.settle()
    (letter,) = bench.letters()
    assert (letter.topic, msgspec.msgpack.decode(letter.value)[2]) == ("", msgspec.msgpack.decode(body)[2])
    assert bench.is_committed


def test_copies_of_essentials_are_named(bench: PoisonBench) -> None:
    bad = Record([Route("Car", 0, b"k", "Car_essential", b"me")], [0], [packet(1)])
    end = bench.put(encode_record(bad))
    bench.trial.write(Suspect(bench.down.ring_id, end))
    bench.start_careful()
    bench.settle()
    (letter,) = bench.letters()
    assert (letter.identity, letter.other, letter.essentials) == (b"me", "Car_essential:0", "Car_essential")


def test_a_log_that_is_away_makes_nobody_guilty_and_is_not_waited_for(
    bench: PoisonBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poison, "TRIAL_SECONDS", 0.0)
    for number in range(3):
        bench.append(packet(number))
    bench.log.available = False
    bench.start_careful()
    bench.settle()
    assert bench.trial.read() is None and not bench.is_committed
    bench.log.available = True
    bench.settle()
    assert logged(bench.log) == [0, 1, 2] and bench.letters() == []


def test_a_file_that_cannot_be_written_is_tried_again(bench: PoisonBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "RETRY_SECONDS", 0.0)
    bench.append(packet(1))
    bench.trial.write(Suspect(bench.down.ring_id, bench.down.publish_position))
    bench.append(packet(2))
    data_dir = Path(bench.kit.settings.data_dir)
    data_dir.mkdir(exist_ok=True)
    (data_dir / "dead-letters").write_text("in the way")
    bench.start_careful()
    bench.producer.do_work()
    assert logged(bench.log) == []
    (data_dir / "dead-letters").unlink()
    bench.settle()
    assert logged(bench.log) == [2] and len(bench.letters()) == 1


# --- the supervisor's half -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "hung", "own"),
    [
        *((70, False, True), (-11, False, True), (-6, False, True), (1, False, True), (-9, True, True)),
        *((-9, False, False), (-15, False, False), (78, False, False), (0, False, False)),
    ],
)
def test_what_a_record_can_do_to_a_process(code: int, hung: bool, own: bool) -> None:
    assert is_own_end(code, hung) is own


def test_deaths_are_counted_while_nothing_is_committed(tmp_path: Path) -> None:
    commits = {"ring": 0}
    trial = Trial(tmp_path / "producer-0.trial")
    watch = PoisonWatch(trial, lambda: dict(commits))
    seen = []
    for _ in range(3):
        watch.on_death(own_end=True)
        seen.append((watch.careful, watch.moved))
    assert seen == [(False, True), (True, False), (True, False)]
    commits["ring"] = 64
    watch.on_death(own_end=True)
    assert (watch.careful, watch.moved) == (False, True)
    watch.on_death(own_end=True)
    trial.write(Suspect("ring", 128))
    commits["ring"] = 128
    watch.on_death(own_end=True)
    assert watch.careful, "the next one was on trial already"
    watch.on_death(own_end=False)
    assert trial.read() is None
