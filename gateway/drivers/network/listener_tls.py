"""TLS on a listener: the certificate in force, taken anew from its files when they change."""

import asyncio
import hashlib
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from gateway.config.settings import ListenerTls, load_certificate
from gateway.domain.timestamps import iso
from gateway.flow.ports import Clock

log = logging.getLogger("gateway.tls")

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class CertificateValidity:
    """When all certificates of a chain are good, in seconds since the epoch."""

    begins_at: float
    ends_at: float

    def problem(self, now: float) -> str:
        """Say what is wrong with the dates; empty when nothing is."""
        if now < self.begins_at:
            return f"is not valid before {iso(self.begins_at)}"
        if now >= self.ends_at:
            return f"expired {iso(self.ends_at)}"
        return ""


def validity(certificate_file: Path) -> CertificateValidity:
    """Read the dates of the chain; raises ValueError, OSError."""
    chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    return CertificateValidity(
        max(one.not_valid_before_utc.timestamp() for one in chain),
        min(one.not_valid_after_utc.timestamp() for one in chain),
    )


class ServedCertificate:
    """One listener's certificate. A pair that is bad never replaces one that is good."""

    def __init__(self, listener: str, tls: ListenerTls, clock: Clock) -> None:
        """Load the files; raise ValueError when they cannot be served.

        Dates that are wrong are only logged here: no certificate at all would be worse.
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
        """Tell whether a connection of this context would be made in the same way now."""
        return context is self.context.in_force

    async def run(self) -> None:
        """Look for another certificate, for ever.

        The content is compared, as drivers/policy_file.py does and for the same reasons.
        """
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> None:
        """Take over what the files hold now, unless it is what is in force, or bad."""
        found = await asyncio.to_thread(_digest, self._tls)
        if found == self._loaded:
            return
        try:
            context, dates = await asyncio.to_thread(_load_good, self._tls, self._clock.now())
        except (ValueError, OSError) as error:
            # It is tried again and told once: what begins to be valid later needs no new content.
            if found != self._refused:
                self._refused = found
                told = {"listener": self._listener, "error": str(error)}
                log.error("certificate_rejected", extra=told)  # noqa: TRY400
            return
        if await asyncio.to_thread(_digest, self._tls) != found:
            return  # changed while we read; the next look finds it whole
        self._loaded, self.expires_at = found, dates.ends_at
        self.context.in_force = context
        told = {"listener": self._listener, "expires": iso(dates.ends_at)}
        log.info("certificate_loaded", extra=told)


class _ReloadableContext(ssl.SSLContext):
    """What the event loop keeps for a listener; each handshake gets the context of its moment.

    A fresh context behind it, and not other files into the same one: OpenSSL keeps a certificate
    for each kind of key, so that an RSA one would go on being served beside a renewed EC one.
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
        # A session that is resumed shows no certificate: one that has expired since would pass.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context, validity(tls.certificate_file)


def _load_good(tls: ListenerTls, now: float) -> tuple[ssl.SSLContext, CertificateValidity]:
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
