import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.domain.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    UpstreamBroken,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import LinkSource, QueueRequest
from gateway.flow import single_flight
from gateway.flow.shared_store import StoredValue
from gateway.flow.single_flight import Fetched, FetchResult, SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock, settle
from tests.support.shared_store import FakeSharedStore


class Fetches:
    """A fetch that ends when the test says so, and counts how often it was begun."""

    def __init__(self, clock: FakeClock, *, life_s: float = 100.0) -> None:
        self._clock = clock
        self._life_s = life_s
        self.begun = 0
        self.cancelled = 0
        self.outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Fetched:
        self.begun += 1
        try:
            value = await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Fetched(value, self._clock.monotonic() + self._life_s)


def replicas(count: int, clock: FakeClock, store: FakeSharedStore) -> list[SingleFlight]:
    return [SingleFlight(store, clock, lease_s=2.0) for _ in range(count)]


RequestValue = Callable[..., Awaitable[FetchResult]]


async def test_hundred_requests_on_three_replicas_fetch_once(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    fleet = replicas(3, clock, store)
    requested = [
        asyncio.ensure_future(fleet[i % 3].obtain("k", fetches, deadline=clock.monotonic() + 30))
        for i in range(100)
    ]
    await settle()
    fetches.outcome.set_result(b"link")
    cached_value = await asyncio.gather(*requested)
    assert fetches.begun == 1
    assert {one.value for one in cached_value} == {b"link"}
    assert [one.source for one in cached_value].count(LinkSource.UPSTREAM) == 1
    assert [one.source for one in cached_value].count(LinkSource.COALESCED) == 99


async def test_stored_value_is_not_fetched(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    fetches.outcome.set_result(b"link")
    await first.obtain("k", fetches, deadline=clock.monotonic() + 30)
    cached_value = await second.obtain("k", fetches, deadline=clock.monotonic() + 30)
    assert (cached_value.source, fetches.begun) == (LinkSource.REDIS, 1)
    assert cached_value.good_until <= clock.monotonic() + 100


async def test_value_stored_late_expires_on_time(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    store.publishes_after_s = 1.5  # it hangs, and runs what it was sent when it goes on
    caller = asyncio.ensure_future(first.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await clock.advance(1.0)
    fetches.outcome.set_result(b"link")
    await clock.advance(2.0)
    good_until = (await caller).good_until
    cached_value = await second.obtain("k", fetches, deadline=clock.monotonic() + 30)
    assert (cached_value.value, cached_value.source) == (b"link", LinkSource.REDIS)
    assert cached_value.good_until <= good_until


async def test_fetch_survives_its_first_request(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    first = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    second = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    first.cancel()
    await settle()
    fetches.outcome.set_result(b"link")
    assert (await second).value == b"link"
    assert (fetches.begun, fetches.cancelled) == (1, 0)


async def test_abandoned_fetch_passes_to_another_replica(
    clock: FakeClock,
) -> None:
    store, fetches, others = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    leaving = asyncio.ensure_future(first.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    waiting = asyncio.ensure_future(second.obtain("k", others, deadline=clock.monotonic() + 30))
    await settle()
    leaving.cancel()
    await settle()
    assert (fetches.cancelled, others.begun) == (1, 1)
    others.outcome.set_result(b"link")
    assert (await waiting).value == b"link"
    assert (first.in_flight, second.in_flight) == (0, 0)


async def test_fetch_can_run_to_completion_without_requests(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    later = clock.monotonic() + 30
    leaving = asyncio.ensure_future(
        first.obtain("k", fetches, deadline=later, run_to_completion=True)
    )
    await settle()
    leaving.cancel()
    await settle()
    assert fetches.cancelled == 0
    fetches.outcome.set_result(b"token")
    await settle()
    assert first.in_flight == 0
    cached_value = await second.obtain("k", fetches, deadline=later)
    assert (cached_value.value, fetches.begun) == (b"token", 1)


async def test_dead_holder_costs_one_lease_and_fetch(
    clock: FakeClock,
) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (living,) = replicas(1, clock, store)
    await store.claim("k", owner="dead", lease_s=2.0)
    waiting = asyncio.ensure_future(living.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    assert fetches.begun == 0
    await store.claim("k", owner="nobody", lease_s=2.0)
    store._leases.clear()  # the lease runs out while the message is never sent
    for event in store._listeners["k"]:
        event.set()
    await settle()
    assert fetches.begun == 1
    fetches.outcome.set_result(b"link")
    assert (await waiting).value == b"link"


async def test_live_holder_keeps_its_lease(
    clock: FakeClock,
) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    caller = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 60))
    for _ in range(10):
        await clock.advance(1.0)
        assert store._holder("k") is not None
    fetches.outcome.set_result(b"link")
    assert (await caller).value == b"link"


async def test_lease_survives_a_short_store_outage(
    clock: FakeClock,
) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    caller = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 60))
    await clock.advance(0.6)
    store.unavailable = True
    await clock.advance(0.1)  # over the first extension
    store.unavailable = False
    for _ in range(10):
        await clock.advance(0.5)
        assert store._holder("k") is not None
    fetches.outcome.set_result(b"link")
    assert (await caller).value == b"link"


def facts(error: BaseException) -> dict[str, Any]:
    assert isinstance(error, GatewayError)
    return {"out_of_time": error.out_of_time, **vars(error)}


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamRefused(404, "iMetal.0100", "not found"),
        BudgetExhausted("full", retry_after_s=7.5),
        UpstreamBroken("no url"),
    ],
)
async def test_failure_is_shared_by_waiting_requests(
    clock: FakeClock, failure: GatewayError
) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    fleet = replicas(3, clock, store)
    requested = [
        asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
        for replica in fleet
        for _ in range(5)
    ]
    await settle()
    fetches.outcome.set_exception(failure)
    outcomes = await asyncio.gather(*requested, return_exceptions=True)
    assert fetches.begun == 1
    assert {type(one) for one in outcomes} == {type(failure)}
    assert {str(one) for one in outcomes} == {str(failure)}
    assert [facts(one) for one in outcomes] == [facts(failure)] * 15


async def test_request_after_failure_fetches_again(clock: FakeClock) -> None:
    store, fetches, again = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    fetches.outcome.set_exception(UpstreamBroken("no url"))
    with pytest.raises(UpstreamBroken):
        await replica.obtain("k", fetches, deadline=clock.monotonic() + 30)
    again.outcome.set_result(b"link")
    assert (await replica.obtain("k", again, deadline=clock.monotonic() + 30)).value == b"link"


async def test_fresh_ignores_stored_value(clock: FakeClock) -> None:
    store, old, new = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    old.outcome.set_result(b"old")
    new.outcome.set_result(b"new")
    await replica.obtain("k", old, deadline=clock.monotonic() + 30)
    fresh = await replica.obtain("k", new, deadline=clock.monotonic() + 30, fresh=True)
    assert fresh.value == b"new"
    after = await replica.obtain("k", old, deadline=clock.monotonic() + 30)
    assert after.value == b"new"


@pytest.mark.parametrize("unusable", [None, b"another"])
async def test_fresh_accepts_concurrent_fetch(clock: FakeClock, unusable: bytes | None) -> None:
    store, old, new, none = FakeSharedStore(clock), Fetches(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    later = clock.monotonic() + 30
    old.outcome.set_result(b"old")
    await first.obtain("k", old, deadline=later)
    one = asyncio.ensure_future(first.obtain("k", new, deadline=later, fresh=True))
    await settle()
    other = asyncio.ensure_future(
        second.obtain("k", none, deadline=later, fresh=True, unusable=unusable)
    )
    await settle()
    new.outcome.set_result(b"new")
    assert [(await one).value, (await other).value] == [b"new", b"new"]
    assert none.begun == 0


async def test_fresh_ignores_stored_value_after_failure(clock: FakeClock) -> None:
    store, old, bad = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    later = clock.monotonic() + 30
    old.outcome.set_result(b"old")
    await first.obtain("k", old, deadline=later)
    requested = [
        asyncio.ensure_future(one.obtain("k", bad, deadline=later, fresh=True))
        for one in (first, second)
    ]
    await settle()
    bad.outcome.set_exception(UpstreamRefused(404, "iMetal.0100", "gone"))
    outcomes = await asyncio.gather(*requested, return_exceptions=True)
    assert [type(one) for one in outcomes] == [UpstreamRefused, UpstreamRefused]
    assert bad.begun == 1


async def test_fresh_ignores_stored_value_after_abandonment(
    clock: FakeClock,
) -> None:
    store, old, left, new = FakeSharedStore(clock), Fetches(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    later = clock.monotonic() + 30
    old.outcome.set_result(b"old")
    await first.obtain("k", old, deadline=later)
    leaving = asyncio.ensure_future(first.obtain("k", left, deadline=later, fresh=True))
    await settle()
    caller = asyncio.ensure_future(second.obtain("k", new, deadline=later, fresh=True))
    await settle()
    leaving.cancel()
    await settle()
    new.outcome.set_result(b"new")
    cached_value = await caller
    assert (cached_value.value, cached_value.source) == (b"new", LinkSource.UPSTREAM)


async def test_unusable_value_is_replaced_by_one_fetch(clock: FakeClock) -> None:
    store, first, second = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    fleet = replicas(3, clock, store)
    first.outcome.set_result(b"token 1")
    await fleet[0].obtain("k", first, deadline=clock.monotonic() + 30)
    requested = [
        asyncio.ensure_future(
            replica.obtain("k", second, deadline=clock.monotonic() + 30, unusable=b"token 1")
        )
        for replica in fleet
    ]
    await settle()
    second.outcome.set_result(b"token 2")
    cached_value = await asyncio.gather(*requested)
    assert {one.value for one in cached_value} == {b"token 2"}
    assert second.begun == 1
    late = await fleet[0].obtain("k", second, deadline=clock.monotonic() + 30, unusable=b"token 1")
    assert (late.value, second.begun) == (b"token 2", 1)


async def test_each_replica_fetches_once_without_store(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    store.unavailable = True
    fleet = replicas(2, clock, store)
    requested = [
        asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
        for replica in fleet
        for _ in range(10)
    ]
    await settle()
    fetches.outcome.set_result(b"link")
    assert {cached_value.value for cached_value in await asyncio.gather(*requested)} == {b"link"}
    assert fetches.begun == 2


async def test_store_lost_while_waiting_blocks_no_request(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    await store.claim("k", owner="elsewhere", lease_s=2.0)
    waiting = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    store.unavailable = True
    for event in store._listeners["k"]:
        event.set()
    await settle()
    fetches.outcome.set_result(b"link")
    assert (await waiting).value == b"link"


async def test_store_lost_while_fetching_returns_value(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    caller = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    store.unavailable = True
    fetches.outcome.set_result(b"link")
    assert (await caller).value == b"link"


async def test_request_at_its_deadline_leaves_the_fetch(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    with pytest.raises(DeadlineExceeded):
        await replica.obtain("k", fetches, deadline=clock.monotonic() + 0.01)
    await settle()
    assert replica.in_flight == 0
    assert store._holder("k") is None


async def test_cancellation_at_any_point_leaves_nothing(clock: FakeClock) -> None:
    for steps in range(40):
        store, fetches = FakeSharedStore(clock), Fetches(clock)
        (replica,) = replicas(1, clock, store)
        caller = asyncio.ensure_future(
            replica.obtain("k", fetches, deadline=clock.monotonic() + 30)
        )
        for step in range(steps):
            if step == 10:
                fetches.outcome.set_result(b"link")
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await settle()
        assert replica.in_flight == 0, steps
        assert store._holder("k") is None, steps
        assert not store._listeners["k"] if "k" in store._listeners else True, steps


async def test_recovered_store_is_claimed_during_local_fetch(clock: FakeClock) -> None:
    store, their_fetches, mine = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    store.unavailable = True
    waiting = asyncio.ensure_future(second.obtain("k", mine, deadline=clock.monotonic() + 30))
    await settle()
    assert mine.begun == 1, "it waits for its slot"
    store.unavailable = False
    their_fetches.outcome.set_result(b"their link")
    await first.obtain("k", their_fetches, deadline=clock.monotonic() + 30)
    store.come_back()
    assert (await waiting).value == b"their link"
    await settle()
    assert mine.cancelled == 1


async def test_local_fetch_is_published_after_recovery(clock: FakeClock) -> None:
    store, fetches, others = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    store.unavailable = True
    waiting = asyncio.ensure_future(first.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    store.come_back()
    await settle()
    fetches.outcome.set_result(b"link")
    assert (await waiting).value == b"link"
    cached_value = await second.obtain("k", others, deadline=clock.monotonic() + 30)
    assert (cached_value.value, cached_value.source) == (b"link", LinkSource.REDIS)
    assert (fetches.begun, others.begun) == (1, 0)


async def test_disconnect_without_store_ends_the_fetch(clock: FakeClock) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    (replica,) = replicas(1, clock, store)
    store.unavailable = True
    leaving = asyncio.ensure_future(replica.obtain("k", fetches, deadline=clock.monotonic() + 30))
    await settle()
    leaving.cancel()
    await settle()
    assert (fetches.begun, fetches.cancelled, replica.in_flight) == (1, 1, 0)


def out_of_time(error: GatewayError) -> GatewayError:
    error.out_of_time = True
    return error


@pytest.mark.parametrize(
    "failure",
    [
        BudgetExhausted("too late for this one", retry_after_s=5.0),
        DeadlineExceeded("too late for this one"),
        out_of_time(UpstreamSlow("no answer in time")),
        out_of_time(UpstreamUnreachable("no time is left to try again", retry_after_s=5.0)),
    ],
)
async def test_holder_deadline_does_not_fail_longer_requests(
    clock: FakeClock, failure: GatewayError
) -> None:
    store, short, long = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    soon, later = clock.monotonic() + 1, clock.monotonic() + 30
    hasty = asyncio.ensure_future(first.obtain("k", short, deadline=soon))
    await settle()
    patient = [
        asyncio.ensure_future(one.obtain("k", long, deadline=later)) for one in (first, second)
    ]
    await settle()
    short.outcome.set_exception(failure)
    with pytest.raises(type(failure)):
        await hasty
    await settle()
    long.outcome.set_result(b"link")
    assert [one.value for one in await asyncio.gather(*patient)] == [b"link", b"link"]
    assert (short.begun, long.begun) == (1, 1)


@pytest.mark.parametrize(
    "failure",
    [UpstreamSlow("no answer in time"), UpstreamUnreachable("reset", retry_after_s=2.0)],
)
async def test_failure_unrelated_to_time_is_not_retried(
    clock: FakeClock, failure: GatewayError
) -> None:
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    hasty = asyncio.ensure_future(first.obtain("k", fetches, deadline=clock.monotonic() + 1))
    await settle()
    later = clock.monotonic() + 30
    patient = [
        asyncio.ensure_future(one.obtain("k", fetches, deadline=later)) for one in (first, second)
    ]
    await settle()
    fetches.outcome.set_exception(failure)
    outcomes = await asyncio.gather(hasty, *patient, return_exceptions=True)
    assert [type(one) for one in outcomes] == [type(failure)] * 3
    assert fetches.begun == 1


async def test_shared_failure_keeps_its_time_limit(clock: FakeClock) -> None:
    """A request with more time than its holder joins a fetch started on another replica."""
    store, short, long = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    soon, later = clock.monotonic() + 1, clock.monotonic() + 30
    hasty = []
    for one in (first, second):
        hasty.append(asyncio.ensure_future(one.obtain("k", short, deadline=soon)))
        await settle()
    patient = asyncio.ensure_future(second.obtain("k", long, deadline=later))
    await settle()
    short.outcome.set_exception(out_of_time(UpstreamSlow("no answer in time")))
    outcomes = await asyncio.gather(*hasty, return_exceptions=True)
    assert [type(one) for one in outcomes] == [UpstreamSlow, UpstreamSlow]
    await settle()
    long.outcome.set_result(b"link")
    assert (await patient).value == b"link"
    assert (short.begun, long.begun) == (1, 1)


def test_values_are_in_no_repr() -> None:
    shown = (
        Fetched(b"canary", 1.0),
        FetchResult(b"canary", 1.0, LinkSource.REDIS),
        StoredValue(b"canary", 1.0, b"version"),
    )
    assert "canary" not in repr(shown)


class WearyClock(FakeClock):
    """Fails a loop that reads the clock without end."""

    def __init__(self) -> None:
        super().__init__()
        self._timeouts = 5_000

    def monotonic(self) -> float:
        self._timeouts -= 1
        assert self._timeouts > 0, "a request loops without end"
        return super().monotonic()


async def test_request_at_failure_starts_another_fetch() -> None:
    """An ended fetch remains for one iteration of the event loop."""
    clock = WearyClock()
    replica = SingleFlight(FakeSharedStore(clock), clock)
    may_fail = asyncio.Event()
    begun = 0

    async def fetch() -> Fetched:
        nonlocal begun
        begun += 1
        if begun == 1:
            await may_fail.wait()
            raise BudgetExhausted("no slot in time", retry_after_s=1.0)
        return Fetched(b"link", clock.monotonic() + 100)

    async def comes(turns_later: int) -> FetchResult:
        await may_fail.wait()
        for _ in range(turns_later):
            await asyncio.sleep(0)
        return await replica.obtain("k", fetch, deadline=clock.monotonic() + 20)

    first = asyncio.ensure_future(replica.obtain("k", fetch, deadline=clock.monotonic() + 1))
    others = [asyncio.ensure_future(comes(turns)) for turns in range(20)]
    await settle()
    may_fail.set()
    assert [cached_value.value for cached_value in await asyncio.gather(*others)] == [b"link"] * 20
    with pytest.raises(BudgetExhausted):
        await first
    assert begun == 2


def requesting(
    replica: SingleFlight, fetches: Fetches, clock: FakeClock, waiters: Waiters | None
) -> "asyncio.Task[FetchResult]":
    requested = replica.obtain("k", fetches, deadline=clock.monotonic() + 30, waiters=waiters)
    return asyncio.create_task(requested)


async def hang_up(*requested: "asyncio.Task[FetchResult]") -> None:
    for one in requested:
        one.cancel()
    await asyncio.gather(*requested, return_exceptions=True)


async def test_fetch_sees_current_waiters(clock: FakeClock) -> None:
    fetches = Fetches(clock)
    (replica,) = replicas(1, clock, FakeSharedStore(clock))
    waiters = Waiters(QueueRequest("ann"))
    ann = requesting(replica, fetches, clock, waiters)
    await settle()
    assert waiters.all == (QueueRequest("ann"),)
    bob = requesting(replica, fetches, clock, Waiters(QueueRequest("bob")))
    unknown = requesting(replica, fetches, clock, None)
    await settle()
    assert waiters.all == (QueueRequest("ann"), QueueRequest("bob"))
    await hang_up(ann)
    assert waiters.all == (QueueRequest("bob"),)
    fetches.outcome.set_result(b"link")
    await asyncio.gather(bob, unknown)
    assert (waiters.all, fetches.begun) == ((), 1)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report waiters without a pause, because the pause uses the event loop's clock."""
    monkeypatch.setattr(single_flight, "_REPORT_AFTER_S", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_fetch_sees_waiters_of_other_replicas(clock: FakeClock) -> None:
    store, fetches, none = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    waiters = Waiters(QueueRequest("ann"))
    ann = requesting(first, fetches, clock, waiters)
    await settle()
    bob, eve = (
        requesting(second, none, clock, Waiters(request))
        for request in (QueueRequest("bob"), QueueRequest("eve", 4))
    )
    await settle()
    assert waiters.all == (QueueRequest("ann"), QueueRequest("bob"), QueueRequest("eve", 4))
    await hang_up(bob)
    await settle()
    assert waiters.all == (QueueRequest("ann"), QueueRequest("eve", 4))
    await hang_up(eve)
    await settle()
    assert waiters.all == (QueueRequest("ann"),), "the last disconnect is reported"
    fetches.outcome.set_result(b"link")
    assert (await ann).value == b"link"
    assert (fetches.begun, none.begun) == (1, 0)


@pytest.mark.usefixtures("at_once")
async def test_next_holder_sees_remaining_waiters_only(clock: FakeClock) -> None:
    store, fetches, later = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    waiters = Waiters(QueueRequest("bob"))
    ann = requesting(first, fetches, clock, Waiters(QueueRequest("ann")))
    await settle()
    bob = requesting(second, later, clock, waiters)
    eve = requesting(second, later, clock, Waiters(QueueRequest("eve")))
    await settle()
    await hang_up(ann)  # its process held the lease
    await settle()
    assert later.begun == 1
    again = requesting(first, fetches, clock, Waiters(QueueRequest("ann")))
    await settle()
    await hang_up(eve)
    await settle()
    assert waiters.all == (QueueRequest("bob"), QueueRequest("ann")), (
        "what it said itself does not bind it"
    )
    later.outcome.set_result(b"link")
    assert [(await one).value for one in (bob, again)] == [b"link", b"link"]


@pytest.mark.usefixtures("at_once")
async def test_lost_waiter_message_is_harmless(clock: FakeClock) -> None:
    store, fetches, none = FakeSharedStore(clock), Fetches(clock), Fetches(clock)
    first, second = replicas(2, clock, store)
    waiters = Waiters(QueueRequest("ann"))
    store.messages_lost = True
    ann = requesting(first, fetches, clock, waiters)
    await settle()
    bob = requesting(second, none, clock, Waiters(QueueRequest("bob")))
    await settle()
    assert waiters.all == (QueueRequest("ann"),)
    store.messages_lost = False
    fetches.outcome.set_result(b"link")
    assert [(await one).value for one in (ann, bob)] == [b"link", b"link"]
    assert (fetches.begun, none.begun) == (1, 0)


async def test_fetch_without_waiters_sends_no_message(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_flight, "_REPORT_AFTER_S", 0.0)
    store, fetches = FakeSharedStore(clock), Fetches(clock)
    reported: list[bytes] = []
    monkeypatch.setattr(
        store, "notify_holder", lambda *_, **reported_: reported.append(reported_["text"])
    )
    first, second = replicas(2, clock, store)
    requested = [requesting(one, fetches, clock, None) for one in (first, second)]
    await settle()
    await hang_up(requested[1])
    await settle()
    assert reported == []
    fetches.outcome.set_result(b"link")
    await requested[0]
