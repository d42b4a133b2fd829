"""What every exit code of a Trackside process means: one table for commands, server and workers.

The numbers follow sysexits(3) where it has one. systemd reads them, too: the unit lists 78 in
``RestartPreventExitStatus``, because a wrong configuration does not get better by starting again.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["MEANING", "CommandFailed", "ExitCode"]


class ExitCode(IntEnum):
    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    NOT_REACHABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    TRY_AGAIN = 75
    CONFIGURATION = 78


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done; a worker that was asked to stop has stopped",
    ExitCode.CHECK_FAILED: "the command ran, and what it checked is not as it should be",
    ExitCode.USAGE: "no such command or option, or an option without its value",
    ExitCode.NOT_REACHABLE: "the server or its run directory does not answer",
    ExitCode.INTERNAL: "a defect of Trackside itself; a worker that ends so is started again",
    ExitCode.CANNOT_CREATE: "a port, folder or shared-memory file could not be had",
    ExitCode.TRY_AGAIN: "somebody else holds what is needed, or a bound passed; later it may work",
    ExitCode.CONFIGURATION: "the configuration or the data on disk is not usable as it is: do not start again unchanged",
}


class CommandFailed(Exception):
    """Ends a command with one sentence for its user, who sees no traceback, and with an exit code."""

    def __init__(self, code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
