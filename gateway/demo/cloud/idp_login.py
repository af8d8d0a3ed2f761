"""Logins at the simulated identity provider: authorization code with PKCE, refresh, logout.

People log in by choosing their name, without a password. Refresh tokens rotate: a used one ends all
tokens of its login, as RFC 9700, 4.14.2 describes.
"""

import base64
import hashlib
import html
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import web

from gateway.demo.cloud.clock import now

WEB_CLIENT: Final = "console-gateway-web"
WEB_SECRET: Final = "demo-web-secret"  # noqa: S105 - of the simulated provider
ADMIN_CLIENT: Final = "console-gateway-operators"
ADMIN_SECRET: Final = "demo-operators-secret"  # noqa: S105 - of the simulated provider
CLI_CLIENT: Final = "console-gateway-cli"
_CODE_LIFE_S: Final = 60.0
_ACCESS_LIFE_S: Final = 300.0
_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

Form = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DemoPerson:
    subject: str
    groups: tuple[str, ...]
    about: str


PEOPLE: Final = (
    DemoPerson("olga", ("operators",), "may open consoles"),
    DemoPerson("victor", ("viewers",), "may list servers"),
    DemoPerson("anna", ("approvers",), "may approve requests"),
    DemoPerson("otto", (), "may do nothing"),
    DemoPerson("ada", ("console-admins",), "may administer the gateway"),
    DemoPerson("rita", ("helpdesk",), "may look at the operators' pages"),
)


@dataclass(frozen=True, slots=True)
class ProviderLogin:
    """A person who has logged in at the provider for one client."""

    subject: str
    client: str
    scopes: frozenset[str]
    nonce: str = ""
    acr: str = ""
    auth_time: int = 0
    sid: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class _IssuedCode:
    login: ProviderLogin
    redirect_uri: str
    challenge: str
    expires_at: float


class TokenSigner(Protocol):
    """The provider's keys and names."""

    @property
    def issuer_url(self) -> str: ...
    @property
    def token(self) -> Callable[..., str]: ...


