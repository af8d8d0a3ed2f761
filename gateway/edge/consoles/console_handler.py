"""The paths of live consoles: page, tickets, the WebSocket of a session, own sessions.

    GET    P/console                     the page
    POST   P/console/ticket              describes a ticket, spends nothing
    POST   P/console/redeem              spends a ticket for a session
    POST   P/console/park                spends a ticket until its person has logged in
    POST   P/console/parked              describes the parked ticket of this browser
    GET    P/console/s/SID/socket        the WebSocket of a session
    GET    P/console/sessions            the person's sessions
    DELETE P/console/sessions/SID        ends one
    POST   P/console/sessions/SID/renew  lets one follow a newer token of the person

The last three also exist without P, for callers of the API.

P is the path of `listen.public_url`.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.catalogue.json_body import parse_json_object
from gateway.domain.consoles import ends
from gateway.domain.consoles.model import BrowserLogin, InUse, SessionMode
from gateway.domain.consoles.page_messages import SUBPROTOCOL, person_fields
from gateway.domain.errors import (
    BadRequest,
    CallerLimited,
    ConsoleBusy,
    CrossSiteRequest,
    GatewayError,
    MethodNotAllowed,
    NotPermitted,
    OperationUnknown,
    SessionCookieMissing,
    TicketRejected,
    UnsupportedMediaType,
)
from gateway.domain.model import Headers, Operation
from gateway.domain.timestamps import rfc3339
from gateway.edge.consoles.browser_sockets import BrowserSockets
from gateway.edge.consoles.own_sessions import OwnSessionsHandler, require_store
from gateway.edge.consoles.page_assets import PAGE_PATH, PageAsset, PageAssets
from gateway.edge.consoles.recordings_handler import RecordingsHandler
from gateway.edge.consoles.session_cookie import SessionCookies
from gateway.edge.error_response import render_error
from gateway.edge.json_endpoint import (
    Action,
    Bearer,
    JsonEndpoint,
    JsonReply,
    Paths,
    PublicOrigin,
    address_key,
    find_endpoint,
    json_reply,
    recheck_session,
    require_json_type,
    require_own_origin,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.edge.mount import require_read
from gateway.edge.people.ticket_browser import TicketBrowser
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.consoles.redemption import Redemption
from gateway.flow.consoles.rejected_cookies import CookieRejection
from gateway.flow.consoles.ticket_binding import parked_text
from gateway.flow.request import RequestContext

_SESSIONS_PATH: Final = f"{PAGE_PATH}/sessions"
_API_PATHS: Final = (_SESSIONS_PATH, f"{PAGE_PATH}/recordings")
_BODY_BYTES_MAX: Final = 4_096
_TICKET_CHARS_MAX: Final = 128
_ORIGIN_CHARS_MAX: Final = 200
_SESSION_ID: Final = r"([0-9a-f]{32})"
_TICKET_REQUIRED: Final = 'The body must be {"ticket": "TICKET"}.'

_T = TypeVar("_T")


class ConsoleHandler:
    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        origin: PublicOrigin,
        *,
        assets: PageAssets,
        cookies: SessionCookies,
        redemption: Redemption,
        sessions: LiveSessions,
        limits: CallerLimits,
        bearer: Bearer,
        sockets: BrowserSockets,
        recordings: RecordingsHandler | None,
        clock: Clock,
        browser: TicketBrowser | None,
    ) -> None:
        """Take `recordings` as None without a directory for them, `browser` without logins."""
        self._browser = browser
        self._origin = origin
        self._assets = assets
        self._cookies = cookies
        self._redemption = redemption
        self._sessions = sessions
        self._limits = limits
        self._identify_bearer = bearer
        self._sockets = sockets
        self._clock = clock
        self._paths: Paths = (
            (re.compile("/ticket"), {"POST": Action("DescribeConsoleTicket", self._describe)}),
            (re.compile("/redeem"), {"POST": Action("RedeemConsoleTicket", self._redeem)}),
            (
                re.compile(f"/s/{_SESSION_ID}/socket"),
                {"GET": Action("OpenConsoleSocket", serve=self._open_socket)},
            ),
            (
                re.compile(f"/sessions/{_SESSION_ID}/renew"),
                {"POST": Action("RenewConsoleSession", self._renew)},
            ),
            *OwnSessionsHandler(sessions, cookies, self._person).paths,
            *(() if browser is None else self._parking),
            *(() if recordings is None else (*recordings.paths, *recordings.socket_paths)),
        )

    @property
    def _parking(self) -> Paths:
        return (
            (re.compile("/park"), {"POST": Action("ParkConsoleTicket", self._park)}),
            (
                re.compile("/parked"),
                {"POST": Action("DescribeParkedTicket", self._describe_parked)},
            ),
        )

    def owns(self, path: str) -> bool:
        """Return whether a request's path is one of live consoles."""
        return path.startswith((self._origin.prefix + PAGE_PATH, *_API_PATHS))

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        """Return the page or one of its files; raise MethodNotAllowed."""
        asset = self._assets.find(request.raw_path)
        if asset is not None:
            require_read(request)
        return asset

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        """Return the endpoint of a request; raise OperationUnknown, MethodNotAllowed."""
        try:
            return self._endpoint(request)
        except (OperationUnknown, MethodNotAllowed) as refusal:
            ticket = self._redemption.find_ticket(request.raw_path)
            if ticket is None:
                raise
            return self._reject_address(request, ticket, refusal)

    def _endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        path = request.raw_path.partition("?")[0]
        base = PAGE_PATH if path.startswith(_API_PATHS) else self._origin.prefix + PAGE_PATH
        return find_endpoint(self._paths, path.removeprefix(base), request.method)

    def _reject_address(
        self, request: ListenerRequest, ticket: str, refusal: GatewayError
    ) -> JsonEndpoint:
        """Return an endpoint that records a ticket in an address, where logs of proxies have it."""

        async def reject(_: ListenerRequest, context: RequestContext, __: str) -> JsonReply:
            await self._redemption.reject(ticket, context, "in an address", kind="address")
            raise refusal

        action = Action("RejectConsoleTicket", reject)
        return JsonEndpoint(Operation(action.name, request.method, "", ""), action, "")

    async def _open_socket(
        self,
        request: ListenerRequest,
        context: RequestContext,
        session_id: str,
        _: CIMultiDict[str],
    ) -> web.StreamResponse:
        """Serve a page's WebSocket to its end.

        Raises CrossSiteRequest and SessionCookieMissing before the upgrade; a browser hides the
        status of a refused upgrade from the page, so all else is said on the open WebSocket.
        """
        try:
            cookie = self._cookie_of_page(request, session_id)
        except (CrossSiteRequest, SessionCookieMissing) as refusal:
            await self._record_rejected(request, context, refusal, session_id)
            raise
        return await self._sockets.serve(
            request,
            context,
            SUBPROTOCOL,
            lambda channel: self._sessions.serve(
                session_id,
                cookie,
                channel,
                client_address=context.client_address,
                # Pages that come back at once after the loss of a replica do not use up the limit.
                on_accepted=lambda: self._limits.take_back(address_key(context)),
            ),
        )

    def _cookie_of_page(self, request: ListenerRequest, session_id: str) -> str:
        """Return the session's cookie; raise CrossSiteRequest, SessionCookieMissing."""
        require_own_origin(self._origin, request)
        cookie = self._cookies.find(request, session_id)
        if cookie is None:
            raise SessionCookieMissing
        return cookie

    async def _record_rejected(
        self,
        request: ListenerRequest,
        context: RequestContext,
        refusal: CrossSiteRequest | SessionCookieMissing,
        session_id: str,
    ) -> None:
        """Count a rejected request; record it for each session whose genuine cookie it has.

        `session_id` is that of the path, or "". Beyond the limit of the address nothing is looked
        up.
        """
        is_foreign = isinstance(refusal, CrossSiteRequest)
        reason = CookieRejection.ORIGIN if is_foreign else CookieRejection.COOKIE
        self._sessions.rejected.count(reason)
        own = self._cookies.find(request, session_id) if session_id else None
        others = self._cookies.session_ids(request) if own is None else [session_id]
        found = ((one, self._cookies.find(request, one)) for one in others)
        cookies = [(one, cookie) for one, cookie in found if cookie is not None]
        try:
            self._limits.admit(address_key(context))
        except CallerLimited:
            return
        await self._sessions.rejected.record(
            cookies,
            reason,
            client_address=context.client_address,
            detail=_origin_detail(request) if is_foreign else "cookie of another console",
        )

    async def _describe(
        self, request: ListenerRequest, context: RequestContext, _: str
    ) -> JsonReply:
        ticket = await self._read(request, context, _ticket)
        return await self._description(ticket, request, context)

    async def _describe_parked(
        self, request: ListenerRequest, context: RequestContext, _: str
    ) -> JsonReply:
        await self._read(request, context, _nothing)
        return await self._description(self._parked(request), request, context)

    async def _park(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        assert self._browser is not None
        ticket = await self._read(request, context, _ticket)
        secret = await self._redemption.park(ticket, context)
        return json_reply({}, headers=self._browser.set_parked(secret))

    def _parked(self, request: ListenerRequest) -> str:
        """Return the text of the browser's parked ticket; raise TicketRejected."""
        secret = None if self._browser is None else self._browser.parked(request)
        if secret is None:
            raise TicketRejected("no ticket is parked in this browser", is_genuine=False)
        return parked_text(secret)

    async def _login(
        self, request: ListenerRequest, context: RequestContext
    ) -> BrowserLogin | None:
        return None if self._browser is None else await self._browser.login(request, context)

    async def _description(
        self, ticket: str, request: ListenerRequest, context: RequestContext
    ) -> JsonReply:
        login = await self._login(request, context)
        described = await self._redemption.describe(ticket, context, login=login)
        target = described.target
        return json_reply(
            {
                "server": {"project_id": target.project, "id": target.server, "name": None},
                "person": person_fields(described.person),
                "mode": described.mode.value,
                "recorded": described.is_recorded,
                "keys_recorded": described.records_keys,
                "expires_in": round(described.expires_in_s, 1),
                "in_use": None if described.in_use is None else _in_use(described.in_use),
            }
        )

    async def _redeem(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        ticket, mode, take_over = await self._read(request, context, _redemption)
        cleared: Headers = ()
        if ticket is None:
            ticket = self._parked(request)
            cleared = () if self._browser is None else self._browser.clear_parked()
        login = await self._login(request, context)
        try:
            new = await self._redemption.redeem(
                ticket, context, mode=mode, take_over=take_over, login=login
            )
        except ConsoleBusy as busy:
            reply = render_error(busy)
            return json_reply(
                {**orjson.loads(reply.body), "in_use": _in_use(busy.in_use)}, status=reply.status
            )
        session_id = new.session.id
        try:
            await recheck_session(context)
        except GatewayError:
            # The login has ended, and its end may have missed this console.
            await require_store(self._sessions.end(session_id, ends.LOGGED_OUT))
            raise
        return json_reply(
            {
                "session_id": session_id,
                "socket": f"{self._origin.prefix}{PAGE_PATH}/s/{session_id}/socket",
                "resume_key": new.resume_key.reveal(),
            },
            headers=(*self._cookies.set_headers(session_id, new.cookie), *cleared),
        )

    async def _renew(
        self, request: ListenerRequest, context: RequestContext, session_id: str
    ) -> JsonReply:
        person = await self._identify_bearer(request, context)
        if not await require_store(self._sessions.renew(session_id, person)):
            raise NotPermitted("no connected session of this person")
        return json_reply({"id": session_id})

    async def _person(
        self, request: ListenerRequest, context: RequestContext, session_id: str = ""
    ) -> str:
        """Return `Principal.key` of the caller, by JWT or by the cookie of a session."""
        headers = request.headers
        if "Authorization" in headers or "X-Auth-Token" in headers:
            return (await self._identify_bearer(request, context)).key
        # Browsers send no Origin with a page's own GET.
        if request.method not in ("GET", "HEAD") or "Origin" in request.headers:
            try:
                require_own_origin(self._origin, request)
            except CrossSiteRequest as refusal:
                await self._record_rejected(request, context, refusal, session_id)
                raise
        self._limits.admit(address_key(context))
        for one in [session_id] if session_id else self._cookies.session_ids(request):
            cookie = self._cookies.find(request, one)
            if cookie is None:
                continue
            session = await require_store(self._sessions.find_by_cookie(one, cookie))
            if session is not None:
                context.principal = session.person
                return context.principal.key
        missing = SessionCookieMissing()
        if session_id:
            await self._record_rejected(request, context, missing, session_id)
        else:
            self._sessions.rejected.count(CookieRejection.COOKIE)
        raise missing

    async def _read(
        self,
        request: ListenerRequest,
        context: RequestContext,
        parse: Callable[[Mapping[str, Any]], _T],
    ) -> _T:
        """Return what a POST of our own page has in its JSON body, by `parse`.

        A form of another site can send neither this Origin nor this Content-Type. A ticket in a
        rejected body stays unspent: this check comes before the ticket is looked up. Spending it
        would protect nothing, since a caller that has it can send any Origin.
        """
        self._limits.admit(address_key(context))
        try:
            require_own_origin(self._origin, request)
            require_json_type(request)
        except (CrossSiteRequest, UnsupportedMediaType) as refusal:
            body = b""
            with suppress(GatewayError):
                body = await self._body(request, context)
            if isinstance(refusal, CrossSiteRequest):
                await self._reject(body, context, _origin_detail(request), kind="origin")
            else:
                await self._reject(body, context, "sent by a form", kind="form")
            raise
        body = await self._body(request, context)
        try:
            return parse(parse_json_object(body))
        except BadRequest:
            await self._reject(body, context, "malformed request", kind="request")
            raise

    async def _body(self, request: ListenerRequest, context: RequestContext) -> bytes:
        within_s = context.deadline - self._clock.monotonic()
        return await read_body(request, _BODY_BYTES_MAX, within_s=within_s)

    async def _reject(
        self, body: bytes, context: RequestContext, reason: str, *, kind: str
    ) -> None:
        """Record that a request was rejected if its body has a genuine ticket; count it."""
        ticket = self._redemption.find_ticket(body.decode("latin-1"))
        await self._redemption.reject(ticket or "", context, reason, kind=kind)


def _ticket(body: Mapping[str, Any]) -> str:
    ticket = body.get("ticket")
    if not isinstance(ticket, str) or len(ticket) > _TICKET_CHARS_MAX:
        raise BadRequest(_TICKET_REQUIRED)
    return ticket


def _nothing(_: Mapping[str, Any]) -> None:
    """Accept any object as the body of a request that has no parameters."""


def _redemption(body: Mapping[str, Any]) -> tuple[str | None, SessionMode, bool]:
    """Return the ticket, None for the parked one; mode, and whether to take over."""
    mode, take_over = body.get("mode", "control"), body.get("take_over", False)
    if mode not in ("control", "view") or not isinstance(take_over, bool):
        raise BadRequest('`mode` must be "control" or "view", `take_over` true or false.')
    ticket = None if body.get("parked") is True else _ticket(body)
    return ticket, SessionMode(mode), take_over


def _origin_detail(request: ListenerRequest) -> str:
    """Return which page sent a request, for the audit record."""
    origins = ", ".join(request.headers.getall("Origin", ()))
    # Bytes that are no UTF-8 are surrogates in a header, and no part of JSON.
    shown = origins[:_ORIGIN_CHARS_MAX].encode("ascii", "backslashreplace").decode()
    return f"foreign origin: {shown}" if shown else "without Origin"


def _in_use(in_use: InUse) -> dict[str, Any]:
    return {
        "since": rfc3339(in_use.since),
        "by": None if in_use.by is None else person_fields(in_use.by),
        "may_take_over": in_use.may_take_over,
        "may_view": in_use.may_view,
        "own": in_use.is_own,
    }
