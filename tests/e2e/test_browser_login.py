"""Logins with a browser over real processes: gateway, Valkey and the simulated provider."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from gateway.demo.cloud.idp_login import CLI_CLIENT, WEB_CLIENT, WEB_SECRET
from tests.support.browser_login import (
    ENVIRON,
    SESSION_COOKIE,
    Answer,
    LoginBrowser,
    enable_login,
)
from tests.support.stack import CloudProcess, Stack, eventually, fetch, make_policy


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    found = Stack(CloudProcess(), start=False, environ=ENVIRON)
    second = CloudProcess(servers=1)
    gateway = found.gateway
    gateway.config["login"] = {"fresh_s": 3600}
    first = gateway.config["issuers"][0]
    first["claims"] = {"groups_required": True}
    keys = {"discovery": second.issuer}
    other = {**first, "name": "other", "issuer": second.issuer, "keys": keys}
    gateway.config["issuers"].append(other)
    enable_login(gateway)
    other["login"] = {
        "client_id": CLI_CLIENT,
        "groups_from": "userinfo",
        "acr_values": ["phr", "mfa"],
    }
    gateway.write_config()
    policy = make_policy(found.cloud)
    for grant in policy["grants"]:
        grant["to"]["issuer"] = "corp"
    gateway.write_policy(policy)
    gateway.start()
    found.second = second  # type: ignore[attr-defined]
    yield found
    found.close()
    second.close()


@pytest.fixture
def browser(stack: Stack) -> LoginBrowser:
    return LoginBrowser(stack.gateway.url)


@pytest.fixture
def second(stack: Stack) -> Iterator[CloudProcess]:
    """Return the provider of the issuer `other`: a public client, and groups from userinfo."""
    found: CloudProcess = stack.second  # type: ignore[attr-defined]
    yield found
    provide(found, groups_in=["userinfo"], userinfo_claims={}, id_token_claims={})


@pytest.fixture(autouse=True)
def _heal(stack: Stack) -> Iterator[None]:
    yield
    stack.cloud.heal()
    settings: dict[str, Any] = {
        "announces_iss": True,
        "id_token_claims": {},
        "id_token_forged": None,
        "groups_in": ["id_token", "access_token", "userinfo"],
        "token_life_s": 300,
        "backchannel_logout_uri": None,
    }
    provide(stack, **settings)


def provide(at: Stack | CloudProcess, **settings: Any) -> None:
    """Change the provider."""
    post(at, "/_box/login", settings)


def post(at: Stack | CloudProcess, path: str, data: Any) -> Any:
    headers = {"Content-Type": "application/json"}
    issuer = at.cloud.issuer if isinstance(at, Stack) else at.issuer
    answer = fetch(issuer, "POST", path, headers, json.dumps(data))
    assert answer.status == 200, answer.body
    return answer.json


def failed(answer: Answer, title: str) -> None:
    """Assert that a page says why the login failed, and that there is no session."""
    assert answer.config["state"] == "failed", answer.config
    assert title in answer.config["title"]
    assert answer.status >= 400
    cookies = [value for name, value in answer.headers if name.lower() == "set-cookie"]
    assert not any(one.startswith(f"{SESSION_COOKIE}=") for one in cookies)


def test_login_gives_a_session_of_the_person(stack: Stack, browser: LoginBrowser) -> None:
    assert browser.session().status == 401
    page = browser.log_in("olga", **{"return": "/console"})
    assert page.config["path"] == "/console"
    assert b'http-equiv="refresh" content="0; url=/console"' in page.body
    found = browser.session().json
    assert found["person"] == {"subject": "olga", "issuer": "corp"}
    record = stack.gateway.audit("login")[-1]
    assert (record["subject"], record["groups"]) == ("olga", ["operators"])
    assert stack.gateway.metric('gateway_browser_logins_total{issuer="corp",outcome="ok"}') >= 1


def test_request_to_the_provider_is_bound(browser: LoginBrowser) -> None:
    query = dict(parse_qsl(urlsplit(browser.begin()).query))
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43
    assert {"state", "nonce"} <= set(query)
    assert query["redirect_uri"] == f"{browser.base}/login/callback/corp"
    assert query["response_type"] == "code"


def test_session_cookie_is_new_at_each_login(browser: LoginBrowser) -> None:
    """A login ends the session that an attacker planted before it."""
    browser.log_in("victor")
    planted = browser.cookies[SESSION_COOKIE]
    other = LoginBrowser(browser.base, cookies={SESSION_COOKIE: planted})
    assert other.session().json["person"]["subject"] == "victor"
    browser.log_in("olga")
    assert browser.cookies[SESSION_COOKIE] != planted
    assert other.session().status == 401  # the login has ended it


def test_foreign_code_and_state_give_no_session(browser: LoginBrowser) -> None:
    """Login CSRF: another person's answer of the provider, in this browser."""
    attacker = LoginBrowser(browser.base)
    address = attacker.at_provider(attacker.begin(), "victor")
    failed(browser.come_back(address), "expired or was used")
    browser.begin()  # this browser has begun another login
    failed(browser.come_back(address), "expired or was used")
    assert attacker.come_back(address).status == 200  # the login is unspent


