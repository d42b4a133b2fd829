"""The table of configuration keys: ours and those of the reference server.

Everything that knows a key knows it from here: validation, ``check-config``, ``serve --help`` and the page
``docs/configuration.md``. A key of the reference that means nothing here has a row, too, so that an operator's file
is understood as a whole; ``instead`` says what holds in its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from trackside.control_plane.config_kinds import (
    Address,
    Brokers,
    Bytes,
    Choice,
    CoreList,
    Endpoint,
    File,
    Folder,
    Kind,
    Mappings,
    Number,
    Switch,
    Text,
    Whole,
    spelled,
)

__all__ = ["BY_SPELLING", "FOREIGN_SECTIONS", "KEYS", "SECTION", "SECTIONS_INSIDE", "Key", "find_key"]

SECTION = "StreamApiConfig"
"""The section of AppConfig.json that holds the keys, in files that have sections."""

FOREIGN_SECTIONS = frozenset({"serilog", "logging", "allowedhosts", "schema"})
"""Members beside the section that every program of this family has; read by nobody here, and no cause for a note."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Key:
    """One row. ``name`` is the name in AppConfig.json; a dot steps into a section of its own.

    ``setting`` is the field of ``Settings`` that the value becomes, times ``scale``; keys that several make one field
    of, or that only point to a file, have none. ``default`` is None where the default depends on something, and then
    ``default_prose`` says on what.
    """

    name: str
    kind: Kind
    default: object
    prose: str
    setting: str = ""
    scale: float = 1
    flag: str = ""
    metavar: str = ""
    environment: tuple[str, ...] = ()
    default_prose: str = ""
    reference: bool = False
    secret: bool = False
    instead: str = ""
    harmless: tuple[object, ...] = field(default=())

    @cached_property
    def own_variable(self) -> str:
        """``TRACKSIDE_`` and the words of the flag, or of the name."""
        words = self.flag.removeprefix("--").replace("-", "_") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\.", "_", self.name)
        return f"TRACKSIDE_{words.upper()}"

    @cached_property
    def section_variable(self) -> str:
        return f"{SECTION}__{self.name.replace('.', '__')}"

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.section_variable, *([] if self.instead else [self.own_variable]), *self.environment)

    def shown(self, value: object) -> str:
        """The value for people; a secret only says whether there is one."""
        if value is None:
            return ""
        if self.secret:
            return "(set)" if value else ""
        return self.kind.show(value)


LOG = (
    Key(
        "BrokerUrl", Brokers(), "", "Kafka brokers to start from. Empty: no Kafka, a log on this machine's disk.",
        setting="broker", flag="--broker", metavar="HOST:PORT", reference=True,
        default_prose="empty: the local log (the reference's localhost:9092 does not apply)",
    ),
    Key(
        "ForwardTo", Brokers("HOST:PORT, several separated by commas, or empty"), "", "Edge mode: the log is on this machine's disk, and a process copies it to these Kafka "
        "brokers whenever they can be reached. Not together with BrokerUrl; security and override files are for them.",
        setting="forward_to", flag="--forward-to", metavar="HOST:PORT",
    ),
    Key(
        "ReplicationFactor", Whole(-1, 32767, never=0), -1, "Replicas of topics that this server creates; "
        "-1 is the broker's own default.", setting="replication_factor",
    ),
    Key(
        "KafkaBrokerPublishingConfigFilePath", Text(4096), "kafka-publisher-broker.json",
        "File of librdkafka properties for clients that write; used when it exists.", reference=True,
    ),
    Key(
        "KafkaBrokerConsumingConfigFilePath", Text(4096), "kafka-consumer-broker.json",
        "File of librdkafka properties for clients that read; used when it exists.", reference=True,
    ),
    Key(
        "KafkaBrokerConfigWhitelistFilePath", Text(4096), "kafka-broker-whitelist.json",
        "File that says which properties those two files may set; used when it exists.", reference=True,
    ),
    Key(
        "Sync", Choice(("Interval", "Each")), "Interval", "When the local log is forced to the device: every "
        "SyncIntervalSeconds, or with each batch.", setting="sync",
    ),
    Key(
        "SyncIntervalSeconds", Number(0.01, 60), 1.0, "Longest time between two syncs of the local log.",
        setting="sync_interval_seconds",
    ),
    Key(
        "SegmentBytes", Bytes(8 * MIB, GIB), 64 * MIB, "Size of one segment file of the local log.",
        setting="segment_bytes",
    ),
    Key(
        "RetentionBytes", Bytes(16 * MIB, 1 << 50, zero="no limit"), 0, "What one partition of the local log may "
        "take; whole segments go, oldest first.", setting="retention_bytes",
    ),
    Key(
        "RetentionSeconds", Number(0, 315_360_000), 0.0, "How long the local log keeps a segment, counted from its "
        "partition's newest record; 0 is for ever.", setting="retention_seconds",
    ),
)  # fmt: skip

