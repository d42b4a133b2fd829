"""What a client needs for a server that asks who it is: files of certificates, and the file of its token.

Only paths are kept and handed on: what is in the files stands in no argument, no environment and no error.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import Any, NamedTuple, NoReturn

import grpc

from trackside.client.errors import BadInput

__all__ = ["Access", "TokenSender"]

FILE_BYTES_MAX = 1 << 20

TOKEN_CHARACTERS_MAX = 4096
"""As the server takes them."""


class Access(NamedTuple):
    """Paths of files; all empty: plain text, no token. ``open_channel`` takes one.

    A token without ``roots`` is sent in plain text: whoever sees a packet of the network pass by has it then.
    """

    roots: str = ""
    """PEM: the authorities to trust. Set: TLS."""
    certificate: str = ""
    """PEM: the client's own certificate, where the server asks for one."""
    key: str = ""
    """PEM: the key of it, without a password."""
    token_file: str = ""
    """The token, alone. Read for each call, so a new one needs no restart."""

    def check(self) -> None:
        """Blocks for the file system. Raises BadInput, which names the file and never what is in it."""
        if bool(self.certificate) != bool(self.key):
            raise BadInput("certificate", self.certificate, "it and its key go together")
        if self.certificate and not self.roots:
            raise BadInput("certificate", self.certificate, "it has no meaning without roots, which turn TLS on")
        if self.roots:
            self._check_certificates()
        if self.token_file:
            _read_token(self.token_file)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None for plain text. Raises BadInput."""
        self.check()
        if not self.roots:
            return None
        own = (_read("key", self.key), _read("certificate", self.certificate)) if self.certificate else (None, None)
        return grpc.ssl_channel_credentials(_read("roots", self.roots), *own)

    def _check_certificates(self) -> None:
        """grpc would only say later, and for each call, that something is wrong."""
        for field in ("roots", "certificate", "key"):
            if path := getattr(self, field):
                _read(field, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.roots)
        except (ssl.SSLError, OSError):
            raise BadInput("roots", self.roots, "it holds no certificate in PEM form") from None
        if self.certificate:
            try:
                context.load_cert_chain(self.certificate, self.key, password=self._refuse_password)
            except (ssl.SSLError, OSError):
                raise BadInput("certificate", self.certificate, f"it and the key {self.key} do not fit") from None

    def _refuse_password(self) -> NoReturn:
        raise BadInput("key", self.key, "it is encrypted; a key without a password is wanted")


def _read(field: str, path: str) -> bytes:
    """Raises BadInput."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits for a pipe's writer
        with open(descriptor, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise BadInput(field, path, f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if not data or len(data) > FILE_BYTES_MAX:
        raise BadInput(field, path, f"has {'more than 1 MiB' if data else 'nothing in it'}")
    return data


def _read_token(path: str) -> str:
    """Raises BadInput."""
    token = _read("token file", path).decode("latin-1").strip()
    if not token or len(token) > TOKEN_CHARACTERS_MAX or not all("!" <= character <= "~" for character in token):
        raise BadInput("token file", path, f"wanted one token: up to {TOKEN_CHARACTERS_MAX} characters, no spaces")
    return token


class TokenSender(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of each call. A file that cannot be read for a moment, as it is replaced, leaves
    the token that was there before. Any thread."""

    def __init__(self, path: str) -> None:
        """Raises BadInput."""
        self._path = path
        self._token = _read_token(path)

    def _send(self, go_on: Any, details: Any, request: Any) -> Any:
        with contextlib.suppress(BadInput):
            self._token = _read_token(self._path)
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        return go_on(details._replace(metadata=metadata), request)

    intercept_unary_unary: Any = _send
    intercept_unary_stream: Any = _send
    intercept_stream_unary: Any = _send
    intercept_stream_stream: Any = _send
