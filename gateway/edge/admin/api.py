"""The admin listener: metrics, health, and the admin API. It never stands beside the public one."""

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
from gateway.domain.identity.credentials import caller_jwt
from gateway.domain.model import Headers, Principal, Secret
from gateway.edge.admin.openapi import admin_openapi
from gateway.edge.client_certificate import ClientCertificate, shown_by
from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.error_response import INTERNAL_ERROR_RESPONSE, render_error
from gateway.flow.admin.administration import AdminAction, Administration, Administrator
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify

log = logging.getLogger("gateway.admin")

Exposition = Callable[[str], tuple[bytes, str]]
Readiness = Callable[[], tuple[bool, Mapping[str, str]]]
Counted = Callable[[str, int], None]
"""Action and status."""

InForce = Callable[[ssl.SSLContext], bool]
"""Whether connections are still made under this context."""

PREFIX = "/admin"
_BODY_BYTES_MAX = 65_536
_BODY_WITHIN_S = 10.0
_REQUEST_ID = web.RequestKey("request_id", str)
_PATH_UNKNOWN = (
    "There is no such path on the admin listener: it has /metrics, /healthz and /readyz, and where"
    " `admin.api` is in the config /admin/openapi.json, which lists the rest."
)
_BY_CERTIFICATE = "certificate"
"""In place of the issuer, on record."""


def admin_app(
    exposition: Exposition,
    readiness: Readiness,
    api: "AdminApi | None",
    in_force: InForce,
) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        # In a thread: a page of a thousand lines would hold up the callers' requests.
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

    app = web.Application(client_max_size=_BODY_BYTES_MAX, middlewares=[_in_our_words])
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    if api is not None:
        app.router.add_routes(api.routes(in_force))
    return app


