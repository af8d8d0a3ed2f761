"""One call of an account, from the budget's slot to an answer that can be used."""

import asyncio
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    RetryLater,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    Headers,
    QueueRequest,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.domain.upstream.breaker import Breaker
from gateway.domain.upstream.conversation import (
    NotSent,
    Renew,
    RetryBudget,
    Send,
    Step,
    StepOutcome,
    Wait,
    converse,
    failure_of,
)
from gateway.domain.upstream.verdicts import Broken, Throttled, Unavailable, Usable, judge
from gateway.flow import context
from gateway.flow.attempts import Attempts
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry
from gateway.flow.waiters import Waiters


class Budget(Protocol):
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
        """Wait for a slot of the account's budget; the caller of this then sends exactly one call.

        Returns until when it may be sent: later, the slot is lost. `deadline` is monotonic.
        `again`: the slot that this call had was lost, to a 429 or to time; it goes to the head
        and is not charged once more. `waiters`: the call is for all of these, as they come and go,
        and waits in the best of their places. Raises BudgetExhausted as soon as it is known that
        the slot would come too late, or, for spare demand, that there is none.
        """

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        """Tell all replicas that the cloud said 429; nobody is admitted for `pause_s` seconds.

        `named_rate` is the limit that the cloud named, in calls a second. None: it named none.
        """


