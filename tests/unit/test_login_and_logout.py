"""A login without a record, and logouts that do not depend on others."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import (
    AuditLogUnavailable,
    LoginUnavailable,
)
from gateway.domain.login.model import BrowserSession, LoginAttempt
from gateway.domain.login.tokens import IdTokenFacts, LogoutFacts
from gateway.domain.model import Principal
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.login_store import SessionIndex
from gateway.flow.login.logins import AuthorizationAnswer, BrowserLogins, LoginTimes
from gateway.flow.login.openid_provider import ProviderTokens
from gateway.flow.request import RequestContext
from tests.support.clock import FakeClock, settle
from tests.support.login_sessions import browser_sessions

OLGA = Principal("corp", "olga", frozenset({"operators"}), 10.0, 20.0, None)
PREVIOUS = BrowserSession(
    secret_hash("cookie").hex(), OLGA, "sub", "sid", "csrf", 0.0, 0.0, "id", "token", "refresh", 1.0
)


class World:
    """A provider, a store with one session, and an audit log that is full."""

    name = "corp"
    rules = SimpleNamespace(client_id="gateway", token=SimpleNamespace(leeway_s=60.0))

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stored: BrowserSession | None = PREVIOUS
        self.failed: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.logged_out_by: list[str] = []
        self.revoked: list[str] = []
        self.used: list[str] = []

    @property
    def provider(self) -> "World":
        return self

    async def check_issuer(self, _: str | None) -> None:
        return

    async def redeem(self, *_: str) -> ProviderTokens:
        return ProviderTokens("access", "id", "refresh-2", 300.0)

    async def check(self, *_: object, **__: object) -> IdTokenFacts:
        return IdTokenFacts(OLGA, "sub", "sid", 0.0, 0.0)

    def refresh_at(self, _: ProviderTokens) -> float:
        return 0.0

    async def take_attempt(self, _: bytes) -> LoginAttempt:
        return LoginAttempt("corp", "nonce", "verifier", "/", PREVIOUS.id, needs_fresh=False)

    async def find_session(self, session_id: str, *, is_activity: bool) -> BrowserSession | None:
        assert is_activity
        return self.stored if session_id == PREVIOUS.id else None

    async def end_session(self, session_id: str) -> BrowserSession | None:
        assert session_id == PREVIOUS.id
        ended, self.stored = self.stored, None
        await self.answers.wait()
        return ended

    async def logged_out(self, session: BrowserSession, by: str) -> None:
        assert session is PREVIOUS
        self.logged_out_by.append(by)

    async def logout_url(self, _: str) -> None:
        return

    async def revoke(self, refresh_token: str) -> None:
        self.revoked.append(refresh_token)

    async def check_logout(self, *_: object) -> LogoutFacts:
        return LogoutFacts("jti", "sub", "sid")

    async def use(self, key: str, *, ttl_s: float) -> bool:
        assert ttl_s
        self.used.append(key)
        return self.used == [key]

    async def sessions(self, index: SessionIndex) -> tuple[BrowserSession, ...]:
        assert index == SessionIndex("corp", "sid", "sub")
        return (PREVIOUS,)

    def start(self, session: BrowserSession) -> None:
        self.revoked.append(session.refresh_token)

    def session_ended(self, by: str) -> None:
        del by

    async def logged_in(self, *_: object) -> None:
        raise AuditLogUnavailable("the disk is full", retry_after_s=1.0)

    def login_failed(self, _: str, problem: str, __: str) -> None:
        self.failed.append(problem)

    async def refreshed(self, *_: object) -> BrowserSession:
        raise LoginUnavailable("the provider is down", retry_after_s=1.0)

    def browser_sessions(self) -> BrowserSessions:
        return browser_sessions(self, clock=self.clock)

    def logins(self) -> BrowserLogins:
        anything: Any = self

        class Allowing:
            def check(self, _: Principal) -> None:
                return

        identify: Any = Allowing()
        return BrowserLogins(
            issuers={"corp": anything},
            times=LoginTimes(60.0, 600.0, None),
            store=anything,
            sessions=self.browser_sessions(),
            id_tokens=anything,
            identify=identify,
            replays=anything,
            audit=anything,
            telemetry=anything,
            new_token=lambda: "secret",
            new_attempt_id=lambda: "attempt",
            clock=self.clock,
        )


async def test_login_without_a_record_leaves_the_session_that_the_browser_had() -> None:
    """It would end without a record, and a logout could no longer end its live consoles."""
    world = World()
    context = RequestContext(request_id="r", client_address="192.0.2.1", deadline=9.0)
    answer = AuthorizationAnswer("attempt.state", "code")
    with pytest.raises(AuditLogUnavailable):
        await world.logins().complete("corp", answer, cookie="of the attempt", context=context)
    assert world.stored is PREVIOUS


async def test_logout_does_not_wait_for_the_refresh_of_tokens() -> None:
    """A person can leave a browser while the provider is down."""
    sessions = World().browser_sessions()
    with pytest.raises(LoginUnavailable):
        await sessions.find("cookie", is_activity=True, deadline=9.0)
    assert await sessions.find_to_end("cookie", is_activity=True) is PREVIOUS


@pytest.mark.parametrize("by", ["person", "provider"])
async def test_logout_is_complete_although_its_sender_leaves(by: str) -> None:
    """A person closes the tab at once; a provider waits for a second, and its token is used up."""
    world = World()
    world.answers.clear()
    logins = world.logins()
    sent = logins.log_out(PREVIOUS) if by == "person" else logins.log_out_by_provider("corp", "jwt")
    request = asyncio.create_task(sent)
    await settle()
    request.cancel()
    await asyncio.wait([request])
    assert (request.cancelled(), world.stored, world.logged_out_by) == (True, None, [])
    world.answers.set()
    await settle()
    assert (world.logged_out_by, world.revoked) == ([by], ["refresh"])
