"""Verifies the signature of an incoming request (SDK-HMAC-SHA256). Pure.

All signed values are computed from the request as received, never taken from what it claims.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Final

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.model import Secret
from gateway.domain.upstream.signing import ALGORITHM, DATE_FORM, signature

ACCESS_PREFIX: Final = "CGW"
"""Prefix of the access keys that the gateway issues; the cloud's own keys do not have it."""
SECURITY_TOKEN_PREFIX: Final = "cgwkey_"  # noqa: S105 - a prefix
SUBJECT_TOKEN_PREFIX: Final = "cgwsub_"  # noqa: S105 - a prefix

_AUTHORIZATION_CHARS_MAX = 4_096
_SIGNED_NAMES_MAX = 64
_MUST_BE_SIGNED = frozenset({"host", "x-sdk-date"})
_SIGNATURE = re.compile(
    ALGORITHM + r" Access=(?P<access>[!-+\--~]{1,128}), SignedHeaders=(?P<names>[!-+\--~]+), "
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """The parts of a received request that a signature covers, except for the body."""

    method: str
    target: str
    """Path and query, as on the request line."""
    headers: Sequence[tuple[str, str]] = field(repr=False)

    def header_values(self, name: str) -> list[str]:
        """Return every value of a header; `name` is in lower case."""
        return [value for other, value in self.headers if other.lower() == name]

    def header(self, name: str) -> str | None:
        """Return the header's value, stripped; None: it is absent. Raises BadRequest."""
        values = self.header_values(name)
        if len(values) > 1:
            # A proxy in front of the gateway or behind it may read the other value.
            raise BadRequest(f"The header {name} must not be repeated.")
        return values[0].strip() if values else None


@dataclass(frozen=True, slots=True)
class SignatureHeader:
    """The parsed Authorization header of a signed request."""

    access: str
    signed_names: tuple[str, ...]
    signature: str = field(repr=False)

    @property
    def is_issued_key(self) -> bool:
        return self.access.startswith(ACCESS_PREFIX)


def parse_signature(authorization: str) -> SignatureHeader:
    """Parse the value of an Authorization header; raise NotAuthenticated."""
    found = None
    if len(authorization) <= _AUTHORIZATION_CHARS_MAX:
        found = _SIGNATURE.fullmatch(authorization.strip())
    if found is None:
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED)
    names = tuple(found["names"].split(";"))
    return SignatureHeader(found["access"], names, found["signature"])


def signing_time(request: IncomingRequest) -> float:
    """Return X-Sdk-Date in seconds since the epoch; raise NotAuthenticated, BadRequest."""
    date = request.header("x-sdk-date") or ""
    if not _DATE.fullmatch(date):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "X-Sdk-Date")
    try:
        return datetime.strptime(date, DATE_FORM).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "X-Sdk-Date") from None


def verify_signature(
    request: IncomingRequest, header: SignatureHeader, body: bytes, secret_key: Secret
) -> None:
    """Raise NotAuthenticated or BadRequest unless `secret_key` signed the request and its body."""
    names = header.signed_names
    if len(names) > _SIGNED_NAMES_MAX or list(names) != sorted(set(names)):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "SignedHeaders")
    if not _MUST_BE_SIGNED.issubset(names):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "Host and X-Sdk-Date are not signed")
    signed = []
    for name in names:
        value = request.header(name)
        if value is None:
            raise NotAuthenticated(Rejection.SIGNATURE_MISMATCH, "a signed header is missing")
        signed.append((name, value))
    computed = signature(
        method=request.method,
        target=request.target,
        signed=signed,
        body=body,
        date=dict(signed)["x-sdk-date"],
        secret_key=secret_key,
    )
    if not compare_digest(computed, header.signature):
        raise NotAuthenticated(Rejection.SIGNATURE_MISMATCH)
