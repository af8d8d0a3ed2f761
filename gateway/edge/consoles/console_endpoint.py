"""What the handlers of live consoles and of recordings have in common."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE, parse_json_object, require_json
from gateway.domain.errors import BadRequest, CrossSiteRequest, UnsupportedMediaType
from gateway.domain.model import Headers, Operation, Principal, ProjectId, ResolvedCall
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.identify import Identify
from gateway.flow.request import RequestContext

AcceptBrowser = Callable[
    [web.BaseRequest, str, Mapping[str, str]], Awaitable[tuple[web.StreamResponse, FrameChannel]]
]
"""Upgrades a request with a subprotocol and headers; returns the response and its channel."""


@dataclass(frozen=True, slots=True)
class ConsoleOrigin:
    """Where browsers reach the gateway: `listen.public_url`."""

    origin: str
    """Scheme, host and port, as browsers send it in `Origin`."""
    prefix: str
    """Path, without a final slash."""


@dataclass(frozen=True, slots=True)
class ConsoleReply:
    """A JSON response."""

    status: int
    body: bytes = field(repr=False)
    headers: Headers = field(default=(), repr=False)


def json_reply(
    value: Mapping[str, Any], *, status: int = 200, headers: Headers = ()
) -> ConsoleReply:
    return ConsoleReply(status, orjson.dumps(value), (("Content-Type", JSON_MEDIA_TYPE), *headers))


Reply = Callable[[ListenerRequest, RequestContext, str], Awaitable[ConsoleReply]]
Serve = Callable[
    [ListenerRequest, RequestContext, str, CIMultiDict[str]], Awaitable[web.StreamResponse]
]
"""Serves a WebSocket, or a stream with the given headers."""


@dataclass(frozen=True, slots=True)
class Action:
    """What one method of a path does: one of `reply` and `serve`."""

    name: str
    """Of the operation."""
    reply: Reply | None = None
    serve: Serve | None = None


Paths = tuple[tuple[re.Pattern[str], dict[str, Action]], ...]
"""Paths below `/console`, each with its methods."""


@dataclass(frozen=True, slots=True)
class ConsoleEndpoint:
    """One path and method."""

    operation: Operation
    action: Action
    subject: str
    """ID of the session or recording in the path; "" where it has none."""

    @property
    def is_socket(self) -> bool:
        return self.action.serve is not None and self.operation.method == "GET"

    def context(self, request_id: str, client_address: str, deadline: float) -> RequestContext:
        return RequestContext(
            request_id=request_id,
            client_address=client_address,
            deadline=deadline,
            call=ResolvedCall(self.operation, ProjectId(""), ()),
        )


class Bearer:
    """Identifies the caller by the JWT, and counts the request in the caller's limit."""

    def __init__(
        self, credentials: CallerCredentials, identify: Identify, limits: CallerLimits
    ) -> None:
        self._credentials = credentials
        self._identify = identify
        self._limits = limits

    async def __call__(self, request: ListenerRequest, context: RequestContext) -> Principal:
        headers = request.headers
        found = self._credentials.unsigned_jwt(
            headers.getall("Authorization", ()), headers.getall("X-Auth-Token", ()), ()
        )
        if found is None:
            raise BadRequest("Signed requests are not supported here; send the JWT.")
        context.principal = await self._identify.identify_by_deadline(found, context.deadline)
        self._limits.admit_once(context)
        return context.principal


def require_own_origin(origin: ConsoleOrigin, request: ListenerRequest) -> None:
    """Raise CrossSiteRequest unless a page of the gateway itself sent the request."""
    if request.headers.getall("Origin", ()) != [origin.origin]:
        raise CrossSiteRequest("the Origin is not `listen.public_url`")


async def read_json(request: ListenerRequest, *, bytes_max: int, within_s: float) -> dict[str, Any]:
    """Return the JSON object of a body, which must name its type."""
    content_types = request.headers.getall("Content-Type", ())
    if not content_types:
        raise UnsupportedMediaType
    require_json(content_types)
    return parse_json_object(await read_body(request, bytes_max, within_s=within_s))


class BrowserSockets:
    """Accepts the WebSockets of the gateway's own pages, and serves each to its end."""

    def __init__(self, accept: AcceptBrowser) -> None:
        self._accept = accept
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(
        self,
        request: ListenerRequest,
        context: RequestContext,
        subprotocol: str,
        work: Callable[[FrameChannel], Coroutine[Any, Any, None]],
    ) -> web.StreamResponse:
        """Run `work` with the page's channel; raise BadRequest before the upgrade."""
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if subprotocol not in (one.strip() for one in offered.split(",")):
            raise BadRequest(f"The WebSocket must offer the subprotocol {subprotocol}.")
        try:
            headers = {"X-Request-Id": context.request_id}
            response, channel = await self._accept(request, subprotocol, headers)
        except web.HTTPException:
            raise BadRequest("This path is a WebSocket; the upgrade is malformed.") from None
        serving = asyncio.create_task(work(channel))  # noqa: TID251 - it outlives its request
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        # A lost connection cancels the request's handler. The work ends by itself: it reads the
        # end of the channel, and a session still has to record why it ended.
        await asyncio.shield(serving)
        return response
