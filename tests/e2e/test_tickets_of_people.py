"""Tickets belong to a person, in browsers with a login: real gateways, Valkey, simulated cloud."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser_login import ENVIRON, Answer, LoginBrowser, enable_login, set_claims
from tests.support.live_delivery import (
    ADMIN_API,
    PROJECT,
    admin_headers,
    admin_post,
    deliver_live,
    ticket,
)
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, fetch


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways on one store: with `optional` and with `required`."""
    options: Any = {"start": False, "environ": ENVIRON, "admin_api": ADMIN_API}
    found = Stack(CloudProcess("--live-project", PROJECT), **options)
    required = found.replica(**options)
    for gateway, login in ((found.gateway, "optional"), (required, "required")):
        gateway.config["login"] = {"fresh_s": 3600}
        deliver_live(gateway, browser_login=login, sessions_server_max=20, sessions_person_max=20)
        enable_login(gateway)
        policy = {
            "roles": {"operator": ["console:open", "server:read"]},
            "grants": [
                {
                    "role": "operator",
                    "to": {"users": ["olga", "victor"]},
                    "on": {"servers": found.cloud.servers},
                }
            ],
        }
        gateway.write_policy(policy)
        gateway.start()
    found.required = required  # type: ignore[attr-defined]
    yield found

    found.close()


@pytest.fixture
def optional(stack: Stack) -> RunningGateway:
    return stack.gateway


@pytest.fixture
def required(stack: Stack) -> RunningGateway:
    gateway: RunningGateway = stack.required  # type: ignore[attr-defined]
    return gateway


def new_ticket(gateway: RunningGateway, person: str = "olga") -> str:
    return ticket(gateway, gateway.cloud.token(person), gateway.cloud.servers[0])


def post(browser: LoginBrowser, path: str, **body: Any) -> Answer:
    return browser.ui("POST", path, body)


def code(answer: Answer) -> str:
    return str(answer.json["error_code"])


def cookies(answer: Answer) -> list[str]:
    return [value for name, value in answer.headers if name.lower() == "set-cookie"]


def test_browser_without_login_opens_where_it_is_optional(optional: RunningGateway) -> None:
    browser = LoginBrowser(optional.url)
    text = new_ticket(optional)
    assert post(browser, "/console/ticket", ticket=text).status == 200
    assert post(browser, "/console/redeem", ticket=text).status == 200


def test_another_person_is_refused_and_the_ticket_stays(optional: RunningGateway) -> None:
    thief, owner = LoginBrowser(optional.url), LoginBrowser(optional.url)
    thief.log_in("victor")
    owner.log_in("olga")
    text = new_ticket(optional, "olga")
    for path in ("/console/ticket", "/console/redeem", "/console/redeem"):
        answer = post(thief, path, ticket=text)
        assert (answer.status, code(answer)) == (403, "CGW.4038")
    assert post(owner, "/console/ticket", ticket=text).status == 200
    assert post(owner, "/console/redeem", ticket=text).status == 200
    records = [
        one for one in optional.audit("console_ticket_rejected") if "corp:victor" in one["detail"]
    ]
    assert len(records) == 1
    assert records[0]["subject"] == "olga"
    issued = [one["link_fingerprint"] for one in optional.audit("console_ticket_issued")]
    assert records[0]["link_fingerprint"] in issued


def test_required_login_leaves_the_ticket_unspent(required: RunningGateway) -> None:
    text = new_ticket(required)
    for path in ("/console/ticket", "/console/redeem"):
        answer = post(LoginBrowser(required.url), path, ticket=text)
        assert (answer.status, code(answer)) == (401, "CGW.4011")
    browser = LoginBrowser(required.url)
    browser.log_in("olga")
    assert post(browser, "/console/redeem", ticket=text).status == 200


def test_parked_ticket_opens_after_the_login_of_its_person(required: RunningGateway) -> None:
    browser = LoginBrowser(required.url)
    text = new_ticket(required)
    parked = post(browser, "/console/park", ticket=text)
    assert parked.status == 200
    (cookie,) = cookies(parked)
    assert "Max-Age=600" in cookie
    assert "SameSite=Strict" in cookie
    # It is spent for other browsers, even for the same person.
    other = LoginBrowser(required.url)
    other.log_in("olga")
    for path in ("/console/ticket", "/console/park", "/console/redeem"):
        assert post(other, path, ticket=text).status == 410
    assert post(browser, "/console/parked").status == 401
    assert post(browser, "/console/redeem", parked=True).status == 401
    browser.log_in("olga", **{"return": "/console"})
    described = post(browser, "/console/parked")
    assert described.status == 200
    assert described.json["expires_in"] > 60
    opened = post(browser, "/console/redeem", parked=True)
    assert opened.status == 200
    assert post(browser, "/console/redeem", parked=True).status == 410
    assert any(one.startswith("gateway-parked=;") for one in cookies(opened))
    started = required.audit("console_session_started")[-1]["link_fingerprint"]
    assert required.audit("console_ticket_parked")[-1]["link_fingerprint"] == started
    issued = [one["link_fingerprint"] for one in required.audit("console_ticket_issued")]
    assert started in issued


