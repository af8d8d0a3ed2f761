"""Verifies the signature of a JWT; domain/identity/claims.py judges its claims later.

The token is parsed once, strictly, and only here: two parsers that disagree are a known class of
vulnerabilities. Issuer, algorithm and key come from the config. From the token's header only `alg`
and `kid` are read, to select a configured key; `jwk`, `jku`, `x5c` and `x5u` are ignored. PyJWT
does the cryptography only: its check of claims would use another clock.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from jwt.algorithms import Algorithm, OKPAlgorithm, get_default_algorithms

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import CALLER_JWT_CHARS_MAX
from gateway.domain.model import Secret, VerifiedToken
from gateway.domain.quoted import quoted

_DEPTH_MAX: Final = 32
"""Claims nest two or three levels; thousands would exhaust the parser's recursion."""
_KID_CHARS_MAX: Final = 256
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+["\\]?', re.DOTALL)
"""Also matches an unterminated string, to bound the time for hostile input."""
_BRACKET: Final = re.compile(r"[\[\]{}]")


class VerificationKeys(Protocol):
    """The verification keys of one issuer."""

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Return the possible signing keys. Raises NotAuthenticated, KeysUnavailable."""

    async def keys_after_mismatch(
        self, algorithm: str, kid: str | None, tried: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return other possible keys, if the issuer publishes some now.

        Raises NotAuthenticated, KeysUnavailable.
        """


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    name: str
    """The issuer's name in the config."""
    iss: str
    algorithms: frozenset[str]
    keys: VerificationKeys


class JwtSignatures:
    """Implements the port `Signatures`."""

    def __init__(self, issuers: Iterable[TrustedIssuer]) -> None:
        self._issuers = {issuer.iss: issuer for issuer in issuers}
        # PyJWT lacks the names of RFC 9864. The key, not the name, determines the curve.
        known = {**get_default_algorithms(), "Ed25519": OKPAlgorithm(), "Ed448": OKPAlgorithm()}
        self._algorithms: dict[str, Algorithm] = {
            name: known[name] for issuer in self._issuers.values() for name in issuer.algorithms
        }

    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        token = _CompactJws(caller_jwt.reveal())
        iss = token.claims.get("iss")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            # Nothing else of an unverified token is quoted. The usual error is one slash too many.
            detail = f"iss is {quoted(iss)}, and not a configured issuer"
            raise NotAuthenticated(Rejection.ISSUER_UNKNOWN, detail)
        try:
            await self._check_signature(token, issuer)
        except NotAuthenticated as refusal:
            refusal.issuer = issuer.name
            raise
        return VerifiedToken(issuer.name, token.header, token.claims)

    async def _check_signature(self, token: "_CompactJws", issuer: TrustedIssuer) -> None:
        name = token.header.get("alg")
        if not isinstance(name, str) or name not in issuer.algorithms:
            allowed = ", ".join(sorted(issuer.algorithms))
            raise NotAuthenticated(Rejection.ALGORITHM, f"alg is not one of {allowed}")
        kid = token.header.get("kid")
        if "kid" in token.header and not (isinstance(kid, str) and len(kid) <= _KID_CHARS_MAX):
            raise NotAuthenticated(
                Rejection.MALFORMED, f"kid must be a string of at most {_KID_CHARS_MAX} characters"
            )
        algorithm = self._algorithms[name]
        keys = await issuer.keys.keys_for(name, kid)
        if not any(algorithm.verify(token.signed, key, token.signature) for key in keys):
            keys = await issuer.keys.keys_after_mismatch(name, kid, keys)
            if not any(algorithm.verify(token.signed, key, token.signature) for key in keys):
                raise NotAuthenticated(Rejection.SIGNATURE, "the signature matches no key")


class _CompactJws:
    """The parts of a compact JWS (RFC 7515, 7.1), unverified."""

    __slots__ = ("claims", "header", "signature", "signed")

    def __init__(self, token: str) -> None:
        if len(token) > CALLER_JWT_CHARS_MAX:
            raise NotAuthenticated(Rejection.TOO_LARGE)
        parts = token.split(".", 3)
        if len(parts) != 3 or not token.isascii():
            raise NotAuthenticated(Rejection.MALFORMED, "must be three base64url parts")
        header, claims, signature = (part.encode("ascii") for part in parts)
        self.header = _object(header)
        self.claims = _object(claims)
        self.signature = _bytes(signature)
        self.signed = header + b"." + claims
        if "b64" in self.header:
            # RFC 7797: the payload would be signed in another form than it is parsed here.
            raise NotAuthenticated(Rejection.MALFORMED, "b64 is not supported")


def _bytes(part: bytes) -> bytes:
    """Decode strict base64url (RFC 7515): no padding, whitespace or unused bits."""
    try:
        decoded = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error:
        raise NotAuthenticated(Rejection.MALFORMED, "a part is not base64url") from None
    # The library ignores unknown characters: only canonical text encodes to itself again.
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
        # RFC 7519, 4: parsers differ on which of two equal members counts, so both are rejected.
        raise ValueError("a member name occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(text: str) -> int:
    """Return how deep brackets nest; runs before the recursive parser."""
    if text.count("[") + text.count("{") <= _DEPTH_MAX:
        return 0
    deepest = depth = 0
    for bracket in _BRACKET.findall(_JSON_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
