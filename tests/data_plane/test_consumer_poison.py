"""A request that ends a consumer must not end its successors."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_bench import Bench, numbers, packet


def test_a_request_that_ends_a_consumer_does_not_meet_its_successor(tmp_path: Path) -> None:
    """Not understood, as from a newer version. Peers say again what still holds, so nothing is lost with it."""
    bench = Bench(tmp_path)
    reader = bench.open()
    bench.settle()
    assert bench.peer.consumers[0].down.try_publish([(99, 1, b"no message")]) is not None
    with pytest.raises(KeyError):
        bench.consumer.do_work()
    bench.start_consumer()
    for consumer in bench.peer.consumers:
        assert consumer.has_successor()
        consumer.repeat_requests()
        bench.peer.readers.on_successor(consumer)
    bench.append(packet(1))
    bench.settle()
    assert numbers(reader) == [1]
