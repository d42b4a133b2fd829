"""Calls of the control services in short, for tests over a real server; each fails the test when it should succeed."""

from __future__ import annotations

import threading
from typing import Any

import grpc
from server import Client

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2, key_generator_pb2_grpc
from ma.streaming.open_data.v1 import open_data_pb2 as data

CALL: dict[str, Any] = {"timeout": 30, "wait_for_ready": True}


def create(client: Client, source: str, **fields: Any) -> str:
    reply = client.sessions.CreateSession(api_pb2.CreateSessionRequest(data_source=source, **fields), **CALL)
    assert reply.success
    return str(reply.session_key)


def info(client: Client, key: str) -> api_pb2.GetSessionInfoResponse:
    return client.sessions.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key=key), **CALL)


def keys_of(client: Client, source: str) -> list[str]:
    request = api_pb2.GetCurrentSessionsRequest(data_source=source)
    return list(client.sessions.GetCurrentSessions(request, **CALL).session_keys)


def end(client: Client, key: str) -> data.EndOfSessionPacket:
    reply = client.sessions.EndSession(api_pb2.EndSessionRequest(session_key=key), **CALL)
    assert reply.success
    return reply.end_session


def parameters_id(client: Client, source: str, *names: str) -> int:
    request = api_pb2.GetParameterDataFormatIdRequest(data_source=source, parameters=names)
    return int(client.formats.GetParameterDataFormatId(request, **CALL).data_format_identifier)


def parameters_of(client: Client, source: str, number: int) -> list[str]:
    request = api_pb2.GetParametersListRequest(data_source=source, data_format_identifier=number)
    return list(client.formats.GetParametersList(request, **CALL).parameters)


def event_id(client: Client, source: str, name: str) -> int:
    request = api_pb2.GetEventDataFormatIdRequest(data_source=source, event=name)
    return int(client.formats.GetEventDataFormatId(request, **CALL).data_format_identifier)


def event_of(client: Client, source: str, number: int) -> str:
    request = api_pb2.GetEventRequest(data_source=source, data_format_identifier=number)
    return str(client.formats.GetEvent(request, **CALL).event)


def make_key(stub: key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub, kind: int) -> Any:
    request = key_generator_pb2.GenerateUniqueKeyRequest(type=kind)  # type: ignore[arg-type]
    return stub.GenerateUniqueKey(request, **CALL)


def key_stub(port: int) -> key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
    return key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub(channel)


class Subscriber:
    """One open notification stream, of which the headers have come; ``keys`` grows as it is told."""

    def __init__(self, client: Client, source: str, what: str) -> None:
        method = getattr(client.sessions, f"GetSession{what}Notification")
        request = getattr(api_pb2, f"GetSession{what}NotificationRequest")(data_source=source)
        self.keys: list[str] = []
        self.ended = ""
        self._call = method(request, timeout=120, wait_for_ready=True)
        self._call.initial_metadata()  # blocks until the headers are there: nothing has been told by then
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for told in self._call:
                self.keys.append(told.session_key)
            self.ended = "OK"
        except grpc.RpcError as error:
            self.ended = f"{error.code()}: {error.details()}"

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()
