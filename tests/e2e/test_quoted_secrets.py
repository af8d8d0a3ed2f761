"""A cloud that quotes the credential or a console URL in an error: neither goes any further."""

import json
from http.client import IncompleteRead
from itertools import product
from urllib.parse import quote

import pytest

from gateway.demo.cloud import iam
from tests.support.stack import Stack, eventually, fetch, make_policy

URL = "https://cn-east-3-console.huaweicloud.com/vnc_auto.html?token=canary-4711"


def everything_written(stack: Stack) -> str:
    audit = "".join(
        file.read_text() for file in (stack.gateway.directory / "audit").glob("chain-*/*.jsonl")
    )
    return stack.gateway.log_text() + stack.gateway.metrics() + audit


STATUSES = (400, 403, 404, 418, 500, 429, 401)


def test_error_that_quotes_secrets_is_cleaned(own_stack: Stack) -> None:
    stack, server = own_stack, own_stack.cloud.servers[2]
    bodies = (
        {"error_code": "iMetal.0001", "error_msg": "bad header {x-auth-token} for " + URL},
        {"error_code": "{x-auth-token}", "error_msg": "bad"},
        {"error": {"code": "canary", "message": "X-Auth-Token={x-auth-token}; " + quote(URL)}},
    )
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    path = f"/v1/{stack.cloud.project}/physicalservers/{server}"
    for status, body in product(STATUSES, bodies):
        stack.cloud.fail(
            stack.cloud.upstream, "answer", status=status, body=json.dumps(body), path=server
        )
        response = fetch(stack.gateway.url, "GET", path, headers)
        assert response.status >= 400
        stack.cloud.heal()
        sent = [
            call["headers"]["x-auth-token"]
            for call in stack.cloud.calls(stack.cloud.upstream)
            if server in call["path"]
        ]
        text = response.body.decode() + str(response.headers)
        assert len(sent[-1]) > 1_000
        assert not any(part in text for token in sent for part in (token, token[:64], token[64:]))
        assert "canary-4711" not in text
    text = everything_written(stack)
    assert not any(part in text for token in sent for part in (token, token[:64], token[64:]))
    assert "canary-4711" not in text


def test_success_that_quotes_the_token_is_cleaned_or_broken_off(own_stack: Stack) -> None:
    stack, server = own_stack, own_stack.cloud.servers[2]
    policy = make_policy(stack.cloud)
    policy["roles"]["operator"] = "all"
    stack.gateway.write_policy(policy)
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    path = f"/v1/{stack.cloud.project}/physicalservers/{server}"
    download = f"{path}/logs/exports/{server}/content"
    eventually(lambda: fetch(stack.gateway.url, "GET", download, headers).status != 403)
    body = json.dumps({"server": "{x-auth-token}", "id": "x"})
    stack.cloud.fail(stack.cloud.upstream, "answer", status=200, body=body, path=server)
    whole = fetch(stack.gateway.url, "GET", path, headers)
    assert (whole.status, whole.json) == (200, {"server": "…", "id": "x"})
    with pytest.raises((IncompleteRead, ConnectionError)):
        fetch(stack.gateway.url, "GET", download, headers)
    eventually(lambda: "the download quotes the credential" in stack.gateway.log_text())
    sent = stack.cloud.calls(stack.cloud.upstream)[-1]["headers"]["x-auth-token"]
    assert sent[:64] not in everything_written(stack)


def test_iam_code_that_quotes_the_password_is_not_logged(stack: Stack) -> None:
    """A password may look like an error code."""
    store = {**stack.gateway.config["store"], "namespace": "quoted"}  # without a shared token
    gateway = stack.replica(start=False, change={"store": store})
    (gateway.directory / "iam-password").write_text("Canary.4711")
    gateway.write_config()
    body = json.dumps({"error_code": "Canary.4711", "error_msg": "wrong password Canary.4711"})
    stack.cloud.fail(stack.cloud.iam, "answer", status=401, body=body)
    try:
        gateway.start()
        assert gateway.console(stack.cloud.token()).status == 503
        eventually(lambda: gateway.log_lines("service_login_refused"), gateway.log_text)
    finally:
        stack.cloud.heal()
    assert "Canary.4711" not in gateway.log_text() + gateway.metrics()
    assert iam.PASSWORD not in gateway.log_text()
