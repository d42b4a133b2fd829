"""What every gRPC server of a Trackside server is told, public or not."""

from __future__ import annotations

import resource

from trackside.data_plane.worker import Worker

__all__ = ["FILES_RESERVED", "PENDING_OPTIONS", "connections_max"]

PENDING_OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)
"""Calls that have arrived and that Python has not asked for yet. By itself grpc cancels some from the thousandth on,
without a word; but clients that come back all at once, after a restart say, are to be served."""

FILES_RESERVED = 256
"""Files of a gateway that are no clients' connections: shared memory, doorbells, what grpc and Python need."""


def connections_max(worker: Worker) -> int:
    """TCP connections that each public port of this process takes: grpc closes one more at once, and its client hears
    UNAVAILABLE. Without such a bound, clients that come could take the last file that the process may open."""
    wanted, ports = worker.spec.settings.tcp_connections_max, max(len(worker.spec.public_addresses), 1)
    files = _open_files_for(wanted * ports + FILES_RESERVED)
    possible = max((files - FILES_RESERVED) // ports, 1)
    if files != resource.RLIM_INFINITY and possible < wanted:
        worker.log(
            "warn", "fewer connections than configured", limit="TcpConnectionsMax", open_files=files, value=possible
        )
        return possible
    return wanted


def _open_files_for(wanted: int) -> int:
    """How many files this process may open: raised towards ``wanted`` as far as that is this process's to decide. A shell
    gives 1,024, which is meant for programs that call select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
