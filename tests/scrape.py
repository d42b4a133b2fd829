"""One scrape of a server's ``/metrics``, for tests that ask what it counts."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families
from server import Server

__all__ = ["Scrape", "Values", "address"]

Values = dict[tuple[str, ...], float]


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, server: Server) -> None:
        text = urllib.request.urlopen(address(server, "/metrics"), timeout=30).read().decode()
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def of(self, source: str, name: str, *labels: str) -> Values:
        """Values of a data source by these labels; what is 0 is not there."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in self.samples
            if sample.name == f"stream_api_{name}" and sample.labels.get("data_source") == source and sample.value
        }

    def total(self, name: str) -> float:
        return sum(sample.value for sample in self.samples if sample.name == name)

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Everything that must never go back while the server lives, by name and labels."""
        kinds = ("counter", "histogram")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            if family.type in kinds and family.name != "trackside_worker_cpu_seconds"
            for sample in family.samples
        }


def address(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.described()['status_port']}{path}"