class OAuthProblem(Exception):
    """An error response of the token endpoint (RFC 6749, 5.2)."""

    def __init__(self, code: str, *, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.status = status


Grant = Callable[[Form, str], Awaitable[ProviderLogin]]
"""Returns the login that a token request with this form, of this client, is for."""


class LoginEndpoints:
    def __init__(self, app: web.Application, signer: TokenSigner) -> None:
        self._signer = signer
        self.people = {one.subject: one for one in PEOPLE}
        self.clients: dict[str, str | None] = {
            WEB_CLIENT: WEB_SECRET,
            ADMIN_CLIENT: ADMIN_SECRET,
            CLI_CLIENT: None,
        }
        """Secrets by client; None: a public client."""
        self.announces_iss = True
        """Send `iss` in authorization responses (RFC 9207), and say so in the metadata."""
        self.groups_in = frozenset({"id_token", "access_token", "userinfo"})
        self.id_token_claims: dict[str, Any] = {}
        """Claims that replace those of ID tokens; None removes one."""
        self.userinfo_claims: dict[str, Any] = {}
        """Claims that replace those of userinfo."""
        self.id_token_forged: str | None = None
        self.token_life_s = _ACCESS_LIFE_S
        self.device_interval_s = 1.0
        """Shortest time between two polls of a device code."""
        self.device_code_life_s = 300.0
        self.backchannel_logout_uri: str | None = None
        self.logins: dict[str, ProviderLogin] = {}
        """Logins that have not ended, by `sid`."""
        self.grants: dict[str, Grant] = {
            "authorization_code": self._redeem_code,
            "refresh_token": self._refresh,
        }
        self._codes: dict[str, _IssuedCode] = {}
        self._refresh_tokens: dict[str, ProviderLogin] = {}
        self._used_refresh_tokens: dict[str, str] = {}
        self._access_tokens: dict[str, ProviderLogin] = {}
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        app.router.add_post("/revoke", self._revoke)
        app.router.add_get("/userinfo", self._userinfo)
        app.router.add_get("/end_session", self._end_session)
        app.router.add_post("/_box/logout", self._log_out)
        app.router.add_post("/_box/login", self._change)

    def metadata(self, url: str) -> dict[str, Any]:
        """Return what the discovery document has about logins."""
        return {
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "userinfo_endpoint": f"{url}/userinfo",
            "revocation_endpoint": f"{url}/revoke",
            "end_session_endpoint": f"{url}/end_session",
            "grant_types_supported": sorted(self.grants),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "none",
            ],
            "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
            "authorization_response_iss_parameter_supported": self.announces_iss,
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
        }

    def code_for(self, login: ProviderLogin, redirect_uri: str, challenge: str) -> str:
        """Return a new authorization code."""
        code = secrets.token_urlsafe(24)
        self.logins[login.sid] = login
        self._codes[code] = _IssuedCode(login, redirect_uri, challenge, now() + _CODE_LIFE_S)
        return code

    def logout_token(
        self, *, subject: str | None = None, sid: str | None = None, **changes: Any
    ) -> str:
        """Return a back-channel logout token; `changes` are parameters of `token`."""
        claims = {
            "aud": WEB_CLIENT,
            "groups": None,
            "sid": sid,
            "events": {_LOGOUT_EVENT: {}},
            **changes.pop("claims", {}),
        }
        headers = {"typ": "logout+jwt", **changes.pop("headers", {})}
        return self._signer.token(
            subject, claims=claims, headers=headers, life_s=changes.pop("life_s", 120.0), **changes
        )

    async def log_out(self, *, subject: str | None = None, sid: str | None = None) -> int:
        """End logins and notify the gateway; return the status of its response, or 0."""
        for one in [*self.logins.values()]:
            if one.sid == sid or (sid is None and one.subject == subject):
                self._end(one.sid)
        if self.backchannel_logout_uri is None:
            return 0
        form = {"logout_token": self.logout_token(subject=subject, sid=sid)}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5.0)) as http,
            http.post(self.backchannel_logout_uri, data=form) as response,
        ):
            return response.status

    async def _authorize(self, request: web.Request) -> web.Response:
        query = request.query
        redirect_uri = query.get("redirect_uri", "")
        host = urlsplit(redirect_uri).hostname
        if query.get("client_id") not in self.clients or host not in ("127.0.0.1", "localhost"):
            # Never redirect: the address is not one of the client (RFC 6749, 4.1.2.1).
            raise web.HTTPBadRequest(text="unknown client_id or redirect_uri")
        problem = self._problem_of(query)
        if problem is not None:
            return self._redirect(redirect_uri, query, error=problem)
        person = self.people.get(query.get("person", ""))
        if person is None:
            return people_page(query, self.people.values(), "Log in as:")
        login = ProviderLogin(
            person.subject,
            query["client_id"],
            frozenset(query.get("scope", "").split()),
            nonce=query.get("nonce", ""),
            acr=query.get("acr_values", "").partition(" ")[0],
            auth_time=int(now()),
        )
        code = self.code_for(login, redirect_uri, query["code_challenge"])
        return self._redirect(redirect_uri, query, code=code)

    @staticmethod
    def _problem_of(query: Form) -> str | None:
        if query.get("response_type") != "code":
            return "unsupported_response_type"
        if query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            return "invalid_request"
        if "openid" not in query.get("scope", "").split():
            return "invalid_scope"
        return "access_denied" if query.get("person") == "nobody" else None

    def _redirect(self, redirect_uri: str, query: Form, **result: str) -> web.Response:
        if "state" in query:
            result["state"] = query["state"]
        if self.announces_iss:
            result["iss"] = self._signer.issuer_url
        mark = "&" if urlsplit(redirect_uri).query else "?"
        location = f"{redirect_uri}{mark}{urlencode(result)}"
        return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            client = self.client_of(request, form)
            grant = self.grants.get(form.get("grant_type", ""), _unsupported_grant)
            body = self._tokens_for(await grant(form, client))
            status = 200
        except OAuthProblem as problem:
            body, status = {"error": problem.code}, problem.status
        return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})

    async def _revoke(self, request: web.Request) -> web.Response:
        """RFC 7009; an unknown token, or one of another client, is no error."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            client = self.client_of(request, form)
        except OAuthProblem as problem:
            return web.json_response({"error": problem.code}, status=problem.status)
        login = self._refresh_tokens.get(form.get("token", ""))
        if login is not None and login.client == client:
            self._drop_tokens(login.sid)
        return web.Response()

    def client_of(self, request: web.Request, form: Form) -> str:
        """Return the client that a request authenticates; raise OAuthProblem."""
        client, secret = form.get("client_id", ""), form.get("client_secret")
        kind, _, basic = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                client, _, secret = base64.b64decode(basic).decode().partition(":")
            except ValueError:
                raise OAuthProblem("invalid_client", status=401) from None
        if client not in self.clients or self.clients[client] != secret:
            raise OAuthProblem("invalid_client", status=401)
        return client

    async def _redeem_code(self, form: Form, client: str) -> ProviderLogin:
        issued = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            issued is None
            or now() >= issued.expires_at
            or issued.login.client != client
            or issued.redirect_uri != form.get("redirect_uri")
            or issued.challenge != challenge
        ):
            raise OAuthProblem("invalid_grant")
        return issued.login

    async def _refresh(self, form: Form, client: str) -> ProviderLogin:
        token = form.get("refresh_token", "")
        if token in self._used_refresh_tokens:
            self._end(self._used_refresh_tokens[token])
        login = self._refresh_tokens.pop(token, None)
        if login is None or login.client != client:
            raise OAuthProblem("invalid_grant")
        self._used_refresh_tokens[token] = login.sid
        return replace(login, nonce="")

    def _tokens_for(self, login: ProviderLogin) -> dict[str, Any]:
        person = self.people[login.subject]
        groups = list(person.groups)
        life_s = self.token_life_s
        access_token = self._signer.token(
            login.subject,
            groups=groups,
            life_s=life_s,
            claims={} if "access_token" in self.groups_in else {"groups": None},
        )
        refresh_token = secrets.token_urlsafe(24)
        self._refresh_tokens[refresh_token] = login
        self._access_tokens[access_token] = login
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": int(life_s),
            "refresh_token": refresh_token,
            "id_token": self._id_token(login, groups, access_token, life_s),
            "scope": " ".join(sorted(login.scopes)),
        }

    def _id_token(
        self, login: ProviderLogin, groups: list[str], access_token: str, life_s: float
    ) -> str:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = {
            "aud": login.client,
            "jti": None,
            "nonce": login.nonce or None,
            "sid": login.sid,
            "auth_time": login.auth_time,
            "acr": login.acr or None,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            "groups": groups if "id_token" in self.groups_in else None,
            **self.id_token_claims,
        }
        return self._signer.token(
            login.subject, claims=claims, life_s=life_s, forged=self.id_token_forged
        )

    async def _userinfo(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        login = self._access_tokens.get(token)
        if login is None:
            return web.json_response({"error": "invalid_token"}, status=401)
        claims: dict[str, Any] = {"sub": login.subject}
        if "userinfo" in self.groups_in:
            claims["groups"] = list(self.people[login.subject].groups)
        return web.json_response({**claims, **self.userinfo_claims})

    async def _end_session(self, request: web.Request) -> web.Response:
        target = request.query.get("post_logout_redirect_uri", "")
        if urlsplit(target).hostname not in ("127.0.0.1", "localhost"):
            return web.Response(text="You are logged out.")
        state = request.query.get("state")
        location = f"{target}?{urlencode({'state': state})}" if state else target
        return web.Response(status=302, headers={"Location": location})

    def _end(self, sid: str) -> None:
        self.logins.pop(sid, None)
        self._drop_tokens(sid)

    def _drop_tokens(self, sid: str) -> None:
        for tokens in (self._refresh_tokens, self._access_tokens):
            for token in [name for name, login in tokens.items() if login.sid == sid]:
                del tokens[token]

    async def _log_out(self, request: web.Request) -> web.Response:
        return web.json_response({"status": await self.log_out(**await request.json())})

    async def _change(self, request: web.Request) -> web.Response:
        """Set attributes of this object, for tests in other processes."""
        for name, value in (await request.json()).items():
            known = getattr(self, name)
            setattr(self, name, frozenset(value) if isinstance(known, frozenset) else value)
        return web.json_response({})


async def _unsupported_grant(form: Form, client: str) -> ProviderLogin:
    del form, client
    raise OAuthProblem("unsupported_grant_type")


def people_page(query: Form, people: Iterable[DemoPerson], title: str) -> web.Response:
    """Return a page with a link for each person; `query` is that of the links."""
    links = "".join(
        f'<li><a href="?{html.escape(urlencode({**query, "person": one.subject}))}">'
        f"{html.escape(one.subject)}</a>: {html.escape(one.about)}</li>"
        for one in people
    )
    return text_page(f"<p>{html.escape(title)}</p><ul>{links}</ul>")


def text_page(content: str) -> web.Response:
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Simulated provider</title>'
        f"<main><h1>Simulated identity provider</h1>{content}</main></html>"
    )
    return web.Response(text=text, content_type="text/html")
