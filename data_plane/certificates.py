"""The certificates of the public ports: read, checked against each other, and read again when the files change.

What is read is checked before anybody gets it: that the key is the certificate's is proven by a handshake in memory
with ourselves, which also tells whether a client would find the certificate expired. Standard library only: the
configuration is checked with it, too.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from trackside.data_plane.small_file import FileNotReadable, WatchedFiles
from trackside.data_plane.spec import Settings

__all__ = [
    "CertificateFiles",
    "Certificates",
    "CertificatesNotUsable",
    "PemFile",
    "load_authority",
    "load_pair",
]


class CertificatesNotUsable(Exception):
    """One line: which file, and what is wrong with it."""


class PemFile(NamedTuple):
    """What was read, and from where; the path is for messages."""

    path: str
    data: bytes

    def __repr__(self) -> str:
        return f"PemFile({self.path})"


class Certificates(NamedTuple):
    """PEM texts that fit together. ``client_authority`` is None when clients are asked for no certificate."""

    chain: bytes
    key: bytes
    client_authority: bytes | None
    expires: float
    """POSIX seconds; 0 when a client would not take the certificate now."""
    warning: str
    """Why a client would not take it; empty when it would."""

    def __repr__(self) -> str:
        return "Certificates(...)"  # one of them is the key


class CertificateFiles:
    """The files that the settings name. Blocks for the file system."""

    def __init__(self, settings: Settings) -> None:
        self._chain, self._key, self._authority = paths = _paths(settings)
        self._files = WatchedFiles([path for path in paths if path])

    def read_changed(self) -> Certificates | None:
        """What the files hold now; None when it is what was returned before. Raises CertificatesNotUsable, once for
        each change."""
        try:
            contents = self._files.read_changed()
        except FileNotReadable as error:
            raise CertificatesNotUsable(str(error)) from None
        if contents is None:
            return None
        chain, key, *rest = contents
        authority = rest[0] if rest else None
        server = self._context(chain, key, authority)
        warning, expires = _seen_by_a_client(server, chain)
        return Certificates(chain, key, authority, expires, f"{self._chain}: {warning}" if warning else "")

    def _context(self, chain: bytes, key: bytes, authority: bytes | None) -> ssl.SSLContext:
        """Raises CertificatesNotUsable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, PemFile(self._chain, chain), PemFile(self._key, key))
        if authority is not None:
            load_authority(context, PemFile(self._authority, authority))
        return context


def load_pair(context: ssl.SSLContext, chain: PemFile, key: PemFile) -> None:
    """Raises CertificatesNotUsable unless both are PEM and the key that of the certificate."""
    _check_holds(chain, b"CERTIFICATE-----")
    _check_holds(key, b"PRIVATE KEY-----")

    def refuse_password() -> str:
        raise CertificatesNotUsable(f"{key.path}: is encrypted; gRPC takes a key without a password only")

    with _in_memory(chain.data) as chain_path, _in_memory(key.data) as key_path:
        try:
            context.load_cert_chain(chain_path, key_path, password=refuse_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise CertificatesNotUsable(f"{key.path}: is not the key of {chain.path}") from None
            raise CertificatesNotUsable(f"{chain.path} with {key.path}: {_reason(error)}") from None


def load_authority(context: ssl.SSLContext, authority: PemFile) -> None:
    """Raises CertificatesNotUsable."""
    _check_holds(authority, b"CERTIFICATE-----")
    try:
        context.load_verify_locations(cadata=_text(authority.data))
    except ssl.SSLError as error:
        raise CertificatesNotUsable(f"{authority.path}: {_reason(error)}") from None


def _check_holds(file: PemFile, wanted: bytes) -> None:
    if b"-----BEGIN " not in file.data or wanted not in file.data:
        what = "certificate" if wanted.startswith(b"CERT") else "private key"
        raise CertificatesNotUsable(f"{file.path}: holds no {what} in PEM form (-----BEGIN ...)")


def _text(pem: bytes) -> str:
    """As ssl takes it: what is not ASCII can only stand in the comments between certificates."""
    return pem.decode("ascii", "replace").replace("\ufffd", "?")


def _paths(settings: Settings) -> tuple[str, str, str]:
    return settings.tls_certificate, settings.tls_key, settings.tls_client_authority


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if isinstance(reason, str) and reason else "not readable"


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path that leads to ``data``: ssl loads pairs from paths only, and what is checked must be what is used."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


HANDSHAKE_ROUNDS = 10


def _seen_by_a_client(server_context: ssl.SSLContext, chain: bytes) -> tuple[str, float]:
    """Why a client that trusts this very certificate would not take it, else "" and until when it will."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(cadata=_text(chain))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(HANDSHAKE_ROUNDS):
            server_waits = _waits(server)
            if not _waits(client) and not server_waits:
                break
        until = (client.getpeercert() or {})["notAfter"]
    except ssl.SSLCertVerificationError as error:
        return error.verify_message, 0.0
    except (ssl.SSLError, ValueError, KeyError) as error:
        return _reason(error), 0.0
    return "", float(ssl.cert_time_to_seconds(str(until)))


def _waits(side: ssl.SSLObject) -> bool:
    """Take the handshake as far as it goes. Raises ssl.SSLError."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return True
    return False
