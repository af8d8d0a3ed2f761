"""The budget on a real server: what is admitted over any window stays within the pace."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from gateway.drivers.clock import SystemClock
from gateway.drivers.valkey.budget import ValkeyBudget
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.connection import Valkey
from gateway.errors import BudgetExhausted
from gateway.model import BudgetClass
from gateway.rules.pacing import Pace
from tests.contract.test_shared_store import a_valkey
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey

CLOCK = SystemClock()
CONSOLE = BudgetClass.CONSOLE


def a_budget(valkey: Valkey, pace: Pace, *, processes_max: int = 1) -> ValkeyBudget:
    return ValkeyBudget(
        valkey,
        {("prod", CONSOLE): pace},
        wait_max_s={"prod": 5.0},
        processes_max=processes_max,
        clock=CLOCK,
        telemetry=RecordingTelemetry(),
    )


@pytest.fixture
async def pair(shared_valkey: RealValkey) -> AsyncIterator[tuple[Valkey, Valkey]]:
    """Two processes' ways to the same store."""
    namespace = f"t-{secrets.token_hex(4)}"
    both = (
        a_valkey(shared_valkey, namespace=namespace),
        a_valkey(shared_valkey, namespace=namespace),
    )
    for one in both:
        assert await one.probe()
    yield both
    for one in both:
        await one.close()


async def admitted_within(budgets: list[ValkeyBudget], wait_s: float, asks: int) -> list[float]:
    """Ask at once, all sides; return when each admitted call may be sent."""
    began = CLOCK.monotonic()
    sent = []

    async def ask(budget: ValkeyBudget) -> None:
        try:
            await budget.admit("prod", CONSOLE, "ann", deadline=began + wait_s)
        except BudgetExhausted:
            return
        sent.append(CLOCK.monotonic() - began)

    await asyncio.gather(*(ask(budgets[i % len(budgets)]) for i in range(asks)))
    return sorted(sent)


async def test_two_processes_together_stay_within_one_pace(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=50, per_s=1, burst=1)
    budgets = [a_budget(valkey, pace) for valkey in pair]
    sent = await admitted_within(budgets, 0.5, 200)
    assert len(sent) > 15
    for count, at in enumerate(sent):  # nobody is early: each may be late, as the loop wakes it
        assert count <= at / pace.interval_s + 1


async def test_a_store_without_state_gives_no_burst(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=10, per_s=1, burst=10)
    sent = await admitted_within([a_budget(pair[0], pace)], 0.15, 50)
    assert sent
    for count, at in enumerate(sent):
        assert count <= at / pace.interval_s


async def test_whoever_cannot_be_served_in_time_is_told_at_once_and_truly(
    pair: tuple[Valkey, Valkey],
) -> None:
    budget = a_budget(pair[0], Pace(requests=1, per_s=1, burst=1))
    began = CLOCK.monotonic()
    await budget.admit("prod", CONSOLE, "ann", deadline=began + 5)
    with pytest.raises(BudgetExhausted) as refused:
        await budget.admit("prod", CONSOLE, "ann", deadline=CLOCK.monotonic() + 0.3)
    told = refused.value.retry_after_s
    assert 0.3 < told < 1.0
    await asyncio.sleep(told)
    await budget.admit("prod", CONSOLE, "ann", deadline=CLOCK.monotonic() + 0.4)


async def test_a_429_seen_by_one_process_stops_the_other(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=1000, per_s=1, burst=1)
    one, two = (a_budget(valkey, pace) for valkey in pair)
    await two.admit("prod", CONSOLE, "ann", deadline=CLOCK.monotonic() + 1)
    await one.throttled("prod", CONSOLE, pause_s=30.0)
    with pytest.raises(BudgetExhausted) as refused:
        await two.admit("prod", CONSOLE, "ann", deadline=CLOCK.monotonic() + 1)
    assert 25 < refused.value.retry_after_s < 30


async def test_without_the_store_each_process_takes_its_share_and_no_burst(
    own_valkey: RealValkey,
) -> None:
    valkey = a_valkey(own_valkey, timeout_s=0.2)
    assert await valkey.probe()
    budget = a_budget(valkey, Pace(requests=40, per_s=1, burst=10), processes_max=4)
    own_valkey.kill()
    sent = await admitted_within([budget], 0.5, 100)
    assert len(sent) >= 3
    for count, at in enumerate(sent):  # 10 a second of 40, and no burst
        assert count <= at / 0.1
    await valkey.close()


async def test_callers_are_added_up_over_processes(pair: tuple[Valkey, Valkey]) -> None:
    one, two = (ValkeyCallerUsage(valkey) for valkey in pair)
    await one.spend({"ann": 10, "bob": 1}, interval_s=1.0)
    ahead = await two.spend({"ann": 5}, interval_s=1.0)
    assert ahead["ann"] == pytest.approx(15, abs=1.0)


async def test_the_count_of_live_processes_is_known(pair: tuple[Valkey, Valkey]) -> None:
    assert await pair[0].probe()
    assert pair[0].processes == 2
