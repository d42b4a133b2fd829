"""Writing: sessions, data formats, and a stream of packets that survives the death of what it is connected to."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

import grpc

from ma.streaming.api.v1 import api_pb2 as api
from ma.streaming.api.v1 import api_pb2_grpc as services
from ma.streaming.open_data.v1 import open_data_pb2 as pb
from trackside.client.channel import PASSING_CODES, Backoff, call, describe
from trackside.client.errors import NotReachable, Refused

__all__ = ["PacketStream", "create_session", "end_session", "event_format", "parameter_format"]

RENEW_SECONDS = 5.0
"""How long one call lasts. Its answer confirms all its messages; until then they are kept, to be sent again."""

UNCONFIRMED_BYTES_MAX = 64 << 20
ACCEPTED_TRAILER = "trackside-accepted"

Request = api.WriteDataPacketsRequest


def create_session(
    channel: grpc.Channel, data_source: str, identifier: str, *, session_type: str = "Session", timeout: float = 30.0
) -> str:
    """Create a session and return its key. An answer that was lost leaves a second, empty session behind."""
    service = services.SessionManagementServiceStub(channel)
    request = api.CreateSessionRequest(data_source=data_source, type=session_type, version=1, identifier=identifier)
    response: api.CreateSessionResponse = call(service.CreateSession, request, give_up_seconds=timeout)
    if not response.success:
        raise Refused(f"CreateSession: the server did not create {identifier!r} of data source {data_source!r}")
    return response.session_key


def end_session(channel: grpc.Channel, data_source: str, session_key: str, *, timeout: float = 30.0) -> None:
    service = services.SessionManagementServiceStub(channel)
    request = api.EndSessionRequest(data_source=data_source, session_key=session_key)
    if not call(service.EndSession, request, give_up_seconds=timeout).success:
        raise Refused(f"EndSession: the server knows no session {session_key!r} of data source {data_source!r}")


def parameter_format(
    channel: grpc.Channel, data_source: str, identifiers: Sequence[str], *, timeout: float = 30.0
) -> int:
    """The number that stands for this list of parameters, in this order."""
    service = services.DataFormatManagerServiceStub(channel)
    request = api.GetParameterDataFormatIdRequest(data_source=data_source, parameters=identifiers)
    response: api.GetParameterDataFormatIdResponse = call(
        service.GetParameterDataFormatId, request, give_up_seconds=timeout
    )
    return _known(response.data_format_identifier, f"the {len(identifiers)} parameters")


def event_format(channel: grpc.Channel, data_source: str, identifier: str, *, timeout: float = 30.0) -> int:
    """The number that stands for this event."""
    service = services.DataFormatManagerServiceStub(channel)
    request = api.GetEventDataFormatIdRequest(data_source=data_source, event=identifier)
    response: api.GetEventDataFormatIdResponse = call(service.GetEventDataFormatId, request, give_up_seconds=timeout)
    return _known(response.data_format_identifier, identifier)


def _known(number: int, what: str) -> int:
    if not number:
        raise Refused(f"the server gave no data format for {what}")
    return number


class _Call:
    """One WriteDataPackets call: messages go in, one answer comes out."""

    def __init__(self, service: services.PacketWriterServiceStub) -> None:
        self._messages: SimpleQueue[Request | None] = SimpleQueue()
        self.opened = time.monotonic()
        self.closing = False
        self.answer = service.WriteDataPackets.future(iter(self._messages.get, None))

    def send(self, request: Request) -> None:
        self._messages.put(request)

    def half_close(self) -> None:
        self.closing = True
        self._messages.put(None)

    def accepted(self) -> int:
        """How many messages a failed call says were accepted; 0 when it could not say."""
        for key, value in self.answer.trailing_metadata() or ():
            if key == ACCEPTED_TRAILER and str(value).isdigit():
                return int(value)
        return 0


class PacketStream:
    """Packets on their way to one data source, in order, over one WriteDataPackets call after another.

    ``write`` never waits for the server: it hands the message to gRPC, or keeps it while there is no call. A message is
    *confirmed* when its call was answered with OK. When a call breaks, what it did not accept is sent again in order
    over the next one. A gateway that was killed cannot say what it accepted, so packets may arrive twice, never
    swapped and never lost: number them. Each call is ended and answered every ``renew_seconds``, which bounds how much.

    One thread writes; answers arrive on threads of grpc.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        data_source: str,
        session_key: str,
        *,
        renew_seconds: float = RENEW_SECONDS,
        give_up_seconds: float = 30.0,
    ) -> None:
        self._service = services.PacketWriterServiceStub(channel)
        self._data_source = data_source
        self._session_key = session_key
        self._renew_seconds = renew_seconds
        self._backoff = Backoff(give_up_seconds)
        self._changed = threading.Condition()
        # All below under the condition's lock. _unconfirmed holds every message that is not confirmed, oldest first;
        # the first _sent of them are with the present call.
        self._unconfirmed: deque[Request] = deque()
        self._unconfirmed_bytes = 0
        self._sent = 0
        self._call: _Call | None = None
        self._retry_at = 0.0
        self._error: Exception | None = None
        self._confirmed_packets = self._resent_packets = self._broken_calls = 0

    def write(self, packets: Iterable[tuple[str, pb.Packet]]) -> None:
        """Send (stream, packet) pairs as one message, which is accepted whole or not at all. Does not block.

        Raises Refused when the server refused a message before this one (nothing further is sent then), NotReachable
        when it has been away for ``give_up_seconds`` or more than 64 MiB wait for it.
        """
        request = Request(
            details=[
                api.DataPacketDetails(
                    message=packet, data_source=self._data_source, stream=stream, session_key=self._session_key
                )
                for stream, packet in packets
            ]
        )
        with self._changed:
            self._raise_error()
            self._keep(request)
            self._advance()

    def flush(self, timeout: float) -> None:
        """Return when everything written is confirmed. Raises NotReachable after ``timeout`` seconds, Refused."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._unconfirmed:
                self._raise_error()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotReachable(f"{len(self._unconfirmed)} messages not confirmed after {timeout:.0f} s")
                self._advance()
                if self._call and not self._call.closing and self._sent == len(self._unconfirmed):
                    self._call.half_close()
                self._changed.wait(min(left, 0.05))

    def statistics(self) -> dict[str, int]:
        """Packets confirmed and sent again, calls that broke, messages that wait for their confirmation."""
        with self._changed:
            return {
                "confirmed_packets": self._confirmed_packets,
                "resent_packets": self._resent_packets,
                "broken_calls": self._broken_calls,
                "unconfirmed_messages": len(self._unconfirmed),
            }

    def close(self) -> None:
        """Cancel whatever is on its way. Call ``flush`` first."""
        with self._changed:
            self._error = self._error or ValueError("write to a closed PacketStream")
            if self._call is not None:
                self._call.half_close()
                self._call.answer.cancel()

    def on_answer(self, finished: _Call) -> None:
        """Called by grpc when a call has ended, however it ended."""
        with self._changed:
            self._call = None
            if not finished.answer.cancelled():  # only close() cancels
                error = finished.answer.exception()
                if error is None:
                    self._on_confirmed()
                else:
                    self._on_broken(finished, error)
            if self._error is None:
                self._advance()
            self._changed.notify_all()

    def _on_confirmed(self) -> None:
        self._confirm(self._sent)
        self._sent = 0
        self._backoff.succeeded()

    def _on_broken(self, broken: _Call, error: Exception) -> None:
        broken.half_close()  # lets grpc's thread, which waits for another message, go
        self._broken_calls += 1
        accepted = min(broken.accepted(), self._sent)
        self._resent_packets += sum(len(self._unconfirmed[index].details) for index in range(accepted, self._sent))
        self._confirm(accepted)
        self._sent = 0
        if accepted:
            self._backoff.succeeded()
        self._wait_or_give_up(error)

    def _wait_or_give_up(self, error: Exception) -> None:
        if not isinstance(error, grpc.RpcError):
            self._error = error
        elif error.code() not in PASSING_CODES:
            self._error = Refused(describe(error))
        else:
            pause = self._backoff.next_pause()
            self._retry_at = time.monotonic() + (pause or 0.0)
            if pause is None:
                self._error = NotReachable(describe(error))

    def _confirm(self, messages: int) -> None:
        for _ in range(messages):
            request = self._unconfirmed.popleft()
            self._unconfirmed_bytes -= request.ByteSize()
            self._confirmed_packets += len(request.details)

    def _keep(self, request: Request) -> None:
        self._unconfirmed.append(request)
        self._unconfirmed_bytes += request.ByteSize()
        if self._unconfirmed_bytes > UNCONFIRMED_BYTES_MAX:
            self._error = NotReachable(f"{UNCONFIRMED_BYTES_MAX >> 20} MiB of packets wait for a server")

    def _advance(self) -> None:
        """Open a call when there should be one, give it what it has not had, end it when it is old."""
        if self._call is None and self._unconfirmed and time.monotonic() >= self._retry_at:
            self._call = opened = _Call(self._service)
            # After the assignment: a call that has failed already is answered right here.
            opened.answer.add_done_callback(lambda _: self.on_answer(opened))
        if self._call is None or self._call.closing:
            return
        for index in range(self._sent, len(self._unconfirmed)):
            self._call.send(self._unconfirmed[index])
        self._sent = len(self._unconfirmed)
        if time.monotonic() - self._call.opened > self._renew_seconds:
            self._call.half_close()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
