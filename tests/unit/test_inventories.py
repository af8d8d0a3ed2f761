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
from gateway.flow.inventories import CachedInventories, InventoryAccount
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
        self.flight = SingleFlight(store, clock)
        files = {} if file is None else {PROJECT: file}
        account = InventoryAccount(
            "prod", as_exchange(self.exchange), (PROJECT,), 60.0, 600.0, files
        )
        self.kept = CachedInventories(
            [account],
            is_needed=lambda: self.wanted,
            shared=self.flight,
            clock=clock,
            telemetry=self.telemetry,
        )

    async def look(self) -> None:
        one = self.kept._projects[PROJECT]
        if self.clock.monotonic() >= one.due_at:
            await self.kept._refresh(PROJECT, one)

    async def keep(self) -> None:
        """Look, and go on until the file holds what was seen."""
        keeping = asyncio.create_task(self.kept.run("prod"))
        file = self.kept._projects[PROJECT].account.files[PROJECT]
        async with asyncio.timeout(10):
            while file.load() is None:  # noqa: ASYNC110 - it is written in a thread
                await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    def times(self) -> str:
        known = self.kept.current(PROJECT).attributes(ServerId("9"), self.clock.now())
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
    assert replica.kept.current(PROJECT) is NO_INVENTORY
    await replica.look()
    assert len(replica.kept.current(PROJECT)) == 10
    assert {queue_request.priority for queue_request in replica.exchange.queue_requests} == {
        Priority.SPARE
    }
    assert len(replica.exchange.asked) == 3
    assert replica.kept.age_s("prod") == 0.0
    await replica.flight.close()


