"""The types that a configuration key can have: what is allowed, in words, and how text or JSON becomes the value.

``parse`` takes what a file (JSON values), the environment or a flag (text) holds, so ``13579`` and ``"13579"`` are
the same. It raises Refused, with a reason only when the reason says more than ``allowed`` does; whoever reports
adds key, value and origin.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "Address",
    "Brokers",
    "Bytes",
    "Choice",
    "CoreList",
    "Endpoint",
    "File",
    "Folder",
    "Kind",
    "Mappings",
    "Number",
    "Refused",
    "Switch",
    "Text",
    "Whole",
    "spelled",
]

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([a-zA-Z]*)")
_BROKER = re.compile(r"(?:(?:PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/@,]+):(\d{1,5})")
_ENDPOINT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/@,]+):(\d{1,5})")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")


def spelled(name: str) -> str:
    """One form for all spellings of a name: ``PROMETHEUS_METRIC_PORT`` is ``PrometheusMetricPort``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Refused(ValueError):
    """This value may not stand here."""


class Kind(Protocol):
    """One type of value."""

    @property
    def allowed(self) -> str:
        """What may stand here, to follow "must be"."""

    def parse(self, raw: object) -> object:
        """The value. Raises Refused; its text, if any, is used in place of ``allowed``."""

    def show(self, value: object) -> str:
        """The value as a person would write it."""


