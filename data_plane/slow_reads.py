"""What a read says and hears of being slow: the call's metadata, its trailer and status, the lines in the log.

What is done about it is in ``reading.py``. Used by gateways, on the loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from trackside.data_plane.reading import Reader, WhenSlow
from trackside.data_plane.refusals import end
from trackside.data_plane.worker import Worker

__all__ = ["SKIPPED_TRAILER", "WHEN_SLOW_METADATA", "BadChoice", "end_slow", "tell_skipped", "watch", "when_slow_of"]

WHEN_SLOW_METADATA = "trackside-when-slow"
CHOICES = {"catch-up": WhenSlow.CATCH_UP, "skip": WhenSlow.SKIP, "end": WhenSlow.END}

SKIPPED_TRAILER = "trackside-skipped"
"""How many entries of the log a read has passed by; there when it skipped any."""

Context = grpc.aio.ServicerContext[bytes, bytes]


class BadChoice(Exception):
    """The metadata says something else than what there is. Becomes INVALID_ARGUMENT."""


def when_slow_of(context: Context, default: WhenSlow) -> WhenSlow:
    """What the call wants to become of it when it is slow. Raises BadChoice."""
    asked = next((value for key, value in context.invocation_metadata() or () if key == WHEN_SLOW_METADATA), None)
    if asked is None:
        return default
    if str(asked) not in CHOICES:
        raise BadChoice(f"{WHEN_SLOW_METADATA}: {str(asked)[:60]!r} is not allowed, wanted one of {', '.join(CHOICES)}")
    return CHOICES[str(asked)]


def watch(reader: Reader, worker: Worker, connection: int) -> None:
    """From now on the calling task is cancelled when its reader has ended for being slow, whatever it waits for.

    That it skips is logged the first time; how much in all, by :func:`tell_skipped`.
    """
    task: asyncio.Task[Any] | None = asyncio.current_task()
    assert task is not None

    def on_slow() -> None:
        if reader.is_overrun:
            task.cancel()
        elif reader.skips == 1:
            worker.log("warn", "a slow read skips", connection=connection, entries=reader.skipped)

    reader.on_slow = on_slow


def tell_skipped(reader: Reader, worker: Worker, connection: int, context: Context) -> None:
    """The read ends: what it skipped in all goes into its trailer and into the log."""
    if reader.skips:
        context.set_trailing_metadata(((SKIPPED_TRAILER, str(reader.skipped)),))
        worker.log("info", "a slow read ended", connection=connection, skips=reader.skips, entries=reader.skipped)


async def end_slow(reader: Reader, worker: Worker, connection: int, context: Context) -> None:
    """The status of a read that was too slow and wanted to end then.

    The client hears it behind the response that it has not read; the call counts as open until then, or until its TCP
    connection has gone.
    """
    limit = f"ReaderBufferBytes = {reader.buffer_bytes}"
    worker.log("warn", "a slow read was ended", connection=connection, limit=limit)
    await end(
        context,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"{limit}: more bytes were not read in time; read faster, read less, or call with "
        f"{WHEN_SLOW_METADATA}: catch-up or skip",
    )
