"""How long control calls take: a process of its own, so that what loads the server does not slow the clock beside it.

    python -m trackside.bench.control_probe '{"address": "127.0.0.1:13579", "data_source": "Bench"}'

Started by ``bench/writers.py``. It calls one method after another until the order ``tell`` comes, answers with the
latencies since the last one, and goes on; it ends with its stdin.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
from trackside.bench.ledger import Latencies
from trackside.bench.talk import listen_for_orders, tell
from trackside.client.channel import open_channel

PAUSE_SECONDS = 0.005
CALL_SECONDS = 30.0


class Probe:
    """One channel, all kinds of calls in turn. A call that fails is counted and has no latency."""

    def __init__(self, channel: grpc.Channel, data_source: str) -> None:
        self._sessions = api_pb2_grpc.SessionManagementServiceStub(channel)
        self._connections = api_pb2_grpc.ConnectionManagerServiceStub(channel)
        self._data_source = data_source
        self._lock = threading.Lock()
        self._start_again()

    def run(self) -> None:
        """For ever: a connection is made, asked for and closed, and the sessions are asked for."""
        details = api_pb2.ConnectionDetails(data_source=self._data_source)
        while True:
            sessions = api_pb2.GetCurrentSessionsRequest(data_source=self._data_source)
            self._timed("GetCurrentSessions", self._sessions.GetCurrentSessions, sessions)
            new = api_pb2.NewConnectionRequest(details=details)
            made = self._timed("NewConnection", self._connections.NewConnection, new)
            if made is not None:
                close = api_pb2.CloseConnectionRequest(connection=made.connection)
                self._timed("CloseConnection", self._connections.CloseConnection, close)

    def on_order(self, order: dict[str, Any]) -> None:
        with self._lock:
            calls = {name: latencies.summary() for name, latencies in self._latencies.items()}
            failed = self._failed
            self._start_again()
        tell(order["tell"], calls=calls, failed=failed)

    def _start_again(self) -> None:
        self._latencies = {name: Latencies() for name in ("GetCurrentSessions", "NewConnection", "CloseConnection")}
        self._failed: list[str] = []

    def _timed(self, name: str, call: Callable[..., Any], request: object) -> Any:
        begun = time.monotonic_ns()
        try:
            answer = call(request, timeout=CALL_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            with self._lock:
                self._failed.append(f"{name}: {error.code().name}: {error.details()}")
            return None
        finally:
            took = time.monotonic_ns() - begun
            time.sleep(PAUSE_SECONDS)
        with self._lock:
            self._latencies[name].record(took)
        return answer


def main(arguments: dict[str, Any]) -> None:
    with open_channel(arguments["address"]) as channel:
        probe = Probe(channel, arguments["data_source"])
        listen_for_orders(probe.on_order)
        tell("ready")
        probe.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