@dataclass(frozen=True, slots=True)
class Text:
    length_max: int = 1024
    pattern: str = ""
    allowed: str = "text"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or len(raw) > self.length_max or "\0" in raw:
            raise Refused
        if self.pattern and not re.fullmatch(self.pattern, raw):
            raise Refused
        return raw

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Whole:
    low: int
    high: int
    never: int | None = None

    @property
    def allowed(self) -> str:
        but = "" if self.never is None else f", but not {self.never}"
        return f"a whole number from {self.low} to {self.high}{but}"

    def parse(self, raw: object) -> int:
        value = _whole(raw)
        if not self.low <= value <= self.high or value == self.never:
            raise Refused
        return value

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Number:
    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"a number from {self.low:.15g} to {self.high:.15g}"

    def parse(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise Refused
        try:
            value = float(raw)
        except (ValueError, OverflowError):
            raise Refused from None
        if not self.low <= value <= self.high:  # also refuses nan
            raise Refused
        return value

    def show(self, value: object) -> str:
        return f"{value:.15g}"


@dataclass(frozen=True, slots=True)
class Bytes:
    """A size; text may carry a unit: ``64 MiB``. With ``zero`` the value 0 is allowed and means what it says there."""

    low: int
    high: int
    zero: str = ""

    @property
    def allowed(self) -> str:
        zero = f"0 ({self.zero}) or " if self.zero else ""
        return f"{zero}a size from {self.show(self.low)} to {self.show(self.high)}"

    def parse(self, raw: object) -> int:
        value = _size(raw)
        if value == 0 and self.zero:
            return 0
        if not self.low <= value <= self.high:
            raise Refused
        return value

    def show(self, value: object) -> str:
        assert isinstance(value, int)
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            size = _UNITS[unit.lower()]
            if value >= size and value % size == 0:
                return f"{value // size} {unit}"
        return str(value)


@dataclass(frozen=True, slots=True)
class Switch:
    allowed: str = "true or false"

    def parse(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.strip().lower() in ("true", "false"):
            return raw.strip().lower() == "true"
        raise Refused

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of ``names`` in any spelling, or its number where the reference server counts them."""

    names: tuple[str, ...]
    numbers: Mapping[int, str] | None = None

    @property
    def allowed(self) -> str:
        numbers = {name: number for number, name in (self.numbers or {}).items()}
        return "one of " + ", ".join(f"{name} ({numbers[name]})" if name in numbers else name for name in self.names)

    def parse(self, raw: object) -> str:
        if isinstance(raw, str):
            for name in self.names:
                if spelled(name) == spelled(raw):
                    return name
        if not isinstance(raw, str | int) or self.numbers is None:
            raise Refused
        name_of_number = self.numbers.get(_whole(raw))
        if name_of_number is None:
            raise Refused
        return name_of_number

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Brokers:
    """``host:port`` addresses, separated by commas, in any number; empty text is none."""

    allowed: str = "HOST:PORT, several separated by commas, or empty for the local log"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Refused
        if not raw.strip():
            return ""
        return ",".join(_broker(part.strip()) for part in raw.split(","))

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ``host:port``; empty text is none."""

    allowed: str = "HOST:PORT, or empty"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Refused
        return _broker(raw.strip(), _ENDPOINT) if raw.strip() else ""

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Address:
    allowed: str = "an IP address of this machine, 0.0.0.0 or :: for all, or localhost (127.0.0.1)"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise Refused
        if raw == "localhost":
            return "127.0.0.1"  # one address, so that the reservation and grpc mean the same
        try:
            return str(ipaddress.ip_address(raw.strip("[]")))
        except ValueError:
            raise Refused from None

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Folder:
    """An absolute path; a relative one counts from the working directory, ``~`` is the user's home."""

    allowed: str = "the path of a folder"

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str | os.PathLike):
            raise Refused
        text = os.fspath(raw)
        if not isinstance(text, str) or not text or "\0" in text:
            raise Refused
        return os.path.abspath(os.path.expanduser(text))

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class File:
    """As a folder's path; empty text is none. Whether there is such a file is not judged here."""

    allowed: str = "the path of a file, or empty"

    def parse(self, raw: object) -> str:
        return "" if raw == "" else Folder(self.allowed).parse(raw)

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class CoreList:
    """CPU numbers: ``2-5,7`` or a JSON array; only cores that this process may run on."""

    allowed: str = "CPU numbers such as 2-5,7"

    def parse(self, raw: object) -> list[int]:
        cores = sorted(set(_core_numbers(raw)))
        if not cores:
            raise Refused
        usable = os.sched_getaffinity(0)
        if missing := [core for core in cores if core not in usable]:
            raise Refused(f"core {missing[0]} is not one that this process may use: {self.show(sorted(usable))}")
        return cores

    def show(self, value: object) -> str:
        assert isinstance(value, list)
        return _ranges(value)


@dataclass(frozen=True, slots=True)
class Mappings:
    """Stream names to partitions: the JSON array of the reference, an object, or text ``Engine=1,Chassis=2``."""

    allowed: str = 'an array of {"Stream": name, "Partition": whole number from 0 to 9999}'

    def parse(self, raw: object) -> dict[str, int]:
        pairs = list(self._pairs(raw))
        found: dict[str, int] = {}
        for stream, partition in pairs:
            if not stream or len(stream) > 249:
                raise Refused(f"stream {stream[:20]!r} has {len(stream)} characters, and a name has 1 to 249")
            if not 0 <= partition <= 9999:
                raise Refused(f"stream {stream} has partition {partition}, and the range is 0 to 9999")
            if found.setdefault(stream, partition) != partition:
                raise Refused(f"stream {stream} is mapped to partition {found[stream]} and to {partition}")
        return found

    def _pairs(self, raw: object) -> list[tuple[str, int]]:
        if isinstance(raw, str):
            parts = [part.rpartition("=") for part in raw.split(",") if part.strip()]
            return [(stream.strip(), _whole(partition)) for stream, _, partition in parts]
        if isinstance(raw, Mapping):
            return [(str(stream), _whole(partition)) for stream, partition in raw.items()]
        if isinstance(raw, list):
            return [_mapping_row(row) for row in raw]
        raise Refused

    def show(self, value: object) -> str:
        assert isinstance(value, dict)
        return ",".join(f"{stream}={partition}" for stream, partition in value.items())


def _mapping_row(row: object) -> tuple[str, int]:
    if not isinstance(row, Mapping):
        raise Refused
    fields = {spelled(str(name)): value for name, value in row.items()}
    if set(fields) != {"stream", "partition"} or not isinstance(fields["stream"], str):
        raise Refused
    return fields["stream"], _whole(fields["partition"])


def _whole(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise Refused
    if isinstance(raw, int):
        return raw
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", raw):
        raise Refused
    return int(raw)


def _size(raw: object) -> int:
    if not isinstance(raw, str):
        return _whole(raw)
    match = _SIZE.fullmatch(raw.strip())
    if match is None or match.group(2).lower() not in _UNITS or len(match.group(1)) > 19:
        raise Refused
    return int(match.group(1)) * _UNITS[match.group(2).lower()]


def _broker(text: str, form: re.Pattern[str] = _BROKER) -> str:
    match = form.fullmatch(text)
    if match is None:
        raise Refused(f"{text!r} is no HOST:PORT")
    host, port = match.group(1), int(match.group(2))
    if not 1 <= port <= 65535:
        raise Refused(f"the port of {text!r} must be from 1 to 65535")
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise Refused(f"{host} in {text!r} is no IPv6 address") from None
    elif not _HOST_NAME.fullmatch(host) or len(host) > 253:
        raise Refused(f"{host!r} in {text!r} is no host name")
    return text


def _core_numbers(raw: object) -> list[int]:
    if isinstance(raw, list):
        return [Whole(0, 4095).parse(core) for core in raw]
    if isinstance(raw, int):
        return [Whole(0, 4095).parse(raw)]
    if not isinstance(raw, str):
        raise Refused
    cores: list[int] = []
    for part in raw.split(","):
        first, dash, last = part.strip().partition("-")
        low = Whole(0, 4095).parse(first)
        high = Whole(low, 4095).parse(last) if dash else low
        cores.extend(range(low, high + 1))
    return cores


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
