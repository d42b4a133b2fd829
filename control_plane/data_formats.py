"""``ma.streaming.api.v1.DataFormatManagerService``: numbers for lists of parameters and for events.

State is the fold of a data source's essentials topic, read when the data source is first asked for and followed from
then on. A list without a number gets one by appending a definition and looking again when the fold has passed it:
the *first* definition of a list in the log counts, so servers that ask at once come to the same number.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ma.streaming.api.v1 import api_pb2 as messages
from ma.streaming.api.v1 import api_pb2_grpc as services
from trackside.control_plane.background import Background
from trackside.control_plane.checkpoint import Checkpoint, Checkpoints
from trackside.control_plane.keys import Keys
from trackside.control_plane.log_fold import LogFold, new_identity, require_log
from trackside.control_plane.log_port import Append, LogPort
from trackside.control_plane.shared_calls import SharedCalls
from trackside.control_plane.statuses import BadRequest, Context, NotReady
from trackside.data_plane.data_formats import DataFormat, DataFormatFold, event_definition, parameters_definition
from trackside.data_plane.log import Partition
from trackside.data_plane.routing import Routing
from trackside.data_plane.spec import Settings

__all__ = ["FOLLOWED_MAX", "DataFormatService", "DataFormats", "EventFormat", "Format", "ParameterFormat"]

log = logging.getLogger(__name__)

R = TypeVar("R")

LOG_SECONDS = 5.0
"""How long a call waits for the log: to read a data source's definitions, and to see its own."""

FOLLOWED_MAX = 1_000
"""Data sources whose essentials are followed; beyond it the one that was longest not asked for is let go, and read
again when it is asked for again. So invented names cost a bounded amount."""


class Format(Protocol):
    """What has an identifier: hashable, equal where the format is the same."""

    def find(self, fold: DataFormatFold) -> int | None: ...

    def definition(self, identifier: int) -> bytes:
        """The Packet that defines it."""


@dataclass(frozen=True, slots=True)
class ParameterFormat:
    """Names in the order of the columns; another order is another format."""

    names: tuple[str, ...]

    def find(self, fold: DataFormatFold) -> int | None:
        return fold.parameters_identifier(self.names)

    def definition(self, identifier: int) -> bytes:
        return parameters_definition(identifier, self.names)


@dataclass(frozen=True, slots=True)
class EventFormat:
    name: str

    def find(self, fold: DataFormatFold) -> int | None:
        return fold.event_identifier(self.name)

    def definition(self, identifier: int) -> bytes:
        return event_definition(identifier, self.name)


