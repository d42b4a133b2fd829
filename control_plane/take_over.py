"""Taking over from a server that runs: it is asked to drain, and what it had belongs to its successor.

::

    successor                                   server that is taken over from
    lay out an instance beside
    gateways listen on the same ports           serves
      (control calls and writes wait there)
    SIGTERM ----------------------------------> stops listening, ends streams with a status, logs what it accepted
    the lock of the run directory <------------ all its processes have exited
    connections, keys, rings that it left
    consumers, control plane; producers, once what it left is logged
    writes go on

New clients find a listening socket all the time. No write is accepted by the successor before everything that the
other had accepted is in the log or first in line, so their order is kept.
"""

from __future__ import annotations

import contextlib
import os
import signal

from trackside.control_plane.exit_codes import CommandFailed, ExitCode
from trackside.data_plane.spec import Settings
from trackside.shm.observe import NothingToObserve, Server, observe

__all__ = ["Predecessor", "find_predecessor", "log_name"]


class Predecessor:
    """The server that has the run directory now. Held by a pidfd: no other process is ever signalled in its place."""

    def __init__(self, server: Server, pidfd: int) -> None:
        self.pid = server.pid
        self.ports = (server.port, server.key_port, server.status_port)
        self.log = server.log
        self._pidfd = pidfd

    def drain(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Its processes die with it; what it had accepted is in its rings."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has gone by itself
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        os.close(self._pidfd)


def find_predecessor(settings: Settings) -> Predecessor | None:
    """Who has the run directory; None when nobody has. Raises CommandFailed when it has another log."""
    try:
        pidfd = os.pidfd_open(observe(settings.run_dir, counters=False).pid)
    except (NothingToObserve, ProcessLookupError, ValueError):
        return None
    server = observe(settings.run_dir, counters=False)  # looked at again: the number may have changed hands
    if not server.alive:
        os.close(pidfd)
        return None
    if server.log != log_name(settings):
        os.close(pidfd)
        reason = f"the server in {settings.run_dir} has the log {server.log}, this configuration {log_name(settings)}"
        raise CommandFailed(ExitCode.CONFIGURATION, f"cannot take over: {reason}")
    return Predecessor(server, pidfd)


def log_name(settings: Settings) -> str:
    """The log as server.json names it."""
    return f"kafka {settings.broker}" if settings.broker else f"local {settings.data_dir}"
