"""The paths of live consoles: page, tickets, the WebSocket of a session, own sessions.

    GET    P/console                     the page
    POST   P/console/ticket              describes a ticket, spends nothing
    POST   P/console/redeem              spends a ticket for a session
    GET    P/console/s/SID/socket        the WebSocket of a session
    GET    P/console/sessions            the person's sessions
    DELETE P/console/sessions/SID        ends one
    POST   P/console/sessions/SID/renew  lets one follow a newer token of the person

The last three also exist without P, for callers of the API.

P is the path of `listen.public_url`.
"""

import re
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import InUse, PersonRef, SessionMode
from gateway.domain.consoles.page_messages import SUBPROTOCOL, person_fields
from gateway.domain.errors import (
    BadRequest,
    ConsoleBusy,
    ConsoleStoreUnavailable,
    CrossSiteRequest,
    NotPermitted,
    SessionCookieMissing,
    StoreUnavailable,
)
from gateway.domain.timestamps import rfc3339
from gateway.edge.consoles.browser_sockets import BrowserSockets
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
    find_endpoint,
    json_reply,
    read_json,
    require_own_origin,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.mount import require_read
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import ListedSession
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.consoles.redemption import Redemption
from gateway.flow.request import RequestContext

_SESSIONS_PATH: Final = f"{PAGE_PATH}/sessions"
_API_PATHS: Final = (_SESSIONS_PATH, f"{PAGE_PATH}/recordings")
_BODY_BYTES_MAX: Final = 4_096
_TICKET_CHARS_MAX: Final = 128
_SESSION_ID: Final = r"([0-9a-f]{32})"
_RETRY_AFTER_S: Final = 1.0
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
    ) -> None:
        """Take `recordings` as None without a directory for recordings."""
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
            (re.compile("/sessions"), {"GET": Action("ListConsoleSessions", self._list)}),
            (
                re.compile(f"/sessions/{_SESSION_ID}"),
                {"DELETE": Action("EndConsoleSession", self._end)},
            ),
            (
                re.compile(f"/sessions/{_SESSION_ID}/renew"),
                {"POST": Action("RenewConsoleSession", self._renew)},
            ),
            *(() if recordings is None else recordings.paths),
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
        path = request.raw_path.partition("?")[0]
        base = PAGE_PATH if path.startswith(_API_PATHS) else self._origin.prefix + PAGE_PATH
        return find_endpoint(self._paths, path.removeprefix(base), request.method)

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
        require_own_origin(self._origin, request)
        cookie = self._cookies.find(request, session_id)
        if cookie is None:
            raise SessionCookieMissing
        return await self._sockets.serve(
            request,
            context,
            SUBPROTOCOL,
            lambda channel: self._sessions.serve(
                session_id, cookie, channel, client_address=context.client_address
            ),
        )

    async def _describe(
        self, request: ListenerRequest, context: RequestContext, _: str
    ) -> JsonReply:
        body = await self._body(request, context)
        described = await self._redemption.describe(_ticket(body), context)
        target = described.target
        return json_reply(
            {
                "server": {"project_id": target.project, "id": target.server, "name": None},
                "person": person_fields(described.person),
                "mode": described.mode.value,
                "recorded": described.is_recorded,
                "expires_in": round(described.expires_in_s, 1),
                "in_use": None if described.in_use is None else _in_use(described.in_use),
            }
        )

    async def _redeem(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        body = await self._body(request, context)
        mode, take_over = body.get("mode", "control"), body.get("take_over", False)
        if mode not in ("control", "view") or not isinstance(take_over, bool):
            raise BadRequest('`mode` must be "control" or "view", `take_over` true or false.')
        try:
            new = await self._redemption.redeem(
                _ticket(body), context, mode=SessionMode(mode), take_over=take_over
            )
        except ConsoleBusy as busy:
            reply = render_error(busy)
            return json_reply(
                {**orjson.loads(reply.body), "in_use": _in_use(busy.in_use)}, status=reply.status
            )
        session_id = new.session.id
        return json_reply(
            {
                "session_id": session_id,
                "socket": f"{self._origin.prefix}{PAGE_PATH}/s/{session_id}/socket",
                "resume_key": new.resume_key.reveal(),
            },
            headers=self._cookies.set_headers(session_id, new.cookie),
        )

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._person(request, context)
        listed = await self._stored(self._sessions.listed(person=person))
        return json_reply({"sessions": [_session(one) for one in listed]})

    async def _end(
        self, request: ListenerRequest, context: RequestContext, session_id: str
    ) -> JsonReply:
        person = await self._person(request, context, session_id)
        listed = await self._stored(self._sessions.listed(person=person))
        session = next((one.session for one in listed if one.session.id == session_id), None)
        if session is None:
            raise NotPermitted("no session of this person")
        by = PersonRef.of(session.person)
        await self._stored(self._sessions.end(session_id, ends.PERSON, by=by))
        headers = self._cookies.clear_headers(session_id)
        return JsonReply(HTTPStatus.NO_CONTENT, b"", headers)

    async def _renew(
        self, request: ListenerRequest, context: RequestContext, session_id: str
    ) -> JsonReply:
        person = await self._identify_bearer(request, context)
        if not await self._stored(self._sessions.renew(session_id, person)):
            raise NotPermitted("no connected session of this person")
        return json_reply({"id": session_id})

    async def _person(
        self, request: ListenerRequest, context: RequestContext, session_id: str = ""
    ) -> str:
        """Return `Principal.key` of the caller, by JWT or by the cookie of a session."""
        headers = request.headers
        if "Authorization" in headers or "X-Auth-Token" in headers:
            return (await self._identify_bearer(request, context)).key
        if request.method not in ("GET", "HEAD"):
            require_own_origin(self._origin, request)
        self._limits.admit(f"console {context.client_address}")
        for one in [session_id] if session_id else self._cookies.session_ids(request):
            cookie = self._cookies.find(request, one)
            if cookie is None:
                continue
            session = await self._stored(self._sessions.find_by_cookie(one, cookie))
            if session is not None:
                context.principal = session.person
                return context.principal.key
        raise SessionCookieMissing

    async def _body(self, request: ListenerRequest, context: RequestContext) -> dict[str, Any]:
        """Return the JSON body of a POST by our own page.

        A form of another site can send neither this Content-Type nor this Origin.
        """
        self._limits.admit(f"console {context.client_address}")
        within_s = context.deadline - self._clock.monotonic()
        body = await read_json(request, bytes_max=_BODY_BYTES_MAX, within_s=within_s)
        try:
            require_own_origin(self._origin, request)
        except CrossSiteRequest:
            if isinstance(body.get("ticket"), str):
                await self._redemption.reject(
                    _ticket(body), context, "foreign origin", kind="origin"
                )
            raise
        return body

    async def _stored(self, reading: Awaitable[_T]) -> _T:
        try:
            return await reading
        except StoreUnavailable as error:
            raise ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None


def _ticket(body: Mapping[str, Any]) -> str:
    ticket = body.get("ticket")
    if not isinstance(ticket, str) or len(ticket) > _TICKET_CHARS_MAX:
        raise BadRequest(_TICKET_REQUIRED)
    return ticket


def _in_use(in_use: InUse) -> dict[str, Any]:
    return {
        "since": rfc3339(in_use.since),
        "by": None if in_use.by is None else person_fields(in_use.by),
        "may_take_over": in_use.may_take_over,
        "may_view": in_use.may_view,
        "own": in_use.is_own,
    }


def _session(listed: ListedSession) -> dict[str, Any]:
    session = listed.session
    return {
        "id": session.id,
        "project_id": session.target.project,
        "server_id": session.target.server,
        "mode": session.mode.value,
        "started_at": rfc3339(session.started_at),
        "connected": bool(listed.owner),
    }
