"""The browser that presents a ticket: who is logged in in it, and its parked ticket."""

from gateway.domain.consoles.model import BrowserLogin
from gateway.domain.errors import LoginRequired, LoginUnavailable
from gateway.domain.model import Headers, Secret
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.browser_gate import BrowserGate
from gateway.flow.request import RequestContext


class TicketBrowser:
    def __init__(self, gate: BrowserGate, *, is_required: bool) -> None:
        """`is_required`: `console.browser_login` is `required`."""
        self._gate = gate
        self._is_required = is_required

    async def login(self, request: ListenerRequest, context: RequestContext) -> BrowserLogin | None:
        """Return the browser's login; None without one.

        The caller has checked the Origin. Without Redis no login is known; a ticket then opens as
        in a browser without a login. Raises PersonLocked, RevocationsUnavailable, and
        LoginUnavailable where a login is required.
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
        except LoginUnavailable:
            if self._is_required:
                raise
            return None
        return BrowserLogin(session.person, session.lineage, self._gate.is_fresh(session))

    def parked(self, request: ListenerRequest) -> str | None:
        """Return the secret of the browser's parked ticket."""
        return self._gate.cookies.parked(request)

    def set_parked(self, secret: Secret) -> Headers:
        return self._gate.cookies.set_parked(secret)

    def clear_parked(self) -> Headers:
        return self._gate.cookies.clear_parked()
