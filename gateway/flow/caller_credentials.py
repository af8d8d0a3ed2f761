"""From whatever a caller shows to the JWT that it stands for, which Identify then judges.

A key pair of ours proves no more than that its holder was given it: who that is, and whether the
JWT still counts, is asked of the JWT in it, as if it had come by itself. So keys end with it.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol
from urllib.parse import unquote

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection, StoreUnavailable
from gateway.domain.identity.credentials import caller_jwt
from gateway.domain.identity.sdk_signature import Presented, Proof, read_proof, signed_at, verify
from gateway.domain.model import Secret
from gateway.flow.clock import Clock
from gateway.flow.local_replay_cache import LocalReplayCache
from gateway.flow.telemetry import Telemetry

ReadBody = Callable[[], Awaitable[bytes]]

_NO_ISSUER = "unknown"
_CLOCKS_APART_S = 60.0
"""Another replica's clock may take a signature for so much longer."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a caller signs with in place of sending a JWT, and the JWT that it stands for."""

    access: str
    secret: Secret
    security_token: Secret
    caller_jwt: Secret
    expires_at: float
    """The pair's own end, in seconds since the epoch; the JWT's may come before."""


class IssuedKeys(Protocol):
    """Key pairs and subject tokens that hold all that they stand for, so none is stored.

    What is opened was made by a replica with the same seal keys; the JWT in it is yet to be judged.
    """

    def subject_token(self, caller_jwt: Secret) -> Secret: ...

    def open_subject_token(self, subject_token: str) -> Secret | None:
        """Return the JWT; None: the text is no subject token of ours."""

    def key_pair(self, caller_jwt: Secret, *, expires_at: float) -> KeyPair: ...

    def open_key_pair(self, security_token: str) -> KeyPair | None:
        """Return the pair that was handed out with this; None: the text is none of ours."""


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
        used: ReplayCache,
        clock: Clock,
        telemetry: Telemetry,
        *,
        skew_s: float,
    ) -> None:
        """`skew_s`: how far a signer's clock may be from ours, either way."""
        self._keys = keys
        self._used = used
        self._used_here = LocalReplayCache(clock)
        self._clock = clock
        self._telemetry = telemetry
        self._skew_s = skew_s

    def plain_jwt(
        self,
        authorization: Sequence[str],
        x_auth_token: Sequence[str],
        x_security_token: Sequence[str],
    ) -> str | None:
        """Return the JWT that stands in these headers; None: ask `pair_of_signed`.

        Raises NotAuthenticated, BadRequest.
        """
        try:
            return caller_jwt(authorization, x_auth_token, x_security_token)
        except NotAuthenticated as refusal:
            self._telemetry.identified(_NO_ISSUER, refusal.reason.value)
            raise

    async def jwt_of(self, presented: Presented, body: bytes) -> str:
        """Return the JWT that comes with the request, in whichever shape.

        Raises NotAuthenticated, BadRequest.
        """
        jwt = self.plain_jwt(
            presented.all_of("authorization"),
            presented.all_of("x-auth-token"),
            presented.all_of("x-security-token"),
        )
        if jwt is not None:
            return jwt

        async def read_body() -> bytes:
            return body

        return (await self.pair_of_signed(presented, read_body)).caller_jwt.reveal()

    async def pair_of_signed(self, presented: Presented, read_body: ReadBody) -> KeyPair:
        """Return the key pair of ours with which the request is signed, body included.

        The body is read for nobody who shows no pair of ours. A signed write that is permitted
        goes through `use` besides. Raises NotAuthenticated, BadRequest, and what `read_body` does.
        """
        try:
            return await self._pair_of_signed(presented, read_body)
        except NotAuthenticated as refusal:
            self._telemetry.identified(_NO_ISSUER, refusal.reason.value)
            raise

    async def use(self, presented: Presented) -> None:
        """Take this verified write, once: right before something is done of it.

        Raises NotAuthenticated.
        """
        try:
            await self._use(presented)
        except NotAuthenticated as refusal:
            self._telemetry.identified(_NO_ISSUER, refusal.reason.value)
            raise

    async def undo_use(self, presented: Presented) -> None:
        """Let this used write come again: nothing was done of it.

        The vendor's SDK sends the same bytes once more after a 429 or 503 (dossier 4.5).
        """
        signature = read_proof(presented.one_of("authorization") or "").signature
        await self._used_here.undo_use(signature)
        with suppress(StoreUnavailable):
            await self._used.undo_use(signature)

    async def _pair_of_signed(self, presented: Presented, read_body: ReadBody) -> KeyPair:
        proof = read_proof(presented.one_of("authorization") or "")
        pair = self._pair(presented, proof)
        self._date_good_for_s(presented)
        if self._clock.now() >= pair.expires_at:
            raise NotAuthenticated(Rejection.ISSUED_KEY_EXPIRED)
        verify(presented, proof, await read_body(), pair.secret)
        jwt = pair.caller_jwt.reveal()
        if (presented.one_of("x-auth-token") or jwt) != jwt:
            raise NotAuthenticated(Rejection.AMBIGUOUS)
        _check_project(presented)
        return pair

    def _date_good_for_s(self, presented: Presented) -> float:
        late_s = self._clock.now() - signed_at(presented)
        if abs(late_s) > self._skew_s:
            raise NotAuthenticated(Rejection.SIGNATURE_SKEW, f"by {late_s:.0f} s")
        return self._skew_s - late_s

    def _pair(self, presented: Presented, proof: Proof) -> KeyPair:
        pair = self._keys.open_key_pair(presented.one_of("x-security-token") or "")
        if pair is None or not compare_digest(pair.access, proof.access):
            raise NotAuthenticated(Rejection.ISSUED_KEY)
        return pair

    async def _use(self, presented: Presented) -> None:
        signature = read_proof(presented.one_of("authorization") or "").signature
        # Its date is judged again: a copy that was verified long ago may outlive the mark.
        ttl_s = self._date_good_for_s(presented) + _CLOCKS_APART_S
        is_first = await self._used_here.use(signature, ttl_s=ttl_s)
        if is_first:
            try:
                is_first = await self._used.use(signature, ttl_s=ttl_s)
            except StoreUnavailable:
                # Fail soft: each replica still refuses what it saw itself, and a replay needs
                # what only TLS and the caller hold.
                is_first = True
        if not is_first:
            raise NotAuthenticated(Rejection.SIGNATURE_REPLAYED)


def _check_project(presented: Presented) -> None:
    """Refuse a request that names one project to whoever reads headers and acts on another."""
    segments = presented.target.partition("?")[0].split("/")
    named = presented.one_of("x-project-id")
    if named is not None and segments[1:2] == ["v1"] and unquote("".join(segments[2:3])) != named:
        raise BadRequest("X-Project-Id is not the project in the path; send the same in both.")
