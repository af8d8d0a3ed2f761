"""Access requests, sessions and recordings in browsers: one person requests, another decides."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.support.browser import ConsoleTab, needs_chromium
from tests.support.browser_login import ENVIRON, enable_login
from tests.support.live_delivery import PROJECT, deliver_live, ticket
from tests.support.page_pictures import PageVisitor
from tests.support.recorded_live import allow, newest, record
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, fetch, make_policy

pytestmark = needs_chromium

WAIT_MS = 20_000
HTML = '<script>alert("x")</script><img src=x onerror=alert(1)>'
RIGHT_TO_LEFT = "\u202eدخول الخادم\u202c"


@dataclass(frozen=True, slots=True)
class AccessSite:
    gateway: RunningGateway

    @property
    def address(self) -> str:
        """Another site than the provider's, which is on 127.0.0.1."""
        return f"http://localhost:{self.gateway.port}"

    @property
    def server(self) -> str:
        """One that `viewers` may see and not open."""
        return self.gateway.cloud.servers[-1]

    def shown_to(self, person: str, request_id: str) -> dict[str, Any]:
        token = self.gateway.cloud.token(person, groups=["viewers"])
        headers = {"Authorization": f"Bearer {token}"}
        found = fetch(self.gateway.url, "GET", f"/requests/{request_id}", headers)
        assert found.status == 200, found.body
        request: dict[str, Any] = found.json
        return request

    def form(self, server: str = "") -> str:
        cloud = self.gateway.cloud
        return f"/page/requests/new?project={cloud.project}&server={server or self.server}"


class Person(PageVisitor[AccessSite]):
    """A person's browser, logged in."""

    def open(self, path: str) -> None:
        self.page.goto(f"{self.site.address}{path}")

    def log_in(self, name: str, path: str = "/page/requests") -> None:
        self.open(path)
        self.log_in_here(name)
        expect(self.page.locator("#person-name")).to_have_text(name)

    def log_in_here(self, name: str) -> None:
        self.button("Log in with Company login").click()
        self.page.get_by_role("link", name=name).click()

    def fill(self, **fields: str) -> None:
        for label, text in fields.items():
            self.page.get_by_label(label.replace("_", " "), exact=True).fill(text)

    def request(self, reason: str, server: str = "") -> str:
        """Request access to the server; return the path of the request."""
        self.open(self.site.form(server))
        self.fill(Reason=reason)
        self.button("Send request").click()
        expect(self.title()).to_have_text("Request for operator")
        return self.page.url.removeprefix(self.site.address)

    def read_again(self) -> None:
        """Let the page read at once, as when the network is back."""
        self.page.evaluate("() => dispatchEvent(new Event('online'))")

    def state(self) -> Locator:
        return self.page.locator(".state-line .badge").first

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def confirm(self, step: str) -> None:
        """Take a step of the request that is shown, and confirm it."""
        self.button(step).click()
        self.dialog().get_by_role("button", name=step, exact=True).click()

    def refusal(self) -> Locator:
        return self.page.locator(".refusal")


@pytest.fixture(scope="module")
def site() -> Iterator[AccessSite]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False, environ=ENVIRON)
    gateway = stack.gateway
    gateway.config["page"] = {"enabled": True}
    public_url = f"http://localhost:{gateway.port}"
    deliver_live(gateway, public_url=public_url, browser_login="required")
    enable_login(gateway, label="Company login")
    rule = {
        "role": "operator",
        "to": {"groups": ["viewers"]},
        "on": {"projects": [stack.cloud.project]},
        "for_max": "4h",
        "approvers": {"groups": ["approvers"]},
        "break_glass": {"per_day": 2, "reason_min": 10},
    }
    gateway.write_policy({**make_policy(stack.cloud), "requests": [rule]})
    record(gateway)
    gateway.config["accounts"][0]["console"]["record_keys"] = True
    gateway.write_config()
    allow(gateway, "anna", "nora", with_keystrokes="anna")
    gateway.start().wait_for_access_requests()
    yield AccessSite(gateway)
    stack.close()


@pytest.fixture(scope="module")
def victor(site: AccessSite, browser: Browser) -> Iterator[Person]:
    yield from person(browser, site, "victor")


@pytest.fixture(scope="module")
def anna(site: AccessSite, browser: Browser) -> Iterator[Person]:
    yield from person(browser, site, "anna")


def person(browser: Browser, site: AccessSite, name: str) -> Iterator[Person]:
    with Person.visiting(browser, site) as visitor:
        # Refusals are answers of 4xx, which Chromium reports as errors. A page that goes on to
        # another one ends the requests that it has begun.
        visitor.allowed = re.compile("status of 4|DISCONNECTED|failed: .*/(console/assets|ui)/")
        visitor.log_in(name)
        yield visitor


