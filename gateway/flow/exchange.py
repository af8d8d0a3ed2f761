"""One call to the cloud for an account: budget slot, credential, attempts, circuit breaker."""

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
from gateway.domain.upstream.verdicts import Broken, Refused, Throttled, Unavailable, Usable, judge
from gateway.flow import context
from gateway.flow.attempts import Attempts
from gateway.flow.clock import Clock
from gateway.flow.shared_queue import EarlyEntry
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
        """Wait for a slot of the account's budget, which permits one call.

        Returns the monotonic time until which the slot is valid. `deadline` is monotonic.
        `requeued`: the call had a slot and lost it to a 429 or to time; it goes to the head of the
        queue and its caller is not charged again. `waiters`: the callers that wait for the call;
        it waits in the best of their places (priority inheritance). Raises BudgetExhausted once
        the slot would come too late, or at once if a spare request finds no spare slot.
        """

    def early_entry(
        self,
        account: str,
        budget: BudgetClass,
        queue_request: QueueRequest,
        *,
        deadline: float,
        waiters: Waiters | None,
        may_enter: Callable[[], bool],
    ) -> EarlyEntry:
        """Return an entry that the claim of the call's fetch may make in the budget's queue.

        `may_enter` returns whether the call can be sent as soon as it has a slot.
        """

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        """Report a 429 of the cloud to all replicas; they admit no call for `pause_s` seconds.

        `named_rate`: the limit that the cloud named, in calls per second; None: it named none.
        """


