"""The paths of browser logins.

    GET  P/login                     the page: the issuers, or the person who is logged in
    GET  P/login/ISSUER              sends the browser to the issuer
    GET  P/login/callback/ISSUER     the browser comes back from the issuer
    POST P/login/backchannel/ISSUER  the issuer ends sessions (Back-Channel Logout 1.0)
    POST P/logout                    ends the session of our own page
    GET  P/logout                    the page after a logout, here and at the issuer

P is the path of `listen.public_url`.
"""

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    CallerLimited,
    LoginFailed,
    LoginRequired,
    UnsupportedMediaType,
)
from gateway.domain.login import model
from gateway.domain.login.return_path import safe_return_path
from gateway.domain.model import Headers
from gateway.edge.consoles.page_assets import PageAsset, PageAssets
from gateway.edge.json_endpoint import (
    Action,
    JsonEndpoint,
    JsonReply,
    Paths,
    find_endpoint,
    json_reply,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.edge.mount import require_read
from gateway.edge.people.browser_gate import BrowserGate
from gateway.edge.people.login_pages import LoginPages
from gateway.flow.login.logins import AuthorizationAnswer, BrowserLogins
from gateway.flow.request import RequestContext

_ISSUER: Final = r"([a-z0-9][a-z0-9_-]{0,31})"
_QUERY_CHARS_MAX: Final = 8_192
_FORM_BYTES_MAX: Final = 65_536
_FORM: Final = "application/x-www-form-urlencoded"


class LoginHandler:
    """Implements `Mount`."""

    def __init__(
        self,
        logins: BrowserLogins,
        gate: BrowserGate,
        pages: LoginPages,
        assets: PageAssets,
        *,
        home: str,
    ) -> None:
        """`home` is where a login without a valid return path goes."""
        self._logins = logins
        self._gate = gate
        self._cookies = gate.cookies
        self._pages = pages
        self._assets = assets
        self._home = home
        prefix = gate.origin.prefix
        self._prefix = prefix
        self._shells = {f"{prefix}/login": pages.chooser, f"{prefix}/logout": pages.logged_out}
        self._files = f"{prefix}/console/assets/"
        self._paths: Paths = (
            (re.compile(f"/login/{_ISSUER}"), {"GET": Action("BeginLogin", self._begin)}),
            (
                re.compile(f"/login/callback/{_ISSUER}"),
                {"GET": Action("CompleteLogin", self._complete)},
            ),
            (
                re.compile(f"/login/backchannel/{_ISSUER}"),
                {"POST": Action("LogOutByProvider", self._log_out_by_provider)},
            ),
            (re.compile("/logout"), {"POST": Action("LogOut", self._log_out)}),
        )

    def owns(self, path: str) -> bool:
        pure = path.partition("?")[0]
        return pure in self._shells or pure.startswith((f"{self._prefix}/login/", self._files))

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        path = request.raw_path.partition("?")[0]
        if path.startswith(self._files):
            asset = self._assets.find(request.raw_path)
            if asset is not None:
                require_read(request)
            return asset
        if request.method == "POST" and path == f"{self._prefix}/logout":
            return None
        if path in self._shells:
            require_read(request)
        return self._shells.get(path)

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        path = request.raw_path.partition("?")[0].removeprefix(self._prefix)
        return find_endpoint(self._paths, path, request.method)

    async def _begin(
        self, request: ListenerRequest, context: RequestContext, issuer: str
    ) -> JsonReply:
        query = dict(parse_qsl(request.raw_path.partition("?")[2][:_QUERY_CHARS_MAX]))
        return_path = safe_return_path(query.get("return"), prefix=self._prefix, default=self._home)
        try:
            self._limit(context)
            begun = await self._logins.begin(
                issuer,
                return_path=return_path,
                previous_cookie=self._cookies.session(request),
                fresh="fresh" in query,
            )
        except LoginFailed as rejected:
            return self._failed(rejected, context)
        cookies = self._cookies.set_attempt(request, begun.attempt_id, begun.cookie)
        return JsonReply(HTTPStatus.FOUND, b"", (("Location", begun.url), *cookies))

    async def _complete(
        self, request: ListenerRequest, context: RequestContext, issuer: str
    ) -> JsonReply:
        cleared: Headers = ()
        try:
            self._limit(context)
            answer = _answer(request.raw_path.partition("?")[2])
            cookie = self._cookies.attempt(request, answer.attempt_id)
            if cookie is not None:
                cleared = self._cookies.clear_attempt(answer.attempt_id)
            done = await self._logins.complete(issuer, answer, cookie=cookie, context=context)
            self._gate.limits.take_back(f"login {context.client_address}")
        except LoginFailed as rejected:
            return self._failed(rejected, context, cleared)
        except AuditLogUnavailable as error:
            unrecorded = LoginFailed(model.STORE_UNAVAILABLE, str(error))
            return self._failed(unrecorded, context, cleared)
        page = self._pages.continues(done.return_path)
        headers = (*page.headers, *cleared, *self._cookies.set_session(done.cookie))
        return JsonReply(page.status, page.body, headers)

    async def _log_out(
        self, request: ListenerRequest, context: RequestContext, _: str
    ) -> JsonReply:
        location: str | None = None
        try:
            session = await self._gate.session(request, context, to_end=True)
            location = await self._logins.log_out(session)
        except LoginRequired:
            pass  # it has ended already; the page may still have its cookie
        location = location or f"{self._prefix}/logout"
        return json_reply({"location": location}, headers=self._cookies.clear_session())

    async def _log_out_by_provider(
        self, request: ListenerRequest, context: RequestContext, issuer: str
    ) -> JsonReply:
        address = f"backchannel {context.client_address}"
        self._gate.limits.admit(address)
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != _FORM:
            raise UnsupportedMediaType
        within_s = context.deadline - self._gate.clock.monotonic()
        body = await read_body(request, _FORM_BYTES_MAX, within_s=within_s)
        pairs = parse_qsl(body.decode("utf-8", "replace"))
        tokens = [value for name, value in pairs if name == "logout_token"]
        if len(tokens) != 1:
            raise BadRequest("The form must have `logout_token` once.")
        try:
            await self._logins.log_out_by_provider(issuer, tokens[0])
        except LoginFailed as rejected:
            if rejected.problem is model.PROVIDER_UNAVAILABLE:
                raise
            # Back-Channel Logout 1.0, 2.8.
            raise BadRequest("The logout token is not valid.") from None
        self._gate.limits.take_back(address)  # a provider logs many people out at once
        return JsonReply(HTTPStatus.OK, b"", ())

    def _limit(self, context: RequestContext) -> None:
        """Bound how many logins one address can begin, each of which takes memory in Redis."""
        try:
            self._gate.limits.admit(f"login {context.client_address}")
        except CallerLimited as error:
            raise LoginFailed(model.OVERLOADED, str(error)) from None

    def _failed(
        self, rejected: LoginFailed, context: RequestContext, cookies: Headers = ()
    ) -> JsonReply:
        page = self._pages.failed(rejected.problem, context.request_id)
        return JsonReply(page.status, page.body, (*page.headers, *cookies))


def _answer(query: str) -> AuthorizationAnswer:
    """Read the query of the return from the provider; raise LoginFailed."""
    pairs = parse_qsl(query, keep_blank_values=True) if len(query) <= _QUERY_CHARS_MAX else []
    values = dict(pairs)
    if len(values) != len(pairs):
        raise LoginFailed(model.LOST, "a parameter occurs twice")
    return AuthorizationAnswer(
        values.get("state", ""),
        values.get("code", ""),
        values.get("error", ""),
        values.get("iss"),
    )
