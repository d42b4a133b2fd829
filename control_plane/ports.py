"""The public ports: reserved by the supervisor before any gateway listens, and kept while they come and go."""

from __future__ import annotations

import socket

from trackside.control_plane.exit_codes import CommandFailed, ExitCode

__all__ = ["PortReservation"]


class PortReservation:
    """One port. First bound *without* SO_REUSEPORT, which fails when anybody has it (grpc would share it silently);
    then bound with it and never listened on, so that only gateways of this server can join. Port 0 takes a free one.
    With ``join=True`` another server of this user may have it, which is to be taken over from.
    """

    def __init__(self, address: str, port: int, key: str, *, join: bool = False) -> None:
        """Raises CommandFailed naming ``key``, the port and the reason."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self.port = port if join and port else _probe(family, address, port)
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


def _probe(family: socket.AddressFamily, address: str, port: int) -> int:
    """The port, or a free one for 0. Raises OSError when anybody has it."""
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return int(probe.getsockname()[1])
