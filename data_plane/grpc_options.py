"""What every gRPC server of a Trackside server is told, public or not."""

from __future__ import annotations

__all__ = ["PENDING_OPTIONS"]

PENDING_OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)
"""Calls that have arrived and that Python has not asked for yet. By itself grpc cancels some from the thousandth on,
without a word; but clients that come back all at once, after a restart say, are to be served."""
