"""TLS of a gateway's ports: certificates that are read again when their files change.

grpc asks for the certificates at each handshake, so new ones hold for every connection from then on, and no connection
that is open notices. Files that do not fit together are told once and change nothing: they may be half replaced.
"""

from __future__ import annotations

import grpc

from trackside.data_plane.certificates import CertificateFiles, Certificates, CertificatesNotUsable
from trackside.data_plane.refreshed import Refreshed
from trackside.data_plane.worker import Worker

__all__ = ["Tls"]


class Tls:
    """One a gateway; runs on its loop, but for ``_fetch``, which grpc calls from a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        files = CertificateFiles(worker.spec.settings)
        self.files = Refreshed(worker, "certificates", files.read_changed, CertificatesNotUsable, self._take)
        self._current: grpc.ServerCertificateConfiguration | None = None

    async def credentials(self) -> grpc.ServerCredentials:
        """Waits until the files are usable."""
        await self.files.wait_there()
        demanded = bool(self._worker.spec.settings.tls_client_authority)
        return grpc.dynamic_ssl_server_credentials(self._fetch(), self._fetch, demanded)

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        assert self._current is not None, "nobody listens before there are some"
        return self._current

    def _take(self, found: Certificates) -> None:
        if found.warning:
            self._worker.log("warn", "clients will not take the certificate", reason=found.warning)
        self._current = grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.client_authority)
