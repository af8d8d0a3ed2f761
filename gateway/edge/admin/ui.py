"""The admin listener for browsers: the admin API with a session, and the mounts of the pages.

    GET P/ui/session      the person, the permissions, and the token that writes need
    ... P/ui/admin/...    the admin API

P is the path of `admin.public_url`. The session's cookie opens the admin API here only: the paths
of programs take a token or a certificate, and no cookie.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.errors import GatewayError
from gateway.edge.admin.api import (
    BODY_TIMEOUT_S,
    PREFIX,
    REQUEST_ID,
    AdminApi,
    AdminCall,
    Route,
    read_parameters,
)
from gateway.edge.error_response import render_error
from gateway.edge.json_endpoint import add_headers, recheck_session
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.mount import Mount
from gateway.edge.people.browser_gate import BrowserGate
from gateway.edge.people.ui_mount import session_fields
from gateway.flow.admin.administration import AdminAction, Administrator
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext

log = logging.getLogger("gateway.admin")

_PATH: Final = "/ui"


class AdminUi:
    def __init__(
        self, api: AdminApi, gate: BrowserGate, mounts: Sequence[Mount], clock: Clock
    ) -> None:
        self._api = api
        self._gate = gate
        self._mounts = tuple(mounts)
        self._clock = clock
        self._base = gate.origin.prefix + _PATH

    def routes(self) -> Iterator[Route]:
        yield "GET", f"{self._base}/session", self._session
        for action in self._api.administration.actions:
            path = f"{self._base}{PREFIX}{action.spec.path}"
            yield action.spec.method, path, partial(self._perform, action)

    def mount_of(self, request: ListenerRequest) -> Mount | None:
        return next((one for one in self._mounts if one.owns(request.raw_path)), None)

    async def serve(
        self, mount: Mount, request: ListenerRequest, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        """Serve a path of a mount; `headers` are the common ones of the listener."""
        asset = mount.find_asset(request)
        if asset is not None:
            return asset.response(request, headers)
        endpoint = mount.find_endpoint(request)
        context = endpoint.context(request[REQUEST_ID], request.peer, self._deadline())
        assert endpoint.action.reply is not None
        status, error_fields = 500, {}
        try:
            reply = await endpoint.action.reply(request, context, endpoint.subject)
            status = reply.status
        except GatewayError as error:
            rendered = render_error(error)
            status = rendered.status
            error_fields = {"error_code": rendered.error_code, "error": str(error)}
            raise
        finally:
            person = context.principal
            log.info(
                "admin_request",
                extra={
                    "request_id": context.request_id,
                    "action": endpoint.action.name,
                    "issuer": "" if person is None else person.issuer,
                    "subject": "" if person is None else person.subject,
                    "client_address": context.client_address,
                    "status": status,
                    **error_fields,
                },
            )
        add_headers(headers, reply.headers)
        return web.Response(status=reply.status, body=reply.body or None, headers=headers)

    async def _session(self, request: ListenerRequest) -> web.Response:
        session = await self._gate.session(request, self._context(request))
        permissions = self._api.administration.permissions_of(session.person)
        fields = {**session_fields(session), "permissions": sorted(permissions)}
        return web.Response(body=msgspec.json.encode(fields), content_type="application/json")

    async def _perform(self, action: AdminAction, request: ListenerRequest) -> web.Response:
        call = AdminCall(action, request)
        read: Callable[[], Awaitable[bytes]] = partial(read_parameters, request)
        return await self._api.respond(call, partial(self._administrator, request), read)

    async def _administrator(self, request: ListenerRequest) -> Administrator:
        context = self._context(request)
        session = await self._gate.session(request, context)
        return Administrator(
            session.person,
            by_certificate=False,
            check=partial(self._gate.sessions.check, session),
            request_id=request[REQUEST_ID],
            client_address=request.peer,
            recheck=partial(recheck_session, context),
        )

    def _context(self, request: ListenerRequest) -> RequestContext:
        return RequestContext(
            request_id=request[REQUEST_ID], client_address=request.peer, deadline=self._deadline()
        )

    def _deadline(self) -> float:
        return self._clock.monotonic() + BODY_TIMEOUT_S
