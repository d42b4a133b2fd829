"""The longest time between two good moments of one client."""

from __future__ import annotations

import time

__all__ = ["Pause"]


class Pause:
    """Of one thread; others may read ``longest``."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._since = 0.0

    def begin(self) -> None:
        self._since = time.monotonic()

    def end(self) -> None:
        """A good moment: what it ended counts, and the next begins."""
        now = time.monotonic()
        if self._since:
            self.longest = max(self.longest, now - self._since)
        self._since = now

    def stop(self) -> None:
        """Nothing is expected any more. What goes on right now counts."""
        self.end()
        self._since = 0.0
