"""A fold kept up to date with its partition, and the two things that callers wait for.

::

    port.follow --> LogFold.take --> fold.apply(entry) --> on_folded(entry, result)
                        |                                    |
                        |                                    +--> whoever expects this entry's identity: its result
                        +-- checkpoint
                        +-- next_offset -----------------------> whoever waits for the fold to have passed an offset

A change is made by appending an entry with a fresh identity and waiting until the fold has passed it: the answer then
stands on what the log says, in the order that every server sees.

With a checkpoint a successor begins where its predecessor was. Until it has reached the end of the log it knows what
was, not what is not: ``ensure_known`` is enough for an answer that something is there, ``ensure_loaded`` is needed for
one that it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from trackside.control_plane.background import Background
from trackside.control_plane.checkpoint import Checkpoint
from trackside.control_plane.log_port import Append, LogAway, LoggedEntry, LoggedRun, LogPort
from trackside.control_plane.shared_calls import SharedCalls
from trackside.data_plane.log import Partition

__all__ = ["Fold", "LogFold", "NotSeen", "new_identity", "require_log"]

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""How long an answer that a checkpoint has waits for a newer one: a log that answers is read on in much less."""

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Fold[Any]")


class Fold(Protocol[R_co]):
    def apply(self, entry: LoggedEntry) -> R_co:
        """Take the next entry in offset order; says what that did."""


class NotSeen(LogAway):
    """The log took the entry, but it was not seen in time: it may still come."""


def new_identity() -> bytes:
    """16 random bytes by which a fold knows an entry of ours, and its repeats."""
    return uuid.uuid4().bytes


def require_log(port: LogPort) -> None:
    """Raise LogAway with the reason when the log is known to be away: then nothing is appended to be found later."""
    state = port.state()
    if not state.available:
        raise LogAway(f"the log is away: {state.reason}")


def _ignore(*_: object) -> None:
    pass


def _always(_: object) -> bool:
    return True


