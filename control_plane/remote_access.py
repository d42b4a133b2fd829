"""What the remote key generator wants to know of this server: certificates and a token, in files that may change."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from trackside.data_plane.certificates import CertificatesNotUsable, PemFile, load_authority, load_pair
from trackside.data_plane.small_file import FileNotReadable, WatchedFiles
from trackside.data_plane.spec import Settings

__all__ = ["RemoteAccess", "RemoteAccessFiles", "RemoteAccessNotUsable"]

TOKEN_CHARACTERS_MAX = 4096


class RemoteAccessNotUsable(Exception):
    """One line: which file, and what is wrong with it; nothing of what it holds."""


class RemoteAccess(NamedTuple):
    """PEM texts that fit together, and the token; empty where the settings name no file."""

    authority: bytes
    certificate: bytes
    key: bytes
    token: str

    def __repr__(self) -> str:
        return "RemoteAccess(...)"


class RemoteAccessFiles:
    """The files that the settings name. Blocks for the file system; one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._paths = (
            settings.remote_key_authority,
            settings.remote_key_certificate,
            settings.remote_key_key,
            settings.remote_key_token_file,
        )
        self._files = WatchedFiles([path for path in self._paths if path])

    def read_changed(self) -> RemoteAccess | None:
        """What the files hold now; None when it is what was returned before. Raises RemoteAccessNotUsable, once for
        each change."""
        try:
            contents = self._files.read_changed()
            if contents is None:
                return None
            found = iter(contents)
            authority, certificate, key, token = (PemFile(path, next(found) if path else b"") for path in self._paths)
            _check(authority, certificate, key)
        except (FileNotReadable, CertificatesNotUsable) as error:
            raise RemoteAccessNotUsable(str(error)) from None
        return RemoteAccess(authority.data, certificate.data, key.data, _token(token))


def _check(authority: PemFile, certificate: PemFile, key: PemFile) -> None:
    """Raises CertificatesNotUsable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority.path:
        load_authority(context, authority)
    if certificate.path:
        load_pair(context, certificate, key)


def _token(file: PemFile) -> str:
    """Raises RemoteAccessNotUsable."""
    token = file.data.decode("latin-1").strip()
    if file.path and not (
        0 < len(token) <= TOKEN_CHARACTERS_MAX and all("!" <= character <= "~" for character in token)
    ):
        raise RemoteAccessNotUsable(
            f"{file.path}: wanted one token, up to {TOKEN_CHARACTERS_MAX} characters without spaces"
        )
    return token
