"""The list of a person's servers: what it shows, to whom, and that it is built in parts."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.domain.errors import DeadlineExceeded, NotAuthenticated
from gateway.domain.model import Principal, ProjectId, RuleKind, RuleRef, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Selector
from gateway.edge.servers.servers_handler import encode_projects
from gateway.flow.visible_servers import ListedProject, VisibleServers
from tests.support.clock import FakeClock
from tests.support.stages import FakeIdentify, FakePolicies

PROJECT, OTHER = ProjectId("p"), ProjectId("q")
SERVERS = [ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in range(3)]
ANN = Principal("corp", "ann", frozenset({"staff"}), 0.0, 9e9, None)
WEB = Attributes(frozenset({("env", "prod")}), "dc-1", "r3", "u7", "B1", "web-01", "on", "OK")


def a_grant(*permissions: str, kind: RuleKind = RuleKind.GRANT, **on: Any) -> Rule:
    return Rule(
        ref=RuleRef(kind, "policy.yaml", 1, "a rule"),
        permissions=frozenset(permissions),
        issuer=None,
        users=frozenset({"ann"}),
        groups=frozenset(),
        **{"projects": frozenset({PROJECT}), "servers": frozenset(), **on},
    )


class World:
    """One account with two projects."""

    def __init__(self, clock: FakeClock, *rules: Rule) -> None:
        self.clock, self.identify = clock, FakeIdentify()
        self.policies = FakePolicies(Policy(list(rules), version="v"))
        self.inventories: dict[ProjectId, Inventory] = {}
        self.set_servers(dict.fromkeys(SERVERS, WEB))
        every: Any = self
        self.servers = VisibleServers(
            [
                ListedProject(PROJECT, "web", "prod", "cn-east-3", "proxied"),
                ListedProject(OTHER, "q", "prod", None, "direct"),
            ],
            policies=self.policies,
            inventories=every,
            identify=every.identify,
            clock=clock,
        )

    def set_servers(self, servers: Mapping[ServerId, Attributes]) -> None:
        now = self.clock.now()
        self.inventories[PROJECT] = Inventory(servers, taken_at=now, good_until=now + 600)

    def current(self, project: ProjectId) -> Inventory:
        return self.inventories.get(project, NO_INVENTORY)

    def last_known(self, project: ProjectId) -> Inventory:
        known = self.current(project)
        return known if known is NO_INVENTORY else known.however_old()

    async def projects(self) -> list[dict[str, Any]]:
        found = await self.servers.of(ANN, deadline=self.clock.monotonic() + 10)
        listed: list[dict[str, Any]] = json.loads(encode_projects(found))["projects"]
        return listed

    async def ids(self) -> list[str]:
        return [one["id"] for project in await self.projects() for one in project["servers"]]


async def test_reader_sees_everything_and_its_age(clock: FakeClock) -> None:
    rule = a_grant("server:read", "server:power", servers=frozenset(SERVERS[:1]))
    (project,) = await World(clock, rule).projects()
    assert project == {
        "project_id": PROJECT,
        "project_name": "web",
        "account": "prod",
        "region": "cn-east-3",
        "delivery": "proxied",
        "listed_at": "2027-01-15T08:00:00.000000Z",
        "is_current": True,
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
    (project,) = await World(clock, a_grant(permission)).projects()
    assert project["servers"][0] == {
        "id": SERVERS[0],
        "name": "web-01",
        "permissions": [permission],
    }


async def test_other_permissions_and_locked_projects_show_nothing(clock: FakeClock) -> None:
    assert await World(clock, a_grant("server:power", "recording:view")).projects() == []
    denial = a_grant("server:read", kind=RuleKind.DENIAL, servers=frozenset(SERVERS[1:2]))
    world = World(clock, a_grant("server:read"), denial)
    assert await world.ids() == [SERVERS[0], SERVERS[2]]


async def test_granted_server_that_does_not_exist_is_not_shown(clock: FakeClock) -> None:
    world = World(clock, a_grant("server:read", servers=frozenset(SERVERS)))
    world.set_servers({SERVERS[1]: WEB})
    assert await world.ids() == [SERVERS[1]]


async def test_expired_inventory_shows_servers_that_ids_grant(clock: FakeClock) -> None:
    tagged = Selector(tags=(("env", frozenset({"prod"})),))
    world = World(
        clock,
        a_grant("server:read", selector=tagged),
        a_grant("server:read", servers=frozenset(SERVERS[:1])),
    )
    assert await world.ids() == SERVERS
    await clock.advance(600)
    (project,) = await world.projects()
    assert [one["id"] for one in project["servers"]] == SERVERS[:1]
    assert not project["is_current"]


async def test_project_that_is_not_listed_yet_says_so(clock: FakeClock) -> None:
    (project,) = await World(clock, a_grant("server:read", projects=frozenset({OTHER}))).projects()
    assert (project["listed_at"], project["is_current"], project["servers"]) == (None, False, [])


async def test_long_list_gives_way_and_follows_a_change_meanwhile(clock: FakeClock) -> None:
    world = World(clock, a_grant("server:read"))
    world.set_servers({ServerId(f"{i:08x}-2222-4333-8444-555555555555"): WEB for i in range(2_000)})
    listing = asyncio.create_task(world.ids())
    turns = 0
    while not listing.done():
        await asyncio.sleep(0)
        turns += 1
        if turns == 10:  # in the middle: all but one are taken away
            rule = a_grant("server:read", servers=frozenset(SERVERS[:1]))
            world.policies.policy = Policy([rule], version="w")
    assert turns > 20, "at most 100 servers a turn"
    assert await listing == SERVERS[:1]


async def test_revocation_and_deadline_end_the_list(clock: FakeClock) -> None:
    world = World(clock, a_grant("server:read"))
    with pytest.raises(DeadlineExceeded):
        await world.servers.of(ANN, deadline=clock.monotonic() - 1)
    world.identify.is_revoked = True
    with pytest.raises(NotAuthenticated):
        await world.ids()
