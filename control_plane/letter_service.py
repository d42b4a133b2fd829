"""Dead letters back into the way in: the control plane's end of ``trackside dead-letters --resend``.

Through a ring to the producer, as everything that the log gets: the producer alone writes the log, keeps the order of the
partition, and refuses again what still cannot be stored.
"""

from __future__ import annotations

import re

from trackside.control_plane.log_port import Append, LogPort
from trackside.control_plane.statuses import BadRequest, Context
from trackside.data_plane.log import Partition
from trackside.data_plane.naming import TOPIC_CHARACTERS_MAX
from trackside.data_plane.routing import Routing
from trackside.protos import internal_pb2 as messages
from trackside.protos import internal_pb2_grpc as services

__all__ = ["LetterService"]

WAIT_SECONDS = 5.0
"""For room in the ring, then for the log."""

_TOPIC = re.compile(rf"(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{TOPIC_CHARACTERS_MAX}}}")


class LetterService(services.DeadLettersServicer):
    """``trackside.internal.v1.DeadLetters``, on the control plane's socket: for the server's own user alone."""

    def __init__(self, port: LogPort, routing: Routing) -> None:
        self._port = port
        self._routing = routing

    async def SendAgain(self, request: messages.SendAgainRequest, context: Context) -> messages.SendAgainResponse:
        appends = [self._append(f"packets[{index}]", packet) for index, packet in enumerate(request.packets)]
        if not appends:
            return messages.SendAgainResponse(logged=True)
        topic = appends[0].partition.topic
        for index, append in enumerate(appends):
            if append.partition.topic != topic:
                raise BadRequest(f"packets[{index}].topic", append.partition.topic, f"{topic!r}, as of the first")
        try:
            refused = await self._port.append_again(topic, appends, WAIT_SECONDS)
        except ValueError as error:
            raise BadRequest("packets", f"{request.ByteSize()} bytes", str(error)) from None
        again = [messages.RefusedAgain(packet=index, reason=why) for index, why in sorted((refused or {}).items())]
        return messages.SendAgainResponse(logged=refused is not None, refused=again)

    def _append(self, field: str, packet: messages.RefusedPacket) -> Append:
        """What was refused is on a disk, or in a topic that others write, too: it is looked at as at the door."""
        self._check_topic(f"{field}.topic", packet.topic)
        if packet.essentials:
            self._check_topic(f"{field}.essentials", packet.essentials)
        count = self._routing.partition_count(packet.topic)
        if packet.partition >= count:
            raise BadRequest(f"{field}.partition", packet.partition, f"one of {packet.topic}'s {count}, as configured")
        place = Partition(packet.topic, packet.partition)
        return Append(place, packet.key, packet.packet, packet.identity, packet.essentials)

    @staticmethod
    def _check_topic(field: str, topic: str) -> None:
        if not _TOPIC.fullmatch(topic):
            raise BadRequest(field, topic, f"1 to {TOPIC_CHARACTERS_MAX} of A-Z a-z 0-9 . _ -")
