"""The refresh of a browser session's tokens."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.domain.errors import LoginFailed, LoginRequired, LoginUnavailable
from gateway.domain.login import model
from gateway.domain.login.model import BrowserSession
from gateway.domain.login.tokens import IdTokenFacts
from gateway.domain.model import Principal
from gateway.flow.login.id_tokens import IdTokens
from gateway.flow.login.openid_provider import ProviderTokens
from gateway.flow.login.session_refresh import SessionRefresh
from tests.support.clock import FakeClock

OLGA = Principal("corp", "olga", frozenset({"operators"}), 10.0, 20.0, None)

TOKENS = ProviderTokens("access", "id", "refresh-2", 300.0)


@dataclass
class World:
    """A provider, a store and the telemetry, each with one session at most."""

    clock: FakeClock = field(default_factory=FakeClock)
    session: BrowserSession | None = None
    tokens: ProviderTokens = TOKENS
    person: Principal = OLGA
    provider_subject: str = "sub"
    problem: LoginFailed | None = None
    refreshed_with: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    leased_until: float = 0.0

    def __post_init__(self) -> None:
        self.session = BrowserSession(
            "id", OLGA, "sub", "sid", "csrf", 0.0, 0.0, "id", "token", "refresh-1", self.due
        )

    @property
    def due(self) -> float:
        return FakeClock().now()

    @property
    def name(self) -> str:
        return "corp"

    @property
    def provider(self) -> "World":
        return self

    async def refresh(self, refresh_token: str) -> ProviderTokens:
        self.refreshed_with.append(refresh_token)
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        return self.tokens

    async def revoke(self, refresh_token: str) -> None:
        self.revoked.append(refresh_token)

    async def check(self, *_: Any, nonce: str | None, **__: Any) -> IdTokenFacts:
        assert nonce is None
        return IdTokenFacts(self.person, self.provider_subject, "sid", 0.0, 0.0)

    def refresh_at(self, tokens: ProviderTokens) -> float:
        return IdTokens.refresh_at(self, tokens)  # type: ignore[arg-type]

    @property
    def _clock(self) -> FakeClock:
        return self.clock

    async def lease_refresh(self, _: str, *, lease_s: float) -> bool:
        if self.clock.monotonic() < self.leased_until:
            return False
        self.leased_until = self.clock.monotonic() + lease_s
        return True

    async def find_session(self, _: str, *, is_activity: bool) -> BrowserSession | None:
        assert not is_activity
        return self.session

    async def replace_session(self, session: BrowserSession) -> bool:
        if self.session is None:
            return False
        self.session = session
        return True

    def refresh_failed(self, _: str, error: str) -> None:
        self.failures.append(error)

    async def current(self, *, within_s: float = 5.0) -> BrowserSession:
        assert self.session is not None
        anything: Any = self
        refresh = SessionRefresh(anything, {"corp": anything}, anything, anything, self.clock)
        return await refresh.refreshed(self.session, self.clock.monotonic() + within_s)


@pytest.fixture
def world() -> World:
    return World()


async def test_refresh_takes_groups_and_the_new_token(world: World) -> None:
    world.person = replace(OLGA, groups=frozenset({"viewers"}), issued_at=500.0, expires_at=900.0)
    session = await world.current()
    assert session.person.groups == {"viewers"}
    assert session.refresh_token == "refresh-2"
    assert session == world.session
    assert session.refresh_at == world.clock.now() + 270
    # The limits stay those of the login: revocations compare its time.
    assert (session.person.issued_at, session.person.expires_at) == (10.0, 20.0)


async def test_concurrent_requests_refresh_once(world: World) -> None:
    """The provider rotates refresh tokens: a second use would end the login."""
    found = await asyncio.gather(*(world.current() for _ in range(10)))
    assert world.refreshed_with == ["refresh-1"]
    assert {one.id for one in found} == {"id"}


async def test_provider_without_rotation_keeps_its_token(world: World) -> None:
    world.tokens = ProviderTokens("access", "", "", 300.0)
    session = await world.current()
    assert session.refresh_token == "refresh-1"
    assert session.person == OLGA


async def test_provider_that_refuses_ends_the_session(world: World) -> None:
    world.problem = LoginFailed(model.CODE_REJECTED, "invalid_grant")
    with pytest.raises(LoginFailed):
        await world.current()


@pytest.mark.parametrize("change", ["subject", "person"])
async def test_tokens_of_another_person_are_rejected(world: World, change: str) -> None:
    if change == "subject":
        world.provider_subject = "other"
    else:
        world.person = replace(OLGA, subject="victor")
    with pytest.raises(LoginFailed, match="another person"):
        await world.current()


async def test_session_goes_on_for_two_minutes_without_the_provider(world: World) -> None:
    world.problem = LoginFailed(model.PROVIDER_UNAVAILABLE, "no connection")
    before = world.session
    await world.clock.advance(119)
    assert await world.current() == before
    assert world.failures
    await world.clock.advance(2)
    late = asyncio.create_task(world.current(within_s=1.0))
    await world.clock.advance(1.5)
    with pytest.raises(LoginUnavailable):
        await late
    assert world.session == before  # it is not lost
    world.problem = None
    await world.clock.advance(10)
    assert (await world.current()).refresh_token == "refresh-2"


async def test_session_that_was_logged_out_meanwhile_stays_ended(world: World) -> None:
    async def end(_: BrowserSession) -> bool:
        world.session = None
        return False

    world.replace_session = end  # type: ignore[method-assign]
    with pytest.raises(LoginRequired):
        await world.current()
    assert world.revoked == ["refresh-2"], "the logout knew the one before only"
