"""The operators' pages in a real browser, beside the console of a person in another one."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.audit import SigningKey
from tests.support.browser import ConsoleTab, needs_chromium
from tests.support.browser_login import ADMIN_API, ENVIRON, enable_admin_login, enable_login
from tests.support.live_delivery import PROJECT, deliver_live, ticket
from tests.support.page_pictures import PageVisitor
from tests.support.stack import (
    CloudProcess,
    RunningGateway,
    Stack,
    eventually,
    fetch,
    make_policy,
)

pytestmark = needs_chromium
HOSTILE = '<script>alert("x")</script>'
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class OperatorSite:
    gateway: RunningGateway

    @property
    def address(self) -> str:
        """Another site than the provider's, which is on 127.0.0.1."""
        return f"http://localhost:{self.gateway.admin_port}"

    @property
    def console(self) -> str:
        """A one-time address of the first server, for olga."""
        cloud = self.gateway.cloud
        text = ticket(self.gateway, cloud.token("olga"), cloud.servers[0])
        return f"{self.gateway.config['listen']['public_url']}/console#{text}"

    def request(self, person: str, step: str = "", **fields: Any) -> dict[str, Any]:
        """Make an access request; a lead, or the person, takes the step."""
        cloud = self.gateway.cloud
        body = {
            "role": "operator",
            "project_id": cloud.project,
            "server_ids": [cloud.servers[-1]],
            "duration_s": 3_600,
            "reason": "replace a disk",
            **fields,
        }
        made = self._send(person, "", body)
        if not step:
            return made
        by = person if step == "withdraw" else "lea"
        approval = {"hash": made["hash"]} if step == "approve" else {}
        return self._send(by, f"/{made['id']}/{step}", approval)

    def _send(self, person: str, path: str, body: object) -> dict[str, Any]:
        token = self.gateway.cloud.token(person, groups=["leads" if person == "lea" else "staff"])
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = fetch(self.gateway.url, "POST", f"/requests{path}", headers, json.dumps(body))
        assert answer.status in (200, 201), answer.body
        found: dict[str, Any] = answer.json
        return found


class OperatorVisitor(PageVisitor[OperatorSite]):
    def enter(self, person: str, path: str = "/") -> None:
        """Open a page, and log in on the way."""
        self.page.goto(f"{self.site.address}{path}")
        self.button("Log in with Company login").click()
        self.page.get_by_role("link", name=person, exact=True).click()
        self.expect_state("open")
        expect(self.page).to_have_url(f"{self.site.address}{path}")

    def go(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).click()
        expect(self.title()).to_have_text(name)
        self.expect_state("open")

    def row(self, text: str) -> Locator:
        return self.page.get_by_role("row").filter(has_text=text)

    def confirm(self, label: str, reason: str) -> None:
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("Reason, for the audit log").fill(reason)
        dialog.get_by_role("button", name=label, exact=True).click()
        expect(dialog).to_be_hidden()


@pytest.fixture(scope="module")
def site() -> Iterator[OperatorSite]:
    audit = {"directory": "audit", "signing_key": {"file": "audit-key"}, "checkpoint_s": 0.2}
    change = {"overrides": {"file": "overrides.json"}, "audit": audit}
    cloud = CloudProcess("--live-project", PROJECT)
    stack = Stack(cloud, start=False, environ=ENVIRON, admin_api=ADMIN_API, change=change)
    gateway = stack.gateway
    (gateway.directory / "audit-key").write_bytes(SigningKey().private)
    deliver_live(gateway, public_url=f"http://localhost:{gateway.port}")
    enable_login(gateway)
    url = f"http://localhost:{gateway.admin_port}"
    enable_admin_login(gateway, url=url, label="Company login")
    gateway.write_config()
    rule = {
        "role": "operator",
        "to": {"groups": ["staff"]},
        "on": {"projects": [cloud.project]},
        "for_max": "4h",
        "approvers": {"groups": ["leads"]},
        "break_glass": {"per_day": 2, "reason_min": 10},
    }
    gateway.write_policy({**make_policy(cloud), "requests": [rule]})
    gateway.start().wait_for_access_requests()
    yield OperatorSite(gateway)
    stack.close()


@pytest.fixture
def visitor(site: OperatorSite, browser: Browser) -> Iterator[OperatorVisitor]:
    with OperatorVisitor.visiting(browser, site) as visitor:
        # The session's absence is an answer of 401, which Chromium reports as an error. The pages
        # on the way through the login go on before they have loaded their files. The provider's
        # page has no icon.
        visitor.allowed = re.compile("status of 40[14]|failed: .*/(console/assets|ui)/")
        yield visitor


