"""What ``trackside doctor`` looks at, one function a subject. Each is a generator of findings; none changes anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from trackside.control_plane.exit_codes import CommandFailed
from trackside.control_plane.machine import Machine, nearest
from trackside.control_plane.ports import PortReservation
from trackside.control_plane.run_directory import holds_packets
from trackside.control_plane.topology import Topology
from trackside.data_plane.data_dir import partition_dir, partitions_on_disk, read_identity, segment_bases, segment_path
from trackside.data_plane.kafka_report import KafkaReport
from trackside.data_plane.log import LogConfigurationError, Partition
from trackside.data_plane.segments import read_segment_head
from trackside.data_plane.spec import MIB, Settings
from trackside.shm.fence import UnsupportedMachine, require_ordering
from trackside.shm.observe import NothingToObserve, Server, observe

__all__ = ["CHECKS", "Case", "Finding"]

OPEN_FILES_MIN = 4096
"""A connection is a descriptor of its gateway; the local log keeps a few hundred segment files open at a time."""

FILES_OF_A_PROCESS = 600
"""What a worker opens for itself: rings, doorbells, segments."""

PROCESS_BYTES = 120 * MIB
"""What a process of the server takes when it works: measured 60 to 110 MiB."""

THREADS_OF_A_PROCESS = 40
"""Measured 9 to 14 on two cores; gRPC has more of them where there are more cores."""

COMMITTED_BYTES = 500 * MIB
"""What a process asks for and mostly never touches, stacks of threads among it: measured 270 to 480 MiB."""

DISK_BYTES_MIN = 1024 * MIB
HOURS_MIN = 12.0
DAY_SECONDS = 86_400.0
PACE_SECONDS_MIN = 60.0
"""A pace is said only where writing went on for this long."""

KAFKA_SECONDS = 25.0
"""Bound of the process that asks Kafka: three answers of its own, and the start of a Python."""

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
FAR_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
FAST_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")


class Finding(NamedTuple):
    """``fail``: the server cannot do its work. ``warn``: it can, but not as well, or not for long."""

    level: Literal["ok", "warn", "fail"]
    about: str
    text: str
    advice: str = ""


class Case:
    """What is examined: the settings, the machine, and the server that may be running there already."""

    def __init__(self, settings: Settings, machine: Machine | None = None) -> None:
        self.settings = settings
        self.machine = machine or Machine()
        self.run_dir = Path(settings.run_dir)
        self.data_dir = Path(settings.data_dir)
        self.topology = Topology(settings, self.run_dir / "instances" / "planned")

    @property
    def kafka(self) -> Settings | None:
        """Settings with the Kafka that is logged or forwarded to as their broker."""
        address = self.settings.broker or self.settings.forward_to
        return msgspec.structs.replace(self.settings, broker=address) if address else None

    @cached_property
    def running(self) -> Server | None:
        """The server that has this run directory now."""
        try:
            found = observe(self.run_dir, counters=False)
        except NothingToObserve:
            return None
        return found if found.alive else None


def check_server(case: Case) -> Iterator[Finding]:
    if server := case.running:
        reason = f": {server.reason}" if server.reason else ""
        level: Literal["ok", "warn"] = "ok" if server.state == "SERVING" else "warn"
        yield Finding(level, "server", f"runs as pid {server.pid} in {case.run_dir}, {server.state}{reason}")


def check_processor(case: Case) -> Iterator[Finding]:
    try:
        require_ordering()
    except UnsupportedMachine as error:
        yield Finding("fail", "processor", str(error))
    slots = case.topology.slots(defaultdict(int))
    workers = [slot for slot in slots if slot.role in ("gateway", "producer", "consumer")]
    cores = len(case.machine.cores())
    if pinned := [slot for slot in workers if len(slot.cores) == 1 < cores]:
        places = ", ".join(f"{slot.name} on {slot.cores[0]}" for slot in pinned)
        yield Finding("ok", "cores", f"{cores} to use; {places}")
    elif len(workers) > 3:
        text = f"{cores} to use, shared by {len(workers)} gateways, producers and consumers"
        yield Finding("warn", "cores", text, f"fewer of them, or {len(workers) + 1} cores: then each has its own")
    else:
        yield Finding("ok", "cores", f"{cores} to use, shared by all processes")
    if slow := case.machine.governors() - {"performance"}:
        yield Finding("warn", "cpu governor", ", ".join(sorted(slow)), "cpupower frequency-set -g performance")


def check_memory(case: Case) -> Iterator[Finding]:
    needed = PROCESS_BYTES * len(case.topology.names)
    available = case.machine.memory_available()
    text = f"{_size(available)} available, {len(case.topology.names)} processes take about {_size(needed)}"
    if available < needed and not case.running:
        yield Finding("warn", "memory", text, "give the machine or container more, or run fewer processes")
    else:
        yield Finding("ok", "memory", text)
    swap, swappiness = case.machine.swap()
    if swap and swappiness > 10:
        yield Finding(
            "warn",
            "swap",
            f"{_size(swap)}, vm.swappiness {swappiness}: shared memory may be swapped out",
            "sysctl vm.swappiness=1, or MemorySwapMax=0 in the unit",
        )


def check_shared_memory(case: Case) -> Iterator[Finding]:
    kind = case.machine.file_system(case.run_dir)
    if kind not in MEMORY_FILE_SYSTEMS:
        yield Finding(
            "warn", "run directory", f"{case.run_dir} lies on {kind}, not on a tmpfs", "RunDir below /dev/shm or /run"
        )
    needed, free = case.topology.shared_bytes(), case.machine.free_bytes(case.run_dir)
    if case.running:
        text = f"in use by this server; {_size(free)} more are free, a take-over needs"
        if free < needed:
            advice = "enlarge that tmpfs: beside what is in use a second instance of the same shape must find room"
            yield Finding("warn", "shared memory", f"{text} {_size(needed)}", advice)
        else:
            yield Finding("ok", "shared memory", f"{text} {_size(needed)}")
        return
    # A start removes dead instances; what they hold goes to the data directory where there is no room beside it.
    free += sum(_taken(path) for path in case.run_dir.glob("instances/*/**/*"))
    if free < needed:
        yield Finding(
            "fail",
            "shared memory",
            f"{nearest(case.run_dir)} has {_size(free)} free, this shape needs {_size(needed)}",
            "enlarge that tmpfs (container: --shm-size), or fewer gateways, producers and consumers",
        )
    else:
        yield Finding(
            "ok", "shared memory", f"{_size(free)} free at {nearest(case.run_dir)}, this shape needs {_size(needed)}"
        )
    yield from _check_waiting(case)


def _check_waiting(case: Case) -> Iterator[Finding]:
    """Accepted packets of a server that died, or could not log them when it was stopped: the next start logs them."""
    if case.running:
        return
    if waiting := _with_packets(case.run_dir / "instances"):
        text = f"packets of {waiting} dead instances wait in {case.run_dir / 'instances'}: the next start logs them"
        yield Finding("warn", "recovery", text, "start the server before this machine is switched off")
    if waiting := _with_packets(case.data_dir / "unlogged"):
        text = f"packets of {waiting} stopped instances wait in {case.data_dir / 'unlogged'}: the next start logs them"
        yield Finding(
            "warn", "recovery", text, "start the server when its log can be reached, before any other writes there"
        )


def _with_packets(folder: Path) -> int:
    """How many instances in ``folder`` have something to recover."""
    try:
        return sum(instance.is_dir() and holds_packets(instance) for instance in folder.iterdir())
    except OSError:  # none was made, or others may not look: another check says that
        return 0


def _taken(path: Path) -> int:
    """Bytes of memory of a file on a tmpfs."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def check_open_files(case: Case) -> Iterator[Finding]:
    most = case.machine.open_files_max()
    connections = max(most - FILES_OF_A_PROCESS, 0) * case.settings.gateways
    text = f"{most:,} a process: some {connections:,} client connections"
    if most < OPEN_FILES_MIN:
        yield Finding("warn", "open files", text, "ulimit -n 65536, or LimitNOFILE=65536 in the unit")
    else:
        yield Finding("ok", "open files", text)


