"""The invariants of product.md, by number, on real processes."""

import json
import os
import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import valkey

from gateway.demo.cloud import iam
from gateway.flow.single_flight import _LEASE_S
from tests.support.round_trips import RoundTrips
from tests.support.stack import Stack, console_path, eventually, make_policy, send_raw

_POLICY_RELOADS = 'gateway_policy_reloads_total{outcome="ok"}'


def test_1_cached_link_requires_the_current_policy(
    own_stack: Stack,
) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    token = cloud.token()
    assert gateway.console(token).status == 200
    assert gateway.console(token).status == 200
    policy = make_policy(cloud)
    policy["denials"] = [
        {"permissions": ["console:open"], "to": {"users": ["olga"]}, "on": "everything"}
    ]
    gateway.write_policy(policy)
    eventually(lambda: gateway.console(token).status == 403)
    assert gateway.console(cloud.token("oscar")).status == 200


def test_1_expired_grant_stops_access_at_once(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    policy, token = make_policy(cloud), cloud.token()
    status = 403
    for left_s in (4, 8, 16, 32):  # on a busy machine the grant may have ended before it is used
        loaded = gateway.metric(_POLICY_RELOADS)
        ends = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + left_s))
        policy["grants"][0]["until"] = ends
        gateway.write_policy(policy)
        eventually(lambda n=loaded: gateway.metric(_POLICY_RELOADS) > n)
        status = gateway.console(token).status
        if status == 200:
            break
    assert status == 200
    eventually(lambda: gateway.console(token).status == 403)


def test_2_link_keeps_min_remaining_lifetime(own_stack: Stack) -> None:
    links = {"lifetime_s": 6, "min_remaining_s": 2}
    gateway = own_stack.replica(
        account={"links": links},
        change={"store": {**own_stack.gateway.config["store"], "namespace": "short"}},
    )
    token = own_stack.cloud.token()
    received: dict[str, float] = {}

    def returns_third_link() -> bool:
        # The gateway sent a link after it was requested, and had fetched it before it was received.
        requested_at = time.monotonic()
        response = gateway.console(token)
        assert response.status == 200, response.body
        received_at = received.setdefault(response.json["url"], time.monotonic())
        assert requested_at - received_at <= 4.0
        assert int(response.headers["x-console-expires-in"]) >= 2
        time.sleep(0.1)
        return len(received) >= 3

    eventually(returns_third_link)


def test_4_concurrent_requests_cost_one_upstream_call(
    own_stack: Stack,
) -> None:
    cloud, other = own_stack.cloud, own_stack.replica()
    token, server = cloud.token(), cloud.servers[4]
    replicas = (own_stack.gateway, other)
    with ThreadPoolExecutor(40) as pool, RoundTrips(*replicas, valkey=own_stack.valkey) as trips:
        responses = list(pool.map(lambda i: replicas[i % 2].console(token, server), range(80)))
    assert {response.status for response in responses} == {200}
    # A holder that a busy machine stops for a second counts as a dead one.
    calls_max = 1 if trips.limit_s(0.0) < _LEASE_S else 2
    assert len({response.json["url"] for response in responses}) <= calls_max
    assert cloud.consoles()[server] <= calls_max


def test_4_dead_holder_costs_one_more_call(own_stack: Stack) -> None:
    cloud, other = own_stack.cloud, own_stack.replica()
    token, server = cloud.token(), cloud.servers[4]
    cloud.fail(cloud.upstream, "answer", path=server, delay_s=60.0, times=1)
    with ThreadPoolExecutor(4) as pool:
        lost = pool.submit(_request_and_lose, own_stack, token, server)
        cloud.wait_for_fault(cloud.upstream)
        waiting = pool.submit(other.console, token, server)
        # On a busy machine, the lease may end before the holder does.
        eventually(lambda: other.metric("gateway_fetches_in_flight") == 1 or waiting.done())
        for pid in _workers(own_stack.gateway.pid):
            _kill(pid)
        response = waiting.result()
        lost.result()
    assert response.status == 200
    assert cloud.consoles()[server] == 1  # and the one that hung