class Upstream(Protocol):
    """The connection pool of one account; accounts share no connections."""

    async def send(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and return the response with its body, whatever its status.

        Raises UpstreamUnreachable, UpstreamSlow, UpstreamBroken (too large, or not HTTP).
        """

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and return the response when its headers have arrived.

        The body of a successful response is a stream. `timeout_s` applies to the headers; the body
        has no limit while data arrives. Raises as `send` does, also while the body is read.
        """


class ServiceCredential(Protocol):
    """The credential of one account for the cloud: a token, a signature, or a token file."""

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        """Return the headers that authenticate `request`; may wait for a login.

        Raises ServiceLoginFailed (at once during the back-off after a rejected login) and
        DeadlineExceeded.
        """

    async def renew(self, refused: Headers, *, is_certain: bool, deadline: float) -> bool:
        """Replace a credential that the cloud rejected; concurrent callers share one login.

        `is_certain`: the cloud said that it is invalid; otherwise the 401 may have another cause.
        Returns False if there is no newer one (a signature, an unchanged token file). Raises
        ServiceLoginFailed, DeadlineExceeded.
        """

    @property
    def is_ready(self) -> bool:
        """Whether `headers` is expected to return at once."""

    def report(self, sent: Headers, *, accepted: bool) -> None:
        """Note that the cloud accepted the headers of a call, or rejected them with 401."""


@dataclass(slots=True)
class _UpstreamCall:
    request: UpstreamRequest
    credential: ServiceCredential
    queue_request: QueueRequest
    budget: BudgetClass
    deadline: float
    attempts: Attempts
    waiters: Waiters | None
    is_finished: bool
    headers: Headers = field(default=(), repr=False)

    async def authenticate(self) -> None:
        self.headers = await self.credential.headers(self.request, deadline=self.deadline)

    def failure(self, error: GatewayError) -> GatewayError:
        """Return the error of the call if `error` prevents its next attempt.

        If an earlier attempt may have had an effect, that attempt's error is returned.
        """
        unsure = self.attempts.unsure
        if unsure is None:
            return error
        failure = failure_of(unsure)
        failure.out_of_time = error.out_of_time
        if isinstance(failure, RetryLater) and isinstance(error, RetryLater):
            failure.retry_after_s = max(failure.retry_after_s, error.retry_after_s)
        return failure


class Exchange:
    """Calls the cloud for one account."""

    def __init__(  # noqa: PLR0913 - its dependencies
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
        """`credentials` by project: an IAM token is valid for one project (upstream-api.md#3.1)."""
        self.streams_max = streams_max
        """The limit of concurrent streams; each holds a connection for minutes."""
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

    def early_entry(
        self,
        queue_request: QueueRequest,
        *,
        project: str,
        budget: BudgetClass,
        deadline: float,
        waiters: Waiters | None,
    ) -> EarlyEntry:
        """Return an entry into the queue for `Attempts.entry`, for a call with these arguments."""
        credential = self._credentials[project]

        def may_enter() -> bool:
            # A slot lasts milliseconds: it must not be taken before a login.
            suspended_s = self._breaker.retry_after_s(self._clock.monotonic())
            return suspended_s is None and credential.is_ready

        return self._budget.early_entry(
            self._account,
            budget,
            queue_request,
            deadline=deadline,
            waiters=waiters,
            may_enter=may_enter,
        )

    async def call(  # noqa: PLR0913 - its dependencies
        self,
        request: UpstreamRequest,
        *,
        project: str,
        queue_request: QueueRequest,
        budget: BudgetClass,
        deadline: float,
        attempts: Attempts | None = None,
        waiters: Waiters | None = None,
        is_finished: bool = False,
    ) -> UpstreamResponse:
        """Return a 2xx response; each attempt, also a retry, takes a slot of the budget.

        `attempts` decides on the call before each attempt, because rights may end while it is
        queued, and keeps the outcomes. `waiters` are the callers that wait for the call; it takes
        the best of their places in the queue. `deadline` is monotonic; a sent attempt
        outlasts it if `is_finished`, because its response serves others. Raises BudgetExhausted,
        DeadlineExceeded, ServiceLoginFailed, the Upstream errors and what `attempts` raises.
        """
        self._raise_if_suspended()
        credential = self._credentials[project]
        call = _UpstreamCall(
            request,
            credential,
            queue_request,
            budget,
            deadline,
            attempts or Attempts(),
            waiters,
            is_finished,
        )
        self._retries.called()
        conversation: Generator[Step, StepOutcome, UpstreamResponse] | None = None
        step: Step = Send()
        try:
            while True:
                outcome = await self._execute(step, call)
                if isinstance(outcome, Usable):  # nearly always: no generator is needed
                    return outcome.response
                if conversation is None:
                    conversation = converse(
                        repeatable=request.repeatable,
                        may_retry=self._retries.take,
                        jitter=self._jitter,
                    )
                    next(conversation)  # its first step is the Send that has just ended
                step = conversation.send(outcome)
        except StopIteration as done:
            response: UpstreamResponse = done.value
            return response

    async def _execute(self, step: Step, call: _UpstreamCall) -> StepOutcome:
        try:
            match step:
                case Send():
                    await self._prepare(call)
                    outcome = await self._send(call)
                    call.attempts.end(outcome)
                    return outcome
                case Renew():
                    return await call.credential.renew(
                        call.headers, is_certain=step.is_certain, deadline=call.deadline
                    )
                case Wait():
                    await self._wait(step.seconds, call.deadline)
                    return None
        except GatewayError as error:
            raise call.failure(error) from None

    async def _prepare(self, call: _UpstreamCall) -> None:
        """Obtain a credential, then a slot, and check that the slot is still valid.

        In the opposite order, calls would hold slots during a login and send them all at once.
        """
        requeued = isinstance(call.attempts.last, Throttled)
        while True:
            await call.authenticate()
            entry = call.attempts.entry
            if entry is not None and entry.take() is not None:
                call.attempts.entry = None
                return
            send_by = await self._admit(call, requeued=requeued)
            await call.authenticate()  # the token may have expired in the queue
            if self._clock.monotonic() <= send_by:
                return
            self._telemetry.budget_slot_lost(self._account, call.budget)
            requeued = True

    async def _admit(self, call: _UpstreamCall, *, requeued: bool) -> float:
        until_suspended = asyncio.timeout(None)
        try:
            async with until_suspended:
                self._queued.add(until_suspended)
                entry, call.attempts.entry = call.attempts.entry, None
                if entry is not None and (send_by := await entry.wait()) is not None:
                    return send_by
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
        timeout_s = self._timeout_s if call.is_finished else min(self._timeout_s, left_s)
        label, failed = "cancelled", None
        probe = self._breaker.begin()
        try:
            response = await self._send_traced(call.request, call.headers, timeout_s)
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken) as error:
            # A caller's own short deadline is no failure of the cloud, for breaker and alerts.
            error.out_of_time = isinstance(error, UpstreamSlow) and timeout_s < self._timeout_s
            if not error.out_of_time:
                label, failed = type(error).__name__, True
            return NotSent(error)
        else:
            verdict = judge(response, conditional=call.request.streamed, credential=call.headers)
            if response.status == 401 or isinstance(verdict, Usable | Refused):
                call.credential.report(call.headers, accepted=response.status != 401)
            # A 4xx is about the request: one caller's requests must not open the breaker for all.
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

    async def _send_traced(
        self, request: UpstreamRequest, headers: Headers, timeout_s: float
    ) -> UpstreamResponse:
        send = self._upstream.open if request.streamed else self._upstream.send
        trace = context.trace.get()
        if trace is None:
            return await send(request, credential=headers, timeout_s=timeout_s)
        method = request.method
        with trace.call(method, method=method, account=self._account) as call:
            response = await send(request, credential=headers + call.headers, timeout_s=timeout_s)
            call.set_status(response.status)
            return response

    def _suspend(self) -> None:
        """End the wait of all queued calls: the breaker has opened."""
        self._telemetry.breaker_opened(self._account)
        queued, self._queued = self._queued, set()
        for one in queued:
            one.reschedule(float("-inf"))

    async def _wait(self, seconds: float, deadline: float) -> None:
        if self._clock.monotonic() + seconds >= deadline:
            raise DeadlineExceeded("no time is left for a retry")
        await self._clock.sleep(seconds)
