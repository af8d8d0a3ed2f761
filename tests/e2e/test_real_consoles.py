"""Real parts as the cloud's console: TigerVNC, websockify, xterm; Chromium as the browser."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import valkey
from playwright.sync_api import Browser, expect

from gateway.domain.model import Secret
from gateway.domain.recordings.model import PartState
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.recordings.recording_directory import RecordingDirectory, read_info
from tests.e2e.test_commands import run as run_command
from tests.support.browser import ConsoleTab, needs_chromium
from tests.support.haproxy import HAPROXY, NOT_HERE, HAProxy
from tests.support.leaks import find_leaks, redis_contents
from tests.support.real_console import RealConsoleHost, needs_real_console
from tests.support.recorded_live import (
    jump,
    jump_to_end,
    newest,
    open_player,
    picture,
    record,
    still_picture,
)
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
    stack: Stack,
    console: RealConsoleHost,
    *,
    public_url: str = "",
    recordings: Path | None = None,
    **settings: str,
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
    if recordings is not None:
        record(gateway, recordings)
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


def test_recording_of_a_real_console_ends_with_its_last_picture(
    stack: Stack, console: RealConsoleHost, browser: Browser, tmp_path: Path
) -> None:
    """The player shows pixel by pixel what the person saw."""
    gateway = start_gateway(stack, console, recordings=tmp_path / "recordings")
    context = browser.new_context()
    try:
        tab = ConsoleTab(context.new_page())
        tab.open(gateway.console(stack.cloud.token()).json["url"])
        tab.type("clear; seq 1 60\n")
        tab.type("ls -la / | head -30; echo typed > recorded\n")
        tab.wait_until(lambda: console.typed("recorded") == "typed\n")
        last = still_picture(tab)
        tab.disconnect()
        page = open_player(gateway, browser, newest(gateway, stack.cloud.servers[0]))
        first = jump(page, 0)
        assert jump_to_end(page) == last != first
        assert jump(page, 0) == first
        page.locator("#speed").select_option("16")
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.locator("#announcement")).to_have_text("End of the recording", timeout=30_000)
        assert picture(page) == last
        page.close()
    finally:
        context.close()
        gateway.stop()


@pytest.mark.skipif(HAPROXY is None, reason=NOT_HERE)
def test_session_resumes_on_another_replica_after_a_kill(
    stack: Stack, console: RealConsoleHost, browser: Browser, tmp_path: Path
) -> None:
    """The page reconnects by itself, the person goes on typing, and all of it is recorded."""
    port = free_port()
    address, recordings = f"http://127.0.0.1:{port}", tmp_path / "recordings"
    replicas = [
        start_gateway(stack, console, public_url=address, recordings=recordings) for _ in range(2)
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
            before, seen_before = tab.sockets, still_picture(tab)
            os.killpg(replicas[0].pid, signal.SIGKILL)
            tab.wait_until(lambda: tab.sockets > before)
            tab.wait_for_state("live")
            tab.type("echo two > after-kill\n")
            tab.wait_until(lambda: console.typed("after-kill") == "two\n")
            last = still_picture(tab)
            tab.disconnect()
            replicas[0].stop()
            replicas[0].start()  # it closes the part that it was killed in
            recording = newest(replicas[1], stack.cloud.servers[0])
            page = open_player(replicas[1], browser, recording)
            assert jump_to_end(page) == last
            path = RecordingDirectory(recordings).find(recording)
            assert path is not None
            killed, resumed = read_info(path).parts
            assert (killed.state, resumed.state) == (PartState.CUT, PartState.CLOSED)
            assert killed.ended_at is not None
            assert jump(page, math.ceil(killed.ended_at - killed.started_at)) == seen_before
            assert jump_to_end(page) == last
            page.close()
        eventually(lambda: replicas[1].audit("console_session_ended"))
        (ended,) = replicas[1].audit("console_session_ended")
        assert (ended["end"], ended["subject"]) == ("person", "olga")
        assert replicas[1].audit("console_session_started") == []
        code, output = run_command("recordings", "verify", "--config", str(replicas[1].config_file))
        assert code == 0, output
        assert "parts: 1 intact, 1 cut short\n" in output
    finally:
        context.close()
        for replica in replicas:
            replica.stop()
