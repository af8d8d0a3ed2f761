"""The admin listener: metrics, health, and the admin API. It never stands beside the public one."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import orjson
from aiohttp import web

from gateway.edge.admin_openapi import admin_openapi
from gateway.edge.client_certificate import subject_of
from gateway.edge.wire import INTERNAL, ErrorAnswer, render
from gateway.errors import BadRequest, GatewayError, NotAuthenticated, Rejection
from gateway.flow.administration import Action, Administration, Administrator
from gateway.flow.identify import Identify
from gateway.model import Principal, Secret
from gateway.rules.credentials import caller_jwt

log = logging.getLogger("gateway.admin")

Exposition = Callable[[str], tuple[bytes, str]]
Readiness = Callable[[], tuple[bool, Mapping[str, str]]]
Counted = Callable[[str, int], None]
"""Action and status."""

PREFIX = "/admin"
_BODY_BYTES_MAX = 65_536
_BY_CERTIFICATE = "certificate"
"""In place of the issuer, on record."""


def admin_app(
    exposition: Exposition, readiness: Readiness, api: "AdminApi | None"
) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        # In a thread: a page of a thousand lines would hold up the callers' requests.
        accept = request.headers.get("Accept", "")
        body, content_type = await asyncio.to_thread(exposition, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(_: web.Request) -> web.Response:
        is_ready, parts = readiness()
        body = orjson.dumps({"ready": is_ready, "parts": dict(parts)})
        return web.Response(
            status=200 if is_ready else 503, body=body, content_type="application/json"
        )

    app = web.Application(client_max_size=_BODY_BYTES_MAX)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    if api is not None:
        app.router.add_routes(api.routes())
    return app


class AdminApi:
    """Who may, what is asked, and how it is answered; what is done is flow/administration.py's."""

    def __init__(self, administration: Administration, identify: Identify, done: Counted) -> None:
        """`identify` takes tokens that are meant for administrators."""
        self._administration = administration
        self._identify = identify
        self._done = done
        self._document = orjson.dumps(admin_openapi(administration.actions, PREFIX))

    @property
    def actions(self) -> list[str]:
        return [action.name for action in self._administration.actions]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{PREFIX}/openapi.json", self._openapi),
            *(
                web.route(action.method, PREFIX + action.path, partial(self._answer, action))
                for action in self._administration.actions
            ),
        ]

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _answer(self, action: Action, request: web.Request) -> web.Response:
        request_id = secrets.token_hex(8)
        headers = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
        try:
            answer = await self._perform(action, request, request_id)
            body, status = orjson.dumps(answer), 200
        except GatewayError as error:
            body, status = _refused(render(error), headers)
        except Exception:
            log.exception("admin_request_failed", extra={"request_id": request_id})
            body, status = _refused(INTERNAL, headers)
        self._done(action.name, status)
        return web.Response(
            body=body, status=status, content_type="application/json", headers=headers
        )

    async def _perform(
        self, action: Action, request: web.Request, request_id: str
    ) -> dict[str, Any]:
        authorization = request.headers.getall("Authorization", ())
        x_auth_token = request.headers.getall("X-Auth-Token", ())
        name = None if authorization or x_auth_token else subject_of(request)
        if name is None:
            principal = await self._identified(authorization, x_auth_token)
        else:
            principal = _certified(name)
        who = Administrator(
            principal,
            by_certificate=name is not None,
            request_id=request_id,
            client_address=request.remote or "",
        )
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=action.takes)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The body cannot be used: {error}.") from None
        answer = await self._administration.perform(action, asked, who)
        log.info(
            "admin_action",
            extra={"request_id": request_id, "action": action.name, "subject": principal.subject},
        )
        return answer

    async def _identified(
        self, authorization: Sequence[str], x_auth_token: Sequence[str]
    ) -> Principal:
        jwt = caller_jwt(authorization, x_auth_token)
        if jwt is None:
            raise NotAuthenticated(Rejection.UNSUPPORTED_SCHEME)
        return await self._identify.identify(Secret(jwt))


def _certified(name: str) -> Principal:
    now = float("nan")  # a certificate's time is TLS's affair
    return Principal(_BY_CERTIFICATE, name, frozenset(), now, now, None)


def _refused(refusal: ErrorAnswer, headers: dict[str, str]) -> tuple[bytes, int]:
    headers.update(refusal.headers)
    return refusal.body, refusal.status
