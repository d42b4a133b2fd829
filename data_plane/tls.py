"""TLS of a gateway's ports: certificates that are read again when their files change.

grpc asks for the certificates at each handshake, so new ones hold for every connection from then on, and no connection
that is open notices. Files that do not fit together are told once and change nothing: they may be half replaced.
"""

from __future__ import annotations

import asyncio

import grpc

from trackside.data_plane.certificates import CertificateFiles, Certificates, CertificatesNotUsable
from trackside.data_plane.worker import Worker
from trackside.shm.liveness import WorkerState

__all__ = ["LOOK_SECONDS", "Tls"]

LOOK_SECONDS = 1.0
"""How often the files are looked at."""


class Tls:
    """One a gateway; runs on its loop, but for ``_fetch``, which grpc calls from a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._on = bool(worker.spec.settings.tls_certificate)
        self._files = CertificateFiles(worker.spec.settings)
        self._current: grpc.ServerCertificateConfiguration | None = None

    async def credentials(self) -> grpc.ServerCredentials | None:
        """None without TLS. The files were good when the server started; a successor that finds them otherwise says
        why it does not serve, and waits for better ones."""
        if not self._on:
            return None
        while self._current is None:
            await self._look()
            if self._current is None:
                await asyncio.sleep(LOOK_SECONDS)
        demanded = bool(self._worker.spec.settings.tls_client_authority)
        return grpc.dynamic_ssl_server_credentials(self._current, self._fetch, demanded)

    async def keep_fresh(self) -> None:
        """For ever, also where there is nothing to look at: who waits for the end of it waits for a failure."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._on:
                await self._look()

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        assert self._current is not None, "nobody listens before there are some"
        return self._current

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._files.read_changed)
        except CertificatesNotUsable as error:
            kept = "" if self._current is None else "; those from before stay in use"
            self._worker.log("error", "certificates not usable", reason=f"{error}{kept}")
            if self._current is None:
                self._worker.become(WorkerState.DEGRADED, f"certificates not usable: {error}")
            return
        if found is not None:
            self._take(found)

    def _take(self, found: Certificates) -> None:
        if self._current is not None:
            self._worker.log("info", "certificates reloaded", expires=int(found.expires))
        if found.warning:
            self._worker.log("warn", "clients will not take the certificate", reason=found.warning)
        self._current = grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.client_authority)
