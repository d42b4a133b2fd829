"""Certificates for the public ports, and channels of clients that have them."""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
import trustme

DAY = datetime.timedelta(days=1)


class TlsFiles:
    """An authority and what it has issued, as PEM files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True, mode=0o700)
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self.authority = folder / "authority.pem"
        self.ca = trustme.CA()
        self.authority.write_bytes(self.ca.cert_pem.bytes())
        self.issue()

    def issue(self, *, days: tuple[int, int] = (-1, 30)) -> None:
        """A new pair for the server, valid from and to so many days from now. Not in one step, as most tools do it."""
        chain, key = self.pair("localhost", "127.0.0.1", days=days)
        self.certificate.write_bytes(chain)
        self.key.write_bytes(key)

    def pair(self, *names: str, days: tuple[int, int] = (-1, 30)) -> tuple[bytes, bytes]:
        now = datetime.datetime.now(datetime.UTC)
        begin, end = (now + number * DAY for number in days)
        leaf = self.ca.issue_cert(*names, not_before=begin, not_after=end)
        return b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()

    def settings(self, *, mutual: bool = False) -> dict[str, str]:
        """As environment variables of a server."""
        named = {"TRACKSIDE_TLS_CERTIFICATE_FILE": self.certificate, "TRACKSIDE_TLS_KEY_FILE": self.key}
        named |= {"TRACKSIDE_TLS_CLIENT_AUTHORITY_FILE": self.authority} if mutual else {}
        return {name: str(path) for name, path in named.items()}

    def channel(self, port: int, *, own: tuple[bytes, bytes] | None = None, trusts: bytes = b"") -> grpc.Channel:
        """To the server on ``port``, over a connection of its own. ``own`` is the client's chain and key."""
        chain, key = own or (None, None)
        credentials = grpc.ssl_channel_credentials(trusts or self.ca.cert_pem.bytes(), key, chain)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20)]
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