def test_request_approval_console_and_recording(
    site: AccessSite, victor: Person, anna: Person
) -> None:
    path = victor.request(HTML)
    expect(victor.state()).to_have_text("Waiting")
    expect(victor.page.get_by_text("Another person decides on it.")).to_be_visible()

    anna.open("/page/requests")
    expect(anna.page.get_by_role("heading", name="Waiting for your decision")).to_be_visible()
    expect(anna.page.locator(".row-reason")).to_have_text(HTML)
    expect(anna.page.locator("#nav")).to_contain_text("1 waiting for your decision")
    anna.show("requests-to-decide")
    anna.page.get_by_role("link", name="operator").click()
    expect(anna.page.locator(".reason")).to_have_text(HTML)
    anna.button("Approve").click()
    expect(anna.dialog().locator(".reason")).to_have_text(HTML)
    expect(anna.dialog()).to_contain_text(site.server)
    anna.show("request-approve")
    anna.dialog().get_by_role("button", name="Approve", exact=True).click()
    expect(anna.state()).to_have_text("Active")
    assert anna.page.url.endswith(path)

    victor.read_again()
    expect(victor.state()).to_have_text("Active")
    expect(victor.page.locator(".state-line")).to_contain_text("left")
    victor.button("Request more time").click()
    expect(victor.page.get_by_label("Reason", exact=True)).to_have_value(HTML)
    expect(victor.page.get_by_label("Servers", exact=True)).to_have_value(site.server)
    token = site.gateway.cloud.token("victor", groups=["viewers"])
    console = ConsoleTab(victor.page.context.new_page())
    console.open(f"{site.address}/console#{ticket(site.gateway, token, site.server)}")

    victor.page.bring_to_front()  # a page in the background is slow, and does not poll
    victor.open("/page/sessions")
    expect(victor.page.locator(".rows > li")).to_have_count(1)
    expect(victor.page.locator(".rows")).to_contain_text(site.server)
    victor.show("sessions")

    console.page.bring_to_front()
    console.type("root\n")
    cloud = site.gateway.cloud
    console.wait_until(lambda: cloud.screen(site.server)["typed"] == "root\n")
    anna.page.bring_to_front()
    anna.confirm("End access")
    expect(anna.state()).to_have_text("Ended early")
    console.wait_for_state("ended")
    expect(console.page.get_by_role("heading", level=1)).to_contain_text("permission")
    console.page.close()
    victor.page.reload()
    expect(victor.page.get_by_text("You have no open console.")).to_be_visible()
    recorded_session_is_played(site, anna)
    recorded_session_is_exported(site, anna)
    logout_ends_an_open_player(anna)


def recorded_session_is_played(site: AccessSite, anna: Person) -> None:
    recording = newest(site.gateway, site.server)
    anna.open("/page/recordings")
    expect(anna.page.locator("tbody tr")).to_have_count(1)
    row = anna.page.locator("tbody tr")
    expect(row).to_contain_text("victor")
    anna.show("recordings")
    row.get_by_role("button", name=re.compile("^Play")).click()
    show_in_player(anna)
    expect(anna.button("Keystrokes")).to_be_hidden()
    anna.open(f"/page/recordings/{recording}")
    expect(anna.title()).to_contain_text(site.server)
    anna.show("recording")
    # Keystrokes need a recent login, as opening a console does.
    anna.page.route("**/views", too_old)
    anna.button("Play with keystrokes").click()
    expect(anna.page.get_by_text("This needs a recent login.")).to_be_visible()
    anna.page.unroute("**/views")
    anna.button("Log in again").click()
    anna.log_in_here("anna")
    anna.button("Play with keystrokes").click()
    show_in_player(anna)
    anna.button("Keystrokes").click()
    expect(anna.page.locator(".key-text")).to_have_text("root⏎")
    eventually(lambda: len(records_of(site, "recording_viewed", recording)) == 2)
    viewed = records_of(site, "recording_viewed", recording)
    assert {(one["subject"], one["target"]) for one in viewed} == {("anna", "corp:victor")}
    assert [one["detail"] for one in viewed] == ["", "with keystrokes"]


def show_in_player(anna: Person) -> None:
    expect(anna.page).to_have_url(re.compile(r"/console/player(#|$)"))
    anna.page.get_by_role("button", name="Play", exact=True).click()
    expect(anna.page.locator("body")).to_have_attribute("data-state", re.compile("playing|paused"))


