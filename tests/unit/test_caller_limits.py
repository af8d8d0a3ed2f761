from collections.abc import Mapping

import pytest

from gateway.errors import CallerLimited, StoreUnavailable
from gateway.flow.caller_limits import CallerLimits
from gateway.rules.pacing import Pace
from tests.support.clock import FakeClock

PACE = Pace(requests=60, per_s=60, burst=5)


class FakeUsage:
    """What all replicas counted, on one clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._tat: dict[str, float] = {}
        self.away = False

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        if self.away:
            raise StoreUnavailable("away")
        now = self._clock.monotonic()
        for caller, count in requests.items():
            self._tat[caller] = max(self._tat.get(caller, 0.0), now) + count * interval_s
        return {caller: self._tat[caller] - now for caller in requests}


def spend_all(limits: CallerLimits, caller: str) -> int:
    for count in range(1000):
        try:
            limits.admit(caller)
        except CallerLimited:
            return count
    raise AssertionError("no limit")


def test_a_burst_passes_and_one_more_is_told_when_to_come_back(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    assert spend_all(limits, "ann") == 5
    with pytest.raises(CallerLimited) as refused:
        limits.admit("ann")
    assert refused.value.retry_after_s == pytest.approx(1.0)


async def test_the_told_span_is_true(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    await clock.advance(0.99)
    with pytest.raises(CallerLimited):
        limits.admit("ann")
    await clock.advance(0.02)
    limits.admit("ann")


def test_one_caller_s_requests_do_not_count_against_another(clock: FakeClock) -> None:
    limits = CallerLimits(PACE, FakeUsage(clock), clock)
    spend_all(limits, "ann")
    assert spend_all(limits, "bob") == 5


async def test_what_was_asked_of_one_replica_counts_on_all(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    one, two = CallerLimits(PACE, usage, clock), CallerLimits(PACE, usage, clock)
    for _ in range(4):
        one.admit("ann")
    await one.sync()
    two.admit("ann")
    await two.sync()
    assert spend_all(two, "ann") == 0


async def test_a_refused_request_costs_the_caller_nothing(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    limits = CallerLimits(PACE, usage, clock)
    spend_all(limits, "ann")
    for _ in range(100):
        with pytest.raises(CallerLimited):
            limits.admit("ann")
    await limits.sync()
    await clock.advance(1.01)
    limits.admit("ann")


async def test_without_the_store_each_replica_s_own_count_goes_on(clock: FakeClock) -> None:
    usage = FakeUsage(clock)
    usage.away = True
    limits = CallerLimits(PACE, usage, clock)
    assert spend_all(limits, "ann") == 5
    with pytest.raises(StoreUnavailable):
        await limits.sync()
    assert spend_all(limits, "ann") == 0
