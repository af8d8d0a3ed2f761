"""The actions of the admin API on logins of browsers."""

from collections.abc import Mapping
from functools import partial

from gateway.domain.errors import BadRequest
from gateway.domain.login.model import BrowserSession
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.login_messages import (
    EndedLoginEntry,
    EndedLoginsResponse,
    EndLoginsRequest,
    LoginEntry,
    LoginsRequest,
    LoginsResponse,
)
from gateway.flow.admin.messages import timestamp
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.login_store import ListedLogin


class LoginActions:
    def __init__(self, sessions: Mapping[str, BrowserSessions]) -> None:
        """`sessions`: by listener, of those with a login."""
        self._sessions = sessions

    def list(self, request: LoginsRequest, _: Administrator) -> ActionPlan:
        """Plan ListLogins."""
        sessions = self._sessions_of(request)
        return ActionPlan(
            partial(self._list, sessions, request), target=_target(request.issuer, request.subject)
        )

    def end(self, request: EndLoginsRequest, _: Administrator) -> ActionPlan:
        """Plan EndLogins."""
        sessions = self._sessions_of(request)
        return ActionPlan(
            partial(self._end, sessions, request), target=_target(request.issuer, request.subject)
        )

    def _sessions_of(self, request: LoginsRequest | EndLoginsRequest) -> BrowserSessions:
        sessions = self._sessions.get(request.listener)
        if sessions is None:
            key = "issuers[].login" if request.listener == "public" else "admin.login"
            raise BadRequest(f"This listener has no login: the config has no `{key}`.")
        if request.issuer is not None and request.issuer not in sessions.issuers:
            raise BadRequest(f"issuer must be one of: {', '.join(sorted(sessions.issuers))}.")
        return sessions

    async def _list(self, sessions: BrowserSessions, request: LoginsRequest) -> LoginsResponse:
        if request.subject is None:
            page = await sessions.page(before=request.before)
            return LoginsResponse([_entry(one) for one in page.logins], page.next)
        found = await sessions.of_person(request.subject, request.issuer)
        return LoginsResponse([_entry(one) for one in found], "")

    async def _end(
        self, sessions: BrowserSessions, request: EndLoginsRequest
    ) -> EndedLoginsResponse:
        if request.subject is not None:
            found = await sessions.of_person(request.subject, request.issuer)
            ids = [one.session.id for one in found]
        else:
            ids = [request.id or ""]
        ended = await sessions.end_each(ids, by="operator")
        if request.id is not None and not ended:
            raise BadRequest("No login has this ID. List them for their IDs.")
        return EndedLoginsResponse([_ended(one) for one in ended])


def _entry(listed: ListedLogin) -> LoginEntry:
    session = listed.session
    authenticated_at = session.authenticated_at
    return LoginEntry(
        session.id,
        session.person.issuer,
        session.person.subject,
        session.client_address,
        timestamp(session.started_at),
        timestamp(authenticated_at) if authenticated_at else None,
        timestamp(listed.used_at),
        timestamp(min(listed.idle_ends_at, session.person.expires_at)),
        timestamp(session.person.expires_at),
    )


def _ended(session: BrowserSession) -> EndedLoginEntry:
    person = session.person
    return EndedLoginEntry(session.id, person.issuer, person.subject, session.client_address)


def _target(issuer: str | None, subject: str | None) -> str:
    return f"{issuer or ''}:{subject}" if subject else ""
