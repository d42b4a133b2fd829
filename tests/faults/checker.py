"""The checker: a process of its own that writes and reads while things die, and at the end knows what became of it all.

It outlives every process of the server, and the test that kills them does not slow it. :class:`Checker` is how a test
talks to it: lines of JSON in both directions. One checker can watch several servers, one after another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

if __name__ == "__main__":  # run as a program: what pytest puts on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import msgspec
from faults.lanes import LABELS, Lane, lanes, sources
from faults.log_contents import Column, KafkaContents, LocalContents
from faults.questions import Questions
from faults.reading import Reader, ReaderSpec, entries, read_whole
from faults.verdict import Report, corrupted, difference, judge_lane
from faults.writing import Writer

from trackside.data_plane.naming import naming_of
from trackside.data_plane.spec import Settings

__all__ = ["Checker", "Watch"]

STATUS_SECONDS = 0.05
SETTLE_SECONDS = 120.0
"""Bound of each wait after the last fault."""


class Watch(msgspec.Struct, kw_only=True):
    """What to write to and where its log is. ``prefix`` begins the names of the data sources: nobody else's."""

    address: str
    prefix: str
    data_dir: str = ""
    broker: str = ""
    domain: str = ""
    pace: float = 1.0
    settle_seconds: float = SETTLE_SECONDS


class _Run:
    """One watch from its first packet to its report."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._naming = naming_of(Settings(domain=watch.domain, naming="domain" if watch.domain else "legacy"))
        self._log = KafkaContents(watch.broker) if watch.broker else LocalContents(Path(watch.data_dir))
        self._began = time.monotonic()
        self._forgiven: set[tuple[str, str]] = set()
        self._sources = sources(watch.prefix)
        self._questions = [Questions(watch.address, name) for name in self._sources]
        self._writers = [Writer(watch.address, lane) for lane in lanes(self._sources, watch.pace)]
        self._readers = [Reader(watch.address, spec) for name in self._sources for spec in _reader_specs(name)]
        for client in (*self._writers, *self._questions):
            client.start()
        for reader in self._readers:
            reader.opened.wait(watch.settle_seconds)

    def status(self) -> dict[str, Any]:
        return {
            "accepted": [writer.fate.count for writer in self._writers],
            "failures": sum(writer.statuses.total() for writer in self._writers),
            "breaks": sum(reader.breaks.total() for reader in self._readers),
            "readers": len(self._readers),
            "open": sum(reader.opened.is_set() for reader in self._readers),
        }

    def forgive(self, data_source: str, stream: str) -> None:
        self._forgiven.add((data_source, stream))
        for writer in self._writers:
            if (writer.lane.data_source, writer.lane.stream) == (data_source, stream):
                writer.forgive()

    def finish(self) -> Report:
        for client in (*self._writers, *self._questions):
            client.stop()
        report = Report(seconds=time.monotonic() - self._began)
        deadline = time.monotonic() + self._watch.settle_seconds
        for writer in self._writers:
            if not writer.finish(deadline):
                report.broken.append(f"lane {writer.lane.index}: no write is accepted after the last fault")
        columns = self._columns()
        buried = self._log.read([self._naming.dead_letter])[self._naming.dead_letter].entries
        self._judge_log(report, columns, buried)
        self._judge_readers(report, columns, deadline)
        self._judge_questions(report)
        self._sum_up(report)
        for client in (*self._writers, *self._readers, *self._questions):
            client.close()
        return report

    def _columns(self) -> dict[tuple[str, str | None], Column]:
        """All partitions, the essentials' under the label None."""
        topics = {(name, label): self._topic(name, label) for name in self._sources for label in (*LABELS, None)}
        found = self._log.read(list(topics.values()))
        return {place: found[topic] for place, topic in topics.items()}

    def _topic(self, name: str, label: str | None) -> str:
        naming = self._naming
        if label is None:
            return naming.essentials_topic(name)
        return naming.stream_topic(name, label) if label else naming.main_topic(name)

    def _judge_log(self, report: Report, columns: dict[tuple[str, str | None], Column], buried: Iterable[int]) -> None:
        for writer in self._writers:
            lane = writer.lane
            tally = judge_lane(lane, writer.fate, columns[lane.data_source, lane.stream].entries, buried)
            report.dead_letters += tally.dead_letters
            report.accepted += writer.fate.count
            report.lost += tally.lost
            report.lost_logged += tally.lost if lane.acknowledge == "log" else 0
            report.repeated += tally.repeated
            report.reordered += tally.reordered
            report.left_over += tally.left_over
        report.corrupted = corrupted(columns)

    def _judge_readers(self, report: Report, columns: dict[tuple[str, str | None], Column], deadline: float) -> None:
        for reader in self._readers:
            wanted = _wanted_by(reader.spec, columns)
            while not reader.has(wanted) and time.monotonic() < deadline:
                time.sleep(0.02)
            _compare(report, self._unforgiven(reader.spec, wanted), reader.got, f"open reader of {reader.spec}")
        for name in self._sources:
            wanted = _wanted_by(ReaderSpec(name), columns)
            got = read_whole(self._watch.address, name, wanted, self._watch.settle_seconds)
            _compare(report, wanted, got, f"read of {name} from its beginning")

    def _unforgiven(self, spec: ReaderSpec, wanted: dict[str, array[int]]) -> dict[str, array[int]]:
        """Without the streams whose past was deleted: an open read had it, the log has it no more."""
        return {label: column for label, column in wanted.items() if (spec.data_source, label) not in self._forgiven}

    def _judge_questions(self, report: Report) -> None:
        for questions in self._questions:
            questions.check_all()
            report.wrong_answers += questions.wrong
            report.answers += questions.answered

    def _sum_up(self, report: Report) -> None:
        report.breaks = sum(reader.breaks.total() for reader in self._readers)
        report.statuses = dict(sum((writer.statuses for writer in self._writers), Counter()))
        report.question_statuses = dict(sum((questions.statuses for questions in self._questions), Counter()))
        for writer in self._writers:
            report.reasons |= writer.reasons
        report.writer_pause_seconds = max(writer.pause.longest for writer in self._writers)
        report.reader_pause_seconds = max(reader.pause.longest for reader in self._readers)
        report.answer_pause_seconds = max(questions.pause.longest for questions in self._questions)


