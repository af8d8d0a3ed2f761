"""The rate learned from 429s, against clouds that do not name their limit."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.domain.queue.adaptation import (
    LearnedRate,
    after_429,
    after_calls,
    bare_pause_s,
    rate,
)

CEILING = 9.7


def test_rate_without_429_is_the_ceiling() -> None:
    assert rate(None, CEILING, 0.0) == CEILING


def throttled(learned: LearnedRate | None, at: float, pause_s: float = 1.0) -> LearnedRate:
    return after_429(learned, CEILING, at, pause_s=pause_s, named_rate=None)


def learned_rate(
    goal: float, *, calls: int = 0, last: tuple[int, float] = (0, 0.0), probe: float = 0.0
) -> LearnedRate:
    """Return a measured rate whose pause of 1 s ended at 0."""
    return LearnedRate(goal, 10.0, -1.0, 0.0, calls, *last, probe)


def test_429_cuts_once_over_all_replicas() -> None:
    first = throttled(None, 100.0, 3.0)
    assert rate(first, CEILING, 100.0) == pytest.approx(0.9 * CEILING)
    for late_s in (0.0, 0.1, 2.9):
        assert throttled(first, 100.0 + late_s) is first
    assert throttled(first, 103.1) is not first


@pytest.mark.parametrize(("reported", "expected"), [(3.0, 2.91), (100.0, 0.9 * CEILING)])
def test_named_limit_is_used_if_below_rate(reported: float, expected: float) -> None:
    learned = after_429(None, CEILING, 0.0, pause_s=1.0, named_rate=reported)
    assert rate(learned, CEILING, 0.0) == pytest.approx(expected)


def test_measured_limit_is_between_its_bounds() -> None:
    """17 accepted calls in 3 s after a pause of 1 s: the limit is above 17/4, below the rate."""
    again = throttled(learned_rate(6.0, calls=18), 3.0)
    assert 17 / 4 < again.goal < 0.96 * 6.0


def test_estimate_after_a_long_pause_is_uncertain() -> None:
    """A cloud without burst: 39 calls in 4 s, and none of what refilled during the pause."""
    for pause_s, flat_s in ((1.0, 10.0), (3.0, 3.0)):
        after_pause = replace(learned_rate(10.3, calls=40), cut_at=-pause_s, flat_s=3.0)
        assert throttled(after_pause, 4.0).flat_s == flat_s


def test_429_after_a_slight_growth_lowers_no_estimate() -> None:
    """Without a burst, the calls at the flat rate count what was sent, not the limit."""
    learned = replace(learned_rate(9.4, calls=216, last=(127, 13.5)), flat_s=20.0)
    grown = next(at / 10 for at in range(500) if rate(learned, 20.0, at / 10) > 1.035 * 9.4)
    again = after_429(learned, 20.0, grown, pause_s=1.0, named_rate=None)
    assert 9.4 <= again.goal <= 1.035 * 9.4


def test_second_interval_gives_the_limit_itself() -> None:
    """A cloud of 4/s with burst 2: 2 calls from the pause, then 4 per second."""
    first = throttled(learned_rate(6.0, calls=2 + 4 * 2 + 1), 2.0)
    assert first.goal != pytest.approx(4.0, rel=0.01)
    second = throttled(after_calls(first, 2 + 4 * 6 + 1), first.epoch_until + 6.0)
    assert second.goal == pytest.approx(4.0)


def test_late_429_of_an_event_corrects_its_measurement() -> None:
    first = throttled(learned_rate(6.0, calls=18), 3.0)
    assert throttled(first, 3.1).last_calls == first.last_calls - 1


def test_few_calls_measure_no_limit() -> None:
    """Callers used a third of the rate, so the count of calls is their demand."""
    again = throttled(learned_rate(6.0, calls=10), 5.0)
    assert rate(again, CEILING, 6.0) == pytest.approx(0.9 * 0.96 * 6.0)


def test_confirmed_limit_is_probed_less_often() -> None:
    learned = learned_rate(5.0)
    flat = []
    for _ in range(4):
        grown_at = learned.epoch_until + learned.flat_s + 6.0
        learned = throttled(after_calls(learned, 1_000), grown_at)
        flat.append(learned.flat_s)
    assert flat == [20.0, 40.0, 40.0, 40.0]
    assert learned.goal == pytest.approx(5.0, rel=0.35)


def test_growth_beyond_the_last_one_finds_a_higher_limit() -> None:
    learned = learned_rate(3.0, calls=100, probe=3.5)
    assert throttled(learned, 15.0).goal < 1.16 * 3.0
    assert throttled(learned, 21.0).goal > 1.4 * 3.0
    assert throttled(learned, 21.0).flat_s == 3.0, "a guess is checked soon"


def test_old_429_measures_nothing() -> None:
    again = throttled(learned_rate(3.0, calls=2_000), 121.0)
    assert rate(again, CEILING, 122.0) == pytest.approx(0.9 * CEILING)


@pytest.mark.parametrize("goal", [5.0, 0.001])
def test_rate_grows_up_to_the_ceiling(goal: float) -> None:
    learned = throttled(learned_rate(goal, calls=1), 0.5)
    rates = [rate(learned, CEILING, 1.5 + at) for at in range(120)]
    assert rates == sorted(rates)
    assert rates[0] == rates[2] >= 0.009 * CEILING
    assert rates[-1] == CEILING


def test_pause_is_short_only_where_calls_are_accepted() -> None:
    assert bare_pause_s(None, 0.0) == 3.0
    assert bare_pause_s(learned_rate(5.0, calls=2), 1.0) == 1.0
    assert bare_pause_s(learned_rate(5.0, calls=1), 1.0) == 3.0
    assert bare_pause_s(learned_rate(5.0, calls=900), 121.0) == 3.0
    assert bare_pause_s(learned_rate(5.0), -0.5) == 1.0, "a late 429 of the same event"


def test_share_learns_like_the_whole_budget() -> None:
    whole = after_429(None, CEILING, 0.0, pause_s=1.0, named_rate=None)
    part = after_429(None, CEILING / 4, 0.0, pause_s=1.0, named_rate=None).scaled(4)
    for at in (0.0, 5.0, 20.0):
        assert rate(part, CEILING, at) == pytest.approx(rate(whole, CEILING, at))


class Simulated:
    """One saturated rate in front of a token bucket with latency."""

    def __init__(
        self,
        limit: Callable[[float], float],
        *,
        seed: int,
        ceiling: float = CEILING,
        burst: float = 10.0,
        foreign: float = 0.0,
        names_limit: bool = False,
        span_s: float = 180.0,
    ) -> None:
        chance, order = random.Random(seed), itertools.count()
        self.good: list[float] = []
        self.bad: list[float] = []
        self.foreign_good = 0
        learned, paused_until, level, filled_at = None, 0.0, burst, 0.0
        events = [(0.0, next(order), "slot")]
        if foreign:
            events.append((0.0, next(order), "foreign"))

        def later(at: float, kind: str) -> None:
            heapq.heappush(events, (at, next(order), kind))

        while events[0][0] <= span_s:
            now, _, kind = heapq.heappop(events)
            if kind == "slot" and now < paused_until:
                later(paused_until, "slot")
            elif kind == "slot":
                learned = after_calls(learned, 1)
                later(now + chance.uniform(0.01, 0.015), "arrival")
                later(now + 1 / rate(learned, ceiling, now), "slot")
            elif kind == "answered":
                reported = limit(now) if names_limit else None
                pause_s = 1.0 if names_limit else bare_pause_s(learned, now)
                learned = after_429(learned, ceiling, now, pause_s=pause_s, named_rate=reported)
                paused_until = max(paused_until, now + pause_s)
            else:
                level, filled_at = min(burst, level + (now - filled_at) * limit(now)), now
                passes = level >= 1.0
                level -= passes
                if kind == "foreign":
                    self.foreign_good += passes
                    later(now + chance.uniform(0.7, 1.3) / foreign, "foreign")
                elif passes:
                    self.good.append(now)
                else:
                    self.bad.append(now)
                    later(now + chance.uniform(0.03, 0.1), "answered")

    def used(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.good) / (until - since)

    def refused(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.bad)


@pytest.mark.parametrize("seed", range(5))
def test_ceiling_below_limit_causes_no_429(seed: int) -> None:
    run = Simulated(lambda _: 10.0, seed=seed)
    assert not run.bad
    assert run.used(0, 180) >= 0.99 * CEILING


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("names_limit", [True, False])
@pytest.mark.parametrize(("lasts_s", "recovers_s"), [(30.0, 25.0), (60.0, 60.0)])
def test_limit_drop_costs_few_429s_and_recovers(
    lasts_s: float, recovers_s: float, seed: int, *, names_limit: bool
) -> None:
    """The longer 429s confirm a limit, the later the rate grows beyond it."""
    back = 60.0 + lasts_s
    run = Simulated(
        lambda now: 3.0 if 60 <= now < back else 10.0,
        seed=seed,
        names_limit=names_limit,
        span_s=back + recovers_s + 30.0,
    )
    assert run.refused(60, 90) <= (3 if names_limit else 5)
    assert run.used(75, back) >= 0.85 * 3.0
    assert run.used(back + recovers_s, back + recovers_s + 30.0) >= 0.9 * 9.7


@pytest.mark.parametrize("burst", [1, 5, 10, 20, 30])
@pytest.mark.parametrize("factor", [1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0])
def test_ceiling_above_limit_is_learned(factor: float, burst: int) -> None:
    """`tests/simulation/test_learned_rate.py` has the exact targets; here are many seeds."""
    met = 0
    for seed in range(10):
        run = Simulated(lambda _: 10.0, seed=seed, ceiling=10.0 * factor, burst=burst, span_s=150.0)
        since = run.bad[0] + 30.0
        used = run.used(since, since + 60.0) / 10.0
        met += used >= (0.8 if burst == 1 else 0.92) and run.refused(since, since + 60.0) <= 3
    assert met >= 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("foreign", [3.0, 5.0])
def test_second_client_leaves_few_429s(seed: int, foreign: float) -> None:
    run = Simulated(lambda _: 10.0, seed=seed, foreign=foreign, span_s=300.0)
    left = 10.0 - run.foreign_good / 300.0
    assert len(run.bad) <= 0.02 * (len(run.good) + len(run.bad))
    assert run.used(30, 300) >= 0.9 * left
