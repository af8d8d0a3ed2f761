"""Logins at panva's oidc-provider, in a real browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import needs_chromium
from tests.support.browser_login import enable_login
from tests.support.real_oidc_provider import CLIENT, SECRET, oidc_provider
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    stack = Stack(CloudProcess(), start=False, environ={"LOGIN_SECRET": SECRET})
    found = stack.gateway
    found.config["store"]["timeout_s"] = 1
    url = f"http://localhost:{found.port}"
    with oidc_provider(url, "corp") as issuer:
        found.config["listen"]["public_url"] = url
        found.config["issuers"][0] |= {
            "issuer": issuer,
            "keys": {"discovery": issuer},
            "claims": {"groups_required": True},
        }
        scopes = ["openid", "groups", "offline_access"]
        enable_login(found, client_id=CLIENT, scopes=scopes)
        found.start()
        yield found
    stack.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def log_in(page: Page, gateway: RunningGateway, person: str) -> None:
    page.goto(f"http://localhost:{gateway.port}/login")
    page.get_by_role("button", name="Log in with corp").click()
    page.locator('input[name="login"]').fill(person)
    page.locator('input[name="password"]').fill("any")
    page.locator('button[type="submit"]').click()
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("body")).to_have_attribute("data-state", "in")


def test_person_logs_in_and_out_at_a_foreign_provider(gateway: RunningGateway, page: Page) -> None:
    log_in(page, gateway, "olga")
    record = gateway.audit("login")[-1]
    assert (record["subject"], record["groups"]) == ("olga", ["operators"])
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name=re.compile("sign me out", re.IGNORECASE)).click()
    expect(page.locator("body")).to_have_attribute("data-state", "out")
    assert "by person" in gateway.audit("logout")[-1]["detail"]


def test_foreign_provider_ends_the_session(gateway: RunningGateway, page: Page) -> None:
    """Its back-channel logout token is accepted."""
    log_in(page, gateway, "victor")
    issuer = gateway.config["issuers"][0]["issuer"]
    page.goto(f"{issuer}/session/end")
    page.get_by_role("button", name=re.compile("sign me out", re.IGNORECASE)).click()
    eventually(lambda: "by provider" in gateway.audit("logout")[-1]["detail"])
    page.goto(f"http://localhost:{gateway.port}/login")
    expect(page.locator("body")).to_have_attribute("data-state", "choose")
