"""The node number of this server: claimed in the session-info log, so that servers on one log make different keys.

A claim is a packet like any other there, of a type that every other reader passes over. All servers fold them in
offset order by one rule, which asks no clock:

====================  =================================================================================================
the number is         a claim of it
====================  =================================================================================================
nobody's              makes it the claimer's
the claimer's         renews it
another server's      does nothing, unless all thousand are held: then the one that was longest not renewed changes hands
====================  =================================================================================================

A server claims at each start and every six hours, so that its claim stands behind a thousand others only after a
thousand other servers came new within that time, and in front of what the log's retention takes. What it holds it
remembers on its disk and uses at once after a restart, also while the log is away.

A copy of a data directory would hold the same number. It is found out by the instance in its claims: who sees a later
claim of its own server by another instance takes a new name and another number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from ma.streaming.open_data.v1 import open_data_pb2 as data
from trackside.control_plane.background import Background
from trackside.control_plane.keys import NODES
from trackside.control_plane.log_fold import LogFold, new_identity
from trackside.control_plane.log_port import Append, LogAway, LoggedEntry, LogPort
from trackside.control_plane.session_fold import NODE_CLAIM
from trackside.data_plane.durable import replace_file
from trackside.data_plane.log import Partition
from trackside.data_plane.undecodable import UNDECODABLE

__all__ = ["Claim", "ClaimedNode", "FixedNode", "NodeFold"]

log = logging.getLogger(__name__)

RENEW_SECONDS = 6 * 3600.0
RETRY_SECONDS = 1.0
LOG_SECONDS = 5.0
"""How long one attempt waits for the log, and a caller for the first number."""


class Claim(msgspec.Struct, frozen=True):
    """What a claim's packet holds, as JSON. ``server`` is a data directory's name for itself, ``instance`` that of one
    run of the server on it."""

    node: int
    server: str
    instance: str


class NodeFold:
    """Who holds which number, after all entries applied so far."""

    def __init__(self) -> None:
        self._holders: dict[int, str] = {}  # the longest not renewed first

    def holder(self, node: int) -> str | None:
        return self._holders.get(node)

    def held_by(self, server: str) -> int | None:
        """The number that a server renewed last, of those that it holds."""
        return next((node for node, holder in reversed(self._holders.items()) if holder == server), None)

    def free(self) -> int:
        """The number to ask for: the lowest that nobody holds, else the one that would change hands."""
        return next((node for node in range(NODES) if node not in self._holders), next(iter(self._holders), 0))

    def apply(self, entry: LoggedEntry) -> Claim | None:
        """Take the next entry: the claim if it is one and holds. Never raises for what the entry holds."""
        claim = _claim_of(entry)
        if claim is None or not self._may_have(claim):
            return None
        self._holders.pop(claim.node, None)
        self._holders[claim.node] = claim.server
        return claim

    def _may_have(self, claim: Claim) -> bool:
        holder = self._holders.get(claim.node)
        if holder in (None, claim.server):
            return True
        return len(self._holders) == NODES and next(iter(self._holders)) == claim.node


def _claim_of(entry: LoggedEntry) -> Claim | None:
    try:
        packet = data.Packet.FromString(entry.packet)
        if packet.type != NODE_CLAIM:
            return None
        claim = msgspec.json.decode(packet.content, type=Claim)
    except (DecodeError, *UNDECODABLE):
        return None
    return claim if 0 <= claim.node < NODES else None


class FixedNode:
    """A number that nobody else can have: the log is this server's alone."""

    def __init__(self, node: int) -> None:
        self._node = node

    async def number(self) -> int:
        return self._node


class _Memory(msgspec.Struct, frozen=True):
    """``<data_dir>/node.json``: the server's name for itself, and what it holds in which log."""

    server: str
    node: int | None = None
    log: str = ""


