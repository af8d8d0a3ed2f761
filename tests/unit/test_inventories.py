"""The inventory is listed from spare budget, once for all replicas, and its age is known."""

import asyncio
import json
import zlib
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.errors import BudgetExhausted, UpstreamUnreachable
from gateway.flow.inventories import InventoryAccount, KeptInventories
from gateway.flow.shared_flight import SharedFlight
from gateway.model import Priority, ProjectId, ServerId, UpstreamRequest
from gateway.rules.inventory import NO_INVENTORY
from tests.support.clock import FakeClock, settle
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.shared_store import FakeSharedStore
from tests.support.telemetry import RecordingTelemetry

PROJECT = ProjectId("p")


class Cloud:
    """Ten servers in pages of four; each is tagged with how often it was listed."""

    def __init__(self) -> None:
        self.times = 0
        self.fails: list[Exception] = []

    def __call__(self, request: UpstreamRequest) -> bytes:
        if self.fails:
            raise self.fails.pop()
        query = parse_qs(urlsplit(request.path).query)
        start = int(query["marker"][0]) + 1 if "marker" in query else 0
        if start == 0:
            self.times += 1
        tags = [{"key": "times", "value": str(self.times)}]
        page = [{"id": str(i), "tags": tags} for i in range(start, min(start + 4, 10))]
        more = page[-1]["id"] if start + 4 < 10 else None
        return json.dumps({"servers": page, "page_info": {"next_marker": more}}).encode()


class KeptHere:
    def __init__(self, value: bytes | None = None) -> None:
        self.value = value

    def load(self) -> bytes | None:
        return self.value

    async def save(self, value: bytes) -> None:
        self.value = value


class Replica:
    def __init__(
        self, clock: FakeClock, store: FakeSharedStore, cloud: Cloud, file: KeptHere | None = None
    ) -> None:
        self.clock, self.wanted = clock, True
        self.exchange = FakeExchange(cloud)
        self.telemetry = RecordingTelemetry()
        self.flight = SharedFlight(store, clock)
        files = {} if file is None else {PROJECT: file}
        account = InventoryAccount(
            "prod", as_exchange(self.exchange), (PROJECT,), 60.0, 600.0, files
        )
        self.kept = KeptInventories(
            [account],
            is_wanted=lambda: self.wanted,
            shared=self.flight,
            clock=clock,
            telemetry=self.telemetry,
        )

    async def look(self) -> None:
        one = self.kept._kept[PROJECT]
        if self.clock.monotonic() >= one.due_at:
            await self.kept._look(PROJECT, one)

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
    assert {demand.priority for demand in replica.exchange.demands} == {Priority.SPARE}
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
        cloud.fails = [UpstreamUnreachable("gone", retry_after_s=1.0)]
        known = replica.kept.current(PROJECT).attributes(ServerId("9"), clock.now())
        assert (known is not None) == (replica.kept.age_s("prod") < 600)
        await replica.look()
    assert ("prod", "UpstreamUnreachable") in replica.telemetry.polls
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
    file = KeptHere()
    first = Replica(clock, store, Cloud(), file)
    await first.look()
    late = Replica(clock, FakeSharedStore(clock), Cloud(), file)
    assert late.times() == "1"
    damaged = Replica(clock, FakeSharedStore(clock), Cloud(), KeptHere(zlib.compress(b"{")))
    assert damaged.kept.current(PROJECT) is NO_INVENTORY
    for one in (first, late, damaged):
        await one.flight.close()


async def test_nothing_is_listed_while_no_rule_goes_by_attributes(
    clock: FakeClock, store: FakeSharedStore
) -> None:
    replica = Replica(clock, store, Cloud())
    replica.wanted = False
    keeping = asyncio.ensure_future(replica.kept.keep("prod"))
    await clock.advance(3)
    assert replica.exchange.asked == []
    replica.wanted = True
    for _ in range(3):
        await clock.advance(1.1)
        await settle()
    assert len(replica.kept.current(PROJECT)) == 10
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await replica.flight.close()
