"""The admin API over HTTP. The public listener does not have it."""

import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web

from gateway.domain.admin_permissions import CERTIFICATE_ISSUER
from gateway.domain.errors import (
    BadRequest,
    CrossSiteRequest,
    DeadlineExceeded,
    GatewayError,
    LoginRequired,
    NotAuthenticated,
    Rejection,
)
from gateway.domain.identity.credentials import find_jwt
from gateway.domain.model import Headers, Principal, Secret
from gateway.edge.admin.openapi import admin_openapi
from gateway.edge.client_certificate import ClientCertificate, client_certificate
from gateway.edge.error_response import INTERNAL_ERROR_RESPONSE, render_error
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.flow.admin.administration import (
    AdminAction,
    Administration,
    Administrator,
)
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify

log = logging.getLogger("gateway.admin")

CountRequest = Callable[[str, str], None]
"""Counts a request by action and status, or LOGIN_REQUIRED."""
LOGIN_REQUIRED = "login_required"
"""Instead of 401: pages that are left open go on to poll after the end of their session."""

Route = tuple[str, str, Callable[[ListenerRequest], Awaitable[web.Response]]]
"""Method, path and handler."""

IsCurrent = Callable[[ssl.SSLContext], bool]
"""Whether new connections use this context."""

PREFIX = "/admin"
BODY_BYTES_MAX = 65_536
BODY_TIMEOUT_S = 10.0
REQUEST_ID = web.RequestKey("request_id", str)


class AdminApi:
    """HTTP handler of the admin API; flow/admin/administration.py performs the actions."""

    def __init__(
        self,
        administration: Administration,
        identify: Identify,
        clock: Clock,
        count_request: CountRequest,
    ) -> None:
        """`identify` accepts tokens with the audience of `admin.api`."""
        self._administration = administration
        self._identify = identify
        self._clock = clock
        self._count_request = count_request
        self._document = orjson.dumps(
            admin_openapi([action.spec for action in administration.actions], PREFIX)
        )

    @property
    def administration(self) -> Administration:
        return self._administration

    @property
    def actions(self) -> list[str]:
        return [action.spec.name for action in self._administration.actions]

    def routes(self, is_current: IsCurrent) -> Iterator[Route]:
        yield "GET", f"{PREFIX}/openapi.json", self._openapi
        for action in self._administration.actions:
            respond = partial(self._handle, action, is_current)
            yield action.spec.method, PREFIX + action.spec.path, respond

    async def _openapi(self, _: ListenerRequest) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _handle(
        self, action: AdminAction, is_current: IsCurrent, request: ListenerRequest
    ) -> web.Response:
        call = AdminCall(action, request)
        authenticate = partial(self._authenticate, call, is_current)
        response = await self.respond(call, authenticate, partial(_read_request, request))
        if response.status == HTTPStatus.UNAUTHORIZED:
            response.force_close()  # a client can present a renewed certificate only on reconnect
        return response

    async def respond(
        self,
        call: "AdminCall",
        authenticate: Callable[[], Awaitable[Administrator]],
        read: Callable[[], Awaitable[bytes]],
    ) -> web.Response:
        """Perform an action; `read` returns the request as JSON once its sender is authorized."""
        action, headers = call.action, cast("Headers", ())
        status, error_fields, is_logged_in = 200, {}, True
        try:
            body = msgspec.json.encode(await self._perform(call, authenticate, read))
        except GatewayError as error:
            rendered = render_error(error)
            body, status = rendered.body, rendered.status
            headers, is_logged_in = rendered.headers, not isinstance(error, LoginRequired)
            error_fields = {"error_code": rendered.error_code, "error": str(error)}
        except Exception:
            log.exception("admin_request_failed", extra={"request_id": call.request_id})
            body, status = INTERNAL_ERROR_RESPONSE.body, INTERNAL_ERROR_RESPONSE.status
            if call.administrator is not None:
                with suppress(GatewayError):
                    await self._administration.record_failure(action, call.administrator)
        self._count_request(action.spec.name, str(status) if is_logged_in else LOGIN_REQUIRED)
        log.info("admin_request", extra={**call.log_fields, "status": status, **error_fields})
        return web.Response(
            body=body, status=status, content_type="application/json", headers=headers
        )

    async def _perform(
        self,
        call: "AdminCall",
        authenticate: Callable[[], Awaitable[Administrator]],
        read: Callable[[], Awaitable[bytes]],
    ) -> msgspec.Struct:
        try:
            call.administrator = await authenticate()
        except (NotAuthenticated, CrossSiteRequest) as error:
            await self._administration.record_unauthenticated(
                call.action, error, call.request_id, call.client_address
            )
            raise
        return await self._administration.perform(call.action, call.administrator, read)

    async def _authenticate(self, call: "AdminCall", is_current: IsCurrent) -> Administrator:
        authorization = call.request.headers.getall("Authorization", ())
        x_auth_token = call.request.headers.getall("X-Auth-Token", ())
        has_token = bool(authorization or x_auth_token)
        certificate = None if has_token else client_certificate(call.request)
        check: Callable[[], None]
        if certificate is None:
            jwt = find_jwt(authorization, x_auth_token)
            if jwt is None:
                raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
            principal = await self._identify.identify(Secret(jwt))
            check = partial(self._identify.check, principal)
        else:
            principal = _certificate_principal(certificate.subject)
            check = partial(self._check_certificate, certificate, is_current)
        return Administrator(
            principal,
            by_certificate=certificate is not None,
            check=check,
            request_id=call.request_id,
            client_address=call.client_address,
        )

    def _check_certificate(self, certificate: ClientCertificate, is_current: IsCurrent) -> None:
        """Reject a certificate that a new connection could not use, on a keep-alive connection."""
        if self._clock.now() >= certificate.expires_at or not is_current(certificate.context):
            raise NotAuthenticated(Rejection.CERTIFICATE)


@dataclass(slots=True)
class AdminCall:
    """One request to the admin API; `administrator` is set once it is authenticated."""

    action: AdminAction
    request: ListenerRequest
    administrator: Administrator | None = None

    @property
    def request_id(self) -> str:
        return self.request[REQUEST_ID]

    @property
    def client_address(self) -> str:
        return self.request.peer

    @property
    def log_fields(self) -> dict[str, Any]:
        principal = None if self.administrator is None else self.administrator.principal
        return {
            "request_id": self.request_id,
            "action": self.action.spec.name,
            "issuer": "" if principal is None else principal.issuer,
            "subject": "" if principal is None else principal.subject,
            "client_address": self.client_address,
        }


async def _read_request(request: ListenerRequest) -> bytes:
    _reject_cross_site(request)
    return await read_parameters(request)


async def read_parameters(request: ListenerRequest) -> bytes:
    """Return the request's parameters as JSON: the body of a POST, otherwise the query."""
    if request.method != "POST":
        return msgspec.json.encode(dict(request.query))
    if request.content_type != "application/json":
        raise BadRequest("The body must have Content-Type: application/json.")
    try:
        return await read_body(request, BODY_BYTES_MAX, within_s=BODY_TIMEOUT_S)
    except DeadlineExceeded:
        raise BadRequest(f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None


def _reject_cross_site(request: ListenerRequest) -> None:
    # A browser presents its user's certificate for the requests of any page.
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.host
    if is_foreign or site not in ("none", "same-origin"):
        raise CrossSiteRequest("by Sec-Fetch-Site or Origin")


def _certificate_principal(name: str) -> Principal:
    now = float("nan")  # TLS verifies the certificate's validity period
    return Principal(CERTIFICATE_ISSUER, name, frozenset(), now, now, None)
