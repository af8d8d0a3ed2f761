"""Password logins to the cloud's IAM, limited so that IAM never locks the account.

IAM locks an account after 5 failed logins within 15 minutes (upstream-api.md#3.2). After a
rejected login all replicas back off for 5, 10, then 30 minutes: at most 3 failures within 15
minutes. When IAM is unavailable, the replica that noticed backs off for 1 to 10 seconds.
"""

import hashlib
import logging
from collections.abc import Callable

from gateway.config.accounts import PasswordLogin
from gateway.domain.errors import (
    BudgetExhausted,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import BudgetClass, QueueRequest, UpstreamResponse
from gateway.domain.upstream.verdicts import Throttled, error_of, judge
from gateway.drivers.cloud.service_token import (
    expiry_margin_s,
    login_request,
    token_from_response,
)
from gateway.flow import context
from gateway.flow.clock import Clock
from gateway.flow.exchange import Budget, Upstream
from gateway.flow.single_flight import Fetched, SingleFlight
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.login")

LOGIN_TOTAL_TIMEOUT_S = 60.0
"""Includes the wait for logins of the account's other projects."""
_ATTEMPT_TIMEOUT_S = 15.0
_REJECTED_BACKOFF_S = (300.0, 600.0, 1_800.0)
_UNAVAILABLE_BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
"""Short: no console link can be fetched until a login succeeds."""
_ALLOWED = b"allowed"
_ALLOWED_TTL_S = 0.05
"""The lease needs a value to end; no replica reads it."""
_REJECTION_MEANINGS = {
    "401": "user, domain or password is wrong",  # Keystone's form, without a code of IAM
    "IAM.0004": "the project does not exist",
    "IAM.0061": "the account is locked for 15 minutes",
    "IAM.0062": "user, domain or password is wrong",
    "IAM.0081": "the user has no programmatic access",
}
"""By status or code (upstream-api.md#3.2). IAM's own text may quote the password."""


class IamLogin:
    """Logs one account in to one project, one attempt at a time over all replicas."""

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        account: str,
        project: str,
        login: PasswordLogin,
        *,
        iam: Upstream,
        shared: SingleFlight,
        budget: Budget,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
    ) -> None:
        self._account = account
        self._project = project
        self._login = login
        self._iam = iam
        self._shared = shared
        self._budget = budget
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        # The password is part of the identity: a changed password is tried without back-off.
        identity = f"{login.user}\0{login.domain}\0{login.password.reveal()}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._failures = 0
        self._rejections = 0
        self._backoff_until = 0.0
        self._backoff_reason = ""

    async def fetch_token(self) -> Fetched:
        """Return a new token in its shared form. Raises ServiceLoginFailed.

        All projects of the account and all replicas attempt one login at a time. A rejection is
        published before the next attempt starts: concurrent failures cannot add up.
        """
        deadline = self._clock.monotonic() + LOGIN_TOTAL_TIMEOUT_S
        fetched: list[Fetched] = []

        async def attempt() -> Fetched:
            self.raise_if_backing_off()
            outcome = await self._attempt()
            if isinstance(outcome, str):
                return Fetched(outcome.encode(), self._backoff_until)
            fetched.append(outcome)
            return Fetched(_ALLOWED, self._clock.monotonic() + _ALLOWED_TTL_S)

        key = f"refused:{self._account}:{self.fingerprint}"
        while not fetched:
            gate = await self._shared.obtain(key, attempt, deadline=deadline, unusable=_ALLOWED)
            if gate.value != _ALLOWED:  # rejected here or on another replica
                self._back_off(_describe_rejection(gate.value.decode()), until=gate.good_until)
                self._telemetry.service_login_refused(self._account, self._project, refused=True)
                self.raise_if_backing_off()
        return fetched[0]

    def reset_backoff(self) -> None:
        """Start the next back-off from its shortest pause: a login succeeded on some replica."""
        self._failures = self._rejections = 0

    def raise_if_backing_off(self) -> None:
        remaining_s = self._backoff_until - self._clock.monotonic()
        if remaining_s > 0:
            raise self._login_failed(remaining_s)

    async def _attempt(self) -> Fetched | str:
        """Return a token, or IAM's status and code when IAM rejects the login.

        Raises ServiceLoginFailed when IAM is unavailable.
        """
        deadline = self._clock.monotonic() + _ATTEMPT_TIMEOUT_S
        try:
            await self._budget.admit(
                self._account, BudgetClass.IAM, QueueRequest(""), deadline=deadline
            )
            response = await self._send()
        except (UpstreamUnreachable, UpstreamSlow, UpstreamBroken, BudgetExhausted) as error:
            raise self._unavailable(type(error).__name__, str(error)) from None
        token = token_from_response(response)
        lifetime_s = 0.0 if token is None else token.expires_at - self._clock.now()
        if token is None or lifetime_s <= 0:
            return self._rejection(response)
        self._telemetry.service_login(self._account, "ok")
        log.info(
            "service_login_succeeded", extra={"account": self._account, "project": self._project}
        )
        good_until = self._clock.monotonic() + lifetime_s - expiry_margin_s(lifetime_s)
        return Fetched(token.shared_form, good_until)

    async def _send(self) -> UpstreamResponse:
        request = login_request(self._login, self._project)
        trace = context.trace.get()
        if trace is None:
            return await self._iam.send(request, credential=(), timeout_s=_ATTEMPT_TIMEOUT_S)
        # The login serves all callers: the trace headers of one caller are not sent to IAM.
        with trace.call("login", method=request.method, account=self._account) as call:
            response = await self._iam.send(request, credential=(), timeout_s=_ATTEMPT_TIMEOUT_S)
            call.set_status(response.status)
            return response

    def _rejection(self, response: UpstreamResponse) -> str:
        """Start the back-off of a rejected login and return its status and code.

        Raises ServiceLoginFailed when the response is not a rejection but a fault of IAM.
        """
        verdict = judge(response)
        if isinstance(verdict, Throttled):
            self._budget.throttled(
                self._account, BudgetClass.IAM, pause_s=verdict.pause_s, named_rate=verdict.rate
            )
            raise self._unavailable("throttled", "IAM throttles logins")
        code, _ = error_of(response.body, (self._login.password.reveal(),))
        status_and_code = (
            f"{response.status} {code}".rstrip() if code != str(response.status) else code
        )
        if response.status not in (400, 401, 403, 404):
            raise self._unavailable(str(response.status), f"unexpected response: {status_and_code}")
        pause_s = _REJECTED_BACKOFF_S[min(self._rejections, len(_REJECTED_BACKOFF_S) - 1)]
        self._rejections += 1
        self._back_off(
            _describe_rejection(status_and_code), until=self._clock.monotonic() + pause_s
        )
        self._telemetry.service_login(self._account, "refused")
        log.error(
            "service_login_refused",
            extra={"account": self._account, "status": response.status, "error_code": code},
        )
        return status_and_code

    def _unavailable(self, error: str, reason: str) -> ServiceLoginFailed:
        """Start the back-off of an unavailable IAM and return the error to raise."""
        pause_s = _UNAVAILABLE_BACKOFF_S[min(self._failures, len(_UNAVAILABLE_BACKOFF_S) - 1)]
        pause_s *= 0.75 + 0.5 * self._jitter()
        self._failures += 1
        self._back_off(reason, until=self._clock.monotonic() + pause_s)
        self._telemetry.service_login(self._account, "unavailable")
        log.warning(
            "service_login_failed",
            extra={"account": self._account, "error": error, "reason": reason},
        )
        return self._login_failed(pause_s)

    def _back_off(self, reason: str, *, until: float) -> None:
        self._backoff_reason, self._backoff_until = reason, until

    def _login_failed(self, remaining_s: float) -> ServiceLoginFailed:
        return ServiceLoginFailed(
            f"{self._login.iam_endpoint}: {self._backoff_reason}; next attempt in "
            f"{remaining_s:.0f} s",
            retry_after_s=remaining_s,
        )


def _describe_rejection(status_and_code: str) -> str:
    meaning = _REJECTION_MEANINGS.get(status_and_code.rsplit(maxsplit=1)[-1])
    return f"login rejected: {status_and_code}" + (f", {meaning}" if meaning else "")
