"""The expiry of the client certificates that the gateway presents."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from gateway.config.settings import Settings, client_certificates
from gateway.drivers.network.listener_tls import validity
from gateway.drivers.telemetry.metrics import Metrics
from gateway.flow.clock import Clock

_READ_INTERVAL_S: Final = 60.0


class ClientCertificates:
    """Reads the expiry of each certificate from its file: changed files are in use soon."""

    def __init__(self, config: Settings, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._files = {use: file for use, _, file in client_certificates(config)}
        self._ends_at = dict.fromkeys(self._files, 0.0)
        self._read_all()
        for use in self._files:
            metrics.gauge(
                "gateway_client_certificate_expires_timestamp_seconds",
                partial(self._ends_at.__getitem__, use),
                use=use,
            )

    async def run(self) -> None:
        """Read the files once a minute, until cancelled."""
        while True:
            await self._clock.sleep(_READ_INTERVAL_S)
            await asyncio.to_thread(self._read_all)

    def _read_all(self) -> None:
        for use, file in self._files.items():
            self._read(use, file)

    def _read(self, use: str, file: Path) -> None:
        with suppress(OSError, ValueError):  # the file is being replaced
            self._ends_at[use] = validity(file).ends_at