SECURITY = (
    Key(
        "Security.SaslUsername", Text(), "", "User name at the broker. Security is on when this, a CA or a "
        "certificate is given.", reference=True,
    ),
    Key("Security.SaslPassword", Text(), "", "Its password.", secret=True, reference=True),
    Key(
        "Security.Protocol", Choice(("Plaintext", "Ssl", "SaslPlaintext", "SaslSsl")), None,
        "How to talk to the broker.", reference=True,
        default_prose="SaslPlaintext with a user name, Ssl without",
    ),
    Key(
        "Security.Mechanism", Choice(("Plain", "ScramSha256", "ScramSha512")), "Plain", "How the user name is proven.",
        reference=True,
    ),
    Key("Security.SslCaLocation", Text(4096), "", "PEM file of the authorities to trust.", reference=True),
    Key("Security.SslCertificateLocation", Text(4096), "", "PEM file of this server's certificate.", reference=True),
    Key("Security.SslKeyLocation", Text(4096), "", "PEM file of the certificate's key.", reference=True),
    Key("Security.SslKeyPassword", Text(), "", "Password of that key.", secret=True, reference=True),
)  # fmt: skip

PORTS = (
    Key(
        "Tls.CertificateFile", File(), "", "PEM file of this server's certificate, with those between it and the "
        "authority. Set: both gRPC ports speak TLS and nothing else. Read again when it changes.",
        setting="tls_certificate",
    ),
    Key("Tls.KeyFile", File(), "", "PEM file of the certificate's key, without a password.", setting="tls_key"),
    Key(
        "Tls.ClientAuthorityFile", File(), "", "PEM file of the authorities of clients. Set: who has no certificate of "
        "one of them is not let in.", setting="tls_client_authority",
    ),
    Key(
        "TokensFile", File(), "", "JSON file of tokens and their rights; `trackside token` makes one. Set: who has no "
        "token of it may do nothing. Read again when it changes.", setting="tokens_file",
    ),
)  # fmt: skip

NAMES = (
    Key(
        "StreamCreationStrategy", Choice(("PartitionBased", "TopicBased"), {1: "PartitionBased", 2: "TopicBased"}),
        "TopicBased", "Streams of a data source as topics of their own, or as partitions of its one topic.",
        setting="strategy", reference=True,
        default_prose="TopicBased (the reference's is PartitionBased, where unmapped streams lose their names)",
    ),
    Key(
        "PartitionMappings", Mappings(), {}, "With PartitionBased: which stream has which partition; 0 is the main "
        "stream's.", setting="partition_mappings", reference=True, default_prose="none",
    ),
    Key(
        "Domain", Text(100, r"([A-Za-z0-9_-][A-Za-z0-9._-]*)?", "empty, or up to 100 of A-Z a-z 0-9 . _ - and no dot "
        "in front"), "", "First part of topic names.", setting="domain", reference=True, default_prose="empty",
    ),
    Key(
        "Naming", Choice(("legacy", "domain")), None, "How topics are named: `{source}.{stream}`, or "
        "`{Domain}.Data.{source}.{stream}`.", setting="naming",
        default_prose="domain when Domain is set, else legacy",
    ),
)  # fmt: skip