@pytest.mark.parametrize("state", [None, "", "x", "x.y", "a" * 5_000])
def test_wrong_state_is_rejected(browser: LoginBrowser, state: str | None) -> None:
    address = browser.at_provider(browser.begin())
    failed(browser.come_back(address, state=state), "expired or was used")


def test_answer_is_taken_once(browser: LoginBrowser) -> None:
    address = browser.at_provider(browser.begin())
    cookies = dict(browser.cookies)
    assert browser.come_back(address).status == 200
    again = LoginBrowser(browser.base, cookies=cookies)
    failed(again.come_back(address), "expired or was used")


def test_used_code_is_rejected(browser: LoginBrowser) -> None:
    used, unused = (browser.at_provider(browser.begin()) for _ in range(2))
    assert browser.come_back(used).status == 200
    other = LoginBrowser(browser.base)
    for foreign in (used, unused):  # the second has the verifier of another login
        code = dict(parse_qsl(urlsplit(foreign).query))["code"]
        answer = other.come_back(other.at_provider(other.begin()), code=code)
        failed(answer, "rejected the login code")


def test_mixed_up_issuers_are_rejected(browser: LoginBrowser) -> None:
    """An answer at the callback of another issuer, with the wrong `iss`, or without one."""
    address = browser.at_provider(browser.begin())
    failed(
        browser.come_back(address.replace("/callback/corp", "/callback/other")), "another identity"
    )
    for iss in ("https://evil.example", None, ""):
        address = browser.at_provider(browser.begin())
        failed(browser.come_back(address, iss=iss), "another identity")
    address = browser.at_provider(browser.begin(), "nobody")  # an error response
    failed(browser.come_back(address, iss="https://evil.example"), "another identity")


@pytest.mark.parametrize(
    ("claims", "title"),
    [
        ({"nonce": "other"}, "rejected the identity provider's token"),
        ({"nonce": None}, "rejected the identity provider's token"),
        ({"aud": "another-client"}, "rejected the identity provider's token"),
        ({"aud": ["console-gateway-web", "x"]}, "rejected the identity provider's token"),
        ({"azp": "another-client"}, "rejected the identity provider's token"),
        ({"at_hash": "AAAA"}, "rejected the identity provider's token"),
        ({"iss": "https://evil.example"}, "rejected the identity provider's token"),
        ({"sub": None}, "rejected the identity provider's token"),
        ({"exp": 1}, "clocks"),
        ({"iat": 4_000_000_000, "exp": 4_000_000_600}, "clocks"),
        ({"groups": None}, "did not send your groups"),
        ({"groups": None, "_claim_names": {"groups": "src1"}}, "too many groups"),
        ({"groups": None, "hasgroups": True}, "too many groups"),
        ({"events": {}}, "rejected the identity provider's token"),
    ],
)
def test_wrong_id_token_is_rejected(
    stack: Stack, browser: LoginBrowser, claims: dict[str, Any], title: str
) -> None:
    provide(stack, id_token_claims=claims)
    failed(browser.come_back(browser.at_provider(browser.begin())), title)
    assert browser.session().status == 401


@pytest.mark.parametrize("forged", ["none", "hs256", "signature", "foreign_key"])
def test_forged_id_token_is_rejected(stack: Stack, browser: LoginBrowser, forged: str) -> None:
    provide(stack, id_token_forged=forged)
    answer = browser.come_back(browser.at_provider(browser.begin()))
    failed(answer, "rejected the identity provider's token")


