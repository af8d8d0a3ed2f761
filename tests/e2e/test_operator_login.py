"""The login of the admin listener over real processes: it is another login than the public one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.demo.cloud.idp_login import ADMIN_CLIENT
from gateway.flow.admin.action_specs import ACTION_SPECS
from tests.support.browser_login import (
    ADMIN_API,
    ENVIRON,
    LoginBrowser,
    enable_admin_login,
    enable_login,
)
from tests.support.stack import CloudProcess, Stack, eventually, fetch

PUBLIC_COOKIE, ADMIN_COOKIE = "gateway-session", "gateway-admin-session"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    change = {"overrides": {"file": "overrides.json"}}
    found = Stack(CloudProcess(), start=False, environ=ENVIRON, admin_api=ADMIN_API, change=change)
    enable_login(found.gateway)
    enable_admin_login(found.gateway)
    found.gateway.start()
    yield found
    found.close()


@pytest.fixture
def ada(stack: Stack) -> LoginBrowser:
    browser = LoginBrowser(stack.gateway.admin)
    browser.log_in("ada")
    assert browser.session().status == 200
    return browser


def admin_post(stack: Stack, path: str, body: dict[str, Any]) -> Any:
    """Send an action as a program does."""
    claims = {"aud": ADMIN_API["audience"]}
    token = stack.cloud.token("program", groups=["console-admins"], claims=claims)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = fetch(stack.gateway.admin, "POST", f"/admin{path}", headers, json.dumps(body))
    assert answer.status == 200, answer.body
    return answer.json


def test_operator_has_the_permissions_of_the_groups(stack: Stack, ada: LoginBrowser) -> None:
    session = ada.session().json
    assert session["person"] == {"subject": "ada", "issuer": "corp"}
    assert {"read", "lock", "audit"} <= set(session["permissions"])
    locked = ada.ui("POST", "/ui/admin/locks", {"subject": "mallory", "reason": "test"})
    assert locked.status == 200, locked.body
    record = stack.gateway.audit("lock_set")[-1]
    assert (record["issuer"], record["subject"]) == ("corp", "ada")
    assert record["target"] == ":mallory"
    assert "admin session" in stack.gateway.audit("login")[-1]["detail"]


def test_every_action_needs_the_session(stack: Stack, ada: LoginBrowser) -> None:
    """The pages have the actions of the admin API, no more and no fewer."""
    stranger = LoginBrowser(stack.gateway.admin)
    for spec in ACTION_SPECS.values():
        refused = stranger.ui(spec.method, f"/ui/admin{spec.path}")
        assert (refused.status, refused.json["error_code"]) == (401, "CGW.4011"), spec.name
        known = ada.ui(spec.method, f"/ui/admin{spec.path}", {"no_such_field": ""})
        assert known.status in (200, 400), (spec.name, known.body)
    assert stranger.ui("GET", "/ui/servers").status == 404
    # A page that is left open polls after the end of its session: no attack, and no alert.
    counted = 'gateway_admin_requests_total{{action="Revoke",status="{}"}}'
    ended, rejected = (counted.format(one) for one in ("login_required", "401"))
    before = [stack.gateway.metric(one) for one in (ended, rejected)]
    assert stranger.ui("POST", "/ui/admin/revocations").status == 401
    assert [stack.gateway.metric(one) for one in (ended, rejected)] == [before[0] + 1, before[1]]
    assert fetch(stack.gateway.admin, "POST", "/admin/revocations").status == 401
    assert stack.gateway.metric(rejected) == before[1] + 1


def test_session_has_the_limits_of_the_admin_listener(stack: Stack) -> None:
    browser = LoginBrowser(stack.gateway.admin)
    headers = [value for name, value in browser.log_in("rita").headers if name == "Set-Cookie"]
    (cookie,) = (one for one in headers if one.startswith(f"{ADMIN_COOKIE}="))
    assert "Max-Age=28800" in cookie
    assert "SameSite=Strict" in cookie


def test_read_only_operator_changes_nothing(stack: Stack) -> None:
    rita = LoginBrowser(stack.gateway.admin)
    rita.log_in("rita")
    assert rita.session().json["permissions"] == ["audit", "read"]
    assert rita.ui("GET", "/ui/admin/locks").status == 200
    refused = rita.ui("POST", "/ui/admin/locks", {"subject": "mallory"})
    assert (refused.status, refused.json["error_code"]) == (403, "CGW.4032")
    assert rita.ui("GET", "/ui/admin/requests").status == 403
    assert stack.gateway.audit("admin_refused")[-1]["subject"] == "rita"
    victor = LoginBrowser(stack.gateway.admin)
    victor.log_in("victor")  # without any admin permission
    assert victor.session().json["permissions"] == []
    assert victor.ui("GET", "/ui/admin/overrides").status == 403


def test_session_of_one_listener_opens_nothing_on_the_other(
    stack: Stack, ada: LoginBrowser
) -> None:
    """The browser sends the cookies of both ports to both; values are tried under both names."""
    public = LoginBrowser(stack.gateway.url)
    public.log_in("ada")
    assert public.session().status == 200
    values = {
        PUBLIC_COOKIE: public.cookies[PUBLIC_COOKIE],
        ADMIN_COOKIE: ada.cookies[ADMIN_COOKIE],
    }
    assert set(values) == {*public.cookies, *ada.cookies}
    for base, wrong in (
        (stack.gateway.admin, values[PUBLIC_COOKIE]),
        (stack.gateway.url, values[ADMIN_COOKIE]),
    ):
        tried = LoginBrowser(base, cookies={PUBLIC_COOKIE: wrong, ADMIN_COOKIE: wrong})
        assert tried.session().status == 401
    both = LoginBrowser(stack.gateway.admin, cookies=dict(values))
    assert both.session().status == 200
    programs = both.send("GET", "/admin/overrides", {"Sec-Fetch-Site": "same-origin"})
    assert programs.status == 401  # the paths of programs take no cookie
    assert public.session().status == ada.session().status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"X-CSRF-Token": "another"},
        {"X-CSRF-Token": ""},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_forged_write_is_refused(stack: Stack, ada: LoginBrowser, headers: dict[str, str]) -> None:
    body = {"subject": "forged"}
    refused = ada.ui("POST", "/ui/admin/locks", body, headers)
    assert (refused.status, refused.json["error_code"]) == (403, "CGW.4033")
    public_origin = {"Origin": stack.gateway.url}  # another port is the same site
    assert ada.ui("POST", "/ui/admin/locks", body, public_origin).status == 403
    without = {"Content-Type": "application/json", "X-CSRF-Token": ada.csrf_token}
    sent = {**without, "Sec-Fetch-Site": "same-origin"}
    assert ada.send("POST", "/ui/admin/locks", sent, json.dumps(body)).status == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ada.ui("POST", "/ui/admin/locks", body, form).status == 400
    locks = ada.ui("GET", "/ui/admin/locks").json["overrides"]
    assert not any(one["effect"]["subject"] == "forged" for one in locks)


def test_pages_are_static_shells(stack: Stack) -> None:
    for path in ("/", "/locks", "/audit?x=1", "/login", "/logout"):
        page = fetch(stack.gateway.admin, "GET", path)
        assert page.status == 200, path
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert "set-cookie" not in page.headers
    assert "content-security-policy" not in fetch(stack.gateway.url, "GET", "/locks").headers
    assert fetch(stack.gateway.admin, "POST", "/locks").status == 405
    assert fetch(stack.gateway.admin, "GET", "/console").status == 404  # the relay is public


def test_lock_and_revocation_reach_sessions(stack: Stack, ada: LoginBrowser) -> None:
    lock = admin_post(stack, "/locks", {"subject": "ada"})["override"]["id"]
    refused = ada.ui("GET", "/ui/admin/overrides")
    assert (refused.status, refused.json["error_code"]) == (403, "CGW.4034")
    begun = LoginBrowser(stack.gateway.admin)
    answer = begun.come_back(begun.at_provider(begun.begin(), "ada"))
    assert "locked" in answer.config["title"]
    admin_post(stack, "/locks/lift", {"id": lock})
    assert ada.session().status == 200
    revoked = admin_post(stack, "/revocations", {"issuer": "corp", "subject": "ada"})
    assert ada.session().status == 401
    admin_post(stack, "/overrides/clear", {"id": revoked["override"]["id"]})
    assert ada.session().status == 401  # it has ended


def test_logout_and_logout_by_the_provider(stack: Stack, ada: LoginBrowser) -> None:
    assert ada.ui("POST", "/logout").status == 200
    assert ada.session().status == 401
    ada.log_in("ada")
    public = LoginBrowser(stack.gateway.url)
    public.log_in("ada")
    claims = {"aud": ADMIN_CLIENT, "groups": None, "events": {LOGOUT_EVENT: {}}}
    headers = {"typ": "logout+jwt"}
    token = stack.cloud.token("ada", groups=[], claims=claims, headers=headers)
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def send(base: str) -> int:
        target = "/login/backchannel/corp"
        return fetch(base, "POST", target, form, f"logout_token={token}").status

    assert send(stack.gateway.url) == 400  # it is for another client
    assert send(stack.gateway.admin) == 200
    assert send(stack.gateway.admin) == 400  # once
    assert ada.session().status == 401
    assert public.session().status == 200


def test_operator_ends_logins_of_either_listener(stack: Stack, ada: LoginBrowser) -> None:
    """The list has no secret; who may only read ends nothing."""
    browsers = [LoginBrowser(stack.gateway.url) for _ in range(3)]
    for one, name in zip(browsers, ("victor", "victor", "olga"), strict=True):
        one.log_in(name)
        assert one.session().status == 200
    first, second, other = browsers

    def listed(query: str) -> list[Any]:
        answer = ada.ui("GET", f"/ui/admin/logins?{query}")
        assert answer.status == 200, answer.body
        texts = [*first.cookies.values(), first.csrf_token, *ada.cookies.values(), ada.csrf_token]
        assert all(text.encode() not in answer.body for text in texts)
        found: list[Any] = answer.json["logins"]
        return found

    newest, older = listed("subject=victor")
    assert newest["started_at"] >= older["started_at"]
    assert newest["client_address"] == "127.0.0.1"
    assert newest["used_at"] < newest["idle_ends_at"] <= newest["ends_at"]
    assert {"victor", "olga"} <= {one["subject"] for one in listed("")}
    rita = LoginBrowser(stack.gateway.admin)
    rita.log_in("rita")
    assert rita.session().status == 200
    assert rita.ui("GET", "/ui/admin/logins").status == 200
    assert rita.ui("POST", "/ui/admin/logins/end", {"subject": "victor"}).status == 403
    assert first.session().status == 200
    ended = ada.ui("POST", "/ui/admin/logins/end", {"id": newest["id"]}).json["ended"]
    assert [one["subject"] for one in ended] == ["victor"]
    assert sorted(one.session().status for one in (first, second)) == [200, 401]
    again = ada.ui("POST", "/ui/admin/logins/end", {"id": newest["id"]})
    assert (again.status, "No login has this ID" in again.json["error_msg"]) == (400, True)
    admin_post(stack, "/logins/end", {"subject": "victor", "issuer": "corp"})
    assert [one.session().status for one in browsers] == [401, 401, 200]
    assert other.session().json["person"]["subject"] == "olga"
    own = {"listener": "admin", "subject": "rita"}
    ended = admin_post(stack, "/logins/end", own)["ended"]  # also those of other tests
    assert {one["subject"] for one in ended} == {"rita"}
    assert rita.session().status == 401
    assert ada.session().status == 200


def test_without_redis_programs_go_on(stack: Stack, ada: LoginBrowser) -> None:
    stack.valkey.kill()
    try:
        eventually(lambda: ada.session().status == 503)
        assert ada.session().json["error_code"] == "CGW.5039"
        begun = ada.send("GET", "/login/corp")
        assert begun.status == 503
        assert b"Logins are unavailable" in begun.body
        admin_post(stack, "/log-levels", {"levels": {"gateway.policy": "info"}, "duration_s": 60})
    finally:
        stack.valkey.start()
    eventually(lambda: ada.session().status in (200, 401))
