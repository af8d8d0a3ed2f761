"""What the gateway's own paths have in common: endpoints with JSON bodies, and their callers.

A subject (live consoles, recordings, logins and so on) has one handler with `paths`. A `Mount`
serves them below a base path.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE, parse_json_object, require_json
from gateway.domain.errors import (
    BadRequest,
    CrossSiteRequest,
    FreshLoginRequired,
    MethodNotAllowed,
    OperationUnknown,
    UnsupportedMediaType,
)
from gateway.domain.model import Headers, Operation, Principal, ProjectId, ResolvedCall
from gateway.edge.etag import etag_of, matches_etag
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.identify import Identify
from gateway.flow.request import RequestContext


@dataclass(frozen=True, slots=True)
class PublicOrigin:
    """Where browsers reach the gateway: `listen.public_url`."""

    origin: str
    """Scheme, host and port, as browsers send it in `Origin`."""
    prefix: str
    """Path, without a final slash."""


@dataclass(frozen=True, slots=True)
class JsonReply:
    """A JSON response."""

    status: int
    body: bytes = field(repr=False)
    headers: Headers = field(default=(), repr=False)


def json_reply(value: Mapping[str, Any], *, status: int = 200, headers: Headers = ()) -> JsonReply:
    return JsonReply(status, orjson.dumps(value), (("Content-Type", JSON_MEDIA_TYPE), *headers))


def conditional_reply(request: ListenerRequest, value: Mapping[str, Any]) -> JsonReply:
    """Return a JSON response with a validator; 304 if the caller has it already."""
    body = orjson.dumps(value)
    etag = etag_of(body)
    headers = (
        ("Cache-Control", "private, no-cache"),
        ("Vary", "Authorization, X-Auth-Token, Cookie"),
        ("ETag", f'"{etag}"'),
    )
    conditions = request.headers.getall("If-None-Match", ())
    if conditions and matches_etag(etag, ",".join(conditions)):
        return JsonReply(HTTPStatus.NOT_MODIFIED, b"", headers)
    return JsonReply(HTTPStatus.OK, body, (("Content-Type", JSON_MEDIA_TYPE), *headers))


Reply = Callable[[ListenerRequest, RequestContext, str], Awaitable[JsonReply]]
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
    needs_fresh_login: bool = False
    """With a browser's session, `login.fresh_s` applies."""
    gives_access: bool = False
    """The reply opens something, so the browser's session is checked again before it is sent."""


Paths = tuple[tuple[re.Pattern[str], dict[str, Action]], ...]
"""Paths below a base path, each with its methods."""


@dataclass(frozen=True, slots=True)
class JsonEndpoint:
    """One path and method."""

    operation: Operation
    action: Action
    subject: str
    """The ID in the path; "" where it has none."""

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


IdentifyCaller = Callable[[ListenerRequest, RequestContext], Awaitable[Principal]]
"""Sets and returns the caller of a request, and counts it in the caller's limit."""


class Bearer:
    """Identifies the caller by the JWT (an `IdentifyCaller`)."""

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


def find_endpoint(paths: Paths, path: str, method: str) -> JsonEndpoint:
    """Return the endpoint of a path below the base; raise OperationUnknown, MethodNotAllowed."""
    for pattern, methods in paths:
        found = pattern.fullmatch(path)
        if found is not None:
            if method not in methods:
                raise MethodNotAllowed(allowed=tuple(methods))
            action = methods[method]
            operation = Operation(action.name, method, path, "")
            return JsonEndpoint(operation, action, found[1] if found.groups() else "")
    raise OperationUnknown


def require_own_origin(origin: PublicOrigin, request: ListenerRequest) -> None:
    """Raise CrossSiteRequest unless a page of the gateway itself sent the request."""
    if request.headers.getall("Origin", ()) != [origin.origin]:
        raise CrossSiteRequest("the Origin is not `listen.public_url`")


def require_fresh_login(context: RequestContext) -> None:
    """Raise FreshLoginRequired if a browser's login is older than `login.fresh_s`."""
    if not context.has_fresh_login:
        raise FreshLoginRequired("login.fresh_s")


async def recheck_session(context: RequestContext) -> None:
    """Raise LoginRequired or LoginUnavailable if the browser's session may have ended."""
    if context.recheck_session is not None:
        await context.recheck_session()


def address_key(context: RequestContext) -> str:
    """Return the key of the client's address in the limits of callers."""
    return f"console {context.client_address}"


def require_json_type(request: ListenerRequest) -> None:
    """Raise UnsupportedMediaType unless the body is declared as JSON: a form cannot do that."""
    content_types = request.headers.getall("Content-Type", ())
    if not content_types:
        raise UnsupportedMediaType
    require_json(content_types)


async def read_json(request: ListenerRequest, *, bytes_max: int, within_s: float) -> dict[str, Any]:
    """Return the JSON object of a body, which must name its type."""
    require_json_type(request)
    return parse_json_object(await read_body(request, bytes_max, within_s=within_s))


def add_headers(common: CIMultiDict[str], own: Sequence[tuple[str, str]]) -> CIMultiDict[str]:
    """Return the common headers with a reply's own; `Set-Cookie` may occur twice."""
    for name, value in own:
        if name == "Set-Cookie":
            common.add(name, value)
        else:
            common[name] = value
    return common
