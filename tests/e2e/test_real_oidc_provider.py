"""Logins at panva's oidc-provider, in a real browser."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.demo.cloud.idp import AUDIENCE
from tests.support import programs
from tests.support.browser import LIVE_TIMEOUT_MS, needs_chromium
from tests.support.browser_login import enable_login
from tests.support.programs import Program
from tests.support.real_oidc_provider import CLI_CLIENT, CLIENT, SECRET, oidc_provider
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, fetch

pytestmark = needs_chromium
SCOPES = ["openid", "groups", "offline_access"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    stack = Stack(CloudProcess(), start=False, environ={"LOGIN_SECRET": SECRET})
    found = stack.gateway
    url = f"http://localhost:{found.port}"
    with oidc_provider(url, "corp") as issuer:
        found.config["listen"]["public_url"] = url
        found.config["issuers"][0] |= {
            "issuer": issuer,
            "keys": {"discovery": issuer},
            "claims": {"groups_required": True},
            "audience": [AUDIENCE, CLI_CLIENT],
            # Its access tokens are opaque.
            "cli": {"client_id": CLI_CLIENT, "token": "id_token", "scopes": SCOPES},
        }
        enable_login(found, client_id=CLIENT, scopes=SCOPES)
        found.start()
        yield found
    stack.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(LIVE_TIMEOUT_MS)
    yield context.new_page()
    context.close()


def approve(page: Page, person: str) -> None:
    page.locator('input[name="login"]').fill(person)
    page.locator('input[name="password"]').fill("any")
    page.locator('button[type="submit"]').click()
    page.get_by_role("button", name="Continue").click()


def log_in(page: Page, gateway: RunningGateway, person: str) -> None:
    page.goto(f"http://localhost:{gateway.port}/login")
    page.get_by_role("button", name="Log in with corp").click()
    approve(page, person)
    expect(page.locator("body")).to_have_attribute("data-state", "in")


def test_person_logs_in_and_out_at_a_foreign_provider(gateway: RunningGateway, page: Page) -> None:
    log_in(page, gateway, "olga")
    record = gateway.audit("login")[-1]
    assert (record["subject"], record["groups"]) == ("olga", ["operators"])
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name=re.compile("sign me out", re.IGNORECASE)).click()
    expect(page.locator("body")).to_have_attribute("data-state", "out")
    assert "by person" in gateway.audit("logout")[-1]["detail"]
    assert gateway.log_lines("provider_logout_failed") == []


def test_foreign_provider_ends_the_session(gateway: RunningGateway, page: Page) -> None:
    """Its back-channel logout token is accepted."""
    log_in(page, gateway, "victor")
    issuer = gateway.config["issuers"][0]["issuer"]
    page.goto(f"{issuer}/session/end")
    page.get_by_role("button", name=re.compile("sign me out", re.IGNORECASE)).click()
    expect(page.get_by_role("heading", name="Sign-out Success")).to_be_visible()
    eventually(lambda: any("by provider" in one["detail"] for one in gateway.audit("logout")))
    page.goto(f"http://localhost:{gateway.port}/login")
    expect(page.locator("body")).to_have_attribute("data-state", "choose")


@pytest.mark.parametrize("flow", ["browser", "code"])
def test_command_logs_in_at_a_foreign_provider(
    gateway: RunningGateway, page: Page, tmp_path: Path, flow: str
) -> None:
    environ = {
        "CONSOLE_GATEWAY_URL": gateway.url,
        "CONSOLE_GATEWAY_TOKEN": "",
        "XDG_CONFIG_HOME": str(tmp_path),
        "BROWSER": "unused",  # without a terminal, none is opened
    }
    with Program[str](
        "gateway",
        *("login", *(["--device"] if flow == "code" else [])),
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        if flow == "code":
            page.goto(running.stderr.readline().split()[-1])
            page.locator('input[name="user_code"]').fill(running.stderr.readline().split()[-1])
            page.get_by_role("button", name="Continue").click()
            expect(page.get_by_role("heading", name="Confirm Device")).to_be_visible()
            page.get_by_role("button", name="Continue").click()
        else:
            running.stderr.readline()
            page.goto(running.stderr.readline().strip())
        approve(page, "olga")
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert "as olga (corp)" in output
    target = f"{gateway.cloud.project}/{gateway.cloud.servers[0]}"
    ran = programs.run("gateway", "console", "--print", target, environ=environ)
    assert ran.returncode == 0, ran.stderr
    (file,) = (tmp_path / "console-gateway/logins").glob("*.json")
    file.write_text(re.sub(r'"expires_at": [0-9.]+', '"expires_at": 0', file.read_text()))
    assert programs.run("gateway", "whoami", environ=environ).returncode == 0  # refreshed
    refresh_token = json.loads(file.read_text())["refresh_token"]
    out = programs.run("gateway", "logout", environ=environ)
    assert (out.returncode, out.stderr) == (0, "")
    form = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "client_id": CLI_CLIENT,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    issuer = gateway.config["issuers"][0]["issuer"]
    refused = fetch(issuer, "POST", "/token", headers, urlencode(form))
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
