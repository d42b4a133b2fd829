"""What clients of the reference server depend on, and what that server gets wrong: each with our verdict.

``same`` means that programs see no difference. ``better`` means that the reference fails there, and what is said here
holds instead. A fact that is neither needs a note. The page docs/compatibility.md is made from this table and from the
``fact`` marks of the tests: ``python tests/conformance/pages.py`` writes it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["FACTS", "GROUPS", "Fact", "Verdict"]


class Verdict(StrEnum):
    SAME = "same"
    BETTER = "better"
    NOT_APPLICABLE = "not applicable"
    OPEN = "open"  # no test shows it yet


SAME, BETTER, NOT_APPLICABLE, OPEN = Verdict


class Fact(NamedTuple):
    number: str
    verdict: Verdict
    says: str
    """What holds here; for what is not applicable, what the reference has."""

    note: str = ""
    """Why not applicable, what is missing while it is open, or where the two differ."""


_CLIENTS = [
    Fact("A1", SAME, "Plain-text HTTP/2 on 13579 has all five services, 15379 the key generator, 10010 the metrics."),
    Fact("A2", SAME, "Every response message stays below 4 MiB, the default limit of gRPC clients."),
    Fact("A3", SAME, "Unary calls are answered while read and notification streams are open, however many."),
    Fact("A4", SAME, "What a session call changed is in the very next GetSessionInfo, and a session is complete when "
         "its start is told."),
    Fact("A5", SAME, "GetCurrentSessions lists sessions in the order in which they began, finished ones too."),
    Fact("A6", SAME, "Offset maps in replies have keys `{data source}.{stream}:0`, whatever topics are called; "
         "`streams`, `main_offset` and `essentials_offset` are filled."),
    Fact("A7", SAME, "`streams` are those of the data source, without the main stream; a new one appears by itself.",
         "A stream whose name has a dot is in no list, as with the reference; it is written and read by name."),
    Fact("A8", SAME, "GetConnection returns the details as given, and every read on a connection begins again at the "
         "connection's offsets, several at once too."),
    Fact("A9", SAME, "Offset 0 is the earliest, -1 the end, n exactly n; an offset that is missing is 0."),
    Fact("A10", SAME, "The session filter looks at the request's session key, not at the packet's; none means all."),
    Fact("A11", SAME, "The main stream is labelled with the empty text, in essentials too."),
    Fact("A12", SAME, "An essential packet comes from ReadEssentials and on the stream that it was written to."),
    Fact("A13", SAME, "ReadEssentials follows live on a connection with a session key, and ends at the end without."),
    Fact("A14", BETTER, "WriteDataPackets and WriteInfoPackets answer when the client half-closes."),
    Fact("A15", SAME, "Types and contents are the clients' own; filtered reads skip what they cannot decode."),
    Fact("A16", SAME, "EndSession needs nothing but the session key."),
    Fact("A17", SAME, "An unknown session, format or connection is `success = false`, an empty reply or a read that "
         "ends: status OK."),
    Fact("A18", SAME, "Format ids are above 0, stable for a list in its order, others for another order, and resolve "
         "at once."),
    Fact("A19", SAME, "Notifications tell what starts or stops after the call, of one data source, and stay open."),
    Fact("A20", SAME, "A read of the past delivers everything and then stays open."),
    Fact("A21", BETTER, "GetSessionInfo can be asked as often as one likes: it is answered from memory, and topics "
         "are looked up at most once a second."),
    Fact("A22", SAME, "An info packet of type SessionInfo changes the session; empty fields leave what was there."),
    Fact("A23", SAME, "Packets come back as they were written, unknown fields too, with a submit time, and no "
         "response is empty."),
    Fact("A24", SAME, "Packet types are message names without `Packet`; any other text passes."),
    Fact("A25", BETTER, "A connection without streams reads all streams of its data source, labelled, also those that "
         "appear later.", "The reference reads the main stream only, or gives every stream the empty label."),
]  # fmt: skip

_MUST_MATCH = [
    Fact("C1", SAME, "Topic names, partitions, essentials in both topics, key = session key of the request, value = "
         "packet bytes."),
    Fact("C2", SAME, "Packet types on the session-info topic and how they merge; offset maps by `topic:partition` with "
         "high watermarks; definitions have an empty key."),
    Fact("C3", SAME, "Type names, and filters as .NET search: case counts, exclude wins for a name, any name is enough "
         "for a packet, packets stay whole."),
    Fact("C4", SAME, "`success = false` instead of a status, an empty read for an unknown connection, an empty reply "
         "for an unknown format."),
    Fact("C5", SAME, "Order makes a format another one, each list has one stable id; session keys are GUIDs, numbers "
         "are UTC ticks that only rise."),
    Fact("C6", SAME, "The main stream and essentials have the empty label; submit_time is the log's timestamp."),
    Fact("C7", SAME, "Ports, names of environment variables and names of metrics.",
         "HTTP start control on 1531 (`AUTO_START`) is not there: a service manager starts the server."),
]  # fmt: skip

_WRITING = [
    Fact("W1", BETTER, "With partitions, packets of any number of data sources find their partition, whatever was "
         "written first."),
    Fact("W2", BETTER, "First packets of many streams, written at once over several gateways, all find their topic."),
    Fact("W3", BETTER, "More data sources and streams cost no more Kafka clients or threads."),
    Fact("W4", BETTER, "Info packets go to the topic of their type: system status apart from session info.",
         "Of unspecified type: session info, as with the reference."),
    Fact("W5", BETTER, "Info packets make no topics of a data source `Info`."),
    Fact("W6", BETTER, "The first packet of a new data source waits for no data format to be loaded, and nobody waits "
         "for it."),
    Fact("W7", BETTER, "What waits is bounded; who writes too fast waits and is then told; a call may ask to be "
         "answered by the log."),
    Fact("W8", BETTER, "What is too large is refused at the door; what the log refuses is a dead letter with its "
         "reason, counted, and told to who waits for the log."),
    Fact("W9", BETTER, "Waiting for room has a bound and stops the writers of one topic only."),
    Fact("W10", BETTER, "Client streams are answered when they end, after the log has their packets."),
    Fact("W11", BETTER, "A malformed item ends its call with INVALID_ARGUMENT, naming the field, after everything "
         "before it is safe."),
    Fact("W12", BETTER, "Data source `A.B` and stream `B` of data source `A` share a topic, and both are delivered."),
    Fact("W13", BETTER, "Essentials always lie in partition 0 of a topic with one partition."),
    Fact("W14", BETTER, "Writing depends on no other part: formats or sessions that cannot be loaded stop no packet."),
    Fact("W15", BETTER, "Kafka producers are idempotent, and nothing passes a packet that is sent again or refused."),
    Fact("W16", BETTER, "A stop drains: what was accepted is in the log, or kept for the next start."),
]  # fmt: skip

_READING = [
    Fact("R1", BETTER, "A client that goes away frees its reader at once."),
    Fact("R2", BETTER, "CloseConnection ends the connection's readers with OK.",
         "The end of a session ends no reader."),
    Fact("R3", BETTER, "Readers share clients and fetches: a hundred at the end of a stream cost as much as one."),
    Fact("R4", BETTER, "When retention has deleted offset 0, reading begins at the earliest that is there."),
    Fact("R5", BETTER, "Offsets belong to the streams at their place; missing ones are 0; a stream named twice is "
         "read once."),
    Fact("R6", BETTER, "No streams means all of them, labelled, with those that appear later."),
    Fact("R7", BETTER, "ReadEssentials begins at `essentials_offset`."),
    Fact("R8", BETTER, "ReadEssentials without a session ends at once when there is nothing to read."),
    Fact("R9", BETTER, "What cannot be decoded in the log is skipped and counted, and reading goes on."),
    Fact("R10", BETTER, "A read that cannot begin ends with a status that says why."),
    Fact("R11", BETTER, "Topics and partitions that are not there yet are waited for."),
    Fact("R12", BETTER, "A read that has ended leaves nothing running."),
    Fact("R13", BETTER, "A failure in a reader's process ends that process, with last words and a successor; open "
         "reads go on."),
    Fact("R14", BETTER, "A finite read over several partitions ends at the end of each and loses no place."),
    Fact("R15", BETTER, "A filter is evaluated once for a data format, not for every packet."),
    Fact("R16", BETTER, "Batches are bounded by bytes and by time."),
    Fact("R17", BETTER, "Reading creates no topic."),
    Fact("R18", BETTER, "Offsets are committed only when the connection names a consumer group."),
    Fact("R19", BETTER, "Delivered packets are counted once, after the filter, with and without batching; labels of a "
         "closed connection go."),
    Fact("R20", BETTER, "Connection ids are random 63-bit numbers."),
    Fact("R21", BETTER, "NewConnection without details is refused."),
]  # fmt: skip

_SESSIONS = [
    Fact("S1", BETTER, "Changes of one session that come at once are all kept."),
    Fact("S2", BETTER, "The echo of an older change from the log never takes back a newer one."),
    Fact("S3", SAME, "An empty identifier or type changes nothing; details and associates are never removed."),
    Fact("S4", BETTER, "Streams that share a partition, or partition 0, harm no session call."),
    Fact("S5", BETTER, "Session calls ask the log for the topics of one data source in one question."),
    Fact("S6", BETTER, "Data sources are compared letter by letter: no pattern, no case folding."),
    Fact("S7", BETTER, "Streams are kept for each data source apart."),
    Fact("S8", BETTER, "Subscribers that come and go never disturb a session call or one another."),
    Fact("S9", BETTER, "Events that come at once are told one after another on each stream."),
    Fact("S10", BETTER, "A subscriber that takes nothing delays nobody."),
    Fact("S11", BETTER, "A subscriber that has gone is forgotten at once."),
    Fact("S12", BETTER, "Ending a session twice writes one packet and answers the same."),
    Fact("S13", BETTER, "EndSession with the data source of another session does nothing."),
    Fact("S14", BETTER, "The sessions gauge follows every change, own and foreign."),
    Fact("S15", BETTER, "A change or end that stands in the log before its session is held until that comes."),
    Fact("S16", BETTER, "At start, sessions are read up to the end of the log as it was then, not until it is quiet."),
    Fact("S17", BETTER, "A session is answered when the log has it."),
    Fact("S18", BETTER, "The version is 1 unless said otherwise."),
    Fact("S19", BETTER, "A start is told when the log has the session."),
]  # fmt: skip

_FORMATS = [
    Fact("D1", BETTER, "A data source that is seen for the first time makes nobody wait for a quiet period."),
    Fact("D2", BETTER, "One list has one id, however many ask at once, on however many servers."),
    Fact("D3", BETTER, '`["a,b"]` and `["a","b"]` are two lists.'),
    Fact("D4", BETTER, "Formats have one owner, who takes one entry of the log after another."),
    Fact("D5", BETTER, "Writing packets takes no lock of the data formats."),
    Fact("D6", BETTER, "Formats of a data source are loaded when they are first needed, not by a client for each at "
         "start."),
    Fact("D7", SAME, "Definitions have an empty key, so that a session filter hides them: ask the service."),
    Fact("D8", BETTER, "A bad pattern is refused when the call starts, naming it."),
]  # fmt: skip

_GENERAL = [
    Fact("K1", BETTER, "A topic that could not be made is tried again; one that was deleted is made again."),
    Fact("K2", BETTER, "Ending one read, one watch or one process ends nothing else."),
    Fact("K3", BETTER, "Where a read starts and what happens when that place is gone are two rules."),
    Fact("K4", NOT_APPLICABLE, "Warnings about entries that stand twice in a table of topics.",
         "There is no such table."),
    Fact("K5", BETTER, "No handler blocks a thread: a thousand open streams leave unary calls as they were."),
    Fact("K6", BETTER, "Several servers can be embedded in one program, and a start that fails says so."),
    Fact("K7", NOT_APPLICABLE, "Code that nothing calls.", "Not a behaviour."),
    Fact("K8", BETTER, "Every service has its health, and tables of connections, filters and labels have bounds."),
    Fact("K9", BETTER, "Topics are made with explicit partitions (1, or as mapped) and a configurable replication "
         "factor, whatever the broker's defaults."),
    Fact("K10", BETTER, "Keys never repeat: over restarts, clock steps and servers."),
]  # fmt: skip

GROUPS: dict[str, list[Fact]] = {
    "What clients rely on (A)": _CLIENTS,
    "What must match (C)": _MUST_MATCH,
    "Writing (W)": _WRITING,
    "Reading (R)": _READING,
    "Sessions (S)": _SESSIONS,
    "Data formats (D)": _FORMATS,
    "Kafka and the rest (K)": _GENERAL,
}
"""The heading of each group on the page, and its facts in the order of their numbers."""

FACTS: dict[str, Fact] = {fact.number: fact for facts in GROUPS.values() for fact in facts}
