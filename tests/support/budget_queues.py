"""Budget queues of several processes on a real server, under load."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.config.store import RedisCluster, RedisSentinel, RedisServer, StoreSettings
from gateway.domain.errors import BudgetExhausted
from gateway.domain.model import BudgetClass, QueueRequest, Secret
from gateway.domain.queue.fair_queue import BudgetLimit
from gateway.domain.queue.pacing import Pace
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.flow.fair_budget import BudgetQueue
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey

CLOCK = SystemClock()
SEAL_KEY = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")

AnyRedis = RedisServer | RedisSentinel | RedisCluster


@asynccontextmanager
async def open_line(
    valkey: Valkey,
    *paces: Pace,
    processes_max: int = 1,
    queue_max: int = 1_000,
    wait_max_s: float = 60.0,
) -> AsyncIterator[BudgetQueue]:
    limit = BudgetLimit(paces, queue_max=queue_max, caller_max=1_000)
    line = BudgetQueue(
        "prod",
        BudgetClass.CONSOLE,
        limit=limit,
        wait_max_s=wait_max_s,
        processes_max=processes_max,
        shared=ValkeyFairQueue(valkey, "prod:console", account="prod", limit=limit, clock=CLOCK),
        clock=CLOCK,
        telemetry=RecordingTelemetry(),
        jitter=random.random,
    )
    running = asyncio.create_task(line.run())
    try:
        yield line
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def connect(
    redis: RealValkey | AnyRedis, namespace: str, *, timeout_s: float = 1.0
) -> AsyncIterator[Valkey]:
    """One process's connection to the store, with its background loops."""
    where = RedisServer(url=redis.url) if isinstance(redis, RealValkey) else redis
    store = StoreSettings(
        redis=where, seal_keys=(SEAL_KEY,), namespace=namespace, timeout_s=timeout_s
    )
    valkey = Valkey(
        store,
        client_factory(store),
        process_id=secrets.token_hex(4),
        clock=CLOCK,
        telemetry=RecordingTelemetry(),
    )
    async with run_loops(valkey):
        yield valkey


@asynccontextmanager
async def run_loops(valkey: Valkey) -> AsyncIterator[None]:
    """Probe the store, run the background loops meanwhile, and close the connection."""
    await valkey.probe()
    loops = [
        asyncio.create_task(loop())
        for loop in (valkey.run_subscription, valkey.run_heartbeat, valkey.run_cleanup)
    ]
    try:
        yield
    finally:
        while any(not loop.done() for loop in loops):
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops, timeout=0.2)
        await valkey.close()


class Load:
    """Callers that saturate the queues of several processes."""

    def __init__(self, pace: Pace, lines: list[BudgetQueue]) -> None:
        self.pace = pace
        self.lines = lines
        self.sent: list[float] = []
        """When each call was admitted."""
        self._tasks = [
            asyncio.create_task(self._insist(line, f"caller-{i}"))
            for i in range(6)
            for line in lines
        ]

    @classmethod
    @asynccontextmanager
    async def on(
        cls, redis: RealValkey | AnyRedis, pace: Pace, *, replicas: int = 3, timeout_s: float = 0.1
    ) -> AsyncIterator["Load"]:
        namespace = f"t-{secrets.token_hex(4)}"
        async with AsyncExitStack() as stack:
            lines = []
            for _ in range(replicas):
                way = connect(redis, namespace, timeout_s=timeout_s)
                valkey = await stack.enter_async_context(way)
                line = open_line(valkey, pace, processes_max=replicas)
                lines.append(await stack.enter_async_context(line))
            await asyncio.sleep(0.6)  # until all have sent a heartbeat and listen
            load = cls(pace, lines)
            try:
                yield load
            finally:
                await load.stop()

    async def _insist(self, line: BudgetQueue, name: str) -> None:
        while True:
            try:
                await line.admit(
                    QueueRequest(name), deadline=CLOCK.monotonic() + 30, requeued=False
                )
            except BudgetExhausted as refused:
                await asyncio.sleep(refused.retry_after_s)
            else:
                self.sent.append(CLOCK.monotonic())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def rate_between(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.sent) / (until - since)

    def worst_excess(self) -> float:
        """Return the excess of calls over the budget in the worst window."""
        sent, interval_s = sorted(self.sent), self.pace.interval_s
        # The window from i to j holds j - i + 1 calls: each minus its due time, highest rise.
        debts = [count - at / interval_s for count, at in enumerate(sent)]
        lowest, worst = debts[0], 1.0
        for debt in debts:
            lowest = min(lowest, debt)
            worst = max(worst, debt - lowest + 1)
        return worst - self.pace.burst

    async def until(self, *, alone: bool, within_s: float) -> float:
        """Return the time until all queues are alone, or none is."""
        began = CLOCK.monotonic()
        while any(line.is_local is not alone for line in self.lines):
            assert CLOCK.monotonic() - began < within_s, [line.is_local for line in self.lines]
            await asyncio.sleep(0.005)
        return CLOCK.monotonic() - began
