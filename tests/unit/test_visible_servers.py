"""The list of a person's servers: what it shows, to whom, and that it is built in parts."""

import asyncio

import pytest

from gateway.domain.errors import DeadlineExceeded, NotAuthenticated
from gateway.domain.model import RuleKind, ServerId
from gateway.domain.policy.selectors import Selector
from tests.support.clock import FakeClock
from tests.support.server_world import ANN, OTHER, PROJECT, SERVERS, WEB, ServerWorld, a_grant


async def test_reader_sees_everything(clock: FakeClock) -> None:
    rule = a_grant("server:read", "server:power", servers=frozenset(SERVERS[:1]))
    (project,) = await ServerWorld(clock, rule).projects()
    assert project == {
        "project_id": PROJECT,
        "project_name": "web",
        "account": "prod",
        "region": "cn-east-3",
        "delivery": "proxied",
        "servers": [
            {
                "id": SERVERS[0],
                "name": "web-01",
                "location": {"dc": "dc-1", "rack": "r3", "unit": "u7"},
                "model": "B1",
                "power_state": "on",
                "health_state": "OK",
                "tags": [{"key": "env", "value": "prod"}],
                "permissions": ["server:power", "server:read"],
            }
        ],
    }


@pytest.mark.parametrize("permission", ["console:open", "console:view"])
async def test_without_read_only_the_name_is_shown(clock: FakeClock, permission: str) -> None:
    (project,) = await ServerWorld(clock, a_grant(permission)).projects()
    assert project["servers"][0] == {
        "id": SERVERS[0],
        "name": "web-01",
        "permissions": [permission],
    }


async def test_other_permissions_and_locked_projects_show_nothing(clock: FakeClock) -> None:
    assert await ServerWorld(clock, a_grant("server:power", "recording:view")).projects() == []
    denial = a_grant("server:read", kind=RuleKind.DENIAL, servers=frozenset(SERVERS[1:2]))
    world = ServerWorld(clock, a_grant("server:read"), denial)
    assert await world.ids() == [SERVERS[0], SERVERS[2]]


async def test_granted_server_that_does_not_exist_is_not_shown(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read", servers=frozenset(SERVERS)))
    world.set_servers({SERVERS[1]: WEB})
    assert await world.ids() == [SERVERS[1]]


async def test_expired_inventory_shows_servers_that_ids_grant(clock: FakeClock) -> None:
    tagged = Selector(tags=(("env", frozenset({"prod"})),))
    world = ServerWorld(
        clock,
        a_grant("server:read", selector=tagged),
        a_grant("server:read", servers=frozenset(SERVERS[:1])),
    )
    assert await world.ids() == SERVERS
    await clock.advance(600)
    assert await world.ids() == SERVERS[:1]


async def test_project_that_is_not_listed_yet_has_no_servers(clock: FakeClock) -> None:
    rule = a_grant("server:read", projects=frozenset({OTHER}))
    (project,) = await ServerWorld(clock, rule).projects()
    assert project["servers"] == []


async def test_long_list_gives_way_and_follows_a_change_meanwhile(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    world.set_servers({ServerId(f"{i:08x}-2222-4333-8444-555555555555"): WEB for i in range(2_000)})
    listing = asyncio.create_task(world.ids())
    turns = 0
    while not listing.done():
        await asyncio.sleep(0)
        turns += 1
        if turns == 10:  # in the middle: all but one are taken away
            world.set_policy(a_grant("server:read", servers=frozenset(SERVERS[:1])))
    assert turns > 20, "at most 100 servers a turn"
    assert await listing == SERVERS[:1]


async def test_revocation_and_deadline_end_the_list(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    with pytest.raises(DeadlineExceeded):
        await world.lists.of(ANN, deadline=clock.monotonic() - 1)
    world.identify.is_revoked = True
    with pytest.raises(NotAuthenticated):
        await world.ids()
