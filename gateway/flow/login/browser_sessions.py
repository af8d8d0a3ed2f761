"""Sessions of browsers: found by the cookie, checked at every use, refreshed, ended."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import (
    LoginFailed,
    LoginRequired,
    LoginUnavailable,
    NotAuthenticated,
    PersonLocked,
    StoreUnavailable,
)
from gateway.domain.login.model import BrowserSession
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.login_store import (
    PAGE_MAX,
    ListedLogin,
    LoginPage,
    LoginStore,
    SessionIndex,
)
from gateway.flow.login.login_telemetry import LoginTelemetry
from gateway.flow.login.session_refresh import SessionRefresh
from gateway.flow.login.token_revocations import TokenRevocations

_RETRY_AFTER_S: Final = 2.0
_LEAVE_TOKEN: Final = ("person", "refresh")
"""Ends after which the token is not revoked here: the logout does it, or the provider did."""

EndConsoles = Callable[[BrowserSession], Awaitable[None]]
"""Ends the live consoles that were opened in a session."""


class BrowserSessions:
    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        *,
        store: LoginStore,
        issuers: Collection[str],
        refresh: SessionRefresh,
        revocations: TokenRevocations,
        identify: Identify,
        audit: LoginAudit,
        telemetry: LoginTelemetry,
        clock: Clock,
    ) -> None:
        """`issuers`: names of those with a login."""
        self._store = store
        self.issuers = issuers
        self._refresh = refresh
        self._revocations = revocations
        self._identify = identify
        self._audit = audit
        self._telemetry = telemetry
        self._clock = clock
        self.end_consoles: EndConsoles | None = None
        """Set where live consoles run through the gateway."""

    async def find(
        self, cookie: str | None, *, is_activity: bool, deadline: float
    ) -> BrowserSession:
        """Return the session of a cookie; its person may use the gateway now.

        Raises LoginRequired, LoginUnavailable, PersonLocked, RevocationsUnavailable. `deadline`
        (monotonic seconds) limits the wait for a refresh.
        """
        session = await self.find_to_end(cookie, is_activity=is_activity)
        if session.refresh_at and self._clock.now() >= session.refresh_at:
            session = await self._refreshed(session, deadline)
        await self._check_person(session)
        return session

    async def find_to_end(self, cookie: str | None, *, is_activity: bool) -> BrowserSession:
        """Return the session of a cookie as it is, for a logout.

        It may be due for a refresh, and its person locked. Raises LoginRequired, LoginUnavailable.
        """
        if cookie is None:
            raise LoginRequired("no session cookie")
        session_id = secret_hash(cookie).hex()
        session = await self._find(session_id, is_activity=is_activity)
        if session is None or session.person.issuer not in self.issuers:
            raise LoginRequired("no such session, or it has ended")
        return session

    async def recheck(self, session: BrowserSession) -> None:
        """Check after a wait that a login has not ended, and that its person has no revocation.

        A new login of the same person in the same browser replaces the session, and goes on with
        it. Raises as `find` does.
        """
        if not await self.is_open(session.person.issuer, session.lineage):
            raise LoginRequired("the session has ended meanwhile")
        await self._check_person(session)

    async def is_open(self, issuer: str, lineage: str) -> bool:
        """Return whether a session of the lineage has not ended. Raises LoginUnavailable."""
        try:
            return bool(await self._store.sessions(SessionIndex(issuer, lineage=lineage)))
        except StoreUnavailable as error:
            raise _unavailable(error) from None

    def check(self, session: BrowserSession) -> None:
        """Raise NotAuthenticated if the person may not use the gateway any more."""
        self._identify.check(session.person)

    async def end(self, session_id: str, *, by: str) -> BrowserSession | None:
        """End a session and its live consoles; return it to exactly one caller.

        `by` is the metric label. Raises LoginUnavailable.
        """
        session = await self._end(session_id, by)
        if session is not None:
            self._revoke_token(session, by)
        return session

    async def end_each(self, ids: Iterable[str], *, by: str) -> list[BrowserSession]:
        """End sessions as `end` does; return those that had not ended. Raises LoginUnavailable."""
        ended = list[BrowserSession]()
        try:
            for one in ids:
                session = await self._end(one, by)
                if session is not None:
                    ended.append(session)
        finally:
            # After all ends: a token stays while another session needs it.
            for session in ended:
                self._revoke_token(session, by)
        return ended

    async def ended(self, session: BrowserSession, *, by: str) -> None:
        """Complete the end of a session that the store has ended."""
        await self._record_end(session, by)
        self._revoke_token(session, by)

    async def end_all(self, index: SessionIndex, *, by: str) -> int:
        """End the sessions of an index; return their number. Raises LoginUnavailable."""
        try:
            sessions = await self._store.sessions(index)
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        return len(await self.end_each([one.id for one in sessions], by=by))

    async def page(self, *, before: str) -> LoginPage:
        """Return a page of all sessions: see `LoginStore.page`. Raises LoginUnavailable."""
        return await self._page(None, before)

    async def of_person(self, subject: str, issuer: str | None) -> list[ListedLogin]:
        """Return the sessions of a person, the newest first; of each issuer where it is None.

        The store limits the sessions of a subject at the provider, several of which may be one
        person to the policy: there may be several pages. Raises LoginUnavailable.
        """
        found = list[ListedLogin]()
        for one in sorted(self.issuers) if issuer is None else [issuer]:
            index = SessionIndex(one, subject=subject)
            page = await self._page(index, "")
            found += page.logins
            while page.next:
                page = await self._page(index, page.next)
                found += page.logins
        return sorted(found, key=lambda one: one.session.started_at, reverse=True)

    async def _page(self, index: SessionIndex | None, before: str) -> LoginPage:
        try:
            return await self._store.page(index, before=before, limit=PAGE_MAX)
        except StoreUnavailable as error:
            raise _unavailable(error) from None

    async def _check_person(self, session: BrowserSession) -> None:
        try:
            self._identify.check(session.person)
        except PersonLocked:
            raise  # a lock may be lifted: the session stays
        except NotAuthenticated as refusal:
            await self.end(session.id, by=refusal.reason.value)
            raise LoginRequired(str(refusal)) from None

    async def _end(self, session_id: str, by: str) -> BrowserSession | None:
        try:
            session = await self._store.end_session(session_id)
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        if session is not None:
            await self._record_end(session, by)
        return session

    async def _record_end(self, session: BrowserSession, by: str) -> None:
        self._telemetry.session_ended(by)
        if self.end_consoles is not None:
            await self.end_consoles(session)
        await self._audit.logged_out(session, by)

    def _revoke_token(self, session: BrowserSession, by: str) -> None:
        if by not in _LEAVE_TOKEN:
            self._revocations.start(session)

    async def _find(self, session_id: str, *, is_activity: bool) -> BrowserSession | None:
        try:
            return await self._store.find_session(session_id, is_activity=is_activity)
        except StoreUnavailable as error:
            raise _unavailable(error) from None

    async def _refreshed(self, session: BrowserSession, deadline: float) -> BrowserSession:
        try:
            return await self._refresh.refreshed(session, deadline)
        except LoginFailed as rejected:
            await self.end(session.id, by="refresh")
            raise LoginRequired(str(rejected)) from None
        except StoreUnavailable as error:
            raise _unavailable(error) from None


def _unavailable(error: StoreUnavailable) -> LoginUnavailable:
    return LoginUnavailable(str(error), retry_after_s=_RETRY_AFTER_S)