class DataFormats:
    """The formats of all data sources. Raises BadName for a name that cannot be one's, LogAway where it waits.

    With ``integrate_data_format_management`` off nothing is read: only what was defined through this process is known.
    """

    def __init__(
        self,
        port: LogPort,
        routing: Routing,
        settings: Settings,
        keys: Keys,
        background: Background,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._port = port
        self._routing = routing
        self._settings = settings
        self._keys = keys
        self._background = background
        self._checkpoints = checkpoints
        self._followed: OrderedDict[str, LogFold[DataFormat | None, DataFormatFold]] = (
            OrderedDict()
        )  # longest not asked for first
        self._own: dict[str, DataFormatFold] = {}  # where nothing is read
        self._defining: SharedCalls[tuple[str, Format], int] = SharedCalls()

    async def id_of(self, data_source: str, format: Format) -> int:
        """The number of a format; one call defines it, however many ask at the same time."""
        if (known := format.find(await self._fold_of(data_source))) is not None:
            return known
        return await self._defining.call((data_source, format), lambda: self._define(data_source, format))

    async def parameters_of(self, data_source: str, identifier: int) -> tuple[str, ...] | None:
        """The list of a number; None when the log has none."""
        return await self._find(data_source, lambda fold: fold.parameters(identifier))

    async def event_of(self, data_source: str, identifier: int) -> str | None:
        return await self._find(data_source, lambda fold: fold.event(identifier))

    async def _find(self, data_source: str, look: Callable[[DataFormatFold], R | None]) -> R | None:
        """What is known is answered also while the log is away; that there is nothing, only the log can say."""
        found = look(await self._fold_of(data_source))
        followed = self._followed.get(data_source)
        if found is None and followed is not None and not followed.loaded:
            await followed.ensure_loaded(LOG_SECONDS)
            found = look(followed.fold)
        return found

    async def _fold_of(self, data_source: str) -> DataFormatFold:
        """All formats of a data source that the log had when it was first asked for, and has had since; while the log
        is away those that were known."""
        self._routing.naming.check_data_source(data_source)
        if not self._settings.integrate_data_format_management:
            return self._own.get(data_source) or DataFormatFold()
        followed = self._follow(data_source)
        await followed.ensure_known(LOG_SECONDS)
        return followed.fold

    def counts(self) -> dict[str, int]:
        """Formats of each data source that was asked for and is still known here."""
        folds = {**self._own, **{name: followed.fold for name, followed in self._followed.items()}}
        return {name: len(fold) for name, fold in folds.items()}

    def statistics(self) -> dict[str, int]:
        return {"data_sources": len(self._followed) + len(self._own), "being_defined": len(self._defining)}

    def _follow(self, data_source: str) -> LogFold[DataFormat | None, DataFormatFold]:
        if (followed := self._followed.get(data_source)) is None:
            self._let_go()
            partition = self._routing.essentials(data_source)
            followed = LogFold(
                self._port,
                partition,
                DataFormatFold,
                background=self._background,
                checkpoint=self._checkpoint(data_source, partition),
                matters=lambda found: found is not None,
            )
            self._followed[data_source] = followed
        self._followed.move_to_end(data_source)
        return followed

    def _checkpoint(self, data_source: str, partition: Partition) -> Checkpoint[DataFormatFold] | None:
        if self._checkpoints is None:
            return None
        return self._checkpoints.of(f"formats.{data_source}", partition, DataFormatFold.load)

    def _let_go(self) -> None:
        """Make room for one more; those that somebody waits for stay."""
        if len(self._followed) < FOLLOWED_MAX:
            return
        idle = (name for name, followed in self._followed.items() if not followed.awaited)
        if (name := next(idle, None)) is not None:
            self._followed.pop(name).close()

    async def _define(self, data_source: str, format: Format) -> int:
        """Append a definition and answer with the first in the log, which may be another server's."""
        if not self._settings.integrate_data_format_management:
            return await self._define_unread(data_source, format)
        followed = self._follow(data_source)
        await followed.ensure_loaded(LOG_SECONDS)
        if (known := format.find(followed.fold)) is not None:
            return known  # the log has come since
        append = self._definition(data_source, format, await self._keys.number())
        await followed.change(data_source, append, LOG_SECONDS)
        if (identifier := format.find(followed.fold)) is None:
            raise NotReady(f"{append.essentials}: the number was taken by another program just now, ask again")
        return identifier

    async def _define_unread(self, data_source: str, format: Format) -> int:
        require_log(self._port)
        append = self._definition(data_source, format, await self._keys.number())
        await self._port.append(data_source, [append], LOG_SECONDS)
        fold = self._own.setdefault(data_source, DataFormatFold())
        fold.apply_packet(fold.next_offset, append.packet)
        identifier = format.find(fold)
        assert identifier is not None, "numbers of this process do not repeat"
        return identifier

    def _definition(self, data_source: str, format: Format, identifier: int) -> Append:
        packet = format.definition(identifier)
        if len(packet) > self._settings.max_packet_bytes:
            raise BadRequest(
                "event" if isinstance(format, EventFormat) else "parameters",
                f"{len(packet)} bytes as a definition",
                f"at most {self._settings.max_packet_bytes} bytes",
            )
        main = self._routing.route(data_source, "")
        return Append(main, b"", packet, new_identity(), self._routing.essentials_topic(data_source), data_source)


class DataFormatService(services.DataFormatManagerServiceServicer):
    """Messages in and out of :class:`DataFormats`. What has no number, or no meaning, is an empty reply."""

    def __init__(self, formats: DataFormats) -> None:
        self._formats = formats

    async def GetParameterDataFormatId(
        self, request: messages.GetParameterDataFormatIdRequest, context: Context
    ) -> messages.GetParameterDataFormatIdResponse:
        identifier = await self._formats.id_of(request.data_source, ParameterFormat(tuple(request.parameters)))
        return messages.GetParameterDataFormatIdResponse(data_format_identifier=identifier)

    async def GetEventDataFormatId(
        self, request: messages.GetEventDataFormatIdRequest, context: Context
    ) -> messages.GetEventDataFormatIdResponse:
        identifier = await self._formats.id_of(request.data_source, EventFormat(request.event))
        return messages.GetEventDataFormatIdResponse(data_format_identifier=identifier)

    async def GetParametersList(
        self, request: messages.GetParametersListRequest, context: Context
    ) -> messages.GetParametersListResponse:
        parameters = await self._formats.parameters_of(request.data_source, request.data_format_identifier)
        return messages.GetParametersListResponse(parameters=parameters or ())

    async def GetEvent(self, request: messages.GetEventRequest, context: Context) -> messages.GetEventResponse:
        event = await self._formats.event_of(request.data_source, request.data_format_identifier)
        return messages.GetEventResponse(event=event or "")
