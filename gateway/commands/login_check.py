"""`gateway check --online`: browser logins at the issuers, as far as they need no person."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import aiohttp

from gateway.config.login import IssuerLogin
from gateway.config.settings import Settings
from gateway.domain.errors import LoginFailed
from gateway.domain.quoted import quoted
from gateway.drivers.issuers.openid_provider import HttpOpenIdProvider, ProviderMetadata
from gateway.flow.clock import Clock
from gateway.flow.login.openid_provider import AuthorizationRequest
from gateway.process.wiring.login import LoginClient, open_provider

_PKCE: Final = "S256"


@dataclass(frozen=True, slots=True)
class LoginResult:
    """The result of the check of one issuer."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


async def check_login(config: Settings, client: LoginClient, clock: Clock) -> LoginResult:
    """Read an issuer's metadata, and request its login page as a browser does."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as http:
        provider = open_provider(config, client, http, clock)
        try:
            metadata = await provider.metadata()
            problems = [*_problems(metadata, client.login)]
            problems += await _try_client(provider, client.redirect_uri)
        except LoginFailed as failure:
            return LoginResult((str(failure),), ())
    notes = (
        f"redirect URI {client.redirect_uri}",
        f"after a logout {client.logged_out_uri}",
        *_notes(metadata),
    )
    return LoginResult(tuple(problems), notes)


def _problems(metadata: ProviderMetadata, login: IssuerLogin) -> Iterator[str]:
    document = metadata.document
    if _lacks(document, "code_challenge_methods_supported", _PKCE):
        yield f"does not support PKCE with {_PKCE}, which every login uses"
    if _lacks(document, "response_types_supported", "code"):
        yield "does not support the authorization code flow (`response_types_supported`)"
    if login.groups_from == "userinfo" and metadata.userinfo_endpoint is None:
        yield "has no `userinfo_endpoint`, which `login.groups_from: userinfo` requires"
    for scope in login.scopes:
        if _lacks(document, "scopes_supported", scope):
            yield f"does not support the scope {quoted(scope)} of `login.scopes`"
    known = document.get("acr_values_supported")
    if (
        login.acr_values
        and isinstance(known, list)
        and not {*login.acr_values} & {*map(str, known)}
    ):
        yield "supports none of `login.acr_values`, so no login can succeed"
    methods = "token_endpoint_auth_methods_supported"
    if login.client_secret is None and _lacks(document, methods, "none"):
        yield "requires a secret from clients: set `login.client_secret`"


def _notes(metadata: ProviderMetadata) -> Iterator[str]:
    if "code_challenge_methods_supported" not in metadata.document:
        yield f"does not announce PKCE; check that the client requires {_PKCE}"
    if not metadata.announces_iss:
        yield "does not announce `iss` in its responses (RFC 9207)"
    if metadata.end_session_endpoint is None:
        yield "has no `end_session_endpoint`: a logout here ends no session there"
    if metadata.document.get("backchannel_logout_supported") is not True:
        yield "does not announce back-channel logout"


async def _try_client(provider: HttpOpenIdProvider, redirect: str) -> list[str]:
    """Begin a login; providers refuse unknown clients and redirect URIs before a person acts."""
    request = AuthorizationRequest(
        state=secrets.token_urlsafe(16),
        nonce=secrets.token_urlsafe(16),
        verifier=secrets.token_urlsafe(48),
    )
    status, location = await provider.probe(await provider.authorization_url(request))
    error = dict(parse_qsl(urlsplit(location).query)).get("error")
    if error is not None:
        return [f"refuses the login: {quoted(error[:60])}"]
    if status >= 400:
        question = "is `login.client_id` right, and is the redirect URI registered for it?"
        return [f"refuses the login with HTTP {status}: {question} It is {redirect}"]
    return []


def _lacks(document: Mapping[str, Any], name: str, value: str) -> bool:
    """Return whether the metadata has a list without the value; without the list it may have it."""
    known = document.get(name)
    return isinstance(known, list) and value not in known
