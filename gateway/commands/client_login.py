"""Logins of the client commands: by the browser, and their silent refresh."""

import base64
import hashlib
import secrets
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gateway.commands.exit_codes import (
    LATER,
    NOT_AUTHENTICATED,
    REJECTED,
    UNREACHABLE,
    CommandFailed,
    usage_error,
)
from gateway.commands.gateway_client import require_member
from gateway.commands.login_provider import (
    LoginEnded,
    LoginProvider,
    current_time,
    expiry_of,
    unverified_claims,
)
from gateway.commands.loopback_redirect import LoopbackRedirect
from gateway.commands.stored_logins import LoginFolder, StoredLogin
from gateway.commands.terminal import print_error

_APPROVAL_S: Final = 300.0
_REFRESH_BEFORE_S: Final = 30.0
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
        numbers = tuple(one for one in ports if isinstance(one, int) and 0 < one < 65_536)
        return cls(name, issuer, client_id, tuple(map(str, scopes)), token, host, numbers)


def log_in(gateway: str, issuer: CliIssuer, provider: LoginProvider) -> StoredLogin:
    """Let the person log in with a browser; raise CommandFailed."""
    state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    authorization = provider.endpoint("authorization_endpoint")
    redirect = LoopbackRedirect(state, host=issuer.redirect_host, ports=issuer.ports)
    try:
        _open_browser(_address(authorization, issuer, redirect.uri, state, verifier, nonce))
        answer = redirect.wait(_APPROVAL_S)
    finally:
        redirect.close()
    code = _code(answer, provider)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect.uri,
        "code_verifier": verifier,
    }
    try:
        tokens = provider.request_tokens(form)
    except LoginEnded:
        message = f"{issuer.issuer} refused the code. Log in again."
        raise CommandFailed(NOT_AUTHENTICATED, message) from None
    _check_id_token(tokens, issuer, nonce)
    now = current_time()
    login = StoredLogin(
        gateway=gateway,
        issuer=issuer.issuer,
        issuer_name=issuer.name,
        client_id=issuer.client_id,
        token_kind=issuer.token,
        subject="",
        logged_in_at=now,
        expires_at=0.0,
        token="",
        refresh_token="",
    )
    return _with_tokens(login, tokens)


def current_login(
    gateway: str, *, ca_file: Path | None = None, folder: LoginFolder | None = None
) -> StoredLogin:
    """Return the newest login at a gateway with a valid token; raise CommandFailed if none.

    Commands that run at once refresh it once: the others wait, and read the new token.
    """
    folder = folder or LoginFolder.of_person()
    login = next(iter(folder.find(gateway)), None)
    if login is None:
        raise usage_error(
            "There is no token, and you are not logged in at this gateway. Run `gateway login`,"
            " or set CONSOLE_GATEWAY_TOKEN to a JWT."
        )
    if _is_valid(login, for_s=_REFRESH_BEFORE_S):
        return login
    with folder.lock(login):
        now = folder.read(login)
        if now is None:
            raise _ended()
        if _is_valid(now, for_s=_REFRESH_BEFORE_S):
            return now
        return _refresh(now, folder, LoginProvider(now.issuer, now.client_id, ca_file=ca_file))


def _refresh(login: StoredLogin, folder: LoginFolder, provider: LoginProvider) -> StoredLogin:
    if not login.refresh_token:
        if _is_valid(login):
            return login
        raise _ended()
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    try:
        new = _with_tokens(login, provider.request_tokens(form))
    except LoginEnded:
        raise _ended() from None
    except CommandFailed as failure:
        if failure.code == UNREACHABLE and _is_valid(login):
            return login
        raise
    store(new, folder)
    return new


def store(login: StoredLogin, folder: LoginFolder) -> bool:
    """Write a login; say so where that fails, which leaves it in memory only."""
    try:
        folder.write(login)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        print_error(f"The login cannot be stored in {folder.path}: {reason}.")
        print_error("It ends with this command. Set XDG_CONFIG_HOME to a folder of your own.")
        return False
    return True


def _with_tokens(login: StoredLogin, tokens: Mapping[str, Any]) -> StoredLogin:
    token, refresh_token = tokens.get(login.token_kind), tokens.get("refresh_token")
    if not isinstance(token, str) or not token:
        raise CommandFailed(REJECTED, f"{login.issuer} sent no {login.token_kind}.")
    subject = unverified_claims(token).get("sub")
    return replace(
        login,
        token=token,
        # An issuer that does not rotate refresh tokens sends none.
        refresh_token=refresh_token if isinstance(refresh_token, str) else login.refresh_token,
        expires_at=expiry_of(token, tokens),
        subject=subject if isinstance(subject, str) else login.subject,
    )


def _is_valid(login: StoredLogin, *, for_s: float = 0.0) -> bool:
    return login.expires_at - current_time() > for_s


def _ended() -> CommandFailed:
    return CommandFailed(NOT_AUTHENTICATED, "Your login has ended. Run `gateway login`.")


def _address(
    authorization: str, issuer: CliIssuer, redirect_uri: str, state: str, verifier: str, nonce: str
) -> str:
    from urllib.parse import urlencode

    digest = hashlib.sha256(verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": issuer.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(issuer.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    return f"{authorization}{'&' if '?' in authorization else '?'}{urlencode(query)}"


def _open_browser(address: str) -> None:
    """Open the provider's address once, on a terminal only; print it in any case."""
    is_open = sys.stdin.isatty() and webbrowser.open(address)
    if is_open:
        print_error("Your browser is open for the login. If not, open this address:")
    else:
        print_error("Open this address in a browser on this machine:")
    print_error(address)


def _code(answer: Mapping[str, str] | None, provider: LoginProvider) -> str:
    """Return the code of the browser's answer, whose state is right; raise CommandFailed."""
    if answer is None:
        raise CommandFailed(LATER, "There was no login within 5 minutes.")
    metadata, issuer = provider.metadata, answer.get("iss")
    announced = metadata.get("authorization_response_iss_parameter_supported") is True
    if issuer != provider.issuer and (issuer is not None or announced):
        message = "The answer comes from another identity provider. The login is refused."
        raise CommandFailed(NOT_AUTHENTICATED, message)
    if answer.get("error") == "access_denied":
        raise CommandFailed(NOT_AUTHENTICATED, "The login was denied at the identity provider.")
    if not answer.get("code"):
        error = answer.get("error", "no code")[:40]
        raise CommandFailed(NOT_AUTHENTICATED, f"The identity provider refused the login: {error}.")
    return answer["code"]


def _check_id_token(tokens: Mapping[str, Any], issuer: CliIssuer, nonce: str) -> None:
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
    if not is_ours or claims.get("nonce") != nonce:
        message = f"The ID token of {issuer.issuer} belongs to another login."
        raise CommandFailed(NOT_AUTHENTICATED, message)
