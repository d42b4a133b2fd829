"""Which files of certificates are taken, what is said of the others, and when they are read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from tls_files import TlsFiles

from trackside.data_plane.certificates import CertificateFiles, CertificatesNotUsable
from trackside.data_plane.spec import Settings


@pytest.fixture
def made(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path / "tls")


def files_of(made: TlsFiles, authority: bool = True) -> CertificateFiles:
    return CertificateFiles(
        Settings(
            tls_certificate=str(made.certificate),
            tls_key=str(made.key),
            tls_client_authority=str(made.authority) if authority else "",
        )
    )


def refusal(made: TlsFiles) -> str:
    with pytest.raises(CertificatesNotUsable) as caught:
        files_of(made).read_changed()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("authority", [False, True])
def test_what_fits_together_is_taken(made: TlsFiles, authority: bool) -> None:
    found = files_of(made, authority).read_changed()
    assert found is not None and not found.warning
    assert (found.chain, found.key) == (made.certificate.read_bytes(), made.key.read_bytes())
    assert found.client_authority == (made.authority.read_bytes() if authority else None)
    assert found.expires == pytest.approx(os.stat(made.certificate).st_mtime + 30 * 86400, abs=86400)


def test_a_key_of_another_certificate(made: TlsFiles) -> None:
    made.key.write_bytes(made.pair("localhost")[1])
    assert refusal(made) == f"{made.key}: is not the key of {made.certificate}"


def test_a_key_with_a_password(made: TlsFiles) -> None:
    key = forms.load_pem_private_key(made.key.read_bytes(), None)
    lock = forms.BestAvailableEncryption(b"pass")
    made.key.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock))
    assert refusal(made).startswith(f"{made.key}: is encrypted")


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no "),
        (b"\xff\xfe\x00", "holds no "),
        (
            b"-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
            "not readable",
        ),
        (b"x" * ((1 << 20) + 1), "is larger than 1 MiB"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_files_that_hold_something_else(made: TlsFiles, name: str, content: bytes | None, says: str) -> None:
    path: Path = getattr(made, name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = refusal(made)
    assert says in found or "no start line" in found or "bad base64" in found
    assert str(path) in found


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_does_not_hang(made: TlsFiles, make: object) -> None:
    made.key.unlink()
    make(made.key)  # type: ignore[operator]
    assert refusal(made) == f"{made.key}: is no file"


def test_what_clients_will_not_take_is_said_and_taken(made: TlsFiles) -> None:
    """A machine whose clock is not set yet must start all the same."""
    for days, warning in (((-3, -1), "certificate has expired"), ((2, 4), "certificate is not yet valid")):
        made.issue(days=days)
        found = files_of(made).read_changed()
        assert found is not None and found.warning == f"{made.certificate}: {warning}"
        assert found.expires == 0


def test_they_are_read_again_only_when_they_change(made: TlsFiles) -> None:
    files = files_of(made)
    first = files.read_changed()
    assert files.read_changed() is None
    chain, key = made.pair("localhost")
    made.certificate.write_bytes(chain)
    with pytest.raises(CertificatesNotUsable, match="is not the key"):
        files.read_changed()  # half replaced
    assert files.read_changed() is None  # told once
    made.key.write_bytes(key)
    second = files.read_changed()
    assert second is not None and first is not None and second.chain == chain != first.chain
    made.key.unlink()
    with pytest.raises(CertificatesNotUsable, match="No such file"):
        files.read_changed()
    made.key.write_bytes(key)
    assert files.read_changed() is None  # it is what is in use


def test_nothing_stays_open(made: TlsFiles) -> None:
    files_of(made).read_changed()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        files_of(made).read_changed()
    made.key.write_bytes(b"")
    for _ in range(20):
        refusal(made)
    assert len(os.listdir("/proc/self/fd")) <= before
