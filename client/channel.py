"""One way to open a gRPC channel, and to make a call that a restart of the server does not end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from trackside.client.access import Access, TokenSender
from trackside.client.errors import NotReachable, Refused

__all__ = ["PASSING_CODES", "Backoff", "call", "describe", "open_channel"]

Request = TypeVar("Request")
Response = TypeVar("Response")

PASSING_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
"""A process or the log is away, or there is too much at once: the same call may succeed later."""

_AGAIN = PASSING_CODES | {grpc.StatusCode.DEADLINE_EXCEEDED}

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a channel of its own connection: two of them reach two gateways
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
]

_PLAIN = Access()


def open_channel(address: str, access: Access = _PLAIN) -> grpc.Channel:
    """A channel to ``host:port`` that reconnects quickly, with TLS and a token as ``access`` says. Does not connect yet;
    blocks for the files only. Raises BadInput for one that cannot be used."""
    credentials = access.credentials()
    if credentials is None:
        channel = grpc.insecure_channel(address, options=_OPTIONS)
    else:
        channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
    return grpc.intercept_channel(channel, TokenSender(access.token_file)) if access.token_file else channel


class Backoff:
    """Pauses that grow from 50 ms to 1 s between attempts, and an end of all attempts.

    Failures further apart than ``CALM_SECONDS`` are two stories, not one that goes on.
    """

    CALM_SECONDS = 15.0

    def __init__(self, give_up_seconds: float) -> None:
        self._give_up_seconds = give_up_seconds
        self._first_failure = self._last_failure = -math.inf
        self._pause = 0.05

    def succeeded(self) -> None:
        self._last_failure = -math.inf

    def next_pause(self) -> float | None:
        """Seconds to wait before the next attempt; None when it is time to give up."""
        now = time.monotonic()
        if now - self._last_failure > self.CALM_SECONDS:
            self._first_failure, self._pause = now, 0.05
        self._last_failure = now
        if now - self._first_failure > self._give_up_seconds:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, 1.0)
        return pause


def call(
    rpc: Callable[..., Response], request: Any, *, timeout: float = 10.0, give_up_seconds: float = 30.0
) -> Response:
    """One unary call, repeated while the server is away or busy; blocks for ``give_up_seconds`` at most.

    A call whose answer was lost, or did not come within ``timeout``, is made again: use it for what may be done twice.
    Raises NotReachable, Refused.
    """
    deadline = time.monotonic() + give_up_seconds
    pause = 0.05
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            return rpc(request, timeout=min(timeout, left), wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() not in _AGAIN or time.monotonic() + pause > deadline:
                raise _final(error) from None
        time.sleep(pause)
        pause = min(pause * 2, 1.0)


def _final(error: grpc.RpcError) -> NotReachable | Refused:
    return (NotReachable if error.code() in _AGAIN else Refused)(describe(error))


def describe(error: grpc.RpcError) -> str:
    """Status and details of a failed call in one line."""
    return f"{error.code().name}: {error.details()}"
