"""Config sections `login` and `issuers[].login`: people who log in with a browser."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.config.secrets import SecretValue
from gateway.config.values import Name, Seconds, Section

_Word = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,200}$")]
"""A scope or an `acr` (RFC 6749, 3.3)."""

_Port = Annotated[int, Field(ge=1024, le=65_535)]


def _scopes(value: tuple[str, ...]) -> tuple[str, ...]:
    if "openid" not in value:
        raise ValueError("must contain `openid`")
    return value


class IssuerLogin(Section):
    """Login with a browser at one issuer, by OpenID Connect (authorization code and PKCE)."""

    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    """The gateway's client ID at the issuer. ID tokens must have it as their audience."""
    client_secret: SecretValue | None = None
    """The client's secret. Unset: a public client."""
    scopes: Annotated[tuple[_Word, ...], AfterValidator(_scopes), Field(max_length=20)] = (
        "openid",
        "profile",
        "email",
    )
    """Requested scopes; `openid` is required."""
    groups_from: Literal["id_token", "access_token", "userinfo"] = "id_token"
    """Where the claims of `claims.groups` and `required_claims` are, besides the ID token:
    `access_token` (a JWT for an `audience` of this issuer) or `userinfo`."""
    label: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    """Text of the link on the login page. Unset: the issuer's name."""
    acr_values: Annotated[tuple[_Word, ...], Field(max_length=10)] = ()
    """Authentication levels: requested at the login, and the ID token's `acr` must be one of them.
    Empty: any."""


class AdminLogin(IssuerLogin):
    """Login of administrators with a browser, for the pages of the admin listener.

    It is a separate client at the issuer. Its redirect URI is
    `admin.public_url` + `/login/callback/ISSUER`. A session of these pages is not valid on the
    public listener, and a session of `issuers[].login` is not valid here.
    """

    issuer: Name
    """Name of the issuer in the config, which must be one of `admin.api.issuers` and have
    `keys.discovery`."""
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    """Client ID of these pages at the issuer. It must differ from every other `client_id` and
    `audience` of the config: its ID tokens must be valid here only."""
    groups_from: Literal["id_token", "access_token", "userinfo"] = "id_token"
    """Where the groups of `admin.api.groups` and the `required_claims` of the issuer are, besides
    the ID token: `access_token` (a JWT for `admin.api.audience`) or `userinfo`."""
    idle_s: Seconds = 1_800.0
    """A session ends after this time in seconds without an action of the administrator."""
    absolute_s: Seconds = 28_800.0
    """A session ends this long after the login, in seconds; earlier with the issuer's
    `token_age_max_s`."""


class IssuerCli(Section):
    """`gateway login` at one issuer: a public client with loopback redirects (RFC 8252) or codes.

    `GET /.well-known/console-gateway` publishes these settings.
    """

    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    """Client ID of the command at the issuer: a public client, without a secret."""
    scopes: Annotated[tuple[_Word, ...], AfterValidator(_scopes), Field(max_length=20)] = (
        "openid",
        "offline_access",
    )
    """Requested scopes; `openid` is required. Most issuers give a refresh token for
    `offline_access` only."""
    token: Literal["access_token", "id_token"] = "access_token"  # noqa: S105 - a kind
    """Which token the command sends to the gateway. `id_token` requires that `audience` contains
    `client_id`, and that `login` has another client; the gateway then accepts ID tokens for this
    client alone."""
    redirect_host: Literal["127.0.0.1", "localhost"] = "127.0.0.1"
    """Host of the redirect URI; its path is `/callback`. Entra ID takes `localhost`."""
    ports: Annotated[tuple[_Port, ...], Field(max_length=8)] = ()
    """Ports of the redirect URI, for issuers that compare it with its port (Okta). Empty: any."""
    device: bool = True
    """Whether people may log in with a code on another device (RFC 8628), if the issuer offers it.
    The command does so on machines without a browser. An attacker may send people a code, so some
    issuers forbid it: set `false` then."""

    @property
    def sends_id_token(self) -> bool:
        return self.token == "id_token"  # noqa: S105 - a kind


class LoginSettings(Section):
    """Sessions of browsers, for all issuers with a `login`."""

    idle_s: Seconds = 3_600.0
    """A session ends after this time in seconds without activity of the person. Requests that the
    page sends by itself do not count."""
    absolute_s: Seconds = 43_200.0
    """A session ends this long after the login, in seconds; earlier with the issuer's
    `token_age_max_s`."""
    fresh_s: Seconds | None = None
    """Approvals, break-glass, power actions, opening a console, exports and keystrokes of
    recordings require a login at the issuer within this time in seconds. Unset: any login that has
    not ended."""
