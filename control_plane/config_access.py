"""Who may talk to the public ports: what is wrong with the files that decide it, and what their absence means."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from trackside.control_plane.remote_access import RemoteAccessFiles, RemoteAccessNotUsable
from trackside.data_plane.certificates import CertificateFiles, CertificatesNotUsable
from trackside.data_plane.small_file import is_open_to_all
from trackside.data_plane.spec import Settings

__all__ = ["REMOTE", "SECRETS", "exposure", "open_secrets", "remote_finding", "tls_findings", "tokens_finding"]

CERTIFICATE, KEY, AUTHORITY = "Tls.CertificateFile", "Tls.KeyFile", "Tls.ClientAuthorityFile"
REMOTE = tuple(f"RemoteKeyGenerator.{name}" for name in ("AuthorityFile", "CertificateFile", "KeyFile", "TokenFile"))
SECRETS = (KEY, "RemoteKeyGenerator.KeyFile", "RemoteKeyGenerator.TokenFile")
"""Keys that name a file which nobody else should be able to read."""


def tls_findings(certificate: str, key: str, authority: str) -> tuple[str, str, str]:
    """(name of the key at fault, why it is refused, what is only to be noted); empty where there is nothing to say.

    A certificate that clients would find expired is noted, not refused: the clock of a machine that was just switched
    on may be years off, and clients judge for themselves.
    """
    if not certificate:
        for name, value in ((KEY, key), (AUTHORITY, authority)):
            if value:
                return name, f"has no meaning without {CERTIFICATE}", ""
        return "", "", ""
    if not key:
        return CERTIFICATE, f"needs {KEY}, which is empty", ""
    files = CertificateFiles(Settings(tls_certificate=certificate, tls_key=key, tls_client_authority=authority))
    try:
        found = files.read_changed()
    except CertificatesNotUsable as error:
        at_fault = {key: KEY, authority: AUTHORITY}.get(str(error).split(": ")[0], CERTIFICATE)
        return at_fault, str(error), ""
    assert found is not None, "nothing was read before"
    return "", "", f"Tls: clients will not take {found.warning}" if found.warning else ""


def remote_finding(paths: Mapping[str, str]) -> tuple[str, str]:
    """(name of the key at fault, why) of the files for the remote key generator, by their keys; empty when good."""
    authority, certificate, key, token = (paths[name] for name in REMOTE)
    if bool(certificate) != bool(key):
        return REMOTE[1 if certificate else 2], f"goes together with {REMOTE[2 if certificate else 1]}, which is empty"
    if certificate and not authority:
        return REMOTE[1], f"has no meaning without {REMOTE[0]}, which turns TLS on"
    files = RemoteAccessFiles(
        Settings(
            remote_key_authority=authority,
            remote_key_certificate=certificate,
            remote_key_key=key,
            remote_key_token_file=token,
        )
    )
    try:
        files.read_changed()
    except RemoteAccessNotUsable as error:
        return next((name for name in REMOTE if str(error).startswith(f"{paths[name]}: ")), REMOTE[1]), str(error)
    return "", ""


def open_secrets(paths: Mapping[str, str]) -> Iterator[str]:
    """A warning for each file, by its key, that holds a secret and that everybody may read."""
    for name, path in paths.items():
        if path and is_open_to_all(path):
            yield f"{name}: everybody on this machine may read {path}; chmod o-r"


def tokens_finding(path: str) -> str:
    """Why the file is refused; empty when it is good."""
    from trackside.data_plane.tokens_file import TokensFile, TokensNotUsable  # only where there is one: it loads re2

    try:
        TokensFile(path).read_changed()
    except TokensNotUsable as error:
        return str(error)
    return ""


def exposure(listen: str, *, tls: bool, client_authority: bool, tokens: bool) -> str:
    """What everybody on the network can do; empty on loopback, and where both TLS and a proof of identity are asked."""
    if ipaddress.ip_address(listen).is_loopback or (tls and (tokens or client_authority)):
        return ""
    missing = [] if tls else ["TLS"]
    missing += [] if tokens or client_authority else ["tokens"]
    harm = "may read, write and manage everything" if "tokens" in missing else "may see tokens and packets pass by"
    return (
        f"ListenAddress {listen} without {' and '.join(missing)}: who reaches that network {harm}; see docs/security.md"
    )
