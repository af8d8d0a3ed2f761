"""Who a client is by its certificate, which the listener's TLS has verified."""

import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a client showed when its connection was made; connections may outlive it."""

    subject: str
    """The common name, or else the first alternative name."""
    ends_at: float
    """Seconds since the epoch."""
    context: ssl.SSLContext
    """By whose authorities it was verified."""


def shown_by(request: web.BaseRequest) -> ClientCertificate | None:
    """Return None where the client showed no certificate or the listener asks for none.

    Whether it was signed by an authority that we trust, OpenSSL has judged before there was a
    request.
    """
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    connection: ssl.SSLObject | None = request.get_extra_info("ssl_object")
    if not certificate or connection is None:
        return None
    subject = _subject(certificate)
    if not subject:
        return None
    ends_at = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
    return ClientCertificate(subject, ends_at, connection.context)


def _subject(certificate: dict[str, Any]) -> str:
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName" and value:
                return str(value)
    return next((str(value) for _, value in certificate.get("subjectAltName", ()) if value), "")