async def test_replicas_share_one_look_and_look_again_when_it_is_old(
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
    await first.flight.close()
    await second.flight.close()


async def test_a_change_is_looked_at_at_once(clock: FakeClock, store: FakeSharedStore) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    await clock.advance(1)
    replica.kept.refresh_soon(PROJECT)
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.flight.close()


async def test_a_failed_look_keeps_what_is_known_until_it_is_too_old(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    for _ in range(10):
        await clock.advance(61)
        cloud.fails = [UpstreamRefused(400, "x", "no")]
        known = replica.kept.current(PROJECT).attributes(ServerId("9"), clock.now())
        assert (known is not None) == (replica.kept.age_s("prod") < 600)
        await replica.look()
    assert ("prod", "UpstreamRefused") in replica.telemetry.polls
    await replica.flight.close()


async def test_a_page_waits_for_budget_that_nobody_needs(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    cloud.fails = [BudgetExhausted("spare", retry_after_s=0.0)] * 3
    replica = Replica(clock, store, cloud)
    looking = asyncio.ensure_future(replica.look())
    for _ in range(4):
        await settle()
        await clock.advance(0.6)
    await looking
    assert replica.times() == "1"
    await replica.flight.close()


async def test_what_is_kept_in_a_file_serves_at_the_start(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.times() == "1"
    damaged = Replica(clock, FakeSharedStore(clock), Cloud(), FakeSnapshotFile(b"{"))
    assert damaged.kept.current(PROJECT) is NO_INVENTORY
    for one in (first, late, damaged):
        await one.flight.close()


async def test_no_look_waits_for_a_file_whose_disk_hangs(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    class Hanging(FakeSnapshotFile):
        async def save(self, update: Callable[[bytes | None], bytes]) -> None:
            await asyncio.Event().wait()

    replica = Replica(clock, store, Cloud(), Hanging())
    keeping = asyncio.create_task(replica.kept.run("prod"))
    async with asyncio.timeout(10):
        while replica.cloud.times < 2:
            await clock.advance(1.0)
            await asyncio.sleep(0.001)  # an answer is taken apart in a thread
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await replica.flight.close()


async def test_nothing_is_listed_while_no_rule_goes_by_attributes(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    replica.wanted = False
    keeping = asyncio.ensure_future(replica.kept.run("prod"))
    await clock.advance(3)
    assert replica.exchange.asked == []
    replica.wanted = True
    while not len(replica.kept.current(PROJECT)):  # threads take real time
        await clock.advance(1.1)
        await asyncio.sleep(0.01)
    assert len(replica.kept.current(PROJECT)) == 10
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await replica.flight.close()


class SkewedClock(FakeClock):
    """The wall clock of another machine; all else is as on the first."""

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
async def test_a_replica_with_a_wrong_clock_neither_freezes_nor_spoils_what_others_know(
    clock: FakeClock, store: FakeSharedStore, ahead_s: float
) -> None:
    cloud = Cloud()
    wrong = Replica(SkewedClock(clock, ahead_s), store, cloud)
    right = Replica(clock, store, cloud)
    for times in ("1", "2"):
        await wrong.look()
        await right.look()
        assert (wrong.times(), right.times()) == (times, times)
        assert right.kept.age_s("prod") < 2
        await clock.advance(61)
    await right.look()
    assert (cloud.times, right.times()) == (3, "3")
    await clock.advance(599)
    right.times()
    await clock.advance(1)
    assert right.kept.current(PROJECT) is NO_INVENTORY
    await wrong.flight.close()
    await right.flight.close()


async def test_a_clock_set_back_makes_nothing_live_longer(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    await replica.look()
    clock.step_wall(-86_400)
    await clock.advance(599)
    replica.times()
    await clock.advance(1)
    assert replica.kept.current(PROJECT) is NO_INVENTORY
    await replica.look()
    assert replica.times() == "2"
    await replica.flight.close()


async def test_a_file_written_before_the_clock_was_set_back_is_of_unknown_age(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    clock.step_wall(-60)
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.kept.current(PROJECT) is NO_INVENTORY
    await first.flight.close()
    await late.flight.close()


async def test_what_is_kept_in_a_file_ages_while_nobody_runs(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    file = FakeSnapshotFile()
    first = Replica(clock, store, Cloud(), file)
    await first.keep()
    await clock.advance(400)
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.kept.age_s("prod") == pytest.approx(400)
    clock.step_wall(-300)
    await clock.advance(200)
    assert late.kept.current(PROJECT) is NO_INVENTORY
    await first.flight.close()
    await late.flight.close()


async def test_the_age_is_infinite_while_there_is_none(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    assert Replica(clock, store, Cloud()).kept.age_s("prod") == math.inf


async def test_an_older_listing_never_takes_the_place_of_a_newer_one(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    other, replica = (Replica(clock, store, cloud) for _ in range(2))
    await other.look()
    await clock.advance(5)
    store.away = True
    await replica.look()
    assert replica.times() == "2"
    store.come_back()
    await clock.advance(5)
    replica.kept.refresh_soon(PROJECT)
    await replica.look()
    assert replica.times() == "2", "listing 1 is still shared"
    await replica.look()
    assert replica.times() == "3"
    await other.flight.close()
    await replica.flight.close()


@pytest.mark.parametrize("ahead_s", [0.0, 3_600.0])
async def test_a_listing_that_another_began_before_the_change_does_not_do(
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
    replica.kept.refresh_soon(PROJECT)
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.look()
    assert (cloud.times, replica.times()) == (3, "3")
    await replica.look()
    assert cloud.times == 3, "one that began afterwards does"
    await other.flight.close()
    await replica.flight.close()


async def test_a_listing_that_reaches_redis_late_is_none_the_newer(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    other, replica = (Replica(clock, store, cloud) for _ in range(2))
    store.publishes_after_s = 1.6
    listing = asyncio.ensure_future(other.look())
    while not other.kept._projects[PROJECT].own[0]:  # noqa: ASYNC110 - it is packed in a thread
        await asyncio.sleep(0.001)
    await clock.advance(0.3)
    replica.kept.refresh_soon(PROJECT)
    await clock.advance(1.5)
    await listing
    store.publishes_after_s = 0.0
    await replica.look()
    assert (cloud.times, replica.times()) == (1, "1")
    await replica.look()
    assert cloud.times == 2, "what was listed before the change does not do"
    await other.flight.close()
    await replica.flight.close()


async def test_a_change_during_a_look_asks_for_another(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    replica.exchange.gate = asyncio.Event()
    looking = asyncio.ensure_future(replica.look())
    await clock.advance(1)
    replica.kept.refresh_soon(PROJECT)
    replica.exchange.gate.set()
    await looking
    await replica.look()
    assert (cloud.times, replica.times()) == (2, "2")
    await replica.flight.close()


async def test_a_change_is_not_forgotten_when_the_look_fails(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    replica = Replica(clock, store, cloud)
    await replica.look()
    await clock.advance(1)
    replica.kept.refresh_soon(PROJECT)
    cloud.fails = [UpstreamBroken("403")]
    await replica.look()
    await clock.advance(5)
    await replica.look()
    assert replica.times() == "2"
    await replica.flight.close()


async def test_a_damaged_value_in_redis_is_replaced(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    await store.claim(f"inventory-2:prod:{PROJECT}", owner="x", lease_s=9.0)
    await store.publish(
        f"inventory-2:prod:{PROJECT}", owner="x", value=b"?", ttl_s=500.0, until=4e9
    )
    await replica.look()
    assert replica.telemetry.polls == [("prod", "UpstreamBroken")]
    await clock.advance(5)
    await replica.look()
    assert replica.times() == "1"
    await replica.flight.close()


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
async def test_a_page_that_fails_in_passing_is_asked_for_again(
    clock: FakeClock, store: FakeSharedStore, error: Exception
) -> None:
    cloud = Cloud()
    cloud.fails = [error, error]
    replica = Replica(clock, store, cloud)
    await walk(replica, clock)
    assert (replica.times(), len(replica.exchange.asked)) == ("1", 5)
    cloud.fails = [error] * 3
    await clock.advance(61)
    await walk(replica, clock)
    assert replica.telemetry.polls[-1] == ("prod", type(error).__name__)
    assert len(replica.exchange.asked) == 8
    await replica.flight.close()


async def test_what_does_not_pass_ends_the_walk_at_once(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    cloud.fails = [UpstreamRefused(400, "x", "no")]
    replica = Replica(clock, store, cloud)
    await replica.look()
    assert len(replica.exchange.asked) == 1
    await replica.flight.close()


async def test_a_marker_that_comes_again_ends_the_walk(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    cloud = Cloud()
    cloud.marker = "3"
    replica = Replica(clock, store, cloud)
    await replica.look()
    assert replica.telemetry.polls == [("prod", "UpstreamBroken")]
    assert len(replica.exchange.asked) == 2
    await replica.flight.close()


async def test_nothing_large_is_read_on_the_event_loop(
    clock: FakeClock, store: FakeSharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    class Watched:
        """Stands in for the decoders of what grows with the number of servers."""

        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def decode(self, raw: Any) -> Any:
            threads.append(threading.current_thread())
            return self._decoder.decode(raw)

    for name in ("_SNAPSHOT", "_STORED_SERVER", "_LISTED_SERVER"):
        monkeypatch.setattr(rules, name, Watched(getattr(rules, name)))
    replica = Replica(clock, store, Cloud())
    await replica.look()
    assert len(threads) == 21
    assert threading.main_thread() not in threads
    await replica.flight.close()