def test_parked_ticket_is_refused_to_another_person(required: RunningGateway) -> None:
    browser = LoginBrowser(required.url)
    post(browser, "/console/park", ticket=new_ticket(required))
    browser.log_in("victor")
    for path, body in (("/console/parked", {}), ("/console/redeem", {"parked": True})):
        answer = post(browser, path, **body)
        assert (answer.status, code(answer)) == (403, "CGW.4038")
    browser.log_in("olga")
    assert post(browser, "/console/redeem", parked=True).status == 200


def test_secret_of_a_parked_ticket_is_no_ticket(
    optional: RunningGateway, required: RunningGateway
) -> None:
    """A parked ticket needs the login also where the login is optional."""
    browser = LoginBrowser(required.url)
    post(browser, "/console/park", ticket=new_ticket(required))
    secret = browser.cookies["gateway-parked"]
    anyone = LoginBrowser(optional.url)
    assert post(anyone, "/console/ticket", ticket=secret).status == 410
    assert post(anyone, "/console/redeem", ticket=f"parked {secret}").status == 401
    assert post(anyone, "/console/redeem", ticket="parked x").status == 410
    browser.log_in("olga")
    assert post(browser, "/console/redeem", parked=True).status == 200


def test_old_login_must_be_repeated(optional: RunningGateway) -> None:
    """With `login.fresh_s`, a login without `auth_time` does not open a console."""
    browser = LoginBrowser(optional.url)
    set_claims(optional, {"auth_time": None})
    browser.log_in("olga")
    set_claims(optional, {"auth_time": 1})
    answer = browser.come_back(browser.at_provider(browser.begin(fresh="1")))
    assert answer.status == 403
    assert "authenticate again" in answer.config["title"]
    set_claims(optional, {})
    text = new_ticket(optional)
    refused = post(browser, "/console/redeem", ticket=text)
    assert (refused.status, code(refused)) == (403, "CGW.4036")
    address = browser.begin(fresh="1")
    assert "max_age=3600" in address
    assert browser.come_back(browser.at_provider(address)).status == 200
    assert post(browser, "/console/redeem", ticket=text).status == 200


def test_logout_ends_the_consoles_of_its_session(optional: RunningGateway) -> None:
    browser, other = LoginBrowser(optional.url), LoginBrowser(optional.url)
    for one in (browser, other):
        one.log_in("olga")
        one.session()
    opened = post(browser, "/console/redeem", ticket=new_ticket(optional)).json["session_id"]
    stays = post(other, "/console/redeem", ticket=new_ticket(optional)).json["session_id"]
    # A new login of the same person in the same browser keeps the console.
    browser.log_in("olga")
    browser.session()
    ended = [one["session"] for one in optional.audit("console_session_ended")]
    assert opened not in ended
    assert browser.ui("POST", "/logout").status == 200

    def ends() -> dict[str, str]:
        return {one["session"]: one["end"] for one in optional.audit("console_session_ended")}

    eventually(lambda: ends().get(opened) == "logged_out")
    assert stays not in ends()


def test_revocation_ends_the_session_and_a_lock_does_not(
    stack: Stack, optional: RunningGateway
) -> None:
    revoked, locked = LoginBrowser(optional.url), LoginBrowser(optional.url)
    revoked.log_in("anna")
    locked.log_in("otto")
    headers = admin_headers(stack.cloud)
    admin_post(optional, "/admin/locks", headers, {"subject": "otto"})
    eventually(lambda: locked.session().status == 403)
    assert code(locked.session()) == "CGW.4034"
    refused = locked.come_back(locked.at_provider(locked.begin(), "otto"))
    assert "locked or revoked" in refused.config["title"]
    listed = fetch(optional.admin, "GET", "/admin/locks", headers).json["overrides"]
    unlock = {"id": listed[0]["id"]}
    admin_post(optional, "/admin/locks/lift", headers, unlock)
    eventually(lambda: locked.session().status == 200)
    admin_post(optional, "/admin/revocations", headers, {"issuer": "corp", "subject": "anna"})
    eventually(lambda: revoked.session().status == 401)
    assert code(revoked.session()) == "CGW.4011"
    eventually(lambda: any("by revoked" in one["detail"] for one in optional.audit("logout")))


def test_without_redis_a_browser_with_a_login_opens_nothing(
    stack: Stack, optional: RunningGateway, required: RunningGateway
) -> None:
    browsers = {gateway.url: LoginBrowser(gateway.url) for gateway in (optional, required)}
    for browser in browsers.values():
        browser.log_in("olga")
    stack.valkey.kill()
    try:
        for gateway in (required, optional):
            eventually(lambda of=gateway: of.metric("gateway_store_available") == 0)
            text = new_ticket(gateway)
            assert post(browsers[gateway.url], "/console/redeem", ticket=text).status == 503
        unspent = post(LoginBrowser(optional.url), "/console/redeem", ticket=text)
        assert unspent.status == 200
    finally:
        stack.valkey.start()
    for gateway in (optional, required):
        eventually(lambda of=gateway: of.metric("gateway_store_available") == 1)
