"""The page of a person's servers in a real browser, at a real gateway, cloud and provider."""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import LIVE_TIMEOUT_MS, needs_chromium
from tests.support.browser_login import ENVIRON, enable_login
from tests.support.live_delivery import PROJECT, deliver_live
from tests.support.page_pictures import PageVisitor
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, make_policy

pytestmark = needs_chromium


@dataclass(frozen=True, slots=True)
class RealSite:
    gateway: RunningGateway

    @property
    def address(self) -> str:
        """Another site than the provider's, which is on 127.0.0.1."""
        return f"http://localhost:{self.gateway.port}/"


class PersonVisitor(PageVisitor[RealSite]):
    def log_in(self, person: str, path: str = "") -> None:
        """Open a page, and come back to it from the login at the provider."""
        self.page.goto(f"{self.site.address}{path}")
        self.button("Log in with corp").click()
        self.page.get_by_role("link", name=person).click()
        expect(self.page).to_have_url(f"{self.site.address}{path}")


@pytest.fixture(scope="module")
def real() -> Iterator[RealSite]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False, environ=ENVIRON)
    gateway = stack.gateway
    gateway.config["page"] = {"enabled": True}
    deliver_live(gateway, public_url=f"http://localhost:{gateway.port}", browser_login="required")
    enable_login(gateway)
    gateway.write_policy(real_policy(stack.cloud))
    gateway.start()
    yield RealSite(gateway)
    stack.close()


def real_policy(cloud: CloudProcess) -> dict[str, Any]:
    policy = make_policy(cloud)
    policy["roles"]["operator"].append("server:power")
    return policy


@pytest.fixture
def person(real: RealSite, browser: Browser) -> Iterator[PersonVisitor]:
    with PersonVisitor.visiting(browser, real) as visitor:
        visitor.allowed = re.compile("status of 4|failed: ")
        yield visitor


def test_person_finds_a_server_and_types_into_its_console(person: PersonVisitor) -> None:
    page, cloud = person.page, person.site.gateway.cloud
    person.log_in("olga")
    name = f"bms-{cloud.servers[1][:8]}"
    page.get_by_role("searchbox").fill(name)
    row = page.locator(".server-row")
    expect(row).to_have_count(1, timeout=LIVE_TIMEOUT_MS)
    with page.context.expect_page() as opened:
        row.get_by_role("button", name="Open console").click()
    tab = opened.value
    connect = tab.get_by_role("button", name="Connect", exact=True)
    expect(connect).to_be_focused(timeout=LIVE_TIMEOUT_MS)
    assert "#" not in tab.url
    tab.keyboard.press("Enter")
    live = tab.locator("body")
    expect(live).to_have_attribute("data-state", "live", timeout=LIVE_TIMEOUT_MS)
    records = person.site.gateway.audit("console_ticket_issued")
    assert (records[-1]["subject"], records[-1]["servers"]) == ("olga", [cloud.servers[1]])
    type_and_see(tab)
    tab.get_by_role("button", name="Disconnect", exact=True).click()
    expect(live).to_have_attribute("data-state", "ended")


def type_and_see(tab: Page) -> None:
    """Type into the console, and wait until its picture differs."""
    canvas = tab.locator("#screen canvas")
    pixels = "() => document.querySelector('#screen canvas').toDataURL()"
    before = tab.evaluate(pixels)
    canvas.click()
    tab.keyboard.type("root")
    for _ in range(3_000):
        if tab.evaluate(pixels) != before:
            return
        tab.wait_for_timeout(20)
    raise AssertionError("the console does not show what was typed")


def test_power_passes_the_pipeline(person: PersonVisitor) -> None:
    gateway = person.site.gateway
    target = gateway.cloud.servers[2]
    person.log_in("olga", f"page/servers/{PROJECT}/{target}")
    expect(person.title()).to_have_text(f"bms-{target[:8]}", timeout=LIVE_TIMEOUT_MS)
    person.button("Restart").click()
    person.page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    expect(person.page.get_by_role("dialog")).to_contain_text("The cloud restarts the server.")
    eventually(lambda: gateway.audit("write_outcome"))
    permitted, outcome = gateway.audit("write_permitted")[-1], gateway.audit("write_outcome")[-1]
    assert (permitted["operation"], permitted["servers"]) == ("ChangeServerPowerState", [target])
    assert (permitted["subject"], outcome["outcome"]) == ("olga", "success")


def test_hidden_server_is_like_none(person: PersonVisitor) -> None:
    """The page, and a call that it does not offer."""
    page, cloud = person.page, person.site.gateway.cloud
    hidden = cloud.servers[-1]
    missing = hidden[:-4] + "0000"
    person.log_in("olga", f"page/servers/{PROJECT}/{hidden}")
    shown = {}
    for one in (hidden, missing):
        page.goto(f"{person.site.address}page/servers/{PROJECT}/{one}")
        card = page.locator(".card[data-state=unknown]")
        expect(card).to_contain_text(one, timeout=LIVE_TIMEOUT_MS)
        shown[one] = page.locator("body").inner_text().replace(one, "ID")
    assert shown[hidden] == shown[missing]
    call = """async (server) => {
      const { csrf_token: token } = await (await fetch("ui/session")).json();
      const headers = { "Content-Type": "application/json", "X-CSRF-Token": token };
      const path = `/ui/servers/%s/${server}/console`;
      const reply = await fetch(path, { method: "POST", headers, body: "{}" });
      const { error_code, error_msg } = await reply.json();
      return [reply.status, error_code, error_msg];
    }"""
    page.goto(person.site.address)
    answers = [page.evaluate(call % PROJECT, one) for one in (hidden, missing)]
    assert answers[0] == answers[1]
    assert answers[0][:2] == [403, "CGW.4030"]


def test_open_page_survives_a_drain_and_follows_the_policy(person: PersonVisitor) -> None:
    """The session is that of all replicas, and the list narrows without a reload."""
    page, gateway = person.page, person.site.gateway
    person.log_in("victor")
    rows = page.locator(".server-row")
    expect(rows).to_have_count(8, timeout=LIVE_TIMEOUT_MS)
    before = set(gateway.workers())
    gateway.config["operations"] = {"disable": ["ShowServer"]}
    gateway.write_config()
    gateway.signal(signal.SIGHUP)
    policy = real_policy(gateway.cloud)
    policy["grants"][1]["on"] = {"servers": gateway.cloud.servers[:2]}
    gateway.write_policy(policy)
    try:
        eventually(lambda: not before.issubset(gateway.workers()))
        for _ in range(600):
            page.evaluate("() => dispatchEvent(new Event('online'))")
            page.wait_for_timeout(100)
            if rows.count() == 2:
                break
        expect(rows).to_have_count(2)
        expect(page.locator("#connection")).to_be_hidden()
        expect(page.get_by_role("dialog")).to_have_count(0)
    finally:
        gateway.write_policy(real_policy(gateway.cloud))


def test_log_out_leaves_no_list_behind(person: PersonVisitor) -> None:
    page = person.page
    person.log_in("victor")
    expect(page.locator(".server-row").first).to_be_visible(timeout=LIVE_TIMEOUT_MS)
    person.button("Log out").click()
    person.expect_state("out")
    page.go_back()
    expect(page).to_have_url(re.compile(r"/login\?return=%2F$"))
    assert "bms-" not in page.locator("body").inner_text()