class ClaimedNode:
    """The number that this server holds in the log, kept for as long as it runs.

    ``wanted`` is the configured number, taken if nobody else has it; ``place`` says in words which log this is, so that
    a number held elsewhere counts for nothing. Raises OSError for the data directory.
    """

    def __init__(
        self,
        port: LogPort,
        partition: Partition,
        background: Background,
        *,
        data_dir: str,
        place: str,
        wanted: int | None,
        instance: str,
    ) -> None:
        self._partition = partition
        self._path = Path(data_dir) / "node.json"
        self._place = place
        self._instance = instance
        self._memory = _read_memory(self._path)
        held = self._memory.node if self._memory.log == place else None
        self._wanted = held if wanted is None else wanted
        self._node = held if wanted in (None, held) else None
        self._settled = asyncio.Event()  # set while a number is held
        self._due = asyncio.Event()  # claim now
        self._own: set[bytes] = set()  # identities of this process's claims in this log
        self._away = "the log is being read"
        if self._node is not None:
            self._settled.set()
        self._log: LogFold[Claim | None, NodeFold] = LogFold(
            port,
            partition,
            NodeFold,
            background=background,
            on_folded=self._on_folded,
            on_restart=self._on_restart,
        )
        background.spawn(self._keep(), "node number")

    async def number(self) -> int:
        try:
            async with asyncio.timeout(LOG_SECONDS):
                while self._node is None:
                    await self._settled.wait()
        except TimeoutError:
            raise LogAway(f"this server has no node number for its keys yet: {self._away}") from None
        return self._node

    async def _keep(self) -> None:
        while True:
            self._due.clear()
            try:
                await self._claim()
                pause = RENEW_SECONDS
            except LogAway as away:
                self._away = str(away)
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for would lose a cancellation that comes as it is due
                    await self._due.wait()

    async def _claim(self) -> None:
        """Until the log says that a number is ours: whoever was first has the one that we asked for."""
        await self._log.ensure_loaded(LOG_SECONDS)
        while True:
            node = self._choice()
            append = self._append(node)
            self._own.add(append.identity)
            if await self._log.change("", append, LOG_SECONDS) is not None:
                return self._hold(node)

    def _choice(self) -> int:
        fold, server, wanted = self._log.fold, self._memory.server, self._wanted
        if wanted is not None and fold.holder(wanted) in (None, server):
            return wanted
        if wanted is not None:
            self._lose(f"node number {wanted} belongs to another server, {fold.holder(wanted)}: taking another one")
        held = fold.held_by(server)
        return fold.free() if held is None else held

    def _append(self, node: int) -> Append:
        claim = Claim(node, self._memory.server, self._instance)
        packet = data.Packet(type=NODE_CLAIM, content=msgspec.json.encode(claim))
        return Append(self._partition, b"", packet.SerializeToString(), new_identity())

    def _hold(self, node: int) -> None:
        if node != self._node:
            log.info("node number %d", node)
        memory = _Memory(self._memory.server, node, self._place)
        if memory != self._memory:
            self._memory = memory
            _write_memory(self._path, memory)  # blocks for one fsync, hardly ever
        self._node = self._wanted = node
        self._settled.set()

    def _lose(self, reason: str) -> None:
        log.warning("%s", reason)
        self._node = self._wanted = None
        self._settled.clear()

    def _on_folded(self, entry: LoggedEntry, claim: Claim | None) -> None:
        if claim is None or entry.identity in self._own or not self._own:
            return  # ours, or of the past
        if claim.server == self._memory.server and claim.instance != self._instance:
            self._memory = _Memory(str(uuid.uuid4()))
            self._lose("another server runs on a copy of this data directory: taking another node number")
            self._due.set()
        elif claim.node == self._node and claim.server != self._memory.server:
            self._lose(f"node number {claim.node} was not renewed for long and went to server {claim.server}")
            self._due.set()

    def _on_restart(self) -> None:
        self._own.clear()
        self._due.set()


def _read_memory(path: Path) -> _Memory:
    """What was written there; a new name, written at once, where nothing was or nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Memory)
    except FileNotFoundError:
        pass
    except UNDECODABLE as damaged:
        log.warning("%s cannot be read, this server takes another node number: %s", path, damaged)
    memory = _Memory(str(uuid.uuid4()))
    replace_file(path, msgspec.json.encode(memory))
    return memory


def _write_memory(path: Path, memory: _Memory) -> None:
    try:
        replace_file(path, msgspec.json.encode(memory))
    except OSError as error:
        log.warning("%s: not written, so after a restart this server may take another node number: %s", path, error)
