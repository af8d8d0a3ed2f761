"""Faults of the cloud, IAM, issuers, Redis and the audit log, as callers see them."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.round_trips import RoundTrips
from tests.support.stack import Stack, eventually, fetch


@pytest.fixture
def stack_with_faults(stack: Stack) -> Iterator[Stack]:
    """Return the shared stack; remove the injected faults after the test."""
    yield stack
    stack.cloud.heal()


def console_now(stack: Stack, server: int = 1) -> Any:
    """Request a link that no cache may serve."""
    return stack.gateway.console(
        stack.cloud.token(), stack.cloud.servers[server], Cache_Control="no-cache"
    )


@pytest.mark.parametrize(
    ("kind", "details", "status"),
    [
        ("reset", {}, 503),
        ("truncated", {}, 502),
        ("huge", {}, 502),
        ("huge_headers", {}, 502),
        ("redirect", {"body": "https://elsewhere.example/"}, 502),
        ("empty", {}, 502),
        ("text", {}, 502),
        ("malformed", {}, 502),
        ("list", {}, 502),
        ("answer", {"body": '{"url": 1}'}, 502),
        ("answer", {"body": '{"link": "x"}'}, 502),
        ("answer", {"body": '{"url": "http://x.huaweicloud.com/vnc"}'}, 502),
        ("answer", {"body": '{"url": "https://evil.example/vnc?token=1"}'}, 502),
        ("answer", {"status": 204}, 502),
        ("answer", {"status": 500, "body": '{"error_code":"iMetal.0099","error_msg":"x"}'}, 503),
        ("answer", {"status": 502}, 503),
        ("answer", {"status": 503}, 503),
        ("answer", {"status": 504}, 503),
        ("answer", {"status": 418}, 502),
        ("answer", {"status": 403, "body": '{"error_code":"iMetal.0004","error_msg":"x"}'}, 502),
    ],
)
def test_upstream_faults_are_reported_and_not_cached(
    stack_with_faults: Stack, kind: str, details: dict[str, Any], status: int
) -> None:
    stack_with_faults.cloud.fail(
        stack_with_faults.cloud.upstream, kind, path="remote-console", **details
    )
    response = console_now(stack_with_faults)
    assert response.status == status, response.body
    assert response.error_code.startswith("CGW.")
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    stack_with_faults.cloud.heal()
    assert (
        stack_with_faults.gateway.console(
            stack_with_faults.cloud.token(), stack_with_faults.cloud.servers[1]
        ).status
        == 200
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error_code": "iMetal.0100", "error_msg": "The physical servers are not found."}),
        (400, {"error_code": "iMetal.0101", "error_msg": "The server state is not ready."}),
    ],
)
def test_clouds_rejection_of_the_request_is_returned(
    stack_with_faults: Stack, status: int, body: dict[str, str]
) -> None:
    stack_with_faults.cloud.fail(
        stack_with_faults.cloud.upstream, "answer", status=status, body=json.dumps(body)
    )
    response = console_now(stack_with_faults)
    assert (response.status, response.json) == (status, body)
    label = 'error_code="cloud",operation="ShowRemoteConsole"'
    assert (
        stack_with_faults.gateway.metric(f'gateway_requests_total{{{label},status="{status}"}}')
        >= 1
    )


@pytest.fixture(scope="module")
def throttled() -> Iterator[Stack]:
    """Start a separate stack: a 429 lowers its rate for a while."""
    running = Stack()
    yield running
    running.close()


@pytest.mark.parametrize("shape", ["apigw", "apig", "untold", "imetal", "string", "ces"])
def test_upstream_429_becomes_an_error_of_the_budget(throttled: Stack, shape: str) -> None:
    cloud = throttled.cloud
    cloud.rate(rate=0.001, burst=0, shape=shape)
    try:
        response = console_now(throttled)
        assert response.status in (429, 503), response.body
        assert int(response.headers["retry-after"]) >= 1
        assert response.error_code in ("CGW.4291", "CGW.5031")
    finally:
        cloud.rate(rate=1000, burst=1000, shape="apigw")
    eventually(lambda: console_now(throttled).status == 200)


@pytest.mark.parametrize(
    "message",
    ["token expires, expires_at:2026-01-01T00:00:00Z", "decrypt token fail"],
)
def test_upstream_401_renews_the_token_once(own_stack: Stack, message: str) -> None:
    assert console_now(own_stack, 5).status == 200
    body = json.dumps({"error_code": "APIGW.0301", "error_msg": message})
    logins = len(own_stack.cloud.calls(own_stack.cloud.iam))
    own_stack.cloud.fail(own_stack.cloud.upstream, "answer", status=401, body=body, times=1)
    assert console_now(own_stack).status == 200
    assert len(own_stack.cloud.calls(own_stack.cloud.iam)) == logins + 1


def test_revoked_service_token_costs_one_login(own_stack: Stack) -> None:
    assert console_now(own_stack, 5).status == 200
    logins = len(own_stack.cloud.calls(own_stack.cloud.iam))
    own_stack.cloud.revoke_service_tokens()
    for server in range(4):
        assert console_now(own_stack, server).status == 200
    assert len(own_stack.cloud.calls(own_stack.cloud.iam)) == logins + 1


@pytest.mark.parametrize(
    "message", ["verify aksk signature fail", "x-auth-token not found", "AK access failed"]
)
def test_lasting_upstream_401_becomes_503(own_stack: Stack, message: str) -> None:
    body = json.dumps({"error_code": "APIGW.0301", "error_msg": message})
    own_stack.cloud.fail(own_stack.cloud.upstream, "answer", status=401, body=body)
    response = console_now(own_stack)
    assert (response.status, response.error_code) == (503, "CGW.5033")
    assert "www-authenticate" not in response.headers


def test_upstream_401_is_retried_at_most_once(own_stack: Stack) -> None:
    assert console_now(own_stack, 5).status == 200
    body = json.dumps({"error_code": "APIGW.0301", "error_msg": "decrypt token fail"})
    before = len(own_stack.cloud.calls(own_stack.cloud.upstream))
    own_stack.cloud.fail(own_stack.cloud.upstream, "answer", status=401, body=body)
    assert console_now(own_stack).status == 503
    assert len(own_stack.cloud.calls(own_stack.cloud.upstream)) == before + 2


def test_single_upstream_failure_is_retried(own_stack: Stack) -> None:
    own_stack.cloud.fail(own_stack.cloud.upstream, "answer", status=503, times=1)
    assert console_now(own_stack).status == 200


def test_unavailable_issuer_affects_only_unknown_keys(stack_with_faults: Stack) -> None:
    stack_with_faults.cloud.fail(stack_with_faults.cloud.issuer, "reset")
    assert stack_with_faults.gateway.console(stack_with_faults.cloud.token()).status == 200
    unknown = stack_with_faults.cloud.token(headers={"kid": "made-up"})
    # Just after a refresh that another test has caused, the token is rejected without one.
    eventually(lambda: stack_with_faults.gateway.console(unknown).status == 503)
    assert stack_with_faults.gateway.console(unknown).error_code == "CGW.5034"
    stack_with_faults.cloud.heal()
    # Other tests of this stack expect keys that are refreshed at once.
    eventually(lambda: stack_with_faults.gateway.console(unknown).status == 401)


def test_key_rotation_applies_at_once(own_stack: Stack) -> None:
    old = own_stack.cloud.token()
    assert own_stack.gateway.console(old).status == 200
    own_stack.cloud.rotate(algorithm="RS256")
    assert own_stack.gateway.console(own_stack.cloud.token()).status == 200
    eventually(lambda: own_stack.gateway.console(old).status == 401)


def test_unavailable_iam_at_start_recovers(own_stack: Stack) -> None:
    own_stack.cloud.fail(own_stack.cloud.iam, "reset")
    late = own_stack.replica(change={"store": _other_namespace(own_stack)})
    response = late.console(own_stack.cloud.token())
    assert (response.status, response.error_code) == (503, "CGW.5033")
    assert int(response.headers["retry-after"]) >= 1
    own_stack.cloud.heal()
    eventually(lambda: late.console(own_stack.cloud.token()).status == 200)


def test_rejected_login_is_not_repeated(own_stack: Stack) -> None:
    assert own_stack.gateway.console(own_stack.cloud.token()).status == 200
    before = len(own_stack.cloud.calls(own_stack.cloud.iam))
    wrong = own_stack.replica(start=False, change={"store": _other_namespace(own_stack)})
    (wrong.directory / "iam-password").write_text("wrong")
    wrong.start()
    for _ in range(20):
        response = wrong.console(own_stack.cloud.token())
        assert (response.status, response.error_code) == (503, "CGW.5033")
    assert len(own_stack.cloud.calls(own_stack.cloud.iam)) == before + 1
    assert wrong.metric('gateway_service_logins_total{account="prod",outcome="refused"}') == 1


def test_unavailable_issuer_at_start_returns_503(own_stack: Stack) -> None:
    token = own_stack.cloud.token()
    own_stack.cloud.fail(own_stack.cloud.issuer, "reset")
    late = own_stack.replica(start=False).start(wait=False)
    eventually(lambda: late.ready() == 503, late.log_text)
    response = late.console(token)
    assert (response.status, response.error_code) == (503, "CGW.5034")
    own_stack.cloud.heal()
    eventually(lambda: late.console(token).status == 200, late.log_text)


def test_gateway_starts_without_redis(own_stack: Stack) -> None:
    alone = own_stack.replica()
    alone.stop()
    own_stack.valkey.kill()
    alone.start()
    assert alone.console(own_stack.cloud.token()).status == 200
    assert alone.log_lines("store_unavailable")
    # Its config disables overrides, so it does not need to load them.
    components = fetch(alone.admin, "GET", "/readyz").json["components"]
    assert (components["redis"], components["overrides"]) == ("degraded", "ok")
    assert alone.metric("gateway_overrides_loaded") == 1
    own_stack.valkey.start()
    eventually(lambda: alone.metric("gateway_store_available") == 1)
    assert alone.console(own_stack.cloud.token(), own_stack.cloud.servers[2]).status == 200


@pytest.mark.parametrize("harm", ["kill", "hang"])
def test_gateway_serves_after_losing_redis(own_stack: Stack, harm: str) -> None:
    store = {**own_stack.gateway.config["store"], "timeout_s": 0.5}
    gateway, cloud = own_stack.replica(change={"store": store}), own_stack.cloud
    assert gateway.console(cloud.token()).status == 200
    own_stack.valkey.kill() if harm == "kill" else own_stack.valkey.hang()
    took_s = []
    with RoundTrips(gateway) as trips:
        for server in range(4):
            began = time.monotonic()
            assert gateway.console(cloud.token(), cloud.servers[server]).status == 200
            took_s.append(time.monotonic() - began)
    assert max(took_s) < trips.limit_s(2.0), took_s
    assert gateway.ready() == 200
    assert gateway.metric("gateway_store_available") == 0
    own_stack.valkey.start() if harm == "kill" else own_stack.valkey.resume()
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    assert gateway.console(cloud.token(), cloud.servers[5]).status == 200


def test_gateway_is_not_ready_without_the_audit_log(own_stack: Stack) -> None:
    gateway = own_stack.replica(change={"audit": {"directory": "audit"}}, start=False)
    in_the_way = gateway.directory / "audit" / "chain-1"
    in_the_way.parent.mkdir()
    in_the_way.write_text("a file")
    gateway.start(wait=False)
    eventually(lambda: gateway.ready() == 503, gateway.log_text)
    response = gateway.console(own_stack.cloud.token())
    assert (response.status, response.error_code) == (503, "CGW.5035")
    assert fetch(gateway.admin, "GET", "/readyz").json["components"]["audit"] == "not durable"
    in_the_way.unlink()
    eventually(lambda: gateway.ready() == 200, gateway.log_text)
    assert gateway.audit("policy_loaded")  # readiness waits for this record
    assert gateway.console(own_stack.cloud.token()).status == 200


def _other_namespace(stack: Stack) -> dict[str, Any]:
    """Return store settings with a namespace that has no service token."""
    store: dict[str, Any] = dict(stack.gateway.config["store"])
    return {**store, "namespace": "another"}


def test_circuit_breaker_opens_and_closes(own_stack: Stack) -> None:
    breaker = {"calls_min": 4, "open_s": 2, "open_max_s": 2}
    store = {**own_stack.gateway.config["store"], "namespace": "breaker"}
    gateway = own_stack.replica(account={"breaker": breaker}, change={"store": store})
    cloud, token = own_stack.cloud, own_stack.cloud.token()
    cloud.fail(cloud.upstream, "reset", path="remote-console")
    responses = []
    eventually(
        lambda: (
            responses.append(gateway.console(token, cloud.servers[1]))
            or responses[-1].error_code == "CGW.5036"
        )
    )
    assert responses[-1].status == 503
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 3
    assert gateway.metric('gateway_breaker_open{account="prod"}') >= 0.5
    assert gateway.metric('gateway_breaker_opened_total{account="prod"}') >= 1
    before, began = len(cloud.calls(cloud.upstream)), time.monotonic()
    for _ in range(20):
        gateway.console(token, cloud.servers[2])
    probes_max = 2 + (time.monotonic() - began) / breaker["open_s"]
    assert len(cloud.calls(cloud.upstream)) - before <= probes_max, (
        "an open breaker lets only probes through"
    )
    cloud.heal()
    eventually(lambda: gateway.console(token, cloud.servers[1]).status == 200)
    assert gateway.metric('gateway_breaker_open{account="prod"}') == 0
