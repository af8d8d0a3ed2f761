from collections.abc import Mapping

import pytest

from gateway.domain.errors import CallerLimited, StoreUnavailable
from gateway.domain.queue.pacing import Pace
from gateway.flow.caller_limits import CallerLimits, Remaining
from tests.support.clock import FakeClock

PACE = Pace(requests=60, per_s=60, burst=5)


class FakeUsage:
    """The counts of all replicas, on one clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._tat: dict[str, float] = {}
        self.unavailable = False

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        if self.unavailable:
            raise StoreUnavailable("away")
        now = self._clock.monotonic()
        for caller, count in requests.items():
            tat = max(self._tat.get(caller, 0.0), now) + count * interval_s
            self._tat[caller] = max(tat, now)
        return {caller: self._tat[caller] - now for caller in requests}


def spend_all(limits: CallerLimits, caller: str) -> int:
    for count in range(1000):
        try:
            limits.admit(caller)
        except CallerLimited:
            return count
    raise AssertionError("no limit")


def test_request_beyond_burst_gets_retry_after(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    assert spend_all(limits, "ann") == 5
    with pytest.raises(CallerLimited) as refused:
        limits.admit("ann")
    assert refused.value.retry_after_s == pytest.approx(1.0)


async def test_retry_after_is_exact(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    await clock.advance(0.99)
    with pytest.raises(CallerLimited):
        limits.admit("ann")
    await clock.advance(0.02)
    limits.admit("ann")


def test_callers_have_separate_limits(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    assert spend_all(limits, "bob") == 5


async def test_requests_count_on_all_replicas(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    one, two = CallerLimits(PACE, usage, clock), CallerLimits(PACE, usage, clock)
    for _ in range(4):
        one.admit("ann")
    await one.sync()
    two.admit("ann")
    await two.sync()
    assert spend_all(two, "ann") == 0


async def test_rejected_request_is_not_counted(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    limits = CallerLimits(PACE, usage, clock)
    spend_all(limits, "ann")
    for _ in range(100):
        with pytest.raises(CallerLimited):
            limits.admit("ann")
    await limits.sync()
    await clock.advance(1.01)
    limits.admit("ann")


@pytest.mark.parametrize("syncs", [False, True])
async def test_request_that_is_taken_back_does_not_count(clock: FakeClock, syncs: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    usage = FakeUsage(clock)
    limits, other = (CallerLimits(PACE, usage, clock) for _ in range(2))
    for _ in range(100):
        limits.admit("ann")
        if syncs:
            await limits.sync()
        limits.take_back("ann")
    await limits.sync()
    assert limits.remaining("ann") == Remaining(5, 0)
    assert spend_all(limits, "ann") == 5
    await limits.sync()
    other.admit("ann")
    await other.sync()
    assert other.remaining("ann").requests == 0


async def test_own_count_continues_without_store(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    usage.unavailable = True
    limits = CallerLimits(PACE, usage, clock)
    assert spend_all(limits, "ann") == 5
    with pytest.raises(StoreUnavailable):
        await limits.sync()
    assert spend_all(limits, "ann") == 0


def test_new_caller_has_the_whole_burst(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    assert limits.remaining("ann") == Remaining(5, 0)
    assert limits.remaining("ann") == Remaining(5, 0)


@pytest.mark.parametrize("per_s", [0.07, 1.0, 60.0, 61.3])
@pytest.mark.parametrize("burst", [1, 2, 5, 40])
async def test_remaining_requests_are_admitted(clock: FakeClock, per_s: float, burst: int) -> None:
    limits = CallerLimits(Pace(3, per_s, burst), FakeUsage(clock), clock)
    await clock.advance(0.123)
    for left in range(burst, 0, -1):
        assert limits.remaining("ann").requests == left
        limits.admit("ann")
    assert limits.remaining("ann").requests == 0
    with pytest.raises(CallerLimited):
        limits.admit("ann")


async def test_remaining_grows_by_one_per_interval(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    reported = [limits.remaining("ann")]
    for _ in range(6):
        await clock.advance(1.0)
        reported.append(limits.remaining("ann"))
    assert reported == [(0, 5), (1, 4), (2, 3), (3, 2), (4, 1), (5, 0), (5, 0)]


async def test_reset_rounds_up_and_requests_down(
    clock: FakeClock,
) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    await clock.advance(1.5)
    assert limits.remaining("ann") == Remaining(1, 4)


async def test_rejection_does_not_change_remaining(clock: FakeClock) -> None:
    limits = CallerLimits(Pace(1, 10, 1), FakeUsage(clock), clock)
    limits.admit("ann")
    for _ in range(3):
        with pytest.raises(CallerLimited):
            limits.admit("ann")
        assert limits.remaining("ann") == Remaining(0, 10)
    await clock.advance(10)
    assert limits.remaining("ann") == Remaining(1, 0)


async def test_remaining_includes_other_replicas(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    one, two = CallerLimits(PACE, usage, clock), CallerLimits(PACE, usage, clock)
    for _ in range(4):
        one.admit("ann")
    await one.sync()
    two.admit("ann")
    assert two.remaining("ann") == Remaining(4, 1)
    await two.sync()
    assert two.remaining("ann") == Remaining(0, 5)


async def test_remaining_is_never_negative(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    one, two = CallerLimits(PACE, usage, clock), CallerLimits(PACE, usage, clock)
    for limits in (one, two):
        spend_all(limits, "ann")
        await limits.sync()
    assert two.remaining("ann") == Remaining(0, 10)


def test_unlimited_rate_leaves_the_burst(clock: FakeClock) -> None:
    limits = CallerLimits(Pace(float("inf"), 60, 5), FakeUsage(clock), clock)
    limits.admit("ann")
    assert limits.remaining("ann") == Remaining(5, 0)