class Upstream(Protocol):
    """The connection pool of one account; two accounts never share one."""

    async def send(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and read the whole answer, whatever its status.

        Raises UpstreamUnreachable, UpstreamSlow, UpstreamBroken (over its bounds, or no HTTP).
        """

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and return with the answer's head, and its body as a stream if it is good.

        `timeout_s` is for the head; the body may take as long as it goes on coming. Raises as
        `send` does, also while the body is read.
        """


class ServiceCredential(Protocol):
    """How one account proves itself to the cloud: a token, a signature, or a token file."""

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        """Return the headers that make `request` ours; may wait for a login.

        Raises ServiceLoginFailed (at once while a refused login backs off), DeadlineExceeded.
        """

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        """After the cloud refused these headers: get a newer credential, one login for all.

        False where there is no newer one to get (a signature, an unchanged token file).
        Raises ServiceLoginFailed, DeadlineExceeded.
        """


@dataclass(slots=True)
class _UpstreamCall:
    request: UpstreamRequest
    credential: ServiceCredential
    queue_request: QueueRequest
    budget: BudgetClass
    deadline: float
    attempts: Attempts
    waiters: Waiters | None
    headers: Headers = field(default=(), repr=False)

    async def authenticate(self) -> None:
        self.headers = await self.credential.headers(self.request, deadline=self.deadline)

    def stopped_by(self, error: GatewayError) -> GatewayError:
        """Return what to tell of an error that comes before the next sending."""
        unsure = self.attempts.unsure
        if unsure is None:
            return error
        told = failure_of(unsure)  # none may believe that nothing was done
        told.out_of_time = error.out_of_time
        if isinstance(told, RetryLater) and isinstance(error, RetryLater):
            told.retry_after_s = max(told.retry_after_s, error.retry_after_s)
        return told


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
        """How many answers may be streamed at once, which hold connections for minutes."""
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

    async def call(  # noqa: PLR0913 - each part is told what it needs
        self,
        request: UpstreamRequest,
        *,
        project: str,
        queue_request: QueueRequest,
        budget: BudgetClass,
        deadline: float,
        attempts: Attempts | None = None,
        waiters: Waiters | None = None,
    ) -> UpstreamResponse:
        """Return a 2xx answer; each sending, also a repeated one, takes a slot of the budget.

        `attempts` is asked right before each, for rights may end in a queue, and told what came
        of it; what it raises, the caller hears, unless the cloud may have acted on one before.
        `waiters` are those whom the call is for, and who lend it their places in the queue.
        `deadline` is monotonic. Raises BudgetExhausted, DeadlineExceeded, ServiceLoginFailed and
        the Upstream errors.
        """
        self._raise_if_suspended()
        credential = self._credentials[project]
        call = _UpstreamCall(
            request, credential, queue_request, budget, deadline, attempts or Attempts(), waiters
        )
        self._retries.called()
        talk: Generator[Step, StepOutcome, UpstreamResponse] | None = None
        step: Step = Send()
        try:
            while True:
                outcome = await self._take(step, call)
                if isinstance(outcome, Usable):  # nearly always, and all is said
                    return outcome.response
                if talk is None:
                    talk = converse(
                        repeatable=request.repeatable,
                        may_retry=self._retries.take,
                        jitter=self._jitter,
                    )
                    next(talk)  # it begins with the Send that was just made
                step = talk.send(outcome)
        except StopIteration as done:
            answer: UpstreamResponse = done.value
            return answer

    async def _take(self, step: Step, call: _UpstreamCall) -> StepOutcome:
        try:
            match step:
                case Send():
                    await self._make_ready(call)
                    outcome = await self._send(call)
                    call.attempts.end(outcome)
                    return outcome
                case Renew():
                    return await call.credential.renew(call.headers, deadline=call.deadline)
                case Wait():
                    await self._wait(step.seconds, call.deadline)
                    return None
        except GatewayError as error:
            raise call.stopped_by(error) from None

    async def _make_ready(self, call: _UpstreamCall) -> None:
        """Get a credential, and a slot that is not lost before both are there.

        Who waited for a login with slots in hand would send them all at once when it ends,
        whatever the budget had spaced them to.
        """
        requeued = isinstance(call.attempts.last, Throttled)
        while True:
            await call.authenticate()
            send_by = await self._admit(call, requeued=requeued)
            await call.authenticate()  # the token may have ended in the queue
            if self._clock.monotonic() <= send_by:
                return
            self._telemetry.budget_slot_lost(self._account, call.budget)
            requeued = True

    async def _admit(self, call: _UpstreamCall, *, requeued: bool) -> float:
        until_suspended = asyncio.timeout(None)
        try:
            async with until_suspended:
                self._queued.add(until_suspended)
                return await self._budget.admit(
                    self._account,
                    call.budget,
                    call.queue_request,
                    deadline=call.deadline,
                    requeued=requeued,
                    waiters=call.waiters,
                )
        except TimeoutError:
            raise self._suspended(self._breaker.retry_after_s(self._clock.monotonic())) from None
        finally:
            self._queued.discard(until_suspended)

    def _raise_if_suspended(self) -> None:
        wait_s = self._breaker.retry_after_s(self._clock.monotonic())
        if wait_s is not None:
            raise self._suspended(wait_s)

    def _suspended(self, wait_s: float | None) -> UpstreamSuspended:
        detail = f"account {self._account}: the breaker is open"
        return UpstreamSuspended(detail, retry_after_s=wait_s or 0.0)

    async def _send(self, call: _UpstreamCall) -> StepOutcome:
        began = self._clock.monotonic()
        left_s = call.deadline - began
        if left_s <= 0:
            raise DeadlineExceeded("before the call was sent")
        self._raise_if_suspended()
        call.attempts.begin()
        label, failed = "cancelled", None
        probe = self._breaker.begin()
        try:
            answer = await self._ask(call.request, call.headers, min(self._timeout_s, left_s))
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken) as error:
            # A caller's impatience says nothing of the cloud, neither to the breaker nor to alerts.
            error.out_of_time = isinstance(error, UpstreamSlow) and left_s < self._timeout_s
            if not error.out_of_time:
                label, failed = type(error).__name__, True
            return NotSent(error)
        else:
            verdict = judge(answer, conditional=call.request.streamed)
            # What the cloud says of a request is no fault of its own: one caller's odd requests
            # must not suspend the account for all.
            broke = isinstance(verdict, Broken) and not 400 <= verdict.status < 500
            label, failed = type(verdict).__name__, broke or isinstance(verdict, Unavailable)
            if isinstance(verdict, Throttled):
                self._budget.throttled(
                    self._account, call.budget, pause_s=verdict.pause_s, named_rate=verdict.rate
                )
            return verdict
        finally:
            seconds = self._clock.monotonic() - began
            self._telemetry.upstream_call(self._account, label, seconds)
            if self._breaker.end(began + seconds, probe=probe, failed=failed, seconds=seconds):
                self._suspend()

    async def _ask(
        self, request: UpstreamRequest, headers: Headers, timeout_s: float
    ) -> UpstreamResponse:
        send = self._upstream.open if request.streamed else self._upstream.send
        trace = context.trace.get()
        if trace is None:
            return await send(request, credential=headers, timeout_s=timeout_s)
        method = request.method
        with trace.call(method, method=method, account=self._account) as call:
            answer = await send(request, credential=headers + call.headers, timeout_s=timeout_s)
            call.set_status(answer.status)
            return answer

    def _suspend(self) -> None:
        """Tell those who wait for a slot, too: they would only be told when it comes."""
        self._telemetry.breaker_opened(self._account)
        queued, self._queued = self._queued, set()
        for one in queued:
            one.reschedule(float("-inf"))

    async def _wait(self, seconds: float, deadline: float) -> None:
        if self._clock.monotonic() + seconds >= deadline:
            raise DeadlineExceeded("no time is left to try again")
        await self._clock.sleep(seconds)
