"""The address that an account's logins are sent to: budget, traces, and a short back-off."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.domain.errors import (
    BudgetExhausted,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    Headers,
    QueueRequest,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.domain.upstream.redaction import secrets_in
from gateway.domain.upstream.verdicts import Throttled, Verdict, error_of, judge, redirect_of
from gateway.flow import context
from gateway.flow.clock import Clock
from gateway.flow.exchange import Budget, Upstream
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.login")

_ATTEMPT_TIMEOUT_S = 15.0
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
"""Short: no console link can be fetched until a login succeeds."""
_DECISIONS = frozenset({400, 401, 403, 404})
"""Besides 2xx, the statuses that decide on a login. Any other is a fault of the endpoint."""


@dataclass(frozen=True, slots=True)
class LoginResponse:
    response: UpstreamResponse
    verdict: Verdict
    code: str
    """The cloud's own code, without secrets; empty if it only repeats the status."""

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def shown(self) -> str:
        return f"{self.status} {self.code}".rstrip()


class LoginEndpoint:
    """Sends the logins of one project. After a failure it backs off for 1 to 10 seconds."""

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        account: str,
        project: str,
        address: str,
        *,
        upstream: Upstream,
        budget: Budget,
        budget_class: BudgetClass,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
    ) -> None:
        self._account = account
        self._project = project
        self._address = address
        self._upstream = upstream
        self._budget = budget
        self._budget_class = budget_class
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._failures = 0
        self._backoff_until = 0.0
        self._backoff_reason = ""

    def raise_if_backing_off(self) -> None:
        remaining_s = self._backoff_until - self._clock.monotonic()
        if remaining_s > 0:
            raise self.failure(self._backoff_reason, remaining_s)

    def reset_backoff(self) -> None:
        """Start the next back-off from its shortest pause: a login succeeded on some replica."""
        self._failures = 0

    def failure(self, reason: str, retry_after_s: float) -> ServiceLoginFailed:
        detail = f"project {self._project}: {self._address}: {reason}"
        return ServiceLoginFailed(
            f"{detail}; next attempt in {retry_after_s:.0f} s", retry_after_s=retry_after_s
        )

    async def send(
        self, request: UpstreamRequest, *, credential: Headers = (), secrets: Collection[str] = ()
    ) -> LoginResponse:
        """Return a response that decides on the login: 2xx, 400, 401, 403 or 404.

        `secrets` are those in the request's body. Raises ServiceLoginFailed during the back-off,
        and when the endpoint is unavailable.
        """
        self.raise_if_backing_off()
        try:
            deadline = self._clock.monotonic() + _ATTEMPT_TIMEOUT_S
            await self._budget.admit(
                self._account, self._budget_class, QueueRequest(""), deadline=deadline
            )
            response = await self._send_traced(request, credential)
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken, BudgetExhausted) as error:
            raise self.unavailable(type(error).__name__, str(error)) from None
        verdict = judge(response, credential=credential)
        code, _ = error_of(response.body, (*secrets, *secrets_in(credential)))
        found = LoginResponse(response, verdict, "" if code == str(response.status) else code)
        if isinstance(verdict, Throttled):
            self._budget.throttled(
                self._account, self._budget_class, pause_s=verdict.pause_s, named_rate=verdict.rate
            )
            raise self.unavailable("throttled", "logins are throttled")
        if not 200 <= response.status < 300 and response.status not in _DECISIONS:
            parts = (found.shown, redirect_of(response))
            reason = f"unexpected response: {', '.join(filter(None, parts))}"
            raise self.unavailable(str(response.status), reason)
        return found

    def unavailable(self, error: str, reason: str) -> ServiceLoginFailed:
        """Start the back-off and return the error to raise."""
        pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        pause_s *= 0.75 + 0.5 * self._jitter()
        self._failures += 1
        self._backoff_reason = reason
        self._backoff_until = self._clock.monotonic() + pause_s
        self._telemetry.service_login(self._account, "unavailable")
        log.warning(
            "service_login_failed",
            extra={
                "account": self._account,
                "project": self._project,
                "error": error,
                "reason": reason,
            },
        )
        return self.failure(reason, pause_s)

    async def _send_traced(self, request: UpstreamRequest, credential: Headers) -> UpstreamResponse:
        trace = context.trace.get()
        timeout_s = _ATTEMPT_TIMEOUT_S
        if trace is None:
            return await self._upstream.send(request, credential=credential, timeout_s=timeout_s)
        # The login serves all callers: the trace headers of one caller are not sent.
        with trace.call("login", method=request.method, account=self._account) as call:
            response = await self._upstream.send(
                request, credential=credential, timeout_s=timeout_s
            )
            call.set_status(response.status)
            return response