def check_threads(case: Case) -> Iterator[Finding]:
    """The kernel counts threads: of the user (ulimit -u), and of the container or unit (pids.max)."""
    needed, free = THREADS_OF_A_PROCESS * len(case.topology.names), case.machine.threads_available()
    if free is not None and free < needed and not case.running:
        text = f"{free:,} more may be started, {len(case.topology.names)} processes take up to {needed:,}"
        yield Finding(
            "warn", "threads", text, "ulimit -u, LimitNPROC= and TasksMax= in the unit, container: --pids-limit"
        )
    else:
        yield Finding("ok", "threads", "no limit" if free is None else f"{free:,} more may be started")


def check_overcommit(case: Case) -> Iterator[Finding]:
    """Only where the kernel promises no memory that it does not have (vm.overcommit_memory = 2)."""
    free, needed = case.machine.commit_available(), COMMITTED_BYTES * len(case.topology.names)
    if free is not None and free < needed and not case.running:
        text = (
            f"vm.overcommit_memory = 2 and {_size(free)} left to promise; the processes ask for about {_size(needed)}"
        )
        yield Finding("warn", "overcommit", text, "sysctl vm.overcommit_memory=0, or a larger vm.overcommit_ratio")


def check_ports(case: Case) -> Iterator[Finding]:
    settings = case.settings
    wanted = (
        (settings.listen_address, settings.port, "StreamApiPort"),
        (settings.listen_address, settings.key_port, "KeyGeneratorPort"),
        (settings.status_address, settings.status_port, "PrometheusMetricPort"),
    )
    own = {case.running.port, case.running.key_port, case.running.status_port} if case.running else set()
    for address, port, key in wanted:
        if port in own:
            yield Finding("ok", "port", f"{key} {port}: this server's")
            continue
        try:
            PortReservation(address, port, key).close()
        except CommandFailed as failed:
            yield Finding("fail", "port", str(failed))
        else:
            yield Finding("ok", "port", f"{key} {port or 'any'} on {address} is free")


