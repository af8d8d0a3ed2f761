"""One call of an account: the order of budget, credential and upstream, and its errors."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.domain.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    NotPermitted,
    RetryLater,
    ServiceLoginFailed,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    QueueRequest,
    UpstreamRequest,
    UpstreamResponse,
    WriteOutcome,
)
from gateway.domain.queue.fair_queue import LATE_MAX_S
from gateway.domain.upstream.breaker import Breaker, BreakerRules
from gateway.flow.attempts import Attempts
from gateway.flow.exchange import Exchange
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock, settle
from tests.support.telemetry import RecordingTelemetry

OK = UpstreamResponse(200, {}, b"{}")
EXPIRED = UpstreamResponse(401, {}, b'{"error_code":"APIGW.0307","error_msg":"x"}')
BUSY = UpstreamResponse(429, {"retry-after": "4"}, b"slow down")
DOWN = UpstreamResponse(503, {}, b"")
BREAKER = BreakerRules(
    calls_min=4, failure_ratio=0.5, within_s=60.0, slow_s=10.0, open_s=8.0, open_max_s=30.0
)
RESET = UpstreamUnreachable("reset", retry_after_s=2.0)


class Cloud:
    """Fake budget, credential and upstream that record their calls in order."""

    def __init__(self, clock: FakeClock, *answers: UpstreamResponse | GatewayError) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.requested: list[str] = []
        self.timeouts: list[float] = []
        self.reports: list[tuple[str, bool]] = []
        self.pauses: list[tuple[float | None, float | None]] = []
        self.token = 1
        self.admit_s = self.login_s = self.answer_s = 0.0
        self.exhausted = False
        self.deadlines: set[float] = set()
        """Those of the waits for a slot, a login and a renewal."""

    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        queue_request: QueueRequest,
        *,
        deadline: float,
        requeued: bool = False,
        waiters: Waiters | None = None,
    ) -> float:
        self.deadlines.add(deadline)
        self.requested.append(
            f"admit {account} {budget.value} {queue_request.caller}{' again' * requeued}"
        )
        if self.exhausted:
            raise BudgetExhausted("full", retry_after_s=5.0)
        await self.clock.sleep(self.admit_s)
        return self.clock.monotonic() + LATE_MAX_S

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        self.pauses.append((pause_s, named_rate))

    async def headers(
        self, request: UpstreamRequest, *, deadline: float
    ) -> tuple[tuple[str, str], ...]:
        self.deadlines.add(deadline)
        if self.login_s:
            span, self.login_s = self.login_s, 0.0
            self.requested.append("log in")
            await self.clock.sleep(span)
        return (("X-Auth-Token", f"t{self.token}"),)

    async def renew(
        self, refused: tuple[tuple[str, str], ...], *, is_certain: bool, deadline: float
    ) -> bool:
        self.deadlines.add(deadline)
        self.requested.append(f"renew {refused[0][1]}")
        self.token += 1
        return True

    def report(self, sent: tuple[tuple[str, str], ...], *, accepted: bool) -> None:
        self.reports.append((sent[0][1], accepted))

    async def send(
        self, request: UpstreamRequest, *, credential: tuple[tuple[str, str], ...], timeout_s: float
    ) -> UpstreamResponse:
        self.requested.append(f"send {credential[0][1]}")
        self.timeouts.append(timeout_s)
        await self.clock.sleep(self.answer_s)
        answer = self.answers.pop(0)
        if isinstance(answer, GatewayError):
            raise answer
        return answer


class Bench:
    def __init__(self, clock: FakeClock, *answers: UpstreamResponse | GatewayError) -> None:
        self.clock = clock
        self.cloud = Cloud(clock, *answers)
        self.telemetry = RecordingTelemetry()
        self.exchange = Exchange(
            "prod",
            upstream=self.cloud,
            credentials={"p": self.cloud},
            budget=self.cloud,
            breaker=Breaker(BREAKER, jitter=lambda: 0.5),
            clock=clock,
            telemetry=self.telemetry,
            jitter=lambda: 0.5,
            timeout_s=15.0,
            streams_max=8,
        )

    def call(
        self,
        *,
        deadline_s: float = 30.0,
        permitted_now: Callable[[], None] = lambda: None,
        attempts: Attempts | None = None,
        **request: Any,
    ) -> Awaitable[UpstreamResponse]:
        return self.exchange.call(
            UpstreamRequest("GET", "/v1/p/x", **request),
            project="p",
            queue_request=QueueRequest("ann"),
            budget=BudgetClass.CONSOLE,
            deadline=self.clock.monotonic() + deadline_s,
            attempts=attempts or Attempts(permitted_now),
        )

    @property
    def order(self) -> list[str]:
        return [requested.split()[0] for requested in self.cloud.requested]


async def in_time(bench: Bench, call: Awaitable[UpstreamResponse]) -> UpstreamResponse:
    task = asyncio.ensure_future(call)
    while not task.done():
        await bench.clock.advance(0.25)
    return await task


async def test_call_takes_one_slot_of_its_caller(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    assert await in_time(bench, bench.call()) is OK
    assert bench.cloud.requested == ["admit prod console ann", "send t1"]
    assert bench.telemetry.upstream_calls == [("prod", "Usable")]


async def test_every_wait_of_a_call_has_its_deadline(clock: FakeClock) -> None:
    bench = Bench(clock, EXPIRED, OK)
    deadline = clock.monotonic() + 7.0
    await in_time(bench, bench.call(deadline_s=7.0))
    assert bench.cloud.requested[2] == "renew t1"
    assert bench.cloud.deadlines == {deadline}


async def test_replay_takes_another_slot(clock: FakeClock) -> None:
    bench = Bench(clock, EXPIRED, OK)
    assert await in_time(bench, bench.call()) is OK
    assert bench.cloud.requested == [
        "admit prod console ann", "send t1", "renew t1", "admit prod console ann", "send t2",
    ]  # fmt: skip


@pytest.mark.parametrize("trouble", [DOWN, BUSY, RESET])
async def test_each_retry_takes_another_slot(
    clock: FakeClock, trouble: UpstreamResponse | GatewayError
) -> None:
    bench = Bench(clock, trouble, trouble, OK)
    assert await in_time(bench, bench.call()) is OK
    assert bench.order == ["admit", "send"] * 3


@pytest.mark.parametrize("answers", [[OK], [EXPIRED, OK], [BUSY, OK]])
async def test_call_without_permission_is_not_sent(
    clock: FakeClock, answers: list[UpstreamResponse]
) -> None:
    bench = Bench(clock, *answers)
    bench.cloud.admit_s = 5.0
    permitted_until = clock.monotonic() + 5.0 * len(answers) - 1.0

    def permitted_now() -> None:
        if clock.monotonic() > permitted_until:
            raise NotPermitted("no grant applies")

    with pytest.raises(NotPermitted):
        await in_time(bench, bench.call(permitted_now=permitted_now))
    assert bench.order.count("send") == len(answers) - 1
    assert bench.order[-1] == "admit"


@pytest.mark.parametrize(
    "trouble", [DOWN, UpstreamUnreachable("another reset", retry_after_s=60.0)]
)
@pytest.mark.parametrize(
    "stopped",
    [
        NotPermitted("no grant applies"),
        BudgetExhausted("full", retry_after_s=50.0),
        UpstreamSuspended("the breaker is open", retry_after_s=50.0),
        ServiceLoginFailed("away", retry_after_s=50.0),
    ],
)
async def test_possible_effect_is_not_reported_as_none(
    clock: FakeClock, trouble: UpstreamResponse | GatewayError, stopped: GatewayError
) -> None:
    bench = Bench(clock, trouble, OK)

    def permitted_now() -> None:
        if "send" in bench.order:
            raise stopped

    with pytest.raises(UpstreamUnreachable) as caught:
        await in_time(bench, bench.call(permitted_now=permitted_now))
    assert bench.order == ["admit", "send", "admit"]
    stopped_s = stopped.retry_after_s if isinstance(stopped, RetryLater) else 0.0
    assert caught.value.retry_after_s == max(stopped_s, 2.0 if trouble is DOWN else 60.0)
    assert caught.value.out_of_time == stopped.out_of_time


async def test_possible_effect_outlasts_later_responses(
    clock: FakeClock,
) -> None:
    bench = Bench(clock, DOWN, EXPIRED, OK)

    async def renew(refused: object, *, is_certain: bool, deadline: float) -> bool:
        raise ServiceLoginFailed("away", retry_after_s=5.0)

    bench.cloud.renew = renew  # type: ignore[method-assign]
    with pytest.raises(UpstreamUnreachable):
        await in_time(bench, bench.call())
    assert bench.order == ["admit", "send"] * 2


async def test_429_is_reported_to_all_replicas(clock: FakeClock) -> None:
    bench = Bench(clock, BUSY, OK)
    await in_time(bench, bench.call())
    assert bench.cloud.pauses == [(4.0, None)]


async def test_login_holds_no_slot(clock: FakeClock) -> None:
    # Otherwise all calls would be sent at once after the login, beyond the budget.
    bench = Bench(clock, OK)
    bench.cloud.login_s = 3.0
    await in_time(bench, bench.call())
    assert bench.order == ["log", "admit", "send"]


async def test_slot_lost_to_a_login_is_requeued(
    clock: FakeClock,
) -> None:
    bench = Bench(clock, OK)
    bench.cloud.admit_s = 2.0
    requesting = asyncio.ensure_future(bench.call())
    await clock.advance(1.0)
    bench.cloud.login_s = 3.0  # the token ends while the slot is waited for
    await in_time(bench, requesting)
    assert bench.cloud.requested == [
        "admit prod console ann", "log in", "admit prod console ann again", "send t1",
    ]  # fmt: skip
    assert bench.telemetry.slots_lost == [("prod", BudgetClass.CONSOLE)]


async def test_timeout_is_bounded_by_the_deadline(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.admit_s = 4.0
    await in_time(bench, bench.call(deadline_s=10.0))
    assert bench.cloud.timeouts == [6.0]


async def test_timeout_is_bounded_by_its_setting(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    await in_time(bench, bench.call(deadline_s=100.0))
    assert bench.cloud.timeouts == [15.0]


async def test_call_with_late_slot_is_not_sent(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.admit_s = 4.0
    with pytest.raises(DeadlineExceeded):
        await in_time(bench, bench.call(deadline_s=4.0))
    assert "send" not in bench.order


async def test_retry_beyond_the_deadline_is_not_awaited(clock: FakeClock) -> None:
    bench = Bench(clock, DOWN, OK)
    with pytest.raises(UpstreamUnreachable) as caught:
        await in_time(bench, bench.call(deadline_s=0.3))
    assert bench.order == ["admit", "send"]
    assert caught.value.out_of_time


async def test_timeout_is_not_retried(clock: FakeClock) -> None:
    bench = Bench(clock, UpstreamSlow("no answer in time"), OK)
    with pytest.raises(UpstreamSlow) as caught:
        await in_time(bench, bench.call())
    assert bench.order == ["admit", "send"]
    assert not caught.value.out_of_time


async def test_unrepeatable_call_is_sent_once(clock: FakeClock) -> None:
    bench = Bench(clock, RESET, OK)
    with pytest.raises(UpstreamUnreachable):
        await in_time(bench, bench.call(repeatable=False))
    assert bench.order == ["admit", "send"]


async def test_second_rejected_credential_is_a_login_failure(clock: FakeClock) -> None:
    bench = Bench(clock, EXPIRED, EXPIRED)
    with pytest.raises(ServiceLoginFailed):
        await in_time(bench, bench.call())
    assert bench.order == ["admit", "send", "renew", "admit", "send"]


async def test_exhausted_budget_sends_nothing(clock: FakeClock) -> None:
    bench = Bench(clock, OK)
    bench.cloud.exhausted = True
    with pytest.raises(BudgetExhausted):
        await in_time(bench, bench.call())
    assert "send" not in bench.order


async def test_retries_do_not_multiply_a_storm(clock: FakeClock) -> None:
    bench = Bench(clock, *[DOWN] * 400)
    for _ in range(100):
        with pytest.raises((UpstreamUnreachable, UpstreamSuspended)):
            await in_time(bench, bench.call())
    assert bench.order.count("send") <= 100 + 100 * 0.1 + 3


@pytest.mark.parametrize("status", [400, 404, 405, 409, 415, 422])
async def test_rejected_request_is_no_breaker_failure(clock: FakeClock, status: int) -> None:
    refusal = UpstreamResponse(status, {}, b'{"error_code":"iMetal.0101","error_msg":"not ready"}')
    bench = Bench(clock, *[refusal] * 20)
    for _ in range(20):
        with pytest.raises(UpstreamRefused) as refused:
            await in_time(bench, bench.call())
        assert (refused.value.status, refused.value.error_code) == (status, "iMetal.0101")
    assert bench.order == ["admit", "send"] * 20
    assert not bench.telemetry.breakers_opened


@pytest.mark.parametrize("stop", range(1, 9))
async def test_disconnect_leaves_nothing_running(clock: FakeClock, stop: int) -> None:
    bench = Bench(clock, DOWN, EXPIRED, OK)
    bench.cloud.admit_s = bench.cloud.answer_s = bench.cloud.login_s = 1.0
    task = asyncio.ensure_future(bench.call())
    for _ in range(stop):
        await settle()
        await clock.advance(0.9)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    requested = list(bench.cloud.requested)
    await clock.advance(60.0)
    assert bench.cloud.requested == requested
    assert bench.order.count("send") <= bench.order.count("admit")
    assert len(bench.telemetry.upstream_calls) == bench.order.count("send")


async def test_open_breaker_rejects_calls_at_once(
    clock: FakeClock,
) -> None:
    silent = UpstreamSlow("no answer in time")
    bench = Bench(clock, *[silent] * 4, OK)
    for _ in range(4):
        with pytest.raises(UpstreamSlow):
            await in_time(bench, bench.call())
    assert bench.telemetry.breakers_opened == ["prod"]
    with pytest.raises(UpstreamSuspended) as refused:
        await in_time(bench, bench.call())
    assert 7 < refused.value.retry_after_s <= 8
    assert bench.order.count("send") == bench.order.count("admit") == 4
    await clock.advance(refused.value.retry_after_s)
    assert await in_time(bench, bench.call()) is OK


async def test_opening_breaker_ends_queued_calls(clock: FakeClock) -> None:
    bench = Bench(clock, *[UpstreamSlow("no answer in time")] * 4)
    for _ in range(3):
        with pytest.raises(UpstreamSlow):
            await in_time(bench, bench.call())
    last = asyncio.ensure_future(bench.call())
    await settle()
    bench.cloud.admit_s = 1_000.0
    waiting = asyncio.ensure_future(bench.call(deadline_s=2_000.0))
    with pytest.raises(UpstreamSlow):
        await in_time(bench, last)
    with pytest.raises(UpstreamSuspended):
        await in_time(bench, waiting)
    assert clock.monotonic() < 1_100.0


async def test_half_open_breaker_sends_one_probe(clock: FakeClock) -> None:
    bench = Bench(clock, *[UpstreamSlow("no answer in time")] * 4, OK, OK)
    for _ in range(4):
        with pytest.raises(UpstreamSlow):
            await in_time(bench, bench.call())
    await clock.advance(9.0)
    bench.cloud.answer_s = 2.0
    calls = [asyncio.ensure_future(bench.call()) for _ in range(5)]
    await settle()
    assert bench.order.count("send") == 5
    outcomes = await asyncio.gather(
        *(in_time(bench, call) for call in calls), return_exceptions=True
    )
    assert outcomes.count(OK) == 1
    assert sum(isinstance(one, UpstreamSuspended) for one in outcomes) == 4
    assert await in_time(bench, bench.call()) is OK


async def test_calls_sent_before_opening_decide_nothing(clock: FakeClock) -> None:
    silent = UpstreamSlow("no answer in time")
    bench = Bench(clock, *[silent] * 4, OK, silent)
    bench.cloud.answer_s = 9.9
    before = asyncio.ensure_future(bench.call())
    await clock.advance(0.5)
    bench.cloud.answer_s = 0.0
    for _ in range(4):
        with pytest.raises(UpstreamSlow):
            await in_time(bench, bench.call())
    await clock.advance(8.0)
    bench.cloud.answer_s = 2.0
    probe = asyncio.ensure_future(bench.call())
    assert await in_time(bench, before) is OK
    assert not probe.done()
    with pytest.raises(UpstreamSuspended):
        await in_time(bench, bench.call())
    with pytest.raises(UpstreamSlow):
        await in_time(bench, probe)
    assert bench.telemetry.breakers_opened == ["prod", "prod"]


async def test_retry_after_429_is_not_charged_twice(clock: FakeClock) -> None:
    reported = UpstreamResponse(
        429,
        {},
        b'{"error_code":"APIGW.0308","error_msg":"The throttling threshold has been reached: '
        b'policy user over ratelimit,limit:120,time:1 minute"}',
    )
    bench = Bench(clock, reported, OK)
    assert await in_time(bench, bench.call()) is OK
    assert bench.cloud.pauses == [(None, 2.0)]
    assert bench.cloud.requested[2] == "admit prod console ann again"


async def test_short_deadlines_do_not_open_the_breaker(clock: FakeClock) -> None:
    bench = Bench(clock, *[UpstreamSlow("no answer in time")] * 20)
    for _ in range(20):
        with pytest.raises(UpstreamSlow) as caught:
            await in_time(bench, bench.call(deadline_s=1.0))
        assert caught.value.out_of_time
    assert bench.telemetry.breakers_opened == []
    assert "UpstreamSlow" not in {outcome for _, outcome in bench.telemetry.upstream_calls}


REFUSED = UpstreamResponse(404, {}, b'{"error_code":"iMetal.0100","error_msg":"none"}')
FORBIDDEN = UpstreamResponse(403, {}, b'{"error_code":"x","error_msg":"y"}')


def not_connected() -> UpstreamUnreachable:
    error = UpstreamUnreachable("refused", retry_after_s=2.0)
    error.was_connected = False
    return error


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ([OK], (WriteOutcome.SUCCESS, 200)),
        ([DOWN, OK], (WriteOutcome.SUCCESS, 200)),
        ([REFUSED], (WriteOutcome.FAILURE, 404)),
        ([FORBIDDEN], (WriteOutcome.FAILURE, 403)),
        ([EXPIRED, EXPIRED], (WriteOutcome.FAILURE, 401)),
        ([BUSY, BUSY, BUSY], (WriteOutcome.FAILURE, 429)),
        ([UpstreamResponse(418, {}, b"")], (WriteOutcome.FAILURE, 418)),
        ([UpstreamResponse(501, {}, b"")], (WriteOutcome.UNKNOWN, 501)),
        ([DOWN, DOWN, DOWN], (WriteOutcome.UNKNOWN, 503)),
        ([RESET, RESET, RESET], (WriteOutcome.UNKNOWN, 0)),
        ([UpstreamSlow("no answer in time")], (WriteOutcome.UNKNOWN, 0)),
        ([not_connected(), not_connected(), not_connected()], (WriteOutcome.NOT_SENT, 0)),
        ([not_connected(), OK], (WriteOutcome.SUCCESS, 200)),
        # The first may be what makes the cloud refuse the second: it is gone by then.
        ([DOWN, REFUSED], (WriteOutcome.UNKNOWN, 503)),
        ([RESET, not_connected(), BUSY], (WriteOutcome.UNKNOWN, 0)),
    ],
)
async def test_effect_is_derived_from_all_attempts(
    clock: FakeClock,
    answers: list[UpstreamResponse | GatewayError],
    result: tuple[WriteOutcome, int],
) -> None:
    bench, attempts = Bench(clock, *answers), Attempts()
    with suppress(GatewayError):
        await in_time(bench, bench.call(attempts=attempts))
    assert not bench.cloud.answers
    assert attempts.result() == result


@pytest.mark.parametrize("after_a_429", [False, True])
async def test_call_ended_in_queue_was_not_sent(clock: FakeClock, *, after_a_429: bool) -> None:
    bench, attempts = Bench(clock, BUSY), Attempts()

    async def admit(*_: object, **__: object) -> float:
        if after_a_429 and "send" not in bench.order:
            return clock.monotonic() + 1.0
        raise BudgetExhausted("full", retry_after_s=5.0)

    bench.cloud.admit = admit  # type: ignore[method-assign]
    with pytest.raises(BudgetExhausted):
        await in_time(bench, bench.call(attempts=attempts))
    reported = (WriteOutcome.FAILURE, 429) if after_a_429 else (WriteOutcome.NOT_SENT, 0)
    assert attempts.result() == reported


@pytest.mark.parametrize(
    ("admit_s", "result"), [(5.0, WriteOutcome.NOT_SENT), (0.0, WriteOutcome.UNKNOWN)]
)
async def test_cancelled_call_is_unknown_once_sent(
    clock: FakeClock, admit_s: float, result: WriteOutcome
) -> None:
    bench, attempts = Bench(clock, OK), Attempts()
    bench.cloud.admit_s, bench.cloud.answer_s = admit_s, 5.0
    task = asyncio.ensure_future(bench.call(attempts=attempts))
    await settle()
    task.cancel()
    await asyncio.wait({task})
    assert attempts.result() == (result, 0)
