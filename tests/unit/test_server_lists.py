"""Lists of visible servers are built once for all people with the same rights."""

import gc
import gzip
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.domain.model import ServerId
from gateway.domain.policy.inventory import (
    Attributes,
    InventorySnapshot,
    StoredServers,
    parse_snapshot,
)
from gateway.domain.policy.target_locks import TargetLocks
from gateway.edge.servers.servers_handler import conditional_reply
from gateway.flow.servers import server_lists
from tests.support.clock import FakeClock
from tests.support.server_world import ANN, BOB, OTHER, PROJECT, SERVERS, WEB, ServerWorld, a_grant

MANY = {ServerId(f"{i:08x}-2222-4333-8444-555555555555"): WEB for i in range(200)}


async def shown(world: ServerWorld, person: Any = ANN) -> server_lists.ServerList:
    return await world.lists.of(person, deadline=world.clock.monotonic() + 10)


async def test_people_with_the_same_rights_share_a_list(clock: FakeClock) -> None:
    both = a_grant("server:read", users=frozenset({"ann", "bob"}))
    only_bob = a_grant("server:power", users=frozenset({"bob"}))
    world = ServerWorld(clock, both)
    first = await shown(world)
    assert await shown(world) is first
    assert await shown(world, BOB) is first
    world.set_policy(both, only_bob)
    assert await shown(world) is first, "a change that does not concern the list"
    assert await shown(world, BOB) is not first


async def test_list_follows_whatever_it_depends_on(clock: FakeClock) -> None:
    later = clock.now() + 100
    ends = a_grant("server:read", servers=frozenset(SERVERS[:1]), valid_until=later)
    stays = a_grant("server:read", servers=frozenset(SERVERS[1:]))
    world = ServerWorld(clock, ends, stays)
    assert await world.ids() == SERVERS
    await clock.advance(100)
    assert await world.ids() == SERVERS[1:]
    locks = TargetLocks(projects={}, servers={SERVERS[1]: "1"})
    world.policies.policy = world.policies.policy.with_locks(locks)
    assert await world.ids() == SERVERS[2:]
    world.set_servers({SERVERS[2]: Attributes(name="new")})
    assert (await world.projects())[0]["servers"][0]["name"] == "new"


async def test_same_servers_read_again_change_nothing(clock: FakeClock) -> None:
    """Also if another replica read them: sets have another order in each process."""
    listed = InventorySnapshot(MANY, taken_at=1.0, took_s=0.1)
    again = InventorySnapshot(MANY, taken_at=60.0, took_s=0.2)
    world = ServerWorld(clock, a_grant("server:read"))
    world.set_servers(parse_snapshot(listed.to_json()).servers)
    first = await shown(world)
    await clock.advance(60)
    world.set_servers(parse_snapshot(again.to_json()).servers)
    assert await shown(world) is first
    changed = {**MANY, SERVERS[0]: Attributes(name="db-01")}
    world.set_servers(parse_snapshot(InventorySnapshot(changed, 120.0, 0.1).to_json()).servers)
    assert (await shown(world)).body.etag != first.body.etag


async def test_other_project_leaves_the_list_alone(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    first = await shown(world)
    world.inventories[OTHER] = world.inventories[PROJECT]
    world.set_policy(a_grant("server:read"), a_grant("server:read", users=frozenset({"eve"})))
    assert await shown(world) is first


async def test_equal_lists_have_equal_validators(clock: FakeClock) -> None:
    """Each process computes them from the content."""
    some = [await ServerWorld(clock, a_grant("server:read")).etag() for _ in range(2)]
    other = await ServerWorld(clock, a_grant("console:open")).etag()
    assert some[0] == some[1] != other


async def test_memory_of_lists_is_bounded(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_lists, "_LISTS_MAX", 2)
    people = [f"person-{i}" for i in range(4)]
    world = ServerWorld(
        clock,
        *(
            a_grant("server:read", users=frozenset({one}), servers=frozenset(SERVERS[: i % 3]))
            for i, one in enumerate(people)
        ),
    )
    for one in people:
        await shown(world, type(ANN)("corp", one, frozenset(), 0.0, 9e9, None))
    gc.collect()
    assert len(world.lists._recent) == len(world.lists._by_rights) == 2
    assert world.lists._bytes == sum(len(one.body.data) for one in world.lists._recent.values())


async def test_old_policy_is_freed(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    await shown(world)
    world.set_policy(a_grant("server:read"))
    await shown(world, BOB)
    assert len(world.lists._people) == 1


def a_request(**headers: str) -> Any:
    class Request:
        def __init__(self) -> None:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            self.headers = CIMultiDict(named)

    return Request()


async def test_long_list_is_gzipped_where_accepted(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    world.set_servers(MANY)
    body = (await shown(world)).body
    coded = await conditional_reply(a_request(Accept_Encoding="br, gzip"), body)
    plain = await conditional_reply(a_request(), body)
    refused = await conditional_reply(a_request(Accept_Encoding="gzip;q=0"), body)
    assert plain.body == refused.body == gzip.decompress(coded.body)
    assert len(plain.body) == body.size > 5 * len(coded.body)
    assert dict(coded.headers)["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in dict(plain.headers)
    # Bytes that differ have validators that differ; both stand for the content.
    etags = [dict(one.headers)["ETag"] for one in (coded, plain)]
    assert etags == [f'"{body.etag}-gzip"', f'"{body.etag}"']
    for etag in etags:
        for accepted in ("gzip", "identity"):
            request = a_request(Accept_Encoding=accepted, If_None_Match=f'"x", {etag}')
            unchanged = await conditional_reply(request, body)
            assert (unchanged.status, unchanged.body) == (304, b"")
            assert dict(unchanged.headers)["ETag"] == etag


async def test_short_list_is_not_gzipped(clock: FakeClock) -> None:
    body = (await shown(ServerWorld(clock))).body
    reply = await conditional_reply(a_request(Accept_Encoding="gzip"), body)
    assert (reply.body, reply.status) == (b'{"projects":[]}', 200)
    assert "Content-Encoding" not in dict(reply.headers)


def test_servers_are_decoded_once_for_rules_in_turn() -> None:
    servers = StoredServers({SERVERS[0]: b'[null,"dc-1"]', SERVERS[1]: b'[null,"dc-2"]'})
    assert servers[SERVERS[0]] is servers[SERVERS[0]]
    assert (servers[SERVERS[1]].dc, servers[SERVERS[0]].dc) == ("dc-2", "dc-1")
