"""Login methods of accounts, reuse of links, rate limits of callers, and stores."""

from pathlib import Path
from typing import Any

import pytest

from gateway.demo.cloud.iam import ACCESS_KEY, SECRET_KEY
from tests.support.stack import RunningGateway, Stack, eventually
from tests.support.tls import TlsProxy, write_certificate


def with_links(stack: Stack, reuse: str) -> tuple[RunningGateway, RunningGateway]:
    store = {**stack.gateway.config["store"], "namespace": reuse}
    made = [
        stack.replica(account={"links": {"reuse": reuse}}, change={"store": store})
        for _ in range(2)
    ]
    return made[0], made[1]


def url(gateway: RunningGateway, token: str, **headers: str) -> str:
    response = gateway.console(token, **headers)
    assert response.status == 200, response.body
    return str(response.json["url"])


def test_shared_links_are_one_per_server(stack: Stack) -> None:
    one, two = with_links(stack, "shared")
    olga, oscar = stack.cloud.token("olga"), stack.cloud.token("oscar")
    assert len({url(one, olga), url(one, oscar), url(two, olga), url(two, oscar)}) == 1


def test_caller_links_are_one_per_server_and_person(stack: Stack) -> None:
    one, two = with_links(stack, "caller")
    olga, oscar = stack.cloud.token("olga"), stack.cloud.token("oscar")
    assert url(one, olga) == url(two, olga) == url(one, olga)
    assert url(one, oscar) == url(two, oscar) != url(one, olga)


def test_links_without_reuse_are_new_each_time(stack: Stack) -> None:
    one, two = with_links(stack, "never")
    olga = stack.cloud.token("olga")
    assert len({url(one, olga), url(one, olga), url(two, olga), url(two, olga)}) == 4


def test_no_cache_requests_a_new_link(stack: Stack) -> None:
    olga = stack.cloud.token("olga-no-cache")
    first = url(stack.gateway, olga)
    fresh = url(stack.gateway, olga, Cache_Control="no-cache")
    assert fresh != first
    assert url(stack.gateway, olga) == fresh


@pytest.mark.parametrize("method", ["aksk", "token_file"])
def test_key_pair_and_token_file_logins(own_stack: Stack, method: str) -> None:
    cloud = own_stack.cloud
    logins: dict[str, dict[str, Any]] = {
        "aksk": {
            "method": "aksk",
            "access_key": {"file": "access"},
            "secret_key": {"file": "secret"},
        },
        "token_file": {"method": "token_file", "token_file": "token"},
    }
    gateway = own_stack.replica(start=False, account={"login": logins[method]})
    (gateway.directory / "access").write_text(ACCESS_KEY)
    (gateway.directory / "secret").write_text(SECRET_KEY)
    assert own_stack.gateway.console(cloud.token()).status == 200
    (call,) = [call for call in cloud.calls(cloud.upstream) if "x-auth-token" in call["headers"]][
        :1
    ]
    (gateway.directory / "token").write_text(call["headers"]["x-auth-token"])
    gateway.start()
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 200
    (sent,) = [call for call in cloud.calls(cloud.upstream) if cloud.servers[1] in call["path"]]
    if method == "aksk":
        assert sent["headers"]["authorization"].startswith("SDK-HMAC-SHA256 Access=")
        assert "x-auth-token" not in sent["headers"]


def test_rate_limited_caller_gets_retry_after(own_stack: Stack) -> None:
    limits = {"requests": 60, "per_s": 1_200, "burst": 5}
    gateway = own_stack.replica(change={"caller_limits": limits})
    token = own_stack.cloud.token()
    responses = [gateway.console(token) for _ in range(12)]
    rejected = [response for response in responses if response.status == 429]
    assert 5 <= len(rejected) <= 7
    assert rejected[0].error_code == "CGW.4290"
    assert 1 <= int(rejected[0].headers["retry-after"]) <= 20
    assert gateway.console(own_stack.cloud.token("oscar")).status == 200


