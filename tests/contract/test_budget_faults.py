"""Redis killed, hung, full, slow and failed over under load: the budget holds and calls go on.

How soon the processes notice, and the share of the budget that they use meanwhile, is measured in
virtual time: tests/simulation/test_fleet.py.
"""

import asyncio

from gateway.config.store import RedisCluster, RedisSentinel, RedisServer
from gateway.domain.queue.pacing import Pace
from tests.support.budget_queues import Load
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import RealValkey, valkey_cluster, wait_until

PACE = Pace(requests=60, per_s=1, burst=8)
SOME = 15
"""Calls of each process, three quarters of a second's share."""
LATE_CALLS = 6.0
"""Extra calls of replicas that notice the outage of Redis late."""


async def fail_over(load: Load, primary: RealValkey, replica: RealValkey) -> None:
    """Lose the primary under load, until the replica has taken its place."""
    await load.admits(SOME)
    await load.until_lost(primary.kill)
    await load.admits(SOME)
    await asyncio.to_thread(wait_until, replica.is_primary, 60.0)
    await load.until_together()
    await load.admits(SOME)
    hold_the_budget(load)


def hold_the_budget(load: Load) -> None:
    assert load.worst_excess() <= LATE_CALLS


async def test_budget_holds_over_server_restart(own_valkey: RealValkey) -> None:
    async with Load.on(own_valkey, PACE) as load:
        await load.admits(SOME)
        own_valkey.kill()
        await load.until_alone()
        await load.admits(2 * SOME)  # each goes on with its share
        own_valkey.start()
        await load.until_together()
        await load.admits(2 * SOME)
        hold_the_budget(load)


async def test_budget_holds_over_server_hang(own_valkey: RealValkey) -> None:
    async with Load.on(own_valkey, PACE) as load:
        await load.admits(SOME)
        for _ in range(2):
            own_valkey.hang()
            await load.until_alone()
            await load.admits(SOME)
            own_valkey.resume()
            await load.until_together()
        await load.admits(SOME)
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
            await load.until_alone()
            await load.admits(SOME)
            own_valkey.command(*mended)
            await load.until_together()
        await load.admits(SOME)
        hold_the_budget(load)


async def test_slow_server_is_used_within_timeout(own_valkey: RealValkey) -> None:
    async with TcpProxy(own_valkey.port).serve() as way:
        redis = RedisServer(url=way.url)
        async with Load.on(redis, PACE) as load:
            way.delay_s = 0.01
            await load.admits(SOME)
            await load.until_together()
            way.delay_s = 2.0
            await load.until_alone()
            await load.admits(SOME)
            way.delay_s = 0.0
            await load.until_together()
            await load.admits(SOME)
            hold_the_budget(load)


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
            await fail_over(load, own_valkey, replica)
    finally:
        sentinel.close()
        replica.close()


async def test_budget_holds_over_cluster_failover() -> None:
    with valkey_cluster() as nodes:
        primary, _, _, replica = nodes
        redis = RedisCluster(cluster=tuple(f"127.0.0.1:{node.port}" for node in nodes[1:]))
        async with Load.on(redis, PACE) as load:
            await fail_over(load, primary, replica)
