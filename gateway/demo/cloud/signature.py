"""Verification of SDK-HMAC-SHA256 signatures, as the cloud does it.

Written from the vendor's page (upstream-api.md#3.4) and tested with the vendor's SDK. It shares no
code with the gateway's signer, so each can reveal errors of the other.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

SKEW_S_MAX = 900.0
_AUTHORIZATION = re.compile(
    r"SDK-HMAC-SHA256 Access=(?P<access>[^,\s]+), SignedHeaders=(?P<names>[a-z0-9;-]+), "
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_MUST_BE_SIGNED = frozenset({"host", "x-sdk-date"})


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A received request and the claims of its Authorization header."""

    method: str
    target: str
    """Path and query as on the request line."""
    headers: Sequence[tuple[str, str]]
    body: bytes
    access_key: str
    signed_names: tuple[str, ...]
    signature: str
    at: datetime

    def clock_skew_s(self, now: float) -> float:
        """Return the seconds between the signer's clock and this one."""
        return abs(self.at.timestamp() - now)

    def is_signed_with(self, secret_key: str) -> bool:
        canonical = self._canonical()
        if canonical is None:
            return False
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"SDK-HMAC-SHA256\n{self.at:%Y%m%dT%H%M%SZ}\n{digest}"
        expected = hmac.new(secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected, self.signature)

    def _canonical(self) -> str | None:
        lines = []
        for name in self.signed_names:
            values = [value for other, value in self.headers if other.lower() == name]
            if len(values) != 1:
                return None  # absent, or ambiguous because it was sent twice
            lines.append(f"{name}:{values[0].strip()}\n")
        path, _, query = self.target.partition("?")
        return "\n".join(
            (
                self.method,
                _canonical_path(path),
                _canonical_query(query),
                "".join(lines),
                ";".join(self.signed_names),
                hashlib.sha256(self.body).hexdigest(),
            )
        )


def read_signed(
    method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes
) -> SignedRequest | None:
    """Parse the Authorization header; return None if it is malformed."""
    named = {name.lower(): value for name, value in headers}
    claim = _AUTHORIZATION.fullmatch(named.get("authorization", ""))
    if claim is None:
        return None
    names = tuple(claim["names"].split(";"))
    if not _MUST_BE_SIGNED.issubset(names) or list(names) != sorted(set(names)):
        return None
    try:
        at = datetime.strptime(named.get("x-sdk-date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return SignedRequest(
        method, target, headers, body, claim["access"], names, claim["signature"], at
    )


def _encode(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="-_.~")


def _canonical_path(path: str) -> str:
    # Decode the whole path once: an encoded slash separates segments, as in the vendor's SDK.
    segments = unquote_to_bytes(path).split(b"/")
    if segments[-1] != b"":
        segments.append(b"")
    return "/".join(_encode(segment) for segment in segments)


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return "&".join(f"{_encode(name)}={_encode(value)}" for name, value in sorted(pairs))
