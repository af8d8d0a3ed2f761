"""Whether a request that came is signed with a certain secret key (SDK-HMAC-SHA256). Pure.

Everything that a signature should cover is computed anew from the request as it stands, never
taken from what the request says of itself.
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
"""How the access keys begin that the gateway hands out; the cloud's own do not."""
SECURITY_TOKEN_PREFIX: Final = "cgwkey_"  # noqa: S105 - what such a text begins with
SUBJECT_TOKEN_PREFIX: Final = "cgwsub_"  # noqa: S105

_AUTHORIZATION_CHARS_MAX = 4_096
_SIGNED_NAMES_MAX = 64
_MUST_BE_SIGNED = frozenset({"host", "x-sdk-date"})
_PROOF = re.compile(
    ALGORITHM + r" Access=(?P<access>[!-+\--~]{1,128}), SignedHeaders=(?P<names>[!-+\--~]+), "
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Presented:
    """A request as it came, as far as a signature covers it; the body comes separately."""

    method: str
    target: str
    """Path and query as they stood on the request line."""
    headers: Sequence[tuple[str, str]] = field(repr=False)

    def all_of(self, name: str) -> list[str]:
        """Return each value of a header; `name` is in lower case."""
        return [value for other, value in self.headers if other.lower() == name]

    def one_of(self, name: str) -> str | None:
        """Return the header's value, stripped; None: it is absent. Raises BadRequest."""
        values = self.all_of(name)
        if len(values) > 1:
            # A proxy behind or before us may read the other one.
            raise BadRequest(f"Send one {name} header, not several.")
        return values[0].strip() if values else None


@dataclass(frozen=True, slots=True)
class Proof:
    """What an Authorization header claims."""

    access: str
    signed_names: tuple[str, ...]
    signature: str = field(repr=False)

    @property
    def is_ours(self) -> bool:
        return self.access.startswith(ACCESS_PREFIX)


def read_proof(authorization: str) -> Proof:
    """Read the value of an Authorization header; raise NotAuthenticated where it is no proof."""
    found = None
    if len(authorization) <= _AUTHORIZATION_CHARS_MAX:
        found = _PROOF.fullmatch(authorization.strip())
    if found is None:
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED)
    names = tuple(found["names"].split(";"))
    return Proof(found["access"], names, found["signature"])


def signed_at(presented: Presented) -> float:
    """Return X-Sdk-Date in seconds since the epoch; raise NotAuthenticated, BadRequest."""
    date = presented.one_of("x-sdk-date") or ""
    if not _DATE.fullmatch(date):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "X-Sdk-Date")
    try:
        return datetime.strptime(date, DATE_FORM).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "X-Sdk-Date") from None


def verify(presented: Presented, proof: Proof, body: bytes, secret_key: Secret) -> None:
    """Return when the request, body included, is signed so; raise NotAuthenticated, BadRequest."""
    names = proof.signed_names
    if len(names) > _SIGNED_NAMES_MAX or list(names) != sorted(set(names)):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "SignedHeaders")
    if not _MUST_BE_SIGNED.issubset(names):
        raise NotAuthenticated(Rejection.SIGNATURE_MALFORMED, "Host and X-Sdk-Date are not signed")
    signed = []
    for name in names:
        value = presented.one_of(name)
        if value is None:
            raise NotAuthenticated(Rejection.SIGNATURE_MISMATCH, "a signed header is missing")
        signed.append((name, value))
    computed = signature(
        method=presented.method,
        target=presented.target,
        signed=signed,
        body=body,
        date=dict(signed)["x-sdk-date"],
        secret_key=secret_key,
    )
    if not compare_digest(computed, proof.signature):
        raise NotAuthenticated(Rejection.SIGNATURE_MISMATCH)
