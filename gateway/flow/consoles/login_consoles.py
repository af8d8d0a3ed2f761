"""The live consoles that were opened in the session of one browser."""

from contextlib import suppress

from gateway.domain.consoles import ends
from gateway.domain.errors import StoreUnavailable
from gateway.domain.login.model import BrowserSession
from gateway.flow.consoles.live_sessions import LiveSessions


class LoginConsoles:
    def __init__(self, sessions: LiveSessions) -> None:
        self._sessions = sessions

    async def end(self, login: BrowserSession) -> None:
        """End the consoles of a browser's session that has ended, on all replicas."""
        for connection in list(self._sessions.connections.values()):
            if connection.session.login == login.lineage:
                connection.end(ends.LOGGED_OUT)
        with suppress(StoreUnavailable):  # then those of other replicas go on
            listing = await self._sessions.listed(person=login.person.key)
            for one in listing.sessions:
                if one.session.login == login.lineage:
                    await self._sessions.end(one.session.id, ends.LOGGED_OUT)
