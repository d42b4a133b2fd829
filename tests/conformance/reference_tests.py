"""The reference server's own tests, by class and scenario, in our words; those without an equivalent say why.

Names of classes that differ in a part only are written together, as a shell would: ``Packet{,Batch}ReadShould``.
A test of ours that holds a scenario carries ``reference_test("<class>: <scenario>")``. The table in tests/README.md is
made from this and from the marks: ``python tests/conformance/pages.py`` writes it.
"""

from __future__ import annotations

__all__ = ["REFERENCE_TESTS", "WITHOUT_EQUIVALENT"]

_BY_CLASS: dict[str, list[str]] = {
    # unit tests
    "IdentifierFilterShould": [
        "without include patterns everything passes",
        "without exclude patterns nothing is excluded",
        "an include pattern matches",
        "an exclude pattern matches",
        "a name in both lists is rejected",
    ],
    "ParameterListKeyCreatorShould": ["an empty list, one name and three names are different keys"],
    "ConnectionManagerShould": [
        "two equal requests get two ids",
        "GetConnection with id 0",
        "GetConnection gives the details of the request",
        "CloseConnection with id 0",
        "CloseConnection takes the connection away",
        "the gauge follows the open connections",
    ],
    "SessionManagementServiceShould": [
        "CreateSession writes one NewSession packet",
        "EndSession gives four offsets and writes one EndOfSession packet",
        "EndSession for an unknown session",
        "GetCurrentSessions gives those of the data source",
        "GetSessionInfo gives the record of the key",
        "UpdateSessionIdentifier for an unknown session",
        "UpdateSessionIdentifier writes one SessionInfo packet",
        "UpdateSessionDetails for an unknown session",
        "UpdateSessionDetails merges",
        "AddAssociateSession for an unknown session",
        "AddAssociateSession appends in order",
    ],
    # integration tests
    "ClientShould": [
        "the flag says initialised only between Initialise and Shutdown",
        "every service has a client after Initialise",
        "getters throw before Initialise",
    ],
    "HostStreamApiConfigurationShould": ["both configuration classes have the same properties"],
    "SessionInfoServiceShould": [
        "it starts when the broker is there",
        "the topic is made with one partition",
        "a session is rebuilt from the packets of another program",
    ],
    "DataFormatInfoServiceShould": [
        "it starts",
        "a fresh broker has no essentials topics",
        "a data source that is added has one essentials topic and one subscriber",
        "definitions on the topic are found by list and by id",
        "two ids of one list and of one event all resolve",
    ],
    "DataFormatManagerShould": [
        "what the topic has is given out, in both directions",
        "a new event and a new list get ids that resolve at once",
    ],
    "{TopicBased,PartitionBased}SessionManagerShould": ["the life of a session"],
    "{TopicBased,PartitionBased}PacketWriteAnd{,Batch}ReadShould": [
        "a packet of stream 1 has its label",
        "a packet of stream 2 has its label",
        "a packet without a stream has the empty label",
        "packets of all three have their labels",
        "a packet of another session key is not delivered",
        "a thousand streamed packets all arrive",
        "an essential packet comes from both reads",
        "a thousand essential packets come twice",
    ],
    "PartitionBasedPacketWriteAnd{,Batch}ReadShould": ["a stream that is not mapped is main"],
    "TopicBasedDataPacketWriteAndReadShould": [
        "periodic, row and synchro packets pass without a filter",
        "rows and periodic data have their labels",
        "a packet of another session key is not delivered",
        "a thousand streamed packets all arrive",
        "an event passes without a filter",
        "markers pass only when they are asked for",
        "included parameters, in each kind of packet",
        "excluded parameters, in each kind of packet",
        "included and excluded events",
        "a parameter in both lists is excluded",
        "one included name is enough beside an excluded one",
    ],
    # router tests
    "Router: producer": [
        "value and key arrive unchanged",
        "the builder, the holder and the publishers delegate",
        "a full queue is tried again after 500 ms",
    ],
    "Router: end to end": [
        "several routes, with and without keys",
        "an unknown route goes to the dead letters",
        "thirty checks of routes at once make every topic",
        "an existing topic keeps its partitions, missing ones are made",
    ],
    "Router: listener": [
        "from the earliest with key",
        "live without key",
        "from offset 10 of 15",
        "nothing after Stop",
        "factories make instances",
    ],
    "Router: reader": [
        "up to the watermark at the start",
        "from offset 10 of 15 to the end",
        "three partitions",
        "later messages are not delivered",
        "two readers at once each get everything",
        "the repository of components",
    ],
    "Router: topic helper": ["high watermarks by partition and topic", "search by prefix, suffix and substring"],
    "Router: key generator": ["a million numbers are unique", "a million texts are unique"],
}

REFERENCE_TESTS: list[str] = [f"{name}: {scenario}" for name, scenarios in _BY_CLASS.items() for scenario in scenarios]

_INSIDE = "about classes inside the reference, of which clients see nothing"

WITHOUT_EQUIVALENT: dict[str, str] = {
    "ClientShould: getters throw before Initialise": "the embedded server is one object that exists only while it "
    "serves: there is no before",
    "Router: producer: the builder, the holder and the publishers delegate": _INSIDE,
    "Router: producer: a full queue is tried again after 500 ms": "full is an answer here, with a bound",
    "Router: end to end: an unknown route goes to the dead letters": "every packet has a route, or is refused at the "
    "door",
    "Router: listener: factories make instances": _INSIDE,
    "Router: reader: the repository of components": _INSIDE,
    "Router: topic helper: search by prefix, suffix and substring": "topics are compared letter by letter",
}
"""Scenarios for which no test of ours stands, and why."""
