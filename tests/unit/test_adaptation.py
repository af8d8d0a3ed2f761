"""The rate learned from 429s, against clouds that do not name their limit."""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from gateway.domain.queue.adaptation import LearnedRate, after_429, after_calls, rate

CEILING = 9.7


def test_rate_without_429_is_the_ceiling() -> None:
    assert rate(None, CEILING, 0.0) == CEILING


def test_429_cuts_once_over_all_replicas() -> None:
    first = after_429(None, CEILING, 100.0, pause_s=3.0, named_rate=None)
    assert rate(first, CEILING, 100.0) == pytest.approx(0.9 * CEILING)
    for late_s in (0.0, 0.1, 2.9):
        assert after_429(first, CEILING, 100.0 + late_s, pause_s=3.0, named_rate=None) is first
    assert after_429(first, CEILING, 103.1, pause_s=3.0, named_rate=None) is not first


@pytest.mark.parametrize(("reported", "expected"), [(3.0, 2.91), (100.0, 0.9 * CEILING)])
def test_named_limit_is_used_if_below_rate(reported: float, expected: float) -> None:
    learned = after_429(None, CEILING, 0.0, pause_s=1.0, named_rate=reported)
    assert rate(learned, CEILING, 0.0) == pytest.approx(expected)


def test_two_429s_measure_the_rate() -> None:
    first = after_429(None, CEILING, 0.0, pause_s=1.0, named_rate=None)
    again = after_429(after_calls(first, 20), CEILING, 5.0, pause_s=1.0, named_rate=None)
    assert again.goal == pytest.approx(4.0)


@pytest.mark.parametrize("learned", [LearnedRate(5, 4.5, 0, 1), LearnedRate(0, 0, 0, 1)])
def test_rate_grows_up_to_the_ceiling(learned: LearnedRate) -> None:
    rates = [rate(learned, CEILING, float(at)) for at in range(120)]
    assert rates == sorted(rates)
    assert rates[0] >= 0.01 * CEILING
    assert rates[10] <= learned.goal * 1.01 + 0.1
    assert rates[-1] == CEILING


def test_share_learns_like_the_whole_budget() -> None:
    whole = after_429(None, CEILING, 0.0, pause_s=1.0, named_rate=None)
    part = after_429(None, CEILING / 4, 0.0, pause_s=1.0, named_rate=None).scaled(4)
    for at in (0.0, 5.0, 20.0):
        assert rate(part, CEILING, at) == pytest.approx(rate(whole, CEILING, at))


class Simulated:
    """One saturated rate in front of a token bucket with burst 10 and latency."""

    def __init__(
        self,
        limit: Callable[[float], float],
        *,
        seed: int,
        foreign: float = 0.0,
        names_limit: bool = False,
        span_s: float = 180.0,
    ) -> None:
        chance, order = random.Random(seed), itertools.count()
        self.good: list[float] = []
        self.bad: list[float] = []
        self.foreign_good = 0
        learned, paused_until, level, filled_at = None, 0.0, 10.0, 0.0
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
                later(now + chance.uniform(0.01, 0.03), "arrival")
                later(now + 1 / rate(learned, CEILING, now), "slot")
            elif kind == "told":
                reported = limit(now) if names_limit else None
                learned = after_429(learned, CEILING, now, pause_s=1.0, named_rate=reported)
                paused_until = max(paused_until, now + 1.0)
            else:
                level, filled_at = min(10.0, level + (now - filled_at) * limit(now)), now
                passes = level >= 1.0
                level -= passes
                if kind == "foreign":
                    self.foreign_good += passes
                    later(now + chance.uniform(0.7, 1.3) / foreign, "foreign")
                elif passes:
                    self.good.append(now)
                else:
                    self.bad.append(now)
                    later(now + chance.uniform(0.03, 0.1), "told")

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
def test_limit_drop_costs_few_429s_and_recovers(seed: int, *, names_limit: bool) -> None:
    run = Simulated(
        lambda now: 3.0 if 60 <= now < 120 else 10.0, seed=seed, names_limit=names_limit
    )
    assert run.refused(60, 90) <= (2 if names_limit else 4)
    assert run.used(75, 120) >= 0.85 * 3.0
    assert run.used(150, 180) >= 0.9 * 9.7
    assert run.refused(120, 180) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("foreign", [3.0, 5.0])
def test_second_client_leaves_few_429s(seed: int, foreign: float) -> None:
    run = Simulated(lambda _: 10.0, seed=seed, foreign=foreign, span_s=300.0)
    left = 10.0 - run.foreign_good / 300.0
    assert len(run.bad) <= 0.02 * (len(run.good) + len(run.bad))
    assert run.used(30, 300) >= 0.9 * left
