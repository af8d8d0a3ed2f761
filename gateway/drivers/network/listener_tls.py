"""The TLS certificate of a listener, reloaded when its files change."""

import asyncio
import hashlib
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from gateway.config.files import load_certificate
from gateway.config.listen import ListenerTls
from gateway.domain.timestamps import iso
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.tls")

_CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class CertificateValidity:
    """The period in which all certificates of a chain are valid, in seconds since the epoch."""

    begins_at: float
    ends_at: float

    def problem(self, now: float) -> str:
        """Return why the chain is not valid at `now`; empty when it is valid."""
        if now < self.begins_at:
            return f"is not valid before {iso(self.begins_at)}"
        if now >= self.ends_at:
            return f"expired {iso(self.ends_at)}"
        return ""


def validity(certificate_file: Path) -> CertificateValidity:
    """Return the validity period of the chain in the file. Raises ValueError, OSError."""
    chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    return CertificateValidity(
        max(one.not_valid_before_utc.timestamp() for one in chain),
        min(one.not_valid_after_utc.timestamp() for one in chain),
    )


class ServedCertificate:
    """One listener's certificate. An invalid pair of files never replaces a valid one."""

    def __init__(self, listener: str, tls: ListenerTls, clock: Clock) -> None:
        """Load the files; raise ValueError if they cannot be used.

        An expired or not yet valid certificate is served and logged: without one no client could
        connect.
        """
        self._listener = listener
        self._tls = tls
        self._clock = clock
        self._loaded = self._refused = _digest(tls)
        context, dates = _load(tls)
        if problem := dates.problem(clock.now()):
            log.error("certificate_date_invalid", extra={"listener": listener, "problem": problem})
        self.expires_at = dates.ends_at
        self.context = _ReloadableContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.in_force = context

    def is_in_force(self, context: ssl.SSLContext) -> bool:
        """Return whether a new connection would use the same certificate and trust settings."""
        return context is self.context.in_force

    async def run(self) -> None:
        """Reload the certificate when its files change, until cancelled.

        The content is compared, not the files' times, for the reasons given in PolicyFile.run.
        """
        while True:
            await self._clock.sleep(_CHECK_INTERVAL_S)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> None:
        """Load the files if their content has changed; keep the certificate if it is invalid."""
        found = await asyncio.to_thread(_digest, self._tls)
        if found == self._loaded:
            return
        try:
            context, dates = await asyncio.to_thread(_load_valid, self._tls, self._clock.now())
        except (ValueError, OSError) as error:
            # Try again at each check, log once: a certificate may become valid later.
            if found != self._refused:
                self._refused = found
                log.error(  # noqa: TRY400 - the error is a field
                    "certificate_rejected", extra={"listener": self._listener, "error": str(error)}
                )
            return
        if await asyncio.to_thread(_digest, self._tls) != found:
            return  # the files changed during the load; the next check loads them again
        self._loaded, self.expires_at = found, dates.ends_at
        self.context.in_force = context
        log.info(
            "certificate_loaded",
            extra={"listener": self._listener, "expires": iso(dates.ends_at)},
        )


class _ReloadableContext(ssl.SSLContext):
    """The context that the event loop holds; each handshake uses `in_force`.

    A reload replaces `in_force` by a new context rather than loading other files into it: OpenSSL
    keeps one certificate per key type and would still serve an old RSA one beside a new EC one.
    """

    in_force: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.in_force.wrap_bio(*args, **options)


def _load(tls: ListenerTls) -> tuple[ssl.SSLContext, CertificateValidity]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls.certificate_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        optional = tls.client_certificates == "optional"
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        # A resumed session presents no certificate, so an expired one would be accepted.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context, validity(tls.certificate_file)


def _load_valid(tls: ListenerTls, now: float) -> tuple[ssl.SSLContext, CertificateValidity]:
    context, dates = _load(tls)
    if problem := dates.problem(now):
        raise ValueError(f"{tls.certificate_file} {problem}")
    return context, dates


def _digest(tls: ListenerTls) -> str:
    digest = hashlib.sha256()
    for file in (tls.certificate_file, tls.key_file, tls.client_ca_file):
        if file is not None:
            try:
                content = file.read_bytes()
            except OSError:
                content = b""
            digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest()
