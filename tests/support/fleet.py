"""Replicas with budget, single-flight and exchange in front of one cloud, in virtual time.

The code is the production code: SingleFlight, Exchange, BudgetQueue, the drivers and the Lua
scripts. Replaced are the network (it may lose, delay and cut), the Redis server and the cloud.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from gateway.config.store import RedisServer, StoreSettings
from gateway.domain.errors import GatewayError, UpstreamUnreachable
from gateway.domain.model import (
    BudgetClass,
    QueueRequest,
    Secret,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.domain.queue.fair_queue import BudgetLimit
from gateway.domain.queue.pacing import Pace
from gateway.domain.upstream.breaker import Breaker, BreakerRules
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.attempts import Attempts
from gateway.flow.budgets import FairBudget
from gateway.flow.exchange import Exchange
from gateway.flow.fair_budget import BudgetQueue
from gateway.flow.single_flight import Fetched, FetchResult, SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.lua_redis import LuaRedis
from tests.support.telemetry import RecordingTelemetry
from tests.support.virtual_time import VirtualClock

_SEAL_KEY = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
_STORE = StoreSettings(
    redis=RedisServer(url="redis://nowhere"), seal_keys=(_SEAL_KEY,), timeout_s=0.1
)


def loop_time() -> float:
    return asyncio.get_running_loop().time()


class Store:
    """The Redis server: its clock, scripts and messages."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.clock_offset_s = chance.uniform(-1e4, 1e4)
        self.redis = LuaRedis(self._now_us, self._publish)
        self.there = True
        self.delay_s = (0.000_1, 0.001)
        self.message_loss = 0.0
        self.listeners: list[Way] = []
        self.scripts: dict[str, str] = {}

    def _now_us(self) -> int:
        return round((2_000_000.0 + loop_time() + self.clock_offset_s) * 1e6)

    def fail_over(self, *, clock_jump_s: float) -> None:
        """Fail over to an empty server with another clock."""
        self.redis.flush()
        self.scripts.clear()
        self.clock_offset_s += clock_jump_s

    def _publish(self, channel: bytes, message: bytes) -> None:
        for listener in self.listeners:
            if channel not in listener.channels:
                continue
            if self.chance.random() >= self.message_loss:
                delay_s = self.chance.uniform(*self.delay_s)
                asyncio.get_running_loop().call_later(delay_s, listener.receive, channel, message)


