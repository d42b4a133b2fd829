"""What a configuration says about channels and events; no imports of gRPC or protobuf, so that anything can use it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EventKind", "Parameter"]


class Parameter(NamedTuple):
    """One channel as readers see it: ``vCar:Chassis`` is the parameter ``vCar`` of the application ``Chassis``.

    ``minimum`` and ``maximum`` are the range that a display should show; ``format_string`` is printf style, as
    this field has always written it. ``texts`` names whole values (gear 0 is "N").
    """

    identifier: str
    description: str
    units: str
    minimum: float
    maximum: float
    format_string: str = "%5.2f"
    texts: tuple[tuple[float, str], ...] = ()

    @property
    def name(self) -> str:
        return self.identifier.rpartition(":")[0] or self.identifier

    @property
    def application(self) -> str:
        return self.identifier.rpartition(":")[2] if ":" in self.identifier else ""


class EventKind(NamedTuple):
    """Something that happens at a moment and carries up to three numbers, each with its unit and format.

    ``priority`` is the number of the protocol's ``EventPriority``: 1 critical, 2 high, 3 medium, 4 low, 5 debug.
    """

    identifier: str
    description: str
    priority: int
    units: tuple[str, ...] = ()
    format_strings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.identifier.rpartition(":")[0] or self.identifier

    @property
    def application(self) -> str:
        return self.identifier.rpartition(":")[2] if ":" in self.identifier else ""
