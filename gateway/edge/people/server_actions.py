"""What a person does to one server on the page, through the pipeline of the API.

    POST P/ui/servers/PROJECT/SERVER/console   requests the address of its console
    POST P/ui/servers/PROJECT/SERVER/power     switches its power

P is the path of `listen.public_url`. Each call becomes the API request that it stands for, so the
same permissions, limits and audit records apply. `login.fresh_s` applies to both.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.domain.errors import BadRequest
from gateway.domain.model import LinkSource
from gateway.edge.json_endpoint import (
    Action,
    IdentifyCaller,
    JsonReply,
    Paths,
    json_reply,
    read_json,
    recheck_session,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.clock import Clock
from gateway.flow.console_links import IssuedLink
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.pipeline import Gateway
from gateway.flow.request import ApiRequest, RequestContext

_SERVER: Final = r"([A-Za-z0-9_-]{1,128}/[A-Za-z0-9_-]{1,128})"
_BODY_BYTES_MAX: Final = 1_024
_JSON: Final = (("Content-Type", "application/json"),)
_POWER: Final[Mapping[str, str]] = {"on": "power on", "off": "power off", "reboot": "rebooting"}
"""The cloud's actions (ChangeServerPowerState)."""


class ServerActions:
    def __init__(self, gateway: Gateway, identify: IdentifyCaller, clock: Clock) -> None:
        self._gateway = gateway
        self._identify = identify
        self._clock = clock
        self.paths: Paths = (
            (
                re.compile(f"/{_SERVER}/console"),
                {
                    "POST": Action(
                        "ShowRemoteConsole", self._open, needs_fresh_login=True, gives_access=True
                    )
                },
            ),
            (
                re.compile(f"/{_SERVER}/power"),
                {"POST": Action("ChangeServerPowerState", self._switch, needs_fresh_login=True)},
            ),
        )

    async def _open(
        self, request: ListenerRequest, context: RequestContext, subject: str
    ) -> JsonReply:
        body = await self._body(request, context)
        fresh = body.get("fresh", False)
        if not isinstance(fresh, bool):
            raise BadRequest("`fresh` must be true or false.")
        project, _, server = subject.partition("/")
        target = f"/v1/{project}/physicalservers/{server}/remote-console-address"
        link = await self._handle(request, context, "GET", target, fresh=fresh)
        assert isinstance(link, IssuedLink)
        is_proxied = link.source is LinkSource.TICKET
        return json_reply(
            {
                "url": link.link.url.reveal(),
                "expires_in": int(link.left_s),
                "delivery": "proxied" if is_proxied else "direct",
            }
        )

    async def _switch(
        self, request: ListenerRequest, context: RequestContext, subject: str
    ) -> JsonReply:
        action = _POWER.get(str((await self._body(request, context)).get("action")))
        if action is None:
            raise BadRequest("`action` must be on, off or reboot.")
        project, _, server = subject.partition("/")
        target = f"/v1/{project}/physicalservers/power-state"
        body = orjson.dumps({"action": action, "server_id_set": [server]})
        response = await self._handle(request, context, "PUT", target, body=body)
        assert isinstance(response, ForwardedResponse)
        return JsonReply(response.status, response.body, _JSON)

    async def _body(self, request: ListenerRequest, context: RequestContext) -> dict[str, Any]:
        within_s = context.deadline - self._clock.monotonic()
        body = await read_json(request, bytes_max=_BODY_BYTES_MAX, within_s=within_s)
        await recheck_session(context)  # a body may take long
        return body

    async def _handle(
        self,
        request: ListenerRequest,
        context: RequestContext,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        fresh: bool = False,
    ) -> IssuedLink | ForwardedResponse:
        """Take the API request through its stages, for the person of the browser's session."""
        person = await self._identify(request, context)

        async def read_body(_: int) -> bytes:
            return body

        api_request = ApiRequest(
            request_id=context.request_id,
            client_address=context.client_address,
            deadline=context.deadline,
            is_admitted=context.is_admitted,
            authorization=(),
            x_auth_token=(),
            method=method,
            target=target,
            has_body=bool(body),
            read_body=read_body,
            fresh=fresh,
            headers=_JSON if body else (),
        )
        try:
            return await self._gateway.handle_identified(person, api_request)
        finally:
            context.call = api_request.call or context.call  # for the log line