def test_operator_ends_the_console_of_a_person(
    site: OperatorSite, browser: Browser, visitor: OperatorVisitor
) -> None:
    person = ConsoleTab(browser.new_context(locale="en-GB").new_page())
    person.open(site.console)
    visitor.enter("ada")
    consoles = visitor.page.get_by_role("table", name="Live consoles")
    expect(consoles.get_by_role("row").filter(has_text="olga")).to_be_visible()
    visitor.show("operators-sessions")
    consoles.get_by_role("button", name="End: olga", exact=True).click()
    expect(visitor.page.get_by_role("dialog")).to_contain_text("End the console of olga?")
    visitor.check_accessibility()
    # The first reading may be before the process of the console has removed it.
    address = re.compile("/ui/admin/consoles$")
    before = visitor.page.request.get(f"{site.address}/ui/admin/consoles", headers=SAME_ORIGIN)
    visitor.page.route(address, lambda route: route.fulfill(json=before.json()), times=1)
    visitor.confirm("End", "test of operators")
    person.wait_for_state("ended")
    expect(person.page.locator("#card-title")).to_contain_text("operator")
    expect(visitor.page.get_by_text("No live consoles.")).to_be_visible()
    ended = site.gateway.audit("admin_action")
    assert any('"reason":"test of operators"' in one["detail"] for one in ended)
    person.page.context.close()


def test_operator_ends_the_logins_of_a_person(
    site: OperatorSite, browser: Browser, visitor: OperatorVisitor
) -> None:
    """The person's page and the console that was opened in the login end at once."""
    url = site.gateway.config["listen"]["public_url"]
    page = browser.new_context(locale="en-GB").new_page()
    page.goto(f"{url}/login/corp")
    page.get_by_role("link", name="olga", exact=True).click()
    # The callback's page goes on by itself; this is the last one.
    expect(page.locator("body")).to_have_attribute("data-state", "in")
    person = ConsoleTab(page)
    person.open(site.console)
    visitor.enter("ada")
    logins = visitor.page.get_by_role("table", name="Logins of browsers")
    row = logins.get_by_role("row").filter(has_text="olga")
    expect(row).to_contain_text("127.0.0.1")
    logins.get_by_role("button", name="End: olga", exact=True).click()
    expect(visitor.page.get_by_role("dialog")).to_contain_text("End the login of olga from 127.0.")
    visitor.check_accessibility()
    visitor.confirm("End", "lost laptop")
    person.wait_for_state("ended")
    expect(row).to_have_count(0)
    assert page.request.get(f"{url}/ui/session", headers=SAME_ORIGIN).status == 401
    assert "by operator" in site.gateway.audit("logout")[-1]["detail"]
    assert any("lost laptop" in one["detail"] for one in site.gateway.audit("admin_action"))
    visitor.page.get_by_role("combobox", name="Pages").select_option("For operators")
    expect(logins.get_by_role("row").filter(has_text="ada").first).to_be_visible()
    visitor.show("operators-logins")
    page.context.close()


def test_operator_locks_and_lifts(site: OperatorSite, visitor: OperatorVisitor) -> None:
    page = visitor.page
    visitor.enter("ada", "/locks")
    expect(visitor.row("Dropped links").first).to_be_visible()  # by the change of delivery
    visitor.button("Lock").click()
    page.get_by_label("Name or ID").fill("victor <b>")
    visitor.confirm("Lock", "left us")
    locked = visitor.row("person victor <b>")
    expect(locked).to_contain_text("left us")
    expect(locked).to_contain_text("Lifted")
    visitor.check_accessibility()
    visitor.allowed = re.compile(f"{visitor.allowed.pattern}|status of 400")
    visitor.button("Revoke").click()
    page.get_by_label("Person", exact=True).fill("mallory")
    page.get_by_label("Issuer", exact=True).fill("unknown")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Revoke", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("issuer must be one of: corp")
    dialog.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Lift: Lock on person victor <b>", exact=True).click()
    visitor.confirm("Lift", "is back")
    expect(locked).to_have_count(0)


def test_operator_explains_and_searches(site: OperatorSite, visitor: OperatorVisitor) -> None:
    page, cloud = visitor.page, site.gateway.cloud
    visitor.enter("ada", "/policy")
    page.get_by_label("Person", exact=True).fill("victor")
    page.get_by_label("Issuer", exact=True).fill("corp")
    page.get_by_label("Groups").fill("viewers")
    page.get_by_label("Project ID").fill(cloud.project)
    page.get_by_label("Server ID").fill(cloud.servers[0])
    visitor.button("Explain").click()
    answer = page.locator(".op-answer")
    expect(answer).to_contain_text("Denied")
    expect(answer).to_contain_text("No grant applies.")
    page.get_by_label("Groups").fill("operators")
    visitor.button("Explain").click()
    expect(answer).to_contain_text("Allowed")
    expect(answer).to_contain_text("policy.yaml:")
    visitor.show("operators-policy")
    visitor.go("Audit log")
    page.get_by_label("Event").fill("admin_action")
    visitor.button("Search").click()
    expect(visitor.row("victor").first).to_contain_text("corp: ada")
    expect(visitor.row("victor").first).to_contain_text(re.compile("Signed|Not signed yet"))
    expect(
        page.get_by_text(f"Searched: the audit directory of {socket.gethostname()}.")
    ).to_be_visible()
    signed = "Every record is proven by a checkpoint that this gateway's key has signed."
    page.get_by_label("Person", exact=True).fill("victor")

    def search_again() -> bool:
        visitor.button("Search").click()
        expect(visitor.button("Search")).to_be_enabled()  # the records are shown
        return page.get_by_text(signed).count() == 1

    eventually(search_again)
    visitor.show("operators-audit")
    visitor.check_accessibility()


