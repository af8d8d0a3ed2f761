"""Who a client is by its certificate, which the listener's TLS has verified."""

from typing import Any

from aiohttp import web


def subject_of(request: web.BaseRequest) -> str | None:
    """Return the subject's common name, or else its first alternative name.

    None where the client showed no certificate or the listener asks for none. Whether it was
    signed by an authority that we trust, OpenSSL has judged before there was a request.
    """
    certificate: dict[str, Any] | None = request.get_extra_info("peercert")
    if not certificate:
        return None
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName" and value:
                return str(value)
    return next((str(value) for _, value in certificate.get("subjectAltName", ()) if value), None)
