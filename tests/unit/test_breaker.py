"""The circuit breaker opens on failures and closes after a successful probe."""

import pytest

from gateway.domain.upstream.breaker import Breaker, BreakerRules, BreakerState

RULES = BreakerRules(
    calls_min=4, failure_ratio=0.5, within_s=10.0, slow_s=5.0, open_s=1.0, open_max_s=4.0
)


def a_breaker() -> Breaker:
    return Breaker(RULES, jitter=lambda: 0.5)


def call(breaker: Breaker, now: float, *, failed: bool | None, seconds: float = 0.1) -> bool:
    assert breaker.retry_after_s(now) is None
    probe = breaker.begin()
    return breaker.end(now, probe=probe, failed=failed, seconds=seconds)


def an_open_one(now: float = 0.0) -> Breaker:
    breaker = a_breaker()
    assert [call(breaker, now, failed=True) for _ in range(4)] == [False, False, False, True]
    return breaker


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ([True] * 3, False),
        ([True] * 4, True),
        ([False, False, True, True], True),
        ([False, False, False, True], False),
        ([False] * 50, False),
        ([None] * 50, False),
    ],
)
def test_opens_at_failure_ratio_of_enough_calls(
    outcomes: list[bool | None], *, opens: bool
) -> None:
    breaker = a_breaker()
    assert any(call(breaker, 0.0, failed=failed) for failed in outcomes) is opens
    assert (breaker.state(0.0) is BreakerState.OPEN) is opens


def test_slow_calls_count_as_failed() -> None:
    breaker = a_breaker()
    assert any(call(breaker, 0.0, failed=False, seconds=5.1) for _ in range(4))


def test_old_failures_expire() -> None:
    breaker = a_breaker()
    assert not any(call(breaker, 4.0 * i, failed=True) for i in range(20))


def test_open_breaker_returns_accurate_wait() -> None:
    breaker = an_open_one()
    assert breaker.retry_after_s(0.4) == pytest.approx(0.6)
    assert breaker.retry_after_s(1.0) is None
    assert breaker.state(1.0) is BreakerState.HALF_OPEN


def test_single_probe_closes_on_success() -> None:
    breaker = an_open_one()
    probe = breaker.begin()
    assert breaker.retry_after_s(1.5) == pytest.approx(1.0)
    assert breaker.end(1.6, probe=probe, failed=False, seconds=0.1) is False
    assert breaker.state(1.6) is BreakerState.CLOSED
    assert not any(call(breaker, 1.7, failed=True) for _ in range(3)), "it begins anew"


def test_failed_probe_doubles_open_time() -> None:
    breaker, now, spans = an_open_one(), 0.0, []
    for i in range(4):
        wait_s = breaker.retry_after_s(now)
        assert wait_s is not None
        spans.append(wait_s)
        now += wait_s
        assert call(breaker, now, failed=i % 2 == 0, seconds=0.1 if i % 2 == 0 else 6.0)
    assert spans == pytest.approx([1.0, 2.0, 4.0, 4.0])


def test_unknown_probe_result_allows_another() -> None:
    breaker = an_open_one()
    assert call(breaker, 1.5, failed=None) is False
    assert breaker.retry_after_s(1.5) is None


def test_earlier_call_does_not_change_open_state() -> None:
    breaker = a_breaker()
    probe = breaker.begin()
    for _ in range(4):
        call(breaker, 0.0, failed=True)
    assert breaker.end(0.5, probe=probe, failed=True, seconds=0.5) is False
    assert breaker.retry_after_s(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("failed", [True, False, None])
def test_earlier_call_is_not_the_probe(*, failed: bool | None) -> None:
    breaker = a_breaker()
    slow = breaker.begin()
    for _ in range(4):
        call(breaker, 0.0, failed=True)
    probe = breaker.begin()
    assert breaker.end(1.5, probe=slow, failed=failed, seconds=1.5) is False
    assert breaker.state(1.5) is BreakerState.HALF_OPEN
    assert breaker.retry_after_s(1.5) == pytest.approx(1.0), "the probe has not ended"
    breaker.end(1.6, probe=probe, failed=False, seconds=0.1)
    assert breaker.state(1.6) is BreakerState.CLOSED
