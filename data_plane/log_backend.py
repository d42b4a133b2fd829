"""Which log this server has: Kafka when a broker is configured, else segment files on disk."""

from __future__ import annotations

from pathlib import Path

from trackside.data_plane.forwarded_ends import ForwardedEnds
from trackside.data_plane.log import LogReader, LogWriter
from trackside.data_plane.park_file import rings_in_parks
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import WorkerSpec
from trackside.data_plane.worker import Worker

__all__ = ["live_rings", "open_reader", "open_writer"]


def open_writer(worker: Worker) -> LogWriter:
    """The writer of a producer (or of the recovery). Raises LogConfigurationError, OSError."""
    spec = worker.spec
    settings = spec.settings
    if settings.broker:
        from trackside.data_plane.kafka_log import KafkaLogWriter

        routing = Routing(settings)
        return KafkaLogWriter(
            settings,
            wake=worker.doorbell.ring,
            partitions_of=routing.partition_count,
            dead_letter_topic=routing.dead_letter.topic,
        )
    from trackside.data_plane.local_log import LocalLogWriter

    readers = [worker.attach(slot.name)[1] for slot in spec.slots if slot.role in ("consumer", "forwarder")]

    def ring_readers() -> None:
        for doorbell in readers:
            doorbell.ring_if_asleep()

    return LocalLogWriter(
        Path(settings.data_dir),
        Path(spec.log_tables[spec.index]),
        settings=settings,
        live_rings=live_rings(spec),
        wake=worker.doorbell.ring,
        on_published=ring_readers,
        is_forwarded=ForwardedEnds(Path(spec.forwarder_table)).is_forwarded if settings.forward_to else None,
    )


def live_rings(spec: WorkerSpec) -> set[str]:
    """Prefixes of rings from which something may come yet: the instances', and what is only in their parks any more.

    Raises ParkDamaged.
    """
    stale = [Path(folder) for folder in spec.stale_instances]
    parked = {ring for folder in stale for ring in rings_in_parks(folder)}
    return parked | {folder.name for folder in (Path(spec.instance), *stale)}


def open_reader(worker: Worker) -> LogReader:
    """The reader of a consumer. Raises LogConfigurationError."""
    spec = worker.spec
    settings = spec.settings
    if settings.broker:
        from trackside.data_plane.kafka_log import KafkaLogReader

        return KafkaLogReader(settings, wake=worker.doorbell.ring)
    from trackside.data_plane.local_log import LocalLogReader

    return LocalLogReader(
        Path(settings.data_dir),
        [Path(table) for table in spec.log_tables],
        name=spec.name,
        sync_seconds=settings.sync_interval_seconds,
    )
