"""The few paths of an IAM that the vendor's SDK needs, and their JSON (dossier 4.2)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from gateway.domain.errors import (
    BadRequest,
    MethodNotAllowed,
    NotAuthenticated,
    OperationUnknown,
    Rejection,
)
from gateway.domain.identity.sdk_signature import Presented
from gateway.domain.model import Headers, Operation, Principal, ProjectId, ResolvedCall
from gateway.edge.request_body import read_body
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
class Reply:
    status: int
    body: bytes = field(repr=False)
    headers: Headers = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Route:
    operation: Operation
    perform: Callable[[FederationRequest, bytes], Awaitable[Reply]]


class FederationHandler:
    def __init__(self, federation: Federation, clock: Clock) -> None:
        self._federation = federation
        self._clock = clock
        routes = (
            _Route(_LOG_IN, self._subject_token),
            _Route(_ISSUE_KEYS, self._key_pair),
            _Route(_LIST_PROJECTS, self._projects),
        )
        self._routes: Mapping[str, _Route] = {route.operation.path: route for route in routes}

    def read(
        self,
        request: web.BaseRequest,
        *,
        request_id: str,
        client_address: str,
        deadline: float,
        trace: RequestTrace | None,
    ) -> tuple[FederationRequest, _Route]:
        """Tell what is asked (`deadline` is monotonic); raise OperationUnknown or its like."""
        route = self._routes.get(request.raw_path.partition("?")[0])
        if route is None:
            raise OperationUnknown
        operation = route.operation
        if operation.method != request.method:
            raise MethodNotAllowed(allowed=(operation.method,))
        errand = FederationRequest(
            request_id=request_id,
            client_address=client_address,
            deadline=deadline,
            trace=trace,
            call=ResolvedCall(operation, _NO_PROJECT, ()),
            presented=Presented(request.method, request.raw_path, tuple(request.headers.items())),
        )
        return errand, route

    async def answer(
        self, request: web.BaseRequest, errand: FederationRequest, route: _Route
    ) -> Reply:
        within_s = errand.deadline - self._clock.monotonic()
        body = await read_body(request, _BODY_BYTES_MAX, within_s=within_s)
        return await route.perform(errand, body)

    async def _subject_token(self, errand: FederationRequest, body: bytes) -> Reply:
        data = _object(body)
        caller_jwt = _at(data, "auth", "id_token", "id")
        if not isinstance(caller_jwt, str):
            raise BadRequest('Send {"auth": {"id_token": {"id": "JWT"}}}.')
        made = await self._federation.subject_token(errand, caller_jwt)
        token = {
            "expires_at": _instant(made.expires_at),
            "issued_at": _instant(made.issued_at),
            "methods": ["mapped"],
            "user": _user(made.principal),
        }
        return Reply(
            201, orjson.dumps({"token": token}), (("X-Subject-Token", made.text.reveal()),)
        )

    async def _key_pair(self, errand: FederationRequest, body: bytes) -> Reply:
        identity = _at(_object(body), "auth", "identity")
        if not isinstance(identity, dict) or identity.get("methods") != ["token"]:
            raise BadRequest(
                'Send {"auth": {"identity": {"methods": ["token"], "token": {"id": "SUBJECT TOKEN",'
                ' "duration_seconds": 3600}}}}.'
            )
        asked = identity.get("token", {})
        if not isinstance(asked, dict):
            raise BadRequest("auth.identity.token is to be an object.")
        made = await self._federation.key_pair(
            errand, _subject_token(errand.presented, asked), _duration_s(asked)
        )
        credential = {
            "access": made.pair.access,
            "secret": made.pair.secret.reveal(),
            "securitytoken": made.pair.security_token.reveal(),
            "expires_at": _instant(made.expires_at),
        }
        return Reply(201, orjson.dumps({"credential": credential}))

    async def _projects(self, errand: FederationRequest, body: bytes) -> Reply:
        if body:
            raise BadRequest("This operation takes no request body; send none.")
        found = await self._federation.projects(errand, _name(errand.presented.target))
        projects = [
            {"id": project.id, "name": project.name, "enabled": True, "is_domain": False}
            for project in found
        ]
        return Reply(200, orjson.dumps({"projects": projects, "links": {}}))


def _object(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("The request's body is not JSON.") from None


def _at(data: Any, *path: str) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _subject_token(presented: Presented, asked: Mapping[str, Any]) -> str:
    in_header = presented.one_of("x-auth-token") or ""
    in_body = asked.get("id", "")
    if not isinstance(in_body, str):
        raise BadRequest("auth.identity.token.id is to be a text.")
    if in_body and in_header and in_body != in_header:
        raise NotAuthenticated(Rejection.AMBIGUOUS)
    found = in_body or in_header
    if not found:
        raise NotAuthenticated(Rejection.MISSING)
    return found


def _duration_s(asked: Mapping[str, Any]) -> int:
    found = asked.get("duration_seconds", DURATION_S_MIN)
    # bool is an int in Python.
    if type(found) is not int or not DURATION_S_MIN <= found <= DURATION_S_MAX:
        raise BadRequest(
            f"duration_seconds is to be a whole number from {DURATION_S_MIN} to {DURATION_S_MAX}."
        )
    return found


def _name(target: str) -> str | None:
    try:
        pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise BadRequest("The query has too many parts.") from None
    names = [value for name, value in pairs if name == "name"]
    if len(names) > 1:
        raise BadRequest("Ask for one name, not several.")
    return names[0] if names else None


def _instant(at: float) -> str:
    # The SDK takes no instant without a fraction (dossier 4.2).
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
