"""Logins with a browser on this machine (RFC 8252), which comes back to a loopback address."""

import base64
import hashlib
import secrets
import sys
import webbrowser
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from gateway.commands.cli_issuer import CliIssuer, new_login
from gateway.commands.exit_codes import LATER, NOT_AUTHENTICATED, CommandFailed
from gateway.commands.login_provider import LoginEnded, LoginProvider
from gateway.commands.loopback_redirect import LoopbackRedirect
from gateway.commands.stored_logins import StoredLogin
from gateway.commands.terminal import print_error

_APPROVAL_S: Final = 300.0


def log_in_by_loopback(gateway: str, issuer: CliIssuer, provider: LoginProvider) -> StoredLogin:
    """Let the person log in with a browser; raise CommandFailed."""
    state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    authorization = provider.endpoint("authorization_endpoint")
    redirect = LoopbackRedirect(state, host=issuer.redirect_host, ports=issuer.ports)
    try:
        _open_browser(
            _address(authorization, issuer, redirect.uri, state, verifier, nonce), redirect.port
        )
        answer = redirect.wait(_APPROVAL_S)
    finally:
        redirect.close()
    code = authorization_code(answer, provider)
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
    return new_login(gateway, issuer, tokens, nonce=nonce)


def authorization_code(answer: Mapping[str, str] | None, provider: LoginProvider) -> str:
    """Return the code of the browser's answer, whose state is right; raise CommandFailed."""
    if answer is None:
        raise CommandFailed(LATER, "There was no login within 5 minutes.")
    # RFC 9207: an answer of another provider must not bring its code to this one, or vice versa.
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


def _address(
    authorization: str, issuer: CliIssuer, redirect_uri: str, state: str, verifier: str, nonce: str
) -> str:
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


def _open_browser(address: str, port: int) -> None:
    """Open the provider's address once, on a terminal only; print it in any case."""
    is_open = sys.stdin.isatty() and webbrowser.open(address)
    if is_open:
        print_error("Your browser is open for the login. If not, open this address:")
    else:
        print_error(
            "Open this address in a browser on this machine, or on another one after"
            f" `ssh -L {port}:127.0.0.1:{port}` to this one:"
        )
    print_error(address)