def test_exhausted_budget_gives_an_accurate_retry_after(own_stack: Stack) -> None:
    budget = {"console": {"requests": 1, "per_s": 20, "burst": 1}, "wait_max_s": 1}
    # As the only process it has the whole budget, also while Redis is slow.
    store = {**own_stack.gateway.config["store"], "namespace": "tight", "processes_max": 1}
    gateway = own_stack.replica(account={"budget": budget}, change={"store": store})
    responses = [gateway.console(own_stack.cloud.token(f"p{i}")) for i in range(3)]
    rejected = [response for response in responses if response.status == 429]
    assert len(rejected) >= 2
    assert rejected[-1].error_code == "CGW.4291"
    assert 10 <= int(rejected[-1].headers["retry-after"]) <= 20


def test_login_waits_for_its_slot(own_stack: Stack) -> None:
    budget = {
        "console": {"requests": 1_000, "per_s": 1, "burst": 100},
        "iam": {"requests": 1, "per_s": 2, "burst": 1},
        "wait_max_s": 0.5,
    }
    store = {**own_stack.gateway.config["store"], "namespace": "slow-login"}
    gateway = own_stack.replica(account={"budget": budget}, change={"store": store})
    cloud = own_stack.cloud
    assert gateway.console(cloud.token()).status == 200
    cloud.revoke_service_tokens()
    assert gateway.console(cloud.token(), cloud.servers[1]).status == 200
    assert gateway.metric('gateway_service_logins_total{account="prod",outcome="ok"}') == 2


def test_store_with_user_and_password(own_stack: Stack) -> None:
    own_stack.valkey.command("ACL", "SETUSER", "gw", "on", ">store-password", "~*", "&*", "+@all")
    own_stack.valkey.command("ACL", "SETUSER", "default", "off")
    redis = {"url": own_stack.valkey.url, "username": "gw", "password": {"file": "store"}}
    store = {**own_stack.gateway.config["store"], "redis": redis}
    gateway = own_stack.replica(start=False, change={"store": store})
    (gateway.directory / "store").write_text("store-password")
    gateway.start()
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    assert gateway.console(own_stack.cloud.token()).status == 200
    assert "store-password" not in gateway.log_text()


@pytest.mark.parametrize("trusted", [True, False])
def test_store_tls_requires_a_trusted_certificate(
    own_stack: Stack, tmp_path: Path, *, trusted: bool
) -> None:
    certificate, key = write_certificate(tmp_path, "127.0.0.1")
    front = TlsProxy(certificate, key, own_stack.valkey.port).start()
    try:
        redis = {"url": f"rediss://127.0.0.1:{front.port}/0"}
        if trusted:
            redis["tls_ca_file"] = str(certificate)
        store = {**own_stack.gateway.config["store"], "redis": redis}
        gateway = own_stack.replica(change={"store": store})
        eventually(lambda: gateway.metric("gateway_store_available") == trusted)
        assert gateway.console(own_stack.cloud.token()).status == 200
        gateway.stop()
    finally:
        front.close()


def test_popular_link_is_renewed_before_it_expires(own_stack: Stack) -> None:
    links = {"lifetime_s": 14, "min_remaining_s": 1, "renew_before_s": 8}
    store = {**own_stack.gateway.config["store"], "namespace": "renewal"}
    gateway = own_stack.replica(account={"links": links}, change={"store": store})
    token, server = own_stack.cloud.token(), own_stack.cloud.servers[3]
    seen = set()
    eventually(lambda: seen.add(gateway.console(token, server).json["url"]) or len(seen) >= 2)
    assert gateway.metric('gateway_links_total{account="prod",source="upstream"}') == 1, (
        "only the first request waited for the cloud"
    )
    assert gateway.metric('gateway_link_renewals_total{account="prod",outcome="ok"}') >= 1
