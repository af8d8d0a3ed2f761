"""The browser that presents a ticket: its login, and its parked ticket."""

from functools import partial

from gateway.domain.consoles.model import BrowserLogin
from gateway.domain.errors import LoginRequired
from gateway.domain.model import Headers, Secret
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.browser_gate import BrowserGate
from gateway.flow.request import RequestContext


class TicketBrowser:
    def __init__(self, gate: BrowserGate) -> None:
        self._gate = gate

    async def login(self, request: ListenerRequest, context: RequestContext) -> BrowserLogin | None:
        """Return the browser's login, and let the context check it again; None without one.

        The caller has checked the Origin. Raises PersonLocked, RevocationsUnavailable, and
        LoginUnavailable: the login of a browser with a cookie may be another person's.
        """
        cookie = self._gate.cookies.session(request)
        if cookie is None:
            return None
        try:
            session = await self._gate.sessions.find(
                cookie, is_activity=True, deadline=context.deadline
            )
        except LoginRequired:
            return None
        context.recheck_session = partial(self._gate.sessions.recheck, session)
        return BrowserLogin(session.person, session.lineage, self._gate.is_fresh(session))

    def parked(self, request: ListenerRequest) -> str | None:
        """Return the secret of the browser's parked ticket."""
        return self._gate.cookies.parked(request)

    def set_parked(self, secret: Secret) -> Headers:
        return self._gate.cookies.set_parked(secret)

    def clear_parked(self) -> Headers:
        return self._gate.cookies.clear_parked()