def test_groups_come_from_userinfo(stack: Stack, second: CloudProcess) -> None:
    provide(second, groups_in=["userinfo"])
    browser = LoginBrowser(stack.gateway.url, issuer="other")
    assert "acr_values=phr+mfa" in browser.begin()
    browser.log_in("victor")
    record = stack.gateway.audit("login")[-1]
    assert (record["issuer"], record["groups"]) == ("other", ["viewers"])
    provide(second, userinfo_claims={"sub": "olga"})
    answer = browser.come_back(browser.at_provider(browser.begin(), "victor"))
    failed(answer, "rejected the identity provider's token")


@pytest.mark.parametrize("acr", [None, "0", ["phr"]])
def test_level_of_authentication_is_required(
    stack: Stack, second: CloudProcess, acr: object
) -> None:
    provide(second, id_token_claims={"acr": acr})
    browser = LoginBrowser(stack.gateway.url, issuer="other")
    failed(browser.come_back(browser.at_provider(browser.begin())), "lacks a claim")


def test_provider_that_refuses_or_fails_is_named(stack: Stack, browser: LoginBrowser) -> None:
    failed(browser.come_back(browser.at_provider(browser.begin(), "nobody")), "did not log you in")
    for kind in ("reset", "truncated", "malformed", "list", "huge", "redirect", "empty"):
        address = browser.at_provider(browser.begin())
        stack.cloud.fail(stack.cloud.issuer, kind, path="/token")
        answer = browser.come_back(address)
        failed(answer, "does not answer")
        assert answer.status == 503, kind
        stack.cloud.heal()


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/%2f%2fevil.example",
        "/a/../..//evil.example",
        "/console\r\nX: y",
        "javascript:alert(1)",
        "/login/corp",
        "/ui/session",
        "/console#x",
        "evil.example",
        '/"><script>',
    ],
)
def test_return_path_is_ours(browser: LoginBrowser, path: str) -> None:
    page = browser.log_in("olga", **{"return": path})
    assert page.config["path"] == "/login"
    assert b"evil" not in page.body
    assert b"<script>" not in page.body


def test_pages_of_other_origins_get_nothing(browser: LoginBrowser) -> None:
    browser.log_in()
    browser.session()
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this host, which gets the cookies
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:1"},
        {},
    ):
        assert browser.send("GET", "/ui/session", headers).status == 403, headers
    for headers in (
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x" * 43},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert browser.ui("POST", "/logout", headers=headers).status == 403, headers
    assert browser.session().status == 200


def test_cors_covers_no_path_of_logins(browser: LoginBrowser) -> None:
    for path in ("/login", "/logout", "/ui/session", "/login/corp"):
        answer = browser.send("GET", path, {"Origin": "https://portal.example"})
        names = {name.lower() for name, _ in answer.headers}
        assert not any(name.startswith("access-control") for name in names), path


def test_session_cookie_opens_no_api_path(stack: Stack, browser: LoginBrowser) -> None:
    browser.log_in()
    project, server = stack.cloud.project, stack.cloud.servers[0]
    for path in (
        f"/v1/{project}/physicalservers/{server}/remote-console-address",
        f"/v1/{project}/physicalservers",
        "/v3/projects",
    ):
        answer = browser.send("GET", path, {"Sec-Fetch-Site": "same-origin"})
        assert answer.status == 401, (path, answer.body)
    admin = fetch(
        stack.gateway.admin,
        "GET",
        "/admin/v1/overrides",
        {"Cookie": f"{SESSION_COOKIE}={browser.cookies[SESSION_COOKIE]}"},
    )
    assert admin.status in (401, 404)


def test_logout_ends_the_session_here_and_at_the_provider(
    stack: Stack, browser: LoginBrowser
) -> None:
    browser.log_in()
    browser.session()
    copied = dict(browser.cookies)
    answer = browser.ui("POST", "/logout")
    assert answer.status == 200
    location = answer.json["location"]
    assert location.startswith(f"{stack.cloud.issuer}/end_session?")
    query = dict(parse_qsl(urlsplit(location).query))
    assert query["post_logout_redirect_uri"] == f"{browser.base}/logout"
    assert len(query["id_token_hint"].split(".")) == 3
    assert SESSION_COOKIE not in browser.cookies
    # "Back", or a copy of the cookie, finds no session.
    assert LoginBrowser(browser.base, cookies=copied).session().status == 401
    assert browser.send("GET", "/logout").config["state"] == "logged_out"
    assert "by person" in stack.gateway.audit("logout")[-1]["detail"]
    token = revoked_token(stack)
    assert token not in stack.gateway.log_text()
    client = {"client_id": WEB_CLIENT, "client_secret": WEB_SECRET}
    refresh = {"grant_type": "refresh_token", "refresh_token": token, **client}
    refused = fetch(
        stack.cloud.issuer,
        "POST",
        "/token",
        {"Content-Type": "application/x-www-form-urlencoded"},
        urlencode(refresh),
    )
    assert (refused.status, refused.json) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "hang"}, "no answer within 2 s"),
        ({"kind": "answer", "status": 503}, "revocation: HTTP status 503"),
        ({"kind": "reset"}, "/revoke: "),
    ],
)
def test_logout_does_not_depend_on_the_provider(
    stack: Stack, browser: LoginBrowser, fault: dict[str, Any], error: str
) -> None:
    browser.log_in()
    browser.session()
    copied = dict(browser.cookies)
    stack.cloud.fail(stack.cloud.issuer, **fault, path="/revoke")
    try:
        answer = browser.ui("POST", "/logout")
    finally:
        stack.cloud.heal()
    assert (answer.status, "/end_session?" in answer.json["location"]) == (200, True)
    assert LoginBrowser(browser.base, cookies=copied).session().status == 401
    failed = stack.gateway.log_lines("provider_logout_failed")
    assert any(error in one["error"] for one in failed)


