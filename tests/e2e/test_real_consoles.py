"""Real parts as the cloud's console: TigerVNC, websockify, xterm; Chromium as the browser."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from tests.support.browser import CHROMIUM, ConsoleTab, open_browser
from tests.support.leaks import find_leaks
from tests.support.real_console import MISSING, RealConsoleHost
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually

NOT_INSTALLED = [*MISSING, *(["chromium"] if CHROMIUM is None else [])]
pytestmark = pytest.mark.skipif(
    bool(NOT_INSTALLED), reason=f"not installed: {', '.join(NOT_INSTALLED)} (.ci/system-packages)"
)
SHAPES = ("root", "directory")


@pytest.fixture(scope="module")
def console() -> Iterator[RealConsoleHost]:
    running = RealConsoleHost()
    yield running
    running.close()


@pytest.fixture(scope="module")
def stack(console: RealConsoleHost) -> Iterator[Stack]:
    cloud = CloudProcess(servers=3)
    cloud.add_real_console(cloud.servers[0], **console.details())
    running = Stack(cloud, start=False)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


def start_gateway(stack: Stack, console: RealConsoleHost, **settings: str) -> RunningGateway:
    """Start a replica that delivers proxied; `settings` are those of `accounts[].console`."""
    gateway = stack.replica(start=False)
    (gateway.directory / "authorities.pem").write_text(console.authority_pem)
    gateway.config["listen"]["public_url"] = gateway.url
    gateway.config["console"] = {"private_networks": ["127.0.0.0/8"]}
    gateway.config["accounts"][0] |= {
        "ca_file": "authorities.pem",
        "console": {"delivery": "proxied", **settings},
        "links": {"console_hosts": [urlsplit(console.base).netloc]},
    }
    gateway.write_config()
    return gateway.start()


def issued_tokens(stack: Stack, console: RealConsoleHost) -> list[str]:
    """Return every token of a console link that the cloud issued."""
    issued = [one["token"] for one in stack.cloud.console_tokens()]
    assert issued
    assert all(token in console.token_file.read_text() for token in issued)
    return issued


@pytest.mark.parametrize("shape", [*SHAPES, "auto"])
def test_browser_types_into_the_console_through_the_gateway(
    stack: Stack, console: RealConsoleHost, browser: Browser, shape: str
) -> None:
    """The shell's file has what was typed, and nothing that the browser saw has the token."""
    gateway = start_gateway(stack, console, websocket=shape)
    context = browser.new_context()
    try:
        response = gateway.console(stack.cloud.token())
        tab = ConsoleTab(context.new_page())
        tab.open(response.json["url"])
        tab.type(f"echo BROKER-77 > through-{shape}\n")
        eventually(lambda: console.typed(f"through-{shape}") == "BROKER-77\n")
        directory = "" if console.paths()[-1] == "/websockify" else "/vnc/"
        if shape != "auto":
            assert directory == ("" if shape == "root" else "/vnc/")
        tab.disconnect()
        secrets = issued_tokens(stack, console)
        written = [file.read_bytes() for file in gateway.directory.rglob("*") if file.is_file()]
        assert find_leaks(secrets, [*tab.everything(), *written]) == []
        assert len(tab.seen) > 10
        assert tab.problems == []
    finally:
        context.close()
        gateway.stop()
