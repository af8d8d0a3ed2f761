"""The page of a person's servers in a real browser, at a scripted gateway."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.browser import needs_chromium
from tests.support.page_pictures import PageVisitor
from tests.support.people_site import (
    ALL,
    LISTED_AT,
    PROJECT,
    PeopleSite,
    project,
    server,
    session,
)

pytestmark = needs_chromium

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202egnp.exe שלום עולם",
    "W" * 255,
    "مضيف قاعدة البيانات",
    "tab\there\nand line",
]
ROWS_MAX = 60
"""Rows that the list may have in the document at 800 pixels of height."""
POLLED_AFTER_S = 12.0
"""The shortest time between two polls."""


class ServersVisitor(PageVisitor[PeopleSite]):
    def open(self, path: str = "") -> None:
        self.page.goto(f"{self.site.address}{path}")

    def search(self) -> Locator:
        return self.page.get_by_role("searchbox")

    def rows(self) -> Locator:
        return self.page.locator(".server-row")

    def names(self) -> list[str]:
        return self.page.locator(".server-row a").all_inner_texts()

    def read_again(self) -> None:
        """Let the page read the list at once, as when the network is back."""
        before = len(self.site.activity)

        def has_begun() -> bool:
            if len(self.site.activity) > before:
                return True
            # The page ignores it while an earlier reading runs.
            self.page.evaluate("() => dispatchEvent(new Event('online'))")
            return False

        self.wait_for(has_begun)

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")


@pytest.fixture(scope="module")
def site() -> Iterator[PeopleSite]:
    running = PeopleSite()
    yield running
    running.close()


@pytest.fixture
def visitor(site: PeopleSite, browser: Browser) -> Iterator[ServersVisitor]:
    site.reset()
    with ServersVisitor.visiting(browser, site) as visitor:
        yield visitor


# The list


def test_keystroke_renders_few_rows_and_sends_no_request(visitor: ServersVisitor) -> None:
    site = visitor.site
    site.projects = [project([server(one) for one in range(10_000)])]
    visitor.open()
    expect(visitor.page.locator("#list-count")).to_have_text("10000 servers")
    assert visitor.rows().count() <= ROWS_MAX
    before, began = len(site.requests), time.monotonic()
    visitor.page.evaluate(
        """() => {
          window.added = 0;
          new MutationObserver((changes) => {
            for (const change of changes) window.added += change.addedNodes.length;
          }).observe(document.querySelector("#rows"), { childList: true });
        }"""
    )
    expect(visitor.search()).to_be_focused()
    visitor.search().fill("web-0")
    for typed, left in (("9", 1_000), ("9", 100)):
        visitor.page.evaluate("() => { window.added = 0; }")
        visitor.page.keyboard.type(typed)
        expect(visitor.page.locator("#list-count")).to_contain_text(f"{left} ")
        assert 0 < visitor.page.evaluate("() => window.added") <= ROWS_MAX
    # The page polls meanwhile, if the machine is slow.
    sent = [path for _, path, _ in site.requests[before:]]
    assert set(sent) <= {"/ui/servers/state"}
    assert len(sent) <= 1 + (time.monotonic() - began) / POLLED_AFTER_S
    expect(visitor.page.get_by_role("table")).to_have_attribute("aria-rowcount", "101")


def test_search_filters_and_order_survive_a_reload(visitor: ServersVisitor) -> None:
    page = visitor.page
    visitor.open()
    visitor.search().fill("env=prod r1")
    page.get_by_label("Power", exact=True).select_option("Off")
    assert visitor.names() == ["web-00019"]
    page.get_by_role("button", name="Name").click()
    page.reload()
    expect(visitor.rows()).to_have_count(1)
    expect(visitor.search()).to_have_value("env=prod r1")
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute(
        "aria-sort", "descending"
    )
    visitor.search().fill("no such server")
    expect(page.get_by_role("heading", name="No server matches.")).to_be_visible()
    page.get_by_role("button", name="Clear search and filters").last.click()
    expect(visitor.search()).to_be_focused()
    assert visitor.names()[0] == "web-00039"


def test_whole_path_works_with_the_keyboard(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    site.projects = [project([server(one) for one in range(200)])]
    visitor.open()
    expect(visitor.search()).to_be_focused()
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="web-00029")).to_be_focused()
    expect(page.get_by_role("link", name="web-00029")).to_be_in_viewport()
    page.keyboard.press("/")
    page.keyboard.type("00150")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(visitor.title()).to_be_focused()
    expect(visitor.title()).to_have_text("web-00150")
    page.keyboard.press("Tab")
    expect(visitor.button("Open console")).to_be_focused()
    with page.context.expect_page() as opened:
        page.keyboard.press("Enter")
    opened.value.close()
    page.go_back()
    expect(visitor.search()).to_have_value("00150")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(visitor.search()).to_be_focused()
    expect(page.get_by_role("navigation", name="Recently opened")).to_contain_text("web-00150")


def test_names_are_text_whatever_they_contain(visitor: ServersVisitor) -> None:
    page = visitor.page
    tags = [{"key": one[:60], "value": one} for one in HOSTILE]
    visitor.site.sessions = [session(i, HOSTILE[2]) for i in range(6)]
    servers = [
        server(i, name=name, tags=tags[i:], location={"dc": name, "rack": None})
        for i, name in enumerate(HOSTILE)
    ]
    visitor.site.projects = [project([*servers, server(90, name=None)], project_name=HOSTILE[0])]
    visitor.open()
    expect(visitor.rows()).to_have_count(7)
    assert page.locator("script:not([src]):not([type='application/json'])").count() == 0
    assert page.locator("#rows img").count() == 0
    assert "<script>alert(1)</script>" in visitor.names()
    assert not any("\u202e" in one for one in visitor.names())
    visitor.show("servers-hostile")
    page.get_by_role("link", name=HOSTILE[3]).click()
    expect(visitor.title()).to_have_text(HOSTILE[3])
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_list_follows_the_gateway(visitor: ServersVisitor) -> None:
    """A reading is conditional and no activity of the person; the focus stays on its row."""
    page, site = visitor.page, visitor.site
    visitor.open()
    link = page.get_by_role("link", name="web-00003")
    link.focus()
    visitor.read_again()
    before = len(site.requests)
    site.sessions, site.is_current = [session(3, "ben")], False
    site.power_read = [
        {
            "project_id": PROJECT,
            "server_id": server(3)["id"],
            "power_state": "off",
            "health_state": "OK",
            "read_at": LISTED_AT,
        }
    ]
    visitor.read_again()
    row = visitor.rows().filter(has_text="web-00003")
    expect(row).to_contain_text("ben")
    expect(row).to_contain_text("Off")
    expect(link).to_be_focused()
    expect(page.locator("#list-notes")).to_contain_text(re.compile("30 Nov 2026.*too old"))
    assert {path for _, path, _ in site.requests[before:]} == {"/ui/servers/state"}
    visitor.show("servers")
    site.projects = [project([server(3), server(1)])]
    visitor.read_again()
    expect(visitor.rows()).to_have_count(2)
    expect(link).to_be_focused()
    assert ("GET", "/ui/servers", None) in site.requests[before:]
    assert site.activity[0] is True
    assert not any(site.activity[1:])
    page.keyboard.press("Shift")
    visitor.read_again()
    visitor.wait_for(lambda: any(site.activity[1:]))


def test_empty_list_and_first_failure_are_pages(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.allowed = re.compile("status of 503")
    site.servers_status = 503
    visitor.open()
    card = page.locator(".card[data-state=error]")
    expect(card).to_contain_text("Words of the gateway.")
    expect(card).to_contain_text("request-1")
    visitor.show("servers-error")
    site.servers_status, site.projects = 200, [project([])]
    visitor.read_again()
    expect(page.get_by_role("heading", name="You see no servers yet.")).to_be_visible()
    visitor.show("servers-empty")


def test_gateway_that_does_not_answer_leaves_the_list(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.allowed = re.compile("status of 503")
    visitor.open()
    expect(visitor.rows().first).to_be_visible()
    site.servers_status = 503
    visitor.read_again()
    expect(page.locator("#connection")).to_contain_text("tries again by itself")
    expect(visitor.rows().first).to_be_visible()
    site.servers_status = 200
    visitor.read_again()
    expect(page.locator("#connection")).to_be_hidden()
    page.context.set_offline(True)
    visitor.allowed = re.compile("status of 503|ERR_INTERNET_DISCONNECTED|failed: .*/ui/servers")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    expect(page.locator("#connection")).to_contain_text("does not answer")


# Login


def test_page_without_a_login_goes_to_it_and_back(visitor: ServersVisitor) -> None:
    visitor.allowed = re.compile("status of 401|failed: ")
    visitor.site.session_status = visitor.site.servers_status = 401
    path = f"page/servers/{PROJECT}/{server(1)['id']}"
    visitor.open(path)
    expect(visitor.page).to_have_url(re.compile(r"/gw/login\?return=%2Fgw%2Fpage%2Fservers%2F"))


def test_ended_session_leads_to_the_login(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.allowed = re.compile("status of 401|failed: ")
    visitor.open()
    expect(visitor.rows().first).to_be_visible()
    site.servers_status = 401
    visitor.read_again()
    expect(visitor.dialog()).to_contain_text("Your session has ended.")
    expect(visitor.button("Log in again")).to_be_focused()
    visitor.show("session-ended")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/gw/login\?return=%2Fgw%2F$"))


# One server


def test_console_opens_in_a_tab_without_a_trace(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.open()
    with page.context.expect_page() as opened:
        page.get_by_role("button", name="Open console: web-00003").click()
    tab = opened.value
    tab.wait_for_url(re.compile("#a-ticket$"))
    assert tab.evaluate("() => [window.opener, document.referrer]") == [None, ""]
    path = f"/ui/servers/{PROJECT}/{server(3)['id']}/console"
    assert site.posts == [(path, {"fresh": False})]
    seen = page.content() + page.evaluate("() => JSON.stringify({...localStorage, ...history})")
    assert "a-ticket" not in seen
    expect(visitor.dialog()).to_have_count(0)


def test_address_of_the_cloud_is_called_a_secret(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    site.console = (
        200,
        {"url": f"{site.address}login?token=secret", "expires_in": 60, "delivery": "direct"},
    )
    visitor.open(f"page/servers/{PROJECT}/{server(7)['id']}")
    visitor.button("Open console").click()
    expect(visitor.dialog()).to_contain_text("works for anyone who has it")
    visitor.show("console-direct")
    assert "token=secret" not in page.content()
    with page.context.expect_page() as opened:
        visitor.button("Open it").click()
    tab = opened.value
    tab.wait_for_url(re.compile(r"/login\?token=secret$"))
    assert tab.evaluate("() => [window.opener, document.referrer]") == [None, ""]
    visitor.button("Does not open? Request another address").click()
    visitor.wait_for(lambda: site.posts[-1][1] == {"fresh": True})


def test_console_that_waits_or_fails_has_words(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.allowed = re.compile("status of (403|503)")
    site.console = (503, {"error_code": "CGW.5030", "error_msg": "The queue is full."})
    site.answers.clear()
    visitor.open(f"page/servers/{PROJECT}/{server(7)['id']}")
    visitor.button("Open console").click()
    expect(visitor.dialog()).to_contain_text("Yours waits in the queue.")
    site.answer()
    expect(visitor.dialog()).to_contain_text("The queue is full.")
    expect(visitor.dialog()).to_contain_text("request-1")
    site.console = (403, {"error_code": "CGW.4036"})
    again = visitor.button("Try again")
    expect(again).to_be_enabled()
    again.click()
    expect(visitor.dialog()).to_contain_text("This needs a recent login.")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/gw/login\?return=.*&fresh=1$"))


def test_power_is_confirmed(visitor: ServersVisitor) -> None:
    page, site = visitor.page, visitor.site
    visitor.open(f"page/servers/{PROJECT}/{server(7)['id']}")
    expect(visitor.button("Switch off")).to_be_visible()
    assert visitor.buttons() == [
        *("Log out", "Open console", "Copy link to this page", "Switch off", "Restart"),
    ]
    visitor.show("server")
    visitor.button("Restart").click()
    expect(visitor.dialog()).to_contain_text("Restart web-00007?")
    expect(visitor.button("Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(visitor.dialog()).to_have_count(0)
    assert site.posts == []
    visitor.button("Switch off").click()
    visitor.show("power")
    visitor.dialog().get_by_role("button", name="Switch off").click()
    expect(visitor.dialog()).to_contain_text("The cloud switches the server off.")
    path = f"/ui/servers/{PROJECT}/{server(7)['id']}/power"
    assert site.posts == [(path, {"action": "off"})]


def test_only_permitted_actions_are_offered(visitor: ServersVisitor) -> None:
    site = visitor.site
    rest = [one for one in ALL if one not in ("console:open", "server:power")]
    site.projects = [
        project([server(1, permissions=rest)]),
        project([server(2, permissions=rest)], project_id="other", delivery="direct"),
    ]
    visitor.open(f"page/servers/{PROJECT}/{server(1)['id']}")
    expect(visitor.title()).to_have_text("web-00001")
    assert visitor.buttons() == ["Log out", "Watch console", "Copy link to this page"]
    visitor.open(f"page/servers/other/{server(2)['id']}")
    expect(visitor.title()).to_have_text("web-00002")
    assert visitor.buttons() == ["Log out", "Copy link to this page"]
    visitor.button("Copy link to this page").click()
    expect(visitor.page.locator("#notice")).to_contain_text("it gives no access")
    copied = visitor.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == f"{site.address}page/servers/other/{server(2)['id']}"