def check_clock(case: Case) -> Iterator[Finding]:
    synchronised = case.machine.clock_synchronised()
    if synchronised is False:
        yield Finding(
            "warn",
            "clock",
            "nobody synchronises it: times of sessions differ from those of other machines",
            "chrony, systemd-timesyncd or ptp4l; in a virtual machine the host may do it unseen",
        )
    else:
        yield Finding("ok", "clock", "synchronised" if synchronised else "this machine does not say")
    source = case.machine.clock_source()
    if source is not None and source not in FAST_CLOCKS:
        yield Finding("warn", "clock source", f"{source}: reading it is a system call", "clocksource=tsc, if stable")


def check_folders(case: Case) -> Iterator[Finding]:
    """Only we and nobody else may read what clients send."""
    for about, folder in (("run directory", case.run_dir), ("data directory", case.data_dir)):
        existing = nearest(folder)
        if not os.access(existing, os.W_OK | os.X_OK):
            who = f"user {os.geteuid()} may not write in {existing}"
            yield Finding("fail", about, who, f"chown it, or choose another than {folder}")
        elif folder.exists() and folder.stat().st_mode & 0o007:
            mode = f"{folder.stat().st_mode & 0o777:03o}"
            yield Finding("warn", about, f"{folder} has mode {mode}: others may look into it", f"chmod 700 {folder}")
        else:
            yield Finding("ok", about, str(folder))


def check_disk(case: Case) -> Iterator[Finding]:
    try:
        read_identity(case.data_dir)
    except LogConfigurationError as error:
        yield Finding("fail", "data directory", str(error))
    if (kind := case.machine.file_system(case.data_dir)) in FAR_FILE_SYSTEMS:
        yield Finding("warn", "disk", f"{case.data_dir} lies on {kind}: each sync crosses the network", "a local disk")
    free, bytes_an_hour = case.machine.free_bytes(case.data_dir), 3600 * _pace(case.data_dir)
    hours = f", {free / bytes_an_hour:,.0f} hours at the last day's pace" if bytes_an_hour else ""
    text = f"{_size(free)} free for {case.data_dir}{hours}"
    kept = case.settings.retention_bytes or case.settings.retention_seconds
    if free < DISK_BYTES_MIN or (bytes_an_hour and free < HOURS_MIN * bytes_an_hour and not kept):
        yield Finding("warn", "disk", text, "a larger disk, or RetentionBytes or RetentionSeconds")
    else:
        yield Finding("ok", "disk", text)


