"""Budget queues of several processes on a real server, under load."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
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
from tests.support.waiting import until

CLOCK = SystemClock()
SEAL_KEY = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")

AnyRedis = RedisServer | RedisSentinel | RedisCluster

FOREVER_S = 1e6
"""A deadline that no call reaches while its budget is stopped."""


async def until_listening(valkey: Valkey) -> None:
    """Wait until messages of the server arrive."""
    await until(lambda: (found := valkey._subscription) is not None and found.confirmed)


async def until_compared(line: BudgetQueue) -> None:
    """Wait until the queue has compared its clock with the server's while no process was stopped.

    Slots in its results are then accurate, and remain so when the process is stopped later.
    """

    def is_accurate() -> bool:
        line._submit_soon()
        shared = line._shared
        assert isinstance(shared, ValkeyFairQueue)
        return shared._server_clock.error_s(CLOCK.monotonic()) < 0.005

    await until(is_accurate)


@asynccontextmanager
async def open_line(
    valkey: Valkey,
    *paces: Pace,
    processes_max: int = 1,
    queue_max: int = 1_000,
    wait_max_s: float = FOREVER_S,
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
    redis: RealValkey | AnyRedis, namespace: str, *, timeout_s: float = 10.0
) -> AsyncIterator[Valkey]:
    """One process's connection to the store, with its background loops."""
    where = RedisServer(url=redis.url) if isinstance(redis, RealValkey) else redis
    store = StoreSettings(
        redis=where,
        seal_keys=(SEAL_KEY,),
        namespace=namespace,
        timeout_s=timeout_s,
        connect_timeout_s=10.0,
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


class StoppedBudget:
    """A budget that grants slots only when a test says so, however long its steps take.

    Its rate ceiling is so low that no further slot is due. The test makes one due in the state in
    Valkey. The pace must have no burst.
    """

    def __init__(self, server: RealValkey, lines: list[BudgetQueue]) -> None:
        self._server = server
        self._lines = lines
        shared = lines[0]._shared
        assert isinstance(shared, ValkeyFairQueue)
        self._state, self._interactive, self._bulk = shared.keys[:3]

    @classmethod
    async def of(cls, server: RealValkey, *lines: BudgetQueue) -> "StoppedBudget":
        made = cls(server, list(lines))
        for line in lines:
            line.set_rate_ceiling(0.001)
        for line in lines:
            await until_compared(line)
        # This call takes the slot that is due now; the next one is due in a thousand seconds.
        deadline = CLOCK.monotonic() + FOREVER_S
        await lines[0].admit(QueueRequest("first"), deadline=deadline, requeued=False)
        return made

    @property
    def waiting(self) -> int:
        """The number of calls in the queue of all processes."""
        return sum(int(self._server.command("ZCARD", key)) for key in self._queues)

    @property
    def _queues(self) -> tuple[str, str]:
        return self._interactive, self._bulk

    async def until_waiting(self, count: int) -> None:
        await until(lambda: self.waiting == count)

    async def grant(self) -> None:
        """Let exactly one call have its slot."""
        waiting = self.waiting
        self._make_slot_due()
        await self.until_waiting(waiting - 1)

    def start(self) -> None:
        """Grant slots at the configured rate from now on."""
        for line in self._lines:
            line.set_rate_ceiling(None)
        self._make_slot_due()

    def _make_slot_due(self) -> None:
        self._server.command("HSET", self._state, "tat1", "0")
        for line in self._lines:
            line._submit_soon()


class Load:
    """Callers that saturate the queues of several processes."""

    def __init__(self, pace: Pace, lines: list[BudgetQueue], valkeys: list[Valkey]) -> None:
        self.pace = pace
        self.lines = lines
        self._valkeys = valkeys
        self.sent: list[list[float]] = [[] for _ in lines]
        """When each call was admitted, per queue."""
        self._tasks = [
            asyncio.create_task(self._insist(line, sent, f"caller-{i}"))
            for i in range(6)
            for line, sent in zip(lines, self.sent, strict=True)
        ]

    @classmethod
    @asynccontextmanager
    async def on(
        cls, redis: RealValkey | AnyRedis, pace: Pace, *, replicas: int = 3
    ) -> AsyncIterator["Load"]:
        """Start processes that wait one second for Redis: a machine that is busy may look away."""
        namespace = f"t-{secrets.token_hex(4)}"
        async with AsyncExitStack() as stack:
            lines, valkeys = [], []
            for _ in range(replicas):
                way = connect(redis, namespace, timeout_s=1.0)
                valkey = await stack.enter_async_context(way)
                line = open_line(valkey, pace, processes_max=replicas)
                lines.append(await stack.enter_async_context(line))
                valkeys.append(valkey)
            for valkey in valkeys:
                await until_listening(valkey)
            await until(lambda: all(valkey.processes == replicas for valkey in valkeys))
            load = cls(pace, lines, valkeys)
            try:
                yield load
            finally:
                await load.stop()

    async def _insist(self, line: BudgetQueue, sent: list[float], name: str) -> None:
        while True:
            try:
                await line.admit(
                    QueueRequest(name), deadline=CLOCK.monotonic() + 30, requeued=False
                )
            except BudgetExhausted as refused:
                await asyncio.sleep(refused.retry_after_s)
            else:
                sent.append(CLOCK.monotonic())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def admits(self, count: int) -> None:
        """Wait until each queue has admitted `count` more calls."""
        enough = [len(sent) + count for sent in self.sent]
        await until(lambda: all(len(sent) >= n for sent, n in zip(self.sent, enough, strict=True)))

    def worst_excess(self) -> float:
        """Return the excess of calls over the budget in the worst window."""
        sent, interval_s = sorted(at for sent in self.sent for at in sent), self.pace.interval_s
        # The window from i to j holds j - i + 1 calls: each minus its due time, highest rise.
        debts = [count - at / interval_s for count, at in enumerate(sent)]
        lowest, worst = debts[0], 1.0
        for debt in debts:
            lowest = min(lowest, debt)
            worst = max(worst, debt - lowest + 1)
        return worst - self.pace.burst

    async def until_lost(self, disturb: Callable[[], None]) -> None:
        """Run `disturb` and wait until each process has found Redis unavailable once more."""
        before = self._losses()
        disturb()
        await until(lambda: all(a > b for a, b in zip(self._losses(), before, strict=True)))

    def _losses(self) -> list[int]:
        found = []
        for valkey in self._valkeys:
            telemetry = valkey._telemetry
            assert isinstance(telemetry, RecordingTelemetry)
            found.append(telemetry.store.count(False))
        return found

    async def until_alone(self) -> None:
        await until(lambda: all(line.is_local for line in self.lines))

    async def until_together(self) -> None:
        await until(lambda: not any(line.is_local for line in self.lines))
