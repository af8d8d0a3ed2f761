"""The check of requests that our own pages send with the session's cookie."""

import hmac
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.domain.errors import CrossSiteRequest, LoginRequired
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import SAFE_METHODS, Principal
from gateway.edge.json_endpoint import PublicOrigin
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.login_cookies import LoginCookies
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.request import RequestContext

CSRF_HEADER: Final = "X-CSRF-Token"
ACTIVITY_HEADER: Final = "X-Activity"
"""Sent by a page with a request that the person caused; its polling sends none."""


@dataclass(frozen=True, slots=True)
class BrowserGate:
    origin: PublicOrigin
    cookies: LoginCookies
    sessions: BrowserSessions
    limits: CallerLimits
    clock: Clock
    fresh_s: float | None
    """`login.fresh_s`; None: any login that has not ended is recent."""

    async def session(
        self, request: ListenerRequest, context: RequestContext, *, to_end: bool = False
    ) -> BrowserSession:
        """Return the session of a request; set the principal, and whether the login is recent.

        `to_end`: a logout needs neither the provider nor a person who may use the gateway. Raises
        CrossSiteRequest, LoginRequired, LoginUnavailable, CallerLimited, PersonLocked and
        RevocationsUnavailable.
        """
        is_write = request.method not in SAFE_METHODS
        self.require_own_page(request, is_write=is_write)
        address = f"browser {context.client_address}"
        self.limits.admit(address)
        cookie = self.cookies.session(request)
        if to_end:
            session = await self.sessions.find_to_end(cookie, is_activity=True)
        else:
            is_activity = is_write or ACTIVITY_HEADER in request.headers
            session = await self.sessions.find(
                cookie, is_activity=is_activity, deadline=context.deadline
            )
        if is_write and not hmac.compare_digest(
            request.headers.get(CSRF_HEADER, "").encode("utf-8", "surrogatepass"),
            session.csrf_token.encode(),
        ):
            raise CrossSiteRequest(f"{CSRF_HEADER} is not the session's")
        context.principal = session.person
        context.has_fresh_login = self.is_fresh(session)
        context.login = session.lineage
        context.recheck_session = partial(self.sessions.recheck, session)
        # People behind one address have a limit each; only requests without a session share one.
        self.limits.take_back(address)
        self.limits.admit_once(context)
        return session

    def require_own_page(self, request: ListenerRequest, *, is_write: bool) -> None:
        """Raise CrossSiteRequest unless a page of the gateway itself sent the request.

        Another port of the same host is the same site, but another origin. Browsers send no Origin
        with a GET of the same origin; `Sec-Fetch-Site` says it then.
        """
        origins = request.headers.getall("Origin", ())
        sites = request.headers.getall("Sec-Fetch-Site", ())
        if (origins and list(origins) != [self.origin.origin]) or (
            sites and list(sites) != ["same-origin"]
        ):
            raise CrossSiteRequest(f"not sent by a page of {self.origin.origin}")
        if not origins and (is_write or not sites):
            raise CrossSiteRequest("neither Origin nor Sec-Fetch-Site")

    def is_fresh(self, session: BrowserSession) -> bool:
        return self.fresh_s is None or self.clock.now() - session.authenticated_at < self.fresh_s


async def identify_by_session(request: ListenerRequest, context: RequestContext) -> Principal:
    """Return the person of a request below `/ui/`, which the gate has identified.

    An `IdentifyCaller` for paths behind the gate.
    """
    del request
    if context.principal is None:
        raise LoginRequired("the gate has not identified the request")
    return context.principal
