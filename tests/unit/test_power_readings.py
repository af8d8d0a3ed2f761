"""The power of a server is read soon after a person has changed it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from gateway.domain.errors import BudgetExhausted, UpstreamUnreachable
from gateway.domain.model import Priority, ServerId
from gateway.flow.servers import power_readings
from tests.support.clock import FakeClock
from tests.support.server_world import (
    BOB,
    PROJECT,
    SERVERS,
    ServerWorld,
    a_grant,
)


@contextlib.asynccontextmanager
async def reading(world: ServerWorld) -> AsyncIterator[None]:
    task = asyncio.create_task(world.readings.run())
    await asyncio.sleep(0)
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def paths(world: ServerWorld) -> list[str]:
    return [one.path for one in world.cloud.requested]


async def power(world: ServerWorld, *person: Any) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = (await world.state(*person))["power"]
    return shown


async def test_server_is_read_a_few_times_from_spare_budget(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        await clock.advance(2.5)
        assert paths(world) == []
        await clock.advance(0.5)
        assert paths(world) == [f"/v1/{PROJECT}/physicalservers/{SERVERS[0]}"]
        assert world.cloud.queue_requests[0].priority is Priority.SPARE
        await clock.advance(300)
    assert len(paths(world)) == 3


async def test_new_state_is_shown_with_its_age_until_the_next_list(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read", users=frozenset({"ann", "bob"})))
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        assert await power(world) == []
        await clock.advance(3)
    expected = {
        "project_id": PROJECT,
        "server_id": SERVERS[0],
        "power_state": "off",
        "health_state": "OK",
        "read_at": "2027-01-15T08:00:03.000000Z",
    }
    assert await power(world) == await power(world, BOB) == [expected]
    await clock.advance(10)
    world.set_servers(world.inventories[PROJECT]._servers)
    assert await power(world) == []


async def test_other_replicas_show_the_same(clock: FakeClock) -> None:
    world, other = (ServerWorld(clock, a_grant("server:read")) for _ in range(2))
    other.readings._store = world.store
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        await clock.advance(3)
    assert await power(other) == await power(world) != []
    reads = world.store.reads
    for _ in range(20):
        await power(other)
    assert world.store.reads == reads, "requests of two seconds share one call of the store"


async def test_without_store_a_replica_shows_its_own(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    world.store.is_available = False
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        await clock.advance(3)
    assert len(await power(world)) == 1


async def test_power_requires_the_right_to_read_the_server(clock: FakeClock) -> None:
    opens = a_grant("console:open", "server:power")
    reads = a_grant("server:read", servers=frozenset(SERVERS[1:2]))
    world = ServerWorld(clock, opens, reads)
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS)
        await clock.advance(3)
    assert [one["server_id"] for one in await power(world)] == SERVERS[1:2]


async def test_failed_reading_is_tried_at_the_next_time(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    failures: list[Exception] = [
        BudgetExhausted("no spare slot", retry_after_s=1.0),
        UpstreamUnreachable("down", retry_after_s=1.0),
    ]
    answer = world.cloud._answering

    def failing(request: Any) -> Any:
        if failures:
            raise failures.pop()
        return answer(request)

    world.cloud._answering = failing
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        await clock.advance(16)
        assert await power(world) == []
        await clock.advance(45)
        assert len(await power(world)) == 1


async def test_waiting_servers_are_bounded(clock: FakeClock) -> None:
    world = ServerWorld(clock)
    servers = [ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in range(600)]
    world.readings.power_changed(PROJECT, servers)
    world.readings.power_changed(PROJECT, servers[:1])
    assert len(world.readings._due) == power_readings._WAITING_MAX


async def test_old_reading_is_forgotten(clock: FakeClock) -> None:
    world = ServerWorld(clock, a_grant("server:read"))
    world.store.is_available = False
    async with reading(world):
        world.readings.power_changed(PROJECT, SERVERS[:1])
        await clock.advance(3)
    assert len(await world.readings.current()) == 1
    await clock.advance(3_600)
    assert await world.readings.current() == {}
    assert world.readings._own == {}
