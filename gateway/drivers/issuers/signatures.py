"""Whether a JWT is what one of our issuers signed. Claims are judged later, by rules/identity.py.

The token is read once, strictly, by this file alone: two parsers that disagree are a classic
hole. Issuer, algorithm and key come from our config; of the token's header only `alg` and `kid`
are looked at, to choose among what we hold. `jwk`, `jku`, `x5c` and `x5u` are never read. PyJWT
does the cryptography, and only that: its own reading of claims would use its own clock.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from jwt.algorithms import Algorithm, get_default_algorithms

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import CALLER_JWT_CHARS_MAX
from gateway.domain.model import Secret, VerifiedToken

_DEPTH_MAX: Final = 32
"""Claims nest two or three deep; a parser's recursion ends the process at some thousands."""
_KID_CHARS_MAX: Final = 256
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+["\\]?', re.DOTALL)
"""It also matches a string that never ends, so that hostile quotes are not scanned again."""
_BRACKET: Final = re.compile(r"[\[\]{}]")


class VerificationKeys(Protocol):
    """The verification keys of one issuer."""

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Return those that may have signed; raise NotAuthenticated or KeysUnavailable."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    name: str
    """The issuer's name in our config."""
    iss: str
    algorithms: frozenset[str]
    keys: VerificationKeys


class JwtSignatures:
    """Implements ports.Signatures."""

    def __init__(self, issuers: Iterable[TrustedIssuer]) -> None:
        self._issuers = {issuer.iss: issuer for issuer in issuers}
        known = get_default_algorithms()
        self._algorithms: dict[str, Algorithm] = {
            name: known[name] for issuer in self._issuers.values() for name in issuer.algorithms
        }

    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        token = _CompactJws(caller_jwt.reveal())
        iss = token.claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise NotAuthenticated(Rejection.ISSUER_UNKNOWN, "iss names no issuer of ours")
        try:
            await self._check_signature(token, issuer)
        except NotAuthenticated as refusal:
            refusal.issuer = issuer.name
            raise
        return VerifiedToken(issuer.name, token.header, token.claims)

    async def _check_signature(self, token: "_CompactJws", issuer: TrustedIssuer) -> None:
        name = token.header.get("alg")
        if not isinstance(name, str) or name not in issuer.algorithms:
            raise NotAuthenticated(Rejection.ALGORITHM, "alg is not allowed for this issuer")
        kid = token.header.get("kid")
        if "kid" in token.header and not (isinstance(kid, str) and len(kid) <= _KID_CHARS_MAX):
            raise NotAuthenticated(Rejection.MALFORMED, "kid is not a short text")
        keys = await issuer.keys.keys_for(name, kid)
        algorithm = self._algorithms[name]
        if not any(algorithm.verify(token.signed, key, token.signature) for key in keys):
            raise NotAuthenticated(Rejection.SIGNATURE, "not signed by the key that it names")


class _CompactJws:
    """A compact JWS (RFC 7515, 7.1), taken apart. Nothing in it is proved."""

    __slots__ = ("claims", "header", "signature", "signed")

    def __init__(self, token: str) -> None:
        if len(token) > CALLER_JWT_CHARS_MAX:
            raise NotAuthenticated(Rejection.TOO_LARGE)
        parts = token.split(".", 3)
        if len(parts) != 3 or not token.isascii():
            raise NotAuthenticated(Rejection.MALFORMED, "not three parts of base64url")
        header, claims, signature = (part.encode("ascii") for part in parts)
        self.header = _object(header)
        self.claims = _object(claims)
        self.signature = _bytes(signature)
        self.signed = header + b"." + claims
        if "b64" in self.header:
            # RFC 7797: the payload would be signed in another form than it was read here.
            raise NotAuthenticated(Rejection.MALFORMED, "b64 is not supported")


def _bytes(part: bytes) -> bytes:
    """Decode base64url as RFC 7515 writes it: no padding, no blanks, no stray bits at the end."""
    try:
        decoded = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error:
        raise NotAuthenticated(Rejection.MALFORMED, "a part is not base64url") from None
    # The library skips what it does not know; what does not come back the same was not canonical.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part:
        raise NotAuthenticated(Rejection.MALFORMED, "a part is not canonical base64url")
    return decoded


def _object(part: bytes) -> dict[str, Any]:
    try:
        text = _bytes(part).decode("utf-8")
        if _depth(text) > _DEPTH_MAX:
            raise NotAuthenticated(Rejection.MALFORMED, "a part is nested too deep")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError:
        raise NotAuthenticated(Rejection.MALFORMED, "a part is not strict JSON") from None
    if not isinstance(value, dict):
        raise NotAuthenticated(Rejection.MALFORMED, "a part is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # RFC 7519, 4: readers differ on which of two members counts, so neither does here.
        raise ValueError("a name stands twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(text: str) -> int:
    """Measure how deep brackets nest, before any recursive parser sees them."""
    if text.count("[") + text.count("{") <= _DEPTH_MAX:
        return 0
    deepest = depth = 0
    for bracket in _BRACKET.findall(_JSON_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
