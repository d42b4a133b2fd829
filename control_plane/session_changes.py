"""Changing sessions: append what should be, wait until the fold has passed it, answer what the fold says.

::

    create:  watermarks of the data source ---> NewSession ----> fold
    change:  record in the fold --(changes)---> SessionInfo ---> fold --> did another server's change stand between?
    end:     wait_logged_so_far, watermarks --> EndOfSession --> fold

A SessionInfo packet is a whole snapshot, for servers that know no better. If the fold finds that another server's
change stood between the record that the snapshot was made from and the snapshot, that change was taken back by it; it
is then put on top and appended again. Changes of one session through this server go one after another; those that
come while one is under way go together into the next snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.background import Background
from trackside.control_plane.checkpoint import Checkpoints
from trackside.control_plane.clock import Clock
from trackside.control_plane.keys import Keys
from trackside.control_plane.log_fold import LogFold, NotSeen, new_identity, require_log
from trackside.control_plane.log_port import Append, LogAway, LoggedEntry, LogPort
from trackside.control_plane.session_fold import (
    EventKind,
    Folded,
    Instant,
    SessionEvent,
    SessionFold,
    SessionRecord,
    instant_of_ns,
)
from trackside.control_plane.shared_calls import SharedCalls
from trackside.control_plane.statuses import BadRequest, NotReady, TooMuch
from trackside.control_plane.stream_packets import StreamPackets
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings
from trackside.data_plane.worker import log_line

__all__ = ["CHANGE_SECONDS", "Change", "SessionChanges", "rebased"]

log = logging.getLogger(__name__)

CHANGE_SECONDS = 5.0
"""How long a call waits for the log: for an answer, and for the fold to pass its own entry."""

ATTEMPTS_MAX = 5
"""How often a snapshot is appended again because other servers' changes came between."""

GIVEN_UP_MAX = 10_000
"""CreateSessions that were given up and may still appear. Beyond it the oldest are forgotten, and a successor of this
process knows none of them: their sessions stay live until somebody ends them."""

RETRY_SECONDS = 1.0

Change = Callable[[SessionRecord], SessionRecord]
"""What a session should become; given another record again if the first was not the last. Changes nothing else."""


class _Pending(NamedTuple):
    field: str
    change: Change
    done: asyncio.Future[None]


