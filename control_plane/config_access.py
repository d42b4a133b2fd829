"""Who may talk to the public ports: what is wrong with the files that decide it, and what their absence means."""

from __future__ import annotations

import ipaddress

from trackside.data_plane.certificates import CertificateFiles, CertificatesNotUsable
from trackside.data_plane.spec import Settings

__all__ = ["exposure", "tls_findings", "tokens_finding"]

CERTIFICATE, KEY, AUTHORITY = "Tls.CertificateFile", "Tls.KeyFile", "Tls.ClientAuthorityFile"


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
