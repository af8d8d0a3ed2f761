"""The tokens of a login: signature, claims, and the groups from where the issuer sends them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.domain.errors import KeysUnavailable, LoginFailed, NotAuthenticated
from gateway.domain.identity.claims import TokenRules, principal_of
from gateway.domain.login import model
from gateway.domain.login.tokens import (
    IdTokenFacts,
    LoginRules,
    LogoutFacts,
    check_id_token,
    check_logout_token,
    login_problem,
)
from gateway.domain.model import Secret, VerifiedToken
from gateway.flow.clock import Clock
from gateway.flow.identify import Signatures
from gateway.flow.login.openid_provider import OpenIdProvider, ProviderTokens

_REFRESH_BEFORE_S: Final = 30.0
_LIFE_UNKNOWN_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class LoginIssuer:
    """An issuer at which people log in with a browser."""

    name: str
    """In the config."""
    provider: OpenIdProvider
    rules: LoginRules
    groups_from: Literal["id_token", "access_token", "userinfo"]


class IdTokens:
    def __init__(self, signatures: Signatures, clock: Clock) -> None:
        self._signatures = signatures
        self._clock = clock

    async def check(
        self, issuer: LoginIssuer, tokens: ProviderTokens, *, nonce: str | None
    ) -> IdTokenFacts:
        """Return whose tokens these are; raise LoginFailed."""
        verified = await self._verify(issuer, tokens.id_token, "ID token")
        more: Mapping[str, Any] = {}
        if issuer.groups_from == "access_token":
            more = await self._access_claims(issuer, tokens.access_token, verified)
        elif issuer.groups_from == "userinfo":
            more = await issuer.provider.userinfo(tokens.access_token)
            if more.get("sub") != verified.claims.get("sub"):
                # Core 5.3.2: without this the claims may be another person's.
                raise LoginFailed(model.TOKEN_REJECTED, "userinfo: sub is another person's")
        return check_id_token(
            verified,
            issuer.rules,
            nonce=nonce,
            access_token=tokens.access_token,
            more_claims=more,
            now=self._clock.now(),
        )

    async def check_logout(self, issuer: LoginIssuer, text: str) -> LogoutFacts:
        """Return whose sessions a logout token ends; raise LoginFailed."""
        verified = await self._verify(issuer, text, "logout token")
        return check_logout_token(verified, issuer.rules, self._clock.now())

    def refresh_at(self, tokens: ProviderTokens) -> float:
        """Return when to refresh the tokens, in seconds since the epoch; 0: they cannot be."""
        if not tokens.refresh_token:
            return 0.0
        life_s = _LIFE_UNKNOWN_S if tokens.expires_in_s is None else tokens.expires_in_s
        return self._clock.now() + max(life_s / 2, life_s - _REFRESH_BEFORE_S)

    async def _access_claims(
        self, issuer: LoginIssuer, access_token: str, id_token: VerifiedToken
    ) -> Mapping[str, Any]:
        verified = await self._verify(issuer, access_token, "access token")
        rules: TokenRules = issuer.rules.token
        try:
            principal_of(verified, rules, self._clock.now())
        except NotAuthenticated as refusal:
            raise LoginFailed(login_problem(refusal), f"access token: {refusal}") from None
        if verified.claims.get("sub") != id_token.claims.get("sub"):
            raise LoginFailed(model.TOKEN_REJECTED, "access token: sub is another person's")
        return verified.claims

    async def _verify(self, issuer: LoginIssuer, text: str, what: str) -> VerifiedToken:
        try:
            verified = await self._signatures.verify(Secret(text))
        except NotAuthenticated as refusal:
            raise LoginFailed(login_problem(refusal), f"{what}: {refusal}") from None
        except KeysUnavailable as error:
            raise LoginFailed(model.PROVIDER_UNAVAILABLE, f"{what}: {error}") from None
        if verified.issuer != issuer.name:
            raise LoginFailed(model.MIXED_UP, f"{what}: iss is another issuer's")
        return verified
