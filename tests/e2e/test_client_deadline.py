"""Deadlines of callers (`Prefer: wait`) and the fields of their rate limit."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.support.round_trips import RoundTrips
from tests.support.stack import Response, RunningGateway, Stack, console_path, eventually, fetch

POLICY = '"caller";q=6;w=3600'
INTERVAL_S, BURST = 600, 6


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Iterator[RunningGateway]:
    """Start a gateway with a limit of six requests per hour and caller."""
    limits = {"requests": 6, "per_s": 3600, "burst": BURST}
    store = {**stack.gateway.config["store"], "namespace": "strict"}
    gateway = stack.replica(change={"caller_limits": limits, "store": store})
    yield gateway
    gateway.close()


def remaining(response: Response) -> tuple[int, int]:
    assert response.headers["ratelimit-policy"] == POLICY
    found = re.fullmatch(r'"caller";r=(\d+);t=(\d+)', response.headers["ratelimit"])
    assert found is not None, response.headers
    return int(found[1]), int(found[2])


def assert_left(response: Response, requests: int) -> None:
    """Allow for the part of a second by which the sum over the replicas may lag."""
    left, reset_s = remaining(response)
    assert left in (requests, requests - 1)
    spent_s = (BURST - requests) * INTERVAL_S
    assert spent_s - 20 <= reset_s <= spent_s + 2


def test_links_have_rate_limit_fields(stack: Stack, strict: RunningGateway) -> None:
    token = stack.cloud.token("fields-200")
    for spent in (1, 2, 3):
        response = strict.console(token)
        assert response.status == 200
        assert_left(response, BURST - spent)


def test_unprepared_response_has_rate_limit_fields(stack: Stack, strict: RunningGateway) -> None:
    response = strict.console(stack.cloud.token("fields-close"), Connection="close")
    assert response.status == 200
    assert_left(response, BURST - 1)


def test_rejections_count_against_the_rate_limit(stack: Stack, strict: RunningGateway) -> None:
    token = stack.cloud.token("fields-403", groups=[])
    responses = [strict.console(token) for _ in range(BURST + 1)]
    assert [response.status for response in responses] == [*[403] * BURST, 429]
    assert [remaining(response)[0] for response in responses] == [*reversed(range(BURST)), 0]
    records = [one for one in strict.audit("refused") if one["subject"] == "fields-403"]
    assert len(records) == BURST


def test_rate_limit_reset_equals_retry_after(stack: Stack, strict: RunningGateway) -> None:
    token = stack.cloud.token("fields-429")
    responses = [strict.console(token) for _ in range(BURST + 1)]
    rejected = responses[-1]
    assert rejected.status == 429
    assert rejected.error_code == "CGW.4290"
    assert remaining(rejected) == (0, int(rejected.headers["retry-after"]))


def test_exhausted_budget_reports_the_callers_own_limit(
    stack: Stack,
) -> None:
    iam = stack.gateway.config["accounts"][0]["budget"]["iam"]
    budget = {"console": {"requests": 1, "per_s": 20, "burst": 1}, "iam": iam, "wait_max_s": 1}
    store = {**stack.gateway.config["store"], "namespace": "fields-budget"}
    gateway = stack.replica(account={"budget": budget}, change={"store": store})
    responses = [gateway.console(stack.cloud.token(f"fields-{i}")) for i in range(3)]
    gateway.close()
    assert responses[-1].error_code == "CGW.4291"
    assert re.fullmatch(r'"caller";r=\d+;t=\d+', responses[-1].headers["ratelimit"])


def test_unidentified_request_gets_only_the_limit_policy(
    stack: Stack, strict: RunningGateway
) -> None:
    bearer = {"Authorization": f"Bearer {stack.cloud.token('fields-404')}"}
    malformed = console_path(stack.cloud.project, "no_id")
    responses = [
        strict.console(None),
        strict.console("no-token"),
        fetch(strict.url, "GET", "/nowhere", bearer),
        fetch(strict.url, "GET", malformed, bearer),
        fetch(strict.url, "GET", "/", {"X-Long": "x" * 70_000}),
    ]
    assert [response.status for response in responses] == [401, 401, 404, 400, 413]
    for response in responses:
        assert response.headers["ratelimit-policy"] == POLICY
        assert "ratelimit" not in response.headers


def test_prefer_wait_limits_a_hanging_upstream_call(stack: Stack) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[5]
    cloud.fail(cloud.upstream, "hang", path=server)
    try:
        token = cloud.token("hasty")
        with RoundTrips(stack.gateway) as trips:
            began = time.monotonic()
            response = stack.gateway.console(token, server, Prefer="wait=3")
            seconds = time.monotonic() - began
    finally:
        cloud.heal()
    assert response.status == 504
    assert 2.8 < seconds < trips.limit_s(4.5)
    assert response.headers["preference-applied"] == "wait=3"


def test_prefer_wait_zero_returns_only_cached_links(stack: Stack) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[6]
    token, answers = cloud.token("patient"), list[Response]()
    assert stack.gateway.console(token, server).status == 200
    cloud.fail(cloud.upstream, "hang", path=server)
    try:
        # A record that a busy disk delays ends such a request with 504.
        eventually(
            lambda: (
                answers.append(stack.gateway.console(token, server, Prefer="wait=0"))
                or answers[-1].status == 200
            )
        )
        cached = answers[-1]
        with RoundTrips(stack.gateway) as trips:
            began = time.monotonic()
            missing = stack.gateway.console(
                token, server, Prefer="respond-async, wait=0", Cache_Control="no-cache"
            )
            seconds = time.monotonic() - began
    finally:
        cloud.heal()
    assert cached.headers["preference-applied"] == "wait=0"
    assert missing.status in (429, 504)
    assert missing.headers["preference-applied"] == "wait=0"
    assert seconds < trips.limit_s(1.0)


@pytest.mark.parametrize("prefer", ["wait=soon", "respond-async"])
def test_unknown_preference_is_not_reported_as_applied(stack: Stack, prefer: str) -> None:
    response = stack.gateway.console(stack.cloud.token("vague"), Prefer=prefer)
    assert response.status == 200
    assert "preference-applied" not in response.headers


def test_rejection_reports_the_applied_preference(stack: Stack) -> None:
    response = stack.gateway.console(None, Prefer="wait=5")
    assert response.status == 401
    assert response.headers["preference-applied"] == "wait=5"
