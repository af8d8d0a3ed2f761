"""Access requests with the session of a browser, below `/ui`: the same paths as with a JWT."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser_login import ENVIRON, LoginBrowser, enable_login, set_claims
from tests.support.live_delivery import ADMIN_API
from tests.support.stack import CloudProcess, Stack, eventually, fetch, make_policy


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    found = Stack(CloudProcess(), start=False, environ=ENVIRON, admin_api=ADMIN_API)
    gateway = found.gateway
    gateway.config["login"] = {"fresh_s": 3600}
    enable_login(gateway)
    gateway.write_config()
    rule = {
        "role": "operator",
        "to": {"groups": ["viewers"]},
        "on": {"projects": [found.cloud.project]},
        "for_max": "4h",
        "approvers": {"groups": ["approvers", "viewers"]},
        "break_glass": {"per_day": 2},
    }
    gateway.write_policy({**make_policy(found.cloud), "requests": [rule]})
    gateway.start().wait_for_access_requests()
    yield found
    found.close()


def logged_in(stack: Stack, person: str) -> LoginBrowser:
    browser = LoginBrowser(stack.gateway.url)
    browser.log_in(person)
    assert browser.session().status == 200
    return browser


def wanted(stack: Stack) -> dict[str, Any]:
    return {
        "role": "operator",
        "project_id": stack.cloud.project,
        "server_ids": [stack.cloud.servers[-1]],
        "duration_s": 600,
        "reason": "new disk",
    }


def test_one_person_requests_and_another_approves(stack: Stack) -> None:
    victor, anna = logged_in(stack, "victor"), logged_in(stack, "anna")
    token = stack.cloud.token("victor", groups=["viewers"])
    assert stack.gateway.console(token, stack.cloud.servers[-1]).status == 403
    made = victor.ui("POST", "/ui/requests", wanted(stack))
    assert made.status == 201, made.body
    path = f"/ui/requests/{made.json['id']}"
    own = victor.ui("POST", f"{path}/approve", {"hash": made.json["hash"]})
    assert (own.status, own.json["error_code"]) == (403, "CGW.4039")
    (waiting,) = anna.ui("GET", "/ui/requests?filter=to_approve").json["requests"]
    assert (waiting["id"], waiting["may"]) == (made.json["id"], ["approve", "deny"])
    approved = anna.ui("POST", f"{path}/approve", {"hash": waiting["hash"]})
    assert approved.json["in_force"] is True
    eventually(lambda: stack.gateway.console(token, stack.cloud.servers[-1]).status == 200)
    record = stack.gateway.audit("access_request_approved")[-1]
    assert (record["subject"], record["target"]) == ("anna", "corp:victor")
    assert victor.ui("POST", f"{path}/end", {}).json["state"] == "revoked"


def test_break_glass_and_approvals_need_a_recent_login(stack: Stack) -> None:
    set_claims(stack.gateway, {"auth_time": None})
    old = logged_in(stack, "victor")
    set_claims(stack.gateway, {})
    glass = wanted(stack) | {"break_glass": True, "reason": "the rack is on fire"}
    made = old.ui("POST", "/ui/requests", wanted(stack))
    assert made.status == 201, made.body
    path = f"/ui/requests/{made.json['id']}"
    for target, body in (
        ("/ui/requests", glass),
        (f"{path}/approve", {"hash": made.json["hash"]}),
    ):
        refused = old.ui("POST", target, body)
        assert (refused.status, refused.json["error_code"]) == (403, "CGW.4036"), target
    assert old.ui("POST", f"{path}/withdraw", {}).status == 200

    fresh = logged_in(stack, "victor")
    broken = fresh.ui("POST", "/ui/requests", glass)
    assert (broken.status, broken.json["state"]) == (201, "active")
    assert fresh.ui("POST", f"/ui/requests/{broken.json['id']}/end", {}).status == 200
    token = stack.cloud.token("victor", groups=["viewers"])
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    by_token = fetch(stack.gateway.url, "POST", "/requests", headers, json.dumps(glass))
    assert by_token.status == 201, by_token.body  # a program has a token, and no login
    path = f"/requests/{by_token.json['id']}/end"
    assert fetch(stack.gateway.url, "POST", path, headers, "{}").status == 200


def test_writes_need_the_token_of_the_page(stack: Stack) -> None:
    victor = logged_in(stack, "victor")
    for headers in (
        {"X-CSRF-Token": "other"},
        {"Origin": "https://portal.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        refused = victor.ui("POST", "/ui/requests", wanted(stack), headers)
        assert refused.status == 403, headers
    assert victor.ui("GET", "/ui/requests?state=pending").json["requests"] == []
    assert LoginBrowser(stack.gateway.url).ui("GET", "/ui/requests").status == 401
    assert victor.send("GET", "/requests", {"Sec-Fetch-Site": "same-origin"}).status == 401


def test_unchanged_requests_are_not_sent_again(stack: Stack) -> None:
    victor = logged_in(stack, "victor")
    path = "/ui/requests?state=pending,active"
    first = victor.ui("GET", path)
    assert (first.status, first.json["requests"]) == (200, [])
    known = {"If-None-Match": dict(first.headers)["ETag"]}
    assert victor.ui("GET", path, None, known).status == 304
    made = victor.ui("POST", "/ui/requests", wanted(stack))
    assert made.status == 201
    changed = victor.ui("GET", path, None, known)
    assert [(one["id"], one["own"]) for one in changed.json["requests"]] == [
        (made.json["id"], True)
    ]
    assert victor.ui("POST", f"/ui/requests/{made.json['id']}/withdraw", {}).status == 200
    assert victor.ui("GET", "/ui/requests?state=pending,nothing").status == 400