def test_5_link_has_one_audit_record_first(
    own_stack: Stack,
) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    ids = []
    for i in range(30):
        response = gateway.console(cloud.token(), cloud.servers[i % 3])
        assert response.status == 200
        ids.append(response.headers["x-request-id"])
        records = gateway.audit("console_link_issued")
        assert [record["request_id"] for record in records] == ids
    gateway.console(cloud.token("otto", groups=[]))
    assert len(gateway.audit("console_link_issued")) == 30
    record = gateway.audit("console_link_issued")[0]
    assert (record["subject"], record["servers"]) == ("olga", [cloud.servers[0]])
    assert record["rule"].rpartition(":")[0].endswith("policy.yaml")


def test_6_no_secret_in_outputs_or_store(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    caller_jwt = cloud.token()
    responses = [gateway.console(caller_jwt, server) for server in cloud.servers]
    responses.append(gateway.console(caller_jwt + "x"))
    cloud.fail(
        cloud.upstream, "answer", body='{"url": "https://evil.example/?token=canary-url"}', times=3
    )
    responses.append(gateway.console(caller_jwt, cloud.servers[0], Cache_Control="no-cache"))
    cloud.revoke_service_tokens()
    responses.append(gateway.console(caller_jwt, cloud.servers[1], Cache_Control="no-cache"))
    eventually(lambda: len(gateway.log_lines("request")) >= len(responses))
    urls = [response.json["url"] for response in responses if response.status == 200]
    assert len(urls) >= 7
    secrets = [url.partition("token=")[2].partition("&")[0] for url in urls]
    secrets += [caller_jwt, caller_jwt.rpartition(".")[2], iam.PASSWORD, "canary-url", "MII"]
    rejections = "".join(str(one) for one in responses if one.status != 200)
    for text in (gateway.log_text(), gateway.metrics(), rejections, _dump(own_stack)):
        for secret in secrets:
            assert secret not in text


def test_6_caller_credentials_never_reach_the_cloud(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    response = gateway.console(
        cloud.token(),
        Cookie="session=canary",
        X_Security_Token="canary",
        X_Project_Id="canary",
        X_Forwarded_For="canary",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        X_Request_Id="request-id-42",
    )
    assert response.status == 200
    with urllib.request.urlopen(cloud.upstream + "/_box/calls") as page:
        (call,) = json.load(page)["calls"]
    sent = call["headers"]
    assert sent["x-request-id"] == "request-id-42"
    assert sent["traceparent"].startswith("00-4bf92f")
    assert sent["x-auth-token"].startswith("MII")
    assert {"authorization", "cookie", "x-security-token", "x-project-id"}.isdisjoint(sent)
    assert "canary" not in json.dumps(sent)


def test_8_request_is_answered_by_its_deadline(own_stack: Stack) -> None:
    gateway = own_stack.replica(
        change={"request": {"deadline_s": 3}},
    )
    own_stack.cloud.fail(own_stack.cloud.upstream, "hang")
    token = own_stack.cloud.token()
    with RoundTrips(gateway) as trips:
        began = time.monotonic()
        response = gateway.console(token)
        took_s = time.monotonic() - began
    assert response.status == 504
    assert took_s < trips.limit_s(5.0)


def test_8_disconnected_caller_releases_its_place(own_stack: Stack) -> None:
    cloud = own_stack.cloud
    gateway = own_stack.replica(
        change={"request": {"deadline_s": 60, "drain_s": 1}},
        account={"timeouts": {"connect_s": 4, "read_s": 4, "total_s": 4}},
    )
    cloud.fail(cloud.upstream, "hang", path=cloud.servers[2])
    path = console_path(cloud.project, cloud.servers[2])
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cloud.token()}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall(raw.encode())
        eventually(lambda: gateway.metric("gateway_fetches_in_flight") == 1)
    # The call that was sent is awaited for the next caller, but no longer than a call may take.
    eventually(lambda: gateway.metric("gateway_fetches_in_flight") == 0)
    cloud.heal()
    eventually(lambda: gateway.console(cloud.token(), cloud.servers[2]).status == 200)


def _request_and_lose(stack: Stack, token: str, server: str) -> bytes:
    path = console_path(stack.cloud.project, server)
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    try:
        return send_raw(stack.gateway.url, raw.encode())
    except OSError:
        return b""


def _workers(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _dump(stack: Stack) -> str:
    client = valkey.Valkey(port=stack.valkey.port)
    stored = b""
    for name in client.scan_iter("*"):
        stored += name + b"\n"
        if client.type(name) == b"string":
            stored += client.get(name) or b""
    client.close()
    return stored.decode("latin-1")
