"""What the handlers of live consoles and of recordings have in common."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from gateway.domain.errors import BadRequest, CrossSiteRequest
from gateway.domain.model import Headers, Operation, Principal, ProjectId, ResolvedCall
from gateway.edge.listener.request import ListenerRequest
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


Perform = Callable[[ListenerRequest, RequestContext, str], Awaitable[ConsoleReply]]
Paths = tuple[tuple[re.Pattern[str], dict[str, tuple[str, Perform | None]]], ...]
"""Path below `/console`; by method, the operation's name and the method that performs it."""


@dataclass(frozen=True, slots=True)
class ConsoleEndpoint:
    """One path and method; `session_id` is "" where the path has none."""

    operation: Operation
    perform: Perform | None
    """None: `ConsoleHandler.serve` serves it, a WebSocket or a stream."""
    session_id: str = ""

    @property
    def is_socket(self) -> bool:
        return self.perform is None and self.operation.method == "GET"

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
