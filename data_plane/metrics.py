"""The counters of the data plane: one table with a sentence each, from which help texts and docs come.

Cells are whole numbers: those of a metric whose name says ``seconds`` hold nanoseconds. Names that begin with
``stream_api_`` are the reference server's, with its labels; they are summed over all processes when they are scraped,
every other metric gets the name of its process as the label ``worker``. What is counted by data source, stream or
connection is in ``stream_metrics.py`` and ``reader_metrics.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trackside.shm.counters import Counter, CounterTable, Histogram, Metric

__all__ = [
    "ACCEPTED_TO_LOGGED",
    "CONTROL_LIMITS",
    "DELIVERED",
    "ESSENTIALS_DELIVERED",
    "ESSENTIALS_READ",
    "EXPIRED",
    "GROUPS",
    "INFO_PUBLISHED",
    "INFO_ROUTED",
    "INFO_ROUTED_BYTES",
    "LATENCY_BOUNDS_NS",
    "LIMITED",
    "LIMITS",
    "LOGGED_TO_SENT",
    "METRICS",
    "PARK_STATISTICS",
    "PUBLISHED",
    "READ",
    "READERS_STATISTICS",
    "READER_STATISTICS",
    "RECEIVED",
    "RECEIVED_BYTES",
    "RECOVERED_INSTANCES",
    "RECOVERED_PACKETS",
    "REFUSED",
    "ROUTED",
    "ROUTED_BYTES",
    "WRITER_STATISTICS",
    "ConsumerCounters",
    "ForwarderCounters",
    "GatewayCounters",
    "Mirror",
    "ProducerCounters",
    "consumer_counters",
    "denial_counters",
    "forwarder_counters",
    "gateway_counters",
    "latency",
    "limit_counters",
    "producer_counters",
]

LATENCY_BOUNDS_NS = tuple(
    int(milliseconds * 1e6)
    for milliseconds in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000)
)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "counter", labels, help)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, help)


# --- the reference server's ----------------------------------------------------------------------------------------

PUBLISHED = _counter(
    "stream_api_data_packets_published_total",
    "Packets accepted by WriteDataPacket and WriteDataPackets.",
    "data_source",
    "stream",
)
INFO_PUBLISHED = _counter(
    "stream_api_info_packets_published_total",
    "Packets accepted by WriteInfoPacket and WriteInfoPackets; the label is always Info.",
    "data_source",
)
ROUTED = _counter(
    "stream_api_data_packets_routed_total",
    "Packets that the log has, definitions of data formats made by the server among them, copies of essentials not.",
    "data_source",
    "stream",
)
ROUTED_BYTES = _counter(
    "stream_api_data_packets_routed_bytes_total", "Bytes of those packets.", "data_source", "stream"
)
INFO_ROUTED = _counter(
    "stream_api_info_packets_routed_total",
    "Session and status packets that the log has: Info for those that clients wrote, the data source for those of the "
    "server's own session calls.",
    "data_source",
)
INFO_ROUTED_BYTES = _counter("stream_api_info_packets_routed_bytes_total", "Bytes of those packets.", "data_source")
RECEIVED = _counter(
    "stream_api_router_messages_received_total",
    "Entries of the log that passed the session filter of a connection's reads.",
    "connection",
    "data_source",
    "stream",
    "session_key",
)
RECEIVED_BYTES = _counter(
    "stream_api_router_messages_received_bytes_total", "Bytes of those packets.", *RECEIVED.labels
)
READ = _counter(
    "stream_api_data_packets_read_total",
    "Packets read for a connection, before the filter of ReadDataPackets.",
    "connection",
    "data_source",
    "stream",
)
DELIVERED = _counter(
    "stream_api_data_packets_delivered_total",
    "Packets that the transport took for a connection, after filtering, batched or not; what was being sent when a "
    "client left is not among them.",
    *READ.labels,
)
ESSENTIALS_READ = _counter(
    "stream_api_essential_packets_read_total", "Packets read by ReadEssentials.", "connection", "data_source"
)
ESSENTIALS_DELIVERED = _counter(
    "stream_api_essential_packets_delivered_total",
    "Packets of ReadEssentials that the transport took.",
    "connection",
    "data_source",
)
REFERENCE = (
    PUBLISHED,
    INFO_PUBLISHED,
    ROUTED,
    ROUTED_BYTES,
    INFO_ROUTED,
    INFO_ROUTED_BYTES,
    RECEIVED,
    RECEIVED_BYTES,
    READ,
    DELIVERED,
    ESSENTIALS_READ,
    ESSENTIALS_DELIVERED,
)

# --- the recovery ----------------------------------------------------------------------------------------------------

RECOVERED_INSTANCES = _counter(
    "trackside_recovered_instances_total",
    "Servers before this one, dead or stopped, that had left accepted packets; the log says which.",
)
RECOVERED_PACKETS = _counter(
    "trackside_recovered_packets_total",
    "Packets that were logged for them at the start; the local log left out what it had.",
)

# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED = _counter(
    "trackside_refused_total",
    "Calls and request messages refused, by method and status; the log says why. Other than of clients only those of "
    "the control plane's own socket.",
    "method",
    "status",
)
LIMITED = _counter(
    "trackside_limited_total",
    "Those of them that met a limit, by its key in the configuration, or by its name where it is fixed.",
    "limit",
)

# --- gateways ------------------------------------------------------------------------------------------------------

LOGGED_TO_SENT = Metric(
    "trackside_logged_to_sent_seconds",
    "histogram",
    (),
    "From the log's time of the oldest packet in a response of the live feed to when the transport had taken it; one "
    "sample a response. With several servers their clocks must agree.",
)
LIMITS = (
    "OpenCallsMax",
    "OpenCallsPerPeer",
    "MessagesPerSecondPerPeer",
    "BytesPerSecondPerPeer",
    "PacketsPerMessage",
    "ControlCallsMax",
    "WaitingWritesMax",
    "WaitingWritesBytes",
    "WriteWaitSeconds",
    "FiltersMax",
    "UnreadNotificationsMax",
)
"""Limits of a gateway: each refusal names its own, and is counted by it. The last two are fixed, the others are keys of
the configuration."""

CONTROL_LIMITS = ("ConnectionsMax", "ConnectionsBytes", "MaxPacketBytes")
"""The same of the control plane. ``ConnectionsBytes`` is fixed."""

DENIALS = ("unauthenticated", "permission_denied")
"""Why a call is not even looked at, by status."""

GATEWAY = (
    _counter("trackside_gateway_messages_total", "Write requests accepted."),
    _counter("trackside_gateway_packets_total", "Packets accepted."),
    _counter("trackside_gateway_bytes_total", "Bytes of packets accepted."),
    _gauge("trackside_gateway_open_calls", "Calls that are open; look at OpenCallsMax."),
    _gauge(
        "trackside_gateway_tcp_connections",
        "TCP connections of the public ports, every few seconds; look at TcpConnectionsMax. What gRPC closes beyond it "
        "it tells nobody, so that is not counted.",
    ),
    _counter(
        "trackside_gateway_denied_total",
        "Calls without a known token (unauthenticated), or without the right that they need (permission_denied).",
        "reason",
    ),
    _counter(
        "trackside_gateway_not_logged_total",
        "Writes that were accepted, and whose client wanted the log's word and did not get it in time.",
    ),
    _counter("trackside_gateway_held_back_total", "Write requests that had to wait for room in a ring."),
    _counter("trackside_gateway_held_back_seconds_total", "How long those requests waited, all together."),
    _gauge("trackside_gateway_readers", "Open read streams."),
    _counter(
        "trackside_gateway_reads_left_total",
        "Reads that ended because their client cancelled them, or because its connection was lost or did not answer.",
    ),
    _counter("trackside_gateway_responses_total", "Read responses sent."),
    _counter("trackside_gateway_response_bytes_total", "Bytes of read responses sent."),
    _counter("trackside_gateway_delivered_total", "Packets in those responses, of open and closed connections."),
    LOGGED_TO_SENT,
)
READERS_STATISTICS = {
    "reader_bytes": _gauge("trackside_gateway_reader_bytes", "What all readers together have unsent."),
    "sending_bytes": _gauge(
        "trackside_gateway_sending_bytes",
        "What responses have that the transport has not taken; with reader_bytes at most AllReadersBufferBytes, and an "
        "eighth of ReaderBufferBytes a reader.",
    ),
    "reader_bytes_max": _gauge(
        "trackside_gateway_reader_bytes_max", "What the slowest reader has unsent; look at ReaderBufferBytes."
    ),
    "live_places": _gauge("trackside_gateway_live_places", "Partitions that open reads follow at the live end."),
    "past_places": _gauge("trackside_gateway_past_places", "Partitions that open reads are being sent from the past."),
    "paused_places": _gauge(
        "trackside_gateway_paused_places", "Partitions of open reads that wait until their client has taken something."
    ),
    "gaps": _counter("trackside_gateway_gaps_total", "Times that a reader missed a live frame and asked for it."),
    "slow": _counter("trackside_gateway_slow_total", "Times that a reader was too slow for the live feed and left it."),
    "skips": _counter(
        "trackside_gateway_skips_total", "Times that a slow reader went on at the live end, as it wanted (WhenSlow)."
    ),
    "skipped": _counter(
        "trackside_gateway_skipped_total",
        "Entries of the log that it passed by then, those of other sessions included.",
    ),
    "overruns": _counter(
        "trackside_gateway_overruns_total", "Reads that ended because they were slow, as they wanted (WhenSlow)."
    ),
    "jumps": _counter(
        "trackside_gateway_jumps_total", "Times that a reader met another log than before and began anew."
    ),
    "uncommitted": _counter(
        "trackside_gateway_uncommitted_total",
        "Partitions where the progress of a consumer group was given up: its last read had ended, and the log did not "
        "take it. They come again.",
    ),
}
"""What :meth:`Readers.statistics` tells."""

# --- producers -----------------------------------------------------------------------------------------------------

ACCEPTED_TO_LOGGED = Metric(
    "trackside_accepted_to_logged_seconds",
    "histogram",
    (),
    "From when a write request was accepted to when the log had it; one sample a request and producer.",
)
PRODUCER = (
    _counter("trackside_producer_records_total", "Records taken from the down rings of all peers."),
    _counter("trackside_producer_packets_total", "Packets in those records; copies of essential packets not counted."),
    _counter("trackside_producer_refused_total", "Packets that the log refused for good; each is a dead letter."),
    _counter(
        "trackside_producer_quarantined_total",
        "Records that ended a producer, or the recovery, again and again; they are in the dead-letter file.",
    ),
    ACCEPTED_TO_LOGGED,
)
WRITER_STATISTICS = {
    "appended": _counter("trackside_log_appended_total", "Entries handed to the log, or written to it."),
    "bytes": _counter("trackside_log_appended_bytes_total", "Bytes of their packets."),
    "batches": _counter("trackside_log_batches_total", "Batches in which they went."),
    "repeats": _counter(
        "trackside_log_repeats_total",
        "Entries appended again: sent again to Kafka, or found in the local log and left out.",
    ),
    "clients": _counter("trackside_log_clients_total", "Kafka clients that had to be replaced; the log says why."),
    "topics_created": _counter("trackside_log_topics_created_total", "Topics created on Kafka."),
    "dead_letter_file": _counter(
        "trackside_log_dead_letter_file_total", "Dead letters that no topic took: they are in the file."
    ),
    "dead_letters_given_up": _counter(
        "trackside_log_dead_letters_given_up_total",
        "Dead letters that no topic took and for which the file had no room: these packets are lost.",
    ),
    "dead_letter_file_failures": _counter(
        "trackside_log_dead_letter_file_failures_total",
        "Times that the file could not be written; the letter is tried again, and its topic waits. Look at the disk.",
    ),
    "torn_tails": _counter("trackside_log_torn_tails_total", "Half-written batches cut when a partition was opened."),
    "damaged": _counter("trackside_log_damaged_total", "Damaged places found when a partition was opened to write."),
    "gaps": _counter("trackside_log_gaps_total", "Offsets left out after a reboot, so that none is used twice."),
    "segments_expired": _counter("trackside_log_segments_expired_total", "Segment files removed by retention."),
    "expire_failures": _counter("trackside_log_expire_failures_total", "Segment files that could not be removed."),
    "syncs": _counter("trackside_log_syncs_total", "Times that the local log was put on its device."),
    "sync_failures": _counter("trackside_log_sync_failures_total", "Times that this failed; look at the disk."),
    "write_failures": _counter(
        "trackside_log_write_failures_total", "Batches that could not be written, and were tried again."
    ),
    "partitions": _gauge("trackside_log_partitions", "Partitions that a producer has written."),
    "retention_held": _gauge(
        "trackside_log_retention_held",
        "Partitions that keep more than retention allows, because it is not forwarded yet; look at the link and the disk.",
    ),
    "open_files": _gauge("trackside_log_open_files", "Segment files that a producer has open."),
}
"""What :meth:`LogWriter.statistics` tells; ``refused`` is trackside_producer_refused_total."""

PARK_STATISTICS = {
    "parked_topics": _gauge(
        "trackside_producer_parked_topics", "Topics that the log does not take now, and are parked."
    ),
    "parked_bytes": _gauge("trackside_producer_parked_bytes", "Bytes in the park that the log does not have."),
    "parked_age": _gauge(
        "trackside_producer_parked_age_seconds", "For how long the oldest packet in the park has been waiting."
    ),
    "parked": _counter("trackside_producer_parked_total", "Times that a topic was parked; the log says which."),
    "unparked": _counter("trackside_producer_unparked_total", "Times that the log had all of a parked topic again."),
    "parked_packets": _counter("trackside_producer_parked_packets_total", "Packets that were copied to the park."),
    "park_full": _counter(
        "trackside_producer_park_full_total",
        "Times that the park became full: writers of the topics that fill it wait, and are then refused.",
    ),
    "park_overflows": _counter(
        "trackside_producer_park_overflows_total",
        "Times that a parked topic found no room: it waits in the rings and holds up all others; raise ParkMegabytes.",
    ),
}
"""What :meth:`Parking.statistics` tells."""

# --- consumers -----------------------------------------------------------------------------------------------------

CONSUMER = (
    _counter(
        "trackside_consumer_live_frames_total", "Frames made at the live end of partitions, each once for all peers."
    ),
    _counter("trackside_consumer_past_frames_total", "Frames made for one reader that was behind the live end."),
    _counter(
        "trackside_consumer_marks_total",
        "Live frames that found no room in an up ring; the peer asks for them again.",
    ),
    _counter("trackside_consumer_oversize_total", "Log entries too large for any response; skipped."),
    _counter(
        "trackside_consumer_stale_requests_total",
        "Requests of a peer's predecessor, or meant for a consumer's; dropped.",
    ),
)
READER_STATISTICS = {
    "feeds": _gauge("trackside_consumer_feeds", "Partitions followed at their live end."),
    "past": _gauge("trackside_consumer_past", "Places of readers that are behind the live end."),
    "held": _gauge("trackside_consumer_held", "Partitions that wait for a data format which a filter has to know."),
    "fetches": _counter("trackside_consumer_fetches_total", "Reads of the log, whatever the number of readers."),
    "fetched_bytes": _counter("trackside_log_fetched_bytes_total", "Bytes that those reads brought."),
    "entries": _counter("trackside_log_entries_read_total", "Entries that those reads brought."),
    "undecodable": _counter(
        "trackside_log_undecodable_total",
        "Entries of the log that are no packets; skipped. Somebody else writes there.",
    ),
    "holes": _counter(
        "trackside_log_holes_total",
        "Offsets without an entry (Kafka: transactions, compaction), or jumps over such (local log: damage, lost files).",
    ),
    "expired": _counter("trackside_log_expired_total", "Readers that were passed by retention, and jumped."),
    "damaged": _counter("trackside_log_damaged_reads_total", "Places in segment files that did not hold; jumped over."),
    "catch_ups": _counter("trackside_log_catch_ups_total", "Kafka clients given to readers in the past."),
    "restarts": _counter("trackside_log_restarts_total", "Partitions that turned out to be another log."),
    "faults": _counter("trackside_log_faults_total", "Errors of single partitions while reading from Kafka."),
    "dropped": _counter("trackside_log_dropped_bytes_total", "Bytes that were fetched from Kafka in vain."),
    "uncommitted": _counter(
        "trackside_log_uncommitted_total",
        "Commits of consumer groups that the log did not take in time; the log of this process says why.",
    ),
    "sync_failures": _counter(
        "trackside_log_group_sync_failures_total", "Commits of consumer groups that did not reach the device."
    ),
}
"""What :meth:`Consumer.statistics` and :meth:`LogReader.statistics` tell."""

# --- the control plane, for itself -----------------------------------------------------------------------------------

EXPIRED = _counter(
    "trackside_connections_expired_total", "Connections closed because nobody had used them for ConnectionIdleSeconds."
)

# --- the forwarder -------------------------------------------------------------------------------------------------

FORWARDER = (
    _gauge("trackside_forwarder_link_up", "1 while Kafka answers the forwarder; `trackside top` says why not."),
    _counter("trackside_forwarder_link_losses_total", "Times that the link was lost and made anew."),
    _counter("trackside_forwarder_packets_total", "Packets that Kafka has taken, copies of essentials among them."),
    _counter("trackside_forwarder_bytes_total", "Bytes of those packets."),
    _counter("trackside_forwarder_transactions_total", "Transactions in which they went."),
    _counter("trackside_forwarder_dead_letters_total", "Packets that Kafka refused for good; each is a dead letter."),
    _counter("trackside_forwarder_topics_anew_total", "Partitions sent again, because Kafka's topic was another one."),
    _counter("trackside_forwarder_fenced_total", "Times that another forwarder of the same log took over the link."),
    _counter(
        "trackside_forwarder_save_failures_total", "Times that `forwarded.json` could not be written; look at the disk."
    ),
    _gauge("trackside_forwarder_backlog_packets", "Packets in the local log that Kafka does not have yet."),
    _gauge("trackside_forwarder_backlog_bytes", "What they take on the disk."),
    _gauge("trackside_forwarder_backlog_seconds", "Age of the oldest of them; 0 when there is none."),
    _gauge("trackside_forwarder_held", "Partitions of those that wait although the link is up; the log says why."),
    _gauge("trackside_forwarder_log_bytes", "What the local log takes on the disk."),
    _gauge("trackside_forwarder_log_growth_bytes", "By how much it has grown a second, over the last ten minutes."),
    _gauge("trackside_forwarder_disk_left_seconds", "Until the disk is full at that rate; ten years when it never is."),
)

GROUPS: dict[str, tuple[Metric, ...]] = {
    "reference": REFERENCE,
    "gateway": (*GATEWAY, *READERS_STATISTICS.values()),
    "producer": (*PRODUCER, *PARK_STATISTICS.values(), *WRITER_STATISTICS.values()),
    "consumer": (*CONSUMER, *READER_STATISTICS.values()),
    "refusals": (REFUSED, LIMITED),
    "recovery": (RECOVERED_INSTANCES, RECOVERED_PACKETS),
    "connections": (EXPIRED,),
    "forwarder": FORWARDER,
}

METRICS = {metric.name: metric for group in GROUPS.values() for metric in group}


class ProducerCounters(NamedTuple):
    records: Counter
    packets: Counter
    refused: Counter
    quarantined: Counter


class ConsumerCounters(NamedTuple):
    live_frames: Counter
    past_frames: Counter
    marks: Counter
    oversize: Counter
    stale_requests: Counter


class ForwarderCounters(NamedTuple):
    link_up: Counter
    link_losses: Counter
    packets: Counter
    bytes: Counter
    transactions: Counter
    dead_letters: Counter
    topics_anew: Counter
    fenced: Counter
    save_failures: Counter
    backlog_packets: Counter
    backlog_bytes: Counter
    backlog_seconds: Counter  # nanoseconds
    held: Counter
    log_bytes: Counter
    log_growth_bytes: Counter
    disk_left_seconds: Counter  # nanoseconds


class GatewayCounters(NamedTuple):
    messages: Counter
    packets: Counter
    bytes: Counter
    not_logged: Counter
    held_back: Counter
    held_back_seconds: Counter  # nanoseconds
    open_calls: Counter
    readers: Counter
    reads_left: Counter
    responses: Counter
    response_bytes: Counter
    delivered: Counter


def _counters(table: CounterTable, role: str, fields: tuple[str, ...]) -> list[Counter]:
    def find(field: str) -> Counter:
        name = f"trackside_{role}_{field}"
        return table.counter(METRICS.get(f"{name}_total") or METRICS[name])

    return [find(field) for field in fields]


def producer_counters(table: CounterTable) -> ProducerCounters:
    return ProducerCounters(*_counters(table, "producer", ProducerCounters._fields))


def consumer_counters(table: CounterTable) -> ConsumerCounters:
    return ConsumerCounters(*_counters(table, "consumer", ConsumerCounters._fields))


def forwarder_counters(table: CounterTable) -> ForwarderCounters:
    return ForwarderCounters(*_counters(table, "forwarder", ForwarderCounters._fields))


def gateway_counters(table: CounterTable) -> GatewayCounters:
    return GatewayCounters(*_counters(table, "gateway", GatewayCounters._fields))


def limit_counters(table: CounterTable, limits: Sequence[str] = LIMITS) -> Mapping[str, Counter]:
    """What was refused, by limit, all there from the start."""
    return {limit: table.counter(LIMITED, limit=limit) for limit in limits}


def denial_counters(table: CounterTable) -> Mapping[str, Counter]:
    """Of calls of any kind, by status of the refusal."""
    metric = METRICS["trackside_gateway_denied_total"]
    return {reason: table.counter(metric, reason=reason) for reason in DENIALS}


def latency(table: CounterTable, metric: Metric) -> Histogram:
    return table.histogram(metric, LATENCY_BOUNDS_NS)


class Mirror:
    """Shows what an object counts for itself, from 0 in each incarnation, in cells that go on where the predecessor's
    ended. ``metrics`` says which count is which metric; what it does not name is not shown."""

    def __init__(self, table: CounterTable, metrics: Mapping[str, Metric]) -> None:
        self._table = table
        self._metrics = metrics
        self._shown: dict[str, tuple[Counter, int]] = {}

    def show(self, statistics: Mapping[str, int]) -> None:
        for name, value in statistics.items():
            if name in self._metrics:
                counter, before = self._shown.get(name) or self._find(name)
                counter.set(before + value)

    def _find(self, name: str) -> tuple[Counter, int]:
        metric = self._metrics[name]
        counter = self._table.counter(metric)
        self._shown[name] = counter, 0 if metric.kind == "gauge" else counter.value
        return self._shown[name]
