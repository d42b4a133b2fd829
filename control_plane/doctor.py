"""``trackside doctor``: whether this machine can run the server as configured, and what to change where it cannot.

Starts no server, and changes nothing: what would be made is only looked at. May be asked while the server runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from trackside.control_plane.config import Conclusion
from trackside.control_plane.doctor_checks import CHECKS, Case, Finding
from trackside.control_plane.exit_codes import ExitCode

__all__ = ["examine", "main"]


def main(conclusion: Conclusion, as_json: bool) -> int:
    """Print each finding as it is made; CHECK_FAILED when one of them keeps the server from working."""
    findings: list[Finding] = []
    for finding in examine(conclusion):
        findings.append(finding)
        if not as_json:
            print(_line(finding), flush=True)
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        print(_summary(findings), file=sys.stderr)
    return ExitCode.CHECK_FAILED if _count(findings, "fail") else ExitCode.OK


def examine(conclusion: Conclusion) -> Iterator[Finding]:
    """Errors of the configuration, and then, if it has none, everything else. The last check may take 15 s."""
    yield from (Finding("fail", "configuration", str(problem)) for problem in conclusion.problems)
    if conclusion.settings is None:
        return
    yield Finding("ok", "configuration", conclusion.file or "no file: defaults, environment and options")
    case = Case(conclusion.settings)
    yield from chain.from_iterable(check(case) for check in CHECKS)


def _line(finding: Finding) -> str:
    advice = f"\n{'':21}-> {finding.advice}" if finding.advice else ""
    return f"{finding.level:5}{finding.about:16}{finding.text}{advice}"


def _summary(findings: Sequence[Finding]) -> str:
    failed, warned = _count(findings, "fail"), _count(findings, "warn")
    if not failed and not warned:
        return f"{len(findings)} checks, all fine."
    verdict = "The server cannot run like this." if failed else "The server can run."
    return f"{len(findings)} checks: {failed} failed, {warned} warned. {verdict}"


def _count(findings: Iterable[Finding], level: str) -> int:
    return sum(finding.level == level for finding in findings)
