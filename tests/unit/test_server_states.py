"""The state of a person's servers: how old each list is, and who is on a console."""

import asyncio

import pytest

from gateway.domain.model import Principal
from gateway.flow.inventories import ListingProblem
from tests.support.clock import FakeClock
from tests.support.server_world import (
    ANN,
    BOB,
    OTHER,
    PROJECT,
    SERVERS,
    WEB,
    ServerWorld,
    a_grant,
    a_session,
)


async def test_state_has_age_and_problem_of_each_project(clock: FakeClock) -> None:
    rule = a_grant("server:read", projects=frozenset({PROJECT, OTHER}))
    world = ServerWorld(clock, rule)
    world.problems[OTHER] = ListingProblem.REJECTED
    expected = {
        "list": await world.etag(),
        "projects": [
            {
                "project_id": PROJECT,
                "account": "prod",
                "region": "cn-east-3",
                "listed_at": "2027-01-15T08:00:00.000000Z",
                "is_current": True,
                "problem": None,
            },
            {
                "project_id": OTHER,
                "account": "prod",
                "region": None,
                "listed_at": None,
                "is_current": False,
                "problem": "rejected",
            },
        ],
        "power": [],
        "consoles": None,
    }
    assert await world.state() == expected
    await clock.advance(600)
    assert not (await world.state())["projects"][0]["is_current"]


async def test_projects_of_others_are_not_mentioned(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    world.problems[OTHER] = ListingProblem.BUSY
    assert [one["project_id"] for one in (await world.state())["projects"]] == [PROJECT]


async def test_consoles_are_shown_where_the_person_may_view(clock: FakeClock) -> None:
    view = a_grant("console:view", servers=frozenset(SERVERS[:1]))
    world = ServerWorld(clock, a_grant("server:read"), view)
    world.sessions = tuple(map(a_session, SERVERS))
    assert (await world.state())["consoles"] == {
        "age_max_s": 5.0,
        "complete": True,
        "sessions": [
            {
                "project_id": PROJECT,
                "server_id": SERVERS[0],
                "person": {"subject": "bob", "issuer": "corp"},
                "mode": "control",
                "since": "2027-01-15T08:00:00.000000Z",
            }
        ],
    }


@pytest.mark.parametrize("permission", ["server:read", "console:open"])
async def test_other_permissions_show_no_consoles(clock: FakeClock, permission: str) -> None:
    world = ServerWorld(clock, a_grant(permission))
    world.sessions = (a_session(SERVERS[0]),)
    assert (await world.state())["consoles"] is None
    assert world.sessions_read == 0


async def test_session_on_a_server_that_is_not_listed_is_not_shown(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("console:view"))
    world.set_servers({SERVERS[1]: WEB})
    world.sessions = tuple(map(a_session, SERVERS))
    shown = (await world.state())["consoles"]["sessions"]
    assert [one["server_id"] for one in shown] == SERVERS[1:2]


async def test_sessions_are_read_once_for_all_requests_of_five_seconds(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("console:view", users=frozenset({"ann", "bob"})))

    async def users(person: Principal = ANN) -> int:
        return len((await world.state(person))["consoles"]["sessions"])

    assert await asyncio.gather(*(users() for _ in range(20))) == [0] * 20
    world.sessions = (a_session(SERVERS[0]),)
    await clock.advance(4.9)
    assert (await users(), await users(BOB)) == (0, 0)
    assert world.sessions_read == 1
    await clock.advance(0.1)
    assert (await users(), await users(BOB)) == (1, 1)
    assert world.sessions_read == 2


async def test_unchanged_state_is_encoded_once(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("console:view", users=frozenset({"ann", "bob"})))
    world.sessions = (a_session(SERVERS[0]),)

    async def body(person: Principal = ANN) -> object:
        return await world.states.of(person, deadline=clock.monotonic() + 10)

    first = await body()
    await clock.advance(6)
    assert await body(BOB) is first
    assert world.sessions_read == 2
    world.problems[PROJECT] = ListingProblem.BUSY
    assert await body() is not first


async def test_right_that_ends_while_sessions_are_read_shows_none(clock: FakeClock) -> None:
    """Nor do others, whose rights are still those, receive the state of the new policy."""
    view = a_grant("console:view", users=frozenset({"ann", "bob"}))
    world = ServerWorld(clock, view)
    world.sessions = (a_session(SERVERS[0]),)
    before = world.states._presence._listing  # type: ignore[union-attr]

    async def listing() -> object:
        world.set_policy(a_grant("server:read"), a_grant("console:view", users=frozenset({"bob"})))
        return await before()

    world.states._presence._listing = listing  # type: ignore[union-attr, assignment]
    assert (await world.state())["consoles"] is None
    assert len((await world.state(BOB))["consoles"]["sessions"]) == 1
