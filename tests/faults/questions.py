"""What the server must know whatever happens: a session, its details, data formats and a connection of each data source.

One thread a data source goes on asking, and changes one detail of the session: whoever had an answer sees it in every
later one.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import grpc
from faults.pauses import Pause
from faults.writing import open_channel

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc

__all__ = ["Questions"]

CALL: dict[str, Any] = {"timeout": 30, "wait_for_ready": True}
CHANGE_EVERY = 5
WAIT_SECONDS = 0.1
PARAMETERS = ["vCar:Chassis", "nEngine:Controller"]


class Questions:
    """Raises grpc.RpcError when what it asks about cannot even be made."""

    def __init__(self, address: str, data_source: str) -> None:
        self.pause = Pause()
        self.wrong: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.answered = 0
        self._address = address
        self._source = data_source
        self._stopping = threading.Event()
        self._told = 0  # the newest change that was answered with success
        self._asked = 0
        self._connect()
        self._make()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.pause.begin()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        self._channel.close()

    def check_all(self) -> None:
        """Everything once more, by a new client."""
        self._channel.close()
        self._connect()
        try:
            self._ask_all()
        except grpc.RpcError as error:
            self.wrong.append(f"{self._source}: no answer at the end: {error.code()} {error.details()}")  # type: ignore[attr-defined]

    def _connect(self) -> None:
        self._channel = open_channel(self._address)
        self._sessions = api_pb2_grpc.SessionManagementServiceStub(self._channel)
        self._formats = api_pb2_grpc.DataFormatManagerServiceStub(self._channel)
        self._connections = api_pb2_grpc.ConnectionManagerServiceStub(self._channel)

    def _make(self) -> None:
        created = api_pb2.CreateSessionRequest(data_source=self._source, identifier="run", details={"n": "0"})
        self._key = self._sessions.CreateSession(created, **CALL).session_key
        wanted = api_pb2.GetParameterDataFormatIdRequest(data_source=self._source, parameters=PARAMETERS)
        self._format = self._formats.GetParameterDataFormatId(wanted, **CALL).data_format_identifier
        self._details = api_pb2.ConnectionDetails(data_source=self._source, streams=["s", "h"], stream_offsets=[5, 7])
        made = self._connections.NewConnection(api_pb2.NewConnectionRequest(details=self._details), **CALL)
        self._connection = made.connection

    def _run(self) -> None:
        rounds = 0
        while not self._stopping.is_set():
            rounds += 1
            try:
                self._ask_session()
                self.pause.end()
                if rounds % CHANGE_EVERY == 0:
                    self._ask_formats()
                    self._ask_connection()
                    self._change()
            except grpc.RpcError as error:
                code = error.code().name  # type: ignore[attr-defined]
                self.statuses[code] += 1
            self._stopping.wait(WAIT_SECONDS)
        self.pause.stop()

    def _change(self) -> None:
        self._asked += 1
        wanted = api_pb2.UpdateSessionDetailsRequest(session_key=self._key, details={"n": str(self._asked)})
        if self._sessions.UpdateSessionDetails(wanted, timeout=10).success:
            self._told = self._asked
        else:
            self._say(f"session {self._key} is not known to UpdateSessionDetails")

    def _ask_all(self) -> None:
        self._ask_session()
        self._ask_formats()
        self._ask_connection()

    def _ask_session(self) -> None:
        told = self._told
        found = self._sessions.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key=self._key), timeout=10)
        self.answered += 1
        if not found.success or found.identifier != "run" or found.data_source != self._source:
            self._say(f"session {self._key} is not what it was: {str(found)[:200]!r}")
        elif not told <= int(found.details["n"]) <= self._asked:
            self._say(f"session {self._key} has n={found.details['n']} after n={told} was answered")

    def _ask_formats(self) -> None:
        wanted = api_pb2.GetParametersListRequest(data_source=self._source, data_format_identifier=self._format)
        found = self._formats.GetParametersList(wanted, timeout=10)
        self.answered += 1
        if list(found.parameters) != PARAMETERS:
            self._say(f"data format {self._format} has {list(found.parameters)}")

    def _ask_connection(self) -> None:
        wanted = api_pb2.GetConnectionRequest(connection=self._connection)
        found = self._connections.GetConnection(wanted, timeout=10)
        self.answered += 1
        if found.details != self._details:
            self._say(f"connection {self._connection.id} has {str(found.details)!r}")

    def _say(self, text: str) -> None:
        self.wrong.append(f"{self._source}: {text}")
