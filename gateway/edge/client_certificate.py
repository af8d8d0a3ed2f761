"""The client certificate of a request, verified by the listener's TLS."""

import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate presented when the connection was made; the connection may outlive it."""

    subject: str
    """The common name, or the first alternative name if there is no common name."""
    expires_at: float
    """Seconds since the epoch."""
    context: ssl.SSLContext
    """The TLS context that verified it."""


def client_certificate(request: web.BaseRequest) -> ClientCertificate | None:
    """Return the client's certificate, or None if it presented none.

    OpenSSL verified it against the trusted authorities during the TLS handshake.
    """
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    connection: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    if not certificate or connection is None:
        return None
    subject = _subject(certificate)
    if not subject:
        return None
    expires_at = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
    return ClientCertificate(subject, expires_at, connection.context)


def _subject(certificate: dict[str, Any]) -> str:
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName" and value:
                return str(value)
    return next((str(value) for _, value in certificate.get("subjectAltName", ()) if value), "")
