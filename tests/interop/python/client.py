"""The scenario in Python: what the clients in other languages are compared with.

    python client.py TARGET KEY_TARGET SCENARIO DATA_SOURCE

prints one JSON object: what each step got. 64-bit numbers are texts, as in JSON made from protobuf.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from packets import Numbers, describe, encode

from ma.streaming.api.v1 import api_pb2, api_pb2_grpc
from ma.streaming.key_generator.v1 import key_generator_pb2 as keys
from ma.streaming.key_generator.v1 import key_generator_pb2_grpc
from ma.streaming.open_data.v1 import open_data_pb2 as data


class Client:
    """One run of the scenario. The steps are methods, in the order in which ``run`` calls them."""

    def __init__(self, target: str, key_target: str, scenario: dict[str, Any], data_source: str) -> None:
        channel, key_channel = grpc.insecure_channel(target), grpc.insecure_channel(key_target)
        self.writer = api_pb2_grpc.PacketWriterServiceStub(channel)
        self.reader = api_pb2_grpc.PacketReaderServiceStub(channel)
        self.connections = api_pb2_grpc.ConnectionManagerServiceStub(channel)
        self.sessions = api_pb2_grpc.SessionManagementServiceStub(channel)
        self.formats = api_pb2_grpc.DataFormatManagerServiceStub(channel)
        self.key_stubs = [key_generator_pb2_grpc.UniqueKeyGeneratorServiceStub(c) for c in (key_channel, channel)]
        self.scenario = scenario
        self.data_source = data_source
        self.call: dict[str, Any] = {"timeout": scenario["call_seconds"], "wait_for_ready": True}
        self.session_key = ""
        self.numbers = Numbers()

    def run(self) -> dict[str, Any]:
        result: dict[str, Any] = {"keys": self.make_keys(), "formats": self.define_formats()}
        self.write_one_by_one("before_session", ("trackside-ack", "log"))
        starts, stops = self.subscribe()
        result["created"] = self.create_session()
        result["started"] = describe_notification(next(starts))
        result["info_at_start"] = self.session_info(self.session_key)
        result["updated"] = self.update_session()
        result["info_updated"] = self.session_info(self.session_key)
        result["sessions"] = self.list_sessions()
        self.write_one_by_one("unary")
        self.write_stream()
        result["refused"] = [self.write_nothing(), self.write_refused_stream()]
        result["echoed_connection"] = self.echo_connection()
        result["unknown"] = self.ask_for_unknown()
        result["read"] = self.read_past_and_live()
        result["essentials_without_session"] = self.read_essentials_without_session()
        result["filtered"] = self.read_filtered()
        result["streams"] = self.wait_for_streams()
        result["ended"] = [self.end_session(), self.end_session()]
        result["stopped"] = describe_notification(next(stops))
        result["info_at_end"] = self.session_info(self.session_key)
        for subscription in (starts, stops):
            subscription.cancel()
        return result

    # -- keys and data formats ----------------------------------------------------------------------------------------

    def make_keys(self) -> dict[str, list[str]]:
        """Of each kind, one from the key port and one from the main port."""
        text = keys.GenerateUniqueKeyRequest(type=keys.KEY_TYPE_STRING)
        number = keys.GenerateUniqueKeyRequest(type=keys.KEY_TYPE_ULONG)
        return {
            "texts": [stub.GenerateUniqueKey(text, **self.call).string_key for stub in self.key_stubs],
            "numbers": [str(stub.GenerateUniqueKey(number, **self.call).ulong_key) for stub in self.key_stubs],
        }

    def define_formats(self) -> dict[str, Any]:
        names, event = self.scenario["parameters"], self.scenario["event"]
        self.numbers.look_up_list, self.numbers.look_up_event = self.look_up_list, self.look_up_event
        for some in (names, names[::-1]):
            self.numbers.of_list[tuple(some)] = self.number_of_list(some)
        self.numbers.of_event[event] = self.number_of_event(event)
        number, turned = self.numbers.of_list.values()
        unknown = int(self.scenario["unknown_format"])
        return {
            "parameters": [str(number), str(turned), str(self.number_of_list(names))],
            "event": [str(self.numbers.of_event[event]), str(self.number_of_event(event))],
            "names": [self.look_up_list(number), self.look_up_list(turned)],
            "event_name": self.look_up_event(self.numbers.of_event[event]),
            "unknown": [self.look_up_list(unknown), self.look_up_event(unknown)],
        }

    def number_of_list(self, names: list[str]) -> int:
        request = api_pb2.GetParameterDataFormatIdRequest(data_source=self.data_source, parameters=names)
        return int(self.formats.GetParameterDataFormatId(request, **self.call).data_format_identifier)

    def number_of_event(self, name: str) -> int:
        request = api_pb2.GetEventDataFormatIdRequest(data_source=self.data_source, event=name)
        return int(self.formats.GetEventDataFormatId(request, **self.call).data_format_identifier)

    def look_up_list(self, number: int) -> list[str]:
        request = api_pb2.GetParametersListRequest(data_source=self.data_source, data_format_identifier=number)
        return list(self.formats.GetParametersList(request, **self.call).parameters)

    def look_up_event(self, number: int) -> str:
        request = api_pb2.GetEventRequest(data_source=self.data_source, data_format_identifier=number)
        return str(self.formats.GetEvent(request, **self.call).event)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def subscribe(self) -> tuple[Any, Any]:
        """Both notifications, open: with its headers a call says that it misses nothing from then on."""
        start = api_pb2.GetSessionStartNotificationRequest(data_source=self.data_source)
        stop = api_pb2.GetSessionStopNotificationRequest(data_source=self.data_source)
        starts = self.sessions.GetSessionStartNotification(start, **self.call)
        stops = self.sessions.GetSessionStopNotification(stop, **self.call)
        for subscription in (starts, stops):
            subscription.initial_metadata()
        return starts, stops

    def create_session(self) -> dict[str, Any]:
        wanted = self.scenario["session"]
        request = api_pb2.CreateSessionRequest(
            data_source=self.data_source,
            type=wanted["type"],
            version=wanted["version"],
            identifier=wanted["identifier"],
            associate_session_key=wanted["associates"],
            details=wanted["details"],
        )
        request.utc_offset.seconds = int(wanted["utc_offset"]["seconds"])
        request.utc_offset.nanos = wanted["utc_offset"]["nanos"]
        fill_time(request.creation_time, wanted["creation_time"])
        reply = self.sessions.CreateSession(request, **self.call)
        self.session_key = reply.session_key
        return {
            "success": reply.success,
            "session_key": reply.session_key,
            "data_source": reply.new_session.data_source,
            "offsets": describe_offsets(reply.new_session.topic_partition_offsets),
            "identifier": reply.new_session.session_info.identifier,
        }

    def update_session(self) -> list[bool]:
        """By an info packet, then by calls; the answers to these say that the packet has been taken, too."""
        info = data.SessionInfoPacket(data_source=self.data_source, details=self.scenario["info_packet"])
        packet = data.Packet(type="SessionInfo", session_key=self.session_key, content=info.SerializeToString())
        request = api_pb2.WriteInfoPacketRequest(message=packet, type=api_pb2.INFO_TYPE_SESSION_INFO)
        self.writer.WriteInfoPacket(request, **self.call)
        key, update = self.session_key, self.scenario["update"]
        rename = api_pb2.UpdateSessionIdentifierRequest(session_key=key, identifier=update["identifier"])
        describe_ = api_pb2.UpdateSessionDetailsRequest(session_key=key, details=update["details"])
        join = api_pb2.AddAssociateSessionRequest(session_key=key, associate_session_key=update["associate"])
        return [
            self.sessions.UpdateSessionIdentifier(rename, **self.call).success,
            self.sessions.UpdateSessionDetails(describe_, **self.call).success,
            self.sessions.AddAssociateSession(join, **self.call).success,
        ]

    def session_info(self, key: str) -> dict[str, Any]:
        """Without the streams, which appear in their own time."""
        info = self.sessions.GetSessionInfo(api_pb2.GetSessionInfoRequest(session_key=key), **self.call)
        return {
            "success": info.success,
            "data_source": info.data_source,
            "identifier": info.identifier,
            "type": info.type,
            "version": info.version,
            "associates": list(info.associate_session_keys),
            "is_complete": info.is_complete,
            "offsets": describe_offsets(info.topic_partition_offsets),
            "main_offset": str(info.main_offset),
            "essentials_offset": str(info.essentials_offset),
            "details": dict(info.details),
            "utc_offset": describe_time(info, "utc_offset"),
            "creation_time": describe_time(info, "creation_time"),
            "termination_time": describe_time(info, "termination_time"),
        }

    def list_sessions(self) -> list[str]:
        request = api_pb2.GetCurrentSessionsRequest(data_source=self.data_source)
        return list(self.sessions.GetCurrentSessions(request, **self.call).session_keys)

    def wait_for_streams(self) -> list[str]:
        """Named streams, asked for again and again until all are known."""
        request = api_pb2.GetSessionInfoRequest(session_key=self.session_key)
        streams: list[str] = []
        for _ in range(self.scenario["call_seconds"] * 100):
            streams = list(self.sessions.GetSessionInfo(request, **self.call).streams)
            if len(streams) >= self.scenario["named_streams"]:
                break
            time.sleep(0.01)
        return sorted(streams)

    def end_session(self) -> dict[str, Any]:
        request = api_pb2.EndSessionRequest(session_key=self.session_key)
        fill_time(request.termination_time, self.scenario["session"]["termination_time"])
        reply = self.sessions.EndSession(request, **self.call)
        return {
            "success": reply.success,
            "data_source": reply.end_session.data_source,
            "offsets": describe_offsets(reply.end_session.topic_partition_offsets),
        }

    # -- writing ------------------------------------------------------------------------------------------------------

    def detail(self, name: str) -> api_pb2.DataPacketDetails:
        described = self.scenario["packets"][name]
        return api_pb2.DataPacketDetails(
            message=encode(described, self.numbers),
            data_source=self.data_source,
            stream=described["stream"],
            session_key=self.session_key if described["in_session"] else "",
        )

    def write_one_by_one(self, step: str, *metadata: tuple[str, str]) -> None:
        for name in self.scenario[step]:
            request = api_pb2.WriteDataPacketRequest(detail=self.detail(name))
            self.writer.WriteDataPacket(request, metadata=metadata, **self.call)

    def message(self, names: list[str]) -> api_pb2.WriteDataPacketsRequest:
        return api_pb2.WriteDataPacketsRequest(details=[self.detail(name) for name in names])

    def write_stream(self) -> None:
        """Half-closed after the last message; the reply is awaited."""
        messages = [self.message(names) for names in self.scenario["stream"]]
        self.writer.WriteDataPackets(iter(messages), **self.call)

    def write_nothing(self) -> dict[str, Any]:
        try:
            self.writer.WriteDataPacket(api_pb2.WriteDataPacketRequest(), **self.call)
        except grpc.RpcError as error:
            return describe_error(error)
        return {"code": 0}

    def write_refused_stream(self) -> dict[str, Any]:
        """The call ends at the bad message, before the client has ended its side."""
        wanted = self.scenario["refused_stream"]
        messages = [self.message(names) for names in wanted["messages"]]
        bad = self.message([wanted["packet"]])
        bad.details[0].data_source = wanted["data_source"]
        try:
            self.writer.WriteDataPackets(iter([*messages, bad]), **self.call)
        except grpc.RpcError as error:
            return describe_error(error)
        return {"code": 0}

    # -- reading ------------------------------------------------------------------------------------------------------

    def connect(self, **details: Any) -> api_pb2.Connection:
        wanted = api_pb2.ConnectionDetails(data_source=self.data_source, **details)
        request = api_pb2.NewConnectionRequest(details=wanted)
        reply: api_pb2.NewConnectionResponse = self.connections.NewConnection(request, **self.call)
        return reply.connection

    def close(self, connection: api_pb2.Connection) -> bool:
        request = api_pb2.CloseConnectionRequest(connection=connection)
        return bool(self.connections.CloseConnection(request, **self.call).success)

    def echo_connection(self) -> dict[str, Any]:
        wanted = self.scenario["echoed_connection"]
        connection = self.connect(
            session_key=self.session_key,
            streams=wanted["streams"],
            stream_offsets=[int(offset) for offset in wanted["stream_offsets"]],
            main_offset=int(wanted["main_offset"]),
            essentials_offset=int(wanted["essentials_offset"]),
            exclude_main_stream=wanted["exclude_main_stream"],
            consumer_group=wanted["consumer_group"],
        )
        request = api_pb2.GetConnectionRequest(connection=connection)
        details = self.connections.GetConnection(request, **self.call).details
        return {
            "data_source": details.data_source,
            "session_key": details.session_key,
            "streams": list(details.streams),
            "stream_offsets": [str(offset) for offset in details.stream_offsets],
            "main_offset": str(details.main_offset),
            "essentials_offset": str(details.essentials_offset),
            "exclude_main_stream": details.exclude_main_stream,
            "consumer_group": details.consumer_group,
            "closed": [self.close(connection), self.close(connection)],
        }

    def ask_for_unknown(self) -> dict[str, Any]:
        """Answers with status OK that say no."""
        unknown = [api_pb2.Connection(id=int(number)) for number in self.scenario["unknown_connections"]]
        asked = [
            self.connections.GetConnection(api_pb2.GetConnectionRequest(connection=connection), **self.call)
            for connection in unknown
        ]
        reads = [self.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=c), **self.call) for c in unknown]
        ended = self.sessions.EndSession(api_pb2.EndSessionRequest(session_key="no such session"), **self.call)
        return {
            "connections": [answer.HasField("details") for answer in asked],
            "reads": [Read(call, self.numbers).rest() for call in reads],
            "session": self.session_info("no such session")["success"],
            "ended": ended.success,
        }

    def read_past_and_live(self) -> dict[str, Any]:
        """Two reads of one connection, open at once; packets are written meanwhile; closing it ends both."""
        counts, live = self.scenario["counts"], len(self.scenario["live"])
        connection = self.connect(session_key=self.session_key)
        packets = Read(
            self.reader.ReadPackets(api_pb2.ReadPacketsRequest(connection=connection), **self.call), self.numbers
        )
        request = api_pb2.ReadEssentialsRequest(connection=connection)
        essentials = Read(self.reader.ReadEssentials(request, **self.call), self.numbers)
        found: dict[str, Any] = {"past": packets.take(counts["past"])}
        self.write_one_by_one("live")
        found["live"] = packets.take(live)
        found["essentials"] = essentials.take(counts["essentials"])
        closed = self.close(connection)
        return {**found, "closed": closed, "after_close": [packets.rest(), essentials.rest()]}

    def read_essentials_without_session(self) -> dict[str, Any]:
        """Ends by itself."""
        request = api_pb2.ReadEssentialsRequest(connection=self.connect())
        return Read(self.reader.ReadEssentials(request, **self.call), self.numbers).rest()

    def read_filtered(self) -> dict[str, Any]:
        wanted = self.scenario["filter"]
        connection = self.connect(
            session_key=self.session_key,
            streams=wanted["streams"],
            exclude_main_stream=wanted["exclude_main_stream"],
        )
        request = api_pb2.DataPacketRequest(
            connection=connection,
            include_parameters=wanted["include_parameters"],
            exclude_parameters=wanted["exclude_parameters"],
            include_events=wanted["include_events"],
            exclude_events=wanted["exclude_events"],
            include_markers=wanted["include_markers"],
        )
        read = Read(
            self.reader.ReadDataPackets(api_pb2.ReadDataPacketsRequest(request=request), **self.call), self.numbers
        )
        found = read.take(self.scenario["counts"]["filtered"])
        closed = self.close(connection)
        return {"found": found, "closed": closed, "after_close": read.rest()}


class Read:
    """An open read: packets in the scenario's words by their streams."""

    def __init__(self, call: Any, numbers: Numbers) -> None:
        self._call = call
        self._numbers = numbers
        self._responses: Iterator[api_pb2.PacketResponse] = (r for reply in call for r in reply.response)

    def take(self, count: int) -> dict[str, list[dict[str, Any]]]:
        return self._by_stream(itertools.islice(self._responses, count))

    def rest(self) -> dict[str, Any]:
        """What still comes until the server ends the call, and with which code."""
        return {"packets": self._by_stream(self._responses), "code": self._call.code().value[0]}

    def _by_stream(self, responses: Iterator[api_pb2.PacketResponse]) -> dict[str, list[dict[str, Any]]]:
        """Packets have an order within their stream only."""
        found: dict[str, list[dict[str, Any]]] = {}
        for response in responses:
            found.setdefault(response.stream, []).append(describe(response, self._numbers))
        return found


def fill_time(time_: Any, described: dict[str, Any]) -> None:
    time_.seconds, time_.nanos = int(described["seconds"]), described["nanos"]


def describe_time(message: Any, field: str) -> dict[str, Any] | None:
    """A Timestamp or Duration; None where it is missing."""
    found = getattr(message, field)
    return {"seconds": str(found.seconds), "nanos": found.nanos} if message.HasField(field) else None


def describe_offsets(offsets: Any) -> dict[str, str]:
    return {topic: str(offset) for topic, offset in offsets.items()}


def describe_notification(told: Any) -> dict[str, str]:
    return {"session_key": told.session_key, "data_source": told.data_source}


def describe_error(error: Any) -> dict[str, Any]:
    trailers = dict(error.trailing_metadata() or ())
    return {
        "code": error.code().value[0],
        "message": error.details(),
        "accepted": trailers.get("trackside-accepted"),
    }


def main() -> None:
    target, key_target, scenario, data_source = sys.argv[1:]
    client = Client(target, key_target, json.loads(Path(scenario).read_text(encoding="utf-8")), data_source)
    print(json.dumps(client.run()))


if __name__ == "__main__":
    main()
