"""Redis killed, hung, full, slow and failed over under load: the budget holds and calls go on."""

import asyncio

from gateway.config.store import RedisCluster, RedisSentinel, RedisServer
from gateway.domain.queue.pacing import Pace
from tests.support.budget_queues import CLOCK, Load
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import RealValkey, valkey_cluster, wait_until

PACE = Pace(requests=60, per_s=1, burst=8)
NOTICED_WITHIN_S = 2.0
BACK_WITHIN_S = 4.0
"""A tenth of a second, and one second, are promised; a machine that is busy may look away."""
ENOUGH = 0.25 * PACE.requests
"""Calls per second. An idle machine reaches nearly all; a busy one is bound by its own speed."""
LATE_CALLS = 6.0
"""Extra calls of replicas that notice the outage of Redis late."""


def hold_the_budget(load: Load) -> None:
    assert load.worst_excess() <= LATE_CALLS


async def test_budget_holds_over_server_restart(own_valkey: RealValkey) -> None:
    async with Load.on(own_valkey, PACE) as load:
        await asyncio.sleep(1.0)
        began = CLOCK.monotonic()
        own_valkey.kill()
        await load.until(alone=True, within_s=NOTICED_WITHIN_S)
        await asyncio.sleep(2.0)
        unavailable = load.rate_between(began + 0.5, CLOCK.monotonic())
        own_valkey.start()
        await load.until(alone=False, within_s=BACK_WITHIN_S)
        back = CLOCK.monotonic()
        await asyncio.sleep(1.5)
        assert unavailable >= ENOUGH, "each goes on with its share"
        assert load.rate_between(back + 0.5, back + 1.5) >= ENOUGH
        hold_the_budget(load)


async def test_budget_holds_over_server_hang(own_valkey: RealValkey) -> None:
    async with Load.on(own_valkey, PACE) as load:
        await asyncio.sleep(0.5)
        for _ in range(2):
            own_valkey.hang()
            await load.until(alone=True, within_s=NOTICED_WITHIN_S)
            began = CLOCK.monotonic()
            await asyncio.sleep(1.0)
            assert load.rate_between(began, CLOCK.monotonic()) >= ENOUGH
            own_valkey.resume()
            await load.until(alone=False, within_s=BACK_WITHIN_S)
        await asyncio.sleep(1.0)
        hold_the_budget(load)


async def test_full_or_read_only_server_is_unavailable(
    own_valkey: RealValkey,
) -> None:
    async with Load.on(own_valkey, PACE) as load:
        for broken, mended in (
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        ):
            own_valkey.command(*broken)
            await load.until(alone=True, within_s=NOTICED_WITHIN_S)
            began = CLOCK.monotonic()
            await asyncio.sleep(1.0)
            assert load.rate_between(began, CLOCK.monotonic()) >= ENOUGH
            own_valkey.command(*mended)
            await load.until(alone=False, within_s=BACK_WITHIN_S)
        await asyncio.sleep(0.5)
        hold_the_budget(load)


async def test_slow_server_is_used_within_timeout(own_valkey: RealValkey) -> None:
    async with TcpProxy(own_valkey.port).serve() as way:
        redis = RedisServer(url=way.url)
        async with Load.on(redis, PACE, timeout_s=0.15) as load:
            way.delay_s = 0.01
            await asyncio.sleep(0.5)
            began = CLOCK.monotonic()
            await asyncio.sleep(1.5)
            assert load.rate_between(began, CLOCK.monotonic()) >= ENOUGH
            way.delay_s = 0.2
            await load.until(alone=True, within_s=NOTICED_WITHIN_S)
            began = CLOCK.monotonic()
            await asyncio.sleep(1.0)
            assert load.rate_between(began, CLOCK.monotonic()) >= ENOUGH
            way.delay_s = 0.0
            await load.until(alone=False, within_s=BACK_WITHIN_S)
            await asyncio.sleep(0.5)
            hold_the_budget(load)


async def goes_on_until_there_is_a_primary(load: Load, replica: RealValkey) -> None:
    """Measure no longer: a returning replica pauses until all have returned."""
    await load.until(alone=True, within_s=NOTICED_WITHIN_S)
    began = CLOCK.monotonic()
    await asyncio.to_thread(wait_until, replica.is_primary)
    # Less than ENOUGH: beside two busy loops, the servers' election takes the processor.
    assert load.rate_between(began, CLOCK.monotonic()) >= 0.1 * PACE.requests


async def test_budget_holds_over_sentinel_failover(own_valkey: RealValkey) -> None:
    replica = RealValkey("--replicaof", "127.0.0.1", str(own_valkey.port)).start()
    sentinel = RealValkey.sentinel(
        f"sentinel monitor main 127.0.0.1 {own_valkey.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    ).start()
    try:
        await asyncio.to_thread(wait_until, lambda: own_valkey.command("ROLE")[2] != [])
        redis = RedisSentinel(sentinels=(f"127.0.0.1:{sentinel.port}",), service="main")
        async with Load.on(redis, PACE) as load:
            await asyncio.sleep(1.0)
            own_valkey.kill()
            await goes_on_until_there_is_a_primary(load, replica)
            await load.until(alone=False, within_s=2 * BACK_WITHIN_S)
            back = CLOCK.monotonic()
            await asyncio.sleep(1.6)
            assert load.rate_between(back + 0.5, back + 1.5) >= ENOUGH
            hold_the_budget(load)
    finally:
        sentinel.close()
        replica.close()


async def test_budget_holds_over_cluster_failover() -> None:
    with valkey_cluster() as nodes:
        primary, _, _, replica = nodes
        redis = RedisCluster(cluster=tuple(f"127.0.0.1:{node.port}" for node in nodes[1:]))
        async with Load.on(redis, PACE, timeout_s=0.15) as load:
            await asyncio.sleep(1.5)
            assert load.rate_between(CLOCK.monotonic() - 1, CLOCK.monotonic()) > 0
            primary.kill()
            await goes_on_until_there_is_a_primary(load, replica)
            await load.until(alone=False, within_s=10.0)
            back = CLOCK.monotonic()
            await asyncio.sleep(1.6)
            assert load.rate_between(back + 0.5, back + 1.5) >= ENOUGH
            hold_the_budget(load)
