"""Metrics and log lines of a running gateway."""

import asyncio
import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import aiohttp
import jwt
import pytest

from tests.support.stack import Stack, console_path, eventually, fetch

SECRET = "a shared secret of at least 32 bytes"
STRANGERS = 2_500
"""Requests of each of four kinds: 10,000 in total."""
CONNECTIONS = 8


def series(stack: Stack) -> set[str]:
    lines = stack.gateway.metrics().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def strangers(stack: Stack, count: int) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield requests with new persons, servers, paths and tokens."""
    project, now = stack.cloud.project, int(time.time())
    for i in range(count):
        claims = {
            "iss": "https://second.example",
            "sub": f"person-{uuid.uuid4()}",
            "aud": "second",
            "groups": [f"group-{uuid.uuid4()}"],
            "iat": now,
            "exp": now + 600,
        }
        known = jwt.encode(claims, SECRET, "HS256")
        forged = jwt.encode({**claims, "iss": uuid.uuid4().hex}, SECRET, headers={"kid": f"{i}"})
        path = console_path(project, str(uuid.uuid4()))
        yield "GET", path, {"Authorization": f"Bearer {known}", "X-Request-Id": uuid.uuid4().hex}
        yield "GET", path, {"Authorization": f"Bearer {forged}"}
        yield "GET", console_path(uuid.uuid4().hex, "x"), {"X-Auth-Token": known}
        yield ("GET", "POST", "PURGE")[i % 3], f"/{uuid.uuid4()}", {"Authorization": known}


async def send(stack: Stack, requests: Iterator[tuple[str, str, dict[str, str]]]) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def one_connection(session: aiohttp.ClientSession) -> None:
        for method, path, headers in requests:
            async with session.request(method, stack.gateway.url + path, headers=headers) as answer:
                await answer.read()
                statuses[answer.status] += 1

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one_connection(session) for _ in range(CONNECTIONS)))
    return statuses


@pytest.fixture
def two_issuers() -> Iterator[Stack]:
    stack = Stack()
    second = {
        "name": "second",
        "issuer": "https://second.example",
        "audience": ["second"],
        "algorithms": ["HS256"],
        "keys": {"secret": {"file": "second-secret"}},
    }
    gateway = stack.gateway
    gateway.stop()
    (gateway.directory / "second-secret").write_text(SECRET)
    gateway.config["issuers"].append(second)
    gateway.write_config()
    policy = json.loads(gateway.policy_file.read_text())
    for grant in policy["grants"]:
        grant["to"]["issuer"] = "any"  # required with several issuers
    gateway.write_policy(policy)
    gateway.start()
    yield stack
    stack.close()


async def test_callers_cannot_add_label_values(two_issuers: Stack) -> None:
    await send(two_issuers, strangers(two_issuers, 3))
    before = series(two_issuers)
    statuses = await send(two_issuers, strangers(two_issuers, STRANGERS))
    assert statuses.total() == 4 * STRANGERS
    assert statuses[403] >= STRANGERS, (
        "valid tokens are rejected by the policy, not by identification"
    )
    assert series(two_issuers) == before


def test_each_outcome_is_counted(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    token = cloud.token()
    for _ in range(3):
        assert gateway.console(token).status == 200
    gateway.console(None)
    gateway.console(cloud.token("otto", groups=[]))
    assert gateway.metric('gateway_links_total{account="prod",source="upstream"}') == 1
    assert gateway.metric('gateway_links_total{account="prod",source="local"}') == 2
    ok = 'gateway_requests_total{error_code="",operation="ShowRemoteConsole",status="200"}'
    assert gateway.metric(ok) == 3
    forbidden = (
        'gateway_requests_total{error_code="CGW.4030",operation="ShowRemoteConsole",status="403"}'
    )
    assert gateway.metric(forbidden) == 1
    assert gateway.metric('gateway_identifications_total{issuer="corp",outcome="cached"}') == 2
    assert gateway.metric('gateway_stage_duration_seconds_count{stage="obtain"}') == 3
    seconds = 'gateway_request_duration_seconds_count{response="link"}'
    assert gateway.metric(seconds) == 3
    assert gateway.metric(seconds.replace("link", "refused")) == 1
    allowed = 'gateway_decisions_total{decision="allowed",permission="console:open"}'
    assert gateway.metric(allowed) == 3
    assert gateway.metric(allowed.replace("allowed", "denied")) == 1
    assert gateway.metric('gateway_service_logins_total{account="prod",outcome="ok"}') == 1


def test_admin_listener_has_health_and_readiness(stack: Stack) -> None:
    assert fetch(stack.gateway.admin, "GET", "/healthz").status == 200
    ready = fetch(stack.gateway.admin, "GET", "/readyz")
    assert ready.status == 200
    assert json.loads(ready.body)["components"]["redis"] == "ok"


def test_openmetrics_is_served_on_request(stack: Stack) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = fetch(stack.gateway.admin, "GET", "/metrics", accept)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.body.endswith(b"# EOF\n")


def test_each_request_has_one_log_line(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    ids = [f"request-{i:04d}" for i in range(8)]
    for i, request_id in enumerate(ids):
        token = cloud.token() if i % 2 else None
        gateway.console(token, X_Request_Id=request_id)
    eventually(lambda: len(gateway.log_lines("request")) == len(ids))
    lines = gateway.log_lines("request")
    assert [line["request_id"] for line in lines] == ids
    assert {line["status"] for line in lines} == {200, 401}


def test_links_are_counted_by_team(own_stack: Stack) -> None:
    cloud = own_stack.cloud
    teams = {"metrics": {"teams": {"on-call": "night", "operators": "day"}}}
    gateway = own_stack.replica(change=teams)
    for groups in (["operators"], ["operators", "on-call"], ["operators", "gardeners"]):
        assert gateway.console(cloud.token("-".join(groups), groups=groups)).status == 200
    assert gateway.metric('gateway_team_links_total{team="day"}') == 2
    assert gateway.metric('gateway_team_links_total{team="night"}') == 1


def test_workers_export_separate_metrics(
    own_stack: Stack,
) -> None:
    gateway = own_stack.replica(workers=2)
    token = own_stack.cloud.token()
    counted = 'gateway_requests_total{error_code="",operation="ShowRemoteConsole",status="200"}'

    def by_worker() -> list[float]:
        ports = (gateway.admin_port, gateway.admin_port + 1)
        return [gateway.metric(counted, port=port) for port in ports]

    def request_until_both_have_answered() -> int:
        requested = 0
        before = by_worker()
        while min(now - then for now, then in zip(by_worker(), before, strict=True)) < 1:
            assert gateway.console(token).status == 200
            requested += 1
        return requested

    first = request_until_both_have_answered()
    assert sum(by_worker()) == first
    pid = gateway.log_lines("worker_started")[0]["pid"]
    survivor = by_worker()[1]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(gateway.log_lines("worker_started")) == 3)
    eventually(lambda: gateway.ready() == 200)
    assert by_worker() == [0, survivor]
    second = request_until_both_have_answered()
    assert sum(by_worker()) == survivor + second
    assert gateway.metric("gateway_worker_deaths_total") == 1


@pytest.mark.parametrize("more_s", [0, 1], ids=["taken back", "mended"])
def test_config_rejected_is_set_until_corrected(own_stack: Stack, more_s: int) -> None:
    gateway = own_stack.gateway
    assert gateway.metric("gateway_config_rejected") == 0
    gateway.config["no_such_key"] = 1
    gateway.write_config()
    eventually(lambda: gateway.metric("gateway_config_rejected") == 1)
    assert gateway.metric("gateway_config_rejections_total") >= 1
    del gateway.config["no_such_key"]
    gateway.config["request"]["deadline_s"] += more_s
    gateway.write_config()
    eventually(lambda: gateway.metric("gateway_config_rejected") == 0)
    assert gateway.metric("gateway_config_rejections_total") >= 1


def test_series_of_accounts_and_issuers_start_at_zero(stack: Stack) -> None:
    page = stack.gateway.metrics()
    for line in (
        'gateway_service_logins_total{account="prod",outcome="refused"}',
        'gateway_identifications_total{issuer="corp",outcome="revoked"}',
        'gateway_budget_refusals_total{account="prod",budget="console"}',
        'gateway_upstream_duration_seconds_count{account="prod",outcome="throttled"}',
        'gateway_upstream_duration_seconds_count{account="prod",outcome="upstream_unreachable"}',
        'gateway_requests_total{error_code="",operation="ShowRemoteConsole",status="200"}',
        'gateway_requests_total{error_code="CGW.4291",operation="ShowRemoteConsole",status="429"}',
        'gateway_request_duration_seconds_count{response="link"}',
        f'gateway_service_login_refused{{account="prod",project="{stack.cloud.project}"}}',
    ):
        assert f"{line} " in page
