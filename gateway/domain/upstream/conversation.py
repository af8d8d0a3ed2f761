"""Retries of a call to the cloud, as a generator: the next step, given the last outcome. Pure.

It yields Send, Renew or Wait and receives the outcome of that step. It returns the usable
response or raises the GatewayError that ends the request. No other module repeats calls. Each
repetition draws on the retry budget, which keeps retries from multiplying an overload.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from gateway.domain.errors import (
    GatewayError,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamUnreachable,
)
from gateway.domain.model import UpstreamResponse
from gateway.domain.upstream.verdicts import (
    Broken,
    CredentialStale,
    Misconfigured,
    Refused,
    Throttled,
    Unavailable,
    Usable,
    Verdict,
)

_RETRIES_MAX = 2
_BACKOFF_S = 0.5
_MISCONFIGURED_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Send:
    """Take a slot of the budget and send the request once."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Get a credential that is newer than the rejected one."""

    is_certain: bool = True
    """The cloud said that the credential is invalid."""


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class NotSent:
    """The outcome of Send without a response."""

    error: GatewayError


Step = Send | Renew | Wait
StepOutcome = Verdict | NotSent | bool | None
"""Send: a Verdict or NotSent. Renew: whether a newer credential exists. Wait: None."""


class RetryBudget:
    """Limit retries to a tenth of the calls, plus a few at the start."""

    _PART = 0.1
    _RESERVE = 3.0

    def __init__(self) -> None:
        self._left = self._RESERVE

    def called(self) -> None:
        self._left = min(self._RESERVE, self._left + self._PART)

    def take(self) -> bool:
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def converse(
    *, repeatable: bool, may_retry: Callable[[], bool], jitter: Callable[[], float]
) -> Generator[Step, StepOutcome, UpstreamResponse]:
    """Drive one request; `jitter` returns numbers from 0 to 1.

    Raises UpstreamRefused, UpstreamBusy, UpstreamBroken, UpstreamUnreachable, UpstreamSlow,
    ServiceLoginFailed.
    """
    renewed = False
    retries = 0
    while True:
        outcome = yield Send()
        if isinstance(outcome, CredentialStale) and not renewed:
            renewed = True
            if (yield Renew(outcome.is_certain)):
                continue
        pause_s = _pause(outcome, retries, jitter)
        # A throttled call was not executed, so it may be repeated even if it is not idempotent.
        again = repeatable or isinstance(outcome, Throttled)
        if pause_s is None or not again or retries >= _RETRIES_MAX or not may_retry():
            return _settle(outcome)
        retries += 1
        yield Wait(pause_s)


def _pause(outcome: StepOutcome, retries: int, jitter: Callable[[], float]) -> float | None:
    """Return the wait before the next attempt; None if a repetition would not help."""
    backoff_s: float = _BACKOFF_S * 2**retries * (0.5 + jitter())
    match outcome:
        case Unavailable():
            return backoff_s if outcome.retry_after_s is None else outcome.retry_after_s + backoff_s
        case Throttled():
            return 0.0  # the budget pauses all calls for the time needed
        case NotSent(error=UpstreamUnreachable()):
            return backoff_s
        case _:
            return None


def _settle(outcome: StepOutcome) -> UpstreamResponse:
    if isinstance(outcome, Usable):
        return outcome.response
    raise failure_of(outcome)


def failure_of(outcome: StepOutcome) -> GatewayError:
    """Return the error for a call with this outcome."""
    match outcome:
        case Refused():
            return UpstreamRefused(outcome.status, outcome.code, outcome.message)
        case Throttled():
            return UpstreamBusy("the cloud returned 429", retry_after_s=outcome.pause_s or 5.0)
        case Unavailable():
            detail = f"the cloud returned {outcome.status}"
            return UpstreamUnreachable(detail, retry_after_s=outcome.retry_after_s or 2.0)
        case CredentialStale():
            # There is no newer one, or it is rejected, too: wrong region, arrears, or permissions
            # removed (upstream-api.md#2.2).
            detail = f"the cloud rejects the newest credential: {f'401 {outcome.code}'.rstrip()}"
            return ServiceLoginFailed(detail, retry_after_s=_MISCONFIGURED_RETRY_S)
        case Misconfigured(status=403):  # the login works; the service user lacks permissions
            return UpstreamBroken(f"403 {outcome.code}: {outcome.reason}")
        case Misconfigured():
            return ServiceLoginFailed(outcome.reason, retry_after_s=_MISCONFIGURED_RETRY_S)
        case NotSent():
            return outcome.error
        case _:
            return UpstreamBroken(outcome.detail if isinstance(outcome, Broken) else "no outcome")