class Way:
    """One replica's connection to the store; replaces redis-py's client."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cut = False
        self.channels: set[bytes] = set()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        store.listeners.append(self)

    def receive(self, channel: bytes, message: bytes) -> None:
        if not self.cut:
            self._inbox.put_nowait({"type": "message", "channel": channel, "data": message})

    async def evalsha(self, digest: str, count: int, *rest: Any) -> Any:
        if digest not in self._store.scripts:
            await self._travel()
            raise NoScriptError
        return await self.eval(self._store.scripts[digest], count, *rest)

    async def eval(self, text: str, count: int, *rest: Any) -> Any:
        await self._travel()
        self._store.scripts[hashlib.sha1(text.encode()).hexdigest()] = text
        reply = self._store.redis.run(text, rest[:count], rest[count:])
        await self._travel()
        return reply

    async def _travel(self) -> None:
        if self.cut:
            raise RedisConnectionError
        await asyncio.sleep(self._store.chance.uniform(*self._store.delay_s))
        if not self._store.there:
            await asyncio.sleep(60.0)

    @asynccontextmanager
    async def pubsub(self) -> AsyncIterator["Way"]:
        self._inbox = asyncio.Queue()
        try:
            yield self
        finally:
            self.channels.clear()

    async def subscribe(self, *channels: str) -> None:
        for channel in channels:
            self.channels.add(channel.encode())
            self._inbox.put_nowait({"type": "subscribe", "channel": channel.encode()})

    async def get_message(self, **_: Any) -> dict[str, Any]:
        return await self._inbox.get()

    async def aclose(self) -> None:
        self.cut = True


class Cloud:
    """A token bucket with 50 to 150 ms latency that records every call."""

    def __init__(self, chance: random.Random, rate: float, burst: float) -> None:
        self._chance = chance
        self.rate, self._burst = rate, burst
        self._level, self._at = burst, loop_time()
        self.names_its_limit = False
        self.fails = 0.0
        self.calls: list[tuple[float, str, int]] = []
        """Time, link and status of each call."""
        self.in_progress: Counter[str] = Counter()
        self.most_in_progress: Counter[str] = Counter()
        self.check: Callable[[], None] = lambda: None

    def take(self) -> bool:
        now = loop_time()
        self._level = min(self._burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    async def answer(self, what: str) -> UpstreamResponse:
        good = self.take()
        failed = good and self._chance.random() < self.fails
        status = 503 if failed else 200 if good else 429
        self.calls.append((loop_time(), what, status))
        self.check()
        self.in_progress[what] += 1
        self.most_in_progress[what] = max(self.most_in_progress[what], self.in_progress[what])
        try:
            await asyncio.sleep(self._chance.uniform(0.05, 0.15))
        finally:
            self.in_progress[what] -= 1
        if failed:
            raise UpstreamUnreachable("reset", retry_after_s=1.0)
        body = b"{}"
        if not good and self.names_its_limit:
            body = (
                '{"error_code":"APIGW.0308","error_msg":"The throttling threshold has been '
                f'reached: policy user over ratelimit,limit:{self.rate:.0f},time:1 second"}}'
            ).encode()
        return UpstreamResponse(status, {}, body)

    def refused(self, since: float = 0.0, until: float = 1e9) -> int:
        return sum(status == 429 and since <= at < until for at, _, status in self.calls)


class Credential:
    """A token that may expire; then all calls wait for one login."""

    def __init__(self) -> None:
        self.logged_in_at = 0.0

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> tuple[Any, ...]:
        if loop_time() < self.logged_in_at:
            await asyncio.sleep(self.logged_in_at - loop_time())
        return ()

    async def renew(self, refused: tuple[Any, ...], *, is_certain: bool, deadline: float) -> bool:
        return False

    @property
    def is_ready(self) -> bool:
        return loop_time() >= self.logged_in_at

    def report(self, sent: tuple[Any, ...], *, accepted: bool) -> None:
        pass


class _Upstream:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def send(
        self, request: UpstreamRequest, *, credential: tuple[Any, ...], timeout_s: float
    ) -> UpstreamResponse:
        return await self._cloud.answer(request.path)

    async def open(
        self, request: UpstreamRequest, *, credential: tuple[Any, ...], timeout_s: float
    ) -> UpstreamResponse:
        raise NotImplementedError


class Replica:
    def __init__(self, store: Store, cloud: Cloud, limit: BudgetLimit, *, replicas: int) -> None:
        chance = store.chance
        self.clock = VirtualClock(
            offset_s=chance.uniform(0, 1e5), drift=chance.uniform(0.9999, 1.0001)
        )
        self.telemetry = RecordingTelemetry()
        self.way = Way(store)
        client: Any = self.way
        valkey = Valkey(
            _STORE,
            lambda: client,
            process_id=f"{chance.getrandbits(32):08x}",
            clock=self.clock,
            telemetry=self.telemetry,
        )
        self.line = BudgetQueue(
            "a",
            BudgetClass.CONSOLE,
            limit=limit,
            wait_max_s=60.0,
            processes_max=replicas,
            shared=ValkeyFairQueue(valkey, "a:console", account="a", limit=limit, clock=self.clock),
            clock=self.clock,
            telemetry=self.telemetry,
            jitter=chance.random,
        )
        self.credential = Credential()
        self.single_flight = SingleFlight(
            ValkeySharedStore(valkey, Sealer((_SEAL_KEY,))), self.clock
        )
        self.exchange = Exchange(
            "a",
            upstream=_Upstream(cloud),
            credentials={"p": self.credential},
            budget=FairBudget([self.line]),
            breaker=Breaker(
                BreakerRules(
                    calls_min=20,
                    failure_ratio=0.8,
                    within_s=10.0,
                    slow_s=10.0,
                    open_s=1.0,
                    open_max_s=5.0,
                ),
                jitter=chance.random,
            ),
            clock=self.clock,
            telemetry=self.telemetry,
            jitter=chance.random,
            timeout_s=10.0,
            streams_max=8,
        )
        self._tasks = [
            asyncio.create_task(self.line.run()),
            asyncio.create_task(valkey.run_heartbeat()),
            asyncio.create_task(valkey.run_subscription()),
        ]
        self.requesting: set[asyncio.Task[Any]] = set()

    @property
    def alive(self) -> bool:
        return not self.way.cut

    async def link(
        self, what: str, queue_request: QueueRequest, *, within_s: float, life_s: float
    ) -> FetchResult:
        deadline = self.clock.monotonic() + within_s
        waiters, attempts = Waiters(queue_request), Attempts()
        attempts.entry = self.exchange.early_entry(
            queue_request,
            project="p",
            budget=BudgetClass.CONSOLE,
            deadline=deadline,
            waiters=waiters,
        )

        async def fetch() -> Fetched:
            answer = await self.exchange.call(
                UpstreamRequest("GET", what),
                project="p",
                queue_request=queue_request,
                budget=BudgetClass.CONSOLE,
                deadline=deadline,
                attempts=attempts,
                waiters=waiters,
            )
            return Fetched(answer.body, self.clock.monotonic() + life_s)

        return await self.single_flight.obtain(
            f"{{a}}{what}", fetch, deadline=deadline, waiters=waiters, attempts=attempts
        )

    async def kill(self) -> None:
        """Stop without releasing anything."""
        self.way.cut = True
        tasks = [*self._tasks, *self.requesting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.single_flight.close(), return_exceptions=True)


@dataclass
class Fleet:
    """Replicas, a store and a cloud; each call checks the invariants."""

    chance: random.Random
    limit: BudgetLimit
    replicas: list[Replica]
    store: Store
    cloud: Cloud
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    overdue: list[str] = field(default_factory=list)
    excess_allowed: float = 1e-3

    @classmethod
    def start(
        cls, seed: int, *, replicas: int = 3, pace: Pace, cloud: tuple[float, float]
    ) -> "Fleet":
        chance = random.Random(seed)
        limit = BudgetLimit((pace,), queue_max=1_000, caller_max=200)
        store, upstream = Store(chance), Cloud(chance, *cloud)
        made = [Replica(store, upstream, limit, replicas=replicas) for _ in range(replicas)]
        fleet = cls(chance, limit, made, store, upstream)
        upstream.check = fleet.check_budget
        return fleet

    def check_budget(self) -> None:
        """Check invariant 3: no window that ends now exceeds the budget."""
        (pace,) = self.limit.windows
        now = self.cloud.calls[-1][0]
        for count, (at, _, _) in enumerate(reversed(self.cloud.calls), start=1):
            allowed = pace.burst + (now - at) / pace.interval_s
            assert count <= allowed + self.excess_allowed, (
                f"{count} calls in {now - at:.3f} s, {allowed:.2f} may"
            )
            if now - at > 3 * pace.burst * pace.interval_s + 1.0:
                break

    async def request_link(
        self,
        replica: Replica,
        what: str,
        queue_request: QueueRequest,
        *,
        within_s: float,
        life_s: float = 1e6,
    ) -> str:
        """Send one request; check invariant 8: it ends by its deadline."""
        began = loop_time()
        task = asyncio.create_task(
            replica.link(what, queue_request, within_s=within_s, life_s=life_s)
        )
        replica.requesting.add(task)
        try:
            await task
            outcome = "answered"
            self.answered[queue_request.caller] += 1
        except GatewayError as error:
            outcome = type(error).__name__
            self.refused[outcome] += 1
        except asyncio.CancelledError:
            if not task.cancelled():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if replica.alive:
                raise
            outcome = "killed"
        finally:
            replica.requesting.discard(task)
        late_s = loop_time() - began - within_s
        if late_s > 0.01 and outcome != "killed":
            self.overdue.append(f"{outcome} for {what} {late_s:.3f} s late")
        return outcome

    async def stop(self) -> None:
        for replica in self.replicas:
            await replica.kill()


def jain(shares: Sequence[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))
