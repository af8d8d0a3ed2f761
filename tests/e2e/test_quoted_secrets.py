"""A cloud that quotes the credential or a console URL in an error: neither goes any further."""

import json
from itertools import product
from urllib.parse import quote

from gateway.demo.cloud import iam
from tests.support.stack import Stack, eventually, fetch

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