BEHAVIOUR = (
    Key(
        "IntegrateSessionManagement", Switch(), True, "Off: session calls answer success=false, notifications end.",
        setting="integrate_session_management", reference=True,
    ),
    Key(
        "IntegrateDataFormatManagement", Switch(), True, "Off: formats are made but not loaded from the log.",
        setting="integrate_data_format_management", reference=True,
    ),
    Key(
        "Acknowledge", Choice(("Ring", "Log")), "Ring", "When a write is OK: in shared memory, which survives the "
        "death of every process, or in the log.", setting="acknowledge",
    ),
    Key(
        "WriteWaitSeconds", Number(0, 60), 5.0, "How long a write waits for room, or for the log, before it is "
        "refused.", setting="write_wait_seconds",
    ),
    Key(
        "MaxPacketBytes", Bytes(KIB, 4 * MIB - 64 * KIB), 4 * MIB - 64 * KIB, "Largest packet; a broker's own limit "
        "may be lower, and then holds.", setting="max_packet_bytes",
    ),
    Key(
        "BatchingResponses", Switch(), False, "Readers get fewer, larger responses: true waits for BatchingTimeMs or "
        "BatchingSizesKb, false sends what is ready.", setting="batching_responses", reference=True,
    ),
    Key(
        "BatchingSizesKb", Whole(1, 4096), 4096, "Size at which a batch of responses is sent, in KiB.",
        setting="batching_bytes", scale=KIB, reference=True,
    ),
    Key(
        "BatchingTimeMs", Whole(0, 10_000), 50, "Time after which a batch of responses is sent, in ms.",
        setting="batching_seconds", scale=0.001, reference=True,
    ),
    Key(
        "EnableGrpcReflection", Switch(), True, "Tools like grpcurl can ask the public ports which services there are.",
        setting="reflection", reference=True, default_prose="on (the reference's is off)",
    ),
    Key(
        "ReaderBufferBytes", Bytes(64 * KIB, GIB), 4 * MIB, "What one reader may have unsent before it leaves the "
        "live feed and catches up from the log.", setting="reader_buffer_bytes",
    ),
    Key(
        "AllReadersBufferBytes", Bytes(64 * KIB, 1 << 40), 256 * MIB, "What all readers of one gateway may have unsent "
        "together, beyond an eighth of ReaderBufferBytes that each may have; the more there are that do not read, the "
        "earlier each leaves the live feed.", setting="all_readers_buffer_bytes",
    ),
    Key(
        "WhenSlow", Choice(("CatchUp", "Skip", "End")), "CatchUp", "What becomes of a reader that left the live feed: it "
        "gets everything, late; it goes on at the live end; or its stream ends with RESOURCE_EXHAUSTED. A call says "
        "otherwise with the metadata `trackside-when-slow`.", setting="when_slow",
    ),
    Key(
        "StreamStartStopPackets", Switch(), False, "On: a session that begins or ends through this server says so on "
        "its streams, with StreamStarted and StreamStopped packets.", setting="stream_start_stop_packets",
    ),
    Key(
        "MetricsPerConnection", Switch(), True, "Metrics of reads have the labels `connection` and `session_key`, as the "
        "reference's have, until the connection is closed. Off: one row a stream; for servers with very many readers.",
        setting="metrics_per_connection",
    ),
    Key(
        "NodeNumber", Whole(0, 999), None, "Low three digits of the whole-number keys that this server makes. Servers on "
        "one Kafka claim theirs in the session-info topic; one that is taken gives way to another.",
        setting="node_number", default_prose="the lowest that no other server has",
    ),
    Key(
        "UseRemoteKeyGenerator", Switch(), False, "Take keys from RemoteKeyGeneratorServiceAddress in place of making "
        "them: keys of both kinds, of sessions and of data formats.", setting="use_remote_keys", reference=True,
    ),
    Key(
        "RemoteKeyGeneratorServiceAddress", Endpoint(), "", "Where that key generator is.",
        setting="remote_key_address", reference=True,
    ),
    Key(
        "RemoteKeyGenerator.AuthorityFile", File(), "", "PEM file of the authorities of that generator's certificate. "
        "Set: it is spoken to with TLS. This file and the next three are read again when they change.",
        setting="remote_key_authority",
    ),
    Key(
        "RemoteKeyGenerator.CertificateFile", File(), "", "PEM file of the certificate to show it, where it asks for one.",
        setting="remote_key_certificate",
    ),
    Key(
        "RemoteKeyGenerator.KeyFile", File(), "", "PEM file of that certificate's key, without a password.",
        setting="remote_key_key",
    ),
    Key(
        "RemoteKeyGenerator.TokenFile", File(), "", "File that holds the token for it and nothing else, where it asks for "
        "one.", setting="remote_key_token_file",
    ),
)  # fmt: skip

