"""From the caller's JWT to a Principal: proved once, then remembered by hash until it ends.

A remembered token costs one hash and one look-up, no signature and no network. Only tokens that
were proved are remembered, so garbage can push nobody out. What may change while a token lives
is checked elsewhere, on the Principal that this hands out: the policy, and revocation by
`token_id`, subject and `issued_at`, for which the Principal has all that is needed.
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
    Rejection,
    RevocationsUnavailable,
)
from gateway.domain.identity.claims import (
    CALLER_JWT_CHARS_MAX,
    TokenRules,
    ends_at,
    good_until,
    principal_of,
)
from gateway.domain.model import Principal, Secret, VerifiedToken
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

_UNKNOWN = "unknown"
"""The metric label where no issuer of ours is named."""


class Signatures(Protocol):
    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        """Prove the signature with a key of the issuer that the token names.

        Raises NotAuthenticated; KeysUnavailable when the issuer's keys were never loaded, or are
        older than operators allow. May wait for one key refresh when the `kid` is unknown.
        """


@dataclass(frozen=True, slots=True)
class _CachedToken:
    principal: Principal
    good_until: float
    """Seconds since the epoch, leeway included."""


class _Verification:
    """One verification that others wait for."""

    __slots__ = ("ended", "refusal")

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.refusal: NotAuthenticated | KeysUnavailable | RevocationsUnavailable | None = None


class Identify:
    def __init__(
        self,
        *,
        signatures: Signatures,
        rules: Mapping[str, TokenRules],
        revoked: Callable[[Principal], bool],
        clock: Clock,
        telemetry: Telemetry,
        tokens_max: int,
    ) -> None:
        """`rules` by the issuer's name in our config; the oldest of `tokens_max` makes room.

        `revoked` raises OrdersUnknown as long as it cannot tell.
        """
        self._revoked = revoked
        self._signatures = signatures
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        self._tokens_max = tokens_max
        # Keyed, so that a memory image tells nobody whether a certain token was used here.
        self._keyed_hash = hashlib.sha256(secrets.token_bytes(64))
        self._remembered: OrderedDict[bytes, _CachedToken] = OrderedDict()
        self._flights: dict[bytes, _Verification] = {}
        self._forgotten = 0
        self.revocations_version = 0
        """It differs from what it was where somebody may have been revoked meanwhile."""

    @property
    def remembered(self) -> int:
        """How many tokens are remembered now."""
        return len(self._remembered)

    def recall(self, token: str) -> Principal | None:
        """Return whom a token speaks for that was proved before; None: ask `identify`."""
        if len(token) > CALLER_JWT_CHARS_MAX:
            return None
        return self._recall(self._digest(token))

    async def identify(self, token: Secret) -> Principal:
        """Return the token's principal, from the cache or after a verification.

        Concurrent requests with one token share its verification. Raises NotAuthenticated,
        KeysUnavailable and RevocationsUnavailable.
        """
        text = token.reveal()
        digest = self._checked_digest(text)
        principal = self._recall(digest)
        return await self._verify(token, digest) if principal is None else principal

    async def identify_by(self, token: str, deadline: float) -> Principal:
        """Identify within `deadline` (monotonic); also raises DeadlineExceeded."""
        digest = self._checked_digest(token)
        principal = self._recall(digest)
        if principal is not None:
            return principal
        try:
            async with asyncio.timeout(deadline - self._clock.monotonic()):
                return await self._verify(Secret(token), digest)
        except TimeoutError:
            raise DeadlineExceeded("verifying the token") from None

    async def _verify(self, token: Secret, digest: bytes) -> Principal:
        try:
            return await self._verify_or_wait(token, digest)
        except NotAuthenticated as refusal:
            self._telemetry.identified(refusal.issuer or _UNKNOWN, refusal.reason.value)
            raise
        except KeysUnavailable:
            self._telemetry.identified(_UNKNOWN, "keys_unavailable")
            raise

    def ends_at(self, principal: Principal) -> float:
        """Return when the token that proved this principal ends, in seconds since the epoch."""
        return ends_at(principal, self._rules[principal.issuer])

    def check(self, principal: Principal) -> None:
        """Raise NotAuthenticated where the token was revoked, or ended, since it was recalled."""
        try:
            self._raise_if_revoked(principal)
            self._raise_if_expired(principal)
        except NotAuthenticated as refusal:
            self._telemetry.identified(principal.issuer, refusal.reason.value)
            raise

    def drop_revoked(self) -> None:
        """Drop what was proved with tokens that are revoked by now."""
        self.revocations_version += 1
        revoked = [
            digest
            for digest, remembered in self._remembered.items()
            if self._revoked(remembered.principal)
        ]
        for digest in revoked:
            del self._remembered[digest]

    def principals(self) -> list[Principal]:
        """Return whose tokens are remembered now."""
        return [remembered.principal for remembered in self._remembered.values()]

    def forget(self, issuer: str) -> None:
        """Drop what was proved with this issuer's keys: they have changed."""
        self._forgotten += 1
        stale = [
            digest
            for digest, remembered in self._remembered.items()
            if remembered.principal.issuer == issuer
        ]
        for digest in stale:
            del self._remembered[digest]

    def _checked_digest(self, token: str) -> bytes:
        if len(token) > CALLER_JWT_CHARS_MAX:
            self._telemetry.identified(_UNKNOWN, Rejection.TOO_LARGE.value)
            raise NotAuthenticated(Rejection.TOO_LARGE)
        return self._digest(token)

    async def _verify_or_wait(self, token: Secret, digest: bytes) -> Principal:
        principal = None
        while principal is None:
            flight = self._flights.get(digest)
            if flight is None:
                return await self._prove(token, digest)
            await flight.ended.wait()
            if flight.refusal is not None:
                # Without the traceback, which would grow with each who waited.
                raise flight.refusal.with_traceback(None)
            # Verified; or not, if its caller disconnected or the keys changed: then verify here.
            principal = self._recall(digest)
        return principal

    async def _prove(self, token: Secret, digest: bytes) -> Principal:
        flight = self._flights[digest] = _Verification()
        forgotten = self._forgotten
        try:
            verified = await self._signatures.verify(token)
            rules = self._rules[verified.issuer]
            principal = principal_of(verified, rules, self._clock.now())
            self._raise_if_revoked(principal)
        except (NotAuthenticated, KeysUnavailable, RevocationsUnavailable) as refusal:
            flight.refusal = refusal
            raise
        else:
            # A key that was withdrawn meanwhile may be the one that proved this token.
            if forgotten == self._forgotten and not self._revoked(principal):
                self._remember(digest, _CachedToken(principal, good_until(principal, rules)))
            self._telemetry.identified(principal.issuer, "ok")
            return principal
        finally:
            del self._flights[digest]
            flight.ended.set()

    def _raise_if_revoked(self, principal: Principal) -> None:
        if self._revoked(principal):
            issuer = principal.issuer
            raise NotAuthenticated(Rejection.REVOKED, issuer=issuer, principal=principal)

    def _raise_if_expired(self, principal: Principal) -> None:
        issuer = principal.issuer
        if self._clock.now() >= good_until(principal, self._rules[issuer]):
            raise NotAuthenticated(Rejection.EXPIRED, issuer=issuer, principal=principal)

    def _recall(self, digest: bytes) -> Principal | None:
        remembered = self._remembered.get(digest)
        if remembered is None:
            return None
        if self._clock.now() >= remembered.good_until:
            del self._remembered[digest]
            return None
        principal = remembered.principal
        self._telemetry.identified(principal.issuer, "cached")
        return principal

    def _remember(self, digest: bytes, remembered: _CachedToken) -> None:
        self._remembered[digest] = remembered
        if len(self._remembered) > self._tokens_max:
            self._remembered.popitem(last=False)
            self._telemetry.evicted("token")

    def _digest(self, token: str) -> bytes:
        keyed = self._keyed_hash.copy()
        # A header may hold bytes that are no UTF-8; they come as lone surrogates.
        keyed.update(token.encode("utf-8", "surrogatepass"))
        return keyed.digest()
