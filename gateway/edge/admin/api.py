"""The admin listener: metrics, health checks and the admin API. The public listener has none."""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import http, web
from aiohttp.typedefs import Handler

from gateway.domain.errors import (
    BadRequest,
    CrossSiteRequest,
    GatewayError,
    MethodNotAllowed,
    NotAuthenticated,
    OperationUnknown,
    Rejection,
    RequestTooLarge,
)
from gateway.domain.identity.credentials import find_jwt
from gateway.domain.model import Headers, Principal, Secret
from gateway.edge.admin.openapi import admin_openapi
from gateway.edge.client_certificate import ClientCertificate, client_certificate
from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.error_response import INTERNAL_ERROR_RESPONSE, render_error
from gateway.flow.admin.administration import AdminAction, Administration, Administrator
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify

log = logging.getLogger("gateway.admin")

Exposition = Callable[[str], tuple[bytes, str]]
Readiness = Callable[[], tuple[bool, Mapping[str, str]]]
CountRequest = Callable[[str, int], None]
"""Counts a request by action and status."""

IsCurrent = Callable[[ssl.SSLContext], bool]
"""Whether new connections use this context."""

PREFIX = "/admin"
BODY_BYTES_MAX = 65_536
BODY_TIMEOUT_S = 10.0
_REQUEST_ID = web.RequestKey("request_id", str)
_PATH_UNKNOWN = (
    "Unknown path. The admin listener has /metrics, /healthz and /readyz. If `admin.api` is"
    " configured, /admin/openapi.json lists the other paths."
)
_BY_CERTIFICATE = "certificate"
"""The issuer in audit records of administrators with a certificate."""


def admin_app(
    exposition: Exposition,
    readiness: Readiness,
    api: "AdminApi | None",
    is_current: IsCurrent,
) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        # In a thread, because rendering a thousand lines would delay the callers' requests.
        accept = request.headers.get("Accept", "")
        body, content_type = await asyncio.to_thread(exposition, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        is_ready, components = readiness()
        body = orjson.dumps({"ready": is_ready, "components": dict(components)})
        return web.Response(
            status=200 if is_ready else 503, body=body, content_type="application/json"
        )

    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_finish_response])
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    if api is not None:
        app.router.add_routes(api.routes(is_current))
    return app


@web.middleware
async def _finish_response(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Use the error schema for an unknown path or method, and add the common headers."""
    request[_REQUEST_ID] = secrets.token_hex(8)
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        response = _error_response(OperationUnknown(_PATH_UNKNOWN))
    except web.HTTPMethodNotAllowed as error:
        response = _error_response(MethodNotAllowed(allowed=tuple(sorted(error.allowed_methods))))
    response.headers["X-Request-Id"] = request[_REQUEST_ID]
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(COMMON_HEADERS)
    return response


def _error_response(error: GatewayError) -> web.StreamResponse:
    rendered = render_error(error)
    return web.Response(
        body=rendered.body,
        status=rendered.status,
        content_type="application/json",
        headers=rendered.headers,
    )


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
    def actions(self) -> list[str]:
        return [action.spec.name for action in self._administration.actions]

    def routes(self, is_current: IsCurrent) -> list[web.RouteDef]:
        def handler(action: AdminAction) -> Handler:
            return partial(self._handle, action, is_current)

        return [
            web.get(f"{PREFIX}/openapi.json", self._openapi),
            *(
                web.route(action.spec.method, PREFIX + action.spec.path, handler(action))
                for action in self._administration.actions
            ),
        ]

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _handle(
        self, action: AdminAction, is_current: IsCurrent, request: web.Request
    ) -> web.Response:
        call = _AdminCall(action, request, is_current, request[_REQUEST_ID], request.remote or "")
        headers: Headers = ()
        status, error_fields = 200, {}
        try:
            body = msgspec.json.encode(await self._perform(call))
        except GatewayError as error:
            rendered = render_error(error)
            body, status = rendered.body, rendered.status
            headers = rendered.headers
            error_fields = {"error_code": rendered.error_code, "error": str(error)}
        except Exception:
            log.exception("admin_request_failed", extra={"request_id": call.request_id})
            body, status = INTERNAL_ERROR_RESPONSE.body, INTERNAL_ERROR_RESPONSE.status
            if call.administrator is not None:
                with suppress(GatewayError):
                    await self._administration.record_failure(action, call.administrator)
        self._count_request(action.spec.name, status)
        log.info("admin_request", extra={**call.log_fields, "status": status, **error_fields})
        response = web.Response(
            body=body, status=status, content_type="application/json", headers=headers
        )
        if status == HTTPStatus.UNAUTHORIZED:
            response.force_close()  # a client can present a renewed certificate only on reconnect
        return response

    async def _perform(self, call: "_AdminCall") -> msgspec.Struct:
        try:
            call.administrator = await self._authenticate(call)
        except NotAuthenticated as error:
            await self._administration.record_unauthenticated(
                call.action, error, call.request_id, call.client_address
            )
            raise
        read = partial(_read_request, call.request)
        return await self._administration.perform(call.action, call.administrator, read)

    async def _authenticate(self, call: "_AdminCall") -> Administrator:
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
            check = partial(self._check_certificate, certificate, call.is_current)
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
class _AdminCall:
    """One request to the admin API; `administrator` is set once it is authenticated."""

    action: AdminAction
    request: web.Request
    is_current: IsCurrent
    request_id: str
    client_address: str
    administrator: Administrator | None = None

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


async def _read_request(request: web.Request) -> bytes:
    """Return the request's parameters as JSON: the body of a POST, otherwise the query."""
    _reject_cross_site(request)
    if request.method != "POST":
        return msgspec.json.encode(dict(request.query))
    if request.content_type != "application/json":
        raise BadRequest("The body must have Content-Type: application/json.")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise RequestTooLarge(f"The body exceeds {BODY_BYTES_MAX} bytes.") from None
    except (web.RequestPayloadError, http.HttpProcessingError, ConnectionError):
        raise BadRequest("The body is incomplete or malformed.") from None


def _reject_cross_site(request: web.Request) -> None:
    # A browser presents its user's certificate for the requests of any page.
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.host
    if is_foreign or site not in ("none", "same-origin"):
        raise CrossSiteRequest("by Sec-Fetch-Site or Origin")


def _certificate_principal(name: str) -> Principal:
    now = float("nan")  # TLS verifies the certificate's validity period
    return Principal(_BY_CERTIFICATE, name, frozenset(), now, now, None)
