"""Real parts as the cloud's console: TigerVNC, websockify, xterm; Chromium as the browser."""

import os
import signal
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import valkey
from playwright.sync_api import Browser

from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer
from tests.support.browser import ConsoleTab, needs_chromium
from tests.support.haproxy import HAPROXY, NOT_HERE, HAProxy
from tests.support.leaks import find_leaks, redis_contents
from tests.support.real_console import RealConsoleHost, needs_real_console
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually
from tests.support.valkey import free_port

pytestmark = [needs_real_console, needs_chromium]
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


def start_gateway(
    stack: Stack, console: RealConsoleHost, *, public_url: str = "", **settings: str
) -> RunningGateway:
    """Start a replica; `settings` are those of `accounts[].console`."""
    gateway = stack.replica(start=False)
    (gateway.directory / "authority.pem").write_text(console.authority_pem)
    gateway.config["listen"]["public_url"] = public_url or gateway.url
    gateway.config["console"] = {"private_networks": ["127.0.0.0/8"]}
    gateway.config["accounts"][0] |= {
        "ca_file": "authority.pem",
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


def test_search_of_redis_finds_a_planted_token(stack: Stack) -> None:
    sealed = Sealer([Secret(stack.seal_key)]).seal(b"planted-token", bound_to=b"a name")
    with valkey.Valkey.from_url(stack.valkey.url) as client:
        client.hset("planted", "sealed", sealed)
        try:
            stored = redis_contents(stack.valkey.url, stack.seal_key)
        finally:
            client.delete("planted")
    assert find_leaks(["planted-token"], stored)


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
        stored = redis_contents(stack.valkey.url, stack.seal_key)
        tab.disconnect()
        secrets = issued_tokens(stack, console)
        written = [file.read_bytes() for file in gateway.directory.rglob("*") if file.is_file()]
        assert find_leaks(secrets, [*tab.everything(), *written, *stored]) == []
        assert any(b"olga" in one for one in stored)  # the session's record could be read
        assert len(tab.seen) > 10
        assert tab.problems == []
    finally:
        context.close()
        gateway.stop()


@pytest.mark.skipif(HAPROXY is None, reason=NOT_HERE)
def test_session_resumes_on_another_replica_after_a_kill(
    stack: Stack, console: RealConsoleHost, browser: Browser
) -> None:
    """The page reconnects by itself, and the person goes on typing."""
    port = free_port()
    replicas = [
        start_gateway(stack, console, public_url=f"http://127.0.0.1:{port}") for _ in range(2)
    ]
    first, second = (f"127.0.0.1:{one.port} check inter 100ms fall 1 rise 1" for one in replicas)
    context = browser.new_context()
    try:
        servers = f"{first}\n    server second {second} backup"
        with HAProxy(servers, port=port, options="timeout check 2s"):
            tab = ConsoleTab(context.new_page())
            tab.open(replicas[0].console(stack.cloud.token()).json["url"])
            tab.type("echo one > before-kill\n")
            tab.wait_until(lambda: console.typed("before-kill") == "one\n")
            before = tab.sockets
            os.killpg(replicas[0].pid, signal.SIGKILL)
            tab.wait_until(lambda: tab.sockets > before)
            tab.wait_for_state("live")
            tab.type("echo two > after-kill\n")
            tab.wait_until(lambda: console.typed("after-kill") == "two\n")
            tab.disconnect()
        (ended,) = replicas[1].audit("console_session_ended")
        assert (ended["end"], ended["subject"]) == ("person", "olga")
        assert replicas[1].audit("console_session_started") == []
    finally:
        context.close()
        for replica in replicas:
            replica.stop()
