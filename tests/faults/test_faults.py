"""The short form of the fault suite: one round of each fault, while many clients write and read.

``python tests/faults/run.py`` is the long form. Faults share servers, each has data sources of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from faults.catalogue import FAULTS, Fault
from faults.checker import Checker
from faults.runner import run_fault
from kafka_broker import KafkaBroker
from server import SHAPES, Server

SEED = 1
DOMAIN = "Faults"


def _cases(logs: Iterable[str], shapes: Iterable[str]) -> list[object]:
    """Those of one server together."""
    return [
        pytest.param(
            *(fault, log, shape),
            marks=[pytest.mark.kafka] if log == "kafka" else [],
            id=f"{fault.name}-{log}-{shape}",
        )
        for log in logs
        for shape in shapes
        for fault in FAULTS.values()
        if f"{log} {shape}" in fault.short
    ]


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    with Checker() as checker:
        yield checker


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """A server that serves, for this log and shape; another one, and only then, when that is asked for."""
    servers: dict[tuple[str, str], Server] = {}

    def end_all() -> None:
        for server in servers.values():
            server.remove()
        servers.clear()

    def find(shape: str, broker: KafkaBroker | None) -> Server:
        wanted = "kafka" if broker else "local", shape
        if wanted not in servers or not servers[wanted].port:
            end_all()
            server = Server(tmp_path_factory.mktemp("faults"), shape, broker=broker.address if broker else "")
            if broker:  # other tests have the same broker
                server.environment["TRACKSIDE_DOMAIN"] = f"{DOMAIN}{shape.replace('/', '')}"
            servers[wanted] = server  # first: one that does not come to serve is ended, too
            server.start()
        return servers[wanted]

    yield find
    end_all()


@pytest.mark.fact("R13", "W16")
@pytest.mark.parametrize(("fault", "log", "shape"), _cases(["local", "kafka"], SHAPES))
def test_the_promises_hold(
    request: pytest.FixtureRequest,
    server_of: Callable[..., Server],
    checker: Checker,
    fault: Fault,
    log: str,
    shape: str,
) -> None:
    broker = request.getfixturevalue("kafka_broker") if log == "kafka" else None
    if broker is not None and not broker.running:  # the test before could not start it again in time
        broker.start()
    server = server_of(shape, broker)
    report = run_fault(fault, server, checker, broker, seed=SEED)
    print(report)
    assert not report.broken, (report, server.log_text()[-3000:])
