"""Fault after fault, for as long as you like: the long form of ``tests/faults``. See docs/reliability.md.

./dev run python tests/faults/run.py --kills 100
./dev run python tests/faults/run.py --minutes 2 --fault producer --log kafka --shape 2/2/2 --seed 7
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # run as a program: what pytest puts on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import msgspec
from faults.catalogue import FAULTS, Fault
from faults.checker import Checker
from faults.runner import Extent, run_fault
from faults.verdict import Report
from kafka_broker import SASL_PASSWORD, SASL_USER, KafkaBroker, running_broker
from rich.console import Console
from rich.table import Table
from server import SHAPES, Server
from stepped import give_stepped_clock

DISK_MIB = 256
WIDE = 200
"""Columns of the table where nobody looks at once."""
SECURED = {
    "TRACKSIDE_SECURITY_SASL_USERNAME": SASL_USER,
    "TRACKSIDE_SECURITY_SASL_PASSWORD": SASL_PASSWORD,
    "TRACKSIDE_SECURITY_MECHANISM": "PLAIN",
}
COLUMNS = ("lost", "repeated", "reordered", "corrupted", "left_over")


def main() -> int:
    arguments = _arguments()
    faults = [FAULTS[name] for name in arguments.fault or FAULTS]
    extent = Extent(arguments.kills, 60 * arguments.minutes)
    reports: list[Report] = []
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(running_broker()) if "kafka" in arguments.log else None
        for number, (fault, log, shape) in enumerate(_runs(faults, arguments.log, arguments.shape)):
            _say(f"{fault.name}, {log}, {shape}: {fault.title}")
            report = _try(fault, log, shape, broker if log == "kafka" else None, number, arguments.seed, extent)
            reports.append(report)
            _say(f"  {'BROKEN: ' + '; '.join(report.broken) if report.broken else 'held'}")
            if arguments.json:
                _add(arguments.json, report)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table(reports))
    return 1 if any(report.broken for report in reports) else 0


def _try(
    fault: Fault, log: str, shape: str, broker: KafkaBroker | None, number: int, seed: int, extent: Extent
) -> Report:
    """One run, with a checker and a server of its own; one that cannot be finished costs nobody else."""
    try:
        if broker is not None and not broker.running:  # the run before has left it so
            broker.start()
        with _server(fault, shape, broker, number) as server, Checker() as checker:
            return run_fault(fault, server, checker, broker, seed=seed, extent=extent, say=_say)
    except (AssertionError, OSError, RuntimeError) as error:
        return Report(fault=fault.name, log=log, shape=shape, seed=seed, broken=[f"not finished: {str(error)[:500]}"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=100, help="of each fault; a tenth as many rounds where nobody is killed"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="of each fault, instead of a number of kills")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one; may be given again")
    parser.add_argument("--log", action="append", choices=("local", "kafka"), help="both, unless given")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="both, unless given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", type=Path, help="add the reports to this file, instead of older ones of the same kind"
    )
    arguments = parser.parse_args()
    arguments.log = arguments.log or ["local", "kafka"]
    arguments.shape = arguments.shape or list(SHAPES)
    return arguments


def _runs(faults: list[Fault], logs: list[str], shapes: list[str]) -> Iterator[tuple[Fault, str, str]]:
    for fault in faults:
        for log in fault.logs:
            for shape in shapes:
                if log in logs:
                    yield fault, log, shape


@contextlib.contextmanager
def _server(fault: Fault, shape: str, broker: KafkaBroker | None, number: int) -> Iterator[Server]:
    """One that serves, of its own folders and topics; all is thrown away."""
    with tempfile.TemporaryDirectory(prefix="trackside-fault-") as folder, contextlib.ExitStack() as stack:
        server = Server(Path(folder), shape, broker=_address(fault, broker) if broker else "")
        server.environment.update(fault.environment)
        if fault.small_disk:
            stack.enter_context(_small_disk(server.data_dir))
        if fault.stepped_clock:
            give_stepped_clock(server)
        if broker:
            server.environment["TRACKSIDE_DOMAIN"] = f"Fault{number}"
            server.environment.update(SECURED if fault.secured else {})
        try:
            yield server.start()
        finally:
            server.remove()


def _address(fault: Fault, broker: KafkaBroker) -> str:
    return broker.sasl_address if fault.secured else broker.address


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Raises OSError for who may not mount."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _add(path: Path, report: Report) -> None:
    before = msgspec.json.decode(path.read_bytes(), type=list[Report]) if path.exists() else []
    kind = report.fault, report.log, report.shape
    kept = [each for each in before if (each.fault, each.log, each.shape) != kind]
    path.write_bytes(msgspec.json.format(msgspec.json.encode([*kept, report]), indent=1) + b"\n")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def table(reports: list[Report]) -> Table:
    made = Table("fault", "log", "shape", "actions", "accepted", *COLUMNS, "pause w/r/a s", "held")
    for report in reports:
        actions = ", ".join(f"{count} x {what}" for what, count in report.actions.items())
        pauses = (report.writer_pause_seconds, report.reader_pause_seconds, report.answer_pause_seconds)
        made.add_row(
            *(report.fault, report.log, report.shape, actions, str(report.accepted)),
            *(str(getattr(report, column)) for column in COLUMNS),
            " / ".join(f"{pause:.1f}" for pause in pauses),
            "no" if report.broken else "yes",
        )
    return made


if __name__ == "__main__":
    raise SystemExit(main())
