"""The inventory is listed from spare budget, once for all replicas, and its age is known."""

import asyncio
import json
import math
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.domain.errors import (
    BudgetExhausted,
    UpstreamBroken,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import Priority, ProjectId, ServerId, UpstreamRequest
from gateway.domain.policy import inventory as rules
from gateway.domain.policy.inventory import NO_INVENTORY
from gateway.flow.inventories import CachedInventories, InventoryAccount, ListingProblem
from gateway.flow.single_flight import SingleFlight
from tests.support.clock import FakeClock, settle
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.shared_store import FakeSharedStore
from tests.support.snapshot_file import FakeSnapshotFile
from tests.support.telemetry import RecordingTelemetry

PROJECT = ProjectId("p")


class Cloud:
    """Ten servers in pages of four; each is tagged with how often it was listed."""

    def __init__(self) -> None:
        self.times = 0
        self.fails: list[Exception] = []
        self.marker: str | None = None
        """The same after every page."""

    def __call__(self, request: UpstreamRequest) -> bytes:
        if self.fails:
            raise self.fails.pop()
        query = parse_qs(urlsplit(request.path).query)
        start = int(query["marker"][0]) + 1 if "marker" in query else 0
        if start == 0:
            self.times += 1
        tags = [{"key": "times", "value": str(self.times)}]
        page = [{"id": str(i), "tags": tags} for i in range(start, min(start + 4, 10))]
        more = self.marker or (page[-1]["id"] if start + 4 < 10 else None)
        return json.dumps({"servers": page, "page_info": {"next_marker": more}}).encode()


class Replica:
    def __init__(
        self,
        clock: FakeClock,
        store: FakeSharedStore,
        cloud: Cloud,
        file: FakeSnapshotFile | None = None,
    ) -> None:
        self.clock, self.cloud, self.wanted = clock, cloud, True
        self.exchange = FakeExchange(cloud)
        self.telemetry = RecordingTelemetry()
        self.single_flight = SingleFlight(store, clock)
        files = {} if file is None else {PROJECT: file}
        account = InventoryAccount(
            "prod", as_exchange(self.exchange), (PROJECT,), 60.0, 600.0, files
        )
        self.inventories = CachedInventories(
            [account],
            is_needed=lambda: self.wanted,
            shared=self.single_flight,
            clock=clock,
            telemetry=self.telemetry,
        )

    async def look(self) -> None:
        one = self.inventories._projects[PROJECT]
        if self.clock.monotonic() >= one.due_at:
            await self.inventories._refresh(PROJECT, one)

    async def keep(self) -> None:
        """Look, and go on until the file holds what was seen."""
        keeping = asyncio.create_task(self.inventories.run("prod"))
        file = self.inventories._projects[PROJECT].account.files[PROJECT]
        async with asyncio.timeout(60):
            while file.load() is None:  # noqa: ASYNC110 - it is written in a thread
                await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    def times(self) -> str:
        known = self.inventories.current(PROJECT).attributes(ServerId("9"), self.clock.now())
        assert known is not None
        ((_, value),) = known.tags
        return value


@pytest.fixture
def store(clock: FakeClock) -> FakeSharedStore:
    return FakeSharedStore(clock)


async def test_all_pages_are_listed_from_spare_budget(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    assert replica.inventories.current(PROJECT) is NO_INVENTORY
    await replica.look()
    assert len(replica.inventories.current(PROJECT)) == 10
    assert {queue_request.priority for queue_request in replica.exchange.queue_requests} == {
        Priority.SPARE
    }
    assert len(replica.exchange.requested) == 3
    assert replica.inventories.age_s("prod") == 0.0
    await replica.single_flight.close()


async def test_replicas_share_a_listing_until_it_expires(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    first, second = (Replica(clock, store, cloud) for _ in range(2))
    await first.look()
    await second.look()
    assert (cloud.times, second.times()) == (1, "1")
    await clock.advance(30)
    await first.look()
    await second.look()
    assert cloud.times == 1
    await clock.advance(31)
    await first.look()
    await second.look()
    assert (cloud.times, first.times(), second.times()) == (2, "2", "2")
    await first.single_flight.close()
    await second.single_flight.close()


async def test_change_refreshes_at_once(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    await clock.advance(1)
    replica.inventories.refresh_soon(PROJECT)
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.single_flight.close()


async def test_failed_listing_keeps_the_inventory_until_expiry(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    for _ in range(10):
        await clock.advance(61)
        cloud.fails = [UpstreamRefused(400, "x", "no")]
        known = replica.inventories.current(PROJECT).attributes(ServerId("9"), clock.now())
        assert (known is not None) == (replica.inventories.age_s("prod") < 600)
        await replica.look()
    assert ("prod", "UpstreamRefused") in replica.telemetry.polls
    assert replica.inventories.problem(PROJECT) is ListingProblem.REJECTED
    await replica.single_flight.close()


async def test_page_waits_for_spare_budget(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    cloud.fails = [BudgetExhausted("spare", retry_after_s=0.0)] * 3
    replica = Replica(clock, store, cloud)
    looking = asyncio.ensure_future(replica.look())
    for _ in range(4):
        await settle()
        await clock.advance(0.6)
    await looking
    assert replica.times() == "1"
    await replica.single_flight.close()


async def test_saved_inventory_serves_at_start(clock: FakeClock, store: FakeSharedStore) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.times() == "1"
    damaged = Replica(clock, FakeSharedStore(clock), Cloud(), FakeSnapshotFile(b"{"))
    assert damaged.inventories.current(PROJECT) is NO_INVENTORY
    for one in (first, late, damaged):
        await one.single_flight.close()


async def test_hung_disk_delays_no_refresh(clock: FakeClock, store: FakeSharedStore) -> None:
    class Hanging(FakeSnapshotFile):
        async def save(self, update: Callable[[bytes | None], bytes]) -> None:
            await asyncio.Event().wait()

    replica = Replica(clock, store, Cloud(), Hanging())
    keeping = asyncio.create_task(replica.inventories.run("prod"))
    async with asyncio.timeout(60):
        while replica.cloud.times < 2:
            await clock.advance(1.0)
            await asyncio.sleep(0.001)  # an answer is taken apart in a thread
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await replica.single_flight.close()


async def test_nothing_is_listed_without_attribute_rules(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    replica.wanted = False
    keeping = asyncio.ensure_future(replica.inventories.run("prod"))
    await clock.advance(3)
    assert replica.exchange.requested == []
    replica.wanted = True
    while not len(replica.inventories.current(PROJECT)):  # threads take real time
        await clock.advance(1.1)
        await asyncio.sleep(0.01)
    assert len(replica.inventories.current(PROJECT)) == 10
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await replica.single_flight.close()


class SkewedClock(FakeClock):
    """A clock with the wall clock of another machine."""

    def __init__(self, clock: FakeClock, ahead_s: float) -> None:
        super().__init__()
        self._clock, self._ahead_s = clock, ahead_s

    def now(self) -> float:
        return self._clock.now() + self._ahead_s

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


@pytest.mark.parametrize("ahead_s", [86_400.0, -86_400.0])
async def test_wrong_clock_does_not_affect_other_replicas(
    clock: FakeClock, store: FakeSharedStore, ahead_s: float
) -> None:
    cloud = Cloud()
    wrong = Replica(SkewedClock(clock, ahead_s), store, cloud)
    right = Replica(clock, store, cloud)
    for times in ("1", "2"):
        await wrong.look()
        await right.look()
        assert (wrong.times(), right.times()) == (times, times)
        assert right.inventories.age_s("prod") < 2
        await clock.advance(61)
    await right.look()
    assert (cloud.times, right.times()) == (3, "3")
    await clock.advance(599)
    right.times()
    await clock.advance(1)
    assert right.inventories.current(PROJECT) is NO_INVENTORY
    await wrong.single_flight.close()
    await right.single_flight.close()


async def test_clock_set_back_extends_no_inventory(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    await replica.look()
    clock.step_wall(-86_400)
    await clock.advance(599)
    replica.times()
    await clock.advance(1)
    assert replica.inventories.current(PROJECT) is NO_INVENTORY
    await replica.look()
    assert replica.times() == "2"
    await replica.single_flight.close()


async def test_saved_inventory_of_the_future_is_ignored(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    clock.step_wall(-60)
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.inventories.current(PROJECT) is NO_INVENTORY
    await first.single_flight.close()
    await late.single_flight.close()


async def test_saved_inventory_ages_without_process(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    await clock.advance(400)
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.inventories.age_s("prod") == pytest.approx(400)
    clock.step_wall(-300)
    await clock.advance(200)
    assert late.inventories.current(PROJECT) is NO_INVENTORY
    await first.single_flight.close()
    await late.single_flight.close()


async def test_age_is_infinite_without_inventory(clock: FakeClock, store: FakeSharedStore) -> None:
    assert Replica(clock, store, Cloud()).inventories.age_s("prod") == math.inf


async def test_older_listing_never_replaces_newer_one(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    other, replica = (Replica(clock, store, cloud) for _ in range(2))
    await other.look()
    await clock.advance(5)
    store.unavailable = True
    await replica.look()
    assert replica.times() == "2"
    store.come_back()
    await clock.advance(5)
    replica.inventories.refresh_soon(PROJECT)
    await replica.look()
    assert replica.times() == "2", "listing 1 is still shared"
    await replica.look()
    assert replica.times() == "3"
    await other.single_flight.close()
    await replica.single_flight.close()


@pytest.mark.parametrize("ahead_s", [0.0, 3_600.0])
async def test_listing_begun_before_change_is_repeated(
    clock: FakeClock, store: FakeSharedStore, ahead_s: float
) -> None:
    cloud = Cloud()
    other, replica = (
        Replica(SkewedClock(clock, ahead_s), store, cloud),
        Replica(clock, store, cloud),
    )
    await replica.look()
    await clock.advance(60)
    await other.look()
    await clock.advance(0.4)
    replica.inventories.refresh_soon(PROJECT)
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.look()
    assert (cloud.times, replica.times()) == (3, "3")
    await replica.look()
    assert cloud.times == 3, "one that began afterwards does"
    await other.single_flight.close()
    await replica.single_flight.close()


async def test_listing_stored_late_keeps_its_age(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    other, replica = (Replica(clock, store, cloud) for _ in range(2))
    store.publishes_after_s = 1.6
    listing = asyncio.ensure_future(other.look())
    while not other.inventories._projects[PROJECT].own[0]:  # noqa: ASYNC110 - it is packed in a thread
        await asyncio.sleep(0.001)
    await clock.advance(0.3)
    replica.inventories.refresh_soon(PROJECT)
    await clock.advance(1.5)
    await listing
    store.publishes_after_s = 0.0
    await replica.look()
    assert (cloud.times, replica.times()) == (1, "1")
    await replica.look()
    assert cloud.times == 2, "what was listed before the change does not do"
    await other.single_flight.close()
    await replica.single_flight.close()


async def test_change_during_listing_causes_another(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    replica.exchange.gate = asyncio.Event()
    looking = asyncio.ensure_future(replica.look())
    await clock.advance(1)
    replica.inventories.refresh_soon(PROJECT)
    replica.exchange.gate.set()
    await looking
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.single_flight.close()


async def test_change_survives_failed_listing(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    await clock.advance(1)
    replica.inventories.refresh_soon(PROJECT)
    cloud.fails = [UpstreamBroken("403")]
    await replica.look()
    await clock.advance(5)
    await replica.look()
    assert replica.times() == "2"
    await replica.single_flight.close()


async def test_damaged_value_in_redis_is_replaced(clock: FakeClock, store: FakeSharedStore) -> None:
    replica = Replica(clock, store, Cloud())
    await store.claim(f"inventory-4:prod:{PROJECT}", owner="x", lease_s=9.0)
    await store.publish(
        f"inventory-4:prod:{PROJECT}", owner="x", value=b"?", ttl_s=500.0, until=4e9
    )
    await replica.look()
    assert replica.telemetry.polls == [("prod", "UpstreamBroken")]
    await clock.advance(5)
    await replica.look()
    assert replica.times() == "1"
    await replica.single_flight.close()


async def walk(replica: Replica, clock: FakeClock) -> None:
    """Look, and let time pass until that is over."""
    looking = asyncio.ensure_future(replica.look())
    while not looking.done():
        await clock.advance(0.1)
        await asyncio.sleep(0.001)
    await looking


@pytest.mark.parametrize(
    "error", [UpstreamUnreachable("503", retry_after_s=2.0), UpstreamSlow("no answer in time")]
)
async def test_temporary_page_error_is_retried(
    clock: FakeClock, store: FakeSharedStore, error: Exception
) -> None:
    cloud = Cloud()
    cloud.fails = [error, error]
    replica = Replica(clock, store, cloud)
    await walk(replica, clock)
    assert (replica.times(), len(replica.exchange.requested)) == ("1", 5)
    assert replica.inventories.problem(PROJECT) is None
    cloud.fails = [error] * 3
    await clock.advance(61)
    await walk(replica, clock)
    assert replica.telemetry.polls[-1] == ("prod", type(error).__name__)
    assert len(replica.exchange.requested) == 8
    assert replica.inventories.problem(PROJECT) is ListingProblem.UNAVAILABLE
    await replica.single_flight.close()


async def test_permanent_page_error_ends_the_listing(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    cloud.fails = [UpstreamRefused(400, "x", "no")]
    replica = Replica(clock, store, cloud)
    await replica.look()
    assert len(replica.exchange.requested) == 1
    await replica.single_flight.close()


async def test_repeated_marker_ends_the_listing(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    cloud.marker = "3"
    replica = Replica(clock, store, cloud)
    await replica.look()
    assert replica.telemetry.polls == [("prod", "UpstreamBroken")]
    assert len(replica.exchange.requested) == 2
    await replica.single_flight.close()


async def test_large_bodies_are_decoded_in_threads(
    clock: FakeClock, store: FakeSharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    class Watched:
        """Replaces the decoders that take longer with more servers."""

        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def decode(self, raw: Any) -> Any:
            threads.append(threading.current_thread())
            return self._decoder.decode(raw)

    for name in ("_LINE", "_ATTRIBUTES", "_LISTED_SERVER"):
        monkeypatch.setattr(rules, name, Watched(getattr(rules, name)))
    replica = Replica(clock, store, Cloud())
    await replica.look()
    assert len(threads) == 21
    assert threading.main_thread() not in threads
    await replica.single_flight.close()
