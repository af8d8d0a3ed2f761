"""One call of an account: what it asks of budget, credential and upstream, and in which order."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from gateway.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    ServiceLoginFailed,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.flow.exchange import Exchange
from gateway.model import BudgetClass, UpstreamAnswer, UpstreamRequest
from tests.support.clock import FakeClock, settle
from tests.support.telemetry import RecordingTelemetry

OK = UpstreamAnswer(200, {}, b"{}")
EXPIRED = UpstreamAnswer(401, {}, b'{"error_code":"APIGW.0307","error_msg":"x"}')
BUSY = UpstreamAnswer(429, {"retry-after": "4"}, b"slow down")
DOWN = UpstreamAnswer(503, {}, b"")
RESET = UpstreamUnreachable("reset", retry_after_s=2.0)


class Cloud:
    """Budget, credential and upstream in one; it writes down what it is asked, in order."""

    def __init__(self, clock: FakeClock, *answers: UpstreamAnswer | GatewayError) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[str] = []
        self.timeouts: list[float] = []
        self.pauses: list[float | None] = []
        self.token = 1
        self.admit_s = self.login_s = self.answer_s = 0.0
        self.exhausted = False

    async def admit(
        self, account: str, budget: BudgetClass, caller: str, *, deadline: float
    ) -> None:
        self.asked.append(f"admit {account} {budget.value} {caller}")
        if self.exhausted:
            raise BudgetExhausted("full", retry_after_s=5.0)
        await self.clock.sleep(self.admit_s)

    async def throttled(self, account: str, budget: BudgetClass, *, pause_s: float | None) -> None:
        self.pauses.append(pause_s)

    async def headers(
        self, request: UpstreamRequest, *, deadline: float
    ) -> tuple[tuple[str, str], ...]:
        if self.login_s:
            span, self.login_s = self.login_s, 0.0
            self.asked.append("log in")
            await self.clock.sleep(span)
        return (("X-Auth-Token", f"t{self.token}"),)

    async def renew(self, refused: tuple[tuple[str, str], ...], *, deadline: float) -> bool:
        self.asked.append(f"renew {refused[0][1]}")
        self.token += 1
        return True

    async def send(
        self, request: UpstreamRequest, *, credential: tuple[tuple[str, str], ...], timeout_s: float
    ) -> UpstreamAnswer:
        self.asked.append(f"send {credential[0][1]}")
        self.timeouts.append(timeout_s)
        await self.clock.sleep(self.answer_s)
        answer = self.answers.pop(0)
        if isinstance(answer, GatewayError):
            raise answer
        return answer


class Bench:
    def __init__(self, clock: FakeClock, *answers: UpstreamAnswer | GatewayError) -> None:
        self.clock = clock
        self.cloud = Cloud(clock, *answers)
        self.telemetry = RecordingTelemetry()
        self.exchange = Exchange(
            "prod",
            upstream=self.cloud,
            credentials={"p": self.cloud},
            budget=self.cloud,
            clock=clock,
            telemetry=self.telemetry,
            jitter=lambda: 0.5,
            timeout_s=15.0,
        )

    def perform(self, *, deadline_s: float = 30.0, **request: Any) -> Awaitable[UpstreamAnswer]:
        return self.exchange.perform(
            UpstreamRequest("GET", "/v1/p/x", **request),
            project="p",
            caller="ann",
            budget=BudgetClass.CONSOLE,
            deadline=self.clock.monotonic() + deadline_s,
        )

    @property
    def order(self) -> list[str]:
        return [asked.split()[0] for asked in self.cloud.asked]


async def in_time(bench: Bench, call: Awaitable[UpstreamAnswer]) -> UpstreamAnswer:
    task = asyncio.ensure_future(call)
    while not task.done():
        await bench.clock.advance(0.25)
    return await task


async def test_one_call_takes_one_slot_in_the_callers_name(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    assert await in_time(bench, bench.perform()) is OK
    assert bench.cloud.asked == ["admit prod console ann", "send t1"]
    assert bench.telemetry.upstream_calls == [("prod", "Usable")]


async def test_a_replay_takes_a_slot_of_its_own(clock: FakeClock) -> None:
    bench = Bench(clock, EXPIRED, OK)
    assert await in_time(bench, bench.perform()) is OK
    assert bench.cloud.asked == [
        "admit prod console ann", "send t1", "renew t1", "admit prod console ann", "send t2",
    ]  # fmt: skip


@pytest.mark.parametrize("trouble", [DOWN, BUSY, RESET])
async def test_each_retry_takes_a_slot_of_its_own(
    clock: FakeClock, trouble: UpstreamAnswer | GatewayError
) -> None:
    bench = Bench(clock, trouble, trouble, OK)
    assert await in_time(bench, bench.perform()) is OK
    assert bench.order == ["admit", "send"] * 3


async def test_a_429_is_told_to_all_replicas(clock: FakeClock) -> None:
    bench = Bench(clock, BUSY, OK)
    await in_time(bench, bench.perform())
    assert bench.cloud.pauses == [4.0]


async def test_no_slot_is_held_while_a_login_is_waited_for(clock: FakeClock) -> None:
    # Else all who waited would be sent at once when it ends, beyond the budget.
    bench = Bench(clock, OK)
    bench.cloud.login_s = 3.0
    await in_time(bench, bench.perform())
    assert bench.order == ["log", "admit", "send"]


async def test_the_upstream_gets_no_more_time_than_is_left(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.admit_s = 4.0
    await in_time(bench, bench.perform(deadline_s=10.0))
    assert bench.cloud.timeouts == [6.0]


async def test_the_upstream_gets_no_more_time_than_it_may_take(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    await in_time(bench, bench.perform(deadline_s=100.0))
    assert bench.cloud.timeouts == [15.0]


async def test_a_call_whose_slot_comes_too_late_is_not_sent(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.admit_s = 4.0
    with pytest.raises(DeadlineExceeded):
        await in_time(bench, bench.perform(deadline_s=4.0))
    assert "send" not in bench.order


async def test_a_retry_that_cannot_make_the_deadline_is_not_waited_for(clock: FakeClock) -> None:
    bench = Bench(clock, DOWN, OK)
    with pytest.raises(UpstreamUnreachable):
        await in_time(bench, bench.perform(deadline_s=0.3))
    assert bench.order == ["admit", "send"]


async def test_silence_is_not_tried_again(clock: FakeClock) -> None:
    bench = Bench(clock, UpstreamSlow("no answer in time"), OK)
    with pytest.raises(UpstreamSlow):
        await in_time(bench, bench.perform())
    assert bench.order == ["admit", "send"]


async def test_a_call_that_is_not_repeatable_is_sent_once(clock: FakeClock) -> None:
    bench = Bench(clock, RESET, OK)
    with pytest.raises(UpstreamUnreachable):
        await in_time(bench, bench.perform(repeatable=False))
    assert bench.order == ["admit", "send"]


async def test_a_second_refusal_is_for_operators_and_not_for_the_caller(clock: FakeClock) -> None:
    bench = Bench(clock, EXPIRED, EXPIRED)
    with pytest.raises(ServiceLoginFailed):
        await in_time(bench, bench.perform())
    assert bench.order == ["admit", "send", "renew", "admit", "send"]


async def test_an_exhausted_budget_sends_nothing(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.exhausted = True
    with pytest.raises(BudgetExhausted):
        await in_time(bench, bench.perform())
    assert "send" not in bench.order


async def test_retries_do_not_multiply_a_storm(clock: FakeClock) -> None:
    bench = Bench(clock, *[DOWN] * 400)
    for _ in range(100):
        with pytest.raises(UpstreamUnreachable):
            await in_time(bench, bench.perform())
    assert bench.order.count("send") <= 100 + 100 * 0.1 + 3


@pytest.mark.parametrize("stop", range(1, 9))
async def test_a_caller_that_hangs_up_leaves_nothing_running(clock: FakeClock, stop: int) -> None:
    bench = Bench(clock, DOWN, EXPIRED, OK)
    bench.cloud.admit_s = bench.cloud.answer_s = bench.cloud.login_s = 1.0
    task = asyncio.ensure_future(bench.perform())
    for _ in range(stop):
        await settle()
        await clock.advance(0.9)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    asked = list(bench.cloud.asked)
    await clock.advance(60.0)
    assert bench.cloud.asked == asked
    assert bench.order.count("send") <= bench.order.count("admit")
    assert len(bench.telemetry.upstream_calls) == bench.order.count("send")
