"""What a request may hold: each rule raises an error that names the field, the value and the limit."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from trackside.control_plane.statuses import BadRequest
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

__all__ = ["TEXT_CHARACTERS_MAX", "check_duration", "check_stream", "check_text", "check_timestamp"]

TEXT_CHARACTERS_MAX = 1024
"""Keys, types and groups. Names of data sources and streams have the tighter limit of the topics made from them."""

DURATION_SECONDS_MAX = 315_576_000_000
TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)
"""Both as protobuf's own definition has them: 10,000 years; the years 1 to 9999."""

NANOS_MAX = 999_999_999


def check_text(field: str, value: str, characters_max: int = TEXT_CHARACTERS_MAX) -> None:
    if len(value) > characters_max:
        raise BadRequest(field, value, f"at most {characters_max} characters")


def check_duration(field: str, value: Duration) -> None:
    same_sign = value.seconds * value.nanos >= 0
    if abs(value.seconds) > DURATION_SECONDS_MAX or abs(value.nanos) > NANOS_MAX or not same_sign:
        raise BadRequest(
            field,
            f"{value.seconds} s {value.nanos} ns",
            f"up to {DURATION_SECONDS_MAX} seconds and {NANOS_MAX} nanoseconds of one sign",
        )


def check_timestamp(field: str, value: Timestamp) -> None:
    if value.seconds not in TIMESTAMP_SECONDS or not 0 <= value.nanos <= NANOS_MAX:
        raise BadRequest(
            field,
            f"{value.seconds} s {value.nanos} ns",
            f"a time in the years 1 to 9999 and 0..{NANOS_MAX} nanoseconds",
        )


def check_stream(field: str, data_source: str, stream: str, routing: Routing, settings: Settings) -> None:
    """Raise BadName for a stream that cannot be read; "" is the main stream. With PartitionBased routing no topic has
    the stream's name, and any name is good that is not too long."""
    if settings.strategy == "PartitionBased":
        check_text(field, stream)
    elif stream:
        routing.naming.check_stream(data_source, stream, field)
