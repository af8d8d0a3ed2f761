"""Identify: verify the caller's JWT once and cache the Principal until the token expires.

A cached token costs one hash and one lookup, without signature check or network. Only verified
tokens are cached, so invalid ones evict nothing. The cache key is a hash of the token. Policy,
revocations and locks may change while a token is valid; they are checked per request, on the
Principal.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.errors import (
    DeadlineExceeded,
    KeysUnavailable,
    NotAuthenticated,
    PersonLocked,
    Rejection,
    RevocationsUnavailable,
)
from gateway.domain.identity.claims import (
    CALLER_JWT_CHARS_MAX,
    TokenRules,
    expiry,
    principal_of,
    valid_until,
)
from gateway.domain.model import Principal, Secret, VerifiedToken
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

_UNKNOWN = "unknown"
"""Metric label for tokens that name no configured issuer."""


class Signatures(Protocol):
    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        """Verify the signature with a key of the issuer that the token names.

        Raises NotAuthenticated; KeysUnavailable if the issuer's keys were never loaded or are older
        than configured. May wait for one key refresh if the `kid` is unknown.
        """


@dataclass(frozen=True, slots=True)
class CachedToken:
    """A verified token."""

    principal: Principal
    valid_until: float
    """Seconds since the epoch, leeway included."""


class _Verification:
    """A verification in progress that several requests share."""

    __slots__ = ("ended", "error")

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.error: NotAuthenticated | KeysUnavailable | RevocationsUnavailable | None = None


class Identify:
    def __init__(  # noqa: PLR0913 - what decides on a token
        self,
        *,
        signatures: Signatures,
        rules: Mapping[str, TokenRules],
        revoked: Callable[[Principal], bool],
        find_lock: Callable[[Principal], str | None],
        groups_required: Callable[[str], bool],
        groups_missing: Callable[[str], None],
        clock: Clock,
        telemetry: Telemetry,
        tokens_max: int,
    ) -> None:
        """`rules`: by the issuer's name in the config. `tokens_max`: cache size.

        `revoked` raises RevocationsUnavailable until revocations are loaded. `find_lock` returns
        the ID of a lock on the person; it is called after `revoked`. `groups_required` returns
        whether tokens of an issuer must have the groups claim at this moment. `groups_missing`
        is called for each verified token without it, with the issuer.
        """
        self._find_lock = find_lock
        self._groups_required = groups_required
        self._groups_missing = groups_missing
        self._revoked = revoked
        self._signatures = signatures
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._tokens_max = tokens_max
        # Keyed, so that a memory dump does not show whether a given token was verified.
        self._keyed_hash = hashlib.sha256(secrets.token_bytes(64))
        self._cached: OrderedDict[bytes, CachedToken] = OrderedDict()
        self._verifications: dict[bytes, _Verification] = {}
        self._keys_version = 0
        self.revocations_version = 0
        """Changes whenever a token may have been revoked, or a lock set or lifted."""

    @property
    def cached_count(self) -> int:
        return len(self._cached)

    async def identify(self, token: Secret) -> Principal:
        """Return the token's principal, from the cache or after a verification.

        Concurrent requests with one token share its verification. Raises NotAuthenticated,
        KeysUnavailable and RevocationsUnavailable.
        """
        digest = self._checked_digest(token.reveal())
        principal = self._find_cached(digest)
        return await self._verify(token, digest) if principal is None else principal

    async def identify_by_deadline(self, token: str, deadline: float) -> Principal:
        """Identify within `deadline` (monotonic); also raises DeadlineExceeded."""
        digest = self._checked_digest(token)
        principal = self._find_cached(digest)
        if principal is not None:
            return principal
        try:
            async with asyncio.timeout(deadline - self._clock.monotonic()):
                return await self._verify(Secret(token), digest)
        except TimeoutError:
            raise DeadlineExceeded("verifying the token") from None

    def cached_token(self, digest: bytes) -> CachedToken | None:
        """Return a cached token if it is valid now; None: it must be verified.

        `digest` is the result of `digest_of`. Unlike `identify`, this counts nothing.
        """
        token = self._cached.get(digest)
        if token is None or self._clock.now() >= token.valid_until:
            return None
        principal = token.principal
        if not principal.has_groups_claim and self._groups_required(principal.issuer):
            return None  # the verification rejects it
        return token

    def is_expired(self, principal: Principal) -> bool:
        """Return whether the token is no longer accepted because of its age."""
        return self._clock.now() >= self.valid_until(principal)

    def expiry(self, principal: Principal) -> float:
        """Return when the principal's token expires, in seconds since the epoch."""
        return expiry(principal, self._rules[principal.issuer])

    def valid_until(self, principal: Principal) -> float:
        """Return when the token is no longer accepted, in seconds since the epoch."""
        return valid_until(principal, self._rules[principal.issuer])

    def check(self, principal: Principal, *, outlive_s: float = 0.0) -> None:
        """Raise NotAuthenticated if the token was revoked or expired since it was verified.

        Raises PersonLocked if the person was locked. `outlive_s`: how much later than the token
        what it has opened ends.
        """
        if principal.issuer not in self._rules:  # a newer config has removed it
            raise NotAuthenticated(Rejection.ISSUER_UNKNOWN, principal=principal)
        try:
            self._raise_if_revoked(principal)
            self._raise_if_locked(principal)
            self._raise_if_expired(principal, outlive_s)
            self._raise_if_groups_missing(principal)
        except NotAuthenticated as error:
            self._telemetry.identified(principal.issuer, error.reason.value)
            raise

    def drop_revoked(self) -> None:
        """Drop revoked tokens and those of locked people from the cache."""
        self.revocations_version += 1
        revoked = [
            digest
            for digest, token in self._cached.items()
            if self._revoked(token.principal) or self._find_lock(token.principal) is not None
        ]
        for digest in revoked:
            del self._cached[digest]

    def principals(self) -> list[Principal]:
        """Return the principals of all cached tokens, oldest first."""
        return [token.principal for token in self._cached.values()]

    def drop_issuer(self, issuer: str) -> None:
        """Drop the issuer's tokens from the cache, because its keys have changed."""
        self._keys_version += 1
        stale = [
            digest for digest, token in self._cached.items() if token.principal.issuer == issuer
        ]
        for digest in stale:
            del self._cached[digest]

    def digest_of(self, token: str) -> bytes:
        """Return the keyed hash of a token, as this process caches it."""
        keyed = self._keyed_hash.copy()
        # A header may contain bytes that are not UTF-8; they arrive as lone surrogates.
        keyed.update(token.encode("utf-8", "surrogatepass"))
        return keyed.digest()

    def _checked_digest(self, token: str) -> bytes:
        if len(token) > CALLER_JWT_CHARS_MAX:
            self._telemetry.identified(_UNKNOWN, Rejection.TOO_LARGE.value)
            raise NotAuthenticated(Rejection.TOO_LARGE)
        return self.digest_of(token)

    async def _verify(self, token: Secret, digest: bytes) -> Principal:
        try:
            return await self._verify_or_wait(token, digest)
        except NotAuthenticated as error:
            self._telemetry.identified(error.issuer or _UNKNOWN, error.reason.value)
            raise
        except KeysUnavailable:
            self._telemetry.identified(_UNKNOWN, "keys_unavailable")
            raise

    async def _verify_or_wait(self, token: Secret, digest: bytes) -> Principal:
        principal = None
        while principal is None:
            verification = self._verifications.get(digest)
            if verification is None:
                return await self._verify_and_cache(token, digest)
            await verification.ended.wait()
            if verification.error is not None:
                # Without the traceback, which would grow with each waiting request.
                raise verification.error.with_traceback(None)
            # Not cached if the verification was cancelled or the keys changed: then verify here.
            principal = self._find_cached(digest)
        return principal

    async def _verify_and_cache(self, token: Secret, digest: bytes) -> Principal:
        verification = self._verifications[digest] = _Verification()
        keys_version = self._keys_version
        try:
            verified = await self._signatures.verify(token)
            rules = self._rules[verified.issuer]
            principal = principal_of(verified, rules, self._clock.now())
            if not principal.has_groups_claim:
                self._groups_missing(principal.issuer)
            self._raise_if_revoked(principal)
            self._raise_if_locked(principal)
            self._raise_if_groups_missing(principal)
        except (NotAuthenticated, KeysUnavailable, RevocationsUnavailable) as error:
            verification.error = error
            raise
        else:
            # If keys changed in the meantime, the key that verified this token may be withdrawn.
            if keys_version == self._keys_version and not self._revoked(principal):
                self._cache(digest, CachedToken(principal, valid_until(principal, rules)))
            outcome = "ok" if principal.has_groups_claim else "ok_without_groups"
            self._telemetry.identified(principal.issuer, outcome)
            return principal
        finally:
            del self._verifications[digest]
            verification.ended.set()

    def _raise_if_revoked(self, principal: Principal) -> None:
        if self._revoked(principal):
            issuer = principal.issuer
            raise NotAuthenticated(Rejection.REVOKED, issuer=issuer, principal=principal)

    def _raise_if_locked(self, principal: Principal) -> None:
        lock = self._find_lock(principal)
        if lock is not None:
            raise PersonLocked(principal, lock)

    def _raise_if_expired(self, principal: Principal, outlive_s: float) -> None:
        issuer = principal.issuer
        if self._clock.now() >= self.valid_until(principal) + outlive_s:
            raise NotAuthenticated(Rejection.EXPIRED, issuer=issuer, principal=principal)

    def _raise_if_groups_missing(self, principal: Principal) -> None:
        # An absent claim does not mean "no groups": a denial of a group must not be bypassed.
        if not principal.has_groups_claim and self._groups_required(principal.issuer):
            issuer = principal.issuer
            raise NotAuthenticated(Rejection.GROUPS_MISSING, issuer=issuer, principal=principal)

    def _find_cached(self, digest: bytes) -> Principal | None:
        valid = self.cached_token(digest)
        if valid is not None:
            self._telemetry.identified(valid.principal.issuer, "cached")
            return valid.principal
        token = self._cached.get(digest)
        if token is not None and self._clock.now() >= token.valid_until:
            del self._cached[digest]
        return None

    def _cache(self, digest: bytes, token: CachedToken) -> None:
        self._cached[digest] = token
        if len(self._cached) > self._tokens_max:
            self._cached.popitem(last=False)
            self._telemetry.evicted("token")
