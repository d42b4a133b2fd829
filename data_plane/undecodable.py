"""What msgspec raises for bytes that are not what they should be."""

from __future__ import annotations

import msgspec

__all__ = ["UNDECODABLE"]

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""For ``except``: a text that is not UTF-8, and a document that is too deep, are no errors of msgspec's own."""
