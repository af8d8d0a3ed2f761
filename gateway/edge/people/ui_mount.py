"""`/ui/`: the paths of subjects for our own pages, with the session's cookie in place of a JWT.

    GET P/ui/session   who is logged in, and the token that writes need

P is the path of `listen.public_url`. Every path below `/ui/` passes the gate before its handler. A
session that ends while the handler waits, as for a link in the queue, gets no reply but 401.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.consoles.model import PersonRef
from gateway.domain.consoles.page_messages import person_fields
from gateway.domain.errors import OperationUnknown
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import SAFE_METHODS
from gateway.domain.timestamps import rfc3339
from gateway.edge.consoles.page_assets import PageAsset
from gateway.edge.json_endpoint import (
    Action,
    JsonEndpoint,
    JsonReply,
    Paths,
    Reply,
    Serve,
    find_endpoint,
    json_reply,
    recheck_session,
    require_fresh_login,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.browser_gate import BrowserGate
from gateway.flow.request import RequestContext

_PATH: Final = "/ui"
_RECHECK_AFTER_S: Final = 0.5
"""A read that took less is sent without another look at the session: pages poll."""


class UiMount:
    """Implements `Mount`."""

    def __init__(self, gate: BrowserGate, subjects: Sequence[tuple[str, Paths]] = ()) -> None:
        """`subjects`: base path below `/ui`, and paths whose handler uses `identify_by_session`."""
        self._gate = gate
        self._base = gate.origin.prefix + _PATH
        own: Paths = ((re.compile("/session"), {"GET": Action("ShowSession", self._show)}),)
        self._subjects = (("", own), *subjects)

    def owns(self, path: str) -> bool:
        return path.startswith(f"{self._base}/")

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        del request
        return None

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        path = request.raw_path.partition("?")[0].removeprefix(self._base)
        for base, paths in self._subjects:
            below = path.removeprefix(base)
            if path.startswith(base) and any(one.fullmatch(below) for one, _ in paths):
                found = find_endpoint(paths, below, request.method)
                return replace(found, action=self._guarded(found.action))
        raise OperationUnknown

    def _guarded(self, action: Action) -> Action:
        reply, serve = action.reply, action.serve
        return replace(
            action,
            reply=None if reply is None else partial(self._reply, action, reply),
            serve=None if serve is None else partial(self._serve, action, serve),
        )

    async def _reply(
        self,
        action: Action,
        reply: Reply,
        request: ListenerRequest,
        context: RequestContext,
        subject: str,
    ) -> JsonReply:
        await self._check(action, request, context)
        checked_at = self._gate.clock.monotonic()
        answer = await reply(request, context, subject)
        is_quick = self._gate.clock.monotonic() - checked_at < _RECHECK_AFTER_S
        # Another write was done: its reply says so, and gives nothing.
        if action.gives_access or (request.method in SAFE_METHODS and not is_quick):
            await recheck_session(context)
        return answer

    async def _serve(
        self,
        action: Action,
        serve: Serve,
        request: ListenerRequest,
        context: RequestContext,
        subject: str,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        await self._check(action, request, context)
        return await serve(request, context, subject, headers)

    async def _check(
        self, action: Action, request: ListenerRequest, context: RequestContext
    ) -> None:
        await self._gate.session(request, context)
        if action.needs_fresh_login:
            require_fresh_login(context)

    async def _show(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        session = await self._gate.session(request, context)
        return json_reply({**session_fields(session), "is_fresh": self._gate.is_fresh(session)})


def session_fields(session: BrowserSession) -> dict[str, Any]:
    """Return what a page may know of its session."""
    return {
        "person": person_fields(PersonRef.of(session.person)),
        "csrf_token": session.csrf_token,
        "started_at": rfc3339(session.started_at),
        "ends_at": rfc3339(session.person.expires_at),
    }