def recorded_session_is_exported(site: AccessSite, anna: Person) -> None:
    recording = newest(site.gateway, site.server)
    anna.open(f"/page/recordings/{recording}")
    anna.button("Export…").click()
    expect(anna.dialog()).to_contain_text("The file is not encrypted.")
    anna.show("recording-export")
    export = anna.button("Export without encryption")
    anna.page.route("**/export", too_old)
    export.click()
    expect(anna.page.get_by_text("This needs a recent login.")).to_be_visible()
    expect(export).to_have_count(0)
    anna.page.unroute("**/export")
    anna.page.locator("#login-dialog").get_by_role("button", name="Cancel").click()
    assert records_of(site, "recording_exported", recording) == []
    anna.button("Export…").click()
    with anna.page.expect_download() as download:
        export.click()
    assert download.value.suggested_filename == f"recording-{recording}.html"
    expect(anna.dialog()).to_contain_text("not encrypted")
    (exported,) = records_of(site, "recording_exported", recording)
    assert (exported["subject"], exported["target"]) == ("anna", "corp:victor")
    saved = download.value.path().read_text()
    assert saved.endswith("</html>\n")
    assert 'id="chunk-1-0"' in saved
    assert '"may"' not in saved
    anna.dialog().get_by_role("button", name="Close").click()


def logout_ends_an_open_player(anna: Person) -> None:
    anna.open("/page/recordings")
    anna.page.locator("tbody tr").get_by_role("button", name=re.compile("^Play")).click()
    show_in_player(anna)
    player = anna.page
    anna.page = player.context.new_page()
    anna.open("/page/requests")
    anna.button("Log out").click()
    anna.expect_state("out")
    expect(player.get_by_role("heading", level=1)).to_have_text("Your sign-in has ended.")
    player.close()
    anna.log_in("anna")


def records_of(site: AccessSite, event: str, recording: str) -> list[dict[str, Any]]:
    return [one for one in site.gateway.audit(event) if one["session"] == recording]


def test_own_and_changed_requests_are_refused_with_words(
    site: AccessSite, victor: Person, anna: Person
) -> None:
    path = victor.request("a disk")
    assert "Approve" not in victor.buttons()

    request_id = path.rpartition("/")[2]
    shown = {**site.shown_to("victor", request_id), "may": ["approve"], "hash": "0" * 64}
    address = f"**/ui/requests/{request_id}"

    def changed(route: Route) -> None:
        route.fulfill(json=shown)

    for someone in (victor, anna):
        someone.page.route(address, changed)
        someone.open(path)
        someone.confirm("Approve")
    expect(victor.refusal()).to_contain_text("You cannot decide on your own request.")
    expect(victor.refusal()).to_contain_text("CGW.4039")
    expect(anna.refusal()).to_contain_text("it differs from what you were shown")
    expect(anna.refusal()).to_contain_text("Request ID")
    anna.page.unroute(address)

    # The requester withdraws while the approver reads.
    anna.open(path)
    anna.button("Approve").click()
    victor.page.unroute(address)
    victor.open(path)
    victor.confirm("Withdraw")
    expect(victor.state()).to_have_text("Withdrawn")
    anna.dialog().get_by_role("button", name="Approve", exact=True).click()
    expect(anna.refusal()).to_contain_text("The request is withdrawn")
    expect(anna.state()).to_have_text("Withdrawn")


def test_denial_and_its_reason_reach_the_requester(victor: Person, anna: Person) -> None:
    path = victor.request(f"{RIGHT_TO_LEFT} {'long ' * 300}")
    anna.open(path)
    anna.button("Deny").click()
    anna.dialog().get_by_role("textbox").fill(f"not now {HTML}")
    anna.dialog().get_by_role("button", name="Deny", exact=True).click()
    expect(anna.state()).to_have_text("Denied")
    victor.read_again()
    expect(victor.state()).to_have_text("Denied")
    expect(victor.page.locator(".reason").last).to_have_text(f"not now {HTML}")
    victor.open("/page/requests")
    expect(victor.page.get_by_text("You have no open requests.")).to_be_visible()
    victor.page.get_by_text("Ended", exact=True).click()
    expect(victor.page.locator(".ended .badge", has_text="Denied").first).to_be_visible()


def test_form_says_what_is_wrong_and_loses_nothing(site: AccessSite, victor: Person) -> None:
    victor.open("/page/requests/new?server=nonsense")
    victor.fill(Reason="x" * 10_240)
    victor.button("Send request").click()
    problems = victor.page.locator(".problems")
    expect(problems).to_contain_text("nonsense is no server ID")
    expect(problems).to_contain_text("10240 characters")
    expect(victor.page.get_by_label("Servers", exact=True)).to_be_focused()
    victor.show("request-form")
    # A server that does not exist is requested like any other.
    victor.fill(Servers="99999999-2222-4333-8444-555555555555", Reason="a disk")
    victor.page.context.set_offline(True)
    victor.button("Send request").click()
    expect(problems).to_contain_text("does not answer")
    victor.page.context.set_offline(False)
    victor.button("Send request").click()
    expect(victor.state()).to_have_text("Waiting")
    victor.confirm("Withdraw")
    expect(victor.state()).to_have_text("Withdrawn")


