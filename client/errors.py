"""What can go wrong for a client, one class for each remedy; every message is one line."""

from __future__ import annotations

__all__ = ["BadInput", "ClientError", "NotReachable", "Refused"]


class ClientError(Exception):
    """The root of the client's errors."""


class NotReachable(ClientError):
    """No server answered within the bound. Remedy: check the address, or wait and call again."""


class Refused(ClientError):
    """The server answered and said no. Remedy: what its reason says."""


class BadInput(ClientError, ValueError):
    """A value cannot be sent. Remedy: change ``field``."""

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(f"{field} is {value!r}: {limit}")
        self.field = field
        self.value = value
        self.limit = limit
