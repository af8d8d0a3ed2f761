"""The pages of logins in a real browser, with the simulated provider on another site."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import needs_chromium
from tests.support.browser_login import ENVIRON, enable_login
from tests.support.live_delivery import PROJECT, deliver_live, ticket
from tests.support.page_pictures import PageVisitor
from tests.support.stack import CloudProcess, RunningGateway, Stack

pytestmark = needs_chromium
CONTACT = {"text": "Platform on-call <b>", "url": "https://chat.example.com/c/console"}


@dataclass(frozen=True, slots=True)
class LoginSite:
    gateway: RunningGateway

    @property
    def address(self) -> str:
        """Another site than the provider's, which is on 127.0.0.1."""
        return f"http://localhost:{self.gateway.port}"

    def ticket(self, person: str = "olga") -> str:
        cloud = self.gateway.cloud
        return ticket(self.gateway, cloud.token(person), cloud.servers[0])


class LoginVisitor(PageVisitor[LoginSite]):
    def open(self, path: str) -> None:
        self.page.goto(f"{self.site.address}{path}")

    def log_in(self, person: str = "olga") -> None:
        """Choose the issuer, and the person on the provider's page."""
        self.button("Log in with Company login").click()
        self.page.get_by_role("link", name=person).click()

    def expect_contact(self) -> None:
        link = self.page.get_by_role("link", name=CONTACT["text"])
        expect(link).to_have_attribute("href", CONTACT["url"])
        expect(link).to_have_attribute("rel", "noopener noreferrer")


@pytest.fixture(scope="module")
def site() -> Iterator[LoginSite]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False, environ=ENVIRON)
    gateway = stack.gateway
    public_url = f"http://localhost:{gateway.port}"
    deliver_live(gateway, public_url=public_url, browser_login="required")
    enable_login(gateway, label="Company login")
    gateway.config["contact"] = CONTACT
    gateway.write_config()
    gateway.start()
    yield LoginSite(gateway)
    stack.close()


@pytest.fixture
def visitor(site: LoginSite, browser: Browser) -> Iterator[LoginVisitor]:
    with LoginVisitor.visiting(browser, site) as visitor:
        # The session's absence is an answer of 401 or 410, which Chromium reports as an error.
        # The page after the login goes on before it has loaded its files.
        visitor.allowed = re.compile("status of 4|failed: .*/console/assets/")
        yield visitor


def test_person_logs_in_and_out(visitor: LoginVisitor) -> None:
    page = visitor.page
    visitor.open("/login")
    visitor.expect_state("choose")
    expect(visitor.title()).to_have_text("Log in to Console Gateway")
    expect(visitor.button("Log in with Company login")).to_be_focused()
    visitor.show("login-choose")
    visitor.log_in("victor")
    # The Strict cookie is not sent on the way back; the page in between goes on by itself.
    visitor.expect_state("in")
    assert page.url == f"{visitor.site.address}/login"
    assert visitor.facts()["You are"] == "victor\ncorp"
    visitor.show("login-in")
    visitor.button("Log out").click()
    visitor.expect_state("out")
    expect(page).to_have_url(f"{visitor.site.address}/logout")
    visitor.show("login-out")
    page.go_back()
    visitor.expect_state("choose")
    assert "victor" not in page.inner_text("body")


def test_failed_login_names_its_reason(visitor: LoginVisitor) -> None:
    visitor.open("/login/callback/corp?state=x&code=y")
    visitor.expect_state("failed")
    expect(visitor.title()).to_have_text("This login has expired or was used already.")
    assert visitor.facts()["Request ID"]
    visitor.expect_contact()
    visitor.show("login-failed")
    visitor.button("Start again").click()
    visitor.expect_state("choose")
    expect(visitor.page.get_by_text("Need help?")).to_be_hidden()


def test_ticket_waits_for_the_login_of_its_person(visitor: LoginVisitor) -> None:
    page = visitor.page
    text = visitor.site.ticket()
    visitor.open(f"/console#{text}")
    visitor.expect_state("login")
    expect(visitor.title()).to_have_text("Log in to open this console.")
    assert text not in page.url
    visitor.show("login-ticket")
    visitor.button("Log in").click()
    visitor.expect_state("choose")
    visitor.log_in("olga")
    visitor.expect_state("ready")
    assert page.url == f"{visitor.site.address}/console"
    page.keyboard.press("Enter")
    visitor.expect_state("live")
    visitor.button("Disconnect").click()
    visitor.expect_state("ended")


def test_ticket_of_another_person_is_refused(visitor: LoginVisitor) -> None:
    visitor.open("/login")
    visitor.log_in("victor")
    visitor.expect_state("in")
    visitor.open(f"/console#{visitor.site.ticket('olga')}")
    visitor.expect_state("rejected")
    assert "for another person" in visitor.facts()["Message"]
    visitor.expect_contact()
    visitor.show("login-other-person")
    visitor.button("Show who is logged in").click()
    visitor.expect_state("in")