def revocations(stack: Stack) -> list[dict[str, Any]]:
    """Return the calls that revoke a token at the provider."""
    return [one for one in stack.cloud.calls(stack.cloud.issuer) if one["path"] == "/revoke"]


def revoked_token(stack: Stack) -> str:
    """Return the token of the newest revocation at the provider."""
    calls = revocations(stack)
    assert calls[-1]["status"] == 200
    form = dict(parse_qsl(calls[-1]["body"]))
    assert form["token_type_hint"] == "refresh_token"
    return form["token"]


def test_logins_in_several_tabs_do_not_disturb(browser: LoginBrowser) -> None:
    first, second = browser.begin(), browser.begin()
    assert browser.come_back(browser.at_provider(second)).status == 200
    assert browser.come_back(browser.at_provider(first)).status == 200
    for _ in range(8):
        browser.begin()
    assert len([name for name in browser.cookies if "login" in name]) <= 5


def backchannel(
    stack: Stack, token: str, *, issuer: str = "corp", form: str = "logout_token"
) -> int:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    target = f"/login/backchannel/{issuer}"
    return fetch(stack.gateway.url, "POST", target, headers, f"{form}={token}").status


def logout_token(stack: Stack, subject: str | None = "victor", **changes: Any) -> str:
    claims = {
        "aud": "console-gateway-web",
        "groups": None,
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        **changes.pop("claims", {}),
    }
    headers = {"typ": "logout+jwt", **changes.pop("headers", {})}
    return stack.cloud.token(subject, groups=[], claims=claims, headers=headers, **changes)


