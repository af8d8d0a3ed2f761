"""Finds the JWT in a request: in a header, or in the key pair that the request is signed with.

An issued key pair contains the JWT that it was issued for. Identify validates that JWT as if it had
been sent, so the pair is of no use once the JWT has expired or is revoked.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol
from urllib.parse import unquote

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection, StoreUnavailable
from gateway.domain.identity.credentials import find_jwt
from gateway.domain.identity.sdk_signature import (
    IncomingRequest,
    SignatureHeader,
    parse_signature,
    signing_time,
    verify_signature,
)
from gateway.domain.model import Secret
from gateway.flow.clock import Clock
from gateway.flow.local_replay_cache import LocalReplayCache
from gateway.flow.telemetry import Telemetry

ReadBody = Callable[[], Awaitable[bytes]]

_NO_ISSUER = "unknown"
_CLOCK_SKEW_S = 60.0
"""Another replica's clock may accept a signature this much longer."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The key pair with which a caller signs requests instead of sending a JWT."""

    access: str
    secret: Secret
    security_token: Secret
    caller_jwt: Secret
    """The JWT that the pair was issued for."""
    expires_at: float
    """The pair's own expiry, in seconds since the epoch; the JWT may expire earlier."""


class IssuedKeys(Protocol):
    """Key pairs and subject tokens that contain all their data, so that none is stored.

    They open on every replica with the same seal keys. The JWT in them is not validated here.
    """

    def subject_token(self, caller_jwt: Secret) -> Secret: ...

    def open_subject_token(self, subject_token: str) -> Secret | None:
        """Return the JWT; None: not a subject token of this gateway."""

    def key_pair(self, caller_jwt: Secret, *, expires_at: float) -> KeyPair: ...

    def open_key_pair(self, security_token: str) -> KeyPair | None:
        """Return the pair with this security token; None: not issued by this gateway."""


class ReplayCache(Protocol):
    async def use(self, key: str, *, ttl_s: float) -> bool:
        """Mark `key` as used for `ttl_s` seconds; return False if it was used already.

        Applies to all replicas. Raises StoreUnavailable.
        """

    async def undo_use(self, key: str) -> None:
        """Undo `use`, because the request had no effect. Raises StoreUnavailable."""


class CallerCredentials:
    def __init__(
        self,
        keys: IssuedKeys,
        replay_cache: ReplayCache,
        clock: Clock,
        telemetry: Telemetry,
        *,
        skew_s: float,
    ) -> None:
        """`skew_s`: how far a signer's clock may be ahead or behind."""
        self._keys = keys
        self._replay_cache = replay_cache
        self._local_replay_cache = LocalReplayCache(clock)
        self._clock = clock
        self._telemetry = telemetry
        self._skew_s = skew_s

    def unsigned_jwt(
        self,
        authorization: Sequence[str],
        x_auth_token: Sequence[str],
        x_security_token: Sequence[str],
    ) -> str | None:
        """Return the JWT in these headers; None: the request is signed, call `verify_signed`.

        Raises NotAuthenticated, BadRequest.
        """
        try:
            return find_jwt(authorization, x_auth_token, x_security_token)
        except NotAuthenticated as error:
            self._telemetry.identified(_NO_ISSUER, error.reason.value)
            raise

    async def jwt_of(self, request: IncomingRequest, body: bytes) -> str:
        """Return the JWT of a signed or unsigned request.

        Raises NotAuthenticated, BadRequest.
        """
        jwt = self.unsigned_jwt(
            request.header_values("authorization"),
            request.header_values("x-auth-token"),
            request.header_values("x-security-token"),
        )
        if jwt is not None:
            return jwt

        async def read_body() -> bytes:
            return body

        return (await self.verify_signed(request, read_body)).caller_jwt.reveal()

    async def verify_signed(self, request: IncomingRequest, read_body: ReadBody) -> KeyPair:
        """Return the issued key pair with which the request, body included, is signed.

        The body is read only if the key pair was issued by this gateway. A permitted write also
        requires `mark_used`. Raises NotAuthenticated, BadRequest, and the errors of `read_body`.
        """
        try:
            return await self._verify_signed(request, read_body)
        except NotAuthenticated as error:
            self._telemetry.identified(_NO_ISSUER, error.reason.value)
            raise

    async def mark_used(self, request: IncomingRequest) -> None:
        """Mark the signature of a verified write as used, immediately before the write is sent.

        Raises NotAuthenticated if it was used already.
        """
        try:
            await self._mark_used(request)
        except NotAuthenticated as error:
            self._telemetry.identified(_NO_ISSUER, error.reason.value)
            raise

    async def unmark_used(self, request: IncomingRequest) -> None:
        """Undo `mark_used`, because the write had no effect.

        The vendor's SDK resends the same bytes after a 429 or 503 (upstream-api.md#4.5).
        """
        signature = parse_signature(request.header("authorization") or "").signature
        await self._local_replay_cache.undo_use(signature)
        with suppress(StoreUnavailable):
            await self._replay_cache.undo_use(signature)

    async def _verify_signed(self, request: IncomingRequest, read_body: ReadBody) -> KeyPair:
        signature = parse_signature(request.header("authorization") or "")
        pair = self._open_pair(request, signature)
        self._signature_life_s(request)
        if self._clock.now() >= pair.expires_at:
            raise NotAuthenticated(Rejection.ISSUED_KEY_EXPIRED)
        verify_signature(request, signature, await read_body(), pair.secret)
        jwt = pair.caller_jwt.reveal()
        if (request.header("x-auth-token") or jwt) != jwt:
            raise NotAuthenticated(Rejection.AMBIGUOUS)
        _check_project(request)
        return pair

    def _signature_life_s(self, request: IncomingRequest) -> float:
        """Return for how long the signature's date is accepted; raise NotAuthenticated."""
        age_s = self._clock.now() - signing_time(request)
        if abs(age_s) > self._skew_s:
            raise NotAuthenticated(Rejection.SIGNATURE_SKEW, f"by {age_s:.0f} s")
        return self._skew_s - age_s

    def _open_pair(self, request: IncomingRequest, signature: SignatureHeader) -> KeyPair:
        pair = self._keys.open_key_pair(request.header("x-security-token") or "")
        if pair is None or not compare_digest(pair.access, signature.access):
            raise NotAuthenticated(Rejection.ISSUED_KEY)
        return pair

    async def _mark_used(self, request: IncomingRequest) -> None:
        signature = parse_signature(request.header("authorization") or "").signature
        # The date is checked again: a copy that was verified long ago may outlive the mark.
        ttl_s = self._signature_life_s(request) + _CLOCK_SKEW_S
        is_first = await self._local_replay_cache.use(signature, ttl_s=ttl_s)
        if is_first:
            try:
                is_first = await self._replay_cache.use(signature, ttl_s=ttl_s)
            except StoreUnavailable:
                # Fail open: each replica still rejects replays of requests that it received, and
                # a replay requires bytes that only TLS and the caller have.
                is_first = True
        if not is_first:
            raise NotAuthenticated(Rejection.SIGNATURE_REPLAYED)


def _check_project(request: IncomingRequest) -> None:
    """Reject a request if X-Project-Id differs from the project in the path."""
    segments = request.target.partition("?")[0].split("/")
    project = request.header("x-project-id")
    if (
        project is not None
        and segments[1:2] == ["v1"]
        and unquote("".join(segments[2:3])) != project
    ):
        raise BadRequest("X-Project-Id must equal the project in the path.")
