"""The public ports: reserved by the supervisor before any gateway listens, and kept while they come and go."""

from __future__ import annotations

import socket

from trackside.control_plane.exit_codes import CommandFailed, ExitCode

__all__ = ["PortReservation"]


class PortReservation:
    """One port. First bound *without* SO_REUSEPORT, which fails when anybody has it (grpc would share it silently);
    then bound with it and never listened on, so that only gateways of this server can join. Port 0 takes a free one.
    """

    def __init__(self, address: str, port: int, key: str) -> None:
        """Raises CommandFailed naming ``key``, the port and the reason."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                self.port: int = probe.getsockname()[1]
            self._socket = socket.socket(family)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((address, self.port))
        except OSError as error:
            hint = "; on desktops a media player's web interface uses 13579 too" if port == 13579 else ""
            raise CommandFailed(
                ExitCode.CANNOT_CREATE,
                f"{key} {port} on {address}: {error.strerror}; choose another, or 0 for a free one{hint}",
            ) from None
        self.address = f"[{address}]:{self.port}" if family == socket.AF_INET6 else f"{address}:{self.port}"

    def close(self) -> None:
        self._socket.close()
