"""A fetch whose claim takes the lease and a slot of the budget in one call of a real server."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.config.store import RedisCluster
from gateway.domain.model import BudgetClass, LinkSource, QueueRequest
from gateway.domain.queue.pacing import Pace
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow import fair_budget
from gateway.flow.attempts import Attempts
from gateway.flow.budgets import FairBudget
from gateway.flow.fair_budget import BudgetQueue
from gateway.flow.single_flight import Fetched, FetchResult, SingleFlight
from tests.support.budget_queues import CLOCK, SEAL_KEY, connect, open_line, until_listening
from tests.support.valkey import RealValkey, free_port, is_cluster_ok, wait_until
from tests.support.waiting import until

PACE = Pace(requests=1_000, per_s=1, burst=100)

REFRESH_S = 0.5
"""A process also reports to the queue this often."""


class Process:
    def __init__(self, valkey: Valkey, line: BudgetQueue) -> None:
        self.line = line
        self.messages: list[bytes] = []
        valkey.on_message(self.messages.append)
        self._valkey = valkey
        self._budget = FairBudget([line])
        self._store = ValkeySharedStore(valkey, Sealer([SEAL_KEY]))
        self._single_flight = SingleFlight(self._store, CLOCK, lease_s=600.0)
        self.may_fetch = asyncio.Event()
        self.may_fetch.set()

    async def until_ready(self) -> None:
        """Wait until it listens, and the batches of its start have returned."""
        await until_listening(self._valkey)
        version = -1
        while self.line._is_due or self.line._state.version != version:
            version = self.line._state.version
            await asyncio.sleep(0.1)
            await self._valkey.ping()  # its reply follows that of a batch

    def awaited_key(self, link: str) -> str:
        """Return the key that a claim sets when it finds the lease held."""
        return self._store._names(f"{{prod}}{link}")[3]

    async def obtain(self, link: str) -> FetchResult:
        attempts, deadline = Attempts(), CLOCK.monotonic() + 600
        request = QueueRequest("ann")
        attempts.entry = self._budget.early_entry(
            "prod", BudgetClass.CONSOLE, request, deadline=deadline, waiters=None,
            may_enter=lambda: True,
        )  # fmt: skip

        async def fetch() -> Fetched:
            assert attempts.entry is not None
            if await attempts.entry.wait() is None:
                await self.line.admit(request, deadline=deadline, requeued=False)
            await self.may_fetch.wait()
            return Fetched(link.encode(), CLOCK.monotonic() + 600)

        return await self._single_flight.obtain(
            f"{{prod}}{link}", fetch, deadline=deadline, attempts=attempts
        )


@pytest.fixture(autouse=True)
def _late_slots_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process that does not run for a while use its slot later: the machine may be busy."""
    monkeypatch.setattr(fair_budget, "LATE_MAX_S", 600.0)


@pytest.fixture
async def pair(own_valkey: RealValkey) -> AsyncIterator[tuple[Process, Process]]:
    namespace = f"t-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            valkey = await stack.enter_async_context(connect(own_valkey, namespace))
            line = await stack.enter_async_context(open_line(valkey, PACE))
            made.append(Process(valkey, line))
        for one in made:
            await one.until_ready()
        yield made[0], made[1]


async def test_slot_comes_with_the_lease(pair: tuple[Process, Process]) -> None:
    process, _ = pair
    await process.obtain("first")
    version, began = process.line._state.version, CLOCK.monotonic()
    results = [await process.obtain(f"link-{i}") for i in range(20)]
    assert {one.source for one in results} == {LinkSource.UPSTREAM}
    batches = process.line._state.version - version
    periodic = 1 + (CLOCK.monotonic() - began) / REFRESH_S
    assert 20 <= batches < 20 + periodic, "one batch per claim, and no other"
    assert process.line.waiting == []


async def test_stored_link_takes_no_slot(pair: tuple[Process, Process]) -> None:
    one, two = pair
    await one.obtain("link")
    version = one.line._state.version
    assert (await two.obtain("link")).source is LinkSource.REDIS
    assert (await one.obtain("other")).source is LinkSource.UPSTREAM
    assert one.line._state.version == version + 1


async def test_end_is_published_only_for_waiters(
    pair: tuple[Process, Process], own_valkey: RealValkey
) -> None:
    one, two = pair
    one.messages.clear()
    two.messages.clear()
    await one.obtain("alone")
    await asyncio.sleep(0.1)
    assert (one.messages, two.messages) == ([], [])
    one.may_fetch.clear()
    version = one.line._state.version
    fetching = asyncio.create_task(one.obtain("shared"))
    await until(lambda: one.line._state.version > version)  # it has claimed
    waiting = asyncio.create_task(two.obtain("shared"))
    awaited = one.awaited_key("shared")
    await until(lambda: own_valkey.command("EXISTS", awaited))
    one.may_fetch.set()
    async with asyncio.timeout(60):  # it is woken: the lease lasts longer
        assert (await waiting).source is LinkSource.COALESCED
    assert (await fetching).source is LinkSource.UPSTREAM
    assert len(two.messages) == 1


async def test_more_claims_than_slots_wait_in_the_queue(pair: tuple[Process, Process]) -> None:
    one, two = pair
    began = CLOCK.monotonic()
    await asyncio.gather(*(pair[i % 2].obtain(f"link-{i}") for i in range(400)))
    # The burst is smaller by the slots that may be used late, and was not full at the beginning.
    assert CLOCK.monotonic() - began > (400 - PACE.burst) / 1_000 * 0.9
    assert (one.line.waiting, two.line.waiting) == ([], [])


async def test_cluster_has_all_keys_of_a_claim_on_one_shard() -> None:
    port, bus = free_port(), free_port()
    node = RealValkey("--cluster-enabled", "yes", "--cluster-port", str(bus), port=port).start()
    try:
        node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await asyncio.to_thread(wait_until, lambda: is_cluster_ok(node))
        redis = RedisCluster(cluster=(f"127.0.0.1:{port}",))
        async with connect(redis, "c") as valkey, open_line(valkey, PACE) as line:
            process = Process(valkey, line)
            await process.until_ready()
            await process.obtain("first")
            version = line._state.version
            assert (await process.obtain("link")).source is LinkSource.UPSTREAM
            assert line._state.version == version + 1, "the claim has entered the queue"
            assert (await process.obtain("link")).source is LinkSource.REDIS
    finally:
        node.close()