class LogFold(Generic[R, F]):
    """``fold`` after all entries of ``partition`` below ``next_offset``.

    When the log turns out to be another one, a new fold from ``make`` takes the old one's place, ``on_restart`` is
    called before it has taken anything, and the state counts as not loaded until it has been read again. Entries whose
    result does not ``matter`` are not worth a place in the ``checkpoint``.
    """

    def __init__(
        self,
        port: LogPort,
        partition: Partition,
        make: Callable[[], F],
        *,
        background: Background,
        checkpoint: Checkpoint[Any] | None = None,
        matters: Callable[[R], bool] = _always,
        on_folded: Callable[[LoggedEntry, R], None] = _ignore,
        on_restart: Callable[[], None] = _ignore,
    ) -> None:
        self.port = port
        self.partition = partition
        self.fold = make()
        self.next_offset = 0
        self.loaded = False
        self._make = make
        self._matters = matters
        self._on_folded = on_folded
        self._on_restart = on_restart
        self._expected: dict[bytes, asyncio.Future[R]] = {}
        self._passing: set[tuple[int, asyncio.Future[None]]] = set()
        self._load_end: int | None = None
        self._loading: SharedCalls[None, None] = SharedCalls()
        self._background = background
        self._checkpoint = checkpoint
        self._log = b""  # identity of the log that the fold is of
        self._known = False  # by a checkpoint that had come to the end of the log
        self._read = False  # something has come from the log itself
        self._restore()
        self._task = self._follow()

    def _restore(self) -> None:
        restored = None if self._checkpoint is None else self._checkpoint.restore()
        if restored is None:
            return
        self.fold = restored.fold
        for entry in restored.entries:
            self.fold.apply(entry)
        self.next_offset, self._log, self._known = restored.next_offset, restored.log, restored.complete

    def _follow(self) -> asyncio.Task[Any]:
        return self._background.spawn(self._run(), f"fold of {self.partition.topic}")

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for this fold now."""
        return bool(self._expected or self._passing or len(self._loading))

    def close(self) -> None:
        """Follow no more. Whoever still waits runs into the bound."""
        self._task.cancel()

    async def _run(self) -> None:
        """From the last entry that was folded, which says by its log whether it is the same; if not, all anew."""
        while True:
            async with contextlib.aclosing(self.port.follow(self.partition, max(0, self.next_offset - 1))) as runs:
                async for run in runs:
                    if self._log and run.log not in (b"", self._log) and not run.restarted:
                        self._restart()
                        break
                    self.take(run)
                else:
                    raise RuntimeError(f"following {self.partition.topic} ended")

    def take(self, run: LoggedRun) -> None:
        """Fold one run; called with all of them, in order."""
        if run.restarted:
            self._restart()
        self._read = True
        self._log = run.log or self._log
        mattering = [entry for entry in run.entries if entry.offset >= self.next_offset and self._apply(entry)]
        self.next_offset = max(self.next_offset, run.next_offset)
        if mattering:
            self._note(mattering)
        for wanted, future in [waiter for waiter in self._passing if waiter[0] <= self.next_offset]:
            self._passing.discard((wanted, future))
            _resolve(future, None)

    def _apply(self, entry: LoggedEntry) -> bool:
        """Whether it did something. Whoever waits for the result goes on after this run is noted."""
        result = self.fold.apply(entry)
        self._on_folded(entry, result)
        self._answer(entry, result)
        return self._matters(result)

    def _note(self, entries: Sequence[LoggedEntry]) -> None:
        if self._checkpoint is not None:
            complete = self.loaded or self._known
            self._checkpoint.note(self.fold, self._log, self.next_offset, entries, complete)

    def _restart(self) -> None:
        log.warning("%s is another log now, its state is built anew", self.partition.topic)
        self.fold = self._make()
        self.next_offset = 0
        self.loaded = self._known = False
        self._log = b""
        self._load_end = None
        if self._checkpoint is not None:
            self._checkpoint.remove()
        self._on_restart()

    def _answer(self, entry: LoggedEntry, result: R) -> None:
        if (future := self._expected.pop(entry.identity, None)) is not None:
            _resolve(future, result)

    async def change(self, data_source: str, append: Append, timeout: float) -> R:
        """Append one entry and return what folding it did. Raises LogAway after ``timeout`` seconds.

        When that is because the entry was not seen in time, it may still come; :class:`NotSeen` tells this apart.
        """
        require_log(self.port)
        deadline = self._now() + timeout
        future = self._expected[append.identity] = asyncio.get_running_loop().create_future()
        try:
            await self.port.append(data_source, [append], timeout)
            return await asyncio.wait_for(future, max(0.0, deadline - self._now()))
        except TimeoutError:
            raise NotSeen(
                f"{append.partition.topic}: the change was accepted, but the log did not have it after "
                f"{timeout:g} seconds; it may still come"
            ) from None
        finally:
            self._expected.pop(append.identity, None)

    async def wait_passed(self, offset: int, timeout: float) -> bool:
        """Wait until everything below ``offset`` is folded. False when the bound passed first."""
        if self.next_offset >= offset:
            return True
        waiter = (offset, asyncio.get_running_loop().create_future())
        self._passing.add(waiter)
        try:
            await asyncio.wait_for(waiter[1], timeout)
        except TimeoutError:
            return False
        finally:
            self._passing.discard(waiter)
        return True

    async def ensure_known(self, timeout: float) -> None:
        """Wait as :meth:`ensure_loaded` does; with a checkpoint a moment only, for a log that does not answer.

        What is in the fold then was so. Nothing can be said of what is not in it.
        """
        if not self._known:
            await self.ensure_loaded(timeout)
            return
        with contextlib.suppress(TimeoutError, LogAway):
            await asyncio.wait_for(self.ensure_loaded(timeout), min(timeout, PATIENCE_SECONDS))

    async def ensure_loaded(self, timeout: float) -> None:
        """Wait until the fold has all that was in the partition when the first such call asked the log.

        Any number of callers share one loading. Raises LogAway after ``timeout`` seconds; a later call goes on from
        what is folded by then.
        """
        if not self.loaded:
            await self._loading.call(None, lambda: self._load(timeout))

    async def _load(self, timeout: float) -> None:
        require_log(self.port)
        deadline = self._now() + timeout
        if self._load_end is None:
            marks = (await self.port.watermarks([self.partition], timeout))[self.partition]
            if marks.end < self.next_offset and not self._read:
                self._follow_another()
            self._load_end = marks.end if marks.earliest < marks.end else 0  # all expired: there is nothing to read
        end = self._load_end
        if not await self.wait_passed(end, max(0.0, deadline - self._now())):
            raise LogAway(f"{self.partition.topic} is still being read: {self.next_offset} of {end} entries")
        if self._load_end is None:
            raise LogAway(f"{self.partition.topic} is another log now")
        self.loaded = True
        if self.next_offset and not self._known:
            self._note([])

    def _follow_another(self) -> None:
        """The log is shorter than what was folded of it: a checkpoint of one that is no more."""
        self._task.cancel()
        self._restart()
        self._task = self._follow()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _resolve(future: asyncio.Future[R], result: R) -> None:
    if not future.done():  # its waiter may have been cancelled at this moment
        future.set_result(result)
