"""An issuer as the gateway's document describes it, and the logins there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.commands.exit_codes import NOT_AUTHENTICATED, REJECTED, CommandFailed
from gateway.commands.gateway_client import require_member
from gateway.commands.login_provider import current_time, expiry_of, unverified_claims
from gateway.commands.stored_logins import StoredLogin

_TOKEN_KINDS: Final = ("access_token", "id_token")


@dataclass(frozen=True, slots=True)
class CliIssuer:
    """How the gateway wants people to log in at one issuer."""

    name: str
    issuer: str
    client_id: str
    scopes: tuple[str, ...]
    token: str
    redirect_host: str
    ports: tuple[int, ...]
    device: bool
    """Whether people may log in with a code, on another device."""

    @classmethod
    def parse(cls, entry: Any) -> "CliIssuer":
        """Read an entry of the gateway's document; raise CommandFailed."""
        name, issuer, client_id, token, host = (
            require_member(entry, member, str)
            for member in ("name", "issuer", "client_id", "token", "redirect_host")
        )
        scopes, ports = require_member(entry, "scopes", list), require_member(entry, "ports", list)
        if token not in _TOKEN_KINDS or host not in ("127.0.0.1", "localhost"):
            message = "The gateway announces logins that this version does not know. Update it."
            raise CommandFailed(REJECTED, message)
        return cls(
            name,
            issuer,
            client_id,
            tuple(map(str, scopes)),
            token,
            host,
            tuple(one for one in ports if isinstance(one, int) and 0 < one < 65_536),
            require_member(entry, "device", bool),
        )


def new_login(
    gateway: str, issuer: CliIssuer, tokens: Mapping[str, Any], *, nonce: str | None
) -> StoredLogin:
    """Return the login that a token response is for; raise CommandFailed.

    `nonce` is that of the authorization request; None: the flow has none.
    """
    _check_id_token(tokens, issuer, nonce)
    login = StoredLogin(
        gateway=gateway,
        issuer=issuer.issuer,
        issuer_name=issuer.name,
        client_id=issuer.client_id,
        token_kind=issuer.token,
        subject="",
        logged_in_at=current_time(),
        expires_at=0.0,
        token="",
        refresh_token="",
    )
    return with_tokens(login, tokens)


def with_tokens(login: StoredLogin, tokens: Mapping[str, Any]) -> StoredLogin:
    """Return the login with the tokens of a response; raise CommandFailed."""
    token, refresh_token = tokens.get(login.token_kind), tokens.get("refresh_token")
    if not isinstance(token, str) or not token:
        raise CommandFailed(REJECTED, f"{login.issuer} sent no {login.token_kind}.")
    subject = unverified_claims(token).get("sub")
    return replace(
        login,
        token=token,
        # An issuer that does not rotate refresh tokens sends none.
        refresh_token=refresh_token if isinstance(refresh_token, str) else login.refresh_token,
        # `expires_in` is that of the access token (RFC 6749, 5.1).
        expires_at=expiry_of(
            token, None if login.token_kind == _TOKEN_KINDS[1] else tokens.get("expires_in")
        ),
        subject=subject if isinstance(subject, str) else login.subject,
    )


def _check_id_token(tokens: Mapping[str, Any], issuer: CliIssuer, nonce: str | None) -> None:
    """Check that an ID token belongs to this login.

    It came from the token endpoint directly (OpenID Connect Core, 3.1.3.7, 6); the gateway verifies
    the signature of the token that it gets.
    """
    token = tokens.get("id_token")
    if not isinstance(token, str):
        return
    claims = unverified_claims(token)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    is_ours = claims.get("iss") == issuer.issuer and issuer.client_id in audiences
    if not is_ours or (nonce is not None and claims.get("nonce") != nonce):
        message = f"The ID token of {issuer.issuer} belongs to another login."
        raise CommandFailed(NOT_AUTHENTICATED, message)
