"""The checker around a part of a test: ``with Load(server) as load: ...``, and nothing of it may be lost at the end."""

from __future__ import annotations

from typing import Self

from faults.catalogue import Fault
from faults.checker import Checker
from faults.runner import judge, log_of, watch_of
from faults.verdict import Report
from server import Server

__all__ = ["PREFIX", "Load"]

PREFIX = "Load"
"""Begins the names of the data sources (``lanes.sources``)."""

ANY = 1 << 30


class Load:
    """Many writers and readers on a server, from ``with`` to its end.

    Then, unless the test has failed already, everything accepted must be there, in order and as the readers got it; on
    the local log each packet once. ``breaks_allowed`` is how many of their calls may have ended meanwhile, ``statuses`` what writes may have been
    answered with besides the usual.
    """

    def __init__(self, server: Server, *, breaks_allowed: int = ANY, statuses: tuple[str, ...] = ()) -> None:
        self._server = server
        self._checker = Checker()
        self._breaks_allowed = breaks_allowed
        self._fault = Fault("load", "", (), (), repeats=True, statuses=statuses)
        self.report = Report()

    def __enter__(self) -> Self:
        self._checker.begin(watch_of(self._server, PREFIX))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._checker.close()

    def wait_more(self) -> None:
        """Until every writer has more packets accepted."""
        self._checker.wait_more()

    def _finish(self) -> None:
        self.report = self._checker.finish()
        self.report.log, self.report.breaks_allowed = log_of(self._server), self._breaks_allowed
        judge(self.report, self._fault)
        assert not self.report.broken, self.report
