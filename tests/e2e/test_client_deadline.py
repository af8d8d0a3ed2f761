"""What callers tell us of their patience, and what we tell them of their limit."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.support.stack import Response, RunningGateway, Stack, console_path, fetch

POLICY = '"caller";q=6;w=3600'
INTERVAL_S, BURST = 600, 6


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Iterator[RunningGateway]:
    """Start a gateway that lets each caller ask six times an hour."""
    limits = {"requests": 6, "per_s": 3600, "burst": BURST}
    store = {**stack.gateway.config["store"], "namespace": "strict"}
    gateway = stack.replica(change={"caller_limits": limits, "store": store})
    yield gateway
    gateway.close()


def told(answer: Response) -> tuple[int, int]:
    assert answer.headers["ratelimit-policy"] == POLICY
    found = re.fullmatch(r'"caller";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return int(found[1]), int(found[2])


def assert_left(answer: Response, requests: int) -> None:
    """Adding up with other replicas may cost a caller a part of a second."""
    left, reset_s = told(answer)
    assert left in (requests, requests - 1)
    spent_s = (BURST - requests) * INTERVAL_S
    assert spent_s - 20 <= reset_s <= spent_s + 2


def test_a_fetched_and_a_remembered_link_come_with_what_is_left(
    stack: Stack, strict: RunningGateway
) -> None:
    token = stack.cloud.token("fields-200")
    for spent in (1, 2, 3):
        answer = strict.console(token)
        assert answer.status == 200
        assert_left(answer, BURST - spent)


def test_an_answer_that_is_not_prepared_has_the_same_fields(
    stack: Stack, strict: RunningGateway
) -> None:
    answer = strict.console(stack.cloud.token("fields-close"), Connection="close")
    assert answer.status == 200
    assert_left(answer, BURST - 1)


def test_a_refusal_spends_too_since_it_goes_on_record(stack: Stack, strict: RunningGateway) -> None:
    token = stack.cloud.token("fields-403", groups=[])
    answers = [strict.console(token) for _ in range(BURST + 1)]
    assert [answer.status for answer in answers] == [*[403] * BURST, 429]
    assert [told(answer)[0] for answer in answers] == [*reversed(range(BURST)), 0]
    records = [one for one in strict.audit("refused") if one["subject"] == "fields-403"]
    assert len(records) == BURST


def test_a_refused_caller_has_none_left_until_retry_after(
    stack: Stack, strict: RunningGateway
) -> None:
    token = stack.cloud.token("fields-429")
    answers = [strict.console(token) for _ in range(BURST + 1)]
    refused = answers[-1]
    assert refused.status == 429
    assert refused.error_code == "CGW.4290"
    assert told(refused) == (0, int(refused.headers["retry-after"]))


def test_when_the_account_s_budget_is_used_up_the_caller_s_own_limit_is_told(
    stack: Stack,
) -> None:
    iam = stack.gateway.config["accounts"][0]["budget"]["iam"]
    budget = {"console": {"requests": 1, "per_s": 20, "burst": 1}, "iam": iam, "wait_max_s": 1}
    store = {**stack.gateway.config["store"], "namespace": "fields-budget"}
    gateway = stack.replica(account={"budget": budget}, change={"store": store})
    answers = [gateway.console(stack.cloud.token(f"fields-{i}")) for i in range(3)]
    gateway.close()
    assert answers[-1].error_code == "CGW.4291"
    assert re.fullmatch(r'"caller";r=\d+;t=\d+', answers[-1].headers["ratelimit"])


def test_before_the_caller_or_its_call_is_known_only_the_policy_is_told(
    stack: Stack, strict: RunningGateway
) -> None:
    bearer = {"Authorization": f"Bearer {stack.cloud.token('fields-404')}"}
    malformed = console_path(stack.cloud.project, "no_id")
    answers = [
        strict.console(None),
        strict.console("no-token"),
        fetch(strict.url, "GET", "/nowhere", bearer),
        fetch(strict.url, "GET", malformed, bearer),
        fetch(strict.url, "GET", "/", {"X-Long": "x" * 70_000}),
    ]
    assert [answer.status for answer in answers] == [401, 401, 404, 400, 413]
    for answer in answers:
        assert answer.headers["ratelimit-policy"] == POLICY
        assert "ratelimit" not in answer.headers


def test_a_caller_s_own_deadline_ends_the_wait_for_a_cloud_that_hangs(stack: Stack) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[5]
    cloud.fail(cloud.upstream, "hang", path=server)
    try:
        began = time.monotonic()
        answer = stack.gateway.console(cloud.token("hasty"), server, Prefer="wait=1")
        seconds = time.monotonic() - began
    finally:
        cloud.heal()
    assert answer.status == 504
    assert 0.8 < seconds < 2.5
    assert answer.headers["preference-applied"] == "wait=1"


def test_who_would_not_wait_gets_what_is_there_and_else_an_error_at_once(stack: Stack) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[6]
    token = cloud.token("patient")
    assert stack.gateway.console(token, server).status == 200
    cloud.fail(cloud.upstream, "hang", path=server)
    try:
        held = stack.gateway.console(token, server, Prefer="wait=0")
        began = time.monotonic()
        missing = stack.gateway.console(
            token, server, Prefer="respond-async, wait=0", Cache_Control="no-cache"
        )
        seconds = time.monotonic() - began
    finally:
        cloud.heal()
    assert (held.status, held.headers["preference-applied"]) == (200, "wait=0")
    assert missing.status in (429, 504)
    assert missing.headers["preference-applied"] == "wait=0"
    assert seconds < 1.0


@pytest.mark.parametrize("prefer", ["wait=soon", "respond-async"])
def test_a_preference_that_is_not_understood_is_not_said_to_be_applied(
    stack: Stack, prefer: str
) -> None:
    answer = stack.gateway.console(stack.cloud.token("vague"), Prefer=prefer)
    assert answer.status == 200
    assert "preference-applied" not in answer.headers


def test_a_refusal_tells_the_preference_too(stack: Stack) -> None:
    answer = stack.gateway.console(None, Prefer="wait=5")
    assert answer.status == 401
    assert answer.headers["preference-applied"] == "wait=5"
