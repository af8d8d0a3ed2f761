"""Port of an identity provider as the browser login uses it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    """Of PKCE; only its hash is sent."""
    max_age_s: int | None = None
    """The person must have authenticated within this time; None: any time ago."""


@dataclass(frozen=True, slots=True)
class ProviderTokens:
    access_token: str = field(repr=False)
    id_token: str = field(repr=False)
    """"": a refresh need not return one."""
    refresh_token: str = field(repr=False)
    """"": none."""
    expires_in_s: float | None
    """The remaining life of the access token; None: unknown."""


class OpenIdProvider(Protocol):
    """Every method raises LoginFailed with `provider_unavailable` if there is no usable answer.

    `redeem` and `refresh` raise it with `code_rejected` if the provider rejects code or token.
    """

    async def authorization_url(self, request: AuthorizationRequest) -> str:
        """Return the address at which the person logs in."""

    async def check_issuer(self, answered: str | None) -> None:
        """Raise LoginFailed with `mixed_up` unless `iss` of an answer is this provider's.

        RFC 9207: it may be missing only if the provider does not announce it.
        """

    async def redeem(self, code: str, verifier: str) -> ProviderTokens:
        """Return the tokens for an authorization code."""

    async def refresh(self, refresh_token: str) -> ProviderTokens:
        """Return new tokens."""

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        """Return the person's claims."""

    async def logout_url(self, id_token: str) -> str | None:
        """Return the address that ends the session at the provider; None: it has none."""

    async def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token (RFC 7009), if the provider has an endpoint for that."""
