"""The producer process: the only one that writes the log.

Duty cycle: take records from the down rings of all peers in the order of their stamps, hand them to the log writer, let
it work, and move each ring's commit to where its records are logged. Nothing is committed before the log has it, or the
park (``parking.py``), so a successor starts with the park, then at ``commit``, and finds everything that this process had
taken and not logged.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from trackside.data_plane import metrics
from trackside.data_plane.link import PACKETS, Limits, Parks, PeerLink, PeerSet, Refused, encode_message
from trackside.data_plane.log import LogState, LogWriter, Partition
from trackside.data_plane.log_backend import open_writer
from trackside.data_plane.park_file import ParkFile
from trackside.data_plane.parking import ENTRY_BYTES, Parked, Parking, Unlogged
from trackside.data_plane.poison import NOTHING, one_by_one
from trackside.data_plane.record import Record, Route, decode_record
from trackside.data_plane.routing import Routing
from trackside.data_plane.stream_metrics import routed_counters
from trackside.data_plane.undecodable import UNDECODABLE
from trackside.data_plane.worker import Worker, run_agent
from trackside.shm.ring import RingRecord

__all__ = ["Producer", "run"]

LIMITS_SECONDS = 1.0
"""How often the log is asked for the largest packet that it takes, and for its statistics."""

LOOK_SECONDS = 0.1
"""How often somebody looks which topics are blocked, and tells peers how far parked ones are."""


class Producer:
    """The agent. The refusals of a record are told to its peer before the commit that covers it."""

    def __init__(self, worker: Worker, writer: LogWriter) -> None:
        self.worker = worker
        self.log = writer
        self.peers = PeerSet(worker.spec, worker.attach)
        self._by_ring = {peer.down.ring_id: peer for peer in self.peers}
        self._links = list(self.peers)
        self._merge = one_by_one(worker, [peer.down for peer in self._links], writer.logged, self._on_quarantined)
        self._count = metrics.producer_counters(worker.counters)
        self._routed = routed_counters(worker.counters, Routing(worker.spec.settings))
        self._latency = metrics.latency(worker.counters, metrics.ACCEPTED_TO_LOGGED)
        self._mirror = metrics.Mirror(worker.counters, metrics.WRITER_STATISTICS)
        self._parks_mirror = metrics.Mirror(worker.counters, metrics.PARK_STATISTICS)
        self._unlogged: dict[PeerLink, deque[Unlogged]] = {peer: deque() for peer in self._links}
        self._numbers = itertools.count()
        self._refused: defaultdict[tuple[str, int], list[tuple[int, Partition]]] = defaultdict(list)
        self._unsaid: dict[PeerLink, deque[Refused]] = {peer: deque() for peer in self._links}
        self._told: dict[PeerLink, tuple[int, int]] = {}  # which limit each peer, in which incarnation, knows
        self._told_parks: dict[PeerLink, tuple[int, int, Parks]] = {}  # in which incarnation, of which version, what
        self._limits_at = 0.0
        self._look_at = 0.0
        self._answers_since: float | None = None
        self._settings = settings = worker.spec.settings
        self._parking = Parking(
            ParkFile(Path(worker.spec.instance) / "parks" / f"{worker.spec.name}.park", settings.park_bytes),
            writer,
            self._backlog,
            after_seconds=settings.park_after_seconds,
            essentials_of=Routing(settings).essentials_topic,
            say=worker.log,
            entries_max=settings.park_bytes // ENTRY_BYTES,
        )
        self._parks_summary = self._parking.summary()  # sorts names: made anew at each look, and not in each cycle

    def _backlog(self) -> Iterator[tuple[str, Unlogged]]:
        return ((peer.down.ring_id, found) for peer, records in self._unlogged.items() for found in records)

    def do_work(self) -> int:
        done = self._take()
        done += self.log.do_work()
        self._report_refusals()
        self._look_after_parks()
        done += self._commit()
        self._tell_limits()
        self._follow_log_state()
        return done

    def _follow_log_state(self) -> None:
        state = self.log.state()
        if self._parking.topics and state.available:
            state = LogState(True, self._parks_summary)
        self.worker.follow_log_state(state)

    def _take(self) -> int:
        due = self._merge.take()
        for index, found in due:
            self._append(self._links[index], found)
        return len(due)

    def _append(self, peer: PeerLink, found: RingRecord) -> None:
        if found.kind != PACKETS:
            raise ValueError(f"ring {peer.down.ring_id}: kind {found.kind} at position {found.position}")
        try:
            record = decode_record(found.body)
            if len(record.counts) != len(record.routes):  # of a version before that did not count
                record.count()
        except UNDECODABLE as error:
            raise ValueError(f"ring {peer.down.ring_id}: no record at position {found.position}: {error}") from error
        ring = peer.down.ring_id
        parked = self._parking.claim(ring, found.end, found.stamp_ns, record) if self._parking.topics else None
        self.log.append(ring, found.end, record, parked)
        self._unlogged[peer].append(Unlogged(found.end, found.stamp_ns, record, next(self._numbers)))
        self._count.records.add(1)
        self._count.packets.add(found.count)

    def _on_quarantined(self, index: int, found: RingRecord, record: Record | None, reason: str) -> None:
        """A record that is not taken at all: who waits for it is told, and ``commit`` passes it."""
        peer = self._links[index]
        self._count.quarantined.add(1)
        self.log.append(peer.down.ring_id, found.end, NOTHING)
        for packet, row in enumerate(record.indexes if record is not None else ()):
            assert record is not None
            route = record.routes[row]
            self._unsaid[peer].append(Refused(found.end, packet, route.topic, route.partition, reason))

    def _commit(self) -> int:
        moved = 0
        for peer in self._links:
            position = self._committable(peer)
            if position > peer.down.commit_position and self._say_refusals(peer) and self._say_parks(peer):
                self._count_logged(peer, position)
                peer.commit(position)
                moved += 1
        return moved

    def _committable(self, peer: PeerLink) -> int:
        ring = peer.down.ring_id
        logged = self.log.logged(ring)
        if not self._parking.topics or logged <= peer.down.commit_position:
            return logged
        return self._parking.committable(ring, logged, self._unlogged[peer])

    def _count_logged(self, peer: PeerLink, position: int) -> None:
        """Before the commit: what a death in between costs is counted twice and not missing."""
        unlogged, now, ring = self._unlogged[peer], time.monotonic_ns(), peer.down.ring_id
        while unlogged and unlogged[0].end <= position:
            end, stamp_ns, record, _ = unlogged.popleft()
            parked = self._parking.claimed(ring, end)
            if not parked:
                self._latency.observe(now - stamp_ns)
            refused = self._refused.pop((ring, end), ()) if self._refused else ()
            for route, packets, size in record.amounts(_lost(record, refused) if refused else ()):
                if not parked or route.topic not in parked:
                    self._count_routed(route, packets, size)

    def _count_routed(self, route: Route, packets: int, size: int) -> None:
        logged, logged_bytes = self._routed.of(route.topic, route.partition, route.data_source)
        logged.add(packets)
        logged_bytes.add(size)

    # -- parking ------------------------------------------------------------------------------------------------------

    def _look_after_parks(self) -> None:
        if self._parking.topics:
            self._count_parked(self._parking.settle())
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._parking.look(settled=self._is_settled(now))
            self._parks_summary = self._parking.summary()
            for peer in self._links:
                self._tell_parks(peer)

    def _is_settled(self, now: float) -> bool:
        """Whether the log has answered for long enough that what it has not taken by now is blocked."""
        if not self.log.answers():
            self._answers_since = None
        elif self._answers_since is None:
            self._answers_since = now
        return self._answers_since is not None and now - self._answers_since >= self._settings.park_after_seconds

    def _count_parked(self, logged: Iterable[Parked]) -> None:
        now = time.monotonic_ns()
        for parked in logged:
            self._latency.observe(max(0, now - parked.stamp_ns))
            refused = self._refused.pop((parked.ring, parked.end), ()) if self._refused else ()
            for route, packets, size in parked.record.amounts(_lost(parked.record, refused) if refused else ()):
                if route.topic in parked.topics:
                    self._count_routed(route, packets, size)

    def _say_parks(self, peer: PeerLink) -> bool:
        """Whether the peer knows of all parked topics: else a commit would say to it that they are logged."""
        told = self._told_parks.get(peer)
        if told is None:
            return not self._parking.topics or self._tell_parks(peer)
        return told[:2] == (peer.epoch, self._parking.version) or self._tell_parks(peer)

    def _tell_parks(self, peer: PeerLink) -> bool:
        """Refusals first: who hears that its packets are not parked any more takes them to be logged."""
        news = self._parking.news(peer.down.ring_id, peer.down.commit_position)
        now_told = peer.epoch, self._parking.version, news
        if self._told_parks.get(peer) != now_told:
            if not self._say_refusals(peer) or not peer.try_send([encode_message(news)]):
                return False
            self._told_parks[peer] = now_told
        return True

    def _report_refusals(self) -> None:
        for refusal in self.log.refusals():
            self._count.refused.add(1)
            self._refused[refusal.ring, refusal.end].append((refusal.packet, refusal.partition))
            topic, number = refusal.partition
            self.worker.log(
                "error",
                "dead letter",
                topic=topic,
                partition=number,
                ring=refusal.ring,
                position=refusal.end,
                packet=refusal.packet,
                reason=refusal.reason,
            )
            peer = self._by_ring.get(refusal.ring)  # nobody waits for what a dead instance had parked
            if peer is not None:
                self._unsaid[peer].append(Refused(refusal.end, refusal.packet, topic, number, refusal.reason))

    def _say_refusals(self, peer: PeerLink) -> bool:
        """Whether all found room; until then the commit that covers them waits, since it would say that all is well."""
        unsaid = self._unsaid[peer]
        while unsaid and peer.try_send([encode_message(unsaid[0])]):
            unsaid.popleft()
        return not unsaid

    def _tell_limits(self) -> None:
        """To the peers; and to observers what the log counts."""
        now = time.monotonic()
        if now < self._limits_at:
            return
        self._limits_at = now + LIMITS_SECONDS
        self._mirror.show(self.log.statistics())
        self._parks_mirror.show(self._parking.statistics())
        limit = self.log.value_bytes_max()
        for peer in self._links:
            if self._told.get(peer) != (peer.epoch, limit) and peer.try_send([encode_message(Limits(limit))]):
                self._told[peer] = peer.epoch, limit

    def drained(self) -> bool:
        """Everything that was published or parked is logged."""
        return (
            self._parking.empty
            and not self._merge.waiting
            and all(peer.down.commit_position == peer.down.publish_position() for peer in self._links)
        )

    def close(self) -> None:
        self.log.close(timeout_seconds=1.0)
        self._report_refusals()
        self._count_parked(self._parking.settle())
        self._commit()
        self._parking.close()


def _lost(record: Record, refused: Iterable[tuple[int, Partition]]) -> list[int]:
    """Packets that their own partition refused; one whose copy alone was refused is in the log."""
    routes = [(packet, record.routes[record.indexes[packet]], partition) for packet, partition in refused]
    return [packet for packet, route, partition in routes if partition == (route.topic, route.partition)]


def run(worker: Worker) -> None:
    """Play the role until drained; ``worker.play`` calls it."""
    agent = Producer(worker, open_writer(worker))
    try:
        run_agent(worker, agent)
    finally:
        agent.close()