def test_break_glass_is_confirmed(site: AccessSite, victor: Person) -> None:
    victor.open(f"/page/servers/{site.gateway.cloud.project}/{site.server}")
    victor.page.get_by_role("link", name="Request access").click()
    expect(victor.page.get_by_label("Servers", exact=True)).to_have_value(site.server)
    victor.fill(Reason="short")
    victor.page.get_by_text("Emergency: no time for an approval?").click()
    victor.button("Break the glass…").click()
    expect(victor.page.locator(".problems")).to_contain_text("at least 10 characters")
    victor.fill(Reason="the rack is on fire")
    victor.button("Break the glass…").click()
    accept = victor.dialog().get_by_role("button", name="Break the glass", exact=True)
    accept.click()
    expect(victor.dialog()).to_contain_text("Confirm that this is an emergency.")
    victor.page.get_by_label("This is an emergency").check()
    accept.click()
    expect(victor.page.locator(".state-line")).to_contain_text("Break-glass")
    expect(victor.state()).to_have_text("Active")
    victor.confirm("End access")
    expect(victor.state()).to_have_text("Ended early")
    victor.button("Break the glass…").wait_for(state="detached")


def test_keyboard_alone_requests_and_approves(
    site: AccessSite, victor: Person, anna: Person
) -> None:
    victor.open("/page/requests")
    tab_to(victor.button("Request access"))
    victor.page.keyboard.press("Enter")
    tab_to(victor.page.get_by_label("Servers", exact=True))
    victor.page.keyboard.type(site.server)
    tab_to(victor.page.get_by_label("Reason", exact=True))
    victor.page.keyboard.type("a disk")
    tab_to(victor.button("Send request"))
    victor.page.keyboard.press("Enter")
    expect(victor.state()).to_have_text("Waiting")

    anna.open("/page/requests")
    tab_to(anna.page.get_by_role("link", name="operator"))
    anna.page.keyboard.press("Enter")
    tab_to(anna.button("Approve"))
    # An approval needs a recent login; the person comes back to the request.
    anna.page.route("**/approve", too_old)
    accept = anna.dialog().get_by_role("button", name="Approve", exact=True)
    anna.page.keyboard.press("Enter")
    expect(accept).to_be_focused()
    anna.page.keyboard.press("Escape")
    expect(anna.dialog()).to_have_count(0)
    expect(anna.button("Approve")).to_be_focused()
    anna.page.keyboard.press("Enter")
    expect(accept).to_be_focused()
    anna.page.keyboard.press("Enter")
    expect(anna.page.get_by_text("This needs a recent login.")).to_be_visible()
    anna.page.unroute("**/approve")
    anna.page.keyboard.press("Enter")
    anna.log_in_here("anna")
    expect(anna.state()).to_have_text("Waiting")
    anna.confirm("Approve")
    expect(anna.state()).to_have_text("Active")
    anna.confirm("End access")
    expect(anna.state()).to_have_text("Ended early")


def too_old(route: Route) -> None:
    error = {"error_code": "CGW.4036", "error_msg": "This action requires a recent login."}
    route.fulfill(status=403, json=error)


def tab_to(element: Locator) -> None:
    """Press Tab until the element has the focus."""
    expect(element).to_be_visible()
    for _ in range(60):
        element.page.keyboard.press("Tab")
        if element.evaluate("(one) => one === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {element}")


def test_end_of_the_session_leaves_nothing_on_the_page(victor: Person) -> None:
    victor.request("a disk")
    victor.open("/page/requests")
    expect(victor.page.locator(".row-reason")).to_have_text("a disk")
    victor.page.context.clear_cookies()
    victor.read_again()
    expect(victor.page.locator(".card", has_text="Your session has ended.")).to_be_visible()
    expect(victor.page.locator(".row-reason")).to_have_count(0)
    victor.page.locator("#login-go").click()
    victor.log_in_here("victor")
    victor.page.get_by_role("link", name="operator").click()
    victor.confirm("Withdraw")
    expect(victor.state()).to_have_text("Withdrawn")


def test_form_survives_a_login(site: AccessSite, victor: Person) -> None:
    victor.open(site.form())
    victor.fill(Reason="typed before the login")
    victor.page.context.clear_cookies()
    victor.button("Send request").click()
    victor.page.locator("#login-go").click()
    victor.log_in_here("victor")
    reason = victor.page.get_by_label("Reason", exact=True)
    expect(reason).to_have_value("typed before the login")
    expect(victor.page.get_by_label("Servers", exact=True)).to_have_value(site.server)
    victor.button("Cancel").click()
    victor.open(site.form())
    expect(reason).to_have_value("")