def test_provider_ends_one_session_or_all(stack: Stack, browser: LoginBrowser) -> None:
    second = LoginBrowser(browser.base)
    browser.log_in("victor")
    second.log_in("victor")
    uri = f"{browser.base}/login/backchannel/corp"
    provide(stack, backchannel_logout_uri=uri)
    assert backchannel(stack, logout_token(stack, claims={"sid": "unknown"})) == 200
    assert browser.session().status == 200
    before = {one["body"] for one in revocations(stack)}
    assert post(stack, "/_box/logout", {"subject": "victor"})["status"] == 200
    assert browser.session().status == 401
    assert second.session().status == 401
    assert "by provider" in stack.gateway.audit("logout")[-1]["detail"]
    eventually(lambda: len({one["body"] for one in revocations(stack)} - before) >= 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"forged": "signature"},
        {"forged": "none"},
        {"claims": {"aud": "another-client"}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"nonce": "n"}},
        {"claims": {"events": None}},
        {"claims": {"events": {"other": {}}}},
        {"claims": {"events": "http://schemas.openid.net/event/backchannel-logout"}},
        {"claims": {"jti": None}},
        {"claims": {"iat": 1_000}},
        {"claims": {"iat": 4_000_000_000}},
        {"claims": {"exp": 1}},
        {"subject": None},
        {"headers": {"typ": "at+jwt"}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_wrong_logout_token_ends_nothing(
    stack: Stack, browser: LoginBrowser, changes: dict[str, Any]
) -> None:
    browser.log_in("victor")
    assert backchannel(stack, logout_token(stack, **dict(changes))) == 400
    assert browser.session().status == 200


def test_logout_token_is_taken_once_and_id_token_never(stack: Stack, browser: LoginBrowser) -> None:
    browser.log_in("victor")
    token = logout_token(stack)
    assert backchannel(stack, token) == 200
    browser.log_in("victor")
    assert backchannel(stack, token) == 400
    assert backchannel(stack, logout_token(stack), issuer="other") == 400
    assert backchannel(stack, logout_token(stack), form="token") == 400
    id_token = stack.cloud.token("victor", claims={"aud": "console-gateway-web", "nonce": "n"})
    assert backchannel(stack, id_token) == 400
    assert browser.session().status == 200


def test_no_secret_of_a_login_is_logged(stack: Stack, browser: LoginBrowser) -> None:
    address = browser.at_provider(browser.begin())
    query = dict(parse_qsl(urlsplit(address).query))
    browser.come_back(address)
    browser.session()
    secrets = [
        query["code"], query["state"], browser.cookies[SESSION_COOKIE], browser.csrf_token,
    ]  # fmt: skip
    texts = stack.gateway.log_text() + stack.gateway.metrics()
    texts += json.dumps(stack.gateway.audit("login"))
    assert not any(one in texts for one in secrets)
    keys = fetch_keys(stack)
    assert keys
    assert not any(one in key for key in keys for one in (*secrets, "olga"))


def fetch_keys(stack: Stack) -> list[str]:
    return [repr(one) for one in stack.valkey.command("KEYS", "*")]


def refreshes(stack: Stack) -> int:
    calls = stack.cloud.calls(stack.cloud.issuer)
    return sum("grant_type=refresh_token" in one["body"] for one in calls)


def test_tokens_are_refreshed_once(stack: Stack, browser: LoginBrowser) -> None:
    """The provider rotates refresh tokens, and a second use of one would end the login."""
    provide(stack, token_life_s=2)
    browser.log_in("victor")
    fetch(stack.cloud.issuer, "DELETE", "/_box/calls")
    provide(stack, token_life_s=300, id_token_claims={"groups": ["operators"]})
    browsers = [LoginBrowser(browser.base, cookies=dict(browser.cookies)) for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        eventually(
            lambda: (
                {one.status for one in pool.map(LoginBrowser.session, browsers)} == {200}
                and refreshes(stack) > 0
            )
        )
    assert refreshes(stack) == 1
    browser.session()
    browser.ui("POST", "/logout")
    assert stack.gateway.audit("logout")[-1]["groups"] == ["operators"]


def test_provider_that_ended_the_login_ends_the_session(
    stack: Stack, browser: LoginBrowser
) -> None:
    provide(stack, token_life_s=2)
    browser.log_in("victor")
    post(stack, "/_box/logout", {"subject": "victor"})
    eventually(lambda: browser.session().status == 401)
    assert "by refresh" in stack.gateway.audit("logout")[-1]["detail"]


def test_provider_that_is_down_ends_no_session(stack: Stack, browser: LoginBrowser) -> None:
    provide(stack, token_life_s=2)
    browser.log_in("victor")
    stack.cloud.fail(stack.cloud.issuer, "reset", path="/token")

    def is_tried() -> bool:
        assert browser.session().status == 200
        return bool(stack.gateway.log_lines("login_refresh_failed"))

    eventually(is_tried)
    assert browser.session().status == 200


def test_redis_outage_leaves_tokens(stack: Stack, browser: LoginBrowser) -> None:
    browser.log_in()
    stack.valkey.kill()
    try:
        eventually(lambda: browser.session().status == 503)
        failed(browser.send("GET", "/login/corp"), "unavailable")
        assert stack.gateway.console(stack.cloud.token()).status == 200
    finally:
        stack.valkey.start()
    eventually(lambda: browser.session().status != 503)


def test_page_of_servers_needs_its_setting(stack: Stack) -> None:
    """Without `page.enabled`, its paths are unknown ones, and a login ends at the login's page."""
    for path in ("/", "/page/requests"):
        assert fetch(stack.gateway.url, "GET", path).status == 401
    browser = LoginBrowser(stack.gateway.url)
    assert browser.log_in("olga").config["path"] == "/login"