def _reader_specs(name: str) -> list[ReaderSpec]:
    """Of each data source: everything; one stream; one session's packets in it; that session's essentials."""
    return [
        ReaderSpec(name),
        ReaderSpec(name, ("s",)),
        ReaderSpec(name, ("s",), session_key="blue"),
        ReaderSpec(name, session_key="red", essentials=True),
    ]


def _wanted_by(spec: ReaderSpec, columns: dict[tuple[str, str | None], Column]) -> dict[str, array[int]]:
    if spec.essentials:
        return {"": columns[spec.data_source, None].of_session(spec.session_key)}
    found = {label: columns[spec.data_source, label] for label in spec.streams or LABELS}
    if spec.session_key:
        return {label: column.of_session(spec.session_key) for label, column in found.items()}
    return {label: column.entries for label, column in found.items()}


def _compare(report: Report, wanted: dict[str, array[int]], got: dict[str, array[int]], who: str) -> None:
    """Labels that are not wanted are not looked at."""
    for label in wanted:
        found = difference(wanted.get(label, entries()), got.get(label, entries()), f"{who}, stream {label!r}")
        if found:
            report.misread.append(found)


# -- the process -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Commands on stdin: {"begin": watch}, {"forgive": [data source, stream]}, {"finish": true}; on stdout a status 20 times a second, and reports."""
    run: _Run | None = None
    lock = threading.Lock()

    def say(line: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(line), flush=True)

    def tell() -> None:
        while True:
            time.sleep(STATUS_SECONDS)
            if (now := run) is not None:
                say({"status": now.status()})

    threading.Thread(target=tell, daemon=True).start()
    for line in sys.stdin:
        command = json.loads(line)
        if "begin" in command:
            run = _Run(msgspec.convert(command["begin"], Watch))
            say({"status": run.status(), "begun": True})
        elif run is not None and "forgive" in command:
            run.forgive(*command["forgive"])
        elif run is not None:
            ended, run = run, None
            say({"report": msgspec.to_builtins(ended.finish())})
    return 0


class Checker:
    """The other end: starts the process, and ends it."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {}
        self._report: Report | None = None
        self._begun = False
        self.watch: Watch | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def begin(self, watch: Watch) -> None:
        """Returns when everybody is writing and reading."""
        self._begun, self._report = False, None
        self.watch = watch
        self._say({"begin": msgspec.to_builtins(watch)})
        self._wait(lambda: self._begun, "the checker has begun", SETTLE_SECONDS)

    def finish(self) -> Report:
        """Stop writing; wait for what is under way; compare everything."""
        self._say({"finish": True})
        self._wait(lambda: self._report is not None, "the checker's report", 10 * SETTLE_SECONDS)
        assert self._report is not None
        return self._report

    def forgive(self, data_source: str, stream: str) -> None:
        """The topic was deleted: what was accepted for it up to now need not be there."""
        self._say({"forgive": [data_source, stream]})

    @property
    def status(self) -> dict[str, Any]:
        """Newest counts: accepted (by lane), failures, breaks, readers, open (those of them that are)."""
        return self._status

    def wait_more(
        self, packets: int = 5, seconds: float = 120.0, *, of: Callable[[Lane], bool] = lambda lane: True
    ) -> None:
        """Until every lane (``of`` says which) has so many more accepted: it can be written everywhere."""
        assert self.watch is not None
        wanted = [of(lane) for lane in lanes(sources(self.watch.prefix), self.watch.pace)]
        before = self._status["accepted"]

        def written() -> bool:
            columns = zip(wanted, before, self._status["accepted"], strict=True)
            return all(now >= then + packets for is_wanted, then, now in columns if is_wanted)

        self._wait(written, f"{packets} more packets of {sum(wanted)} lanes than {before}", seconds)

    def _say(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "status" in told:
                self._status = told["status"]
            self._begun = self._begun or "begun" in told
            if "report" in told:
                self._report = msgspec.convert(told["report"], Report)

    def _wait(self, condition: Any, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, f"the checker ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; {self._status}"
            time.sleep(0.01)


if __name__ == "__main__":
    raise SystemExit(main())
