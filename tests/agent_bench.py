"""One gateway, one producer, one consumer and a log in memory, over real rings, moved by hand."""

from __future__ import annotations

from pathlib import Path

from memory_log import MemoryLog, MemoryReader, MemoryWriter
from worker_kit import Kit, move

from ma.streaming.api.v1 import api_pb2
from ma.streaming.open_data.v1.open_data_pb2 import Packet
from trackside.data_plane.consumer import Consumer
from trackside.data_plane.link import FilterSpec
from trackside.data_plane.log import Partition
from trackside.data_plane.peer import Parcel, Peer
from trackside.data_plane.producer import Producer
from trackside.data_plane.reading import Reader
from trackside.data_plane.record import Record, Route
from trackside.data_plane.spec import Settings

__all__ = ["CAR", "Bench", "logged", "numbers", "packet", "record"]

CAR = Partition("Car", 0)


def packet(number: int, size: int = 0) -> bytes:
    return Packet(id=number, content=bytes(size)).SerializeToString()


def record(*packets: bytes, topic: str = "Car", essentials: str = "") -> Record:
    return Record([Route(topic, 0, b"key", essentials)], [0] * len(packets), list(packets))


def numbers(reader: Reader) -> list[int]:
    found: list[int] = []
    while reader.pending:
        found += [r.packet.id for r in api_pb2.ReadPacketsResponse.FromString(reader.take()).response]
    return found


def logged(log: MemoryLog, partition: Partition = CAR) -> list[int]:
    return [Packet.FromString(entry.value).id for entry in log.partitions.get(partition, [])]


class Bench:
    """One gateway, one producer, one consumer, one log."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.kit = Kit(folder, settings)
        self.log = MemoryLog()
        self.peer = self.kit.peer()
        self.start_producer()
        self.start_consumer()

    def start_producer(self) -> None:
        self.writer = MemoryWriter(self.log)
        self.producer = Producer(self.kit.worker("producer-0"), self.writer)

    def start_consumer(self) -> None:
        self.reader = MemoryReader(self.log)
        self.consumer = Consumer(self.kit.worker("consumer-0"), self.reader)

    def append(self, *packets: bytes, topic: str = "Car") -> None:
        assert self.peer.try_append({self.peer.producer_of(topic): Parcel([record(*packets, topic=topic)])})

    def settle(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            self.producer.do_work()
            self.consumer.do_work()
            move(self.peer)

    def open(
        self,
        offset: int = 0,
        peer: Peer | None = None,
        partition: Partition = CAR,
        filter_spec: FilterSpec | None = None,
    ) -> Reader:
        readers = (peer or self.peer).readers
        reader = readers.open(filter_spec=filter_spec)
        readers.join(reader, partition, offset)
        return reader