@web.middleware
async def _in_our_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer as the error schema has it where there is no such path, or no such method.

    Every answer has what answers of the public listener have.
    """
    request[_REQUEST_ID] = secrets.token_hex(8)
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        response = _refused(OperationUnknown(_PATH_UNKNOWN))
    except web.HTTPMethodNotAllowed as error:
        response = _refused(MethodNotAllowed(allowed=tuple(sorted(error.allowed_methods))))
    response.headers["X-Request-Id"] = request[_REQUEST_ID]
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(COMMON_HEADERS)
    return response


def _refused(error: GatewayError) -> web.StreamResponse:
    refusal = render_error(error)
    return web.Response(
        body=refusal.body,
        status=refusal.status,
        content_type="application/json",
        headers=refusal.headers,
    )


class AdminApi:
    """Who asks, what, and how it is answered; what is done is flow/administration.py's."""

    def __init__(
        self,
        administration: Administration,
        identify: Identify,
        clock: Clock,
        done: Counted,
    ) -> None:
        """`identify` takes tokens that are meant for administrators."""
        self._administration = administration
        self._identify = identify
        self._clock = clock
        self._done = done
        self._document = orjson.dumps(admin_openapi(administration.actions, PREFIX))

    @property
    def actions(self) -> list[str]:
        return [action.name for action in self._administration.actions]

    def routes(self, in_force: InForce) -> list[web.RouteDef]:
        def answer(action: AdminAction) -> Handler:
            return partial(self._answer, action, in_force)

        return [
            web.get(f"{PREFIX}/openapi.json", self._openapi),
            *(
                web.route(action.method, PREFIX + action.path, answer(action))
                for action in self._administration.actions
            ),
        ]

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _answer(
        self, action: AdminAction, in_force: InForce, request: web.Request
    ) -> web.Response:
        asked = _AdminCall(action, request, in_force, request[_REQUEST_ID], request.remote or "")
        headers: Headers = ()
        status, told = 200, {}
        try:
            body = msgspec.json.encode(await self._perform(asked))
        except GatewayError as error:
            refusal = render_error(error)
            body, status = refusal.body, refusal.status
            headers = refusal.headers
            told = {"error_code": refusal.error_code, "error": str(error)}
        except Exception:
            log.exception("admin_request_failed", extra={"request_id": asked.request_id})
            body, status = INTERNAL_ERROR_RESPONSE.body, INTERNAL_ERROR_RESPONSE.status
            if asked.who is not None:
                with suppress(GatewayError):
                    await self._administration.record_failure(action, asked.who)
        self._done(action.name, status)
        log.info("admin_request", extra={**asked.facts, "status": status, **told})
        response = web.Response(
            body=body, status=status, content_type="application/json", headers=headers
        )
        if status == HTTPStatus.UNAUTHORIZED:
            response.force_close()  # a certificate is shown anew on a new connection only
        return response

    async def _perform(self, asked: "_AdminCall") -> msgspec.Struct:
        try:
            asked.who = await self._who(asked)
        except NotAuthenticated as refusal:
            await self._administration.record_unauthenticated(
                asked.action, refusal, asked.request_id, asked.client_address
            )
            raise
        read = partial(_body, asked.request)
        return await self._administration.perform(asked.action, asked.who, read)

    async def _who(self, asked: "_AdminCall") -> Administrator:
        authorization = asked.request.headers.getall("Authorization", ())
        x_auth_token = asked.request.headers.getall("X-Auth-Token", ())
        shown = None if authorization or x_auth_token else shown_by(asked.request)
        check: Callable[[], None]
        if shown is None:
            jwt = caller_jwt(authorization, x_auth_token)
            if jwt is None:
                raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
            principal = await self._identify.identify(Secret(jwt))
            check = partial(self._identify.check, principal)
        else:
            principal = _certified(shown.subject)
            check = partial(self._check_certificate, shown, asked.in_force)
        return Administrator(
            principal,
            by_certificate=shown is not None,
            check=check,
            request_id=asked.request_id,
            client_address=asked.client_address,
        )

    def _check_certificate(self, shown: ClientCertificate, in_force: InForce) -> None:
        """Refuse what a new connection would not be given, so that none lasts for being kept."""
        if self._clock.now() >= shown.ends_at or not in_force(shown.context):
            raise NotAuthenticated(Rejection.CERTIFICATE)


@dataclass(slots=True)
class _AdminCall:
    """One request to the admin API, and who it turns out to come from."""

    action: AdminAction
    request: web.Request
    in_force: InForce
    request_id: str
    client_address: str
    who: Administrator | None = None

    @property
    def facts(self) -> dict[str, Any]:
        principal = None if self.who is None else self.who.principal
        return {
            "request_id": self.request_id,
            "action": self.action.name,
            "issuer": "" if principal is None else principal.issuer,
            "subject": "" if principal is None else principal.subject,
            "client_address": self.client_address,
        }


async def _body(request: web.Request) -> bytes:
    """Return what is asked, in JSON; of what is only looked at, the query tells."""
    _raise_if_of_another_site(request)
    if request.method != "POST":
        return msgspec.json.encode(dict(request.query))
    if request.content_type != "application/json":
        raise BadRequest("The body must have Content-Type: application/json.")
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            return await request.read()
    except TimeoutError:
        raise BadRequest(f"The body did not come within {_BODY_WITHIN_S:.0f} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise RequestTooLarge(f"The body is over {_BODY_BYTES_MAX} bytes.") from None
    except (web.RequestPayloadError, http.HttpProcessingError, ConnectionError):
        raise BadRequest("The body did not come whole.") from None


def _raise_if_of_another_site(request: web.Request) -> None:
    # A browser shows its user's certificate for whatever page makes it ask.
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if foreign or site not in ("none", "same-origin"):
        raise CrossSiteRequest("a browser says that another site's page asks")


def _certified(name: str) -> Principal:
    now = float("nan")  # a certificate's time is TLS's affair
    return Principal(_BY_CERTIFICATE, name, frozenset(), now, now, None)
