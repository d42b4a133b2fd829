"""What systemd is told about the server: sd_notify(3), one datagram a message, no package needed."""

from __future__ import annotations

import os
import socket

__all__ = ["Notifier"]


class Notifier:
    """Sends to the socket that systemd names, and nowhere when there is none. Never blocks, never raises.

    Takes the variables out of the environment, so that workers do not speak for the server.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds()

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One sentence for ``systemctl status``."""
        self._send(f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def watchdog(self) -> None:
        """Proof of life; due at least every half of ``watchdog_seconds``."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError:
            pass  # systemd has gone or is full; the watchdog says so if it lasts


def _watchdog_seconds() -> float:
    """The bound of WatchdogSec, 0 when there is none or it is meant for another process."""
    microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not microseconds.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6


def _line(text: str) -> str:
    return " ".join(text.split())
