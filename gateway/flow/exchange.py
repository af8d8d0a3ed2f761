"""One call of an account, from the budget's slot to an answer that can be used."""

import asyncio
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from gateway.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.flow import under_way
from gateway.model import BudgetClass, Demand, UpstreamAnswer, UpstreamRequest
from gateway.ports import Budget, Clock, ServiceCredential, Telemetry, Upstream
from gateway.rules.breaker import Breaker
from gateway.rules.conversation import (
    NotSent,
    Outcome,
    Renew,
    RetryBudget,
    Send,
    Step,
    Wait,
    converse,
)
from gateway.rules.verdicts import Broken, Throttled, Unavailable, Usable, judge

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Call:
    request: UpstreamRequest
    credential: ServiceCredential
    demand: Demand
    budget: BudgetClass
    deadline: float

    async def headers(self) -> Headers:
        return await self.credential.headers(self.request, deadline=self.deadline)


class Exchange:
    """Talks to the cloud for one account."""

    def __init__(  # noqa: PLR0913 - each part is told what it needs
        self,
        account: str,
        *,
        upstream: Upstream,
        credentials: Mapping[str, ServiceCredential],
        budget: Budget,
        breaker: Breaker,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
        timeout_s: float,
        streams_max: int,
    ) -> None:
        """`credentials` by project: a token of the cloud's IAM is good for one (dossier 3.1)."""
        self.streams_max = streams_max
        """How many answers may be streamed at once, each of which holds a connection."""
        self._account = account
        self._upstream = upstream
        self._credentials = credentials
        self._budget = budget
        self._breaker = breaker
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._timeout_s = timeout_s
        self._retries = RetryBudget()
        self._queued: set[asyncio.Timeout] = set()

    async def perform(
        self,
        request: UpstreamRequest,
        *,
        project: str,
        demand: Demand,
        budget: BudgetClass,
        deadline: float,
        permitted_now: Callable[[], object] = lambda: None,
    ) -> UpstreamAnswer:
        """Return a 2xx answer; each sending, also a repeated one, takes a slot of the budget.

        `permitted_now` is asked right before each sending, for rights may end in a queue; what it
        raises, the caller hears. `deadline` is monotonic. Raises BudgetExhausted,
        DeadlineExceeded, ServiceLoginFailed and the Upstream errors.
        """
        self._raise_if_suspended()
        call = _Call(request, self._credentials[project], demand, budget, deadline)
        self._retries.called()
        talk: Generator[Step, Outcome, UpstreamAnswer] | None = None
        headers: Headers = ()
        outcome: Outcome = None
        last: Outcome = None
        step: Step = Send()
        try:
            while True:
                match step:
                    case Send():
                        headers = await self._ready(call, last)
                        permitted_now()
                        outcome = last = await self._send(call, headers)
                        if isinstance(outcome, Usable):  # nearly always, and all is said
                            return outcome.answer
                    case Renew():
                        outcome = await call.credential.renew(headers, deadline=deadline)
                    case Wait():
                        await self._wait(step.seconds, deadline)
                        outcome = None
                if talk is None:
                    talk = converse(
                        repeatable=request.repeatable,
                        may_retry=self._retries.take,
                        jitter=self._jitter,
                    )
                    next(talk)  # it begins with the Send that was just made
                step = talk.send(outcome)
        except StopIteration as done:
            answer: UpstreamAnswer = done.value
            return answer

    async def _ready(self, call: _Call, last: Outcome) -> Headers:
        """Return the credential, with a slot in hand that is not lost yet.

        Who waited for a login with slots in hand would send them all at once when it ends,
        whatever the budget had spaced them to.
        """
        again = isinstance(last, Throttled)
        while True:
            await call.headers()
            send_by = await self._admit(call, last, again=again)
            headers = await call.headers()  # the token may have ended in the queue
            if self._clock.monotonic() <= send_by:
                return headers
            self._telemetry.budget_slot_lost(self._account, call.budget)
            again = True

    async def _admit(self, call: _Call, last: Outcome, *, again: bool) -> float:
        until_suspended = asyncio.timeout(None)
        try:
            async with until_suspended:
                self._queued.add(until_suspended)
                return await self._budget.admit(
                    self._account, call.budget, call.demand, deadline=call.deadline, again=again
                )
        except TimeoutError:
            raise self._suspended(self._breaker.retry_after_s(self._clock.monotonic())) from None
        except BudgetExhausted:
            if isinstance(last, NotSent):
                raise last.error from None  # what stopped the first try says more
            raise
        finally:
            self._queued.discard(until_suspended)

    def _raise_if_suspended(self) -> None:
        wait_s = self._breaker.retry_after_s(self._clock.monotonic())
        if wait_s is not None:
            raise self._suspended(wait_s)

    def _suspended(self, wait_s: float | None) -> UpstreamSuspended:
        detail = f"account {self._account}: the breaker is open"
        return UpstreamSuspended(detail, retry_after_s=wait_s or 0.0)

    async def _send(self, call: _Call, headers: Headers) -> Outcome:
        began = self._clock.monotonic()
        left_s = call.deadline - began
        if left_s <= 0:
            raise DeadlineExceeded("before the call was sent")
        self._raise_if_suspended()
        label, failed = "cancelled", None
        probe = self._breaker.begin()
        try:
            answer = await self._ask(call.request, headers, min(self._timeout_s, left_s))
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken) as error:
            # A caller's impatience says nothing of the cloud.
            error.out_of_time = isinstance(error, UpstreamSlow) and left_s < self._timeout_s
            label, failed = type(error).__name__, None if error.out_of_time else True
            return NotSent(error)
        else:
            verdict = judge(answer, conditional=call.request.streamed)
            # What the cloud says of a request is no fault of its own: one caller's odd requests
            # must not suspend the account for all.
            broke = isinstance(verdict, Broken) and not 400 <= verdict.status < 500
            label, failed = type(verdict).__name__, broke or isinstance(verdict, Unavailable)
            if isinstance(verdict, Throttled):
                self._budget.throttled(
                    self._account, call.budget, pause_s=verdict.pause_s, told=verdict.rate
                )
            return verdict
        finally:
            seconds = self._clock.monotonic() - began
            self._telemetry.upstream_call(self._account, label, seconds)
            if self._breaker.end(began + seconds, probe=probe, failed=failed, seconds=seconds):
                self._suspend()

    async def _ask(
        self, request: UpstreamRequest, headers: Headers, timeout_s: float
    ) -> UpstreamAnswer:
        send = self._upstream.open if request.streamed else self._upstream.send
        trace = under_way.trace.get()
        if trace is None:
            return await send(request, credential=headers, timeout_s=timeout_s)
        method = request.method
        with trace.call(method, method=method, account=self._account) as call:
            answer = await send(request, credential=headers + call.headers, timeout_s=timeout_s)
            call.answered(answer.status)
            return answer

    def _suspend(self) -> None:
        """Tell those who wait for a slot, too: they would only be told when it comes."""
        self._telemetry.breaker_opened(self._account)
        queued, self._queued = self._queued, set()
        for one in queued:
            one.reschedule(float("-inf"))

    async def _wait(self, seconds: float, deadline: float) -> None:
        if self._clock.monotonic() + seconds >= deadline:
            error = UpstreamUnreachable(
                "no time is left to try again", retry_after_s=max(1.0, seconds)
            )
            error.out_of_time = True
            raise error
        await self._clock.sleep(seconds)
