"""Who knows nothing but the port finds every service, and can call it."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from server import Server

from ma.streaming.api.v1 import api_pb2
from ma.streaming.key_generator.v1 import key_generator_pb2
from trackside.data_plane.reflection import SERVICES


def test_everything_is_found_and_can_be_called(shared_server: Server) -> None:
    """With nothing but what the server tells: no stub and no descriptor of ours is used for the calls."""
    with shared_server.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert sorted(database.get_services()) == sorted(SERVICES)
        pool = descriptor_pool.DescriptorPool(database)
        methods = {
            f"/{name}/{method.name}": method for name in SERVICES for method in pool.FindServiceByName(name).methods
        }
        assert set(methods) >= {
            f"/{service.full_name}/{method.name}"
            for file in (api_pb2.DESCRIPTOR, key_generator_pb2.DESCRIPTOR)
            for service in file.services_by_name.values()
            for method in service.methods
        }

        def call(path: str, **fields: object) -> object:
            method = methods[path]
            request = message_factory.GetMessageClass(method.input_type)(**fields)
            answer = message_factory.GetMessageClass(method.output_type)
            unary = channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
            return unary(request, timeout=30, wait_for_ready=True)

        created = call("/ma.streaming.api.v1.SessionManagementService/CreateSession", data_source="Found")
        assert created.success and created.session_key  # type: ignore[attr-defined]
        found = call("/ma.streaming.api.v1.SessionManagementService/GetCurrentSessions", data_source="Found")
        assert list(found.session_keys) == [created.session_key]  # type: ignore[attr-defined]
        key = call("/ma.streaming.key_generator.v1.UniqueKeyGeneratorService/GenerateUniqueKey", type=1)
        assert str(key)
        health = call("/grpc.health.v1.Health/Check", service="ma.streaming.api.v1.PacketWriterService")
        assert health.status == 1  # type: ignore[attr-defined]


def test_messages_are_described_with_all_that_they_use(shared_server: Server) -> None:
    with shared_server.channel() as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        packet = pool.FindMessageTypeByName("ma.streaming.open_data.v1.Packet")
        assert {"type", "session_key", "is_essential", "content", "id"} <= set(packet.fields_by_name)
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("ma.streaming.open_data.v1.NoSuchMessage")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_names_of_the_protocol(shared_server: Server, version: str) -> None:
    with shared_server.channel() as channel:
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
            reflection_pb2.ServerReflectionRequest(),
        ]
        names, file, missing, empty = ask(iter(questions), timeout=30, wait_for_ready=True)
        assert [service.name for service in names.list_services_response.service] == sorted(SERVICES)
        described = descriptor_pb2.FileDescriptorProto.FromString(
            file.file_descriptor_response.file_descriptor_proto[0]
        )
        assert described.name.endswith("api.proto")
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_it_can_be_switched_off(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.environment["TRACKSIDE_ENABLE_GRPC_REFLECTION"] = "false"
    server.start()
    with server.channel() as channel:
        ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(iter([b""]), timeout=30, wait_for_ready=True))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_question_that_cannot_be_read_is_refused(shared_server: Server) -> None:
    with shared_server.channel() as channel:
        ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(iter([b"\xff"]), timeout=30, wait_for_ready=True))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