PROCESSES = (
    Key(
        "ListenAddress", Address(), "0.0.0.0", "Address of the public ports.", setting="listen_address",
        flag="--listen", metavar="ADDRESS",
    ),
    Key(
        "StreamApiPort", Whole(0, 65535), 13579, "Port of the Stream API; 0 takes a free one and says which.",
        setting="port", flag="--port", metavar="N", reference=True,
    ),
    Key(
        "KeyGeneratorPort", Whole(0, 65535), 15379, "Port of the key generator; 0 takes a free one and says which.",
        setting="key_port", flag="--key-port", metavar="N",
    ),
    Key(
        "PrometheusMetricPort", Whole(0, 65535), 10010, "Port of `/metrics`, `/livez` and `/readyz` over HTTP; 0 takes a "
        "free one and says which.", setting="status_port", flag="--status-port", metavar="N",
        environment=("PROMETHEUS_METRIC_PORT",), reference=True,
        default_prose="10010, or 0 where StreamApiPort is 0",
    ),
    Key(
        "StatusAddress", Address(), "127.0.0.1", "Address of that port. Nobody is asked there who they are, so it is for "
        "this machine unless you say otherwise.", setting="status_address", flag="--status-address",
        metavar="ADDRESS", default_prose="127.0.0.1 (the reference listens on all addresses)",
    ),
    Key(
        "Gateways", Whole(1, 64), 1, "Processes that speak gRPC with clients.", setting="gateways",
        flag="--gateways", metavar="N",
    ),
    Key(
        "Producers", Whole(1, 64), 1, "Processes that write the log; each owns a share of the data sources.",
        setting="producers", flag="--producers", metavar="N",
    ),
    Key(
        "Consumers", Whole(1, 64), 1, "Processes that read the log; each owns a share of the data sources.",
        setting="consumers", flag="--consumers", metavar="N",
    ),
    Key(
        "Cores", CoreList(), None, "Cores that processes may be pinned to.", setting="cores", flag="--cores",
        metavar="LIST", default_prose="all that this process may use; no pinning on up to three",
    ),
    Key(
        "ParkAfterSeconds", Number(0.1, 600), 2.0, "A topic of which the log has taken nothing for so long, while it "
        "answers, is parked: its packets are copied aside, so that it holds up no other topic.", setting="park_after_seconds",
    ),
    Key(
        "ParkMegabytes", Whole(1, 4096), 16, "What a producer's park may hold, as far as the run directory's tmpfs has "
        "room for it; 1 MiB there stays free. With half of it in use, writers of topics with more than their share of that "
        "wait. It is also kept in the producer's memory; a packet counts as 512 bytes at least.", setting="park_bytes", scale=MIB,
    ),
    Key(
        "StartSeconds", Number(1, 600), 30.0, "How long a process may take to get ready.", setting="start_seconds",
    ),
    Key(
        "DrainSeconds", Number(0, 600), 20.0, "How long a stopping server tries to log what its rings hold; keep "
        "`TimeoutStopSec` of a systemd unit above it.", setting="drain_seconds",
    ),
    Key(
        "StallSeconds", Number(2, 3600), 30.0, "A process without a heartbeat for so long is killed and replaced.",
        setting="stall_seconds",
    ),
    Key(
        "GatewayStallSeconds", Number(2, 3600), 15.0, "The same for gateways.", setting="gateway_stall_seconds",
    ),
)  # fmt: skip

PLACES = (
    Key(
        "RunDir", Folder(), None, "Folder on a tmpfs for all shared memory. One server at a time.", setting="run_dir",
        flag="--run-dir", metavar="DIR", default_prose="$RUNTIME_DIRECTORY, else /dev/shm/trackside-UID",
    ),
    Key(
        "DataDir", Folder(), None, "Folder on a disk for the local log and all other state. One server at a time.",
        setting="data_dir", flag="--data-dir", metavar="DIR",
        default_prose="$STATE_DIRECTORY, else ~/.local/state/trackside",
    ),
)  # fmt: skip


def _elsewhere(name: str, kind: Kind, instead: str, *harmless: object, environment: tuple[str, ...] = ()) -> Key:
    return Key(
        name, kind, None, instead, environment=environment, reference=True, instead=instead, harmless=harmless
    )  # fmt: skip


NOT_APPLICABLE = (
    _elsewhere(
        "InitialisationTimeoutSeconds", Whole(0, 2**32 - 1), "start-up reads the log to its end as it is at the start, "
        "and waits for no quiet period",
    ),
    _elsewhere("TerminationTimeoutSeconds", Whole(0, 2**32 - 1), "DrainSeconds bounds a stop"),
    _elsewhere("EnableRouterPublishMetrics", Switch(), "`/metrics` has what goes to the log", False),
    _elsewhere("EnableRouterConsumeMetrics", Switch(), "`/metrics` has what comes from the log", False),
    _elsewhere("EnableMetrics", Switch(), "metrics are always kept and served, on StatusAddress", True),
    _elsewhere("EnableLogging", Switch(), "the server logs to standard error", True),
    _elsewhere("AutoStart", Switch(), "the server starts at once", True, environment=("AUTO_START",)),
    _elsewhere(
        "ListenerPortNumber", Whole(0, 65535), "there is no start command over HTTP; the server starts at once",
        environment=("LISTENER_PORT_NUMBER",),
    ),
)  # fmt: skip

