"""HTTP handler of the IAM operations that the vendor's SDK calls (upstream-api.md#4.2)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from gateway.domain.errors import (
    BadRequest,
    MethodNotAllowed,
    NotAuthenticated,
    OperationUnknown,
    Rejection,
)
from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Headers, Operation, Principal, ProjectId, ResolvedCall
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.flow.clock import Clock
from gateway.flow.context import RequestTrace
from gateway.flow.federation import DURATION_S_MAX, DURATION_S_MIN, Federation, FederationRequest

PREFIX = "/v3"
_BODY_BYTES_MAX = 65_536
_NO_PROJECT = ProjectId("")
_NO_PERMISSION = ""
_LOG_IN = Operation(
    "CreateTokenWithIdToken", "POST", "/v3.0/OS-AUTH/id-token/tokens", _NO_PERMISSION
)
_ISSUE_KEYS = Operation(
    "CreateTemporaryAccessKey", "POST", "/v3.0/OS-CREDENTIAL/securitytokens", _NO_PERMISSION
)
_LIST_PROJECTS = Operation("ListProjects", "GET", "/v3/projects", _NO_PERMISSION)


@dataclass(frozen=True, slots=True)
class FederationResponse:
    status: int
    body: bytes = field(repr=False)
    headers: Headers = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _FederationRoute:
    operation: Operation
    perform: Callable[[FederationRequest, bytes], Awaitable[FederationResponse]]


class FederationHandler:
    def __init__(self, federation: Federation, clock: Clock) -> None:
        self._federation = federation
        self._clock = clock
        routes = (
            _FederationRoute(_LOG_IN, self._subject_token),
            _FederationRoute(_ISSUE_KEYS, self._key_pair),
            _FederationRoute(_LIST_PROJECTS, self._projects),
        )
        self._routes: Mapping[str, _FederationRoute] = {
            route.operation.path: route for route in routes
        }

    def read(
        self,
        request: ListenerRequest,
        *,
        request_id: str,
        client_address: str,
        deadline: float,
        trace: RequestTrace | None,
    ) -> tuple[FederationRequest, _FederationRoute]:
        """Return the request and its route; `deadline` is monotonic.

        Raises OperationUnknown, MethodNotAllowed.
        """
        route = self._routes.get(request.raw_path.partition("?")[0])
        if route is None:
            raise OperationUnknown
        operation = route.operation
        if operation.method != request.method:
            raise MethodNotAllowed(allowed=(operation.method,))
        federation_request = FederationRequest(
            request_id=request_id,
            client_address=client_address,
            deadline=deadline,
            trace=trace,
            call=ResolvedCall(operation, _NO_PROJECT, ()),
            incoming=IncomingRequest(
                request.method, request.raw_path, tuple(request.headers.items())
            ),
        )
        return federation_request, route

    async def answer(
        self,
        http_request: ListenerRequest,
        request: FederationRequest,
        route: _FederationRoute,
    ) -> FederationResponse:
        within_s = request.deadline - self._clock.monotonic()
        body = await read_body(http_request, _BODY_BYTES_MAX, within_s=within_s)
        return await route.perform(request, body)

    async def _subject_token(self, request: FederationRequest, body: bytes) -> FederationResponse:
        data = _object(body)
        caller_jwt = _at(data, "auth", "id_token", "id")
        if not isinstance(caller_jwt, str):
            raise BadRequest('The body must be {"auth": {"id_token": {"id": "JWT"}}}.')
        issued = await self._federation.subject_token(request, caller_jwt)
        token = {
            "expires_at": _timestamp(issued.expires_at),
            "issued_at": _timestamp(issued.issued_at),
            "methods": ["mapped"],
            "user": _user(issued.principal),
        }
        return FederationResponse(
            201, orjson.dumps({"token": token}), (("X-Subject-Token", issued.text.reveal()),)
        )

    async def _key_pair(self, request: FederationRequest, body: bytes) -> FederationResponse:
        identity = _at(_object(body), "auth", "identity")
        if not isinstance(identity, dict) or identity.get("methods") != ["token"]:
            raise BadRequest(
                'The body must be {"auth": {"identity": {"methods": ["token"], "token": {"id":'
                ' "SUBJECT TOKEN", "duration_seconds": 3600}}}}.'
            )
        fields = identity.get("token", {})
        if not isinstance(fields, dict):
            raise BadRequest("auth.identity.token must be an object.")
        issued = await self._federation.key_pair(
            request, _subject_token(request.incoming, fields), _duration_s(fields)
        )
        credential = {
            "access": issued.pair.access,
            "secret": issued.pair.secret.reveal(),
            "securitytoken": issued.pair.security_token.reveal(),
            "expires_at": _timestamp(issued.expires_at),
        }
        return FederationResponse(201, orjson.dumps({"credential": credential}))

    async def _projects(self, request: FederationRequest, body: bytes) -> FederationResponse:
        if body:
            raise BadRequest("This operation requires an empty request body.")
        found = await self._federation.projects(request, _name(request.incoming.target))
        projects = [
            {"id": project.id, "name": project.name, "enabled": True, "is_domain": False}
            for project in found
        ]
        return FederationResponse(200, orjson.dumps({"projects": projects, "links": {}}))


def _object(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("The request body is not valid JSON.") from None


def _at(data: Any, *path: str) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _subject_token(incoming: IncomingRequest, fields: Mapping[str, Any]) -> str:
    in_header = incoming.header("x-auth-token") or ""
    in_body = fields.get("id", "")
    if not isinstance(in_body, str):
        raise BadRequest("auth.identity.token.id must be a string.")
    if in_body and in_header and in_body != in_header:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    found = in_body or in_header
    if not found:
        raise NotAuthenticated(Rejection.MISSING)
    return found


def _duration_s(fields: Mapping[str, Any]) -> int:
    found = fields.get("duration_seconds", DURATION_S_MIN)
    # bool is an int in Python.
    if type(found) is not int or not DURATION_S_MIN <= found <= DURATION_S_MAX:
        raise BadRequest(
            f"duration_seconds must be an integer from {DURATION_S_MIN} to {DURATION_S_MAX}."
        )
    return found


def _name(target: str) -> str | None:
    try:
        pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise BadRequest("The query has too many parameters.") from None
    names = [value for name, value in pairs if name == "name"]
    if len(names) > 1:
        raise BadRequest("The query parameter `name` must not be repeated.")
    return names[0] if names else None


def _timestamp(at: float) -> str:
    # The SDK rejects a timestamp without fractional seconds (upstream-api.md#4.2).
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _user(principal: Principal) -> dict[str, Any]:
    domain = {"id": principal.issuer, "name": principal.issuer}
    return {
        "id": principal.subject,
        "name": principal.subject,
        "domain": domain,
        "OS-FEDERATION": {
            "identity_provider": {"id": principal.issuer},
            "protocol": {"id": "oidc"},
            "groups": [],
        },
    }
