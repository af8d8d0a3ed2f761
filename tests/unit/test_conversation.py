"""Retries as dialogues: for this outcome, expect that step."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import (
    GatewayError,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import UpstreamResponse
from gateway.domain.upstream.conversation import (
    NotSent,
    Renew,
    RetryBudget,
    Send,
    Step,
    StepOutcome,
    Wait,
    converse,
)
from gateway.domain.upstream.verdicts import (
    Broken,
    CredentialStale,
    Misconfigured,
    Refused,
    Throttled,
    Unavailable,
    Usable,
)

ANSWER = UpstreamResponse(200, {}, b"{}")
STALE = CredentialStale("APIGW.0307")
GONE = NotSent(UpstreamUnreachable("reset", retry_after_s=2.0))


def play(
    *outcomes: StepOutcome, repeatable: bool = True, may_retry: Callable[[], bool] = lambda: True
) -> tuple[list[Step], UpstreamResponse | GatewayError]:
    """Send the next outcome for each step (None for Wait) until the conversation ends."""
    talk = converse(repeatable=repeatable, may_retry=may_retry, jitter=lambda: 0.5)
    steps: list[Step] = []
    left = list(outcomes)
    try:
        step = next(talk)
        while True:
            steps.append(step)
            step = talk.send(None if isinstance(step, Wait) else left.pop(0))
    except StopIteration as done:
        end: UpstreamResponse | GatewayError = done.value
    except GatewayError as error:
        end = error
    assert left == [], "the talk ended early"
    return steps, end


def test_usable_response_ends_conversation() -> None:
    assert play(Usable(ANSWER)) == ([Send()], ANSWER)


def test_stale_credential_is_renewed_once_and_replayed() -> None:
    assert play(STALE, True, Usable(ANSWER)) == ([Send(), Renew(), Send()], ANSWER)


def test_401_is_replayed_even_if_not_repeatable() -> None:
    assert play(STALE, True, Usable(ANSWER), repeatable=False)[1] is ANSWER


def test_rejected_fresh_credential_ends_conversation() -> None:
    steps, end = play(STALE, True, STALE)
    assert steps == [Send(), Renew(), Send()]
    assert isinstance(end, ServiceLoginFailed)


def test_unrenewable_credential_is_not_resent() -> None:
    steps, end = play(STALE, False)
    assert steps == [Send(), Renew()]
    assert isinstance(end, ServiceLoginFailed)


@pytest.mark.parametrize("trouble", [Unavailable(503, None), Unavailable(500, None), GONE])
def test_temporary_error_is_retried_with_backoff(trouble: StepOutcome) -> None:
    steps, end = play(trouble, trouble, Usable(ANSWER))
    assert steps == [Send(), Wait(0.5), Send(), Wait(1.0), Send()]
    assert end is ANSWER


def test_at_most_two_retries() -> None:
    steps, end = play(*[Unavailable(503, None)] * 3)
    assert steps.count(Send()) == 3
    assert isinstance(end, UpstreamUnreachable)


def test_retry_after_delays_the_retry() -> None:
    steps, _ = play(Unavailable(503, 7.0), Usable(ANSWER))
    assert steps == [Send(), Wait(7.5), Send()]


@pytest.mark.parametrize("trouble", [Unavailable(503, None), GONE])
def test_unrepeatable_call_is_sent_once(trouble: StepOutcome) -> None:
    steps, end = play(trouble, repeatable=False)
    assert steps == [Send()]
    assert isinstance(end, GatewayError)


def test_throttled_call_is_always_resent() -> None:
    steps, end = play(Throttled(1.0), Usable(ANSWER), repeatable=False)
    assert steps == [Send(), Wait(0.0), Send()]
    assert end is ANSWER


@pytest.mark.parametrize("trouble", [Unavailable(503, None), Throttled(1.0), GONE])
def test_an_empty_retry_budget_stops_retries(trouble: StepOutcome) -> None:
    steps, end = play(trouble, may_retry=lambda: False)
    assert steps == [Send()]
    assert isinstance(end, GatewayError)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Misconfigured(401, "APIGW.0301", "the signature is wrong"), ServiceLoginFailed),
        (Broken(302, ""), UpstreamBroken),
        (NotSent(UpstreamSlow("no answer in time")), UpstreamSlow),
        (NotSent(UpstreamBroken("cut")), UpstreamBroken),
    ],
)
def test_permanent_errors_are_not_retried(outcome: StepOutcome, error: type[GatewayError]) -> None:
    requested: list[None] = []
    steps, end = play(outcome, may_retry=lambda: requested.append(None) is None)
    assert steps == [Send()]
    assert isinstance(end, error)
    assert requested == [], "the retry budget is for retries"


def test_refusal_keeps_cloud_message() -> None:
    _, end = play(Refused(404, "iMetal.0100", "not found: a"))
    assert isinstance(end, UpstreamRefused)
    assert (end.status, end.error_code, end.error_msg) == (404, "iMetal.0100", "not found: a")


def test_exhausted_throttled_call_has_retry_after() -> None:
    _, end = play(Throttled(9.0), may_retry=lambda: False)
    assert isinstance(end, UpstreamBusy)
    assert end.retry_after_s == 9.0


def test_retries_are_a_tenth_of_calls() -> None:
    retries = RetryBudget()
    taken = 0
    for _ in range(1_000):
        retries.called()
        taken += retries.take()
    assert 100 <= taken <= 104


OUTCOMES = st.sampled_from(
    [
        Usable(ANSWER), STALE, Throttled(1.0), Unavailable(503, None), GONE, Broken(302, ""),
        Refused(400, "x", "y"), Misconfigured(403, "x", "y"),
    ]
)  # fmt: skip


@given(outcomes=st.lists(OUTCOMES, min_size=6, max_size=6), renewed=st.booleans())
def test_conversation_ends_within_four_attempts(
    *, outcomes: list[StepOutcome], renewed: bool
) -> None:
    talk = converse(repeatable=True, may_retry=lambda: True, jitter=lambda: 1.0)
    steps: list[Step] = []
    try:
        step = next(talk)
        while True:
            steps.append(step)
            match step:
                case Send():
                    step = talk.send(outcomes.pop(0))
                case Renew():
                    step = talk.send(renewed)
                case Wait():
                    step = talk.send(None)
    except (StopIteration, GatewayError):
        pass
    assert steps.count(Send()) <= 4
    assert steps.count(Renew()) <= 1