def test_operator_sees_and_ends_access_requests(
    site: OperatorSite, browser: Browser, visitor: OperatorVisitor
) -> None:
    page, cloud = visitor.page, site.gateway.cloud
    hidden = "\u202eeerht" + " long" * 80
    site.request("pia", reason=f"{HOSTILE}{hidden}", ticket="CHG-7", server_ids=cloud.servers[-5:])
    active = site.request("ann", "approve")
    site.request("gus", break_glass=True, reason="the site is down")
    site.request("dora", "deny")
    site.request("will", "withdraw")
    person = ConsoleTab(browser.new_context(locale="en-GB").new_page())
    text = ticket(site.gateway, cloud.token("ann", groups=["staff"]), cloud.servers[-1])
    person.open(f"{site.gateway.config['listen']['public_url']}/console#{text}")

    visitor.enter("ada", "/requests")
    for name, facts in (
        ("pia", ("Pending", f"CHG-7: {HOSTILE} eerht long", "5 servers: ", "1 h")),
        ("ann", ("Active", "corp:lea", cloud.servers[-1])),
        ("gus", ("Active", "Break-glass", "the site is down")),
    ):
        for fact in facts:
            expect(visitor.row(f"{name} (corp)")).to_contain_text(fact)
    expect(page.get_by_role("row")).to_have_count(4)
    visitor.show("operators-requests")
    address = re.compile("/ui/admin/requests$")
    with page.expect_response(address) as answered:
        visitor.button("Refresh").click()
    changed = answered.value.json()  # as after a change of the policy
    for one in changed["requests"]:
        one["in_force"] = False
    page.route(address, lambda route: route.fulfill(json=changed))
    visitor.button("Refresh").click()
    expect(visitor.row("ann (corp)")).to_contain_text("Active, but no rule allows it")
    page.unroute(address)
    for name in ("ann", "pia", "gus"):
        page.get_by_role("button", name=f"End: {name} (corp)", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text(f"End the request of {name}?")
        visitor.confirm("End", f"end of {name}")
        expect(visitor.row(f"{name} (corp)")).to_have_count(0)
    expect(page.get_by_text("No access requests in this state.")).to_be_visible()
    person.wait_for_state("ended")
    (record,) = [
        one for one in site.gateway.audit("access_request_ended") if active["id"] in one["detail"]
    ]
    assert (record["subject"], record["target"]) == ("ada", "corp:ann")

    state = page.get_by_role("combobox", name="State")
    for chosen, names in (
        ("Denied", ["dora"]),
        ("Withdrawn", ["will"]),
        ("Revoked", ["ann", "gus", "pia"]),
    ):
        state.select_option(chosen)
        for name in names:
            expect(visitor.row(f"{name} (corp)")).to_contain_text(chosen)
        expect(page.get_by_role("row")).to_have_count(len(names) + 1)
        expect(page.get_by_role("button", name=re.compile("^End"))).to_have_count(0)
    visitor.show("operators-requests-ended")
    state.select_option("Expired")
    expect(page.get_by_text("No access requests in this state.")).to_be_visible()
    person.page.context.close()


def test_read_only_operator_has_no_buttons(site: OperatorSite, visitor: OperatorVisitor) -> None:
    page = visitor.page
    visitor.enter("rita", "/locks")
    expect(page.get_by_text("You may look at these pages")).to_be_visible()
    expect(visitor.row("Dropped links").first).to_be_visible()
    assert visitor.buttons() == ["Log out", "Refresh"]
    links = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert links == ["Sessions", "Budgets", "Locks and revocations", "Policy", "Audit log"]
    visitor.go("Budgets")
    expect(page.get_by_role("row").filter(has_text="prod").first).to_be_visible()


def test_page_says_when_it_is_offline_or_logged_out(visitor: OperatorVisitor) -> None:
    page = visitor.page
    visitor.enter("rita", "/budgets")
    row = page.get_by_role("row").filter(has_text="prod").first
    expect(row).to_be_visible()
    page.context.set_offline(True)
    visitor.allowed = re.compile("status of 40[14]|failed: |ERR_INTERNET_DISCONNECTED")
    visitor.button("Refresh").click()
    expect(page.get_by_text("The gateway does not answer.")).to_be_visible()
    expect(row).to_be_visible()  # what was shown stays
    page.context.set_offline(False)
    page.context.clear_cookies()
    visitor.button("Refresh").click()
    visitor.expect_state("expired")
    expect(visitor.button("Log in again")).to_be_focused()
    visitor.button("Log in again").click()
    page.get_by_role("button", name="Log in with Company login").wait_for()
    assert "return=%2Fbudgets" in page.url
