"""The paths of a person's own live consoles: list, end.

GET    sessions
DELETE sessions/SID
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import PersonRef, SessionMode
from gateway.domain.consoles.page_messages import Watcher, person_fields
from gateway.domain.errors import ConsoleStoreUnavailable, NotPermitted, StoreUnavailable
from gateway.domain.timestamps import rfc3339
from gateway.edge.consoles.session_cookie import SessionCookies
from gateway.edge.json_endpoint import Action, JsonReply, Paths, json_reply
from gateway.edge.listener.request import ListenerRequest
from gateway.flow.consoles.console_store import ListedSession
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.request import RequestContext

_SESSION_ID: Final = r"([0-9a-f]{32})"
_RETRY_AFTER_S: Final = 1.0

_T = TypeVar("_T")

IdentifyOwner = Callable[[ListenerRequest, RequestContext, str], Awaitable[str]]
"""Returns `Principal.key` of the caller; the last argument is the session in the path, or ""."""


class OwnSessionsHandler:
    def __init__(
        self, sessions: LiveSessions, cookies: SessionCookies, identify: IdentifyOwner
    ) -> None:
        self._sessions = sessions
        self._cookies = cookies
        self._identify = identify
        self.paths: Paths = (
            (re.compile("/sessions"), {"GET": Action("ListConsoleSessions", self._list)}),
            (
                re.compile(f"/sessions/{_SESSION_ID}"),
                {"DELETE": Action("EndConsoleSession", self._end)},
            ),
        )

    async def _list(self, request: ListenerRequest, context: RequestContext, _: str) -> JsonReply:
        person = await self._identify(request, context, "")
        listing = await self._sessions.listed(person=person)
        sessions = [_fields(one, await self._watchers(one)) for one in listing.sessions]
        return json_reply({"sessions": sessions, "complete": listing.is_complete})

    async def _end(
        self, request: ListenerRequest, context: RequestContext, session_id: str
    ) -> JsonReply:
        person = await self._identify(request, context, session_id)
        listing = await self._sessions.listed(person=person)
        sessions = (one.session for one in listing.sessions)
        session = next((one for one in sessions if one.id == session_id), None)
        if session is None and not listing.is_complete:
            raise ConsoleStoreUnavailable("Redis", retry_after_s=_RETRY_AFTER_S)
        if session is None:
            raise NotPermitted("no session of this person")
        by = PersonRef.of(session.person)
        await require_store(self._sessions.end(session_id, ends.PERSON, by=by))
        headers = self._cookies.clear_headers(session_id)
        return JsonReply(HTTPStatus.NO_CONTENT, b"", headers)

    async def _watchers(self, listed: ListedSession) -> tuple[Watcher, ...]:
        if listed.session.mode is not SessionMode.CONTROL:
            return ()
        return await self._sessions.watchers(listed.session.target)


async def require_store(reading: Awaitable[_T]) -> _T:
    """Return the result; raise ConsoleStoreUnavailable where the store is."""
    try:
        return await reading
    except StoreUnavailable as error:
        raise ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None


def _fields(listed: ListedSession, watchers: tuple[Watcher, ...]) -> dict[str, Any]:
    session = listed.session
    return {
        "id": session.id,
        "project_id": session.target.project,
        "server_id": session.target.server,
        "mode": session.mode.value,
        "started_at": rfc3339(session.started_at),
        "connected": bool(listed.owner),
        "watchers": [
            {**person_fields(one.person), "since": rfc3339(one.since)} for one in watchers
        ],
    }
