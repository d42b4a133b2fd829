"""What a demonstration ended with, and whether that proves what it promised."""

from __future__ import annotations

from typing import Any, NamedTuple

from trackside.bench.demo_server import KillResult, is_way_in
from trackside.shm.observe import Server

__all__ = ["Outcome", "document", "failures"]


class Outcome(NamedTuple):
    """``written`` and ``read`` are what writer and reader told last; ``server`` is the last look before it stopped."""

    drive: str
    seconds: float
    written: dict[str, Any]
    read: dict[str, Any]
    kills: list[KillResult]
    fill_max: float
    server: Server | None
    exit_code: int


def failures(outcome: Outcome) -> list[str]:
    """What is not as promised, a sentence each; nothing when everything is proved."""
    return [*_of_packets(outcome.written, outcome.read), *_of_processes(outcome)]


def _of_packets(written: dict[str, Any], read: dict[str, Any]) -> list[str]:
    found = []
    if written["confirmed_packets"] != written["written"]:
        found.append(f"{written['confirmed_packets']} of {written['written']} packets were confirmed to the writer")
    missing = written["written"] - read["distinct"]
    if missing:
        found.append(f"{missing} of {written['written']} packets were not read; first missing {read['first_missing']}")
    if read["changed"]:
        found.append(f"{read['changed']} packets came again with another content")
    if written["hash"] != read["hash"]:
        found.append(f"the hashes differ: written {written['hash']}, read {read['hash']}")
    return found


def _of_processes(outcome: Outcome) -> list[str]:
    found = [f"nobody took over from {kill.name}" for kill in outcome.kills if kill.successor_pid is None]
    if outcome.server is None:
        found.append("the server's shared memory could not be read at the end")
    else:
        waiting = [ring for ring in outcome.server.rings if is_way_in(ring) and ring.used_bytes]
        found += [f"ring {ring.name} still holds {ring.used_bytes} bytes that are not in the log" for ring in waiting]
    if outcome.exit_code:
        found.append(f"the server ended with exit code {outcome.exit_code}")
    return found


def document(outcome: Outcome) -> dict[str, Any]:
    """The summary as plain values, for ``--json``."""
    written, read, server = outcome.written, outcome.read, outcome.server
    failed = failures(outcome)
    return {
        "proved": not failed,
        "failures": failed,
        "drive": outcome.drive,
        "seconds": outcome.seconds,
        "packets_written": written["written"],
        "packets_read": read["distinct"],
        "duplicates": read["duplicates"],
        "resent_packets": written["resent_packets"],
        "bytes": written["bytes"],
        "hash_written": written["hash"],
        "hash_read": read["hash"],
        "latency": read["latency"],
        "ring_fill_max": outcome.fill_max,
        "broken_calls": {"writer": written["broken_calls"], "reader": read["broken_calls"]},
        "killed": [kill._asdict() for kill in outcome.kills],
        "processes": [
            {"name": process.name, "pid": process.pid, "restarts": process.restarts, "state": process.state}
            for process in (server.processes if server else ())
        ],
        "rings": [
            {"name": ring.name, "publish": ring.publish, "commit": ring.commit, "packets": ring.packets}
            for ring in (server.rings if server else ())
        ],
    }