class SessionChanges:
    """The sessions of all data sources: what is so (``fold``), and how to change it. Raises LogAway where it waits.

    ``on_event`` is told each start and stop once, in the order of the log, when the fold already shows it;
    ``on_restart`` that the log is another one and all are gone.
    """

    def __init__(
        self,
        port: LogPort,
        routing: Routing,
        settings: Settings,
        clock: Clock,
        keys: Keys,
        background: Background,
        *,
        on_event: Callable[[SessionEvent], None],
        on_restart: Callable[[], None],
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._port = port
        self._routing = routing
        self._settings = settings
        self._clock = clock
        self._keys = keys
        self._background = background
        self._on_event = on_event
        self._stream_packets = StreamPackets(port, routing) if settings.stream_start_stop_packets else None
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._pending: dict[str, list[_Pending]] = {}
        self._ending: SharedCalls[str, SessionRecord] = SharedCalls()
        self._log: LogFold[Folded, SessionFold] = LogFold(
            port,
            routing.session_info,
            SessionFold,
            background=background,
            checkpoint=None
            if checkpoints is None
            else checkpoints.of("sessions", routing.session_info, SessionFold.load),
            on_folded=self._on_folded,
            on_restart=on_restart,
        )

    # -- what is so -------------------------------------------------------------------------------------------------

    @property
    def fold(self) -> SessionFold:
        return self._log.fold

    @property
    def loaded(self) -> bool:
        return self._log.loaded

    @property
    def next_offset(self) -> int:
        """Offset of the session-info log up to which the fold has come."""
        return self._log.next_offset

    def events_from(self, offset: int) -> list[SessionEvent]:
        return self.fold.events_from(offset)

    def statistics(self) -> dict[str, int]:
        """The fold's, and how many changes wait for their turn, and created sessions that may still appear."""
        pending = sum(map(len, self._pending.values()))
        return {**self.fold.statistics(), "changes_pending": pending, "given_up": len(self._given_up)}

    async def ensure_known(self, timeout: float = CHANGE_SECONDS) -> None:
        """Enough to say of a session what it is; that there is none, only a loaded fold says."""
        await self._log.ensure_known(timeout)

    async def ensure_loaded(self, timeout: float = CHANGE_SECONDS) -> None:
        await self._log.ensure_loaded(timeout)

    def _on_folded(self, entry: LoggedEntry, folded: Folded) -> None:
        for event in folded.events:
            self._on_event(event)
            if event.kind is EventKind.STARTED and event.session_key in self._given_up:
                self._end_given_up(event.session_key)

    # -- create -----------------------------------------------------------------------------------------------------

    async def create(self, new: data.NewSessionPacket) -> SessionRecord:
        """Start a session with a fresh key. ``new`` is complete but for its offsets, which are taken now and set."""
        require_log(self._port)
        key = await self._keys.text()
        offsets = await self._offsets_now(new.data_source)
        new.topic_partition_offsets.update(self._routing.log_offsets(offsets))
        append = self._append("NewSession", key, new)
        try:
            folded = await self._log.change("", append, CHANGE_SECONDS)
            if folded.before is not None:
                raise NotReady(f"session {key} is there already: its key was given twice; ask again")
            if self._stream_packets is not None:
                await self._stream_packets.started(self._folded_record(key))
        except (NotSeen, asyncio.CancelledError):
            self._give_up(key)
            raise
        return self._folded_record(key)

    def _folded_record(self, key: str) -> SessionRecord:
        if (record := self.fold.get(key)) is None:
            raise NotReady(f"session {key}: the log became another one just now")
        return record

    def _give_up(self, key: str) -> None:
        """Nobody was told of this session: it ends as soon as it appears."""
        if self.fold.get(key) is not None:
            self._end_given_up(key)
            return
        self._given_up[key] = None
        if len(self._given_up) > GIVEN_UP_MAX:
            self._given_up.popitem(last=False)

    def _end_given_up(self, key: str) -> None:
        self._given_up.pop(key, None)
        log.warning("session %s appeared after its CreateSession was given up: ending it", key)
        self._background.spawn(self._end_in_the_end(key), f"end of {key}")

    async def _end_in_the_end(self, key: str) -> None:
        while (record := self.fold.get(key)) is not None and not record.is_complete:
            try:
                await self.end(key, None)
            except (LogAway, NotReady, TooMuch) as problem:
                log.warning("session %s is not ended yet: %s", key, problem)
                await asyncio.sleep(RETRY_SECONDS)

    # -- end --------------------------------------------------------------------------------------------------------

    async def end(self, key: str, termination_time: Instant | None) -> SessionRecord:
        """End a session that is in the fold; one that has ended stays as it is. None: now."""
        if (record := self.fold.get(key)) is not None and record.is_complete:
            return record
        time = termination_time or instant_of_ns(self._clock.utc_ns())
        return await self._ending.call(key, lambda: self._end(key, time))

    async def _end(self, key: str, time: Instant) -> SessionRecord:
        """The first EndOfSession in the log counts, whoever wrote it: the answer is what the fold made of it."""
        require_log(self._port)
        record = self._folded_record(key)
        offsets = await self._end_offsets(record)
        if self._stream_packets is not None and await self._stream_packets.stopped(record, offsets, time):
            offsets = await self._end_offsets(record)
        packet = data.EndOfSessionPacket(
            data_source=record.data_source,
            topic_partition_offsets=self._routing.log_offsets(offsets),
            termination_time=Timestamp(seconds=time.seconds, nanos=time.nanos),
        )
        await self._log.change("", self._append("EndOfSession", key, packet), CHANGE_SECONDS)
        return self._folded_record(key)

    async def _end_offsets(self, record: SessionRecord) -> dict[Partition, int]:
        """Offsets behind everything that was accepted for the data source when this was called, as far as the log takes it
        within the bound."""

        def own_topics(topics: list[str]) -> list[str]:
            own = {partition.topic for partition in self._partitions_of(record.data_source, topics)}
            return sorted(own.intersection(topics))

        missing = await self._port.wait_logged_so_far(record.data_source, own_topics, CHANGE_SECONDS)
        if missing:
            log_line(
                "warn",
                "control-plane",
                "the end offsets of a session do not cover all that was accepted",
                session=record.key,
                data_source=record.data_source,
                waited_seconds=CHANGE_SECONDS,
                missing=", ".join(missing),
            )
        return await self._offsets_now(record.data_source)

    # -- change -----------------------------------------------------------------------------------------------------

    async def change(self, key: str, field: str, change: Change) -> None:
        """Change a session that is in the fold, after all changes asked for before.

        Raises BadRequest that names ``field`` when it makes the session too large.
        """
        one = _Pending(field, change, asyncio.get_running_loop().create_future())
        if (pending := self._pending.get(key)) is not None:
            pending.append(one)
        else:
            self._pending[key] = [one]
            self._background.spawn(self._change_all(key), f"changes of {key}")
        try:
            await asyncio.wait_for(one.done, CHANGE_SECONDS)
        except TimeoutError:
            raise NotSeen(f"session {key}: not changed within {CHANGE_SECONDS:g} seconds; it may still be") from None

    async def _change_all(self, key: str) -> None:
        """Until nothing is pending: take what is, append one snapshot for all of it."""
        while batch := [one for one in self._pending[key] if not one.done.done()]:
            self._pending[key] = []
            failure: Exception | None = None
            try:
                await self._change_together(key, batch)
            except Exception as error:  # noqa: BLE001 - the callers who wait for it get it
                failure = error
            for one in batch:
                _finish(one.done, failure)
        del self._pending[key]

    async def _change_together(self, key: str, batch: list[_Pending]) -> None:
        base = wanted = self._folded_record(key)
        for one in batch:
            try:
                wanted = self._changed(wanted, one)
            except BadRequest as too_large:
                _finish(one.done, too_large)
        if wanted != base:
            await self._replace(base, wanted)

    def _changed(self, record: SessionRecord, one: _Pending) -> SessionRecord:
        changed = one.change(record)
        limit = self._settings.max_packet_bytes // 2  # the rest of GetSessionInfo's reply is for offsets and streams
        if changed is not record and (size := snapshot_of(changed).ByteSize()) > limit:
            raise BadRequest(one.field, f"{size} bytes with all else of the session", f"at most {limit} bytes together")
        return changed

    async def _replace(self, base: SessionRecord, wanted: SessionRecord) -> None:
        """Append ``wanted``, which was made from ``base``, until no other server's change is lost by it."""
        for _ in range(ATTEMPTS_MAX):
            folded = await self._log.change("", self._snapshot(wanted), CHANGE_SECONDS)
            current = self._folded_record(wanted.key)
            if folded.before is None or folded.after is None:
                raise NotReady(f"session {wanted.key}: the log became another one just now")
            if folded.before is base:
                return
            intended = rebased(base, wanted, folded.before)
            base, wanted = current, rebased(folded.after, intended, current, only_where_same=True)
            if wanted == base:
                return
            log.info("session %s: changed by another server at the same time, both are kept", wanted.key)
        raise NotReady(
            f"session {wanted.key}: other servers keep changing it; the change may have been lost, ask again"
        )

    # -- packets ----------------------------------------------------------------------------------------------------

    def _snapshot(self, record: SessionRecord) -> Append:
        return self._append("SessionInfo", record.key, snapshot_of(record))

    def _append(
        self, type: str, key: str, content: data.NewSessionPacket | data.SessionInfoPacket | data.EndOfSessionPacket
    ) -> Append:
        packet = data.Packet(type=type, session_key=key, content=content.SerializeToString()).SerializeToString()
        if len(packet) > self._settings.max_packet_bytes:
            asked = (
                f"the {type} packet would have {len(packet)} bytes, since {content.data_source} has too many streams"
            )
            raise TooMuch("MaxPacketBytes", self._settings.max_packet_bytes, asked)
        identity = new_identity()
        return Append(self._routing.session_info, key.encode(), packet, identity, data_source=content.data_source)

    async def _offsets_now(self, data_source: str) -> dict[Partition, int]:
        """The offset that the next packet will get, in each partition of the data source; 0 where there is none yet."""
        topics = await self._port.topics_now(data_source, CHANGE_SECONDS)
        watermarks = await self._port.watermarks(self._partitions_of(data_source, list(topics)), CHANGE_SECONDS)
        return {partition: marks.end for partition, marks in watermarks.items()}

    def _partitions_of(self, data_source: str, topics: list[str]) -> list[Partition]:
        naming = self._routing.naming
        main = naming.main_topic(data_source)
        partitions = [Partition(main, 0), Partition(naming.essentials_topic(data_source), 0)]
        if self._settings.strategy == "PartitionBased":
            mapped = sorted(set(self._settings.partition_mappings.values()) - {0})
            return partitions + [Partition(main, number) for number in mapped]
        streams = self._routing.streams_of(data_source, topics)
        return partitions + [Partition(naming.stream_topic(data_source, stream), 0) for stream in streams]


def _finish(done: asyncio.Future[None], failure: Exception | None) -> None:
    if done.done():  # given up, or refused before
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def snapshot_of(record: SessionRecord) -> data.SessionInfoPacket:
    """All that is known about a session, as a packet."""
    info = data.SessionInfoPacket(
        data_source=record.data_source,
        identifier=record.identifier,
        type=record.type,
        version=record.version,
        associate_session_keys=record.associates,
        details=record.details,
        utc_offset=Duration(seconds=record.utc_offset.seconds, nanos=record.utc_offset.nanos),
        creation_time=Timestamp(seconds=record.creation_time.seconds, nanos=record.creation_time.nanos),
    )
    if record.termination_time is not None:
        info.termination_time.seconds, info.termination_time.nanos = record.termination_time
    return info


def rebased(
    base: SessionRecord, changed: SessionRecord, onto: SessionRecord, *, only_where_same: bool = False
) -> SessionRecord:
    """What was done to ``base`` to make ``changed``, done to ``onto``.

    Where ``onto`` differs from ``base`` in the same place, ``changed`` wins, or with ``only_where_same`` it does not.
    """

    def pick(was: object, now: object, other: object) -> bool:
        return now != was and (other == was or not only_where_same)

    fields: dict[str, Any] = {
        name: getattr(changed, name)
        for name in ("type", "version", "identifier")
        if pick(getattr(base, name), getattr(changed, name), getattr(onto, name))
    }
    details = {
        name: value
        for name, value in changed.details.items()
        if pick(base.details.get(name), value, onto.details.get(name))
    }
    added = [key for key in changed.associates if key not in base.associates and key not in onto.associates]
    return replace(onto, **fields, details={**onto.details, **details}, associates=(*onto.associates, *added))