LIMITS = (
    Key(
        "KeepaliveSeconds", Number(1, 86_400), 60.0, "A TCP connection that has been silent for so long is asked whether "
        "anybody is there.", setting="keepalive_seconds",
    ),
    Key(
        "KeepaliveTimeoutSeconds", Number(1, 3600), 20.0, "Without an answer for so long it is closed, and its calls end; "
        "so is one whose other end does not take what was sent.", setting="keepalive_timeout_seconds",
    ),
    Key(
        "PacketsPerMessage", Whole(10_000, 1_000_000), 65_536, "Packets in one request message, which may have 6 MiB.",
        setting="packets_per_message",
    ),
    Key(
        "ConnectionsMax", Whole(1, 1_000_000), 50_000, "Connections that NewConnection makes and nobody has closed.",
        setting="connections_max",
    ),
    Key(
        "ConnectionIdleSeconds", Number(0, 31_536_000), 86_400.0, "A connection that no call has named and no open read "
        "has used for so long is closed. 0: none ever is, as in the reference.", setting="connection_idle_seconds",
        default_prose="86400, a day (the reference keeps them for ever)",
    ),
    Key(
        "TcpConnectionsMax", Whole(1, 1_000_000), 10_000, "TCP connections to each public port of one gateway; one more "
        "is closed at once. Fewer where the process may not open so many files.", setting="tcp_connections_max",
    ),
    Key(
        "OpenCallsMax", Whole(1, 1_000_000), 20_000, "Calls that are open at a time on one gateway, streams and others.",
        setting="open_calls_max",
    ),
    Key(
        "OpenCallsPerPeer", Whole(1, 1_000_000), 10_000, "The same of one peer address; all clients on one host are one "
        "peer.", setting="open_calls_per_peer",
    ),
    Key(
        "ControlCallsMax", Whole(1, 1_000_000), 2_000, "Control calls (of sessions, connections, data formats and keys) "
        "that the control plane has from one gateway at a time.", setting="control_calls_max",
    ),
    Key(
        "WaitingWritesMax", Whole(1, 1_000_000), 1_000, "Write requests of one gateway that wait for room in a ring; one "
        "more is refused at once.", setting="waiting_writes_max",
    ),
    Key(
        "WaitingWritesBytes", Bytes(64 * KIB, GIB), 64 * MIB, "What the packets of those requests may have together; in "
        "memory they take twice that.", setting="waiting_writes_bytes",
    ),
    Key(
        "MessagesPerSecondPerPeer", Whole(0, 10_000_000), 0, "Request messages that one peer address may send to one "
        "gateway, control calls and each message of a stream; what comes earlier waits, at most WriteWaitSeconds. 0 is "
        "no limit.", setting="messages_per_second_per_peer",
    ),
    Key(
        "BytesPerSecondPerPeer", Bytes(KIB, 1 << 40, zero="no limit"), 0, "The same of their bytes.",
        setting="bytes_per_second_per_peer",
    ),
)  # fmt: skip

GROUPS: dict[str, tuple[Key, ...]] = {
    "The log": LOG,
    "Security of the Kafka connection": SECURITY,
    "Security of the public ports": PORTS,
    "Names of topics": NAMES,
    "Behaviour": BEHAVIOUR,
    "Limits": LIMITS,
    "Processes": PROCESSES,
    "Places": PLACES,
    "Keys of the reference server that do not apply": NOT_APPLICABLE,
}

KEYS: tuple[Key, ...] = tuple(key for group in GROUPS.values() for key in group)

BY_SPELLING: dict[str, Key] = {spelled(key.name): key for key in KEYS}

SECTIONS_INSIDE = frozenset(spelled(key.name.split(".")[0]) for key in KEYS if "." in key.name)
"""Sections that hold keys of their own."""


def find_key(name: str) -> Key | None:
    """The key of this name in any spelling: case, ``_``, ``-`` and the step into a section do not count."""
    return BY_SPELLING.get(spelled(name))
