"""How the demo talks with its writer and its reader: JSON lines, news on their stdout, orders on their stdin.

A child whose stdin ends has lost its parent and leaves: nothing keeps running when the demo was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Child", "ChildFailed", "last_lines", "listen_for_orders", "tell"]

_telling = threading.Lock()


def tell(kind: str, **fields: object) -> None:
    """Child: one line of news. From any thread."""
    line = json.dumps({"kind": kind, **fields}) + "\n"
    with _telling:
        sys.stdout.write(line)
        sys.stdout.flush()


def listen_for_orders(on_order: Callable[[dict[str, Any]], None]) -> None:
    """Child: call ``on_order`` from a thread of its own for each order; end the process when the parent is gone."""

    def listen() -> None:
        for line in sys.stdin:
            on_order(json.loads(line))
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


class ChildFailed(Exception):
    """The child ended, or did not tell what was waited for; one line that names it and says why."""


class Child:
    """Parent's end: a Python module in a process of its own, in a session of its own (Ctrl-C is the parent's)."""

    def __init__(self, name: str, module: str, arguments: dict[str, Any], log_file: Path) -> None:
        self.name = name
        self._log_file = log_file
        self._changed = threading.Condition()
        self._news: dict[str, dict[str, Any]] = {}
        command = [sys.executable, "-P", "-m", module, json.dumps(arguments)]
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, text=True
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def latest(self, kind: str) -> dict[str, Any] | None:
        """The last news of this kind."""
        with self._changed:
            return self._news.get(kind)

    def order(self, **fields: object) -> None:
        """Tell the child something; one that is gone hears nothing."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(fields) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def wait(self, kind: str, seconds: float) -> dict[str, Any]:
        """Until news of this kind came. Raises ChildFailed when the child ends before, or the bound passes."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while kind not in self._news:
                if "ended" in self._news:
                    raise ChildFailed(f"the {self.name} ended: {self.last_words()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ChildFailed(f"the {self.name} did not say {kind!r} within {seconds:.0f} s")
                self._changed.wait(left)
            return self._news[kind]

    def last_words(self) -> str:
        """Why it ended: what it told last, else the last line of its stderr, else its exit code."""
        failed = self._news.get("failed")
        if failed is not None:
            return str(failed["reason"])
        lines = last_lines(self._log_file, 1)
        return lines[0] if lines else f"exit code {self.process.poll()}"

    def end(self, seconds: float = 5.0) -> int | None:
        """Close its stdin, which ends it; SIGKILL when that takes longer than the bound."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            news = json.loads(line)
            self._take(news["kind"], news)
        self.process.wait()
        self._take("ended", {"code": self.process.returncode})

    def _take(self, kind: str, news: dict[str, Any]) -> None:
        with self._changed:
            self._news[kind] = news
            self._changed.notify_all()


def last_lines(file: Path, count: int) -> list[str]:
    """The last non-empty lines of a log."""
    text = file.read_text(errors="replace") if file.exists() else ""
    return [line for line in text.splitlines() if line.strip()][-count:]
