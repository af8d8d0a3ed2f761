"""The revocation of refresh tokens at the provider after the end of a session."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.domain.errors import LoginFailed, LoginUnavailable, StoreUnavailable
from gateway.domain.login import model
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.login_store import SessionIndex
from gateway.flow.login.token_revocations import TokenRevocations
from tests.support.clock import FakeClock, settle
from tests.support.login_sessions import browser_sessions

OLGA = Principal("corp", "olga", frozenset({"operators"}), 10.0, 20.0, None)
SESSION = BrowserSession("id", OLGA, "sub", "sid", "csrf", 0.0, 0.0, "id", "token", "refresh-1")


@dataclass
class World:
    """A provider, a store, the telemetry and the audit log."""

    problem: Exception | None = None
    siblings: tuple[BrowserSession, ...] = ()
    looked_for: list[SessionIndex] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    all_revoked: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    at_once: int = 0
    revoked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    name: str = "corp"

    def __post_init__(self) -> None:
        self.answers.set()

    @property
    def provider(self) -> "World":
        return self

    async def revoke(self, refresh_token: str) -> None:
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            await self.answers.wait()
        finally:
            self.running -= 1
        if isinstance(self.problem, LoginFailed | TimeoutError):
            raise self.problem
        self.revoked.append(refresh_token)
        if len(self.revoked) == 500:
            self.all_revoked.set()

    async def sessions(self, index: SessionIndex) -> tuple[BrowserSession, ...]:
        self.looked_for.append(index)
        if isinstance(self.problem, StoreUnavailable):
            raise self.problem
        return self.siblings

    async def end_session(self, session_id: str) -> BrowserSession | None:
        if session_id == "lost":
            raise StoreUnavailable("no connection")
        await asyncio.sleep(0)
        self.siblings = self.siblings[1:]
        return SESSION

    def provider_logout_failed(self, _: str, error: str) -> None:
        self.failures.append(error)

    def session_ended(self, by: str) -> None:
        self.ended.append(by)

    async def logged_out(self, session: BrowserSession, by: str) -> None:
        assert (session, by) == (SESSION, self.ended[-1])

    def revocations(self) -> TokenRevocations:
        anything: Any = self
        return TokenRevocations(anything, {"corp": anything}, anything, timeout_s=600.0)

    def browser_sessions(self) -> BrowserSessions:
        return browser_sessions(self, revocations=self.revocations(), clock=FakeClock())


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("by", ["operator", "provider", "replaced", "revoked"])
async def test_end_does_not_wait_for_the_revocation(world: World, by: str) -> None:
    world.answers.clear()
    assert await world.browser_sessions().end("id", by=by) == SESSION
    await settle()
    assert (world.ended, world.running, world.revoked) == ([by], 1, [])
    world.answers.set()
    await settle()
    assert world.revoked == ["refresh-1"]


async def test_tokens_of_sessions_that_end_together_are_all_revoked(world: World) -> None:
    """None of them passes for one that goes on; those that ended before a failure count."""
    world.siblings = (SESSION, SESSION)
    sessions = world.browser_sessions()
    with pytest.raises(LoginUnavailable):
        await sessions.end_each(["a", "b", "lost", "c"], by="operator")
    await settle()
    assert world.revoked == ["refresh-1"] * 2


@pytest.mark.parametrize("by", ["person", "refresh"])
async def test_token_is_not_revoked_twice(world: World, by: str) -> None:
    """A logout revokes it itself, and a provider that rejects it has ended it."""
    assert await world.browser_sessions().end("id", by=by) == SESSION
    await settle()
    assert (world.ended, world.revoked, world.looked_for) == ([by], [], [])


async def test_session_without_token_or_login_is_ignored(world: World) -> None:
    revocations = world.revocations()
    revocations.start(replace(SESSION, refresh_token=""))
    revocations.start(replace(SESSION, person=replace(OLGA, issuer="gone")))
    await settle()
    assert (world.revoked, world.looked_for, world.failures) == ([], [], [])


async def test_token_stays_while_another_session_needs_the_login(world: World) -> None:
    """Providers may end every token of their session with one of them."""
    world.siblings = (replace(SESSION, id="other"),)
    world.revocations().start(SESSION)
    await settle()
    assert world.looked_for == [SessionIndex("corp", "sid", "sub")]
    assert (world.revoked, world.failures) == ([], [])


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (LoginFailed(model.PROVIDER_UNAVAILABLE, "HTTP status 503"), "HTTP status 503"),
        (TimeoutError(), "no answer within 600 s"),
        (StoreUnavailable("no connection"), "no connection"),
    ],
)
async def test_failed_revocation_is_logged(world: World, problem: Exception, error: str) -> None:
    world.problem = problem
    world.revocations().start(SESSION)
    await settle()
    assert world.revoked == []
    assert len(world.failures) == 1
    assert error in world.failures[0]
    assert "refresh-1" not in world.failures[0]


async def test_revocations_are_bounded(world: World) -> None:
    """In calls at once, and in those that wait for a provider that does not answer."""
    world.answers.clear()
    revocations = world.revocations()
    for _ in range(503):
        revocations.start(SESSION)
    await settle()
    assert world.failures == ["too many revocations are waiting"] * 3
    world.answers.set()
    async with asyncio.timeout(60):
        await world.all_revoked.wait()
    assert world.at_once == 4
    assert len(world.failures) == 3


async def test_close_gives_up_those_that_wait(world: World) -> None:
    world.answers.clear()
    revocations = world.revocations()
    for _ in range(6):
        revocations.start(SESSION)
    await settle()
    await revocations.close()
    assert (world.running, world.revoked, world.failures) == (0, [], [])
    await revocations.close()