def check_kafka(case: Case) -> Iterator[Finding]:
    """In a process of its own: librdkafka's threads and the secrets stay there, and it can be ended."""
    if not case.settings.broker:
        yield Finding("ok", "log", "on this machine's disk")
    if case.kafka is not None:
        yield from _ask_kafka(case, case.kafka)


def _ask_kafka(case: Case, settings: Settings) -> Iterator[Finding]:
    command = [sys.executable, "-P", "-m", "trackside.data_plane.kafka_check"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(settings), capture_output=True, timeout=KAFKA_SECONDS, check=True
        )
        yield from _judge_kafka(
            settings, msgspec.json.decode(done.stdout, type=KafkaReport), edge=not case.settings.broker
        )
    except subprocess.TimeoutExpired:
        yield Finding("fail", "Kafka", f"{settings.broker}: no answer within {KAFKA_SECONDS:g} s")
    except (subprocess.CalledProcessError, msgspec.DecodeError):
        yield Finding("fail", "Kafka", f"{settings.broker}: could not be asked")


def _judge_kafka(settings: Settings, report: KafkaReport, *, edge: bool) -> Iterator[Finding]:
    broker = settings.broker
    if report.problem and edge:
        yield Finding("warn", "Kafka", f"{broker}: {report.problem}", "nothing, if the link is down: forwarding waits")
        return
    if report.problem:
        advice = "the address (BrokerUrl), the network, the Security section; the server would start and wait for it"
        yield Finding("fail", "Kafka", f"{broker}: {report.problem}", advice)
        return
    yield Finding("ok", "Kafka", f"{broker}: {report.brokers} brokers, {report.topics} topics")
    if (wanted := settings.replication_factor) > report.brokers:
        text = f"ReplicationFactor {wanted} with {report.brokers} brokers: no topic can be made"
        yield Finding("fail", "replication", text, "ReplicationFactor -1 takes the cluster's own")
    most = report.packet_bytes_max
    if most is not None and most < settings.max_packet_bytes:
        yield Finding(
            "warn",
            "packet size",
            f"the brokers take messages up to {most:,} bytes, MaxPacketBytes is {settings.max_packet_bytes:,}: "
            "larger packets are refused",
            f"message.max.bytes of the brokers, or MaxPacketBytes {most}",
        )


def _pace(data_dir: Path) -> float:
    """Bytes a second while the local log was written during the last day; 0.0 where too little was."""
    return sum(_pace_of(data_dir, partition) for partition in partitions_on_disk(data_dir))


def _pace_of(data_dir: Path, partition: Partition) -> float:
    folder = partition_dir(data_dir, partition)
    written, begun, ended = 0, 0.0, 0.0
    for base in reversed(segment_bases(folder)):
        path = segment_path(folder, base)
        try:
            status, made = path.stat(), _made_at(path)
        except OSError:  # retention was quicker
            continue
        if made is None or status.st_mtime < time.time() - DAY_SECONDS:
            break
        written, begun, ended = written + status.st_size, made, max(ended, status.st_mtime)
    return written / (ended - begun) if ended - begun > PACE_SECONDS_MIN else 0.0


def _made_at(path: Path) -> float | None:
    """Seconds since 1970, from the segment's own head."""
    with open(path, "rb") as file:
        head = read_segment_head(file.fileno())
    return head[0].time_ns / 1e9 if head else None


def _size(amount: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_server,
    check_processor,
    check_memory,
    check_shared_memory,
    check_overcommit,
    check_open_files,
    check_threads,
    check_ports,
    check_clock,
    check_folders,
    check_disk,
    check_kafka,
)
"""In the order in which they are told; the one that may take seconds is last."""
