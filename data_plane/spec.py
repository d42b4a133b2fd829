"""What a worker is told: frozen structs, JSON on an inherited descriptor, the only thing that crosses ``exec``."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["LinkSpec", "Role", "Settings", "SlotSpec", "WorkerSpec", "decode_spec", "encode_spec"]

KIB = 1 << 10
MIB = 1 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration as concluded: file < environment < flags, checked, then never changed.

    ``control_plane.config`` makes it from its table of keys; workers only read it. Durations are seconds, sizes bytes.
    """

    # the log
    broker: str = ""  # empty: the local log
    forward_to: str = ""  # brokers that the local log is copied to; empty: it stays here
    security: dict[str, str] = msgspec.field(default_factory=dict)  # librdkafka properties, secrets among them
    publisher_overrides: dict[str, str] = msgspec.field(default_factory=dict)
    consumer_overrides: dict[str, str] = msgspec.field(default_factory=dict)
    replication_factor: int = -1  # -1: the broker's default
    sync: Literal["Interval", "Each"] = "Interval"
    sync_interval_seconds: float = 1.0
    segment_bytes: int = 64 * MIB
    retention_bytes: int = 0  # of one partition; 0: no limit
    retention_seconds: float = 0.0  # 0: no limit

    # names
    strategy: Literal["TopicBased", "PartitionBased"] = "TopicBased"
    partition_mappings: dict[str, int] = msgspec.field(default_factory=dict)  # stream -> partition
    naming: Literal["legacy", "domain"] = "legacy"
    domain: str = ""

    # behaviour
    integrate_session_management: bool = True
    integrate_data_format_management: bool = True
    reflection: bool = True
    batching_responses: bool = False
    batching_bytes: int = 4096 * KIB
    batching_seconds: float = 0.05
    acknowledge: Literal["Ring", "Log"] = "Ring"
    write_wait_seconds: float = 5.0
    park_after_seconds: float = 2.0
    park_bytes: int = 16 * MIB  # of one producer
    max_packet_bytes: int = 4 * MIB - 64 * KIB
    reader_buffer_bytes: int = 4 * MIB
    all_readers_buffer_bytes: int = 256 * MIB
    when_slow: Literal["CatchUp", "Skip", "End"] = "CatchUp"
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 20.0
    packets_per_message: int = 65_536
    connections_max: int = 50_000
    connection_idle_seconds: float = 86_400.0  # 0: for ever
    tcp_connections_max: int = 10_000  # of each public port, a gateway
    open_calls_max: int = 20_000  # a gateway
    open_calls_per_peer: int = 10_000  # a gateway
    control_calls_max: int = 2_000  # a gateway
    waiting_writes_max: int = 1_000  # a gateway
    waiting_writes_bytes: int = 64 * MIB  # a gateway
    messages_per_second_per_peer: int = 0  # 0: no limit
    bytes_per_second_per_peer: int = 0  # 0: no limit
    metrics_per_connection: bool = True
    stream_start_stop_packets: bool = False
    node_number: int | None = None  # None: any that no other server on this log has
    use_remote_keys: bool = False
    remote_key_address: str = ""
    remote_key_authority: str = ""  # PEM file; empty: plain text
    remote_key_certificate: str = ""
    remote_key_key: str = ""
    remote_key_token_file: str = ""

    # processes
    listen_address: str = "0.0.0.0"
    port: int = 13579
    key_port: int = 15379
    status_address: str = "127.0.0.1"
    status_port: int = 10010
    gateways: int = 1
    producers: int = 1
    consumers: int = 1
    cores: list[int] | None = None  # cores that workers may be pinned to; None: decided from the machine
    start_seconds: float = 30.0
    drain_seconds: float = 20.0
    stall_seconds: float = 30.0
    gateway_stall_seconds: float = 15.0

    # security of the public ports
    tls_certificate: str = ""  # empty: plain text
    tls_key: str = ""
    tls_client_authority: str = ""  # empty: clients need no certificate
    tokens_file: str = ""  # empty: everybody may do everything

    # places
    run_dir: str = ""
    data_dir: str = ""

    def without_kafka(self) -> Settings:
        """For a process that does not talk to Kafka: without credentials, and what else may hold some."""
        return msgspec.structs.replace(self, security={}, publisher_overrides={}, consumer_overrides={})

    @property
    def slice_bytes(self) -> int:
        """What a reader in the past gets before it has to ask again: its buffer has room for eight."""
        return self.reader_buffer_bytes // 8


Role = Literal["control-plane", "gateway", "producer", "consumer", "forwarder", "recovery"]


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One link: the two ring files between a peer and a log worker."""

    peer: str
    worker: str
    down: str  # peer to worker
    up: str  # worker to peer


class SlotSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the process table, as everybody may know it: the slot outlives the processes that fill it."""

    name: str
    role: Role
    index: int  # among the processes of its role
    liveness: str
    counters: str
    doorbell: int  # descriptor of its eventfd, the same number in every process
    cores: list[int]  # empty: not pinned


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that one process is told. ``epoch`` counts the incarnations of its slot."""

    name: str
    role: Role
    index: int
    epoch: int
    parent_pid: int
    instance: str
    settings: Settings
    slots: list[SlotSpec]
    links: list[LinkSpec]  # this process's own
    all_links: list[LinkSpec]  # everybody's, for positions seen from outside
    control_socket: str
    log_tables: list[str]  # published ends of the local log, one file a producer, in their order; then the recovery's
    stale_instances: list[str] = []  # recovery only: folders of dead instances, oldest first
    careful: bool = False  # producers and recovery: a record may have ended the predecessors (poison.py)
    public_addresses: list[str] = []  # gateways only: host:port
    status_port: int = 0  # control plane only, on settings.status_address; 0: none
    holds_writes: bool = False  # gateways only: accept none before the producers have been started

    def slot(self, name: str) -> SlotSpec:
        return next(slot for slot in self.slots if slot.name == name)

    @property
    def forwarder_table(self) -> str:
        """How far the forwarder is, in edge mode."""
        return f"{self.instance}/forwarder.log-table"

    @property
    def own_slot(self) -> SlotSpec:
        return self.slot(self.name)


def encode_spec(spec: WorkerSpec) -> bytes:
    return msgspec.json.encode(spec)


def decode_spec(data: bytes) -> WorkerSpec:
    return msgspec.json.decode(data, type=WorkerSpec)
