"""One call of an account, from the budget's slot to an answer that can be used."""

from collections.abc import Callable, Mapping

from gateway.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.model import BudgetClass, UpstreamAnswer, UpstreamRequest
from gateway.ports import Budget, Clock, ServiceCredential, Telemetry, Upstream
from gateway.rules.conversation import (
    NotSent,
    Outcome,
    Renew,
    RetryBudget,
    Send,
    Wait,
    converse,
)
from gateway.rules.verdicts import Throttled, judge

Headers = tuple[tuple[str, str], ...]


class Exchange:
    """Talks to the cloud for one account."""

    def __init__(  # noqa: PLR0913 - each part is told what it needs
        self,
        account: str,
        *,
        upstream: Upstream,
        credentials: Mapping[str, ServiceCredential],
        budget: Budget,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """`credentials` by project: a token of the cloud's IAM is good for one (dossier 3.1)."""
        self._account = account
        self._upstream = upstream
        self._credentials = credentials
        self._budget = budget
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._timeout_s = timeout_s
        self._retries = RetryBudget()

    async def perform(
        self,
        request: UpstreamRequest,
        *,
        project: str,
        caller: str,
        budget: BudgetClass,
        deadline: float,
    ) -> UpstreamAnswer:
        """Return a 2xx answer; each sending, also a repeated one, takes a slot of the budget.

        `deadline` is monotonic. Raises BudgetExhausted, DeadlineExceeded, ServiceLoginFailed and
        the Upstream errors.
        """
        credential = self._credentials[project]
        talk = converse(
            repeatable=request.repeatable, may_retry=self._retries.take, jitter=self._jitter
        )
        self._retries.called()
        headers: Headers = ()
        refused: GatewayError | None = None
        outcome: Outcome = None
        try:
            step = next(talk)
            while True:
                match step:
                    case Send():
                        # Nobody waits for a login with slots in hand: they would all be sent
                        # at once when it ends, whatever the budget had spaced them to.
                        await credential.headers(request, deadline=deadline)
                        await self._admit(budget, caller, deadline, refused)
                        headers = await credential.headers(request, deadline=deadline)
                        outcome = await self._send(request, headers, budget, deadline)
                        refused = outcome.error if isinstance(outcome, NotSent) else None
                    case Renew():
                        outcome = await credential.renew(headers, deadline=deadline)
                    case Wait():
                        await self._wait(step.seconds, deadline)
                        outcome = None
                step = talk.send(outcome)
        except StopIteration as done:
            answer: UpstreamAnswer = done.value
            return answer

    async def _admit(
        self, budget: BudgetClass, caller: str, deadline: float, earlier: GatewayError | None
    ) -> None:
        try:
            await self._budget.admit(self._account, budget, caller, deadline=deadline)
        except BudgetExhausted:
            if earlier is not None:
                raise earlier from None  # what stopped the first try says more
            raise

    async def _send(
        self, request: UpstreamRequest, headers: Headers, budget: BudgetClass, deadline: float
    ) -> Outcome:
        began = self._clock.monotonic()
        left_s = deadline - began
        if left_s <= 0:
            raise DeadlineExceeded("before the call was sent")
        label = "cancelled"
        try:
            answer = await self._upstream.send(
                request, credential=headers, timeout_s=min(self._timeout_s, left_s)
            )
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken) as error:
            label = type(error).__name__
            return NotSent(error)
        else:
            verdict = judge(answer)
            label = type(verdict).__name__
            if isinstance(verdict, Throttled):
                await self._budget.throttled(self._account, budget, pause_s=verdict.pause_s)
            return verdict
        finally:
            self._telemetry.upstream_call(self._account, label, self._clock.monotonic() - began)

    async def _wait(self, seconds: float, deadline: float) -> None:
        if self._clock.monotonic() + seconds >= deadline:
            raise UpstreamUnreachable(
                "no time is left to try again", retry_after_s=max(1.0, seconds)
            )
        await self._clock.sleep(seconds)
